//! Rules of the kinds: what an object must be beyond fitting its type. Pure: a new object, the old
//! one on an update, and a list of what is wrong, in upstream's words.
//!
//! One file a kind or family. Objects come here canonical and defaulted.

use serde_json::{Map, Value};

use super::field::{FieldError, Path};
use super::names;
use super::status::MAX_CAUSES;
use super::table::{Scope, TypeId};
use super::validate;

mod config;
mod container;
mod endpoints;
mod meta;
mod node;
pub mod pod;
mod security;
mod selector;
mod service;
mod volume;
mod workload;

/// What upstream says of a number below zero.
const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

/// What upstream says of a field that may not change.
const IMMUTABLE: &str = "field is immutable";

/// Checks an object of type `kind`: its metadata, what the table says of its values, and its kind's
/// own rules. With `old`, an update: what may not change has not. `metadata.name` is already
/// generated and `metadata.namespace` already set.
pub fn validate(kind: TypeId, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(kind, new, old, &mut errors);
    errors.extend(validate::values(kind, new));
    let rule: Option<fn(&Value, Option<&Value>, &mut Errors)> = match (kind.group(), kind.name()) {
        ("", "Pod") => Some(pod::validate),
        ("", "Service") => Some(service::validate),
        ("", "ConfigMap") => Some(config::config_map),
        ("", "Secret") => Some(config::secret),
        ("", "Node") => Some(node::validate),
        ("", "Event") => Some(meta::event),
        ("", "Endpoints") => Some(endpoints::endpoints),
        ("", "ServiceAccount") => None,
        ("apps", "Deployment") => Some(workload::deployment),
        ("apps", "ReplicaSet") => Some(workload::replica_set),
        ("discovery.k8s.io", "EndpointSlice") => Some(endpoints::slice),
        ("coordination.k8s.io", "Lease") => Some(node::lease),
        _ => None,
    };
    if let Some(rule) = rule {
        rule(new, old, &mut errors);
    }
    errors.0
}

/// Checks a write to the `status` subresource: the spec is the stored one, so only metadata counts.
pub fn validate_status(kind: TypeId, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(kind, new, Some(old), &mut errors);
    errors.0
}

fn metadata(kind: TypeId, new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let namespaced = kind.scope() == Scope::Namespaced;
    meta::validate(new, namespaced, name_shape(kind), errors);
    if let Some(old) = old {
        meta::update(new, old, errors);
    }
}

/// The shape of a kind's names.
fn name_shape(kind: TypeId) -> fn(&str) -> Vec<String> {
    match (kind.group(), kind.name()) {
        ("", "Namespace") => names::dns1123_label,
        ("", "Service") => names::dns1035_label,
        ("rbac.authorization.k8s.io", _) => names::path_segment,
        _ => names::dns1123_subdomain,
    }
}

/// What is wrong so far; bounded, because a hostile object can have millions of faults.
#[derive(Debug, Default)]
struct Errors(Vec<FieldError>);

impl Errors {
    fn push(&mut self, error: FieldError) {
        if self.0.len() < MAX_CAUSES {
            self.0.push(error);
        }
    }

    fn extend(&mut self, errors: impl IntoIterator<Item = FieldError>) {
        errors.into_iter().for_each(|error| self.push(error));
    }

    /// One error a reason.
    fn invalid_all(&mut self, path: &Path<'_>, value: &str, reasons: Vec<String>) {
        for reason in reasons {
            self.push(FieldError::invalid(path, value, reason));
        }
    }

    /// A number that may not be below zero.
    fn not_negative(&mut self, value: &Value, name: &str, path: &Path<'_>) {
        if let Some(number) = int(value, name)
            && number < 0
        {
            self.push(FieldError::invalid(&path.child(name), number, NOT_NEGATIVE));
        }
    }

    fn immutable(&mut self, new: Option<&Value>, old: Option<&Value>, path: &Path<'_>) {
        if new != old {
            let shown = new.cloned().unwrap_or(Value::Null);
            self.push(FieldError::invalid(path, shown, IMMUTABLE));
        }
    }
}

/// A string member; empty when absent.
fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn int(value: &Value, name: &str) -> Option<i64> {
    value.get(name).and_then(Value::as_i64)
}

fn flag(value: &Value, name: &str) -> bool {
    value.get(name).and_then(Value::as_bool).unwrap_or_default()
}

/// A list member; empty when absent.
fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A map member.
fn map<'v>(value: &'v Value, name: &str) -> Option<&'v Map<String, Value>> {
    value.get(name).and_then(Value::as_object)
}

#[cfg(test)]
mod tests;
