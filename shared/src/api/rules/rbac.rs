//! Roles, bindings, and requests for certificates.

use base64::Engine as _;
use serde_json::Value;

use super::{Errors, list, names, text};
use crate::api::field::{FieldError, Path};

pub(super) fn role(new: &Value, _old: Option<&Value>, errors: &mut Errors) {
    rules(new, true, errors);
}

pub(super) fn cluster_role(new: &Value, _old: Option<&Value>, errors: &mut Errors) {
    rules(new, false, errors);
}

fn rules(role: &Value, namespaced: bool, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("rules");
    for (index, rule) in list(role, "rules").iter().enumerate() {
        let path = path.index(index);
        if list(rule, "verbs").is_empty() {
            errors.push(FieldError::required(&path.child("verbs"), "verbs must contain at least one value"));
        }
        if !list(rule, "nonResourceURLs").is_empty() {
            let within = path.child("nonResourceURLs");
            if namespaced {
                let shown = rule["nonResourceURLs"].clone();
                let words = "namespaced rules cannot apply to non-resource URLs";
                errors.push(FieldError::invalid(&within, shown, words));
            }
            if !list(rule, "resources").is_empty() || !list(rule, "apiGroups").is_empty() {
                let shown = rule["nonResourceURLs"].clone();
                let words = "rules cannot apply to both regular resources and non-resource URLs";
                errors.push(FieldError::invalid(&within, shown, words));
            }
            continue;
        }
        if list(rule, "apiGroups").is_empty() {
            let words = "resource rules must supply at least one api group";
            errors.push(FieldError::required(&path.child("apiGroups"), words));
        }
        if list(rule, "resources").is_empty() {
            let words = "resource rules must supply at least one resource";
            errors.push(FieldError::required(&path.child("resources"), words));
        }
    }
}

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn binding(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    bound(new, old, &["ClusterRole", "Role"], errors);
}

pub(super) fn cluster_binding(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    bound(new, old, &["ClusterRole"], errors);
}

fn bound(new: &Value, old: Option<&Value>, kinds: &[&str], errors: &mut Errors) {
    let root = Path::ROOT;
    let none = Value::Null;
    let (role, path) = (new.get("roleRef").unwrap_or(&none), root.child("roleRef"));
    if text(role, "apiGroup") != GROUP {
        errors.push(FieldError::not_supported(&path.child("apiGroup"), text(role, "apiGroup"), [GROUP]));
    }
    if !kinds.contains(&text(role, "kind")) {
        errors.push(FieldError::not_supported(&path.child("kind"), text(role, "kind"), kinds.iter().copied()));
    }
    match text(role, "name") {
        "" => errors.push(FieldError::required(&path.child("name"), "")),
        name => errors.invalid_all(&path.child("name"), name, names::path_segment(name)),
    }
    if let Some(old) = old
        && old.get("roleRef") != new.get("roleRef")
    {
        errors.push(FieldError::invalid(&path, role.clone(), "cannot change roleRef"));
    }
    let path = root.child("subjects");
    for (index, one) in list(new, "subjects").iter().enumerate() {
        subject(one, kinds.len() == 1, &path.index(index), errors);
    }
}

fn subject(subject: &Value, cluster: bool, path: &Path<'_>, errors: &mut Errors) {
    let (name, group) = (text(subject, "name"), text(subject, "apiGroup"));
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    let expected = match text(subject, "kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.invalid_all(&path.child("name"), name, names::dns1123_subdomain(name));
            }
            if cluster && text(subject, "namespace").is_empty() {
                errors.push(FieldError::required(&path.child("namespace"), ""));
            }
            ""
        }
        "User" | "Group" => GROUP,
        other => {
            let known = ["Group", "ServiceAccount", "User"];
            return errors.push(FieldError::not_supported(&path.child("kind"), other, known));
        }
    };
    if group != expected {
        errors.push(FieldError::not_supported(&path.child("apiGroup"), group, [expected]));
    }
}

/// The shortest life that may be asked for, in seconds.
const SHORTEST: i64 = 600;

pub(super) fn request(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("spec");
    let none = Value::Null;
    let spec = new.get("spec").unwrap_or(&none);
    let decoded = base64::engine::general_purpose::STANDARD.decode(text(spec, "request")).unwrap_or_default();
    let pem = String::from_utf8_lossy(&decoded);
    if !pem.contains("-----BEGIN CERTIFICATE REQUEST-----") || !pem.contains("-----END CERTIFICATE REQUEST-----") {
        let words = "PEM block type must be CERTIFICATE REQUEST";
        errors.push(FieldError::invalid(&path.child("request"), "", words));
    }
    match text(spec, "signerName") {
        "" => errors.push(FieldError::required(&path.child("signerName"), "")),
        name if !name.split_once('/').is_some_and(|(domain, rest)| domain.contains('.') && !rest.is_empty()) => {
            let words = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
            errors.push(FieldError::invalid(&path.child("signerName"), name, words));
        }
        _ => {}
    }
    if list(spec, "usages").is_empty() {
        errors.push(FieldError::required(&path.child("usages"), "usages must be provided"));
    }
    if let Some(seconds) = super::int(spec, "expirationSeconds")
        && seconds < SHORTEST
    {
        let words = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(FieldError::invalid(&path.child("expirationSeconds"), seconds, words));
    }
    if let Some(old) = old {
        errors.immutable(new.get("spec"), old.get("spec"), &path);
    }
}

/// Checks what a write to a request's conditions leaves.
pub(super) fn decision(new: &Value, old: &Value, errors: &mut Errors) {
    let root = Path::ROOT;
    let none = Value::Null;
    let (path, status) = (root.child("status"), new.get("status").unwrap_or(&none));
    let path = path.child("conditions");
    let has = |object: &Value, kind: &str| {
        let status = object.get("status").unwrap_or(&none);
        list(status, "conditions").iter().any(|c| text(c, "type") == kind)
    };
    if has(new, "Approved") && has(new, "Denied") {
        let words = "Approved and Denied conditions are mutually exclusive";
        errors.push(FieldError::invalid(&path, "", words));
    }
    for kind in ["Approved", "Denied", "Failed"] {
        if has(old, kind) && !has(new, kind) {
            let words = format!("updates may not remove a condition of type {kind:?}");
            errors.push(FieldError::forbidden(&path, words));
        }
    }
    for (index, condition) in list(status, "conditions").iter().enumerate() {
        let path = path.index(index);
        if text(condition, "type").is_empty() {
            errors.push(FieldError::required(&path.child("type"), ""));
        }
        if matches!(text(condition, "type"), "Approved" | "Denied" | "Failed") && text(condition, "status") != "True" {
            errors.push(FieldError::not_supported(&path.child("status"), text(condition, "status"), ["True"]));
        }
    }
}
