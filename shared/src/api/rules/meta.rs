//! ObjectMeta, and the one rule of events.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{Errors, flag, int, list, map, names, text};
use crate::api::field::{FieldError, Path};

/// Bytes of all annotations of an object, keys and values, as upstream allows.
const ANNOTATIONS_MAX: usize = 256 << 10;

pub(super) fn validate(object: &Value, namespaced: bool, shape: fn(&str) -> Vec<String>, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("metadata");
    let meta = object.get("metadata").unwrap_or(&Value::Null);
    let (name, generate) = (text(meta, "name"), text(meta, "generateName"));
    if !generate.is_empty() {
        // Only a prefix: what follows makes a trailing dash or dot good.
        let prefix = format!("{}a", generate.trim_end_matches('-'));
        errors.invalid_all(&path.child("generateName"), generate, shape(&prefix));
    }
    match name.is_empty() {
        true => errors.push(FieldError::required(&path.child("name"), "name or generateName is required")),
        false => errors.invalid_all(&path.child("name"), name, shape(name)),
    }
    namespace(meta, namespaced, &path, errors);
    errors.not_negative(meta, "generation", &path);
    if let Some(all) = map(meta, "labels") {
        labels(all, &path.child("labels"), errors);
    }
    annotations(meta, &path, errors);
    owners(meta, &path, errors);
    finalizers(meta, &path, errors);
}

fn namespace(meta: &Value, namespaced: bool, path: &Path<'_>, errors: &mut Errors) {
    let (namespace, path) = (text(meta, "namespace"), path.child("namespace"));
    match (namespaced, namespace.is_empty()) {
        (true, true) => errors.push(FieldError::required(&path, "")),
        (true, false) => errors.invalid_all(&path, namespace, names::dns1123_label(namespace)),
        (false, false) => errors.push(FieldError::forbidden(&path, "not allowed on this type")),
        (false, true) => {}
    }
}

/// Keys and values of labels, of a selector's `matchLabels` and of node selectors.
pub(super) fn labels(labels: &Map<String, Value>, path: &Path<'_>, errors: &mut Errors) {
    for (key, value) in labels {
        errors.invalid_all(path, key, names::qualified(key));
        let value = value.as_str().unwrap_or_default();
        errors.invalid_all(path, value, names::label_value(value));
    }
}

fn annotations(meta: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("annotations");
    let mut size = 0;
    for (key, value) in map(meta, "annotations").into_iter().flatten() {
        errors.invalid_all(&path, key, names::qualified(&key.to_lowercase()));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_MAX {
        errors.push(FieldError::too_long(&path, ANNOTATIONS_MAX));
    }
}

fn owners(meta: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("ownerReferences");
    let mut controller: Option<String> = None;
    for owner in list(meta, "ownerReferences") {
        for (name, words) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if text(owner, name).is_empty() {
                errors.push(FieldError::invalid(&path.child(name), "", words));
            }
        }
        if flag(owner, "controller") {
            let this = format!("{}/{}", text(owner, "kind"), text(owner, "name"));
            match &controller {
                None => controller = Some(this),
                Some(first) => {
                    errors.push(FieldError::invalid(
                    &path,
                    meta["ownerReferences"].clone(),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    ),
                ));
                    // One says it.
                    return;
                }
            }
        }
    }
}

/// Finalizers that are not qualified by a domain.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

fn finalizers(meta: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("finalizers");
    let all: Vec<&str> = list(meta, "finalizers").iter().filter_map(Value::as_str).collect();
    for (index, name) in all.iter().enumerate() {
        errors.invalid_all(&path, name, names::qualified(name));
        if !name.contains('/') && !STANDARD_FINALIZERS.contains(name) {
            let words = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(&path.index(index), *name, words));
        }
    }
    if all.contains(&"orphan") && all.contains(&"foregroundDeletion") {
        let words = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(&path, meta["finalizers"].clone(), words));
    }
}

/// What an update may not change in any object.
pub(super) fn update(new: &Value, old: &Value, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("metadata");
    let none = Value::Null;
    let (new, old) = (new.get("metadata").unwrap_or(&none), old.get("metadata").unwrap_or(&none));
    if !text(old, "deletionTimestamp").is_empty() {
        let before: BTreeSet<&str> = list(old, "finalizers").iter().filter_map(Value::as_str).collect();
        let after: BTreeSet<&str> = list(new, "finalizers").iter().filter_map(Value::as_str).collect();
        let added: Vec<String> = after.difference(&before).map(|name| format!("{name:?}")).collect();
        if !added.is_empty() {
            let words = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.join(", ")
            );
            errors.push(FieldError::forbidden(&path.child("finalizers"), words));
        }
    }
    let generation = |meta| int(meta, "generation").unwrap_or(0);
    if generation(new) < generation(old) {
        let words = "must not be decremented";
        errors.push(FieldError::invalid(&path.child("generation"), generation(new), words));
    }
    for name in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        errors.immutable(new.get(name), old.get(name), &path.child(name));
    }
}

/// An event is stored where the thing it is about is; cluster-scoped things have theirs in `default`.
pub(super) fn event(new: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("involvedObject");
    let about = text(&new["involvedObject"], "namespace");
    let home = text(&new["metadata"], "namespace");
    let fits = if about.is_empty() { home == "default" || home == "kube-system" } else { about == home };
    if !fits {
        let words = "does not match event.namespace";
        errors.push(FieldError::invalid(&path.child("namespace"), about, words));
    }
}
