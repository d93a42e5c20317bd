//! Containers: names, images, ports, environment, mounts, resources, probes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Errors, int, list, map, names, pod, security, text, volume};
use crate::api::field::{FieldError, Path};
use crate::api::quantity::Quantity;

/// Checks all containers of a pod's spec.
pub(super) fn all(spec: &Value, volumes: &BTreeSet<&str>, path: &Path<'_>, errors: &mut Errors) {
    let containers = list(spec, "containers");
    if containers.is_empty() {
        errors.push(FieldError::required(&path.child("containers"), ""));
    }
    let mut taken = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    for kind in ["containers", "initContainers"] {
        let path = path.child(kind);
        for (index, container) in list(spec, kind).iter().enumerate() {
            let path = path.index(index);
            let name = text(container, "name");
            if !name.is_empty() {
                errors.invalid_all(&path.child("name"), name, names::dns1123_label(name));
                if !taken.insert(name) {
                    errors.push(FieldError::duplicate(&path.child("name"), name));
                }
            }
            one(container, volumes, &path, errors);
            ports(container, pod::host_network(spec), &mut host_ports, &path.child("ports"), errors);
            if kind == "initContainers" {
                // They run one after the other.
                host_ports.clear();
                init_only(container, &path, errors);
            }
        }
    }
}

fn one(container: &Value, volumes: &BTreeSet<&str>, path: &Path<'_>, errors: &mut Errors) {
    let image = text(container, "image");
    if image.is_empty() {
        errors.push(FieldError::required(&path.child("image"), ""));
    } else if image.trim() != image {
        let words = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(&path.child("image"), image, words));
    }
    environment(container, path, errors);
    mounts(container, volumes, &path.child("volumeMounts"), errors);
    if let Some(resources) = container.get("resources") {
        self::resources(resources, &path.child("resources"), errors);
    }
    if let Some(context) = container.get("securityContext") {
        security::container(context, &path.child("securityContext"), errors);
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get(name) {
            self::probe(probe, name, &path.child(name), errors);
        }
    }
    if let Some(lifecycle) = container.get("lifecycle") {
        let path = path.child("lifecycle");
        for name in ["postStart", "preStop"] {
            if let Some(handler) = lifecycle.get(name) {
                self::handler(handler, &path.child(name), errors);
            }
        }
    }
}

/// What an init container that ends cannot have.
fn init_only(container: &Value, path: &Path<'_>, errors: &mut Errors) {
    if text(container, "restartPolicy") == "Always" {
        return;
    }
    for name in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if container.get(name).is_some() {
            let words = "may not be set for init containers without restartPolicy=Always";
            errors.push(FieldError::forbidden(&path.child(name), words));
        }
    }
}

fn ports<'v>(
    container: &'v Value,
    host_network: bool,
    host_ports: &mut BTreeSet<(&'v str, &'v str, i64)>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let mut taken = BTreeSet::new();
    for (index, port) in list(container, "ports").iter().enumerate() {
        let path = path.index(index);
        let name = text(port, "name");
        if !name.is_empty() {
            let wrong = names::port_name(name);
            if wrong.is_empty() && !taken.insert(name) {
                errors.push(FieldError::duplicate(&path.child("name"), name));
            }
            errors.invalid_all(&path.child("name"), name, wrong);
        }
        let number = int(port, "containerPort").unwrap_or(0);
        match number {
            0 => errors.push(FieldError::required(&path.child("containerPort"), "")),
            number => port_in_range(number, &path.child("containerPort"), errors),
        }
        let Some(host) = int(port, "hostPort").filter(|p| *p != 0) else { continue };
        port_in_range(host, &path.child("hostPort"), errors);
        if host_network && host != number {
            let words = "must match `hostPort` when `hostNetwork` is true";
            errors.push(FieldError::invalid(&path.child("containerPort"), number, words));
        }
        let (protocol, ip) = (text(port, "protocol"), text(port, "hostIP"));
        if !host_ports.insert((protocol, ip, host)) {
            errors.push(FieldError::duplicate(&path.child("hostPort"), format!("{protocol}/{ip}/{host}")));
        }
    }
}

fn port_in_range(number: i64, path: &Path<'_>, errors: &mut Errors) {
    for words in names::port_number(number) {
        errors.push(FieldError::invalid(path, number, words));
    }
}

/// A port by number or by name.
pub(super) fn port_reference(port: Option<&Value>, path: &Path<'_>, errors: &mut Errors) {
    match port {
        Some(Value::String(name)) => errors.invalid_all(path, name, names::port_name(name)),
        other => port_in_range(other.and_then(Value::as_i64).unwrap_or(0), path, errors),
    }
}

fn environment(container: &Value, path: &Path<'_>, errors: &mut Errors) {
    let env = path.child("env");
    for (index, variable) in list(container, "env").iter().enumerate() {
        let path = env.index(index);
        let name = text(variable, "name");
        if !name.is_empty() {
            errors.invalid_all(&path.child("name"), name, names::env_name(name));
        }
        if let Some(from) = variable.get("valueFrom") {
            value_from(from, !text(variable, "value").is_empty(), &path.child("valueFrom"), errors);
        }
    }
    let from = path.child("envFrom");
    for (index, source) in list(container, "envFrom").iter().enumerate() {
        env_from(source, &from.index(index), errors);
    }
}

/// Fields of a pod that a variable can hold.
const POD_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn value_from(from: &Value, has_value: bool, path: &Path<'_>, errors: &mut Errors) {
    let sources = from.as_object().map_or(0, serde_json::Map::len);
    let words = match (sources, has_value) {
        (0, _) => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        }
        (_, true) => "may not be specified when `value` is not empty",
        (1, _) => "",
        _ => "may not have more than one field specified at a time",
    };
    if !words.is_empty() {
        errors.push(FieldError::invalid(path, "", words));
    }
    if let Some(field) = from.get("fieldRef") {
        field_reference(text(field, "fieldPath"), &path.child("fieldRef"), errors);
    }
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        let Some(reference) = from.get(kind) else { continue };
        let (path, key) = (path.child(kind), text(reference, "key"));
        if text(reference, "name").is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        }
        if !key.is_empty() {
            errors.invalid_all(&path.child("key"), key, names::config_key(key));
        }
    }
}

fn field_reference(field: &str, path: &Path<'_>, errors: &mut Errors) {
    let subscript = |name: &str| field.strip_prefix(name)?.strip_prefix("['")?.strip_suffix("']");
    if let Some(key) = subscript("metadata.labels") {
        errors.invalid_all(path, key, names::qualified(key));
    } else if let Some(key) = subscript("metadata.annotations") {
        errors.invalid_all(path, key, names::qualified(&key.to_lowercase()));
    } else if !field.is_empty() && !POD_FIELDS.contains(&field) {
        errors.push(FieldError::not_supported(&path.child("fieldPath"), field, POD_FIELDS));
    }
}

fn env_from(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    let prefix = text(source, "prefix");
    if !prefix.is_empty() {
        errors.invalid_all(&path.child("prefix"), prefix, names::env_name(prefix));
    }
    let mut found = 0;
    for kind in ["configMapRef", "secretRef"] {
        if let Some(reference) = source.get(kind) {
            found += 1;
            if text(reference, "name").is_empty() {
                errors.push(FieldError::required(&path.child(kind).child("name"), ""));
            }
        }
    }
    let words = match found {
        0 => "must specify one of: `configMapRef` or `secretRef`",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.push(FieldError::invalid(path, "", words));
}

fn mounts(container: &Value, volumes: &BTreeSet<&str>, path: &Path<'_>, errors: &mut Errors) {
    let mut places = BTreeSet::new();
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        let path = path.index(index);
        let (name, place) = (text(mount, "name"), text(mount, "mountPath"));
        if !name.is_empty() && !volumes.contains(name) {
            errors.push(FieldError::not_found(&path.child("name"), name));
        }
        if !place.is_empty() && !places.insert(place) {
            errors.push(FieldError::invalid(&path.child("mountPath"), place, "must be unique"));
        }
        let (sub, expression) = (text(mount, "subPath"), text(mount, "subPathExpr"));
        volume::descending(sub, &path.child("subPath"), errors);
        volume::descending(expression, &path.child("subPathExpr"), errors);
        if !sub.is_empty() && !expression.is_empty() {
            let words = "subPathExpr and subPath are mutually exclusive";
            errors.push(FieldError::invalid(&path.child("subPathExpr"), expression, words));
        }
    }
}

/// Resources that need no domain.
fn is_standard(resource: &str) -> bool {
    matches!(resource, "cpu" | "memory" | "ephemeral-storage") || resource.starts_with("hugepages-")
}

/// Whether requests may be below limits.
fn is_overcommittable(resource: &str) -> bool {
    !resource.starts_with("hugepages-") && (!resource.contains('/') || resource.contains("kubernetes.io/"))
}

/// `limits` and `requests` of a container.
fn resources(resources: &Value, path: &Path<'_>, errors: &mut Errors) {
    let none = serde_json::Map::new();
    let limits = map(resources, "limits").unwrap_or(&none);
    let requests = map(resources, "requests").unwrap_or(&none);
    for (kind, all) in [("limits", limits), ("requests", requests)] {
        let path = path.child(kind);
        for (name, quantity) in all {
            amount(name, quantity, &path.key(name), errors);
        }
    }
    let path_requests = path.child("requests");
    for (name, quantity) in requests {
        let Ok(request) = Quantity::from_value(quantity) else { continue };
        let limit = limits.get(name).and_then(|q| Quantity::from_value(q).ok());
        let words = match limit {
            None if !is_overcommittable(name) => {
                let words = "Limit must be set for non overcommitable resources";
                errors.push(FieldError::required(&path.child("limits"), words));
                continue;
            }
            Some(limit) if request != limit && !is_overcommittable(name) => {
                format!("must be equal to {name} limit of {limit}")
            }
            Some(limit) if request > limit => format!("must be less than or equal to {name} limit of {limit}"),
            _ => continue,
        };
        errors.push(FieldError::invalid(&path_requests, request.to_string(), words));
    }
}

fn amount(name: &str, quantity: &Value, path: &Path<'_>, errors: &mut Errors) {
    errors.invalid_all(path, name, names::qualified(name));
    if !name.contains('/') && !is_standard(name) {
        errors.push(FieldError::invalid(path, name, "must be a standard resource type or fully qualified"));
        errors.push(FieldError::invalid(path, name, "must be a standard resource for containers"));
    }
    let Ok(quantity) = Quantity::from_value(quantity) else { return };
    if quantity.is_negative() {
        errors.push(FieldError::invalid(path, quantity.to_string(), super::NOT_NEGATIVE));
    }
    if !is_overcommittable(name) && quantity.milli() % 1000 != 0 {
        errors.push(FieldError::invalid(path, quantity.to_string(), "must be an integer"));
    }
}

fn probe(probe: &Value, kind: &str, path: &Path<'_>, errors: &mut Errors) {
    handler(probe, path, errors);
    let counts = ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];
    for name in counts {
        errors.not_negative(probe, name, path);
    }
    if let Some(seconds) = int(probe, "terminationGracePeriodSeconds") {
        let path = path.child("terminationGracePeriodSeconds");
        if kind == "readinessProbe" {
            errors.push(FieldError::invalid(&path, seconds, "must not be set for readinessProbes"));
        } else if seconds <= 0 {
            errors.push(FieldError::invalid(&path, seconds, "must be greater than 0"));
        }
    }
    let successes = int(probe, "successThreshold").unwrap_or(1);
    if kind != "readinessProbe" && successes != 1 {
        errors.push(FieldError::invalid(&path.child("successThreshold"), successes, "must be 1"));
    }
}

/// Exactly one way to act.
fn handler(handler: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut found = 0;
    for kind in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let Some(action) = handler.get(kind) else { continue };
        let path = path.child(kind);
        found += 1;
        if found > 1 {
            errors.push(FieldError::forbidden(&path, "may not specify more than 1 handler type"));
            continue;
        }
        match kind {
            "exec" if list(action, "command").is_empty() => {
                errors.push(FieldError::required(&path.child("command"), ""));
            }
            "httpGet" => {
                port_reference(action.get("port"), &path.child("port"), errors);
                for header in list(action, "httpHeaders") {
                    header_name(text(header, "name"), &path.child("httpHeaders"), errors);
                }
            }
            "tcpSocket" | "grpc" => port_reference(action.get("port"), &path.child("port"), errors),
            "sleep" => errors.not_negative(action, "seconds", &path),
            _ => {}
        }
    }
    if found == 0 {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
}

fn header_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    let good = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !good {
        let words = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
        errors.push(FieldError::invalid(path, name, words));
    }
}
