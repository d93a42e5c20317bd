//! Volumes, claims and classes.

use serde_json::Value;

use super::{Errors, list, map, names, text};
use crate::api::field::{FieldError, Path};
use crate::api::quantity::Quantity;
use crate::api::table::{Type, schema};

/// The sources of a volume: what is inlined in its spec.
fn sources(spec: &Value) -> Vec<String> {
    let id = schema().named_type("core/v1", "PersistentVolumeSource").expect("the table has volumes");
    let fields = spec.as_object().into_iter().flatten();
    let known = |name: &str| id.field(name).is_some_and(|f| matches!(f.ty(), Type::Struct(_)));
    fields.filter(|(name, _)| known(name)).map(|(name, _)| name.clone()).collect()
}

pub(super) fn volume(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("spec");
    let none = Value::Null;
    let spec = new.get("spec").unwrap_or(&none);
    if list(spec, "accessModes").is_empty() {
        errors.push(FieldError::required(&path.child("accessModes"), ""));
    }
    match map(spec, "capacity").and_then(|c| c.get("storage")) {
        None => errors.push(FieldError::required(&path.child("capacity"), "")),
        Some(size) => positive(size, &path.child("capacity").key("storage"), errors),
    }
    let given = sources(spec);
    match given.as_slice() {
        [] => errors.push(FieldError::required(&path, "must specify a volume type")),
        [_] => {}
        [_, more @ ..] => {
            for name in more {
                let words = "may not specify more than 1 volume type";
                errors.push(FieldError::forbidden(&path.child(name), words));
            }
        }
    }
    class_name(spec, &path, errors);
    if let Some(old) = old.and_then(|o| o.get("spec")) {
        let changed = sources(old).into_iter().chain(given).any(|name| spec.get(&name) != old.get(&name));
        if changed {
            let words = "spec.persistentvolumesource is immutable after creation";
            errors.push(FieldError::forbidden(&path.child("persistentvolumesource"), words));
        }
        errors.immutable(spec.get("volumeMode"), old.get("volumeMode"), &path.child("volumeMode"));
    }
}

fn positive(size: &Value, path: &Path<'_>, errors: &mut Errors) {
    if Quantity::from_value(size).is_ok_and(|q| q.is_negative() || q.is_zero()) {
        errors.push(FieldError::invalid(path, size.clone(), "must be greater than zero"));
    }
}

fn class_name(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        errors.invalid_all(&path.child("storageClassName"), class, names::dns1123_subdomain(class));
    }
}

/// Checks a claim's spec: also what a StatefulSet's templates hold.
fn claim_spec(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    if list(spec, "accessModes").is_empty() {
        errors.push(FieldError::required(&path.child("accessModes"), "at least 1 access mode is required"));
    }
    let path_requests = path.child("resources");
    match spec.get("resources").and_then(|r| map(r, "requests")).and_then(|r| r.get("storage")) {
        None => errors.push(FieldError::required(&path_requests.key("storage"), "")),
        Some(size) => positive(size, &path_requests.key("storage"), errors),
    }
    class_name(spec, path, errors);
}

pub(super) fn claim(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("spec");
    let none = Value::Null;
    let spec = new.get("spec").unwrap_or(&none);
    claim_spec(spec, &path, errors);
    let Some(old) = old.and_then(|o| o.get("spec")) else { return };
    // Bound once, classed once, and grown: nothing else changes.
    let fixed = |spec: &Value| {
        let mut spec = spec.clone();
        if let Some(fields) = spec.as_object_mut() {
            fields.remove("resources");
            fields.remove("volumeAttributesClassName");
            if text(old, "volumeName").is_empty() {
                fields.remove("volumeName");
            }
            if old.get("storageClassName").is_none() {
                fields.remove("storageClassName");
            }
        }
        spec
    };
    if fixed(spec) != fixed(old) {
        let words =
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.push(FieldError::forbidden(&path, words));
    }
    let size = |spec: &Value| {
        spec.pointer("/resources/requests/storage").and_then(|s| Quantity::from_value(s).ok()).map(Quantity::nanos)
    };
    if size(spec) < size(old) {
        let path = path.child("resources");
        let words = "field can not be less than previous value";
        errors.push(FieldError::forbidden(&path.child("requests").child("storage"), words));
    }
}

pub(super) fn class(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let provisioner = text(new, "provisioner");
    match provisioner.is_empty() {
        true => errors.push(FieldError::required(&root.child("provisioner"), "")),
        false => {
            errors.invalid_all(&root.child("provisioner"), provisioner, names::qualified(&provisioner.to_lowercase()));
        }
    }
    let Some(old) = old else { return };
    for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
        let path = root.child(field);
        if new.get(field) != old.get(field) {
            let words = "updates to this field are forbidden.";
            errors.push(FieldError::forbidden(&path, words));
        }
    }
}

pub(super) fn attachment(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("spec");
    let none = Value::Null;
    let spec = new.get("spec").unwrap_or(&none);
    for field in ["attacher", "nodeName"] {
        if text(spec, field).is_empty() {
            errors.push(FieldError::required(&path.child(field), ""));
        }
    }
    if let Some(old) = old {
        errors.immutable(new.get("spec"), old.get("spec"), &path);
    }
}
