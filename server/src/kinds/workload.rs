//! Deployment, ReplicaSet and their like: columns.

use serde_json::Value;

use super::cluster::{AGE, NAME, created, durable, name, number, plain, wide};
use super::{Column, Moment, Rules, View};

pub(super) const CONTAINERS: Column = wide("Containers", "The names of the containers.");
pub(super) const IMAGES: Column = wide("Images", "The images of the containers.");
pub(super) const SELECTOR: Column = wide("Selector", "Which pods belong to it.");

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
    let [names, images] = joined(view.list(&["spec", "template", "spec", "containers"]));
    let chosen = view.at(&["spec", "selector"]);
    // A ReplicationController's selector is a plain map.
    let plain = chosen.as_object().is_some_and(|map| map.values().any(Value::is_string));
    let words = if plain { pairs(view, &["spec", "selector"]) } else { selector(chosen) };
    [names, images, words.into()]
}

/// The names and the images of containers.
pub(super) fn joined(containers: &[Value]) -> [Value; 2] {
    ["name", "image"]
        .map(|field| containers.iter().map(|c| View(c).text(&[field])).collect::<Vec<_>>().join(",").into())
}

/// A map of strings as `a=b,c=d`.
pub(super) fn pairs(view: &View<'_>, path: &[&str]) -> String {
    super::human::join(&view.pairs(path).map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>())
}

pub(super) const STATEFUL_SET_COLUMNS: &[Column] =
    &[NAME, plain("Ready", "The number of ready pods out of those wanted."), AGE, CONTAINERS, IMAGES];

pub(super) fn stateful_set_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let ready = format!("{}/{}", view.number(&["status", "readyReplicas"]), view.number(&["spec", "replicas"]));
    let [names, images, _] = template_cells(view);
    vec![name(view), ready.into(), created(view, moment), names, images]
}

pub(super) const DAEMON_SET_COLUMNS: &[Column] = &[
    NAME,
    number("Desired", "The number of nodes that should run a pod."),
    number("Current", "The number of nodes that do."),
    number("Ready", "The number of nodes whose pod is ready."),
    number("Up-to-date", "The number of nodes with the current template."),
    number("Available", "The number of nodes whose pod is ready for long enough."),
    plain("Node Selector", "Which nodes run a pod."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) fn daemon_set_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let counts = [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    ];
    let mut cells = vec![name(view)];
    cells.extend(counts.map(|count| Value::from(view.number(&["status", count]))));
    cells.push(pairs(view, &["spec", "template", "spec", "nodeSelector"]).into());
    cells.push(created(view, moment));
    cells.extend(template_cells(view));
    cells
}

pub(super) const REVISION_COLUMNS: &[Column] =
    &[NAME, plain("Controller", "What it is a revision of."), number("Revision", "Its number, rising."), AGE];

pub(super) fn revision_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let owners = view.list(&["metadata", "ownerReferences"]);
    let owner = owners.iter().map(View).find(|owner| owner.flag(&["controller"]));
    let words = owner.map_or("<none>".to_owned(), |owner| {
        let group = owner.text(&["apiVersion"]).split_once('/').map_or("", |(group, _)| group);
        let dot = if group.is_empty() { "" } else { "." };
        format!("{}{dot}{group}/{}", owner.text(&["kind"]).to_lowercase(), owner.text(&["name"]))
    });
    vec![name(view), words.into(), view.number(&["revision"]).into(), created(view, moment)]
}

pub(super) const POD_TEMPLATE_COLUMNS: &[Column] = &[
    NAME,
    plain("Containers", "The names of the containers."),
    plain("Images", "The images of the containers."),
    plain("Pod Labels", "The labels of pods made from it."),
];

pub(super) fn pod_template_cells(view: &View<'_>, _: &Moment) -> Vec<Value> {
    let [names, images] = joined(view.list(&["template", "spec", "containers"]));
    vec![name(view), names, images, pairs(view, &["template", "metadata", "labels"]).into()]
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
