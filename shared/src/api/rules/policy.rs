//! What limits and orders others: budgets, autoscalers, priority and runtime classes, limits, quotas.

use serde_json::Value;

use super::{Errors, int, list, map, names, selector, text};
use crate::api::field::{FieldError, Path};
use crate::api::quantity::Quantity;

pub(super) fn budget(new: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("spec");
    let none = Value::Null;
    let spec = new.get("spec").unwrap_or(&none);
    if spec.get("minAvailable").is_some() && spec.get("maxUnavailable").is_some() {
        let words = "minAvailable and maxUnavailable cannot be both set";
        errors.push(FieldError::invalid(&path, spec.clone(), words));
    }
    for field in ["minAvailable", "maxUnavailable"] {
        share(spec.get(field), &path.child(field), errors);
    }
    if let Some(chosen) = spec.get("selector") {
        selector::validate(chosen, &path.child("selector"), errors);
    }
}

/// A number from zero up, or a percentage up to a hundred.
fn share(value: Option<&Value>, path: &Path<'_>, errors: &mut Errors) {
    match value {
        Some(Value::String(text)) => {
            let digits = text.strip_suffix('%').filter(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()));
            match digits.map(|d| d.parse().unwrap_or(u32::MAX)) {
                None => {
                    let words = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%', or '93%', regex used for validation is '[0-9]+%')";
                    errors.push(FieldError::invalid(path, text.as_str(), words));
                }
                Some(101..) => errors.push(FieldError::invalid(path, text.as_str(), "must not be greater than 100%")),
                Some(_) => {}
            }
        }
        Some(number) if number.as_i64().is_some_and(|n| n < 0) => {
            errors.push(FieldError::invalid(path, number.clone(), super::NOT_NEGATIVE));
        }
        _ => {}
    }
}

pub(super) fn autoscaler(new: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("spec");
    let none = Value::Null;
    let spec = new.get("spec").unwrap_or(&none);
    let (least, most) = (int(spec, "minReplicas").unwrap_or(1), int(spec, "maxReplicas").unwrap_or(0));
    if least < 1 {
        let words = "must be greater than or equal to 1";
        errors.push(FieldError::invalid(&path.child("minReplicas"), least, words));
    }
    if most < 1 {
        errors.push(FieldError::invalid(&path.child("maxReplicas"), most, "must be greater than 0"));
    }
    if most < least {
        let words = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid(&path.child("maxReplicas"), most, words));
    }
    let target = spec.get("scaleTargetRef").unwrap_or(&none);
    for field in ["kind", "name"] {
        let (value, path) = (text(target, field), path.child("scaleTargetRef"));
        match value.is_empty() {
            true => errors.push(FieldError::required(&path.child(field), "")),
            false => errors.invalid_all(&path.child(field), value, names::path_segment(value)),
        }
    }
    let path = path.child("metrics");
    for (index, metric) in list(spec, "metrics").iter().enumerate() {
        metric_source(metric, &path.index(index), errors);
    }
}

fn metric_source(metric: &Value, path: &Path<'_>, errors: &mut Errors) {
    let kinds = ["ContainerResource", "External", "Object", "Pods", "Resource"];
    let kind = text(metric, "type");
    if kind.is_empty() {
        return errors.push(FieldError::required(&path.child("type"), "must specify a metric source type"));
    }
    if !kinds.contains(&kind) {
        return errors.push(FieldError::not_supported(&path.child("type"), kind, kinds));
    }
    let mut source = kind.to_owned();
    source[..1].make_ascii_lowercase();
    let Some(given) = metric.get(&source) else {
        return errors
            .push(FieldError::required(&path.child(&source), "must populate information for the given metric source"));
    };
    let path = path.child(&source);
    let within = path.child("target");
    let target = given.get("target").cloned().unwrap_or_default();
    if !matches!(text(&target, "type"), "Utilization" | "Value" | "AverageValue") {
        let words = "must be either Utilization, Value, or AverageValue";
        return errors.push(FieldError::invalid(&within.child("type"), text(&target, "type"), words));
    }
    if int(&target, "averageUtilization").is_some_and(|n| n < 1) {
        let shown = target["averageUtilization"].clone();
        errors.push(FieldError::invalid(&within.child("averageUtilization"), shown, "must be greater than 0"));
    }
}

/// Above this only the system's own classes are.
const HIGHEST_PRIORITY: i64 = 1_000_000_000;
const SYSTEM_CLASSES: &[(&str, i64)] =
    &[("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

pub(super) fn priority_class(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let name = new.get("metadata").map_or("", |m| text(m, "name"));
    let value = int(new, "value").unwrap_or(0);
    let system = SYSTEM_CLASSES.contains(&(name, value));
    if name.starts_with("system-") && !system {
        let words = "priority class names with 'system-' prefix are reserved for system use only";
        errors.push(FieldError::forbidden(&root.child("metadata").child("name"), words));
    }
    if value > HIGHEST_PRIORITY && !system {
        let words = format!("maximum allowed value of a user defined priority is {HIGHEST_PRIORITY}");
        errors.push(FieldError::forbidden(&root.child("value"), words));
    }
    if let Some(old) = old {
        if int(old, "value").unwrap_or(0) != value {
            errors.push(FieldError::forbidden(&root.child("value"), "may not be changed in an update."));
        }
        let path = root.child("preemptionPolicy");
        errors.immutable(new.get("preemptionPolicy"), old.get("preemptionPolicy"), &path);
    }
}

pub(super) fn runtime_class(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let (handler, path) = (text(new, "handler"), root.child("handler"));
    errors.invalid_all(&path, handler, names::dns1123_label(handler));
    if let Some(old) = old {
        errors.immutable(new.get("handler"), old.get("handler"), &path);
    }
}

pub(super) fn limit_range(new: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let within = root.child("spec");
    let path = within.child("limits");
    let limits = new.get("spec").map(|s| list(s, "limits")).unwrap_or_default();
    let mut kinds = std::collections::BTreeSet::new();
    for (index, limit) in limits.iter().enumerate() {
        let path = path.index(index);
        let kind = text(limit, "type");
        if kind.is_empty() {
            errors.push(FieldError::required(&path.child("type"), ""));
        } else if !kinds.insert(kind) {
            errors.push(FieldError::duplicate(&path.child("type"), kind));
        }
        if kind == "Pod" {
            for field in ["default", "defaultRequest"] {
                if map(limit, field).is_some_and(|m| !m.is_empty()) {
                    let words = "may not be specified when `type` is 'Pod'";
                    errors.push(FieldError::forbidden(&path.child(field), words));
                }
            }
        }
        // Each has to be at most the next.
        for (low, high) in [
            ("min", "max"),
            ("min", "defaultRequest"),
            ("min", "default"),
            ("defaultRequest", "default"),
            ("default", "max"),
        ] {
            ordered(limit, low, high, &path, errors);
        }
    }
}

fn amount(limit: &Value, field: &str, name: &str) -> Option<Quantity> {
    Quantity::from_value(map(limit, field)?.get(name)?).ok()
}

fn ordered(limit: &Value, low: &str, high: &str, path: &Path<'_>, errors: &mut Errors) {
    for (name, value) in map(limit, low).into_iter().flatten() {
        let (Some(below), Some(above)) = (amount(limit, low, name), amount(limit, high, name)) else { continue };
        if below.nanos() > above.nanos() {
            let words =
                format!("{low} value {} is greater than {high} value {}", plain(value), plain(&limit[high][name]));
            errors.push(FieldError::invalid(&path.child(low).key(name), value.clone(), words));
        }
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub(super) fn quota(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("spec");
    let none = Value::Null;
    let spec = new.get("spec").unwrap_or(&none);
    for (name, value) in map(spec, "hard").into_iter().flatten() {
        let path = path.child("hard");
        errors.invalid_all(&path.key(name), name, names::qualified(name.trim_start_matches("count/")));
        if Quantity::from_value(value).is_ok_and(|q| q.is_negative()) {
            errors.push(FieldError::invalid(&path.key(name), value.clone(), super::NOT_NEGATIVE));
        }
    }
    let scopes: Vec<&str> = list(spec, "scopes").iter().filter_map(Value::as_str).collect();
    for (a, b) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if scopes.contains(&a) && scopes.contains(&b) {
            let shown = spec.get("scopes").cloned().unwrap_or_default();
            errors.push(FieldError::invalid(&path.child("scopes"), shown, "conflicting scopes"));
        }
    }
    if let Some(old) = old.and_then(|o| o.get("spec")) {
        errors.immutable(spec.get("scopes"), old.get("scopes"), &path.child("scopes"));
    }
}
