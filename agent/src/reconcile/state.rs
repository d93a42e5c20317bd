//! What is known of one pod, and how that changes: the memory of the pure machine.
//!
//! Nothing here does anything: [`super::plan::plan`] reads a [`State`] and says what to do,
//! [`State::begin`] notes that it is being done, and the methods named after what happened
//! (`pulled`, `started`, `exited`, …) take in how it went. Time comes in as [`Now`].

use coracle_shared::report::Exit;

use super::plan::{Action, Course, course};
pub use super::step::*;
use super::view::{PodView, RestartPolicy};
use crate::probes::{Kind, ProbeState};

/// Where a container is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    /// To be started at `at` when its turn has come. `fault` says why it is not running.
    Waiting { at: u64, fault: Option<Fault> },
    /// A start is in flight. `exit`: it ended before the start was confirmed.
    Starting { exit: Option<Exit> },
    /// `since` is monotonic.
    Running { started: Started, since: u64 },
    /// Ended, and not to be started again.
    Exited(Exit),
}

/// What is known of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The image reference that `image` and what runs were made from.
    pub image_ref: String,
    pub image: Step<PulledImage>,
    pub run: Run,
    /// Counts starts after the first: the restart count, and the name of the run in the runtime.
    pub attempt: u32,
    pub last: Option<Exit>,
    /// The delay before the next restart; 0 for the first.
    pub delay: u64,
    /// Failed starts in a row.
    pub failed_starts: u32,
    /// No readiness probe, or it passed last.
    pub ready: bool,
    /// No startup probe, or it has passed.
    pub started: bool,
    /// Its postStart hook is being carried out: until it is done the container is not ready.
    pub hooking: bool,
    pub probes: Vec<(Kind, ProbeState)>,
    /// It is to end by then (monotonic), with the reason.
    pub kill_by: Option<u64>,
    /// It restarts whatever its policy: its image changed.
    pub renew: bool,
    pub stop_sent: bool,
    pub killed_at: Option<u64>,
}

impl Container {
    fn new(image_ref: &str) -> Self {
        Self {
            image_ref: image_ref.to_owned(),
            image: Step::new(),
            run: Run::Waiting { at: 0, fault: None },
            attempt: 0,
            last: None,
            delay: 0,
            failed_starts: 0,
            ready: false,
            started: false,
            hooking: false,
            probes: Vec::new(),
            kill_by: None,
            renew: false,
            stop_sent: false,
            killed_at: None,
        }
    }

    pub fn alive(&self) -> bool {
        matches!(self.run, Run::Running { .. } | Run::Starting { .. })
    }

    pub fn running(&self) -> bool {
        matches!(self.run, Run::Running { .. })
    }

    pub fn exit(&self) -> Option<&Exit> {
        if let Run::Exited(exit) = &self.run { Some(exit) } else { None }
    }
}

/// A pod that is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// SIGKILL from then on (monotonic).
    pub deadline: u64,
}

/// What is known of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub stop: Option<Stop>,
    /// The pod as a whole has failed for this (DeadlineExceeded, InvalidPodSpec).
    pub end: Option<Fault>,
    /// Nothing new is begun before then (monotonic), with the reason.
    pub hold: Option<(u64, Fault)>,
    pub volumes: Step<()>,
    /// Data that mounted volumes show has changed.
    pub stale_volumes: bool,
    pub refreshing: bool,
    pub sandbox: Step<SandboxInfo>,
    /// The sandbox died under the pod: it is removed and made anew.
    pub lost: bool,
    /// Its death was heard of before it was said to be up.
    pub died_early: bool,
    pub removal: Step<()>,
    /// The removal under way leaves nothing at all.
    pub forgetting: bool,
    pub containers: Vec<Container>,
    pub started: Option<Now>,
    /// The pod's end is in the ledger, so that no restart of anything runs it again.
    pub recorded: Step<()>,
    /// Ended, and its sandbox is removed; logs are kept.
    pub put_away: bool,
    /// Stopped and nothing is left.
    pub gone: bool,
}

impl State {
    pub fn new(view: &PodView) -> Self {
        Self {
            stop: None,
            end: None,
            hold: None,
            volumes: Step::new(),
            stale_volumes: false,
            refreshing: false,
            sandbox: Step::new(),
            lost: false,
            died_early: false,
            removal: Step::new(),
            forgetting: false,
            containers: view.containers().map(|c| Container::new(&c.image)).collect(),
            started: None,
            recorded: Step::new(),
            put_away: false,
            gone: false,
        }
    }

    /// Something of the pod is being made or undone right now, pulls apart.
    pub fn busy(&self) -> bool {
        self.volumes.doing()
            || self.sandbox.doing()
            || self.refreshing
            || self.containers.iter().any(|c| matches!(c.run, Run::Starting { .. }))
    }

    /// Notes that `action` is under way.
    pub fn begin(&mut self, action: &Action, now: Now) {
        match *action {
            Action::EnsureImage(i) => self.containers[i].image.begin(),
            Action::PrepareVolumes => {
                self.started.get_or_insert(now);
                self.stale_volumes = false;
                self.volumes.begin();
            }
            Action::RefreshVolumes => {
                self.stale_volumes = false;
                self.refreshing = true;
            }
            Action::CreateSandbox => {
                self.started.get_or_insert(now);
                self.died_early = false;
                self.sandbox.begin();
            }
            Action::Start(i) => self.containers[i].run = Run::Starting { exit: None },
            Action::SignalStop(i) => self.containers[i].stop_sent = true,
            Action::SignalKill(i) => {
                self.containers[i].stop_sent = true;
                self.containers[i].killed_at = Some(now.mono);
            }
            Action::Probe(i, kind) => {
                if let Some(probe) = self.probe_mut(i, kind) {
                    probe.begin(now.mono);
                }
            }
            Action::Teardown { forget } => {
                self.forgetting = forget;
                self.removal.begin();
            }
            Action::Record => self.recorded.begin(),
        }
    }

    /// The pod is to stop within `grace` milliseconds; a second call can only shorten that.
    pub fn request_stop(&mut self, grace: u64, now: Now) {
        let deadline = now.mono.saturating_add(grace);
        match &mut self.stop {
            Some(stop) => stop.deadline = stop.deadline.min(deadline),
            None => self.stop = Some(Stop { deadline }),
        }
        self.removal.hurry(now);
    }

    /// The pod ends as a whole; its containers get `grace` milliseconds.
    pub fn request_end(&mut self, fault: Fault, grace: u64, now: Now) {
        if self.end.is_none() {
            self.end = Some(fault);
            self.end_running(grace, now);
        }
    }

    /// What still runs in a pod that is ending gets `grace` milliseconds from now, once.
    pub fn end_running(&mut self, grace: u64, now: Now) {
        for c in self.containers.iter_mut().filter(|c| c.alive()) {
            c.kill_by.get_or_insert(now.mono.saturating_add(grace));
        }
    }

    /// What making a sandbox waits for may have changed.
    pub fn hurry(&mut self, now: Now) {
        self.sandbox.hurry(now);
    }

    /// ConfigMaps or Secrets that the pod uses have changed.
    pub fn data_changed(&mut self, now: Now) {
        self.volumes.hurry(now);
        self.stale_volumes = true;
        for c in &mut self.containers {
            if let Run::Waiting { at, fault: Some(fault) } = &mut c.run
                && fault.reason == "CreateContainerConfigError"
            {
                *at = (*at).min(now.mono);
            }
        }
    }

    /// The pod's definition changed. Only a container's image makes it restart.
    pub fn respec(&mut self, view: &PodView, now: Now) {
        for (c, new) in self.containers.iter_mut().zip(view.containers()) {
            if c.image_ref == new.image {
                continue;
            }
            match &c.run {
                Run::Exited(_) => continue,
                Run::Waiting { .. } => {
                    c.image_ref.clone_from(&new.image);
                    c.image = Step::new();
                }
                // Pulled first by the ladder's end: `exited` takes up the new image.
                Run::Starting { .. } | Run::Running { .. } => {
                    c.renew = true;
                    c.kill_by = Some(now.mono + u64::from(view.grace()) * 1000);
                }
            }
        }
        self.stale_volumes = true;
    }

    pub fn pulled(&mut self, i: usize, result: Result<PulledImage, Fault>, now: Now) {
        self.containers[i].image.finish(result, now);
    }

    pub fn volumes_ready(&mut self, result: Result<(), Fault>, now: Now) {
        self.volumes.finish(result, now);
        if std::mem::take(&mut self.stale_volumes) && self.volumes.done().is_none() {
            self.volumes.hurry(now);
        }
    }

    pub fn refreshed(&mut self) {
        self.refreshing = false;
    }

    pub fn sandbox_up(&mut self, result: Result<SandboxInfo, Fault>, now: Now) {
        self.sandbox.finish(result, now);
        if std::mem::take(&mut self.died_early) && self.sandbox.done().is_some() {
            self.lost = true;
            self.removal = Step::new();
        }
    }

    /// The pod's pause process died, and with it every container.
    pub fn sandbox_lost(&mut self, view: &PodView, now: Now) {
        self.died_early |= self.sandbox.doing();
        if self.sandbox.done().is_none() || self.lost {
            return;
        }
        self.lost = true;
        self.removal = Step::new();
        for i in 0..self.containers.len() {
            self.end_with_sandbox(view, i, now);
        }
    }

    /// A container that ran in a sandbox that died.
    fn end_with_sandbox(&mut self, view: &PodView, i: usize, now: Now) {
        if let Run::Running { started, .. } = &self.containers[i].run {
            let exit = Exit {
                code: 137,
                signal: Some(9),
                reason: "Error".into(),
                message: "the pod's sandbox died".into(),
                started_at: started.started_at,
                finished_at: now.wall,
                container_id: started.container_id.clone(),
            };
            self.exited(view, i, exit, now);
        }
    }

    pub fn torn_down(&mut self, view: &PodView, result: Result<(), Fault>, now: Now) {
        let ok = result.is_ok();
        self.removal.finish(result, now);
        if !ok {
            return;
        }
        self.sandbox = Step::new();
        if self.stop.is_some() {
            // A removal that began before the stop left logs and volumes: once more, whole.
            self.gone = self.forgetting;
            self.removal = Step::new();
            return;
        }
        if self.recorded.done().is_some() {
            self.put_away = true;
            self.removal = Step::new();
            return;
        }
        self.lost = false;
        self.removal = Step::new();
        self.volumes = Step::new();
        // A new sandbox starts from its init containers.
        for i in 0..self.containers.len() {
            let c = &mut self.containers[i];
            if view.is_init(i) && matches!(c.run, Run::Exited(_)) {
                c.run = Run::Waiting { at: now.mono, fault: None };
                c.attempt += 1;
            }
        }
    }

    pub fn started(&mut self, view: &PodView, i: usize, result: Result<Started, StartFault>, now: Now) {
        let Run::Starting { exit } =
            std::mem::replace(&mut self.containers[i].run, Run::Waiting { at: 0, fault: None })
        else {
            return;
        };
        match result {
            Ok(started) => self.run(view, i, started, exit, now),
            Err(fault) => self.start_failed(view, i, fault, now),
        }
    }

    fn run(&mut self, view: &PodView, i: usize, started: Started, exit: Option<Exit>, now: Now) {
        let c = &mut self.containers[i];
        c.run = Run::Running { started, since: now.mono };
        c.failed_starts = 0;
        c.stop_sent = false;
        c.killed_at = None;
        self.arm(view, i, now);
        let hook = view.container(i).is_some_and(|spec| spec.lifecycle.post_start.is_some());
        self.containers[i].hooking = hook;
        if let Some(exit) = exit {
            self.exited(view, i, exit, now);
        } else if self.lost {
            self.end_with_sandbox(view, i, now);
        }
    }

    /// Sets the probes of a container that began to run.
    fn arm(&mut self, view: &PodView, i: usize, now: Now) {
        let (Some(spec), c) = (view.container(i), &mut self.containers[i]) else { return };
        let probe = |kind: Kind| kind.of(spec).map(|p| (kind, ProbeState::new(p, now.mono)));
        c.probes = Kind::ALL.into_iter().filter_map(probe).collect();
        c.ready = spec.readiness_probe.is_none();
        c.started = spec.startup_probe.is_none();
    }

    fn start_failed(&mut self, view: &PodView, i: usize, fault: StartFault, now: Now) {
        let c = &mut self.containers[i];
        c.failed_starts += 1;
        let at = now.mono + backoff(c.failed_starts);
        match fault {
            StartFault::Config(m) => {
                c.run = Run::Waiting { at, fault: Some(Fault::new("CreateContainerConfigError", m)) };
            }
            StartFault::Create(m) => c.run = Run::Waiting { at, fault: Some(Fault::new("CreateContainerError", m)) },
            StartFault::Run(m) => {
                let exit = Exit {
                    code: 128,
                    signal: None,
                    reason: "StartError".into(),
                    message: m,
                    started_at: 0,
                    finished_at: now.wall,
                    container_id: String::new(),
                };
                c.run = Run::Running {
                    started: Started { container_id: String::new(), started_at: now.wall },
                    since: now.mono,
                };
                self.exited(view, i, exit, now);
            }
        }
    }

    /// A container's first process ended.
    pub fn exited(&mut self, view: &PodView, i: usize, exit: Exit, now: Now) {
        let policy = view.restart_policy(i);
        let staying = self.stop.is_none() && course(view, self) == Course::Going;
        let c = &mut self.containers[i];
        let since = match &mut c.run {
            Run::Starting { exit: early } => {
                *early = Some(exit);
                return;
            }
            Run::Running { since, .. } => *since,
            Run::Waiting { .. } | Run::Exited(_) => return,
        };
        let by_policy = match policy {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => exit.code != 0,
            RestartPolicy::Never => false,
        };
        let renew = std::mem::take(&mut c.renew);
        (c.ready, c.started, c.hooking, c.kill_by) = (false, false, false, None);
        c.probes.clear();
        if !staying || !(by_policy || renew) {
            c.run = Run::Exited(exit);
            return;
        }
        if now.mono.saturating_sub(since) >= BACKOFF_RESET || renew {
            c.delay = 0;
        }
        let fault = (c.delay > 0).then(|| {
            let name = view.container(i).map_or("", |v| v.name.as_str());
            let seconds = c.delay / 1000;
            Fault::new("CrashLoopBackOff", format!("back-off {seconds}s restarting failed container={name}"))
        });
        c.run = Run::Waiting { at: now.mono + c.delay, fault };
        c.delay = (c.delay * 2).clamp(BACKOFF_FIRST, BACKOFF_MAX);
        c.attempt += 1;
        c.last = Some(exit);
        if let Some(spec) = view.container(i).filter(|spec| spec.image != c.image_ref) {
            c.image_ref.clone_from(&spec.image);
            c.image = Step::new();
        }
    }

    pub fn recorded(&mut self, result: Result<(), Fault>, now: Now) {
        self.recorded.finish(result, now);
    }

    pub(super) fn probe_mut(&mut self, i: usize, kind: Kind) -> Option<&mut ProbeState> {
        self.containers.get_mut(i)?.probes.iter_mut().find(|(k, _)| *k == kind).map(|(_, p)| p)
    }

    /// Takes over what a former agent left running.
    pub fn adopt(&mut self, view: &PodView, found: &Adopted, now: Now) {
        self.volumes = Step::Done(());
        self.sandbox = Step::Done(found.sandbox.clone());
        self.started = Some(Now { mono: now.mono, wall: found.started_at });
        // What changed while nobody watched is put right by one refresh.
        self.stale_volumes = true;
        for (i, spec) in view.containers().enumerate() {
            let Some(seen) = found.containers.iter().find(|c| c.name == spec.name) else { continue };
            let c = &mut self.containers[i];
            c.attempt = seen.attempt;
            c.last.clone_from(&seen.last);
            // Without the record of an earlier agent it is taken for what the pod asks for.
            if !seen.image_id.is_empty() {
                c.image = Step::Done(PulledImage { id: seen.image_id.clone(), pulled: None });
                c.image_ref.clone_from(&seen.image_ref);
            }
            c.run = Run::Running { started: seen.started.clone(), since: now.mono };
            self.arm(view, i, now);
            if let Some(exit) = &seen.exit {
                self.exited(view, i, exit.clone(), now);
            }
        }
        if !found.alive {
            self.sandbox_lost(view, now);
        }
        self.respec(view, now);
    }
}
