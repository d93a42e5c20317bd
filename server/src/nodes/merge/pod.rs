//! A pod's report becomes its status.

use coracle_shared::report::{ContainerReport, ContainerState, Exit, Phase, PodReport};
use coracle_store::Class;
use serde_json::{Value, json};

use super::super::stored::time;
use super::{Condition, set_condition, set_text};

/// What becomes of the stored pod.
#[derive(Clone, Debug, PartialEq)]
pub enum PodOutcome {
    /// The report says what is stored already, or is not this node's to say.
    Nothing,
    Update {
        object: Value,
        class: Class,
    },
    /// The last of a deleting pod; its final form.
    Remove {
        object: Value,
    },
}

/// Merges a report of `node` into the stored pod.
pub fn pod(stored: &Value, report: &PodReport, node: &str, now: i64) -> PodOutcome {
    let metadata = &stored["metadata"];
    let is_same = metadata["uid"] == report.uid.0.as_str() && stored["spec"]["nodeName"] == node;
    if !is_same {
        return PodOutcome::Nothing;
    }
    let was_terminal = is_terminal(stored["status"]["phase"].as_str().unwrap_or_default());
    let mut object = stored.clone();
    // A pod that has ended stays ended, whatever a later report says.
    if !was_terminal || matches!(report.phase, Phase::Succeeded | Phase::Failed) {
        object["status"] = status(stored, report, now);
    }
    if report.gone && !metadata["deletionTimestamp"].is_null() {
        return gone(object, stored);
    }
    if object == *stored {
        return PodOutcome::Nothing;
    }
    let terminal = is_terminal(object["status"]["phase"].as_str().unwrap_or_default());
    PodOutcome::Update { object, class: if terminal { Class::Durable } else { Class::Volatile } }
}

/// Nothing of the pod is left on its node: it goes, unless somebody's finalizer holds it; then it
/// waits for that alone.
fn gone(mut object: Value, stored: &Value) -> PodOutcome {
    let held = object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
    if !held {
        return PodOutcome::Remove { object };
    }
    object["metadata"]["deletionGracePeriodSeconds"] = 0.into();
    match object == *stored {
        true => PodOutcome::Nothing,
        false => PodOutcome::Update { object, class: Class::Durable },
    }
}

fn is_terminal(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

fn status(stored: &Value, report: &PodReport, now: i64) -> Value {
    let mut status = match &stored["status"] {
        Value::Object(map) => Value::Object(map.clone()),
        _ => json!({}),
    };
    status["phase"] = phase(report.phase).into();
    set_text(&mut status, "reason", &report.reason);
    set_text(&mut status, "message", &report.message);
    set_text(&mut status, "hostIP", &text(report.host_ip));
    set_text(&mut status, "podIP", &text(report.pod_ip));
    if let Some(ip) = report.pod_ip {
        status["podIPs"] = json!([{"ip": ip.to_string()}]);
    }
    if let Some(ip) = report.host_ip {
        status["hostIPs"] = json!([{"ip": ip.to_string()}]);
    }
    if let Some(started) = report.started_at {
        status["startTime"] = time(started).into();
    }
    status["conditions"] = conditions(&status, report, now);
    status["containerStatuses"] = report.containers.iter().map(container).collect();
    if report.init_containers.is_empty() {
        set_text(&mut status, "initContainerStatuses", "");
    } else {
        status["initContainerStatuses"] = report.init_containers.iter().map(container).collect();
    }
    status
}

fn text<T: ToString>(value: Option<T>) -> String {
    value.map(|v| v.to_string()).unwrap_or_default()
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
    }
}

/// PodScheduled, Initialized, ContainersReady and Ready, with the reasons that kubelets give.
fn conditions(status: &Value, report: &PodReport, now: i64) -> Value {
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let unready = listed(report.containers.iter().filter(|c| !c.ready), "containers with unready status");
    let uninitialized = listed(
        report.init_containers.iter().filter(|c| !matches!(&c.state, ContainerState::Terminated(e) if e.code == 0)),
        "containers with incomplete status",
    );
    let all_ready = !report.containers.is_empty() && report.containers.iter().all(|c| c.ready);
    let ended = report.phase == Phase::Succeeded;
    let mut set = |kind, holds: bool, reason, message: &str| {
        let status = if holds { "True" } else { "False" };
        let (reason, message) = if holds && !ended { ("", "") } else { (reason, message) };
        set_condition(&mut conditions, &Condition { kind, status, reason, message }, false, now);
    };
    set("PodScheduled", true, "", "");
    let (reason, message) =
        if report.initialized { ("PodCompleted", "") } else { ("ContainersNotInitialized", uninitialized.as_str()) };
    set("Initialized", report.initialized, reason, message);
    let (reason, message) = if ended { ("PodCompleted", "") } else { ("ContainersNotReady", unready.as_str()) };
    set("ContainersReady", all_ready && !ended, reason, message);
    set("Ready", report.ready && !ended, reason, message);
    conditions.into()
}

/// `containers with unready status: [web sidecar]`.
fn listed<'a>(containers: impl Iterator<Item = &'a ContainerReport>, what: &str) -> String {
    let names: Vec<&str> = containers.map(|c| c.name.as_str()).collect();
    if names.is_empty() { String::new() } else { format!("{what}: [{}]", names.join(" ")) }
}

fn container(report: &ContainerReport) -> Value {
    json!({
        "name": report.name,
        "image": report.image,
        "imageID": report.image_id,
        "containerID": report.container_id,
        "ready": report.ready,
        "started": report.started,
        "restartCount": report.restart_count,
        "state": state(&report.state),
        "lastState": report.last.as_ref().map_or_else(|| json!({}), |exit| json!({"terminated": terminated(exit)})),
    })
}

fn state(state: &ContainerState) -> Value {
    match state {
        ContainerState::Waiting { reason, message } => {
            let mut waiting = json!({"reason": reason});
            set_text(&mut waiting, "message", message);
            json!({"waiting": waiting})
        }
        ContainerState::Running { started_at } => json!({"running": {"startedAt": time(*started_at)}}),
        ContainerState::Terminated(exit) => json!({"terminated": terminated(exit)}),
    }
}

fn terminated(exit: &Exit) -> Value {
    let mut out = json!({
        "exitCode": exit.code,
        "reason": exit.reason,
        "startedAt": time(exit.started_at),
        "finishedAt": time(exit.finished_at),
        "containerID": exit.container_id,
    });
    if let Some(signal) = exit.signal {
        out["signal"] = signal.into();
    }
    set_text(&mut out, "message", &exit.message);
    out
}
