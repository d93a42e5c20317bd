//! What happened on a node becomes v1 Events; the same again raises a count.

use coracle_shared::report::EventReport;
use serde_json::{Value, json};

use super::super::stored::time;
use crate::pki::fingerprint;

/// The name of the Event object: the same for the same thing about the same object.
pub fn event_name(report: &EventReport, node: &str, node_uid: &str) -> String {
    let (object, uid) = match &report.pod {
        Some((_, name, uid)) => (name.as_str(), uid.0.as_str()),
        None => (node, node_uid),
    };
    let parts = [uid, &report.field_path, &report.reason, &report.message];
    let joined = parts.join("\0");
    let hash: String = fingerprint(joined.as_bytes()).0[..8].iter().map(|b| format!("{b:02x}")).collect();
    // A name has at most 253 characters; the hash keeps it unique.
    let object = &object[..object.floor_char_boundary(230)];
    format!("{object}.{hash}")
}

/// The object, new or counted up.
pub fn event(stored: Option<&Value>, report: &EventReport, node: &str, node_uid: &str, uid: &str) -> Value {
    let last = time(report.at);
    if let Some(stored) = stored {
        let mut object = stored.clone();
        object["count"] = (stored["count"].as_u64().unwrap_or(1) + 1).into();
        object["lastTimestamp"] = last.into();
        return object;
    }
    let (namespace, involved) = match &report.pod {
        Some((namespace, name, uid)) => {
            let mut involved =
                json!({"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": uid.0});
            super::set_text(&mut involved, "fieldPath", &report.field_path);
            (namespace.as_str(), involved)
        }
        None => ("default", json!({"apiVersion": "v1", "kind": "Node", "name": node, "uid": node_uid})),
    };
    json!({
        "metadata": {
            "name": event_name(report, node, node_uid),
            "namespace": namespace,
            "uid": uid,
            "creationTimestamp": last.clone(),
        },
        "involvedObject": involved,
        "reason": report.reason,
        "message": report.message,
        "type": if report.warning { "Warning" } else { "Normal" },
        "count": 1,
        "firstTimestamp": last.clone(),
        "lastTimestamp": last,
        "eventTime": null,
        "source": {"component": "coracle-agent", "host": node},
        "reportingComponent": "coracle-agent",
        "reportingInstance": node,
    })
}
