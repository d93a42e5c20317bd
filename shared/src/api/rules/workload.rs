//! Deployments and ReplicaSets.

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
