//! Ingresses, their classes, and network policies.

use std::net::IpAddr;

use serde_json::Value;

use super::{Errors, container, int, list, names, selector, text};
use crate::api::field::{FieldError, Path};

pub(super) fn ingress(new: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("spec");
    let none = Value::Null;
    let spec = new.get("spec").unwrap_or(&none);
    let class = text(spec, "ingressClassName");
    if !class.is_empty() {
        errors.invalid_all(&path.child("ingressClassName"), class, names::dns1123_subdomain(class));
    }
    match spec.get("defaultBackend") {
        Some(given) => backend(given, &path.child("defaultBackend"), errors),
        None if list(spec, "rules").is_empty() => {
            errors.push(FieldError::invalid(
                &path,
                spec.clone(),
                "either `defaultBackend` or `rules` must be specified",
            ));
        }
        None => {}
    }
    for (index, tls) in list(spec, "tls").iter().enumerate() {
        for (at, host) in list(tls, "hosts").iter().filter_map(Value::as_str).enumerate() {
            let all = path.child("tls");
            host_name(host, &all.index(index).child("hosts").index(at), errors);
        }
    }
    let path = path.child("rules");
    for (index, rule) in list(spec, "rules").iter().enumerate() {
        let path = path.index(index);
        let host = text(rule, "host");
        if !host.is_empty() {
            if host.parse::<IpAddr>().is_ok() {
                errors.push(FieldError::invalid(&path.child("host"), host, "must be a DNS name, not an IP address"));
            }
            host_name(host, &path.child("host"), errors);
        }
        let Some(http) = rule.get("http") else { continue };
        paths(list(http, "paths"), &path.child("http").child("paths"), errors);
    }
}

fn host_name(host: &str, path: &Path<'_>, errors: &mut Errors) {
    errors.invalid_all(path, host, names::dns1123_subdomain(host.strip_prefix("*.").unwrap_or(host)));
}

fn paths(all: &[Value], path: &Path<'_>, errors: &mut Errors) {
    if all.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    for (index, one) in all.iter().enumerate() {
        let path = path.index(index);
        let (given, kind) = (text(one, "path"), text(one, "pathType"));
        match kind {
            "" => errors.push(FieldError::required(&path.child("pathType"), "pathType must be specified")),
            "Exact" | "Prefix" | "ImplementationSpecific" => {}
            other => {
                let known = ["Exact", "ImplementationSpecific", "Prefix"];
                errors.push(FieldError::not_supported(&path.child("pathType"), other, known));
            }
        }
        let needed = matches!(kind, "Exact" | "Prefix") || !given.is_empty();
        if needed && !given.starts_with('/') {
            errors.push(FieldError::invalid(&path.child("path"), given, "must be an absolute path"));
        }
        if matches!(kind, "Exact" | "Prefix") {
            for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                if given.contains(bad) {
                    errors.push(FieldError::invalid(&path.child("path"), given, format!("must not contain '{bad}'")));
                }
            }
        }
        let none = Value::Null;
        backend(one.get("backend").unwrap_or(&none), &path.child("backend"), errors);
    }
}

fn backend(given: &Value, path: &Path<'_>, errors: &mut Errors) {
    match (given.get("service"), given.get("resource")) {
        (Some(_), Some(_)) => {
            errors.push(FieldError::invalid(path, "", "cannot set both resource and service backends"));
        }
        (None, None) => errors.push(FieldError::required(path, "resource or service backend is required")),
        (None, Some(_)) => {}
        (Some(service), None) => {
            let path = path.child("service");
            match text(service, "name") {
                "" => errors.push(FieldError::required(&path.child("name"), "")),
                name => errors.invalid_all(&path.child("name"), name, names::dns1035_label(name)),
            }
            let none = Value::Null;
            let port = service.get("port").unwrap_or(&none);
            let path = path.child("port");
            match (text(port, "name"), int(port, "number").unwrap_or(0)) {
                ("", 0) => errors.push(FieldError::required(&path, "port name or number is required")),
                ("", number) => {
                    for words in names::port_number(number) {
                        errors.push(FieldError::invalid(&path.child("number"), number, words));
                    }
                }
                (name, 0) => errors.invalid_all(&path.child("name"), name, names::port_name(name)),
                _ => errors.push(FieldError::invalid(&path, "", "cannot set both port name & port number")),
            }
        }
    }
}

pub(super) fn class(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("spec");
    let controller = |class: &Value| class.get("spec").and_then(|s| s.get("controller")).cloned();
    match controller(new).as_ref().and_then(Value::as_str).unwrap_or_default() {
        "" => errors.push(FieldError::required(&path.child("controller"), "")),
        name if !name.contains('/') => {
            let words = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.push(FieldError::invalid(&path.child("controller"), name, words));
        }
        _ => {}
    }
    if let Some(old) = old {
        errors.immutable(controller(new).as_ref(), controller(old).as_ref(), &path.child("controller"));
    }
}

pub(super) fn policy(new: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("spec");
    let none = Value::Null;
    let spec = new.get("spec").unwrap_or(&none);
    if let Some(chosen) = spec.get("podSelector") {
        selector::validate(chosen, &path.child("podSelector"), errors);
    }
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let path = path.child(direction);
        for (index, rule) in list(spec, direction).iter().enumerate() {
            let path = path.index(index);
            ports(list(rule, "ports"), &path.child("ports"), errors);
            let path = path.child(peers);
            for (at, given) in list(rule, peers).iter().enumerate() {
                peer(given, &path.index(at), errors);
            }
        }
    }
}

fn ports(all: &[Value], path: &Path<'_>, errors: &mut Errors) {
    for (index, port) in all.iter().enumerate() {
        let path = path.index(index);
        if port.get("port").is_some() {
            container::port_reference(port.get("port"), &path.child("port"), errors);
        }
        let Some(end) = int(port, "endPort") else { continue };
        let path = path.child("endPort");
        match port.get("port").and_then(Value::as_i64) {
            None => errors.push(FieldError::required(&path, "may not be specified when `port` is not a number")),
            Some(start) if end < start => {
                errors.push(FieldError::invalid(&path, end, "must be greater than or equal to `port`"));
            }
            Some(_) => {
                for words in names::port_number(end) {
                    errors.push(FieldError::invalid(&path, end, words));
                }
            }
        }
    }
}

fn peer(peer: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (pods, namespaces, block) = (peer.get("podSelector"), peer.get("namespaceSelector"), peer.get("ipBlock"));
    if pods.is_none() && namespaces.is_none() && block.is_none() {
        errors.push(FieldError::required(path, "must specify a peer"));
    }
    for (name, chosen) in [("podSelector", pods), ("namespaceSelector", namespaces)] {
        if let Some(chosen) = chosen {
            selector::validate(chosen, &path.child(name), errors);
        }
    }
    let Some(block) = block else { return };
    if pods.is_some() || namespaces.is_some() {
        let words = "may not specify both ipBlock and another peer";
        errors.push(FieldError::forbidden(path, words));
    }
    let path = path.child("ipBlock");
    let whole = cidr(text(block, "cidr"));
    if whole.is_none() {
        let words = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        errors.push(FieldError::invalid(&path.child("cidr"), text(block, "cidr"), words));
    }
    let path = path.child("except");
    for (index, except) in list(block, "except").iter().filter_map(Value::as_str).enumerate() {
        let within = match (cidr(except), whole) {
            (Some(part), Some(whole)) => part.1 > whole.1 && masked(part.0, whole.1) == masked(whole.0, whole.1),
            (part, _) => part.is_some(),
        };
        if !within {
            let words = "must be a strict subset of `cidr`";
            errors.push(FieldError::invalid(&path.index(index), except, words));
        }
    }
}

/// An address and the length of its prefix.
pub(super) fn cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let prefix: u8 = prefix.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    (prefix <= most).then_some((address, prefix))
}

fn masked(address: IpAddr, prefix: u8) -> u128 {
    let (bits, width) = match address {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)), 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    };
    bits.checked_shr(width - u32::from(prefix)).unwrap_or(0)
}

pub(super) fn service_cidr(new: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let within = root.child("spec");
    let path = within.child("cidrs");
    let ranges = new.get("spec").map(|s| list(s, "cidrs")).unwrap_or_default();
    if ranges.is_empty() {
        errors.push(FieldError::required(&path, "at least one CIDR required"));
    }
    for (index, range) in ranges.iter().filter_map(Value::as_str).enumerate() {
        if cidr(range).is_none() {
            errors.push(FieldError::invalid(&path.index(index), range, "must be a valid CIDR value"));
        }
    }
}
