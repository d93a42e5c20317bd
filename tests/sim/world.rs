//! The event loop: everything that happens, in the order of virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use coracle_agent::reconcile::fleet::{Job, Outcome};
use coracle_shared::desired::SetKind;
use coracle_shared::ids::{Generation, PodUid, StoreUuid};
use coracle_store::Store;

use crate::agent::{self, Agent};
use crate::check::Mirror;
use crate::clock::Virtual;
use crate::disk::{Fault, Random, SimDisk, Survives};
use crate::faults::{Kind, Struck};
use crate::ledger::SimLedger;
use crate::link::{IDLE, Links, Side};
use crate::runtime::Runtime;
use crate::server::{self, Server, Task};
use crate::workload::Workload;

/// Something that happens at a time.
#[derive(Debug)]
pub enum Event {
    /// With the server's incarnation.
    Server(u64, Task),
    ServerStarts,
    AgentStarts(usize),
    Dial(usize, u64),
    Deliver(u64, Side),
    /// An end finds its connection lost.
    Lost(u64, Side),
    Tick(usize, u64),
    /// A job's effect takes place.
    Effect(usize, u64, Box<Job>),
    /// And the agent hears of it.
    Outcome(usize, u64, PodUid, Box<Outcome>),
    /// A container ends by itself.
    Ends(usize, PodUid, String, u64, i32),
    /// The agent hears of a container's end.
    Exited(usize, u64, PodUid, String, u64),
    SandboxDied(usize, u64, PodUid),
    Request,
    Fault,
    LinkUp(usize),
}

/// A machine.
pub struct Host {
    pub name: String,
    pub disk: SimDisk,
    /// Its ledger had a failed sync.
    pub doubted: Arc<AtomicBool>,
    pub runtime: Runtime,
    pub store: Option<StoreUuid>,
    pub agent: Option<Agent>,
    pub starts: u64,
    /// Nothing gets through to or from it.
    pub offline: bool,
    pub took: BTreeMap<SetKind, Generation>,
    pub ticks: BTreeSet<u64>,
    /// The fault that its disk is about to strike with.
    pub armed: Option<Kind>,
}

pub struct World {
    pub seed: u64,
    pub clock: Virtual,
    pub random: Random,
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    pub server_disk: SimDisk,
    pub server: Option<Server>,
    pub server_starts: u64,
    pub server_armed: Option<Kind>,
    /// The crash that the server is down by tore a write.
    pub torn: bool,
    server_timers: BTreeSet<(u64, u64)>,
    pub hosts: Vec<Host>,
    pub links: Links,
    pub mirror: Mirror,
    pub workload: Workload,
    pub struck: Struck,
    /// No more faults.
    pub calm: bool,
    pub instances: u64,
    pub jobs: u64,
    pub digest: u64,
    pub trace: bool,
}

impl World {
    pub fn new(seed: u64, trace: bool) -> World {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9).wrapping_add(1));
        let count = 2 + random.below(3) as usize;
        let host = |index: usize| Host {
            name: format!("n{index}"),
            disk: SimDisk::new(seed ^ (index as u64 + 1) << 32),
            doubted: Arc::default(),
            runtime: Runtime::default(),
            store: None,
            agent: None,
            starts: 0,
            offline: false,
            took: BTreeMap::new(),
            ticks: BTreeSet::new(),
            armed: None,
        };
        let mut world = World {
            seed,
            clock: Virtual::default(),
            events: BTreeMap::new(),
            sequence: 0,
            server_disk: SimDisk::new(seed),
            server: None,
            server_starts: 0,
            server_armed: None,
            torn: false,
            server_timers: BTreeSet::new(),
            hosts: (0..count).map(host).collect(),
            links: Links::default(),
            mirror: Mirror::default(),
            workload: Workload::default(),
            struck: Struck::default(),
            calm: false,
            instances: 0,
            jobs: 0,
            digest: 0,
            trace,
            random,
        };
        world.clock.set(1);
        world.at(1, Event::ServerStarts);
        for index in 0..count {
            world.soon(500, Event::AgentStarts(index));
        }
        world.soon(2000, Event::Request);
        world.soon(60_000, Event::Fault);
        world
    }

    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    pub fn at(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((at.max(self.now()), self.sequence), event);
    }

    /// Within so many milliseconds.
    pub fn soon(&mut self, within: u64, event: Event) {
        let at = self.now() + 1 + self.random.below(within);
        self.at(at, event);
    }

    /// One line of the trace, and of what makes two runs of a seed the same.
    pub fn say(&mut self, line: impl FnOnce() -> String) {
        let line = format!("{:>9} {}", self.clock.now(), line());
        for byte in line.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.trace {
            println!("{line}");
        }
    }

    pub fn run_until(&mut self, until: u64) {
        while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= until) {
            let ((at, _), event) = entry.remove_entry();
            self.clock.set(at);
            self.handle(event);
            self.after();
        }
        self.clock.set(until);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Server(incarnation, task) if incarnation == self.server_starts => {
                self.server_timers.remove(&(self.now(), timer_id(&task)));
                if let Task::Batch(batch, at) = &task
                    && let Some(write) = batch.writes.get(*at)
                {
                    self.judge(&batch.who.user, write);
                }
                if let Some(server) = &mut self.server {
                    let did = server.step(task);
                    self.server_did(did);
                }
            }
            Event::Server(..) => {}
            Event::ServerStarts => self.start_server(),
            Event::AgentStarts(node) => self.start_agent(node),
            Event::Dial(node, incarnation) => self.dial(node, incarnation),
            Event::Deliver(id, side) => self.deliver(id, side),
            Event::Lost(id, side) => self.lost(id, side, IDLE),
            Event::Tick(node, incarnation) => {
                let now = self.now();
                self.hosts[node].ticks.remove(&now);
                if let Some(agent) = self.agent(node, incarnation) {
                    agent.fleet.tick(agent::at(now));
                    self.pump(node);
                }
            }
            Event::Effect(node, incarnation, job) => {
                if self.agent(node, incarnation).is_some() {
                    self.effect(node, &job);
                }
            }
            Event::Outcome(node, incarnation, uid, outcome) => {
                let now = self.now();
                if let Some(agent) = self.agent(node, incarnation) {
                    agent.done(&uid, *outcome, now);
                    self.pump(node);
                }
            }
            Event::Ends(node, uid, name, instance, code) => {
                let run = self.hosts[node].runtime.run_mut(&uid, &name);
                if run.is_some_and(|run| run.instance == instance && run.exit.is_none()) {
                    self.end_run(node, &uid, &name, code, None);
                }
            }
            Event::Exited(node, incarnation, uid, name, instance) => {
                self.tell_exit(node, incarnation, &uid, &name, instance);
            }
            Event::SandboxDied(node, incarnation, uid) => {
                let now = self.now();
                if let Some(agent) = self.agent(node, incarnation) {
                    agent.fleet.sandbox_died(&uid, agent::at(now));
                    self.pump(node);
                }
            }
            Event::Request => self.request(),
            Event::Fault => self.fault(),
            Event::LinkUp(node) => {
                self.hosts[node].offline = false;
                self.say(|| format!("n{node} is reachable again"));
            }
        }
    }

    /// What follows from whatever happened: crashes by the disk, news for the server's followers,
    /// timers.
    fn after(&mut self) {
        if self.server.is_some() && self.server_disk.struck() {
            match self.server_armed.take() {
                Some(kind @ Kind::ServerCutMidWrite) => {
                    self.struck.note(kind);
                    self.crash_server(Survives::Any, true);
                }
                Some(kind) => self.struck.note(kind),
                None => {}
            }
        }
        for node in 0..self.hosts.len() {
            if self.hosts[node].agent.is_some() && self.hosts[node].disk.struck() {
                match self.hosts[node].armed.take() {
                    Some(kind @ Kind::LedgerCutMidWrite) => {
                        self.struck.note(kind);
                        self.cut_power(node);
                    }
                    Some(kind) => self.struck.note(kind),
                    None => {}
                }
            }
            self.wake(node);
        }
        if let Some(server) = &self.server {
            self.mirror.follow(&*server.store);
        }
        self.kick();
    }

    /// The server's followers hear of news, each in its own time.
    fn kick(&mut self) {
        let Some(server) = &mut self.server else { return };
        let behind = server.behind();
        for (follower, task) in [Task::Controllers, Task::Scheduler, Task::Nodes].into_iter().enumerate() {
            if behind[follower] && !std::mem::replace(&mut self.server.as_mut().expect("up").waiting[follower], true) {
                let incarnation = self.server_starts;
                self.soon(20, Event::Server(incarnation, task));
            }
        }
    }

    fn wake(&mut self, node: usize) {
        let now = self.now();
        let host = &mut self.hosts[node];
        let Some(agent) = &host.agent else { return };
        let Some(at) = agent.fleet.wake().map(|at| at.max(now + 1)) else { return };
        let incarnation = agent.incarnation;
        if host.ticks.first().is_none_or(|next| at < *next) {
            host.ticks.insert(at);
            self.at(at, Event::Tick(node, incarnation));
        }
    }

    pub fn agent(&mut self, node: usize, incarnation: u64) -> Option<&mut Agent> {
        self.hosts[node].agent.as_mut().filter(|agent| agent.incarnation == incarnation)
    }

    pub fn server_did(&mut self, did: Vec<server::Did>) {
        let incarnation = self.server_starts;
        for did in did {
            match did {
                server::Did::Soon(task) => self.soon(15, Event::Server(incarnation, task)),
                server::Did::At(at, task) => {
                    let at = at.max(self.now() + 1);
                    if self.server_timers.insert((at, timer_id(&task))) {
                        self.at(at, Event::Server(incarnation, task));
                    }
                }
                server::Did::Send(id, bytes) => self.send(id, Side::Agent, bytes),
                server::Did::Close(id) => {
                    let connection = self.links.all.get(&id);
                    if connection.is_some_and(|c| !c.cut && !c.flight[Side::Server as usize].is_empty()) {
                        self.struck.note(Kind::OldConnectionOvertaken);
                    }
                    self.lost(id, Side::Server, 0);
                    self.soon(100, Event::Lost(id, Side::Agent));
                }
                server::Did::Say(text) => self.say(|| format!("server: {text}")),
            }
        }
    }

    /// Drains an agent and does what it says.
    pub fn pump(&mut self, node: usize) {
        let now = self.now();
        let Some(agent) = &mut self.hosts[node].agent else { return };
        let did = agent.pump(now);
        self.agent_did(node, did);
    }

    pub fn agent_did(&mut self, node: usize, did: Vec<agent::Did>) {
        for did in did {
            match did {
                agent::Did::Send(id, bytes) => self.send(id, Side::Server, bytes),
                agent::Did::Job(job) => self.job(node, job),
                agent::Did::Welcomed(store) => self.hosts[node].store = Some(store),
                agent::Did::Took(set, generation) => self.took(node, set, generation),
                agent::Did::Dropped(pods) => {
                    for uid in pods {
                        assert!(self.mirror.is_doomed(&uid), "n{node} was told to drop {uid}, which nobody deleted");
                    }
                }
                agent::Did::Lost(id, why) => {
                    self.say(|| format!("n{node}: session {id} ended: {why}"));
                    self.links.close(id, Side::Agent);
                    self.soon(100, Event::Lost(id, Side::Server));
                    self.redial(node, 30_000);
                }
                agent::Did::Say(text) => self.say(|| text),
            }
        }
    }

    fn took(&mut self, node: usize, set: SetKind, generation: Generation) {
        let last = self.hosts[node].took.insert(set, generation).unwrap_or_default();
        assert!(last <= generation, "n{node}'s {set:?} set went back from {last:?} to {generation:?}");
    }

    pub fn start_server(&mut self) {
        if self.server.is_some() {
            return;
        }
        self.server_starts += 1;
        let seed = self.seed ^ self.server_starts << 40;
        let server = Server::start(&self.server_disk, &self.clock, seed).expect("the server starts on its disk");
        self.say(|| format!("server starts at revision {}", server.store.revision()));
        self.mirror.restarted(&*server.store, self.torn || self.server_starts == 1);
        self.torn = false;
        self.server_timers.clear();
        self.server = Some(server);
        self.kick();
        let incarnation = self.server_starts;
        self.at(self.now() + 1, Event::Server(incarnation, Task::Controllers));
        self.at(self.now() + 1, Event::Server(incarnation, Task::Scheduler));
    }

    /// The server's process ends here and now; what its disk has is up to `survives`.
    pub fn crash_server(&mut self, survives: Survives, torn: bool) {
        let Some(server) = self.server.take() else { return };
        self.say(|| format!("server crashes ({survives:?}, torn: {torn})"));
        let disk = self.server_disk.after_cut(survives, self.random.next());
        // The writer's last words go to the old disk.
        drop(server);
        self.server_disk = disk;
        self.server_armed = None;
        self.torn |= torn;
        let held: Vec<u64> =
            self.links.all.iter().filter(|(_, c)| c.is_open(Side::Server)).map(|(id, _)| *id).collect();
        for id in held {
            self.links.close(id, Side::Server);
            self.soon(IDLE, Event::Lost(id, Side::Agent));
        }
        self.soon(20_000, Event::ServerStarts);
    }

    pub fn start_agent(&mut self, node: usize) {
        let now = self.now();
        let host = &mut self.hosts[node];
        if host.agent.is_some() {
            return;
        }
        host.starts += 1;
        host.ticks.clear();
        let found = host.runtime.found();
        let ledger = SimLedger::new(host.disk.clone(), host.doubted.clone());
        let started =
            Agent::start((node, &host.name), ledger, host.store, found, (host.starts, now)).expect("the ledger opens");
        for set in [SetKind::Node, SetKind::Shared] {
            let held = started.keeper.book().head(set).generation;
            let took = host.took.get(&set).copied().unwrap_or_default();
            assert!(held >= took, "n{node}'s ledger forgot generation {took:?} of its {set:?} set: it has {held:?}");
        }
        let (incarnation, runs) = (host.starts, host.runtime.sandboxes.len());
        host.agent = Some(started);
        self.say(|| format!("n{node}: agent {incarnation} starts and finds {runs} sandboxes"));
        for (uid, dead) in self.dead_sandboxes(node) {
            if dead {
                self.soon(50, Event::SandboxDied(node, incarnation, uid));
            }
        }
        self.pump(node);
        self.redial(node, 200);
    }

    fn dead_sandboxes(&self, node: usize) -> Vec<(PodUid, bool)> {
        self.hosts[node].runtime.sandboxes.iter().map(|(uid, sandbox)| (uid.clone(), !sandbox.alive)).collect()
    }

    /// The agent's process ends; its pods do not.
    pub fn kill_agent(&mut self, node: usize, survives: Survives) {
        let random = self.random.next();
        let host = &mut self.hosts[node];
        let Some(agent) = host.agent.take() else { return };
        host.disk = host.disk.after_cut(survives, random);
        host.armed = None;
        // redb's own last words go to the old disk.
        drop(agent);
        let held: Vec<u64> = self
            .links
            .all
            .iter()
            .filter(|(_, c)| c.node == node && c.is_open(Side::Agent))
            .map(|(id, _)| *id)
            .collect();
        for id in held {
            self.links.close(id, Side::Agent);
            self.at(self.now() + IDLE, Event::Lost(id, Side::Server));
        }
        self.soon(10_000, Event::AgentStarts(node));
    }

    pub fn cut_power(&mut self, node: usize) {
        self.say(|| format!("n{node} loses its power"));
        self.kill_agent(node, Survives::Any);
        self.hosts[node].doubted = Arc::default();
        self.hosts[node].runtime.power_cut();
    }

    /// Heals everything: from here on nothing goes wrong by itself.
    pub fn calm_down(&mut self) {
        self.say(|| "calm".to_owned());
        self.calm = true;
        self.server_disk.heal();
        self.server_armed = None;
        for node in 0..self.hosts.len() {
            self.hosts[node].disk.heal();
            self.hosts[node].armed = None;
            self.hosts[node].offline = false;
            self.soon(100, Event::AgentStarts(node));
        }
        self.soon(100, Event::ServerStarts);
    }
}

/// Tells timers apart.
fn timer_id(task: &Task) -> u64 {
    match task {
        Task::Controllers => 1,
        Task::Session(id) => 1 << 32 | id,
        Task::Report(id) => 2 << 32 | id,
        _ => 0,
    }
}

/// Runs a seed; the text says what broke.
pub fn attempt(run: impl FnOnce()) -> Result<(), String> {
    std::panic::catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned())).unwrap_or_else(|| "it panicked".into())
    })
}

impl World {
    /// Lets a disk fail at one of its next operations.
    pub fn arm(disk: &SimDisk, random: &mut Random, fault: Fault) {
        disk.inject(random.below(12), fault);
    }
}
