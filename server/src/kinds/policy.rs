//! PodDisruptionBudget, LimitRange, ResourceQuota, PriorityClass, RuntimeClass: columns.

use serde_json::Value;

use super::cluster::{AGE, NAME, created, name, number, plain};
use super::{Column, Moment, View};

/// When it was made, in full: what upstream prints for kinds that have no age.
pub(super) const CREATED_AT: Column = plain("Created At", "When the server made the object.");

pub(super) fn created_at(view: &View<'_>) -> Value {
    view.text(&["metadata", "creationTimestamp"]).into()
}

pub(super) const BUDGET_COLUMNS: &[Column] = &[
    NAME,
    plain("Min Available", "The number of pods that have to stay."),
    plain("Max Unavailable", "The number of pods that may be away."),
    number("Allowed Disruptions", "The number of pods that may go now."),
    AGE,
];

/// A number or a percentage as it stands.
fn either(value: &Value) -> Value {
    match value {
        Value::Null => "N/A".into(),
        Value::String(text) => text.as_str().into(),
        number => number.to_string().into(),
    }
}

pub(super) fn budget_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    vec![
        name(view),
        either(view.at(&["spec", "minAvailable"])),
        either(view.at(&["spec", "maxUnavailable"])),
        view.number(&["status", "disruptionsAllowed"]).into(),
        created(view, moment),
    ]
}

pub(super) const LIMIT_RANGE_COLUMNS: &[Column] = &[NAME, CREATED_AT];

pub(super) fn limit_range_cells(view: &View<'_>, _: &Moment) -> Vec<Value> {
    vec![name(view), created_at(view)]
}

pub(super) const QUOTA_COLUMNS: &[Column] = &[
    NAME,
    plain("Request", "What is used out of what may be asked for."),
    plain("Limit", "What is used out of what may be reached."),
    AGE,
];

pub(super) fn quota_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let part = |limits: bool| -> Value {
        let of = View(view.at(&["status"]));
        let names = of.pairs(&["hard"]).filter(|(name, _)| name.starts_with("limits.") == limits);
        let used = |name: &str| match of.text(&["used", name]) {
            "" => "0".to_owned(),
            text => text.to_owned(),
        };
        names.map(|(name, hard)| format!("{name}: {}/{hard}", used(name))).collect::<Vec<_>>().join(", ").into()
    };
    vec![name(view), part(false), part(true), created(view, moment)]
}

pub(super) const PRIORITY_CLASS_COLUMNS: &[Column] = &[
    NAME,
    number("Value", "The priority of pods of this class."),
    plain("Global-Default", "Whether pods without a class are of this one."),
    AGE,
    plain("PreemptionPolicy", "Whether its pods make room for themselves."),
];

pub(super) fn priority_class_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    vec![
        name(view),
        view.number(&["value"]).into(),
        view.flag(&["globalDefault"]).into(),
        created(view, moment),
        view.text(&["preemptionPolicy"]).into(),
    ]
}

pub(super) const RUNTIME_CLASS_COLUMNS: &[Column] =
    &[NAME, plain("Handler", "How a node runs pods of this class."), AGE];

pub(super) fn runtime_class_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    vec![name(view), view.text(&["handler"]).into(), created(view, moment)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_quota_shows_requests_apart_from_limits() {
        let quota = json!({"status": {"hard": {"cpu": "2", "limits.cpu": "4"}, "used": {"cpu": "500m"}}});
        let cells = quota_cells(&View(&quota), &Moment { now: 0 });
        assert_eq!((&cells[1], &cells[2]), (&"cpu: 500m/2".into(), &"limits.cpu: 0/4".into()));
    }

    #[test]
    fn a_budget_shows_what_it_does_not_say_as_such() {
        let budget = json!({"spec": {"minAvailable": "50%"}, "status": {"disruptionsAllowed": 1}});
        let cells = budget_cells(&View(&budget), &Moment { now: 0 });
        assert_eq!(cells[1..4], [Value::from("50%"), "N/A".into(), 1.into()]);
    }
}
