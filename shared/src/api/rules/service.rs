//! Services.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::{Errors, container, int, list, map, meta, names, text};
use crate::api::field::{FieldError, Path};

const BAD_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

pub(super) fn validate(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("spec");
    let empty = json!({});
    let spec = new.get("spec").unwrap_or(&empty);
    ports(spec, &path, errors);
    if let Some(selector) = map(spec, "selector") {
        meta::labels(selector, &path.child("selector"), errors);
    }
    addresses(spec, &path, errors);
    if text(spec, "type") == "ExternalName" {
        external_name(spec, &path, errors);
    }
    affinity(spec, &path, errors);
    if let Some(old) = old.and_then(|o| o.get("spec")) {
        update(spec, old, &path, errors);
    }
}

fn ports(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (all, path) = (list(spec, "ports"), path.child("ports"));
    let (kind, headless) = (text(spec, "type"), text(spec, "clusterIP") == "None");
    if all.is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required(&path, ""));
    }
    let (mut taken, mut pairs, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (index, port) in all.iter().enumerate() {
        let path = path.index(index);
        let (name, protocol) = (text(port, "name"), text(port, "protocol"));
        if name.is_empty() && all.len() > 1 {
            errors.push(FieldError::required(&path.child("name"), ""));
        } else if !name.is_empty() {
            errors.invalid_all(&path.child("name"), name, names::dns1123_label(name));
            if !taken.insert(name) {
                errors.push(FieldError::duplicate(&path.child("name"), name));
            }
        }
        let number = int(port, "port").unwrap_or(0);
        for words in names::port_number(number) {
            errors.push(FieldError::invalid(&path.child("port"), number, words));
        }
        if port.get("targetPort").is_some() {
            container::port_reference(port.get("targetPort"), &path.child("targetPort"), errors);
        }
        let application = text(port, "appProtocol");
        if !application.is_empty() {
            errors.invalid_all(&path.child("appProtocol"), application, names::qualified(application));
        }
        if !pairs.insert((protocol, number)) {
            errors.push(FieldError::duplicate(&path, json!({"port": number, "protocol": protocol})));
        }
        let Some(node_port) = int(port, "nodePort").filter(|p| *p != 0) else { continue };
        let path = path.child("nodePort");
        if kind == "ClusterIP" {
            errors.push(FieldError::forbidden(&path, "may not be used when `type` is 'ClusterIP'"));
        }
        if !node_ports.insert((protocol, node_port)) {
            errors.push(FieldError::duplicate(&path, node_port));
        }
    }
}

fn addresses(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (ip, all, kind) = (text(spec, "clusterIP"), list(spec, "clusterIPs"), text(spec, "type"));
    let path_ips = path.child("clusterIPs");
    let first = path_ips.index(0);
    if kind == "ExternalName" {
        if !ip.is_empty() || !all.is_empty() {
            errors.push(FieldError::forbidden(&path_ips, "may not be set for ExternalName services"));
        }
    } else if ip == "None" && kind != "ClusterIP" {
        let words = format!("may not be set to 'None' for {kind} services");
        errors.push(FieldError::invalid(&first, "None", words));
    } else if !ip.is_empty() && ip != "None" && ip.parse::<IpAddr>().is_err() {
        errors.push(FieldError::invalid(&first, ip, BAD_IP));
    }
    if let Some(given) = all.first().and_then(Value::as_str)
        && !ip.is_empty()
        && given != ip
    {
        errors.push(FieldError::invalid(&path_ips, all.to_vec(), "first value must match `clusterIP`"));
    }
    for (index, ip) in list(spec, "externalIPs").iter().filter_map(Value::as_str).enumerate() {
        if ip.parse::<IpAddr>().is_err() {
            errors.push(FieldError::invalid(&path.child("externalIPs").index(index), ip, BAD_IP));
        }
    }
    if !list(spec, "loadBalancerSourceRanges").is_empty() && kind != "LoadBalancer" {
        let words = "may only be used when `type` is 'LoadBalancer'";
        errors.push(FieldError::forbidden(&path.child("loadBalancerSourceRanges"), words));
    }
}

fn external_name(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (name, path) = (text(spec, "externalName"), path.child("externalName"));
    match name.is_empty() {
        true => errors.push(FieldError::required(&path, "")),
        false => {
            let plain = name.strip_suffix('.').unwrap_or(name);
            errors.invalid_all(&path, name, names::dns1123_subdomain(plain));
        }
    }
}

/// The longest that a client may stick to a backend: a day.
const MAX_AFFINITY_SECONDS: i64 = 86_400;

fn affinity(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let timeout = spec.pointer("/sessionAffinityConfig/clientIP/timeoutSeconds").and_then(Value::as_i64);
    if let Some(seconds) = timeout
        && !(1..=MAX_AFFINITY_SECONDS).contains(&seconds)
    {
        let (config, client) = (path.child("sessionAffinityConfig"), "clientIP");
        let words = format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}");
        let client = config.child(client);
        errors.push(FieldError::invalid(&client.child("timeoutSeconds"), seconds, words));
    }
}

/// An address stays with its service until it has none.
fn update(new: &Value, old: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (after, before) = (text(new, "clusterIP"), text(old, "clusterIP"));
    let released = text(new, "type") == "ExternalName" || text(old, "type") == "ExternalName";
    if !before.is_empty() && !released && after != before {
        let ips = path.child("clusterIPs");
        let shown = if after.is_empty() { json!([]) } else { json!([after]) };
        errors.push(FieldError::invalid(&ips.index(0), shown, "may not change once set"));
    }
}
