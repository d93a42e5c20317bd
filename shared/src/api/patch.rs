//! Patches: RFC 7396 merge patch, RFC 6902 JSON patch, strategic merge patch.

use std::fmt;

use serde_json::{Map, Value};

use super::status::Status;

mod json;
mod strategic;

pub use json::{MAX_OPERATIONS, json};
pub use strategic::strategic;

/// Why a patch cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatchError {
    /// The patch itself is malformed (400).
    Malformed(String),
    /// The patch does not fit the object, or a `test` failed (422).
    Refused(String),
    /// Applying it would cost too much (413).
    TooCostly(String),
}

impl fmt::Display for PatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (PatchError::Malformed(why) | PatchError::Refused(why) | PatchError::TooCostly(why)) = self;
        f.write_str(why)
    }
}

impl std::error::Error for PatchError {}

impl PatchError {
    /// The answer to the client.
    pub fn status(&self) -> Status {
        match self {
            PatchError::Malformed(why) => Status::bad_request(why.as_str()),
            PatchError::Refused(why) => Status {
                code: 422,
                reason: "Invalid",
                message: format!("the server rejected our request due to an error in our request: {why}"),
                details: None,
                continue_token: None,
            },
            PatchError::TooCostly(why) => Status {
                code: 413,
                reason: "RequestEntityTooLarge",
                message: why.clone(),
                details: None,
                continue_token: None,
            },
        }
    }
}

/// Applies a merge patch (RFC 7396): null removes, objects merge, everything else replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.remove(key);
            }
            value => merge(target.entry(key.clone()).or_insert(Value::Null), value),
        }
    }
}

/// The merge patch that turns `from` into `to`. Nulls inside `to` cannot be expressed by a merge
/// patch; API objects have none.
pub fn create_merge(from: &Value, to: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (from, to) else {
        return to.clone();
    };
    let mut patch = Map::new();
    for key in from.keys().filter(|key| !to.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in to {
        match from.get(key) {
            Some(old) if old == value => {}
            Some(old) => {
                patch.insert(key.clone(), create_merge(old, value));
            }
            None => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(patch)
}

#[cfg(test)]
mod tests;
