//! ConfigMaps and Secrets.

use serde_json::Value;

use super::{Errors, flag, map, names, text};
use crate::api::field::{FieldError, Path};
use crate::api::validate::decode_base64;

/// Bytes of all values of a ConfigMap or Secret, as upstream allows.
const DATA_MAX: usize = 1 << 20;

/// Bytes that base64 text stands for, without decoding it.
fn decoded_size(text: &str) -> usize {
    text.len() / 4 * 3 - text.bytes().rev().take_while(|b| *b == b'=').count().min(text.len() / 4 * 3)
}

pub(super) fn config_map(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let mut size = 0;
    let binary = map(new, "binaryData");
    for name in ["data", "binaryData"] {
        let path = root.child(name);
        for (key, value) in map(new, name).into_iter().flatten() {
            let path = path.key(key);
            errors.invalid_all(&path, key, names::config_key(key));
            if name == "data" && binary.is_some_and(|b| b.contains_key(key)) {
                let words = "duplicate of key present in binaryData";
                errors.push(FieldError::invalid(&path, key.as_str(), words));
            }
            let value = value.as_str().unwrap_or_default();
            size += if name == "data" { value.len() } else { decoded_size(value) };
        }
    }
    if size > DATA_MAX {
        errors.push(FieldError::too_long(&root.child("data"), DATA_MAX));
    }
    immutable(new, old, &["data", "binaryData"], errors);
}

/// An object marked immutable stays so, with its data.
fn immutable(new: &Value, old: Option<&Value>, fields: &[&str], errors: &mut Errors) {
    let root = Path::ROOT;
    let Some(old) = old.filter(|o| flag(o, "immutable")) else { return };
    let words = "field is immutable when `immutable` is set";
    if !flag(new, "immutable") {
        errors.push(FieldError::forbidden(&root.child("immutable"), words));
    }
    for name in fields {
        if new.get(*name) != old.get(*name) {
            errors.push(FieldError::forbidden(&root.child(name), words));
        }
    }
}

pub(super) fn secret(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("data");
    let mut size = 0;
    for (key, value) in map(new, "data").into_iter().flatten() {
        errors.invalid_all(&path.key(key), key, names::config_key(key));
        size += decoded_size(value.as_str().unwrap_or_default());
    }
    if size > DATA_MAX {
        errors.push(FieldError::too_long(&path, DATA_MAX));
    }
    known_type(new, &path, errors);
    if let Some(old) = old {
        errors.immutable(new.get("type"), old.get("type"), &root.child("type"));
    }
    immutable(new, old, &["data"], errors);
}

/// What the types that the cluster itself reads must hold.
fn known_type(secret: &Value, path: &Path<'_>, errors: &mut Errors) {
    let data = map(secret, "data");
    let has = |key: &str| data.is_some_and(|d| d.contains_key(key));
    let required = |errors: &mut Errors, key: &str| errors.push(FieldError::required(&path.key(key), ""));
    match text(secret, "type") {
        "kubernetes.io/service-account-token" => {
            let account = "kubernetes.io/service-account.name";
            let annotations = secret.get("metadata").and_then(|m| map(m, "annotations"));
            if !annotations.is_some_and(|a| a.contains_key(account)) {
                let root = Path::ROOT;
                let (meta, annotations) = (root.child("metadata"), "annotations");
                errors.push(FieldError::required(&meta.child(annotations).key(account), ""));
            }
        }
        "kubernetes.io/dockercfg" => {
            registry_credentials(data.and_then(|d| d.get(".dockercfg")), ".dockercfg", path, errors)
        }
        "kubernetes.io/dockerconfigjson" => {
            registry_credentials(data.and_then(|d| d.get(".dockerconfigjson")), ".dockerconfigjson", path, errors);
        }
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            required(errors, "username");
            required(errors, "password");
        }
        "kubernetes.io/ssh-auth" if !has("ssh-privatekey") => required(errors, "ssh-privatekey"),
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if !has(key) {
                    required(errors, key);
                }
            }
        }
        _ => {}
    }
}

fn registry_credentials(value: Option<&Value>, key: &str, path: &Path<'_>, errors: &mut Errors) {
    let Some(value) = value else {
        errors.push(FieldError::required(&path.key(key), ""));
        return;
    };
    let decoded = decode_base64(value.as_str().unwrap_or_default()).unwrap_or_default();
    let parsed: Result<serde_json::Map<String, Value>, _> = serde_json::from_slice(&decoded);
    if let Err(error) = parsed {
        let shown = "<secret contents redacted>";
        errors.push(FieldError::invalid(&path.key(key), shown, error.to_string()));
    }
}
