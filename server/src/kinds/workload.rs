//! Deployment and ReplicaSet: columns.

use serde_json::Value;

use super::cluster::{AGE, NAME, created, durable, name, number, plain, wide};
use super::{Column, Moment, Rules, View};

const CONTAINERS: Column = wide("Containers", "The names of the containers.");
const IMAGES: Column = wide("Images", "The images of the containers.");
const SELECTOR: Column = wide("Selector", "Which pods belong to it.");

pub(super) const DEPLOYMENT_COLUMNS: &[Column] = &[
    NAME,
    plain("Ready", "The number of ready pods out of those wanted."),
    plain("Up-to-date", "The number of pods with the current template."),
    plain("Available", "The number of pods that are ready for long enough."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) fn deployment_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let ready = format!("{}/{}", view.number(&["status", "readyReplicas"]), view.number(&["spec", "replicas"]));
    let mut cells = vec![
        name(view),
        ready.into(),
        view.number(&["status", "updatedReplicas"]).to_string().into(),
        view.number(&["status", "availableReplicas"]).to_string().into(),
        created(view, moment),
    ];
    cells.extend(template_cells(view));
    cells
}

pub(super) const REPLICA_SET_COLUMNS: &[Column] = &[
    NAME,
    number("Desired", "The number of pods wanted."),
    number("Current", "The number of pods there are."),
    number("Ready", "The number of ready pods."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) fn replica_set_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let mut cells = vec![
        name(view),
        view.number(&["spec", "replicas"]).into(),
        view.number(&["status", "replicas"]).into(),
        view.number(&["status", "readyReplicas"]).into(),
        created(view, moment),
    ];
    cells.extend(template_cells(view));
    cells
}

fn template_cells(view: &View<'_>) -> [Value; 3] {
    let containers = view.list(&["spec", "template", "spec", "containers"]);
    let joined = |field: &str| -> Value {
        containers.iter().map(|c| View(c).text(&[field])).collect::<Vec<_>>().join(",").into()
    };
    [joined("name"), joined("image"), selector(view.at(&["spec", "selector"])).into()]
}

/// A label selector in the notation of `-l`.
pub fn selector(selector: &Value) -> String {
    let view = View(selector);
    let mut parts: Vec<String> = view.pairs(&["matchLabels"]).map(|(k, v)| format!("{k}={v}")).collect();
    for expression in view.list(&["matchExpressions"]).iter().map(View) {
        let key = expression.text(&["key"]);
        let values: Vec<&str> = expression.list(&["values"]).iter().filter_map(Value::as_str).collect();
        parts.push(match expression.text(&["operator"]) {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    if parts.is_empty() { "<none>".into() } else { parts.join(",") }
}

pub(super) const RULES: Rules = Rules { create, update, class: durable };

fn create(object: &mut Value, _: &Moment) {
    // A new workload has done nothing yet; `kubectl rollout status` compares observedGeneration.
    if let Some(object) = object.as_object_mut() {
        object.insert("status".into(), serde_json::json!({}));
    }
}

fn update(_: &mut Value, _: &Value) {}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_read_as_on_the_command_line() {
        let value = json!({"matchLabels": {"app": "web"}, "matchExpressions":
            [{"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "old", "operator": "DoesNotExist"}]});
        assert_eq!(selector(&value), "app=web,tier in (a,b),!old");
        assert_eq!(selector(&json!({})), "<none>");
    }

    #[test]
    fn a_deployment_shows_ready_out_of_wanted() {
        let object = json!({"metadata": {"name": "web"}, "spec": {"replicas": 3, "template": {"spec":
            {"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y:2"}]}}},
            "status": {"readyReplicas": 2, "updatedReplicas": 3}});
        let cells = deployment_cells(&View(&object), &Moment { now: 0 });
        assert_eq!(cells[1], "2/3");
        assert_eq!(cells[5], "a,b");
        assert_eq!(cells[6], "x:1,y:2");
    }
}
