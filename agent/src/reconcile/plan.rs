//! What to do next about a pod: a pure function of what is desired, what is known and the time.

use super::state::{Container, Now, Run, State, Step};
use super::view::PodView;
use crate::probes::Kind;

/// A container that outlives its SIGKILL (stuck in the kernel) gets another one after this, in milliseconds.
pub const KILL_AGAIN: u64 = 10_000;

/// One thing to do. Numbers are container indexes: init containers first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    EnsureImage(usize),
    PrepareVolumes,
    RefreshVolumes,
    /// Network namespace and pause process.
    CreateSandbox,
    Start(usize),
    /// The container's stop signal.
    SignalStop(usize),
    SignalKill(usize),
    Probe(usize, Kind),
    /// Removes sandbox and network; `forget` also volumes, logs and every trace.
    Teardown {
        forget: bool,
    },
    /// Writes to the ledger that the pod has ended.
    Record,
}

/// What to do now, and when to look again (monotonic milliseconds) if nothing happens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub wake: Option<u64>,
}

impl Plan {
    fn wake_at(&mut self, at: u64) {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }

    /// `action` if the time has come, else a wake-up for it.
    fn at(&mut self, at: u64, now: Now, action: Action) {
        if at <= now.mono { self.actions.push(action) } else { self.wake_at(at) }
    }

    fn step<T>(&mut self, step: &Step<T>, now: Now, action: Action) {
        if let Step::Due { at, .. } = step {
            self.at(*at, now, action);
        }
    }
}

/// How a pod stands as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// It has things to run.
    Going,
    /// Its containers are done or it was ended; some may still be running.
    Ending,
}

/// Whether the pod still has something to run.
pub fn course(view: &PodView, state: &State) -> Course {
    let failed_init = (0..state.containers.len())
        .any(|i| view.is_init(i) && !view.is_sidecar(i) && state.containers[i].exit().is_some_and(|e| e.code != 0));
    let inits = view.spec.init_containers.len();
    let all_done = state.containers[inits.min(state.containers.len())..].iter().all(|c| c.exit().is_some());
    if state.end.is_some() || failed_init || all_done { Course::Ending } else { Course::Going }
}

/// What to do about the pod now. Never anything that [`State::begin`] has noted as under way.
pub fn plan(view: &PodView, state: &State, now: Now) -> Plan {
    let mut plan = Plan::default();
    if state.gone {
        return plan;
    }
    // In a pod that kills the agent nothing is begun, not even its end.
    if let Some((until, _)) = state.hold.as_ref().filter(|(until, _)| *until > now.mono) {
        plan.wake_at(*until);
        return plan;
    }
    match (state.stop, course(view, state)) {
        (Some(stop), _) => stopping(&mut plan, state, stop.deadline, now),
        (None, Course::Ending) => ending(&mut plan, state, now),
        (None, Course::Going) => going(&mut plan, view, state, now),
    }
    plan
}

fn stopping(plan: &mut Plan, state: &State, deadline: u64, now: Now) {
    for (i, c) in state.containers.iter().enumerate() {
        ladder(plan, i, c, deadline, now);
    }
    // Never remove what is being made, and never claim an end before everything ended.
    if !state.busy() && !state.recorded.doing() && !state.containers.iter().any(Container::alive) {
        plan.step(&state.removal, now, Action::Teardown { forget: true });
    }
}

fn ending(plan: &mut Plan, state: &State, now: Now) {
    for (i, c) in state.containers.iter().enumerate() {
        ladder(plan, i, c, u64::MAX, now);
    }
    if state.busy() || state.containers.iter().any(Container::alive) {
        return;
    }
    plan.step(&state.recorded, now, Action::Record);
    if state.recorded.done().is_some() && !state.put_away {
        plan.step(&state.removal, now, Action::Teardown { forget: false });
    }
}

/// Stop signal, then SIGKILL from the deadline on, again and again.
fn ladder(plan: &mut Plan, i: usize, c: &Container, deadline: u64, now: Now) {
    if !c.running() {
        return;
    }
    let deadline = c.kill_by.unwrap_or(u64::MAX).min(deadline);
    if deadline > now.mono {
        if !c.stop_sent {
            plan.actions.push(Action::SignalStop(i));
        }
        return plan.wake_at(deadline);
    }
    plan.at(c.killed_at.map_or(0, |at| at + KILL_AGAIN), now, Action::SignalKill(i));
}

fn going(plan: &mut Plan, view: &PodView, state: &State, now: Now) {
    if state.lost {
        if !state.busy() && !state.containers.iter().any(Container::alive) {
            plan.step(&state.removal, now, Action::Teardown { forget: false });
        }
        return;
    }
    for (i, c) in state.containers.iter().enumerate() {
        if matches!(c.run, Run::Waiting { .. }) {
            plan.step(&c.image, now, Action::EnsureImage(i));
        }
        if c.kill_by.is_some() {
            ladder(plan, i, c, u64::MAX, now);
        }
    }
    plan.step(&state.volumes, now, Action::PrepareVolumes);
    plan.step(&state.sandbox, now, Action::CreateSandbox);
    if state.volumes.done().is_none() || state.sandbox.done().is_none() {
        return;
    }
    if state.stale_volumes && !state.refreshing {
        plan.actions.push(Action::RefreshVolumes);
    }
    starts(plan, view, state, now);
    probes(plan, state, now);
}

/// Init containers one after another, then the others together.
fn starts(plan: &mut Plan, view: &PodView, state: &State, now: Now) {
    for (i, c) in state.containers.iter().enumerate() {
        if let Run::Waiting { at, .. } = c.run
            && c.image.done().is_some()
        {
            plan.at(at, now, Action::Start(i));
        }
        let passed =
            !view.is_init(i) || c.exit().is_some() || (view.is_sidecar(i) && c.running() && c.started && !c.hooking);
        if !passed {
            return;
        }
    }
}

fn probes(plan: &mut Plan, state: &State, now: Now) {
    for (i, c) in state.containers.iter().enumerate().filter(|(_, c)| c.running() && !c.hooking && c.kill_by.is_none())
    {
        for (kind, probe) in &c.probes {
            // Startup alone until it passed, then never again.
            if (*kind == Kind::Startup) != c.started
                && let Some(at) = probe.due()
            {
                plan.at(at, now, Action::Probe(i, *kind));
            }
        }
    }
}
