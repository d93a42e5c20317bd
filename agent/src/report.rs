//! What the agent says: of a pod from its machine's state, of the node from the kernel's files.

pub mod node;

use std::net::Ipv4Addr;

use coracle_shared::report::{ContainerReport, ContainerState, Exit, Phase, PodReport};

use crate::reconcile::plan::{Course, course};
use crate::reconcile::state::{Container, Now, PULL_ERROR_SHOWN, Run, State};
use crate::reconcile::view::{ContainerView, PodView, RestartPolicy};

/// A pod's report, and when it changes by itself (monotonic milliseconds).
pub fn pod_report(view: &PodView, state: &State, host_ip: Option<Ipv4Addr>, now: Now) -> (PodReport, Option<u64>) {
    let inits = view.spec.init_containers.len();
    let initialized = (0..inits).all(|i| passed(view, state, i));
    let mut wake = None;
    let mut reports: Vec<ContainerReport> = Vec::with_capacity(state.containers.len());
    for (i, (c, spec)) in state.containers.iter().zip(view.containers()).enumerate() {
        let initializing = inits > 0 && !initialized && (i >= inits || (0..i).any(|p| !passed(view, state, p)));
        reports.push(container_report(view, i, c, spec, initializing, state, now, &mut wake));
    }
    let containers = reports.split_off(inits.min(reports.len()));
    let phase = phase(view, state, initialized);
    let ended = matches!(phase, Phase::Succeeded | Phase::Failed);
    let ready = !ended && state.stop.is_none() && initialized && containers.iter().all(|c| c.ready);
    let pod_ip = if view.spec.host_network { host_ip } else { state.sandbox.done().and_then(|s| s.pod_ip) };
    let held = state.hold.as_ref().filter(|(until, _)| *until > now.mono).map(|(_, fault)| fault);
    let shown = state.end.as_ref().or(held);
    let (reason, message) = shown.map_or_else(Default::default, |f| (f.reason.to_owned(), f.message.clone()));
    let report = PodReport {
        uid: view.metadata.uid.clone(),
        namespace: view.metadata.namespace.clone(),
        name: view.metadata.name.clone(),
        phase,
        reason,
        message,
        host_ip,
        pod_ip,
        started_at: state.started.map(|n| n.wall),
        initialized,
        ready,
        init_containers: reports,
        containers,
        gone: state.gone,
    };
    (report, wake)
}

/// Init container `i` does not hold the next ones back any more.
fn passed(view: &PodView, state: &State, i: usize) -> bool {
    let c = &state.containers[i];
    if view.is_sidecar(i) { c.running() && c.started } else { c.exit().is_some_and(|e| e.code == 0) }
}

/// The phase as the kubelet's `getPhase` has it.
fn phase(view: &PodView, state: &State, initialized: bool) -> Phase {
    let alive = state.containers.iter().any(Container::alive);
    if state.end.is_some() && !alive {
        return Phase::Failed;
    }
    let inits = view.spec.init_containers.len().min(state.containers.len());
    let failed_init =
        (0..inits).any(|i| !view.is_sidecar(i) && state.containers[i].exit().is_some_and(|e| e.code != 0));
    if failed_init && !alive && course(view, state) == Course::Ending {
        return Phase::Failed;
    }
    let main = &state.containers[inits..];
    if main.iter().all(|c| c.exit().is_some()) && !alive {
        let succeeded = main.iter().all(|c| c.exit().is_some_and(|e| e.code == 0));
        return match (succeeded, view.spec.restart_policy) {
            (true, _) => Phase::Succeeded,
            (false, RestartPolicy::Never) => Phase::Failed,
            // Stopped from outside: it ended, and not by its own will.
            (false, _) if state.stop.is_some() => Phase::Failed,
            (false, _) => Phase::Running,
        };
    }
    let begun = main.iter().all(|c| c.running() || c.exit().is_some() || c.last.is_some());
    if initialized && begun { Phase::Running } else { Phase::Pending }
}

#[allow(clippy::too_many_arguments)]
fn container_report(
    view: &PodView,
    i: usize,
    c: &Container,
    spec: &ContainerView,
    initializing: bool,
    state: &State,
    now: Now,
    wake: &mut Option<u64>,
) -> ContainerReport {
    let container_id = match &c.run {
        Run::Running { started, .. } => started.container_id.clone(),
        Run::Exited(exit) => exit.container_id.clone(),
        Run::Waiting { .. } | Run::Starting { .. } => {
            c.last.as_ref().map(|e| e.container_id.clone()).unwrap_or_default()
        }
    };
    let shown = match &c.run {
        Run::Running { started, .. } => ContainerState::Running { started_at: started.started_at },
        Run::Exited(exit) => ContainerState::Terminated(exit.clone()),
        Run::Waiting { .. } | Run::Starting { .. } => match &state.hold {
            Some((until, fault)) if *until > now.mono => {
                ContainerState::Waiting { reason: fault.reason.into(), message: fault.message.clone() }
            }
            _ => waiting(c, initializing, now, wake),
        },
    };
    let running = c.running() && !c.hooking;
    // A finished init container counts as ready, as kubectl's column has it.
    let completed = view.is_init(i) && !view.is_sidecar(i) && c.exit().is_some_and(|e| e.code == 0);
    ContainerReport {
        name: spec.name.clone(),
        image: spec.image.clone(),
        image_id: c.image.done().map(|i| i.id.clone()).unwrap_or_default(),
        container_id,
        state: shown,
        last: c.last.clone().filter(|_| !matches!(c.run, Run::Exited(_)) || c.attempt > 0),
        ready: completed || (running && c.started && c.ready && state.stop.is_none()),
        started: running && c.started,
        restart_count: c.attempt,
    }
}

fn waiting(c: &Container, initializing: bool, now: Now, wake: &mut Option<u64>) -> ContainerState {
    let state = |reason: &str, message: String| ContainerState::Waiting { reason: reason.to_owned(), message };
    if let Some((fault, at)) = c.image.fault() {
        let shown_until = at + PULL_ERROR_SHOWN;
        if fault.reason != "ErrImagePull" || (now.mono < shown_until && !c.image.doing()) {
            if fault.reason == "ErrImagePull" {
                *wake = Some(wake.map_or(shown_until, |w| w.min(shown_until)));
            }
            return state(fault.reason, fault.message.clone());
        }
        return state("ImagePullBackOff", format!("Back-off pulling image \"{}\": {}", c.image_ref, fault.message));
    }
    match &c.run {
        Run::Waiting { fault: Some(fault), .. } => state(fault.reason, fault.message.clone()),
        _ if initializing => state("PodInitializing", String::new()),
        _ => state("ContainerCreating", String::new()),
    }
}

/// The reason of an exit, as Kubernetes users know it.
pub fn exit_reason(code: i32, oom_killed: bool) -> &'static str {
    match (oom_killed, code) {
        (true, _) => "OOMKilled",
        (false, 0) => "Completed",
        (false, _) => "Error",
    }
}

/// An end that nobody saw: the node or the pause process went down with it.
pub fn lost_exit(exit: &Exit) -> Exit {
    Exit { code: 255, reason: "Unknown".into(), ..exit.clone() }
}
