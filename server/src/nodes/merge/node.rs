//! A node's report becomes its Node object.

use coracle_shared::report::{NodeReport, Resources};
use serde_json::{Map, Value, json};

use super::super::stored::time;
use super::{Condition, set_condition};

/// Labels that the agent may not give its own node: they decide what is scheduled there.
const RESERVED: [&str; 2] = ["node-role.kubernetes.io/", "node-restriction.kubernetes.io/"];

/// A new Node object for a machine that joined.
pub fn create_node(name: &str, uid: &str, architecture: &str, now: i64) -> Value {
    json!({
        "metadata": {
            "name": name,
            "uid": uid,
            "creationTimestamp": time(now),
            "labels": labels(name, architecture),
        },
        "spec": {},
        "status": {"conditions": [{
            "type": "Ready",
            "status": "Unknown",
            "reason": "NodeStatusNeverUpdated",
            "message": "The node has joined and has not reported yet.",
            "lastHeartbeatTime": time(now),
            "lastTransitionTime": time(now),
        }]},
    })
}

fn labels(name: &str, architecture: &str) -> Value {
    // The hostname label selects this node in manifests. Several agents may share a machine and its
    // name, so it is the node's name, which is unique.
    let mut labels =
        json!({"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "beta.kubernetes.io/os": "linux"});
    if !architecture.is_empty() {
        labels["kubernetes.io/arch"] = architecture.into();
        labels["beta.kubernetes.io/arch"] = architecture.into();
    }
    labels
}

/// Merges a report into the stored Node; `answering` is whether the agent's reconcile loop answers,
/// `pod_cidr` what was assigned just now.
pub fn node(stored: &Value, report: Option<&NodeReport>, answering: bool, pod_cidr: Option<&str>, now: i64) -> Value {
    let mut object = stored.clone();
    if let Some(cidr) = pod_cidr {
        object["spec"]["podCIDR"] = cidr.into();
        object["spec"]["podCIDRs"] = json!([cidr]);
    }
    let mut conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    if let Some(report) = report {
        facts(&mut object, report);
        for condition in &report.conditions {
            let status = if condition.status { "True" } else { "False" };
            let (kind, reason, message) = (&*condition.kind, &*condition.reason, &*condition.message);
            if kind != "Ready" {
                set_condition(&mut conditions, &Condition { kind, status, reason, message }, true, now);
            }
        }
    }
    let has_network = object["spec"]["podCIDR"].is_string();
    let ready = match (answering, has_network) {
        (true, true) => ("True", "AgentReady", "the agent is connected and answers"),
        (false, _) => ("False", "AgentStuck", "the agent is connected, but its reconcile loop does not answer"),
        (true, false) => {
            ("False", "NoPodNetwork", "every network of --pod-cidr is taken: give the cluster a larger one")
        }
    };
    let (status, reason, message) = ready;
    set_condition(&mut conditions, &Condition { kind: "Ready", status, reason, message }, true, now);
    object["status"]["conditions"] = conditions.into();
    object
}

fn facts(object: &mut Value, report: &NodeReport) {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    merge_labels(object, labels(&name, &report.architecture));
    let own: Map<String, Value> = report
        .labels
        .iter()
        .filter(|(key, _)| !RESERVED.iter().any(|prefix| key.starts_with(prefix)))
        .map(|(key, value)| (key.clone(), value.as_str().into()))
        .collect();
    merge_labels(object, own.into());
    let status = &mut object["status"];
    status["capacity"] = resources(&report.capacity);
    status["allocatable"] = resources(&report.allocatable);
    let mut addresses: Vec<Value> =
        report.addresses.iter().map(|a| json!({"type": "InternalIP", "address": a.to_string()})).collect();
    addresses.push(json!({"type": "Hostname", "address": report.hostname}));
    status["addresses"] = addresses.into();
    status["nodeInfo"] = json!({
        "architecture": report.architecture,
        "bootID": report.boot_id,
        "containerRuntimeVersion": format!("coracle://{}", report.agent_version),
        "kernelVersion": report.kernel,
        "kubeProxyVersion": format!("v{}", report.agent_version),
        "kubeletVersion": format!("v{}", report.agent_version),
        "machineID": report.machine_id,
        "operatingSystem": "linux",
        "osImage": report.os_image,
        "systemUUID": report.machine_id,
    });
}

/// Labels that a person set stay as they are.
fn merge_labels(object: &mut Value, new: Value) {
    let labels = &mut object["metadata"]["labels"];
    if !labels.is_object() {
        *labels = json!({});
    }
    if let (Some(labels), Value::Object(new)) = (labels.as_object_mut(), new) {
        for (key, value) in new {
            labels.entry(key).or_insert(value);
        }
    }
}

fn resources(resources: &Resources) -> Value {
    let cpu = match resources.cpu_millis {
        whole if whole % 1000 == 0 => (whole / 1000).to_string(),
        millis => format!("{millis}m"),
    };
    json!({
        "cpu": cpu,
        "memory": format!("{}Ki", resources.memory_bytes / 1024),
        "ephemeral-storage": format!("{}Ki", resources.storage_bytes / 1024),
        "pods": resources.pods.to_string(),
    })
}
