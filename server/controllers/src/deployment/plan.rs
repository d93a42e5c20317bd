//! The whole decision about one Deployment, from values to values.

use coracle_shared::submit::Write;
use serde_json::{Value, json};

use super::rolling::{self, Sizes};
use super::status;
use super::{API_VERSION, COMPONENT, DESIRED, HASH_LABEL, KIND, MAX_REPLICAS, REVISION, SETS};
use crate::driver::{Now, Outcome};
use crate::object::{Happening, controller_reference, event, name, namespace, number, text, uid};

/// `sets`: the deployment's replica sets; `busy`: which of them still have pods that must end before
/// a Recreate goes on.
pub fn plan(deployment: &Value, sets: &[Value], busy: &[bool], now: Now) -> Outcome {
    let current = sets.iter().position(|set| same_template(deployment, set));
    let revision = next_revision(sets, current);
    let mut writes = Vec::new();
    let paused = deployment["spec"]["paused"] == true;
    let olds: Vec<&Value> = others(sets, current);
    let Some(at) = current else {
        if !paused {
            let waits = deployment["spec"]["strategy"]["type"] == "Recreate" && busy.iter().any(|b| *b);
            writes.extend(if waits { stop_all(&olds) } else { create(deployment, sets, revision, now) });
        }
        let outcome = status::plan(deployment, None, &olds, now);
        writes.extend(outcome.writes);
        writes.extend(annotate_deployment(deployment, revision));
        return Outcome { writes, again: outcome.again };
    };
    let new = &sets[at];
    let sizes =
        if paused { rolling::proportional(deployment, new, &olds) } else { sizes(deployment, new, &olds, busy, at) };
    writes.extend(resize(deployment, new, &olds, &sizes, revision, now));
    let outcome = status::plan(deployment, Some(new), &olds, now);
    if outcome.complete && !paused {
        writes.extend(prune(deployment, &olds));
    }
    writes.extend(outcome.writes);
    writes.extend(annotate_deployment(deployment, revision));
    Outcome { writes, again: outcome.again }
}

fn others(sets: &[Value], current: Option<usize>) -> Vec<&Value> {
    sets.iter().enumerate().filter(|(i, _)| Some(*i) != current).map(|(_, set)| set).collect()
}

fn sizes(deployment: &Value, new: &Value, olds: &[&Value], busy: &[bool], at: usize) -> Sizes {
    if deployment["spec"]["strategy"]["type"] != "Recreate" {
        return rolling::step(deployment, new, olds);
    }
    let others_busy = busy.iter().enumerate().any(|(i, b)| *b && i != at);
    let replicas = number(deployment, "/spec/replicas");
    Sizes { new: if others_busy { number(new, "/spec/replicas") } else { replicas }, olds: vec![0; olds.len()] }
}

fn stop_all(olds: &[&Value]) -> Vec<Write> {
    olds.iter().filter(|set| number(set, "/spec/replicas") > 0).map(|set| scale(set, 0, json!({}))).collect()
}

/// Templates are equal but for the label that this controller adds.
fn same_template(deployment: &Value, set: &Value) -> bool {
    let mut template = set["spec"]["template"].clone();
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH_LABEL);
    }
    template == deployment["spec"]["template"]
}

fn revision_of(set: &Value) -> i64 {
    set["metadata"]["annotations"][REVISION].as_str().and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// The current template's revision: kept when it is the newest already, otherwise one above all.
fn next_revision(sets: &[Value], current: Option<usize>) -> i64 {
    let newest_old = others(sets, current).iter().map(|set| revision_of(set)).max().unwrap_or(0);
    let own = current.map_or(0, |i| revision_of(&sets[i]));
    if own > newest_old { own } else { newest_old + 1 }
}

/// The set of the current template, and the event that tells of it.
fn create(deployment: &Value, sets: &[Value], revision: i64, now: Now) -> Vec<Write> {
    let hash = (0..).map(|salt| template_hash(&deployment["spec"]["template"], salt)).find(|hash| {
        let taken = format!("{}-{hash}", name(deployment));
        !sets.iter().any(|set| name(set) == taken)
    });
    // The salts are endless and the sets are few.
    let hash = hash.unwrap_or_default();
    let mut template = deployment["spec"]["template"].clone();
    template["metadata"]["labels"][HASH_LABEL] = hash.as_str().into();
    let mut selector = deployment["spec"]["selector"].clone();
    selector["matchLabels"][HASH_LABEL] = hash.as_str().into();
    let others: Vec<&Value> = sets.iter().collect();
    let replicas = rolling::first_size(deployment, &others);
    let set = json!({
        "apiVersion": API_VERSION, "kind": "ReplicaSet",
        "metadata": {
            "name": format!("{}-{hash}", name(deployment)), "namespace": namespace(deployment),
            "labels": template["metadata"]["labels"],
            "annotations": set_annotations(deployment, revision),
            "ownerReferences": [controller_reference(API_VERSION, KIND, deployment)],
        },
        "spec": {
            "replicas": replicas, "minReadySeconds": number(deployment, "/spec/minReadySeconds"),
            "selector": selector, "template": template,
        },
    });
    let told = scaled(deployment, &set, 0, replicas, now);
    vec![Write::Create { resource: SETS, namespace: namespace(deployment).to_owned(), object: set }, told]
}

/// The annotations of a set: the deployment's own, the revision and the sizes.
fn set_annotations(deployment: &Value, revision: i64) -> Value {
    let mut annotations = json!({});
    for (key, value) in deployment["metadata"]["annotations"].as_object().into_iter().flatten() {
        if key != REVISION && key != "kubectl.kubernetes.io/last-applied-configuration" {
            annotations[key] = value.clone();
        }
    }
    let replicas = number(deployment, "/spec/replicas");
    annotations[REVISION] = revision.to_string().into();
    annotations[DESIRED] = replicas.to_string().into();
    annotations[MAX_REPLICAS] = (replicas + rolling::limits(deployment).surge).to_string().into();
    annotations
}

/// FNV-1a over the template's canonical JSON, in letters that make no words.
fn template_hash(template: &Value, salt: u32) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let text = format!("{template}{}", if salt == 0 { String::new() } else { salt.to_string() });
    let mut hash =
        text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let mut word = String::new();
    for _ in 0..10 {
        word.push(char::from(ALPHABET[(hash % ALPHABET.len() as u64) as usize]));
        hash /= ALPHABET.len() as u64;
    }
    word
}

fn resize(deployment: &Value, new: &Value, olds: &[&Value], sizes: &Sizes, revision: i64, now: Now) -> Vec<Write> {
    let mut writes = Vec::new();
    let wanted = set_annotations(deployment, revision);
    let stale =
        wanted.as_object().into_iter().flatten().any(|(key, value)| new["metadata"]["annotations"][key] != *value);
    if number(new, "/spec/replicas") != sizes.new || stale {
        writes.push(scale(new, sizes.new, wanted));
    }
    if number(new, "/spec/replicas") != sizes.new {
        writes.push(scaled(deployment, new, number(new, "/spec/replicas"), sizes.new, now));
    }
    for (old, &size) in olds.iter().zip(&sizes.olds) {
        if number(old, "/spec/replicas") != size {
            writes.push(scale(old, size, json!({})));
            writes.push(scaled(deployment, old, number(old, "/spec/replicas"), size, now));
        }
    }
    writes
}

fn scale(set: &Value, replicas: i64, annotations: Value) -> Write {
    let mut metadata = json!({"uid": uid(set), "resourceVersion": set["metadata"]["resourceVersion"]});
    if annotations.as_object().is_some_and(|a| !a.is_empty()) {
        metadata["annotations"] = annotations;
    }
    Write::Merge {
        resource: SETS,
        namespace: namespace(set).to_owned(),
        name: name(set).to_owned(),
        subresource: "",
        patch: json!({"metadata": metadata, "spec": {"replicas": replicas}}),
    }
}

fn scaled(deployment: &Value, set: &Value, from: i64, to: i64, now: Now) -> Write {
    let direction = if to > from { "up" } else { "down" };
    let message = format!("Scaled {direction} replica set {} from {from} to {to}", name(set));
    let what = Happening { component: COMPONENT, warning: false, reason: "ScalingReplicaSet", message: &message };
    event(deployment, API_VERSION, KIND, &what, now.wall)
}

/// Old sets beyond the history that is to be kept; never one that still has pods.
fn prune(deployment: &Value, olds: &[&Value]) -> Vec<Write> {
    let keep = deployment["spec"]["revisionHistoryLimit"].as_i64().unwrap_or(10).max(0) as usize;
    let mut idle: Vec<&&Value> =
        olds.iter().filter(|s| number(s, "/spec/replicas") == 0 && number(s, "/status/replicas") == 0).collect();
    idle.sort_by_key(|set| revision_of(set));
    let surplus = idle.len().saturating_sub(keep);
    idle.into_iter()
        .take(surplus)
        .map(|set| Write::Delete {
            resource: SETS,
            namespace: namespace(set).to_owned(),
            name: name(set).to_owned(),
            options: coracle_shared::submit::Delete { uid: Some(uid(set).to_owned()), ..Default::default() },
        })
        .collect()
}

fn annotate_deployment(deployment: &Value, revision: i64) -> Option<Write> {
    let revision = revision.to_string();
    (text(&deployment["metadata"]["annotations"], &format!("/{}", REVISION.replace('/', "~1"))) != revision).then(
        || Write::Merge {
            resource: super::RESOURCE,
            namespace: namespace(deployment).to_owned(),
            name: name(deployment).to_owned(),
            subresource: "",
            patch: json!({"metadata": {"uid": uid(deployment), "annotations": {REVISION: revision}}}),
        },
    )
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
