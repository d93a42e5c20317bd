//! From what a node reports to the objects as the API shows them: pure.

mod event;
mod node;
mod pod;

pub use event::{event, event_name};
pub use node::{create_node, node};
pub use pod::{PodOutcome, pod};

use serde_json::{Value, json};

use super::stored::time;

/// A condition whose transition time is kept while its status stays.
struct Condition<'a> {
    kind: &'a str,
    status: &'a str,
    reason: &'a str,
    message: &'a str,
}

/// Sets a condition among `conditions`; others stay.
fn set_condition(conditions: &mut Vec<Value>, condition: &Condition<'_>, heartbeat: bool, now: i64) {
    let place = conditions.iter().position(|c| c["type"] == condition.kind);
    let old = place.map(|at| &conditions[at]);
    let same = old.filter(|c| c["status"] == condition.status);
    let since = same.map_or_else(|| time(now).into(), |c| c["lastTransitionTime"].clone());
    let mut new = json!({"type": condition.kind, "status": condition.status, "lastTransitionTime": since});
    if heartbeat {
        // A heartbeat moves only with a change: steady state writes nothing.
        let unchanged = old.is_some_and(|c| {
            c["status"] == condition.status
                && c["reason"].as_str().unwrap_or_default() == condition.reason
                && c["message"].as_str().unwrap_or_default() == condition.message
        });
        new["lastHeartbeatTime"] = match old.filter(|_| unchanged) {
            Some(c) if !c["lastHeartbeatTime"].is_null() => c["lastHeartbeatTime"].clone(),
            _ => time(now).into(),
        };
    } else {
        new["lastProbeTime"] = Value::Null;
    }
    if !condition.reason.is_empty() {
        new["reason"] = condition.reason.into();
    }
    if !condition.message.is_empty() {
        new["message"] = condition.message.into();
    }
    match place {
        Some(at) => conditions[at] = new,
        None => conditions.push(new),
    }
}

fn set_text(object: &mut Value, field: &str, text: &str) {
    if text.is_empty() {
        if let Some(map) = object.as_object_mut() {
            map.remove(field);
        }
    } else {
        object[field] = text.into();
    }
}

#[cfg(test)]
mod tests;
