//! Pod: its columns, above all the STATUS that people read, and what a new pod starts with.

use std::collections::BTreeMap;

use coracle_store::Class;
use serde_json::{Value, json};

use super::cluster::{AGE, NAME, created, name, plain, wide};
use super::human::{duration, millis};
use super::{Column, Moment, Rules, View, Write};

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    plain("Ready", "The number of ready containers out of all."),
    plain("Status", "The state of the containers in one word."),
    plain("Restarts", "How often the containers were restarted, and when last."),
    AGE,
    wide("IP", "The address of the pod."),
    wide("Node", "The node that the pod is bound to."),
    wide("Nominated Node", "The node that was freed for the pod."),
    wide("Readiness Gates", "The conditions that must hold besides the containers' readiness."),
];

pub(super) fn cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let summary = summary(view);
    let or_none = |text: &str| Value::from(if text.is_empty() { "<none>" } else { text });
    let restarts = match summary.last_restart {
        Some(at) if summary.restarts != 0 => format!("{} ({} ago)", summary.restarts, duration(moment.now - at)),
        _ => summary.restarts.to_string(),
    };
    vec![
        name(view),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.status.into(),
        restarts.into(),
        created(view, moment),
        or_none(view.text(&["status", "podIP"])),
        or_none(view.text(&["spec", "nodeName"])),
        or_none(view.text(&["status", "nominatedNodeName"])),
        readiness_gates(view).into(),
    ]
}

fn readiness_gates(view: &View<'_>) -> String {
    let gates = view.list(&["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".into();
    }
    let met = gates.iter().filter(|g| view.is_true(View(g).text(&["conditionType"]))).count();
    format!("{met}/{}", gates.len())
}

/// A pod in the words of `kubectl get pods`.
#[derive(Debug, PartialEq, Eq)]
pub struct Summary {
    pub ready: usize,
    pub total: usize,
    pub status: String,
    pub restarts: i64,
    /// When a container last ended and was restarted, in milliseconds since the Unix epoch.
    pub last_restart: Option<i64>,
}

/// Restarts counted so far.
#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i64,
    last: Option<i64>,
}

impl Restarts {
    fn add(&mut self, container: &View<'_>) {
        self.count += container.number(&["restartCount"]);
        self.last = self.last.max(millis(container.text(&["lastState", "terminated", "finishedAt"])));
    }
}

/// What the init containers make of a pod.
struct Init {
    /// Why initializing is not over, in words; `None` when it is.
    reason: Option<String>,
    ready: usize,
    restarts: Restarts,
    /// Of the init containers that stay (sidecars) alone.
    sidecar_restarts: Restarts,
}

pub fn summary(view: &View<'_>) -> Summary {
    let phase = view.text(&["status", "phase"]);
    let mut status = match view.text(&["status", "reason"]) {
        "" => phase.to_owned(),
        reason => reason.to_owned(),
    };
    if view.condition("PodScheduled").is_some_and(|c| c.text(&["reason"]) == "SchedulingGated") {
        status = "SchedulingGated".into();
    }
    let sidecars = view.list(&["spec", "initContainers"]).iter().filter(|c| is_sidecar(c)).count();
    let init = init(view);
    let (mut ready, mut restarts) = (init.ready, init.restarts);
    let initializing = init.reason.is_some();
    status = init.reason.unwrap_or(status);
    if !initializing || view.is_true("Initialized") {
        restarts = init.sidecar_restarts;
        ready += containers(view, &mut status, &mut restarts);
    }
    if view.has(&["metadata", "deletionTimestamp"]) {
        if view.text(&["status", "reason"]) == "NodeLost" {
            status = "Unknown".into();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            status = "Terminating".into();
        }
    }
    let total = view.list(&["spec", "containers"]).len() + sidecars;
    Summary { ready, total, status, restarts: restarts.count, last_restart: restarts.last }
}

fn is_sidecar(container: &Value) -> bool {
    View(container).text(&["restartPolicy"]) == "Always"
}

fn init(view: &View<'_>) -> Init {
    let specs = view.list(&["spec", "initContainers"]);
    let sidecars: BTreeMap<&str, bool> = specs.iter().map(|c| (View(c).text(&["name"]), is_sidecar(c))).collect();
    let mut init =
        Init { reason: None, ready: 0, restarts: Restarts::default(), sidecar_restarts: Restarts::default() };
    for (index, container) in view.list(&["status", "initContainerStatuses"]).iter().map(View).enumerate() {
        let sidecar = sidecars.get(container.text(&["name"])).copied().unwrap_or_default();
        init.restarts.add(&container);
        if sidecar {
            init.sidecar_restarts.add(&container);
        }
        let ended = container.has(&["state", "terminated"]);
        if ended && container.number(&["state", "terminated", "exitCode"]) == 0 {
            continue;
        }
        if sidecar && container.flag(&["started"]) {
            init.ready += usize::from(container.flag(&["ready"]));
            continue;
        }
        let waiting = container.text(&["state", "waiting", "reason"]);
        init.reason = Some(match (ended, waiting) {
            (true, _) => format!("Init:{}", ending(&container)),
            (false, "" | "PodInitializing") => format!("Init:{index}/{}", specs.len()),
            (false, reason) => format!("Init:{reason}"),
        });
        break;
    }
    init
}

/// The word for a container that ended.
fn ending(container: &View<'_>) -> String {
    let terminated = View(container.at(&["state", "terminated"]));
    match (terminated.text(&["reason"]), terminated.number(&["signal"])) {
        ("", 0) => format!("ExitCode:{}", terminated.number(&["exitCode"])),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.into(),
    }
}

/// Lets the containers change the status, adds their restarts, and answers how many are ready.
fn containers(view: &View<'_>, status: &mut String, restarts: &mut Restarts) -> usize {
    let mut ready = 0;
    let mut running = false;
    for container in view.list(&["status", "containerStatuses"]).iter().rev().map(View) {
        restarts.add(&container);
        let waiting = container.text(&["state", "waiting", "reason"]);
        if !waiting.is_empty() {
            *status = waiting.into();
        } else if container.has(&["state", "terminated"]) {
            *status = ending(&container);
        } else if container.flag(&["ready"]) && container.has(&["state", "running"]) {
            running = true;
            ready += 1;
        }
    }
    if status == "Completed" && running {
        *status = if view.is_true("Ready") { "Running".into() } else { "NotReady".into() };
    }
    ready
}

pub(super) const RULES: Rules = Rules { create, update, class };

fn create(object: &mut Value, _: &Moment) {
    let qos = qos_class(&View(object));
    object["status"] = json!({"phase": "Pending", "qosClass": qos});
    let spec = &mut object["spec"];
    if spec.get("serviceAccountName").is_none_or(|n| n == "") {
        spec["serviceAccountName"] = "default".into();
    }
    spec["serviceAccount"] = spec["serviceAccountName"].clone();
}

fn update(object: &mut Value, old: &Value) {
    for field in ["serviceAccountName", "serviceAccount", "nodeName"] {
        let before = &old["spec"][field];
        if object["spec"].get(field).is_none() && !before.is_null() {
            object["spec"][field] = before.clone();
        }
    }
}

/// A node's word on a pod that is not over lives in memory: the node says it again.
fn class(write: &Write<'_>) -> Class {
    let over = matches!(View(write.new).text(&["status", "phase"]), "Succeeded" | "Failed");
    if write.status && write.by_node && !over { Class::Volatile } else { Class::Durable }
}

/// Guaranteed, Burstable or BestEffort, by the requests and limits of all containers.
fn qos_class(pod: &View<'_>) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    let containers = pod.list(&["spec", "containers"]).iter().chain(pod.list(&["spec", "initContainers"]));
    for container in containers.map(View) {
        for resource in ["cpu", "memory"] {
            let limit = container.at(&["resources", "limits", resource]);
            let request = container.at(&["resources", "requests", resource]);
            any |= !is_zero(limit) || !is_zero(request);
            guaranteed &= !is_zero(limit) && (request.is_null() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn is_zero(quantity: &Value) -> bool {
    quantity.is_null() || quantity == "0" || quantity == 0
}

#[cfg(test)]
mod tests;
