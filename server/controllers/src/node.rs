//! The life of nodes: what is silent for long becomes NotReady, is tainted, and its pods are
//! replaced elsewhere.
//!
//! Forgetting is not knowing: silence counts from the server's start at the earliest, and when most
//! of the nodes are silent at once the server suspects itself and evicts nobody.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use coracle_shared::contact::{Contact, Contacts};
use coracle_shared::submit::{Delete, Write};
use coracle_shared::time::Millis;
use coracle_store::{Event, Key};
use serde_json::{Value, json};

use crate::driver::{Controller, Now, Outcome};
use crate::object::{
    Condition, Happening, array, condition, event, has_ended, is_deleting, name, namespace, text, uid, with_condition,
};
use crate::world::World;

const RESOURCE: &str = "nodes";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// Pods evicted at one look at a node; the rest a second later.
const EVICTIONS: usize = 10;
const EVICTION_PAUSE: i64 = 1_000;
/// While the server suspects itself it looks again this often.
const SUSPICION_PAUSE: i64 = 5_000;

/// How long silence is borne.
#[derive(Clone, Copy, Debug)]
pub struct NodeLimits {
    /// Then the node is NotReady and gets no new pods.
    pub grace_millis: i64,
    /// Then its pods are replaced elsewhere.
    pub evict_millis: i64,
}

pub struct Nodes {
    contacts: Arc<dyn Contacts>,
    limits: NodeLimits,
    /// What was known of each node when it was last looked at: what `contact_changed` compares with.
    known: Mutex<HashMap<String, Heard>>,
}

/// A contact without its duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Alive,
    Stuck,
    Silent,
}

fn heard(contact: Contact) -> Heard {
    match contact {
        Contact::Connected { answering: true } => Heard::Alive,
        Contact::Connected { answering: false } => Heard::Stuck,
        Contact::Silent(_) => Heard::Silent,
    }
}

impl Nodes {
    pub fn new(contacts: Arc<dyn Contacts>, limits: NodeLimits) -> Nodes {
        Nodes { contacts, limits, known: Mutex::default() }
    }

    /// Whether the node has been silent for longer than is borne.
    fn is_lost(&self, node: &str) -> bool {
        match self.contacts.contact(node) {
            Contact::Silent(silence) => millis(silence) >= self.limits.grace_millis,
            Contact::Connected { .. } => false,
        }
    }
}

fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl Controller for Nodes {
    fn name(&self) -> &'static str {
        "node"
    }

    fn dirty(&self, event: &Event, world: &World, mark: &mut dyn FnMut(Key)) {
        match &*event.key.resource {
            RESOURCE => mark(event.key.clone()),
            "pods" => {
                let bound = |item: &coracle_store::Item| {
                    crate::world::parse(item).map(|p| text(&p, "/spec/nodeName").to_owned())
                };
                let node = event.new.as_ref().and_then(bound).filter(|n| !n.is_empty());
                let before = event.old.as_ref().and_then(bound);
                // A pod that has just been bound, maybe to a node that has just gone.
                if let Some(node) = node.filter(|node| Some(node) != before.as_ref()) {
                    let key = Key::new(RESOURCE, "", node);
                    if !world.get(&key).is_some_and(|n| condition(&n, "Ready").is_some_and(|c| c["status"] == "True")) {
                        mark(key);
                    }
                }
            }
            _ => {}
        }
    }

    fn all(&self, world: &World, mark: &mut dyn FnMut(Key)) {
        world.keys(RESOURCE, None).into_iter().for_each(&mut *mark);
        for node in world.nodes_with_pods() {
            mark(Key::new(RESOURCE, "", node.as_str()));
        }
    }

    fn contacts_changed(&self, world: &World, mark: &mut dyn FnMut(Key)) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = world.keys(RESOURCE, None);
        known.retain(|name, _| world.exists(&Key::new(RESOURCE, "", name.as_str())));
        for key in keys {
            let now = heard(self.contacts.contact(&key.name));
            if known.insert(key.name.to_string(), now) != Some(now) {
                mark(key);
            }
        }
    }

    fn reconcile(&self, key: &Key, world: &World, now: Now) -> Outcome {
        let pods = world.pods_on(&key.name);
        let Some(node) = world.get(key) else { return bury(&pods) };
        let names = world.keys(RESOURCE, None);
        let silent = names.iter().filter(|k| self.is_lost(&k.name)).count();
        let suspect = silent >= 2 && silent * 2 > names.len();
        plan(&node, self.contacts.contact(&key.name), &pods, suspect, self.limits, now)
    }
}

/// The node object is gone: nobody will ever report on its pods.
fn bury(pods: &[Value]) -> Outcome {
    let writes = pods.iter().map(|pod| remove(pod, Some(0))).collect();
    Outcome { writes, again: None }
}

fn remove(pod: &Value, grace_seconds: Option<u32>) -> Write {
    Write::Delete {
        resource: "pods",
        namespace: namespace(pod).to_owned(),
        name: name(pod).to_owned(),
        options: Delete { uid: Some(uid(pod).to_owned()), grace_seconds, ..Delete::default() },
    }
}

/// `suspect`: too many nodes are silent to believe it.
fn plan(node: &Value, contact: Contact, pods: &[Value], suspect: bool, limits: NodeLimits, now: Now) -> Outcome {
    let at = |millis: i64| Some(Millis(now.monotonic.0 + millis));
    match contact {
        Contact::Connected { answering: true } => Outcome {
            writes: describe(
                node,
                &Condition { kind: "Ready", status: "True", reason: "AgentReady", message: "the agent reports" },
                &[],
                now,
            ),
            again: None,
        },
        Contact::Connected { answering: false } => {
            let ready = Condition {
                kind: "Ready",
                status: "False",
                reason: "AgentStuck",
                message: "the agent is connected, but its reconcile loop does not answer: restart coracle-agent on the node",
            };
            Outcome { writes: describe(node, &ready, &[(NOT_READY, "NoSchedule")], now), again: None }
        }
        Contact::Silent(silence) => {
            let silence = millis(silence);
            if silence < limits.grace_millis {
                return Outcome { writes: Vec::new(), again: at(limits.grace_millis - silence) };
            }
            if suspect {
                return Outcome { writes: Vec::new(), again: at(SUSPICION_PAUSE) };
            }
            let message = format!("the agent has not been heard of for {} s", limits.grace_millis / 1000);
            let ready = Condition { kind: "Ready", status: "Unknown", reason: "NodeStatusUnknown", message: &message };
            let taints = [(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")];
            let mut writes = describe(node, &ready, &taints, now);
            writes.extend(pods.iter().filter_map(|pod| unready(pod, now)));
            if silence < limits.evict_millis {
                return Outcome { writes, again: at(limits.evict_millis - silence) };
            }
            let (evictions, again) = evict(node, pods, silence, limits, now);
            writes.extend(evictions);
            Outcome { writes, again }
        }
    }
}

/// The node's Ready condition and the taints of this controller, where they differ.
fn describe(node: &Value, ready: &Condition<'_>, taints: &[(&str, &str)], now: Now) -> Vec<Write> {
    let mut writes = Vec::new();
    let patch = |subresource: &'static str, patch: Value| Write::Merge {
        resource: RESOURCE,
        namespace: String::new(),
        name: name(node).to_owned(),
        subresource,
        patch,
    };
    let version = &node["metadata"]["resourceVersion"];
    if condition(node, "Ready").is_none_or(|c| c["status"] != ready.status) {
        let conditions = with_condition(node, ready, now.wall);
        writes.push(patch(
            "status",
            json!({"metadata": {"resourceVersion": version}, "status": {"conditions": conditions}}),
        ));
        let reason = if ready.status == "True" { "NodeReady" } else { "NodeNotReady" };
        let message = format!("Node {} status is now: {reason}", name(node));
        let what = Happening { component: "node-controller", warning: false, reason, message: &message };
        writes.push(event(node, "v1", "Node", &what, now.wall));
    }
    let own = |t: &&Value| matches!(text(t, "/key"), UNREACHABLE | NOT_READY);
    let present = array(node, "/spec/taints");
    let same = present.iter().filter(own).count() == taints.len()
        && taints.iter().all(|(key, effect)| present.iter().any(|t| t["key"] == *key && t["effect"] == *effect));
    if !same {
        let others = present.iter().filter(|t| !own(t)).cloned();
        let added = taints
            .iter()
            .map(|(key, effect)| json!({"key": key, "effect": effect, "timeAdded": now.wall.seconds_text()}));
        let all: Vec<Value> = others.chain(added).collect();
        // The status write before this one has moved the version on; taints are this controller's and the
        // administrator's, so the list is replaced as seen.
        writes.push(patch("", json!({"spec": {"taints": if all.is_empty() { Value::Null } else { json!(all) }}})));
    }
    writes
}

/// Nobody vouches for the pod any more: no traffic for it.
fn unready(pod: &Value, now: Now) -> Option<Write> {
    let ready = condition(pod, "Ready").filter(|c| c["status"] == "True" && !has_ended(pod))?;
    let message = text(ready, "/message");
    let unready = Condition { kind: "Ready", status: "False", reason: "NodeNotReady", message };
    Some(Write::Merge {
        resource: "pods",
        namespace: namespace(pod).to_owned(),
        name: name(pod).to_owned(),
        subresource: "status",
        patch: json!({
            "metadata": {"uid": uid(pod), "resourceVersion": pod["metadata"]["resourceVersion"]},
            "status": {"conditions": with_condition(pod, &unready, now.wall)},
        }),
    })
}

/// Replaces pods elsewhere, a few at a time; those that bear the taint stay for as long as they say.
fn evict(node: &Value, pods: &[Value], silence: i64, limits: NodeLimits, now: Now) -> (Vec<Write>, Option<Millis>) {
    let mut due: Vec<&Value> = Vec::new();
    let mut next: Option<i64> = None;
    for pod in pods.iter().filter(|pod| !is_deleting(pod) && !has_ended(pod)) {
        match borne(pod) {
            Some(None) => {}
            Some(Some(seconds)) if seconds * 1000 + limits.grace_millis > silence => {
                let wait = seconds * 1000 + limits.grace_millis - silence;
                next = Some(next.map_or(wait, |n| n.min(wait)));
            }
            _ => due.push(pod),
        }
    }
    if due.len() > EVICTIONS {
        next = Some(EVICTION_PAUSE);
    }
    let writes = due.into_iter().take(EVICTIONS).flat_map(|pod| {
        let message =
            format!("Marking for deletion Pod {}/{}: node {} is unreachable", namespace(pod), name(pod), name(node));
        let what = Happening {
            component: "node-controller",
            warning: false,
            reason: "TaintManagerEviction",
            message: &message,
        };
        [remove(pod, None), event(pod, "v1", "Pod", &what, now.wall)]
    });
    (writes.collect(), next.map(|wait| Millis(now.monotonic.0 + wait)))
}

/// How long the pod bears an unreachable node: `None` not by itself, `Some(None)` for ever.
fn borne(pod: &Value) -> Option<Option<i64>> {
    array(pod, "/spec/tolerations")
        .iter()
        .filter(|t| {
            let key = text(t, "/key");
            let operator = text(t, "/operator");
            let effect = text(t, "/effect");
            (key == UNREACHABLE || key.is_empty() && operator == "Exists") && matches!(effect, "" | "NoExecute")
        })
        .map(|t| t["tolerationSeconds"].as_i64())
        .max_by_key(|seconds| seconds.unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LIMITS: NodeLimits = NodeLimits { grace_millis: 60_000, evict_millis: 300_000 };

    fn node(ready: &str, taints: Value) -> Value {
        json!({"metadata": {"name": "n"}, "spec": {"taints": taints}, "status": {"conditions": [{"type": "Ready", "status": ready}]}})
    }

    fn pod(name: &str, tolerations: Value) -> Value {
        json!({"metadata": {"name": name, "namespace": "d", "uid": name}, "spec": {"nodeName": "n", "tolerations": tolerations},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}})
    }

    /// `silence` in seconds; `None`: alive.
    fn check(node: &Value, silence: Option<u64>, suspect: bool, pods: &[Value], expect: &[&str], again: Option<i64>) {
        let now = Now { wall: Millis(0), monotonic: Millis(1_000_000) };
        let contact =
            silence.map_or(Contact::Connected { answering: true }, |s| Contact::Silent(Duration::from_secs(s)));
        let outcome = plan(node, contact, pods, suspect, LIMITS, now);
        let seen: Vec<String> = outcome
            .writes
            .iter()
            .filter_map(|write| match write {
                Write::Create { .. } => None,
                Write::Delete { name, .. } => Some(format!("delete {name}")),
                Write::Merge { name, patch, subresource, .. } if *subresource == "status" => {
                    Some(format!("{name} Ready={}", text(patch, "/status/conditions/0/status")))
                }
                Write::Merge { name, patch, .. } => {
                    Some(format!("{name} taints={}", array(patch, "/spec/taints").len()))
                }
                other => Some(format!("{other:?}")),
            })
            .collect();
        assert_eq!(seen, expect);
        assert_eq!(outcome.again.map(|at| (at.0 - 1_000_000) / 1000), again);
    }

    #[test]
    fn silence() {
        let up = node("True", json!([]));
        check(&up, None, false, &[], &[], None);
        check(&up, Some(10), false, &[pod("a", json!([]))], &[], Some(50));
        check(&up, Some(60), false, &[], &["n Ready=Unknown", "n taints=2"], Some(240));
        check(&up, Some(60), true, &[pod("a", json!([]))], &[], Some(5));
        check(&up, Some(9999), true, &[pod("a", json!([]))], &[], Some(5));
        let down = node(
            "Unknown",
            json!([{"key": UNREACHABLE, "effect": "NoSchedule"}, {"key": UNREACHABLE, "effect": "NoExecute"}, {"key": "own", "effect": "NoSchedule"}]),
        );
        check(&down, Some(100), false, &[pod("a", json!([]))], &[], Some(200));
        check(&down, Some(300), false, &[pod("a", json!([]))], &["delete a"], None);
        check(&down, None, false, &[], &["n Ready=True", "n taints=1"], None);
    }

    #[test]
    fn tolerations_are_honoured() {
        let down = node(
            "Unknown",
            json!([{"key": UNREACHABLE, "effect": "NoSchedule"}, {"key": UNREACHABLE, "effect": "NoExecute"}]),
        );
        let for_ever = pod("a", json!([{"key": UNREACHABLE, "operator": "Exists"}]));
        let longer = pod("b", json!([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 600}]));
        check(&down, Some(400), false, &[for_ever.clone(), longer.clone()], &[], Some(260));
        check(&down, Some(700), false, &[for_ever, longer], &["delete b"], None);
    }

    #[test]
    fn evictions_are_few_at_a_time() {
        let down = node(
            "Unknown",
            json!([{"key": UNREACHABLE, "effect": "NoSchedule"}, {"key": UNREACHABLE, "effect": "NoExecute"}]),
        );
        let pods: Vec<Value> = (0..25).map(|i| pod(&format!("p{i}"), json!([]))).collect();
        let now = Now { wall: Millis(0), monotonic: Millis(1_000_000) };
        let outcome = plan(&down, Contact::Silent(Duration::from_secs(1000)), &pods, false, LIMITS, now);
        assert_eq!(outcome.writes.iter().filter(|w| matches!(w, Write::Delete { .. })).count(), EVICTIONS);
        assert_eq!(outcome.again, Some(Millis(1_001_000)));
    }

    #[test]
    fn a_lost_node_s_pods_get_no_traffic() {
        let mut ready = pod("a", json!([]));
        ready["status"]["conditions"][0]["status"] = "True".into();
        let down = node(
            "Unknown",
            json!([{"key": UNREACHABLE, "effect": "NoSchedule"}, {"key": UNREACHABLE, "effect": "NoExecute"}]),
        );
        check(&down, Some(60), false, &[ready], &["a Ready=False"], Some(240));
    }
}
