//! Deployments, ReplicaSets and their like.

use serde_json::Value;

use super::{Errors, int, map, pod, selector, text};
use crate::api::field::{FieldError, Path};
use crate::api::selector::LabelSelector;

pub(super) fn deployment(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("spec");
    let none = Value::Null;
    let spec = new.get("spec").unwrap_or(&none);
    replicated(spec, &path, errors);
    strategy(spec, &path, errors);
    errors.not_negative(spec, "revisionHistoryLimit", &path);
    let ready = int(spec, "minReadySeconds").unwrap_or(0);
    if let Some(deadline) = int(spec, "progressDeadlineSeconds") {
        let path = path.child("progressDeadlineSeconds");
        if deadline < 0 {
            errors.push(FieldError::invalid(&path, deadline, super::NOT_NEGATIVE));
        }
        if deadline <= ready {
            errors.push(FieldError::invalid(&path, deadline, "must be greater than minReadySeconds"));
        }
    }
    selector_stays(spec, old, &path, errors);
}

pub(super) fn replica_set(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("spec");
    let none = Value::Null;
    let spec = new.get("spec").unwrap_or(&none);
    replicated(spec, &path, errors);
    selector_stays(spec, old, &path, errors);
}

/// Fields of a StatefulSet's spec that an update may change.
const STATEFUL_CHANGES: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

pub(super) fn stateful_set(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("spec");
    let none = Value::Null;
    let spec = new.get("spec").unwrap_or(&none);
    replicated(spec, &path, errors);
    errors.not_negative(spec, "revisionHistoryLimit", &path);
    if let Some(ordinals) = spec.get("ordinals") {
        errors.not_negative(ordinals, "start", &path.child("ordinals"));
    }
    if let Some(rolling) = spec.get("updateStrategy").and_then(|s| s.get("rollingUpdate")) {
        errors.not_negative(rolling, "partition", &path.child("updateStrategy").child("rollingUpdate"));
    }
    if let Some(old) = old.and_then(|o| o.get("spec")) {
        let fixed = |spec: &Value| {
            let mut spec = spec.clone();
            if let Some(fields) = spec.as_object_mut() {
                fields.retain(|name, _| !STATEFUL_CHANGES.contains(&name.as_str()));
            }
            spec
        };
        if fixed(spec) != fixed(old) {
            let names: Vec<String> = STATEFUL_CHANGES.iter().map(|name| format!("'{name}'")).collect();
            let words = format!("updates to statefulset spec for fields other than {} are forbidden", names.join(", "));
            errors.push(FieldError::forbidden(&path, words));
        }
    }
}

pub(super) fn daemon_set(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("spec");
    let none = Value::Null;
    let spec = new.get("spec").unwrap_or(&none);
    replicated(spec, &path, errors);
    errors.not_negative(spec, "revisionHistoryLimit", &path);
    if let Some(rolling) = spec.get("updateStrategy").and_then(|s| s.get("rollingUpdate")) {
        let path = path.child("updateStrategy");
        let is_zero = |field: &str| match rolling.get(field) {
            Some(Value::String(text)) => percent(text) == Some(0),
            other => other.and_then(Value::as_i64).unwrap_or(0) == 0,
        };
        match (is_zero("maxUnavailable"), is_zero("maxSurge")) {
            (false, false) => {
                let words = "may not be set when maxUnavailable is non-zero";
                let shown = rolling.get("maxSurge").cloned().unwrap_or_default();
                errors.push(FieldError::invalid(&path.child("rollingUpdate").child("maxSurge"), shown, words));
            }
            (true, true) => {
                let words = "cannot be 0 when maxSurge is 0";
                let shown = rolling.get("maxUnavailable").cloned().unwrap_or_default();
                errors.push(FieldError::invalid(&path.child("rollingUpdate").child("maxUnavailable"), shown, words));
            }
            _ => {}
        }
    }
    selector_stays(spec, old, &path, errors);
}

pub(super) fn replication_controller(new: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("spec");
    let none = Value::Null;
    let spec = new.get("spec").unwrap_or(&none);
    errors.not_negative(spec, "replicas", &path);
    errors.not_negative(spec, "minReadySeconds", &path);
    let chosen = map(spec, "selector").filter(|s| !s.is_empty());
    let Some(chosen) = chosen else {
        return errors.push(FieldError::required(&path.child("selector"), ""));
    };
    let Some(template) = spec.get("template") else {
        return errors.push(FieldError::required(&path.child("template"), ""));
    };
    let path = path.child("template");
    let labels = template.get("metadata").and_then(|m| map(m, "labels"));
    if !chosen.iter().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value)) {
        let shown = labels.cloned().unwrap_or_default();
        let words = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid(&path.child("metadata").child("labels"), shown, words));
    }
    pod::template(template, &path, errors);
    endless(template, &path, errors);
}

pub(super) fn revision(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    errors.not_negative(new, "revision", &root);
    if new.get("data").is_none() {
        errors.push(FieldError::required(&root.child("data"), "data is mandatory"));
    }
    if let Some(old) = old {
        errors.immutable(new.get("data"), old.get("data"), &root.child("data"));
    }
}

pub(super) fn pod_template(new: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let none = Value::Null;
    pod::template(new.get("template").unwrap_or(&none), &root.child("template"), errors);
}

/// The pods that a selector leaves would be orphans.
fn selector_stays(spec: &Value, old: Option<&Value>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(old) = old.and_then(|o| o.get("spec")) {
        errors.immutable(spec.get("selector"), old.get("selector"), &path.child("selector"));
    }
}

/// Replicas, selector and template, which have to go together.
fn replicated(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    errors.not_negative(spec, "replicas", path);
    errors.not_negative(spec, "minReadySeconds", path);
    let none = Value::Null;
    let template = spec.get("template").unwrap_or(&none);
    let path_template = path.child("template");
    if let Some(selector) = spec.get("selector") {
        let within = path.child("selector");
        self::selector::validate(selector, &within, errors);
        match LabelSelector::from_value(selector) {
            Ok(parsed) if parsed.is_everything() => {
                let words = "empty selector is invalid for deployment";
                errors.push(FieldError::invalid(&within, selector.clone(), words));
            }
            Ok(parsed) if spec.get("template").is_some() => {
                let labels = template.get("metadata").and_then(|m| map(m, "labels"));
                if !parsed.matches(labels) {
                    let shown = labels.cloned().unwrap_or_default();
                    let meta = path_template.child("metadata");
                    let words = "`selector` does not match template `labels`";
                    errors.push(FieldError::invalid(&meta.child("labels"), shown, words));
                }
            }
            // What is wrong with it was said above.
            _ => {}
        }
    }
    if spec.get("template").is_some() {
        pod::template(template, &path_template, errors);
        endless(template, &path_template, errors);
    }
}

/// Replicas run for ever.
fn endless(template: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("spec");
    let Some(spec) = template.get("spec") else { return };
    let policy = text(spec, "restartPolicy");
    if matches!(policy, "Never" | "OnFailure") {
        errors.push(FieldError::not_supported(&path.child("restartPolicy"), policy, ["Always"]));
    }
    if spec.get("activeDeadlineSeconds").is_some() {
        let words = "activeDeadlineSeconds in ReplicaSet is not Supported";
        errors.push(FieldError::forbidden(&path.child("activeDeadlineSeconds"), words));
    }
}

fn strategy(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let Some(strategy) = spec.get("strategy") else { return };
    let path = path.child("strategy");
    let rolling = strategy.get("rollingUpdate");
    let path_rolling = path.child("rollingUpdate");
    match (text(strategy, "type"), rolling) {
        ("Recreate", Some(_)) => {
            let words = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden(&path_rolling, words));
        }
        ("RollingUpdate", None) => {
            let words = "this should be defaulted and never be nil";
            errors.push(FieldError::required(&path_rolling, words));
        }
        ("RollingUpdate", Some(rolling)) => rolling_update(rolling, &path_rolling, errors),
        _ => {}
    }
}

fn rolling_update(rolling: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut zero = true;
    for name in ["maxUnavailable", "maxSurge"] {
        let path = path.child(name);
        match rolling.get(name) {
            Some(Value::String(text)) => match percent(text) {
                Some(percent) => {
                    zero &= percent == 0;
                    if name == "maxUnavailable" && percent > 100 {
                        errors.push(FieldError::invalid(&path, text.as_str(), "must not be greater than 100%"));
                    }
                }
                None => {
                    zero = false;
                    let words = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%', or '93%', regex used for validation is '[0-9]+%')";
                    errors.push(FieldError::invalid(&path, text.as_str(), words));
                }
            },
            other => {
                let number = other.and_then(Value::as_i64).unwrap_or(0);
                zero &= number == 0;
                if number < 0 {
                    errors.push(FieldError::invalid(&path, number, super::NOT_NEGATIVE));
                }
            }
        }
    }
    if zero {
        let shown = rolling.get("maxUnavailable").cloned().unwrap_or(0.into());
        let words = "may not be 0 when `maxSurge` is 0";
        errors.push(FieldError::invalid(&path.child("maxUnavailable"), shown, words));
    }
}

/// The number of a percentage.
fn percent(text: &str) -> Option<u32> {
    let digits = text.strip_suffix('%')?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().unwrap_or(u32::MAX))
}
