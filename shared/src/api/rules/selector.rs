//! LabelSelector objects.

use serde_json::Value;

use super::{Errors, list, map, meta, names, text};
use crate::api::field::{FieldError, Path};

pub(super) fn validate(selector: &Value, path: &Path<'_>, errors: &mut Errors) {
    if let Some(labels) = map(selector, "matchLabels") {
        meta::labels(labels, &path.child("matchLabels"), errors);
    }
    let path = path.child("matchExpressions");
    for (index, expression) in list(selector, "matchExpressions").iter().enumerate() {
        requirement(expression, &path.index(index), errors);
    }
}

fn requirement(expression: &Value, path: &Path<'_>, errors: &mut Errors) {
    let values = list(expression, "values");
    match text(expression, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            let words = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(FieldError::required(&path.child("values"), words));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let words = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(&path.child("values"), words));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => {
            errors.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator"));
        }
    }
    let key = text(expression, "key");
    errors.invalid_all(&path.child("key"), key, names::qualified(key));
    for (index, value) in values.iter().filter_map(Value::as_str).enumerate() {
        errors.invalid_all(&path.child("values").index(index), value, names::label_value(value));
    }
}
