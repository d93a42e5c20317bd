//! Small views of API objects.

use coracle_shared::event::About;
pub use coracle_shared::event::Happening;
use coracle_shared::submit::Write;
use coracle_shared::time::Millis;
use serde_json::{Value, json};

pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

pub fn array<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

pub fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

pub fn is_deleting(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

pub fn has_finalizer(object: &Value, name: &str) -> bool {
    array(object, "/metadata/finalizers").iter().any(|f| f == name)
}

/// The uid of what controls the object.
pub fn controller(object: &Value) -> Option<&str> {
    array(object, "/metadata/ownerReferences").iter().find(|o| o["controller"] == true).and_then(|o| o["uid"].as_str())
}

pub fn controller_reference(api_version: &str, kind: &str, owner: &Value) -> Value {
    json!({
        "apiVersion": api_version, "kind": kind, "name": name(owner), "uid": uid(owner),
        "controller": true, "blockOwnerDeletion": true,
    })
}

pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    array(object, "/status/conditions").iter().find(|c| c["type"] == kind)
}

/// Neither ended nor about to.
pub fn is_active(pod: &Value) -> bool {
    !is_deleting(pod) && !has_ended(pod)
}

pub fn has_ended(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

pub fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|c| c["status"] == "True")
}

/// When the pod will have been ready for `seconds`; `None` when it is not ready.
pub fn available_at(pod: &Value, seconds: i64) -> Option<Millis> {
    let ready = condition(pod, "Ready").filter(|c| c["status"] == "True")?;
    let since = Millis::parse(text(ready, "/lastTransitionTime")).unwrap_or_default();
    Some(since.plus_seconds(seconds))
}

/// The conditions with one of them set: its time moves only when its status does.
pub fn with_condition(object: &Value, new: &Condition<'_>, now: Millis) -> Vec<Value> {
    let mut conditions = array(object, "/status/conditions").to_vec();
    let old = conditions.iter().position(|c| c["type"] == new.kind);
    let changed = old.is_none_or(|i| conditions[i]["status"] != new.status);
    let mut value = json!({
        "type": new.kind, "status": new.status, "reason": new.reason, "message": new.message,
        "lastTransitionTime": now.seconds_text(),
    });
    if let Some(i) = old {
        if !changed {
            value["lastTransitionTime"] = conditions[i]["lastTransitionTime"].clone();
        }
        // Fields of the kind that this writer does not know of stay (lastUpdateTime, lastProbeTime, …).
        for (key, kept) in conditions[i].as_object().into_iter().flatten() {
            if value.get(key).is_none() {
                value[key] = kept.clone();
            }
        }
        conditions[i] = value;
    } else {
        conditions.push(value);
    }
    conditions
}

pub struct Condition<'a> {
    pub kind: &'a str,
    pub status: &'a str,
    pub reason: &'a str,
    pub message: &'a str,
}

/// An Event about an object.
pub fn event(about: &Value, api_version: &str, kind: &str, what: &Happening<'_>, now: Millis) -> Write {
    let about = About { api_version, kind, namespace: namespace(about), name: name(about), uid: uid(about) };
    coracle_shared::event::event(&about, what, now)
}

/// A status write, when the status differs from what is stored.
pub fn status_update(resource: &'static str, object: &Value, status: Value) -> Option<Write> {
    let same = object["status"] == status;
    (!same).then(|| Write::Merge {
        resource,
        namespace: namespace(object).to_owned(),
        name: name(object).to_owned(),
        subresource: "status",
        patch: json!({
            "metadata": {"uid": uid(object), "resourceVersion": object["metadata"]["resourceVersion"]},
            "status": nulled(&object["status"], status),
        }),
    })
}

/// A merge patch that replaces `old` by `new`: what is gone becomes null.
fn nulled(old: &Value, mut new: Value) -> Value {
    if let (Some(old), Some(new)) = (old.as_object(), new.as_object_mut()) {
        for key in old.keys() {
            new.entry(key.clone()).or_insert(Value::Null);
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_its_time_while_its_status_holds() {
        let object = json!({"status": {"conditions": [{"type": "A", "status": "True", "lastTransitionTime": "t0", "extra": 1}]}});
        let set = |status| {
            with_condition(&object, &Condition { kind: "A", status, reason: "R", message: "m" }, Millis(0))[0].clone()
        };
        assert_eq!(set("True")["lastTransitionTime"], "t0");
        assert_eq!(set("False")["lastTransitionTime"], "1970-01-01T00:00:00Z");
        assert_eq!(set("False")["extra"], 1);
    }

    #[test]
    fn a_status_is_replaced_whole() {
        let object = json!({"metadata": {"name": "a"}, "status": {"gone": 1, "same": 2}});
        let write = status_update("pods", &object, json!({"same": 2}));
        assert!(
            matches!(write, Some(Write::Merge { patch, .. }) if patch["status"] == json!({"gone": null, "same": 2}))
        );
        assert_eq!(status_update("pods", &object, json!({"gone": 1, "same": 2})), None);
    }
}
