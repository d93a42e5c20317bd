//! Defaults that depend on other fields.

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::Conditional;

pub(super) const ROWS: &[(&str, Conditional)] = &[
    ("core/v1.Pod", pod),
    ("core/v1.PodSpec", pod_spec),
    ("core/v1.Container", image_pull_policy),
    ("core/v1.EphemeralContainerCommon", image_pull_policy),
    ("core/v1.Volume", volume),
    ("core/v1.ServiceSpec", service_spec),
    ("core/v1.ServicePort", service_port),
    ("core/v1.Secret", secret),
    ("core/v1.Namespace", namespace),
    ("core/v1.NodeStatus", node_status),
    ("apps/v1.DeploymentStrategy", rolling_update),
    ("apps/v1.DaemonSetUpdateStrategy", rolling_update),
    ("apps/v1.StatefulSetUpdateStrategy", rolling_update),
    ("autoscaling/v2.HorizontalPodAutoscalerSpec", autoscaler_spec),
    ("autoscaling/v2.HorizontalPodAutoscalerBehavior", autoscaler_behavior),
    ("batch/v1.JobSpec", job_spec),
    ("core/v1.LimitRangeItem", limit_range_item),
    ("core/v1.ReplicationController", replication_controller),
    ("networking/v1.NetworkPolicySpec", network_policy_spec),
    ("rbac/v1.Subject", subject),
];

fn text<'m>(map: &'m Map<String, Value>, field: &str) -> &'m str {
    map.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn absent(map: &mut Map<String, Value>, field: &str, value: Value) {
    if !map.contains_key(field) {
        map.insert(field.to_string(), value);
    }
}

fn containers<'m>(spec: &'m mut Map<String, Value>, list: &str) -> impl Iterator<Item = &'m mut Map<String, Value>> {
    let items = spec.get_mut(list).and_then(Value::as_array_mut);
    items.into_iter().flatten().filter_map(Value::as_object_mut)
}

/// Requests default to limits, in pods and not in templates; so do service links.
fn pod(pod: &mut Map<String, Value>) {
    let Some(Value::Object(spec)) = pod.get_mut("spec") else { return };
    absent(spec, "enableServiceLinks", true.into());
    for list in ["containers", "initContainers"] {
        for container in containers(spec, list) {
            requests_from_limits(container);
        }
    }
}

fn requests_from_limits(container: &mut Map<String, Value>) {
    let Some(Value::Object(resources)) = container.get_mut("resources") else { return };
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else { return };
    let requests = resources.entry("requests").or_insert_with(|| json!({}));
    if let Value::Object(requests) = requests {
        for (name, quantity) in limits {
            requests.entry(name).or_insert(quantity);
        }
    }
}

/// Host ports on the host's network, and the old name of the service account.
fn pod_spec(spec: &mut Map<String, Value>) {
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        for list in ["containers", "initContainers"] {
            for container in containers(spec, list) {
                host_ports(container);
            }
        }
    }
    let account = match (text(spec, "serviceAccountName"), text(spec, "serviceAccount")) {
        ("", "") => return,
        ("", old) => old.to_string(),
        (new, _) => new.to_string(),
    };
    spec.insert("serviceAccountName".into(), account.clone().into());
    spec.insert("serviceAccount".into(), account.into());
}

fn host_ports(container: &mut Map<String, Value>) {
    for port in containers(container, "ports") {
        if let Some(number) = port.get("containerPort").cloned() {
            absent(port, "hostPort", number);
        }
    }
}

/// `Always` for `latest`, said or implied; `IfNotPresent` for any other tag or a digest.
fn image_pull_policy(container: &mut Map<String, Value>) {
    let image = text(container, "image");
    let (name, digest) = image.split_once('@').map_or((image, None), |(n, d)| (n, Some(d)));
    let last = name.rsplit('/').next().unwrap_or_default();
    let latest = match (last.split_once(':'), digest) {
        (Some((_, tag)), _) => tag == "latest",
        (None, digest) => digest.is_none(),
    };
    let policy = if latest { "Always" } else { "IfNotPresent" };
    absent(container, "imagePullPolicy", policy.into());
}

/// A volume without a source is an empty directory.
fn volume(volume: &mut Map<String, Value>) {
    if volume.keys().all(|key| key == "name") {
        volume.insert("emptyDir".into(), json!({}));
    }
}

fn service_spec(spec: &mut Map<String, Value>) {
    match text(spec, "sessionAffinity") {
        "ClientIP" => {
            let config = spec.entry("sessionAffinityConfig").or_insert_with(|| json!({}));
            let timeout = config.pointer("/clientIP/timeoutSeconds");
            if timeout.is_none() {
                *config = json!({"clientIP": {"timeoutSeconds": 10_800}});
            }
        }
        _ => {
            spec.remove("sessionAffinityConfig");
        }
    }
    let kind = text(spec, "type").to_string();
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        absent(spec, "externalTrafficPolicy", "Cluster".into());
    }
    if kind == "LoadBalancer" {
        absent(spec, "allocateLoadBalancerNodePorts", true.into());
    }
    if kind != "ExternalName" {
        absent(spec, "internalTrafficPolicy", "Cluster".into());
        // The cluster has one family.
        absent(spec, "ipFamilyPolicy", "SingleStack".into());
        absent(spec, "ipFamilies", json!(["IPv4"]));
    }
}

fn service_port(port: &mut Map<String, Value>) {
    let target = port.get("targetPort");
    let unset = target.is_none_or(|t| t.as_i64() == Some(0) || t.as_str() == Some(""));
    if unset && let Some(number) = port.get("port").cloned() {
        port.insert("targetPort".into(), number);
    }
}

/// `stringData` is for writing only: it becomes `data`.
fn secret(secret: &mut Map<String, Value>) {
    let Some(Value::Object(plain)) = secret.remove("stringData") else { return };
    if plain.is_empty() {
        return;
    }
    let data = secret.entry("data").or_insert_with(|| json!({}));
    if let Value::Object(data) = data {
        for (key, value) in plain {
            let bytes = value.as_str().unwrap_or_default();
            let encoded = base64::engine::general_purpose::STANDARD.encode(bytes);
            data.insert(key, encoded.into());
        }
    }
}

/// A namespace can be selected by its name.
fn namespace(namespace: &mut Map<String, Value>) {
    let Some(Value::Object(metadata)) = namespace.get_mut("metadata") else { return };
    let name = text(metadata, "name").to_string();
    if name.is_empty() {
        return;
    }
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    if let Value::Object(labels) = labels {
        labels.insert("kubernetes.io/metadata.name".into(), name.into());
    }
}

fn node_status(status: &mut Map<String, Value>) {
    if let Some(capacity) = status.get("capacity").cloned() {
        absent(status, "allocatable", capacity);
    }
}

fn rolling_update(strategy: &mut Map<String, Value>) {
    if text(strategy, "type") == "RollingUpdate" {
        absent(strategy, "rollingUpdate", json!({}));
    }
}

fn job_spec(spec: &mut Map<String, Value>) {
    if !spec.contains_key("parallelism") {
        absent(spec, "completions", 1.into());
    }
    absent(spec, "parallelism", 1.into());
    // Counted by index, failures have no common limit.
    let limit = if spec.contains_key("backoffLimitPerIndex") { i32::MAX } else { 6 };
    absent(spec, "backoffLimit", limit.into());
    let replace = if spec.contains_key("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    absent(spec, "podReplacementPolicy", replace.into());
}

/// Without metrics, the processor is kept at four fifths.
fn autoscaler_spec(spec: &mut Map<String, Value>) {
    if spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        spec.insert("metrics".into(), json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
    }
}

fn autoscaler_behavior(behavior: &mut Map<String, Value>) {
    let all = |kind: &str, value: i64, seconds: i64| json!({"type": kind, "value": value, "periodSeconds": seconds});
    let up = json!({"stabilizationWindowSeconds": 0, "selectPolicy": "Max",
        "policies": [all("Pods", 4, 15), all("Percent", 100, 15)]});
    let down = json!({"selectPolicy": "Max", "policies": [all("Percent", 100, 15)]});
    for (name, defaults) in [("scaleUp", up), ("scaleDown", down)] {
        let rules = behavior.entry(name).or_insert_with(|| json!({}));
        let (Some(rules), Value::Object(defaults)) = (rules.as_object_mut(), defaults) else { continue };
        for (field, value) in defaults {
            rules.entry(field).or_insert(value);
        }
    }
}

/// What a limit does not say follows from what it does: the default from the most, the request from
/// the default and the least.
fn limit_range_item(item: &mut Map<String, Value>) {
    if text(item, "type") != "Container" {
        return;
    }
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        let Some(Value::Object(given)) = item.get(from).cloned() else { continue };
        let Value::Object(wanted) = item.entry(to).or_insert_with(|| json!({})) else { continue };
        for (name, quantity) in given {
            wanted.entry(name).or_insert(quantity);
        }
    }
}

/// Selector and labels follow from the template's.
fn replication_controller(controller: &mut Map<String, Value>) {
    let labels = controller.get("spec").and_then(|s| s.pointer("/template/metadata/labels")).cloned();
    let Some(labels @ Value::Object(_)) = labels else { return };
    if let Some(Value::Object(spec)) = controller.get_mut("spec") {
        absent(spec, "selector", labels.clone());
    }
    if let Some(Value::Object(metadata)) = controller.get_mut("metadata") {
        absent(metadata, "labels", labels);
    }
}

fn network_policy_spec(spec: &mut Map<String, Value>) {
    let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|e| !e.is_empty());
    let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    absent(spec, "policyTypes", types);
}

fn subject(subject: &mut Map<String, Value>) {
    if matches!(text(subject, "kind"), "User" | "Group") {
        absent(subject, "apiGroup", "rbac.authorization.k8s.io".into());
    }
}
