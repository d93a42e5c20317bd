//! HorizontalPodAutoscaler: stored as autoscaling/v2; v1 is its older face.

use serde_json::{Map, Value, json};

use super::cluster::{AGE, NAME, created, name, plain};
use super::{Column, Conversion, Moment, View};

pub(super) const HPA_COLUMNS: &[Column] = &[
    NAME,
    plain("Reference", "What is scaled."),
    plain("Targets", "What is measured, and what it should be."),
    plain("MinPods", "The smallest number of pods."),
    plain("MaxPods", "The largest number of pods."),
    plain("Replicas", "The number of pods now."),
    AGE,
];

/// Metrics that are shown; the rest is counted.
const SHOWN: usize = 2;

pub(super) fn hpa_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let reference = View(view.at(&["spec", "scaleTargetRef"]));
    let least = view.at(&["spec", "minReplicas"]).as_i64().map_or("<unset>".into(), |n| n.to_string());
    vec![
        name(view),
        format!("{}/{}", reference.text(&["kind"]), reference.text(&["name"])).into(),
        targets(view).into(),
        least.into(),
        view.number(&["spec", "maxReplicas"]).to_string().into(),
        view.number(&["status", "currentReplicas"]).to_string().into(),
        created(view, moment),
    ]
}

/// The cells of the autoscaling/v1 face.
pub(super) fn old_hpa_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let mut stored = view.0.clone();
    to_stored(&mut stored);
    hpa_cells(&View(&stored), moment)
}

fn targets(view: &View<'_>) -> String {
    let metrics = view.list(&["spec", "metrics"]);
    let now = view.list(&["status", "currentMetrics"]);
    let shown: Vec<String> =
        metrics.iter().take(SHOWN).enumerate().map(|(at, metric)| target(&View(metric), now.get(at))).collect();
    match metrics.len() {
        0 => "<none>".into(),
        all if all > SHOWN => format!("{} + {} more...", shown.join(", "), all - SHOWN),
        _ => shown.join(", "),
    }
}

/// One metric: `cpu: 12%/80%`.
fn target(metric: &View<'_>, now: Option<&Value>) -> String {
    let (source, prefix) = match metric.text(&["type"]) {
        "Resource" => ("resource", format!("{}: ", metric.text(&["resource", "name"]))),
        "ContainerResource" => ("containerResource", format!("{}: ", metric.text(&["containerResource", "name"]))),
        "Pods" => ("pods", String::new()),
        "Object" => ("object", String::new()),
        "External" => ("external", String::new()),
        _ => return "<unknown type>".into(),
    };
    let wanted = View(metric.at(&[source, "target"]));
    let none = Value::Null;
    let current = View(View(now.unwrap_or(&none)).at(&[source, "current"]));
    let utilization = wanted.at(&["averageUtilization"]).as_i64();
    let (goal, measured) = match utilization {
        Some(percent) => {
            let measured = current.at(&["averageUtilization"]).as_i64().map(|now| format!("{now}%"));
            (format!("{percent}%"), measured)
        }
        None => {
            let (field, words) = if wanted.has(&["averageValue"]) { ("averageValue", " (avg)") } else { ("value", "") };
            let measured = current.at(&[field]).as_str().map(str::to_owned);
            let words = if matches!(source, "object" | "external") { words } else { "" };
            (format!("{}{words}", wanted.text(&[field])), measured)
        }
    };
    format!("{prefix}{}/{goal}", measured.unwrap_or_else(|| "<unknown>".into()))
}

pub(super) const OLD_FACE: Conversion = Conversion { to_stored, from_stored };

/// What v1 has no field for travels in annotations, as upstream's does.
const KEPT: &[(&str, &str, &str)] = &[
    ("autoscaling.alpha.kubernetes.io/metrics", "spec", "metrics"),
    ("autoscaling.alpha.kubernetes.io/behavior", "spec", "behavior"),
    ("autoscaling.alpha.kubernetes.io/current-metrics", "status", "currentMetrics"),
    ("autoscaling.alpha.kubernetes.io/conditions", "status", "conditions"),
];

const SPEC_CPU: &str = "targetCPUUtilizationPercentage";
const STATUS_CPU: &str = "currentCPUUtilizationPercentage";

fn to_stored(hpa: &mut Value) {
    for (annotation, part, field) in KEPT {
        let kept = hpa["metadata"].get_mut("annotations").and_then(Value::as_object_mut);
        let Some(Value::String(text)) = kept.and_then(|all| all.remove(*annotation)) else { continue };
        if let Ok(value) = serde_json::from_str::<Value>(&text) {
            hpa[*part][*field] = value;
        }
    }
    if hpa["metadata"]["annotations"].as_object().is_some_and(Map::is_empty)
        && let Some(meta) = hpa["metadata"].as_object_mut()
    {
        meta.remove("annotations");
    }
    let cpu = |percent: &Value, within: &str| {
        json!({"type": "Resource", "resource": {"name": "cpu", within: match within {
            "target" => json!({"type": "Utilization", "averageUtilization": percent}),
            _ => json!({"averageUtilization": percent, "averageValue": "0"}),
        }}})
    };
    for (part, field, list, within) in
        [("spec", SPEC_CPU, "metrics", "target"), ("status", STATUS_CPU, "currentMetrics", "current")]
    {
        let Some(percent) = hpa.get_mut(part).and_then(Value::as_object_mut).and_then(|p| p.remove(field)) else {
            continue;
        };
        let mut metrics = vec![cpu(&percent, within)];
        metrics.extend(hpa[part][list].as_array().cloned().unwrap_or_default());
        hpa[part][list] = metrics.into();
    }
}

fn from_stored(hpa: &mut Value) {
    for (part, field, list, within) in
        [("spec", SPEC_CPU, "metrics", "target"), ("status", STATUS_CPU, "currentMetrics", "current")]
    {
        let Some(metrics) = hpa.get_mut(part).and_then(|p| p.get_mut(list)).and_then(Value::as_array_mut) else {
            continue;
        };
        let percent = |metric: &Value| {
            let view = View(metric);
            let cpu = view.text(&["resource", "name"]) == "cpu";
            view.at(&["resource", within, "averageUtilization"]).as_i64().filter(|_| cpu)
        };
        if let Some(at) = metrics.iter().position(|m| percent(m).is_some()) {
            let found = percent(&metrics.remove(at));
            hpa[part][field] = found.into();
        }
    }
    for (annotation, part, field) in KEPT {
        let Some(value) = hpa.get_mut(part).and_then(Value::as_object_mut).and_then(|p| p.remove(*field)) else {
            continue;
        };
        if value.as_array().is_none_or(|list| !list.is_empty()) {
            hpa["metadata"]["annotations"][*annotation] = value.to_string().into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_faces_say_the_same() {
        let new = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "metrics": [
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}},
            {"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "5"}}}]},
            "status": {"currentReplicas": 1}});
        let mut face = new.clone();
        from_stored(&mut face);
        assert_eq!(face["spec"][SPEC_CPU], 80);
        assert!(face["spec"].get("metrics").is_none());
        assert_eq!(old_hpa_cells(&View(&face), &Moment { now: 0 }), hpa_cells(&View(&new), &Moment { now: 0 }));
        to_stored(&mut face);
        assert_eq!(face, new);
        assert_eq!(hpa_cells(&View(&new), &Moment { now: 0 })[2], "cpu: <unknown>/80%, <unknown>/5");
    }
}
