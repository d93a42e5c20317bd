//! Volumes of a pod.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Errors, int, list, names, text};
use crate::api::field::{FieldError, Path};
use crate::api::quantity::Quantity;

/// Checks all volumes; returns their names, for the mounts.
pub(super) fn all<'v>(spec: &'v Value, path: &Path<'_>, errors: &mut Errors) -> BTreeSet<&'v str> {
    let mut found = BTreeSet::new();
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        let path = path.index(index);
        let name = text(volume, "name");
        if !name.is_empty() {
            errors.invalid_all(&path.child("name"), name, names::dns1123_label(name));
            if !found.insert(name) {
                errors.push(FieldError::duplicate(&path.child("name"), name));
            }
        }
        source(volume, &path, errors);
    }
    found
}

fn source(volume: &Value, path: &Path<'_>, errors: &mut Errors) {
    let sources = volume.as_object().into_iter().flatten().filter(|(name, _)| *name != "name");
    for (index, (kind, source)) in sources.enumerate() {
        let path = path.child(kind);
        if index > 0 {
            errors.push(FieldError::forbidden(&path, "may not specify more than 1 volume type"));
            continue;
        }
        match kind.as_str() {
            "emptyDir" => empty_dir(source, &path, errors),
            "hostPath" => host_path(source, &path, errors),
            "configMap" => {
                named(source, "name", &path, errors);
                files(source, &path, errors);
            }
            "secret" => {
                named(source, "secretName", &path, errors);
                files(source, &path, errors);
            }
            "downwardAPI" => mode(source, "defaultMode", &path, errors),
            "projected" => mode(source, "defaultMode", &path, errors),
            _ => {}
        }
    }
}

fn named(source: &Value, field: &str, path: &Path<'_>, errors: &mut Errors) {
    if text(source, field).is_empty() {
        errors.push(FieldError::required(&path.child(field), ""));
    }
}

fn empty_dir(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    let limit = source.get("sizeLimit").and_then(|q| Quantity::from_value(q).ok());
    if limit.is_some_and(Quantity::is_negative) {
        let words = "SizeLimit field must be a valid resource quantity";
        errors.push(FieldError::forbidden(&path.child("sizeLimit"), words));
    }
}

const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

fn host_path(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (target, kind) = (text(source, "path"), text(source, "type"));
    if target.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(&path.child("path"), target, "must not contain '..'"));
    }
    if !HOST_PATH_TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(&path.child("type"), kind, HOST_PATH_TYPES));
    }
}

/// Permission bits that a file may have.
const MODE_MAX: i64 = 0o777;

fn mode(source: &Value, field: &str, path: &Path<'_>, errors: &mut Errors) {
    if let Some(mode) = int(source, field)
        && !(0..=MODE_MAX).contains(&mode)
    {
        let words = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(FieldError::invalid(&path.child(field), mode, words));
    }
}

fn files(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    mode(source, "defaultMode", path, errors);
    let path = path.child("items");
    for (index, item) in list(source, "items").iter().enumerate() {
        let path = path.index(index);
        mode(item, "mode", &path, errors);
        descending(text(item, "path"), &path.child("path"), errors);
    }
}

/// A path that stays below where it starts.
pub(super) fn descending(target: &str, path: &Path<'_>, errors: &mut Errors) {
    if target.starts_with('/') {
        errors.push(FieldError::invalid(path, target, "must be a relative path"));
    }
    if target.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path, target, "must not contain '..'"));
    }
}
