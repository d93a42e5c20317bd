//! The one owner of a pod: its view, its state, and the words about both.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use coracle_shared::ids::PodUid;
use coracle_shared::report::{EventReport, Exit, Phase, PodReport};

use super::fleet::{Desired, Found, Job, Outcome, Output, orphan_view};
use super::plan::{Action, Course, course, plan};
use super::state::{Adopted, Fault, Now, PulledImage, Run, StartFault, Started, State};
use super::view::{DataRef, PodView};
use super::work::QUARANTINE;
use crate::probes::{Kind, Verdict};
use crate::report::pod_report;

/// The reason of a pod that is left alone, in its status and its events.
pub const QUARANTINED: &str = "Quarantined";

/// One pod's machine.
#[derive(Debug)]
pub struct Owner {
    view: Arc<PodView>,
    /// What it was last told to be; compared by address, since the ledger keeps what is unchanged.
    desired: Option<Arc<Desired>>,
    state: State,
    /// Known from the ledger: the pod had ended before this agent started.
    ended: Option<Box<PodReport>>,
    data: BTreeSet<DataRef>,
    report: Option<PodReport>,
    /// `report` was not handed out yet.
    untold: bool,
    wake: Option<u64>,
    /// No desired set has it any more.
    abandoned: bool,
}

impl Owner {
    pub(super) fn new(uid: &PodUid, desired: &Arc<Desired>, adopted: Option<&Adopted>, now: Now) -> Self {
        let (view, fault) = match &desired.view {
            Ok(view) => (Arc::clone(view), None),
            Err(invalid) => (Arc::new(bare(uid, desired)), Some(Fault::new("InvalidPodSpec", invalid.to_string()))),
        };
        let mut owner = Self::with(view, Some(Arc::clone(desired)));
        match (adopted, &desired.ended) {
            (Some(adopted), _) => owner.state.adopt(&owner.view, adopted, now),
            (None, Some(report)) => owner.was_ended(report),
            (None, None) => {}
        }
        if let Some(fault) = fault {
            owner.state.request_end(fault, 0, now);
        } else if desired.quarantined {
            owner.quarantine(now);
        }
        owner.take_stop(now);
        owner
    }

    /// A sandbox that nobody desires: it is stopped.
    pub(super) fn orphan(uid: &PodUid, found: &Found, now: Now) -> Self {
        let mut owner = Self::with(Arc::new(orphan_view(uid, found)), None);
        owner.state.adopt(&owner.view, &found.adopted, now);
        owner.abandon(now);
        if found.quarantined {
            owner.quarantine(now);
        }
        owner
    }

    fn quarantine(&mut self, now: Now) {
        let minutes = QUARANTINE / 60_000;
        let message = format!(
            "the node's agent crashed twice while working on this pod and leaves it alone for {minutes} minutes; change or delete the pod to try again at once"
        );
        self.state.hold = Some((now.mono + QUARANTINE, Fault::new(QUARANTINED, message)));
    }

    /// What is told of a pod that is left alone.
    pub(super) fn quarantine_event(&self, now: Now) -> Option<EventReport> {
        let (_, fault) = self.state.hold.as_ref()?;
        Some(self.event(None, true, fault.reason, fault.message.clone(), now))
    }

    fn with(view: Arc<PodView>, desired: Option<Arc<Desired>>) -> Self {
        let (state, data) = (State::new(&view), view.data_refs());
        Self { view, desired, state, ended: None, data, report: None, untold: false, wake: None, abandoned: false }
    }

    /// Takes over the record of a pod that ended under an earlier agent.
    fn was_ended(&mut self, report: &PodReport) {
        self.state.recorded = super::state::Step::Done(());
        self.state.put_away = true;
        self.state.end = Some(Fault::new("Ended", String::new()));
        self.ended = Some(Box::new(report.clone()));
    }

    pub fn view(&self) -> &Arc<PodView> {
        &self.view
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn namespace(&self) -> &str {
        &self.view.metadata.namespace
    }

    pub fn name(&self) -> &str {
        &self.view.metadata.name
    }

    /// The last report, once there is one.
    pub fn report(&self) -> Option<&PodReport> {
        self.report.as_ref()
    }

    pub fn gone(&self) -> bool {
        self.state.gone
    }

    pub(super) fn abandoned(&self) -> bool {
        self.abandoned
    }

    /// Nothing of it is, or ever was, on the node.
    pub(super) fn untouched(&self) -> bool {
        self.state.started.is_none() && self.ended.is_none() && !self.state.gone
    }

    pub(super) fn wake(&self) -> Option<u64> {
        self.wake
    }

    /// Takes in what is desired now; says whether that lets the pod out of quarantine.
    pub(super) fn desire(&mut self, desired: &Arc<Desired>, now: Now) -> bool {
        if self.desired.as_ref().is_some_and(|d| Arc::ptr_eq(d, desired)) {
            return false;
        }
        let edited = desired.view.as_ref().is_ok_and(|view| **view != *self.view);
        let to_stop = desired.stop.is_some() && self.state.stop.is_none();
        let released = (edited || to_stop) && self.state.hold.take().is_some();
        if let Ok(view) = &desired.view
            && **view != *self.view
            && view.containers().count() == self.state.containers.len()
        {
            self.view = Arc::clone(view);
            self.data = view.data_refs();
            self.state.respec(&self.view, now);
        }
        self.desired = Some(Arc::clone(desired));
        self.take_stop(now);
        released
    }

    fn take_stop(&mut self, now: Now) {
        if let Some(seconds) = self.desired.as_ref().and_then(|d| d.stop) {
            self.state.request_stop(u64::from(seconds) * 1000, now);
        }
    }

    /// The ledger has let it go: it is stopped, and then forgotten. Says whether that lets it out of
    /// quarantine.
    pub(super) fn abandon(&mut self, now: Now) -> bool {
        if std::mem::replace(&mut self.abandoned, true) {
            return false;
        }
        self.state.request_stop(u64::from(self.view.grace()) * 1000, now);
        self.state.hold.take().is_some()
    }

    pub(super) fn data_changed(&mut self, namespace: &str, changed: &BTreeSet<DataRef>, now: Now) {
        if namespace == self.namespace() && !self.data.is_disjoint(changed) {
            self.state.data_changed(now);
        }
    }

    pub(super) fn hurry(&mut self, now: Now) {
        self.state.hurry(now);
    }

    pub(super) fn pulling(&mut self, i: usize, now: Now, events: &mut Vec<EventReport>) {
        let image = self.view.container(i).map_or("", |c| &c.image);
        let message = format!("Pulling image \"{image}\"");
        events.push(self.event(Some(i), false, "Pulling", message, now));
    }

    pub(super) fn done(&mut self, outcome: Outcome, now: Now, events: &mut Vec<EventReport>) {
        match outcome {
            Outcome::Image(i, result) => self.pulled(i, result, now, events),
            Outcome::Volumes(result) => {
                if let Err(fault) = &result {
                    let message = format!("MountVolume.SetUp failed: {}", fault.message);
                    events.push(self.event(None, true, "FailedMount", message, now));
                }
                self.state.volumes_ready(result, now);
            }
            Outcome::Refreshed(result) => {
                if let Err(fault) = result {
                    events.push(self.event(None, true, "FailedMount", fault.message, now));
                }
                self.state.refreshed();
            }
            Outcome::Sandbox(result) => {
                if let Err(fault) = &result {
                    let message = format!("Failed to create pod sandbox: {}", fault.message);
                    events.push(self.event(None, true, "FailedCreatePodSandBox", message, now));
                }
                self.state.sandbox_up(result, now);
            }
            Outcome::Started(i, result) => self.started(i, result, now, events),
            Outcome::Signalled => {}
            Outcome::Probed(i, kind, result) => self.probed(i, kind, result, now, events),
            Outcome::TornDown(result) => {
                if let Err(fault) = &result {
                    events.push(self.event(None, true, "FailedKillPod", fault.message.clone(), now));
                }
                self.state.torn_down(&self.view, result, now);
            }
            Outcome::Recorded(result) => self.state.recorded(result, now),
        }
    }

    fn pulled(&mut self, i: usize, result: Result<PulledImage, Fault>, now: Now, events: &mut Vec<EventReport>) {
        let Some(image) = self.view.container(i).map(|c| c.image.clone()) else { return };
        match &result {
            Ok(PulledImage { pulled: Some((ms, bytes)), .. }) => {
                let message = format!("Successfully pulled image \"{image}\" in {ms}ms. Image size: {bytes} bytes.");
                events.push(self.event(Some(i), false, "Pulled", message, now));
            }
            Ok(_) => {
                let message = format!("Container image \"{image}\" already present on machine");
                events.push(self.event(Some(i), false, "Pulled", message, now));
            }
            Err(fault) => {
                let message = format!("Failed to pull image \"{image}\": {}", fault.message);
                events.push(self.event(Some(i), true, "Failed", message, now));
                events.push(self.event(Some(i), true, "Failed", format!("Error: {}", fault.reason), now));
                events.push(self.event(Some(i), false, "BackOff", format!("Back-off pulling image \"{image}\""), now));
            }
        }
        self.state.pulled(i, result, now);
    }

    fn started(&mut self, i: usize, result: Result<Started, StartFault>, now: Now, events: &mut Vec<EventReport>) {
        let Some(name) = self.view.container(i).map(|c| c.name.clone()) else { return };
        match &result {
            Ok(_) => {
                events.push(self.event(Some(i), false, "Created", format!("Created container: {name}"), now));
                events.push(self.event(Some(i), false, "Started", format!("Started container {name}"), now));
            }
            Err(StartFault::Config(m) | StartFault::Create(m) | StartFault::Run(m)) => {
                events.push(self.event(Some(i), true, "Failed", format!("Error: {m}"), now));
            }
        }
        self.state.started(&self.view, i, result, now);
        self.note_backoff(i, now, events);
    }

    fn note_backoff(&self, i: usize, now: Now, events: &mut Vec<EventReport>) {
        if let Run::Waiting { fault: Some(Fault { reason: "CrashLoopBackOff", .. }), .. } = self.state.containers[i].run
        {
            let m = &self.view.metadata;
            let name = self.view.container(i).map_or("", |c| &c.name);
            let message =
                format!("Back-off restarting failed container {name} in pod {}_{}({})", m.name, m.namespace, m.uid);
            events.push(self.event(Some(i), true, "BackOff", message, now));
        }
    }

    fn probed(&mut self, i: usize, kind: Kind, answer: Result<(), String>, now: Now, events: &mut Vec<EventReport>) {
        let was = self.state.containers.get(i).map(|c| (c.ready, c.kill_by.is_some()));
        let verdict = self.state.probed(&self.view, i, kind, answer.is_ok(), now);
        let Some(c) = self.state.containers.get(i) else { return };
        let changed = was != Some((c.ready, c.kill_by.is_some()));
        // Said when a threshold is crossed, not at each failure: a failing probe is no stream of events.
        if let (Err(message), true) = (answer, changed && verdict == Some(Verdict::Unhealthy)) {
            let message = format!("{} probe failed: {message}", kind.title());
            events.push(self.event(Some(i), true, "Unhealthy", message, now));
        }
        if changed && kind != Kind::Readiness && verdict == Some(Verdict::Unhealthy) {
            let name = self.view.container(i).map_or("", |c| &c.name);
            let probe = kind.title().to_lowercase();
            let message = format!("Container {name} failed {probe} probe, will be restarted");
            events.push(self.event(Some(i), false, "Killing", message, now));
        }
    }

    pub(super) fn exited(&mut self, name: &str, attempt: u32, exit: Exit, now: Now, events: &mut Vec<EventReport>) {
        let Some(i) = self.view.containers().position(|c| c.name == name) else { return };
        if self.state.containers[i].attempt != attempt {
            return;
        }
        if exit.reason == "OOMKilled" {
            let message = format!("Container {name} was killed: out of memory");
            events.push(self.event(Some(i), true, "OOMKilled", message, now));
        }
        self.state.exited(&self.view, i, exit, now);
        self.note_backoff(i, now, events);
    }

    pub(super) fn hooked(
        &mut self,
        i: usize,
        attempt: u32,
        result: Result<(), String>,
        now: Now,
        events: &mut Vec<EventReport>,
    ) {
        if self.state.containers.get(i).is_none_or(|c| c.attempt != attempt || !c.hooking) {
            return;
        }
        let well = result.is_ok();
        if let Err(message) = result {
            events.push(self.event(Some(i), true, "FailedPostStartHook", message, now));
        }
        self.state.hooked(&self.view, i, well, now);
    }

    pub(super) fn sandbox_died(&mut self, now: Now, events: &mut Vec<EventReport>) {
        self.state.sandbox_lost(&self.view, now);
        if self.state.lost && self.state.stop.is_none() {
            let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
            events.push(self.event(None, false, "SandboxChanged", message, now));
        }
    }

    /// Plans, and turns the plan into jobs, until there is nothing more to begin.
    pub(super) fn advance(&mut self, host_ip: Option<Ipv4Addr>, now: Now, out: &mut Output) {
        let deadline = self.check_deadline(now);
        if self.state.stop.is_none() && course(&self.view, &self.state) == Course::Ending {
            self.state.end_running(u64::from(self.view.grace()) * 1000, now);
        }
        let plan = plan(&self.view, &self.state, now);
        self.refresh_report(host_ip, now, out);
        for action in plan.actions {
            if let Action::SignalStop(i) = action
                && let Some(c) = self.view.container(i)
            {
                let why = if self.state.containers[i].renew { " (its definition changed)" } else { "" };
                out.events.push(self.event(
                    Some(i),
                    false,
                    "Killing",
                    format!("Stopping container {}{why}", c.name),
                    now,
                ));
            }
            self.state.begin(&action, now);
            out.jobs.push(self.job(action));
        }
        // What was begun may have moved the next time to look.
        let after = super::plan::plan(&self.view, &self.state, now);
        self.refresh_report(host_ip, now, out);
        self.wake = [self.wake, plan.wake, after.wake, deadline].into_iter().flatten().min();
    }

    /// Ends a pod past its `activeDeadlineSeconds`; says when that will be.
    fn check_deadline(&mut self, now: Now) -> Option<u64> {
        let seconds = self.view.spec.active_deadline_seconds?;
        let started = self.state.started?;
        if self.state.end.is_some() || self.state.stop.is_some() || course(&self.view, &self.state) == Course::Ending {
            return None;
        }
        // By the wall: the pod's start may lie before this agent's.
        let left = (started.wall + i64::try_from(seconds).unwrap_or(i64::MAX / 2000) * 1000) - now.wall;
        if left > 0 {
            return Some(now.mono + left.unsigned_abs());
        }
        let message = "Pod was active on the node longer than the specified deadline";
        let grace = u64::from(self.view.grace()) * 1000;
        self.state.request_end(Fault::new("DeadlineExceeded", message), grace, now);
        None
    }

    fn job(&self, action: Action) -> Job {
        let index = match action {
            Action::EnsureImage(i) | Action::Start(i) | Action::SignalStop(i) | Action::SignalKill(i) => Some(i),
            Action::Probe(i, _) => Some(i),
            _ => None,
        };
        let container = index.and_then(|i| self.state.containers.get(i));
        Job {
            view: Arc::clone(&self.view),
            action,
            attempt: container.map_or(0, |c| c.attempt),
            image: container.map(|c| c.image_ref.clone()).unwrap_or_default(),
            pod_ip: self.state.sandbox.done().and_then(|s| s.pod_ip),
            report: (action == Action::Record).then(|| self.report.clone().map(Box::new)).flatten(),
        }
    }

    /// Hands the report out if it differs from the last one. That a pod has ended is told once the
    /// ledger has it: who was told must never see it run again. (A pod that stops is not run again.)
    pub(super) fn refresh_report(&mut self, host_ip: Option<Ipv4Addr>, now: Now, out: &mut Output) {
        let (mut report, wake) = pod_report(&self.view, &self.state, host_ip, now);
        self.wake = wake;
        if let Some(ended) = &self.ended {
            report = PodReport { gone: self.state.gone, ..(**ended).clone() };
        }
        // Once ended, always ended: only `gone` may still change.
        if let Some(last) = self.report.as_ref().filter(|r| matches!(r.phase, Phase::Succeeded | Phase::Failed)) {
            report = PodReport { gone: self.state.gone, ..last.clone() };
        }
        let ended = matches!(report.phase, Phase::Succeeded | Phase::Failed);
        let held = ended && self.state.recorded.done().is_none() && self.state.stop.is_none();
        if self.report.as_ref() != Some(&report) {
            self.report = Some(report);
            self.untold = true;
        }
        if !held && std::mem::take(&mut self.untold) {
            out.reports.extend(self.report.clone());
        }
    }

    pub(super) fn event(
        &self,
        i: Option<usize>,
        warning: bool,
        reason: &str,
        message: String,
        now: Now,
    ) -> EventReport {
        let m = &self.view.metadata;
        EventReport {
            pod: Some((m.namespace.clone(), m.name.clone(), m.uid.clone())),
            field_path: i.map(|i| self.view.field_path(i)).unwrap_or_default(),
            warning,
            reason: reason.to_owned(),
            message,
            at: now.wall,
        }
    }
}

/// Enough of a view to report a pod whose definition cannot be read.
fn bare(uid: &PodUid, desired: &Desired) -> PodView {
    let mut view = PodView::default();
    view.metadata.uid = uid.clone();
    view.metadata.namespace.clone_from(&desired.namespace);
    view.metadata.name.clone_from(&desired.name);
    view
}
