//! Webhook configurations.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Errors, int, list, names, selector, text};
use crate::api::field::{FieldError, Path};

pub(super) fn configuration(new: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("webhooks");
    let mut taken = BTreeSet::new();
    for (index, hook) in list(new, "webhooks").iter().enumerate() {
        let path = path.index(index);
        let name = text(hook, "name");
        if name.split('.').filter(|part| !part.is_empty()).count() < 3 {
            let words = "should be a domain with at least three segments separated by dots";
            errors.push(FieldError::invalid(&path.child("name"), name, words));
        } else {
            errors.invalid_all(&path.child("name"), name, names::dns1123_subdomain(name));
        }
        if !taken.insert(name) {
            errors.push(FieldError::duplicate(&path.child("name"), name));
        }
        one(hook, &path, errors);
    }
}

fn one(hook: &Value, path: &Path<'_>, errors: &mut Errors) {
    let none = Value::Null;
    match text(hook, "sideEffects") {
        "None" | "NoneOnDryRun" => {}
        "" => {
            let words = "must specify one of None, NoneOnDryRun";
            errors.push(FieldError::required(&path.child("sideEffects"), words));
        }
        other => {
            errors.push(FieldError::not_supported(&path.child("sideEffects"), other, ["None", "NoneOnDryRun"]));
        }
    }
    let versions = list(hook, "admissionReviewVersions");
    if !versions.iter().any(|v| v == "v1") {
        let shown = hook.get("admissionReviewVersions").cloned().unwrap_or_default();
        let words = "must include at least one of v1";
        errors.push(match versions.is_empty() {
            true => FieldError::required(&path.child("admissionReviewVersions"), "must specify one of v1"),
            false => FieldError::invalid(&path.child("admissionReviewVersions"), shown, words),
        });
    }
    if let Some(seconds) = int(hook, "timeoutSeconds")
        && !(1..=30).contains(&seconds)
    {
        let words = "the timeout value must be between 1 and 30 seconds";
        errors.push(FieldError::invalid(&path.child("timeoutSeconds"), seconds, words));
    }
    for field in ["namespaceSelector", "objectSelector"] {
        if let Some(chosen) = hook.get(field) {
            selector::validate(chosen, &path.child(field), errors);
        }
    }
    let client = hook.get("clientConfig").unwrap_or(&none);
    match (client.get("url"), client.get("service")) {
        (Some(url), None) if !url.as_str().is_some_and(|url| url.starts_with("https://")) => {
            let path = path.child("clientConfig");
            errors.push(FieldError::invalid(&path.child("url"), url.clone(), "'https' is the only allowed URL scheme"));
        }
        (Some(_), None) | (None, Some(_)) => {}
        _ => {
            let words = "exactly one of url or service is required";
            errors.push(FieldError::required(&path.child("clientConfig"), words));
        }
    }
    let path = path.child("rules");
    for (index, rule) in list(hook, "rules").iter().enumerate() {
        for field in ["operations", "apiGroups", "apiVersions", "resources"] {
            if list(rule, field).is_empty() {
                errors.push(FieldError::required(&path.index(index).child(field), ""));
            }
        }
    }
}
