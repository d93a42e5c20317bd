//! The form in which an object is stored and read back: quantities, times, durations and bytes in
//! their canonical text, and empty optional fields left out as Go's `omitempty` does.
//!
//! Comes after [`super::validate::fields`]: values are known to have their types.

use base64::Engine as _;
use serde_json::Value;

use super::quantity::Quantity;
use super::table::{Field, Type, TypeId};
use super::time::{Time, duration_text, parse_duration};
use super::validate::decode_base64;

/// Brings an object of type `kind` into its canonical form. Doing it twice changes nothing.
pub fn object(kind: TypeId, value: &mut Value) {
    let Value::Object(map) = value else { return };
    map.retain(|name, value| match kind.field(name) {
        None => true,
        Some(field) => {
            canonical(field.ty(), value);
            !left_out(field, value)
        }
    });
}

fn canonical(ty: Type, value: &mut Value) {
    match (ty, &mut *value) {
        (Type::Struct(id), value) => object(id, value),
        (Type::List(elem), Value::Array(list)) => list.iter_mut().for_each(|item| canonical(elem.ty(), item)),
        (Type::Map(elem), Value::Object(map)) => match elem.ty() {
            // Resource lists keep thousandths.
            Type::Quantity => map.values_mut().for_each(|v| quantity(v, Quantity::rounded_to_milli)),
            ty => map.values_mut().for_each(|item| canonical(ty, item)),
        },
        (Type::Quantity, value) => quantity(value, |q| q),
        (Type::Time, Value::String(text)) => replace(text, Time::parse(text).map(Time::to_seconds_text)),
        (Type::MicroTime, Value::String(text)) => replace(text, Time::parse(text).map(Time::to_micros_text)),
        (Type::Duration, Value::String(text)) => replace(text, parse_duration(text).map(duration_text)),
        // Only line breaks make base64 that decodes differ from what encoding gives.
        (Type::Bytes, Value::String(text)) if text.contains(['\r', '\n']) => {
            let bytes = decode_base64(text).ok();
            replace(text, bytes.map(|b| base64::engine::general_purpose::STANDARD.encode(b)));
        }
        _ => {}
    }
}

fn replace(text: &mut String, canonical: Option<String>) {
    if let Some(canonical) = canonical {
        *text = canonical;
    }
}

fn quantity(value: &mut Value, adjust: fn(Quantity) -> Quantity) {
    if let Ok(quantity) = Quantity::from_value(value) {
        *value = Value::String(adjust(quantity).to_string());
    }
}

/// Whether upstream would not write this field.
fn left_out(field: &Field, value: &Value) -> bool {
    let empty = match value {
        Value::Null => return true,
        Value::Bool(flag) => !flag && !field.pointer(),
        Value::Number(number) => number.as_f64() == Some(0.0) && !field.pointer() && field.ty() != Type::IntOrString,
        Value::String(text) => text.is_empty() && !field.pointer(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty() && matches!(field.ty(), Type::Map(_)),
    };
    empty && !field.required()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::table::schema;
    use super::*;

    #[track_caller]
    fn check(group: &str, kind: &str, mut value: Value, expect: Value) {
        let id = schema().kind(group, "v1", kind).expect(kind);
        object(id, &mut value);
        assert_eq!(value, expect);
        object(id, &mut value);
        assert_eq!(value, expect, "a second time");
    }

    #[test]
    fn values_take_their_canonical_text() {
        check(
            "",
            "Pod",
            json!({"metadata": {"creationTimestamp": "2026-01-01T02:00:00.5+02:00"}, "spec": {"containers": [
                {"name": "a", "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi", "x": "1n"}}}],
                "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "0.5Gi"}}]}}),
            json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"containers": [
                {"name": "a", "resources": {"limits": {"cpu": "500m", "memory": "1Gi", "x": "1m"}}}],
                "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "512Mi"}}]}}),
        );
        check("", "Secret", json!({"data": {"a": "YW\nI="}}), json!({"data": {"a": "YWI="}}));
        check(
            "coordination.k8s.io",
            "Lease",
            json!({"spec": {"renewTime": "2026-01-01T00:00:00Z"}}),
            json!({"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}}),
        );
    }

    #[test]
    fn empty_optional_fields_are_left_out() {
        check(
            "",
            "Pod",
            json!({"metadata": {"labels": {}, "annotations": {"a": ""}, "finalizers": []}, "spec": {
                "hostNetwork": false, "automountServiceAccountToken": false, "nodeName": "", "priority": 0,
                "securityContext": {}, "nodeSelector": {}, "containers": [], "volumes": [
                    {"name": "v", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/", "type": ""}}]}}),
            json!({"metadata": {"annotations": {"a": ""}}, "spec": {
                "automountServiceAccountToken": false, "priority": 0,
                "securityContext": {}, "containers": [], "volumes": [
                    {"name": "v", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/", "type": ""}}]}}),
        );
        check(
            "apps",
            "Deployment",
            json!({"spec": {"replicas": 0, "minReadySeconds": 0, "paused": false, "strategy": {"rollingUpdate": {"maxSurge": 0}}}}),
            json!({"spec": {"replicas": 0, "strategy": {"rollingUpdate": {"maxSurge": 0}}}}),
        );
    }
}
