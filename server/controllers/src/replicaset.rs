//! ReplicaSets: the number asked for, always.

use coracle_shared::api::selector::LabelSelector;
use coracle_shared::submit::{Delete, Refusal, Write};
use coracle_shared::time::Millis;
use coracle_store::{Event, Key};
use serde_json::{Value, json};

use crate::driver::{Controller, Now, Outcome};
use crate::object::{
    Condition, Happening, array, available_at, condition, controller, controller_reference, event, is_active,
    is_deleting, is_ready, name, namespace, number, status_update, text, uid, with_condition,
};
use crate::world::{World, parse};

const RESOURCE: &str = "replicasets.apps";
const API_VERSION: &str = "apps/v1";
const KIND: &str = "ReplicaSet";
const COMPONENT: &str = "replicaset-controller";

/// Pods made or removed at one look; the rest follows at the next, once these are stored.
const BURST: usize = 100;

pub struct ReplicaSets;

impl Controller for ReplicaSets {
    fn name(&self) -> &'static str {
        "replicaset"
    }

    fn teller(&self) -> Option<&'static str> {
        Some(COMPONENT)
    }

    fn dirty(&self, event: &Event, world: &World, mark: &mut dyn FnMut(Key)) {
        match &*event.key.resource {
            RESOURCE => mark(event.key.clone()),
            "pods" => {
                for pod in [&event.old, &event.new].into_iter().flatten().filter_map(parse) {
                    owner_keys(&pod, world, mark);
                }
            }
            _ => {}
        }
    }

    fn all(&self, world: &World, mark: &mut dyn FnMut(Key)) {
        world.keys(RESOURCE, None).into_iter().for_each(mark);
    }

    fn reconcile(&self, key: &Key, world: &World, now: Now) -> Outcome {
        let Some(set) = world.get(key).filter(|set| !is_deleting(set)) else { return Outcome::default() };
        let Ok(selector) = LabelSelector::from_value(&set["spec"]["selector"]) else { return Outcome::default() };
        let pods = world.pods_matching(&key.namespace, &selector);
        plan(&set, &pods, now)
    }

    fn refused(&self, key: &Key, refusal: &Refusal, world: &World, now: Now) -> Vec<Write> {
        let Some(set) = world.get(key) else { return Vec::new() };
        let what = Happening { component: COMPONENT, warning: true, reason: "FailedCreate", message: &refusal.message };
        let failure =
            Condition { kind: "ReplicaFailure", status: "True", reason: "FailedCreate", message: &refusal.message };
        let mut status = set["status"].clone();
        if condition(&set, "ReplicaFailure").is_none_or(|c| c["message"] != refusal.message.as_str()) {
            status["conditions"] = with_condition(&set, &failure, now.wall).into();
        }
        let told = status_update(RESOURCE, &set, status);
        told.into_iter().flat_map(|write| [write, event(&set, API_VERSION, KIND, &what, now.wall)]).collect()
    }
}

/// The set that controls the pod, or every set of its namespace when nothing does: one may adopt it.
fn owner_keys(pod: &Value, world: &World, mark: &mut dyn FnMut(Key)) {
    let owner = array(pod, "/metadata/ownerReferences").iter().find(|o| o["controller"] == true);
    match owner {
        Some(owner) if owner["kind"] == KIND => mark(Key::new(RESOURCE, namespace(pod), text(owner, "/name"))),
        Some(_) => {}
        None => world.keys(RESOURCE, Some(namespace(pod))).into_iter().for_each(mark),
    }
}

/// `pods`: those that the selector matches, whoever controls them.
fn plan(set: &Value, pods: &[Value], now: Now) -> Outcome {
    let mut writes: Vec<Write> =
        pods.iter().filter(|pod| controller(pod).is_none() && is_active(pod)).map(|pod| adopt(set, pod)).collect();
    let mut own: Vec<&Value> = pods.iter().filter(|pod| controller(pod) == Some(uid(set)) && is_active(pod)).collect();
    let wanted = number(set, "/spec/replicas").max(0) as usize;
    let present = own.len() + writes.len();
    if present < wanted {
        writes.extend((present..wanted).take(BURST).map(|_| create(set)));
    } else if present > wanted {
        own.sort_by_key(|pod| disposable(pod));
        writes.extend(own.iter().take((present - wanted).min(BURST)).map(|pod| remove(pod)));
    }
    let (status, again) = status(set, &own, present >= wanted, now);
    writes.extend(status_update(RESOURCE, set, status));
    Outcome { writes, again }
}

/// Least loss first: not bound, not running, not ready, restarted often, young.
fn disposable(pod: &Value) -> (bool, bool, bool, i64, std::cmp::Reverse<String>) {
    let restarts =
        array(pod, "/status/containerStatuses").iter().map(|c| number(c, "/restartCount")).max().unwrap_or(0);
    let created = text(pod, "/metadata/creationTimestamp").to_owned();
    (
        !text(pod, "/spec/nodeName").is_empty(),
        text(pod, "/status/phase") == "Running",
        is_ready(pod),
        -restarts,
        std::cmp::Reverse(created),
    )
}

fn adopt(set: &Value, pod: &Value) -> Write {
    let mut owners = array(pod, "/metadata/ownerReferences").to_vec();
    owners.push(controller_reference(API_VERSION, KIND, set));
    Write::Merge {
        resource: "pods",
        namespace: namespace(pod).to_owned(),
        name: name(pod).to_owned(),
        subresource: "",
        patch: json!({"metadata": {"uid": uid(pod), "resourceVersion": pod["metadata"]["resourceVersion"], "ownerReferences": owners}}),
    }
}

fn create(set: &Value) -> Write {
    let template = &set["spec"]["template"];
    let mut metadata = json!({
        "generateName": format!("{}-", name(set)),
        "namespace": namespace(set),
        "ownerReferences": [controller_reference(API_VERSION, KIND, set)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if !template["metadata"][field].is_null() {
            metadata[field] = template["metadata"][field].clone();
        }
    }
    Write::Create {
        resource: "pods",
        namespace: namespace(set).to_owned(),
        object: json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}),
    }
}

fn remove(pod: &Value) -> Write {
    Write::Delete {
        resource: "pods",
        namespace: namespace(pod).to_owned(),
        name: name(pod).to_owned(),
        options: Delete { uid: Some(uid(pod).to_owned()), ..Delete::default() },
    }
}

/// `own`: active pods, as stored; `enough`: as many as asked for exist.
fn status(set: &Value, own: &[&Value], enough: bool, now: Now) -> (Value, Option<Millis>) {
    let seconds = number(set, "/spec/minReadySeconds");
    let template = set["spec"]["template"]["metadata"]["labels"].as_object();
    let labelled = |pod: &&&Value| {
        let labels = pod["metadata"]["labels"].as_object();
        template.into_iter().flatten().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value))
    };
    let available: Vec<Millis> = own.iter().filter_map(|pod| available_at(pod, seconds)).collect();
    let soonest = available.iter().filter(|at| **at > now.wall).min();
    let mut status = json!({
        "replicas": own.len(),
        "fullyLabeledReplicas": own.iter().filter(labelled).count(),
        "readyReplicas": available.len(),
        "availableReplicas": available.iter().filter(|at| **at <= now.wall).count(),
        "observedGeneration": set["metadata"]["generation"],
    });
    // Upstream leaves zeros out of a status.
    let fields = status.as_object_mut().expect("an object literal");
    fields.retain(|key, value| key == "replicas" || !matches!(value.as_i64(), Some(0)) && !value.is_null());
    let conditions = array(set, "/status/conditions");
    let kept: Vec<&Value> = conditions.iter().filter(|c| !(enough && c["type"] == "ReplicaFailure")).collect();
    if !kept.is_empty() {
        status["conditions"] = json!(kept);
    }
    (status, soonest.map(|at| Millis(now.monotonic.0 + (at.0 - now.wall.0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { wall: Millis(100_000), monotonic: Millis(5_000) };

    fn set(replicas: i64) -> Value {
        json!({"metadata": {"name": "rs", "namespace": "d", "uid": "u", "generation": 1},
            "spec": {"replicas": replicas, "minReadySeconds": 10, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"x": 1}}},
            "status": {"replicas": 0, "observedGeneration": 1}})
    }

    /// `owner`, ready since (seconds), and whether it is going.
    fn pod(name: &str, owner: &str, ready: Option<i64>, deleting: bool) -> Value {
        let mut pod = json!({"metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"a": "b"}}, "spec": {"nodeName": "n"},
            "status": {"phase": "Running", "conditions": []}});
        if !owner.is_empty() {
            pod["metadata"]["ownerReferences"] = json!([{"controller": true, "kind": "ReplicaSet", "uid": owner}]);
        }
        if let Some(since) = ready {
            pod["status"]["conditions"] =
                json!([{"type": "Ready", "status": "True", "lastTransitionTime": Millis(since * 1000).seconds_text()}]);
        }
        if deleting {
            pod["metadata"]["deletionTimestamp"] = "t".into();
        }
        pod
    }

    fn check(replicas: i64, pods: &[Value], expect: &[&str]) -> Outcome {
        let outcome = plan(&set(replicas), pods, NOW);
        let seen: Vec<String> = outcome
            .writes
            .iter()
            .map(|write| match write {
                Write::Create { object, .. } => {
                    format!("create {}", object["metadata"]["generateName"].as_str().unwrap())
                }
                Write::Delete { name, .. } => format!("delete {name}"),
                Write::Merge { name, subresource, patch, .. } if *subresource == "status" => {
                    let s = &patch["status"];
                    format!("status {name} {} {} {}", s["replicas"], s["readyReplicas"], s["availableReplicas"])
                }
                Write::Merge { name, .. } => format!("adopt {name}"),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(seen, expect);
        outcome
    }

    #[test]
    fn the_number_asked_for() {
        check(0, &[], &[]);
        check(2, &[], &["create rs-", "create rs-"]);
        check(1, &[pod("a", "u", Some(0), false)], &["status rs 1 1 1"]);
        check(1, &[pod("a", "u", Some(0), true)], &["create rs-"]);
        check(1, &[pod("a", "other", Some(0), false)], &["create rs-"]);
        check(1, &[pod("a", "", Some(0), false)], &["adopt a"]);
        check(0, &[pod("a", "", None, false)], &["adopt a"]);
        check(1, &[pod("a", "u", Some(0), false), pod("b", "u", None, false)], &["delete b", "status rs 2 1 1"]);
        assert_eq!(plan(&set(1000), &[], NOW).writes.len(), BURST);
    }

    #[test]
    fn available_after_its_time() {
        let outcome = check(1, &[pod("a", "u", Some(95), false)], &["status rs 1 1 null"]);
        assert_eq!(outcome.again, Some(Millis(10_000)), "ready since 95 s, available at 105 s, now is 100 s");
    }
}
