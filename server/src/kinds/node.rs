//! Node: its columns and when a heartbeat is only that.

use coracle_store::Class;
use serde_json::Value;

use super::cluster::{AGE, NAME, created, name, nothing_to_create, plain, wide};
use super::{Column, Moment, Rules, View, Write};

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    plain("Status", "Whether the node takes and runs pods."),
    plain("Roles", "The roles that the node's labels name."),
    AGE,
    plain("Version", "The version of the agent."),
    wide("Internal-IP", "The address of the node inside the cluster."),
    wide("External-IP", "The address of the node outside."),
    wide("OS-Image", "The operating system."),
    wide("Kernel-Version", "The kernel."),
    wide("Container-Runtime", "What runs the containers."),
];

pub(super) fn cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let info = |field: &str| match view.text(&["status", "nodeInfo", field]) {
        "" => Value::from("<unknown>"),
        text => text.into(),
    };
    vec![
        name(view),
        status(view).into(),
        roles(view).into(),
        created(view, moment),
        view.text(&["status", "nodeInfo", "kubeletVersion"]).into(),
        address(view, "InternalIP").into(),
        address(view, "ExternalIP").into(),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn status(view: &View<'_>) -> String {
    let mut words = match view.condition("Ready").map(|c| c.text(&["status"])) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if view.flag(&["spec", "unschedulable"]) {
        words.push_str(",SchedulingDisabled");
    }
    words
}

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";

fn roles(view: &View<'_>) -> String {
    let mut roles: Vec<&str> = view
        .pairs(&["metadata", "labels"])
        .filter_map(|(key, value)| match key.strip_prefix(ROLE_PREFIX) {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => Some(value),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    if roles.is_empty() { "<none>".into() } else { roles.join(",") }
}

fn address<'a>(view: &View<'a>, kind: &str) -> &'a str {
    let found = view.list(&["status", "addresses"]).iter().map(View).find(|a| a.text(&["type"]) == kind);
    found.map_or("<none>", |a| a.text(&["address"]))
}

pub(super) const RULES: Rules = Rules { create: nothing_to_create, update, class };

fn update(object: &mut Value, old: &Value) {
    // A node keeps the addresses of its pods for as long as it is there.
    for field in ["podCIDR", "podCIDRs", "providerID"] {
        let before = &old["spec"][field];
        if object["spec"].get(field).is_none() && !before.is_null() {
            object["spec"][field] = before.clone();
        }
    }
}

/// A status that says what was said before, only later, lives in memory.
fn class(write: &Write<'_>) -> Class {
    let Some(old) = write.old.filter(|_| write.status) else { return Class::Durable };
    if without_heartbeats(old) == without_heartbeats(write.new) { Class::Volatile } else { Class::Durable }
}

fn without_heartbeats(node: &Value) -> Value {
    let mut status = node["status"].clone();
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        if let Some(condition) = condition.as_object_mut() {
            condition.remove("lastHeartbeatTime");
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_later_heartbeat_alone_is_volatile() {
        let at = |time: &str, ready: &str| json!({"status": {"conditions": [{"type": "Ready", "status": ready, "lastHeartbeatTime": time}]}});
        let old = at("a", "True");
        let judge = |new: &Value, status| class(&Write { old: Some(&old), new, status, by_node: true });
        assert_eq!(judge(&at("b", "True"), true), Class::Volatile);
        assert_eq!(judge(&at("b", "False"), true), Class::Durable);
        assert_eq!(judge(&at("b", "True"), false), Class::Durable);
    }

    #[test]
    fn status_and_roles_are_words() {
        let node = json!({"metadata": {"labels": {"node-role.kubernetes.io/edge": "", "kubernetes.io/role": "a"}},
            "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(status(&View(&node)), "Ready,SchedulingDisabled");
        assert_eq!(roles(&View(&node)), "a,edge");
        assert_eq!(address(&View(&node), "ExternalIP"), "<none>");
    }
}
