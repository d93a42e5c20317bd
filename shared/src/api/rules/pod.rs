//! Pods and pod templates.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Errors, container, flag, int, list, map, meta, names, security, text, volume};
use crate::api::field::{FieldError, Path};
use crate::api::quantity::Quantity;

/// Changed fields that a refusal names.
const MAX_CHANGES_SHOWN: usize = 10;

pub(super) fn validate(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("spec");
    match new.get("spec") {
        Some(spec) => self::spec(spec, &path, errors),
        None => errors.push(FieldError::required(&path.child("containers"), "")),
    }
    if let (Some(spec), Some(old)) = (new.get("spec"), old.and_then(|o| o.get("spec"))) {
        update(spec, old, &path, errors);
    }
}

/// A template's labels and annotations and its spec.
pub(super) fn template(template: &Value, path: &Path<'_>, errors: &mut Errors) {
    if let Some(labels) = template.get("metadata").and_then(|m| map(m, "labels")) {
        meta::labels(labels, &path.child("metadata").child("labels"), errors);
    }
    match template.get("spec") {
        Some(spec) => self::spec(spec, &path.child("spec"), errors),
        None => errors.push(FieldError::required(&path.child("spec").child("containers"), "")),
    }
}

fn spec(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let volumes = volume::all(spec, &path.child("volumes"), errors);
    container::all(spec, &volumes, path, errors);
    if let Some(selector) = map(spec, "nodeSelector") {
        meta::labels(selector, &path.child("nodeSelector"), errors);
    }
    if let Some(context) = spec.get("securityContext") {
        security::pod(context, &path.child("securityContext"), errors);
    }
    for (name, shape) in [
        ("serviceAccountName", names::dns1123_subdomain as fn(&str) -> Vec<String>),
        ("nodeName", names::dns1123_subdomain),
        ("priorityClassName", names::dns1123_subdomain),
        ("runtimeClassName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
    ] {
        let value = text(spec, name);
        if !value.is_empty() {
            errors.invalid_all(&path.child(name), value, shape(value));
        }
    }
    if let Some(seconds) = int(spec, "activeDeadlineSeconds") {
        for words in names::in_range(seconds, 1, i64::from(i32::MAX)) {
            errors.push(FieldError::invalid(&path.child("activeDeadlineSeconds"), seconds, words));
        }
    }
    errors.not_negative(spec, "terminationGracePeriodSeconds", path);
    image_pull_secrets(spec, path, errors);
    tolerations(list(spec, "tolerations"), &path.child("tolerations"), errors);
    host_aliases(spec, path, errors);
    dns(spec, path, errors);
}

fn image_pull_secrets(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("imagePullSecrets");
    for (index, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            errors.push(FieldError::required(&path.index(index).child("name"), ""));
        }
    }
}

fn tolerations(all: &[Value], path: &Path<'_>, errors: &mut Errors) {
    for (index, toleration) in all.iter().enumerate() {
        let path = path.index(index);
        let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
        let (value, effect) = (text(toleration, "value"), text(toleration, "effect"));
        if !key.is_empty() {
            errors.invalid_all(&path.child("key"), key, names::qualified(key));
        } else if operator != "Exists" {
            let words = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(&path.child("operator"), operator, words));
        }
        match operator {
            "" | "Equal" => errors.invalid_all(&path.child("value"), value, names::label_value(value)),
            "Exists" if !value.is_empty() => {
                let words = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(&path.child("operator"), value, words));
            }
            _ => {}
        }
        if int(toleration, "tolerationSeconds").is_some() && effect != "NoExecute" {
            let words = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(&path.child("effect"), effect, words));
        }
    }
}

fn host_aliases(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("hostAliases");
    for (index, alias) in list(spec, "hostAliases").iter().enumerate() {
        let path = path.index(index);
        let ip = text(alias, "ip");
        if ip.parse::<std::net::IpAddr>().is_err() {
            errors.push(FieldError::invalid(&path.child("ip"), ip, "must be valid IP address"));
        }
        for name in list(alias, "hostnames").iter().filter_map(Value::as_str) {
            errors.invalid_all(&path.child("hostnames"), name, names::dns1123_subdomain(name));
        }
    }
}

/// Name servers and search domains of a pod, as the C library's limits have them.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

fn dns(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let none = Value::Null;
    let config = spec.get("dnsConfig").unwrap_or(&none);
    let path = path.child("dnsConfig");
    let servers = list(config, "nameservers");
    if text(spec, "dnsPolicy") == "None" {
        if spec.get("dnsConfig").is_none() {
            let words = "must provide `dnsConfig` when `dnsPolicy` is None";
            errors.push(FieldError::required(&path, words));
            return;
        }
        if servers.is_empty() {
            let words = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(FieldError::required(&path.child("nameservers"), words));
        }
    }
    if servers.len() > MAX_NAMESERVERS {
        let words = format!("must not have more than {MAX_NAMESERVERS} nameservers");
        errors.push(FieldError::invalid(&path.child("nameservers"), servers.to_vec(), words));
    }
    for (index, server) in servers.iter().filter_map(Value::as_str).enumerate() {
        if server.parse::<std::net::IpAddr>().is_err() {
            let words = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(FieldError::invalid(&path.child("nameservers").index(index), server, words));
        }
    }
    let searches = list(config, "searches");
    if searches.len() > MAX_SEARCHES {
        let words = format!("must not have more than {MAX_SEARCHES} search paths");
        errors.push(FieldError::invalid(&path.child("searches"), searches.to_vec(), words));
    }
    for (index, search) in searches.iter().filter_map(Value::as_str).enumerate() {
        let name = search.strip_suffix('.').unwrap_or(search);
        errors.invalid_all(&path.child("searches").index(index), search, names::dns1123_subdomain(name));
    }
}

/// A pod's spec is fixed, but for a few fields.
fn update(new: &Value, old: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut fixed = new.clone();
    for kind in ["containers", "initContainers"] {
        let (after, before) = (list(new, kind), list(old, kind));
        if after.len() != before.len() {
            let words = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(&path.child(kind), words));
            return;
        }
        for (index, container) in before.iter().enumerate() {
            restore(&mut fixed[kind][index], container, "image");
        }
    }
    deadline(new, old, path, errors);
    restore(&mut fixed, old, "activeDeadlineSeconds");
    added_tolerations(new, old, path, errors);
    restore(&mut fixed, old, "tolerations");
    // A negative period can only be mended.
    if int(old, "terminationGracePeriodSeconds").is_some_and(|s| s < 0)
        && int(new, "terminationGracePeriodSeconds") == Some(1)
    {
        restore(&mut fixed, old, "terminationGracePeriodSeconds");
    }
    if removes_gates(new, old) {
        restore(&mut fixed, old, "schedulingGates");
    }
    if fixed != *old {
        let mut changed = Vec::new();
        changes(&fixed, old, path, &mut changed);
        let words = format!(
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\nchanged: {}",
            changed.join(", ")
        );
        errors.push(FieldError::forbidden(path, words));
    }
}

/// Puts the old value of a field back.
fn restore(new: &mut Value, old: &Value, name: &str) {
    let Value::Object(new) = new else { return };
    match old.get(name) {
        Some(value) => drop(new.insert(name.to_string(), value.clone())),
        None => drop(new.remove(name)),
    }
}

fn deadline(new: &Value, old: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("activeDeadlineSeconds");
    let words = match (int(new, "activeDeadlineSeconds"), int(old, "activeDeadlineSeconds")) {
        (Some(new), Some(old)) if new > old => "must be less than or equal to previous value",
        (None, Some(_)) => "must not update from a positive integer to nil value",
        _ => return,
    };
    let shown = new.get("activeDeadlineSeconds").cloned().unwrap_or(Value::Null);
    errors.push(FieldError::invalid(&path, shown, words));
}

fn added_tolerations(new: &Value, old: &Value, path: &Path<'_>, errors: &mut Errors) {
    let timeless = |toleration: &Value| {
        let mut toleration = toleration.clone();
        restore(&mut toleration, &Value::Null, "tolerationSeconds");
        toleration.to_string()
    };
    let after: BTreeSet<String> = list(new, "tolerations").iter().map(timeless).collect();
    if !list(old, "tolerations").iter().map(timeless).all(|old| after.contains(&old)) {
        let words = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden(&path.child("tolerations"), words));
    }
}

fn removes_gates(new: &Value, old: &Value) -> bool {
    let before = list(old, "schedulingGates");
    list(new, "schedulingGates").iter().all(|gate| before.contains(gate))
}

/// The paths at which two values differ.
fn changes(new: &Value, old: &Value, path: &Path<'_>, found: &mut Vec<String>) {
    if new == old || found.len() >= MAX_CHANGES_SHOWN {
        return;
    }
    match (new, old) {
        (Value::Object(after), Value::Object(before)) => {
            let names: BTreeSet<&String> = after.keys().chain(before.keys()).collect();
            let none = Value::Null;
            for name in names {
                let (new, old) = (after.get(name).unwrap_or(&none), before.get(name).unwrap_or(&none));
                changes(new, old, &path.child(name), found);
            }
        }
        (Value::Array(after), Value::Array(before)) if after.len() == before.len() => {
            for (index, (new, old)) in after.iter().zip(before).enumerate() {
                changes(new, old, &path.index(index), found);
            }
        }
        _ => found.push(path.to_string()),
    }
}

/// `status.qosClass` of a pod: `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(pod: &Value) -> &'static str {
    let spec = &pod["spec"];
    let (mut any, mut guaranteed) = (false, true);
    for container in list(spec, "containers").iter().chain(list(spec, "initContainers")) {
        let empty = json!({});
        let resources = container.get("resources").unwrap_or(&empty);
        let amount = |kind: &str, resource: &str| {
            let quantity = resources.get(kind).and_then(|all| all.get(resource));
            quantity.and_then(|q| Quantity::from_value(q).ok()).filter(|q| !q.is_zero())
        };
        for resource in ["cpu", "memory"] {
            let (request, limit) = (amount("requests", resource), amount("limits", resource));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.or(limit) == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Whether a pod runs in the host's network.
pub(super) fn host_network(spec: &Value) -> bool {
    flag(spec, "hostNetwork")
}
