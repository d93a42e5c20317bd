//! Security contexts.

use serde_json::Value;

use super::{Errors, flag, int, list, names, text};
use crate::api::field::{FieldError, Path};

/// Users and groups are what a kernel's signed id holds.
const ID_MAX: i64 = i32::MAX as i64;

fn ids(context: &Value, fields: &[&str], path: &Path<'_>, errors: &mut Errors) {
    for name in fields {
        if let Some(id) = int(context, name) {
            for words in names::in_range(id, 0, ID_MAX) {
                errors.push(FieldError::invalid(&path.child(name), id, words));
            }
        }
    }
}

fn seccomp(context: &Value, path: &Path<'_>, errors: &mut Errors) {
    let Some(profile) = context.get("seccompProfile") else { return };
    let path = path.child("seccompProfile");
    let path = path.child("localhostProfile");
    let local = text(profile, "localhostProfile");
    match text(profile, "type") {
        "Localhost" if local.is_empty() => {
            errors.push(FieldError::required(&path, "must be set when seccomp type is Localhost"));
        }
        "Localhost" => {}
        _ if !local.is_empty() => {
            errors.push(FieldError::invalid(&path, local, "can only be set when seccomp type is Localhost"));
        }
        _ => {}
    }
}

/// A pod's.
pub(super) fn pod(context: &Value, path: &Path<'_>, errors: &mut Errors) {
    ids(context, &["runAsUser", "runAsGroup", "fsGroup"], path, errors);
    seccomp(context, path, errors);
    let groups = path.child("supplementalGroups");
    for (index, group) in list(context, "supplementalGroups").iter().filter_map(Value::as_i64).enumerate() {
        for words in names::in_range(group, 0, ID_MAX) {
            errors.push(FieldError::invalid(&groups.index(index), group, words));
        }
    }
}

/// A container's.
pub(super) fn container(context: &Value, path: &Path<'_>, errors: &mut Errors) {
    ids(context, &["runAsUser", "runAsGroup"], path, errors);
    seccomp(context, path, errors);
    if context.get("allowPrivilegeEscalation") == Some(&Value::Bool(false)) {
        if flag(context, "privileged") {
            let words = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(FieldError::invalid(path, context.clone(), words));
        }
        let added = context.get("capabilities").map_or(&[][..], |c| list(c, "add"));
        if added.iter().any(|c| c.as_str() == Some("CAP_SYS_ADMIN")) {
            let words = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(FieldError::invalid(path, context.clone(), words));
        }
    }
}
