//! All pods of the node in one machine: what is desired and what happened go in, jobs, reports and
//! events come out. No I/O, no clock, no `async`: the agent's driver and the simulator both step it.
//!
//! A pod is acted on only by its own [`Owner`], one job of a kind at a time, so that nothing about a
//! pod ever races. Everything is derived from the whole desired set; a lost hint costs latency only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use coracle_shared::ids::PodUid;
use coracle_shared::report::{EventReport, Exit, PodReport};

use super::owner::Owner;
use super::plan::Action;
use super::state::{Adopted, Fault, Now, PulledImage, SandboxInfo, StartFault, Started};
use super::view::{DEFAULT_GRACE, DataRef, InvalidPod, PodView};
use crate::probes::Kind;

/// A pod as the ledger has it.
#[derive(Clone, Debug)]
pub struct Desired {
    pub namespace: String,
    pub name: String,
    pub view: Result<Arc<PodView>, InvalidPod>,
    /// Set when the pod is to stop: seconds.
    pub stop: Option<u32>,
    /// The pod's last word: it ended before, and is not to be run again.
    pub ended: Option<Box<PodReport>>,
    /// The agent crashed twice while working on this pod: nothing new is begun for a while.
    pub quarantined: bool,
}

/// Everything that is desired of the node's pods.
#[derive(Clone, Debug, Default)]
pub struct DesiredSet {
    pub pods: BTreeMap<PodUid, Arc<Desired>>,
    /// The set is whole: what runs and was never in it is not to be.
    pub complete: bool,
}

/// Something to do, for whoever drives the fleet. It answers with [`Fleet::done`].
#[derive(Clone, Debug)]
pub struct Job {
    pub view: Arc<PodView>,
    pub action: Action,
    /// Of `Start`, signals and probes: the run's number, which is the restart count.
    pub attempt: u32,
    /// Of `EnsureImage` and `Start`.
    pub image: String,
    /// Of probes, and of the environment: the pod's address.
    pub pod_ip: Option<Ipv4Addr>,
    /// Of `Record`: what to write.
    pub report: Option<Box<PodReport>>,
}

impl Job {
    pub fn uid(&self) -> &PodUid {
        self.view.uid()
    }
}

/// How a job went.
#[derive(Clone, Debug)]
pub enum Outcome {
    Image(usize, Result<PulledImage, Fault>),
    Volumes(Result<(), Fault>),
    Refreshed(Result<(), Fault>),
    Sandbox(Result<SandboxInfo, Fault>),
    Started(usize, Result<Started, StartFault>),
    /// A signal was sent, or could not be; the exit is what counts.
    Signalled,
    Probed(usize, Kind, Result<(), String>),
    TornDown(Result<(), Fault>),
    Recorded(Result<(), Fault>),
}

/// What a step of the fleet brought forth.
#[derive(Debug, Default)]
pub struct Output {
    pub jobs: Vec<Job>,
    pub reports: Vec<PodReport>,
    pub events: Vec<EventReport>,
    /// Pods of which nothing is left and that nobody desires.
    pub forgotten: Vec<PodUid>,
    /// Pods that a person's change has let out of quarantine.
    pub released: Vec<PodUid>,
}

/// All pods of the node.
#[derive(Debug, Default)]
pub struct Fleet {
    owners: BTreeMap<PodUid, Owner>,
    /// Sandboxes found at the start that no desired pod has claimed yet.
    found: BTreeMap<PodUid, Found>,
    host_ip: Option<Ipv4Addr>,
    out: Output,
}

/// A sandbox found at the start, with the names to stop it by.
#[derive(Clone, Debug)]
pub struct Found {
    pub namespace: String,
    pub name: String,
    /// The agent crashed twice while working on it.
    pub quarantined: bool,
    pub adopted: Adopted,
}

impl Fleet {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.owners.values()
    }

    pub fn owner(&self, uid: &PodUid) -> Option<&Owner> {
        self.owners.get(uid)
    }

    /// The node's own address, which reports carry.
    pub fn set_host_ip(&mut self, ip: Option<Ipv4Addr>, now: Now) {
        if self.host_ip != ip {
            self.host_ip = ip;
            self.advance_all(now);
        }
    }

    /// Takes in what an earlier agent left running. To be called before the first desired set.
    pub fn found(&mut self, found: BTreeMap<PodUid, Found>) {
        self.found.extend(found);
    }

    /// Takes in the whole desired set. Calling it again with the same changes nothing.
    pub fn desire(&mut self, set: &DesiredSet, now: Now) {
        for (uid, desired) in &set.pods {
            match self.owners.get_mut(uid) {
                Some(owner) => {
                    if owner.desire(desired, now) {
                        self.out.released.push(uid.clone());
                    }
                }
                None => {
                    let adopted = self.found.remove(uid).map(|f| f.adopted);
                    let owner = Owner::new(uid, desired, adopted.as_ref(), now);
                    self.out.events.extend(owner.quarantine_event(now));
                    self.owners.insert(uid.clone(), owner);
                }
            }
        }
        if set.complete {
            for (uid, found) in std::mem::take(&mut self.found) {
                self.owners.insert(uid.clone(), Owner::orphan(&uid, &found, now));
            }
        }
        // The ledger lets go only what was named or what a complete set left out: what it had and has
        // no more is not to be, whatever else is missing.
        for (uid, owner) in &mut self.owners {
            if !set.pods.contains_key(uid) && owner.abandon(now) {
                self.out.released.push(uid.clone());
            }
        }
        self.advance_all(now);
    }

    /// A ConfigMap or Secret changed, came or went.
    pub fn data_changed(&mut self, namespace: &str, changed: &BTreeSet<DataRef>, now: Now) {
        for owner in self.owners.values_mut() {
            owner.data_changed(namespace, changed, now);
        }
        self.advance_all(now);
    }

    /// Something that sandboxes wait for (the node's network) has changed.
    pub fn hurry(&mut self, now: Now) {
        self.owners.values_mut().for_each(|o| o.hurry(now));
        self.advance_all(now);
    }

    /// A pull goes to a registry: worth an event.
    pub fn pulling(&mut self, uid: &PodUid, container: usize, now: Now) {
        if let Some(owner) = self.owners.get_mut(uid) {
            owner.pulling(container, now, &mut self.out.events);
        }
    }

    /// A job is done.
    pub fn done(&mut self, uid: &PodUid, outcome: Outcome, now: Now) {
        if let Some(owner) = self.owners.get_mut(uid) {
            owner.done(outcome, now, &mut self.out.events);
            self.advance(uid, now);
        }
    }

    /// A container's run ended.
    pub fn exited(&mut self, uid: &PodUid, container: &str, attempt: u32, exit: Exit, now: Now) {
        if let Some(owner) = self.owners.get_mut(uid) {
            owner.exited(container, attempt, exit, now, &mut self.out.events);
            self.advance(uid, now);
        }
    }

    /// A postStart hook is done.
    pub fn hooked(&mut self, uid: &PodUid, container: usize, attempt: u32, result: Result<(), String>, now: Now) {
        if let Some(owner) = self.owners.get_mut(uid) {
            owner.hooked(container, attempt, result, now, &mut self.out.events);
            self.advance(uid, now);
        }
    }

    /// A preStop hook has failed: worth an event; the stop goes on.
    pub fn pre_stop_failed(&mut self, uid: &PodUid, container: usize, message: String, now: Now) {
        if let Some(owner) = self.owners.get(uid) {
            self.out.events.push(owner.event(Some(container), true, "FailedPreStopHook", message, now));
        }
    }

    /// A pod's pause process ended.
    pub fn sandbox_died(&mut self, uid: &PodUid, now: Now) {
        if let Some(owner) = self.owners.get_mut(uid) {
            owner.sandbox_died(now, &mut self.out.events);
            self.advance(uid, now);
        }
    }

    /// The time has come that [`Fleet::wake`] named.
    pub fn tick(&mut self, now: Now) {
        let due: Vec<PodUid> = self
            .owners
            .iter()
            .filter(|(_, o)| o.wake().is_some_and(|w| w <= now.mono))
            .map(|(u, _)| u.clone())
            .collect();
        due.iter().for_each(|uid| self.advance(uid, now));
    }

    /// When to call [`Fleet::tick`] (monotonic milliseconds); `None` while there is nothing to wait for.
    pub fn wake(&self) -> Option<u64> {
        self.owners.values().filter_map(Owner::wake).min()
    }

    /// What the calls since the last `drain` brought forth.
    pub fn drain(&mut self) -> Output {
        std::mem::take(&mut self.out)
    }

    /// Every pod's report as it stands, for a server that knows nothing.
    pub fn reports(&self) -> Vec<PodReport> {
        self.owners.values().filter_map(|o| o.report().cloned()).collect()
    }

    fn advance_all(&mut self, now: Now) {
        let all: Vec<PodUid> = self.owners.keys().cloned().collect();
        all.iter().for_each(|uid| self.advance(uid, now));
    }

    fn advance(&mut self, uid: &PodUid, now: Now) {
        // Stop before start: a pod waits for the former holder of its name.
        let held = self.owners.get(uid).is_some_and(|o| o.untouched() && self.name_taken(uid, o));
        let Some(owner) = self.owners.get_mut(uid) else { return };
        if !held {
            owner.advance(self.host_ip, now, &mut self.out);
        } else {
            owner.refresh_report(self.host_ip, now, &mut self.out);
        }
        if !owner.gone() {
            return;
        }
        let (namespace, name) = (owner.namespace().to_owned(), owner.name().to_owned());
        if owner.abandoned() {
            self.owners.remove(uid);
            self.out.forgotten.push(uid.clone());
        }
        let heirs: Vec<PodUid> = self
            .owners
            .iter()
            .filter(|(u, o)| *u != uid && o.untouched() && o.namespace() == namespace && o.name() == name)
            .map(|(u, _)| u.clone())
            .collect();
        heirs.iter().for_each(|heir| self.advance(heir, now));
    }

    fn name_taken(&self, uid: &PodUid, owner: &Owner) -> bool {
        self.owners.iter().any(|(u, o)| {
            u != uid && !o.gone() && !o.untouched() && o.namespace() == owner.namespace() && o.name() == owner.name()
        }) || self.found.values().any(|f| f.namespace == owner.namespace() && f.name == owner.name())
    }
}

/// A view with which a sandbox can be stopped that nobody desires.
pub(super) fn orphan_view(uid: &PodUid, found: &Found) -> PodView {
    let mut view = PodView::default();
    view.metadata.uid = uid.clone();
    view.metadata.namespace.clone_from(&found.namespace);
    view.metadata.name.clone_from(&found.name);
    view.spec.termination_grace_period_seconds = Some(DEFAULT_GRACE);
    for seen in &found.adopted.containers {
        let container =
            super::view::ContainerView { name: seen.name.clone(), image: seen.image_ref.clone(), ..Default::default() };
        view.spec.containers.push(container);
    }
    view
}
