//! What a Deployment says about itself.

use coracle_shared::submit::Write;
use coracle_shared::time::Millis;
use serde_json::{Value, json};

use super::RESOURCE;
use super::rolling::limits;
use crate::driver::Now;
use crate::object::{Condition, array, condition, name, number, status_update, text, with_condition};

pub struct Outcome {
    pub writes: Vec<Write>,
    pub again: Option<Millis>,
    /// All pods are of the current template, available, and as many as asked for.
    pub complete: bool,
}

pub fn plan(deployment: &Value, new: Option<&Value>, olds: &[&Value], now: Now) -> Outcome {
    let sum = |field: &str| -> i64 { olds.iter().copied().chain(new).map(|set| number(set, field)).sum() };
    let wanted = number(deployment, "/spec/replicas");
    let (replicas, ready, available) =
        (sum("/status/replicas"), sum("/status/readyReplicas"), sum("/status/availableReplicas"));
    let updated = new.map_or(0, |set| number(set, "/status/replicas"));
    let complete = updated == wanted && replicas == wanted && available == wanted && new.is_some();
    let mut status = json!({
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": replicas, "updatedReplicas": updated, "readyReplicas": ready,
        "availableReplicas": available, "unavailableReplicas": (wanted - available).max(0),
    });
    // Upstream leaves zeros out of this status.
    if let Some(fields) = status.as_object_mut() {
        fields.retain(|_, value| !matches!(value.as_i64(), Some(0)) && !value.is_null());
    }
    let moved = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"]
        .iter()
        .any(|f| deployment["status"][f] != status[f])
        || deployment["status"]["observedGeneration"] != status["observedGeneration"];
    let (conditions, again) = conditions(deployment, new, available, complete, moved, now);
    status["conditions"] = conditions.into();
    Outcome { writes: status_update(RESOURCE, deployment, status).into_iter().collect(), again, complete }
}

fn conditions(
    deployment: &Value,
    new: Option<&Value>,
    available: i64,
    complete: bool,
    moved: bool,
    now: Now,
) -> (Vec<Value>, Option<Millis>) {
    let enough = available >= number(deployment, "/spec/replicas") - limits(deployment).unavailable;
    let availability = if enough {
        Condition {
            kind: "Available",
            status: "True",
            reason: "MinimumReplicasAvailable",
            message: "Deployment has minimum availability.",
        }
    } else {
        Condition {
            kind: "Available",
            status: "False",
            reason: "MinimumReplicasUnavailable",
            message: "Deployment does not have minimum availability.",
        }
    };
    let mut with = json!({"status": {"conditions": with_condition(deployment, &availability, now.wall)}});
    let (progress, again) = progress(deployment, new, complete, moved, now);
    if let Some((status, reason, message)) = progress {
        let condition = Condition { kind: "Progressing", status, reason, message: &message };
        let mut conditions = with_condition(&with, &condition, now.wall);
        if moved || text_of(deployment, "reason") != reason {
            stamp(&mut conditions, now);
        }
        with["status"]["conditions"] = conditions.into();
    }
    let failing = new.and_then(|set| condition(set, "ReplicaFailure"));
    let mut conditions: Vec<Value> =
        array(&with, "/status/conditions").iter().filter(|c| c["type"] != "ReplicaFailure").cloned().collect();
    conditions.extend(failing.cloned());
    (conditions, again)
}

fn text_of<'a>(deployment: &'a Value, field: &str) -> &'a str {
    condition(deployment, "Progressing").and_then(|c| c[field].as_str()).unwrap_or_default()
}

/// The moment of the last progress.
fn stamp(conditions: &mut [Value], now: Now) {
    for condition in conditions.iter_mut().filter(|c| c["type"] == "Progressing") {
        condition["lastUpdateTime"] = now.wall.seconds_text().into();
    }
}

/// Status, reason and message of Progressing; `None` while a pause hides it. And when to look again.
#[allow(clippy::type_complexity)]
fn progress(
    deployment: &Value,
    new: Option<&Value>,
    complete: bool,
    moved: bool,
    now: Now,
) -> (Option<(&'static str, &'static str, String)>, Option<Millis>) {
    let subject = new
        .map_or_else(|| format!("Deployment \"{}\"", name(deployment)), |set| format!("ReplicaSet \"{}\"", name(set)));
    if deployment["spec"]["paused"] == true {
        return (Some(("Unknown", "DeploymentPaused", "Deployment is paused".into())), None);
    }
    if complete {
        return (Some(("True", "NewReplicaSetAvailable", format!("{subject} has successfully progressed."))), None);
    }
    let deadline = deployment["spec"]["progressDeadlineSeconds"].as_i64().unwrap_or(600);
    let since = Millis::parse(text_of(deployment, "lastUpdateTime")).filter(|_| !moved).unwrap_or(now.wall);
    let left = since.plus_seconds(deadline).0 - now.wall.0;
    let restarted = text(deployment, "/status/observedGeneration").is_empty()
        && text_of(deployment, "reason") == "NewReplicaSetAvailable";
    if left <= 0 && !restarted {
        return (Some(("False", "ProgressDeadlineExceeded", format!("{subject} has timed out progressing."))), None);
    }
    let again = Some(Millis(now.monotonic.0 + left.max(1)));
    let reason = if new.is_none() { "NewReplicaSetCreated" } else { "ReplicaSetUpdated" };
    (Some(("True", reason, format!("{subject} is progressing."))), again)
}
