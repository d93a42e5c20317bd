//! What happens to connections, jobs and containers.

use coracle_agent::reconcile::fleet::{Job, Outcome};
use coracle_agent::reconcile::plan::Action;
use coracle_agent::reconcile::state::{Fault, PulledImage, SandboxInfo, StartFault, Started};
use coracle_shared::ids::PodUid;
use coracle_shared::report::Exit;

use crate::agent;
use crate::clock::EPOCH;
use crate::faults::Kind;
use crate::link::{IDLE, Side};
use crate::runtime::{Act, Run, Sandbox, image_id};
use crate::world::{Event, World};

impl World {
    pub fn redial(&mut self, node: usize, within: u64) {
        if let Some(agent) = &self.hosts[node].agent {
            let incarnation = agent.incarnation;
            self.soon(within, Event::Dial(node, incarnation));
        }
    }

    pub fn dial(&mut self, node: usize, incarnation: u64) {
        let Some(agent) = self.agent(node, incarnation) else { return };
        if agent.session.is_some() {
            return;
        }
        if self.hosts[node].offline || self.server.is_none() {
            return self.redial(node, 5000);
        }
        let id = self.links.dial(node);
        self.say(|| format!("n{node} dials: connection {id}"));
        let name = self.hosts[node].name.clone();
        if let Some(server) = &mut self.server {
            server.accept(id, &name);
        }
        if let Some(agent) = self.agent(node, incarnation) {
            agent.connected(id);
        }
        self.pump(node);
    }

    /// Puts bytes on their way.
    pub fn send(&mut self, id: u64, to: Side, bytes: Vec<u8>) {
        let now = self.now();
        let mut delay = 1 + self.random.below(30);
        if !self.calm && self.random.below(40) == 0 {
            delay += self.random.below(5000);
            self.struck.note(Kind::MessageLate);
        }
        let Some(connection) = self.links.all.get_mut(&id) else { return };
        self.links.sent += 1;
        let at = connection.last[to as usize].max(now + delay);
        connection.last[to as usize] = at;
        connection.flight[to as usize].push_back(bytes);
        self.at(at, Event::Deliver(id, to));
    }

    pub fn deliver(&mut self, id: u64, to: Side) {
        let Some(connection) = self.links.all.get(&id) else { return };
        let node = connection.node;
        if !connection.is_open(to) || connection.cut {
            if !self.calm {
                self.struck.note(Kind::MessageLost);
            }
            return;
        }
        let reads = to == Side::Agent || self.server.as_ref().is_some_and(|server| server.reads(id));
        if self.hosts[node].offline || !reads {
            // Sent again and again until it arrives or the connection is given up.
            let wait = if reads { 500 } else { 5 };
            return self.at(self.now() + wait, Event::Deliver(id, to));
        }
        let now = self.now();
        let Some(bytes) = self.links.all.get_mut(&id).and_then(|c| c.flight[to as usize].pop_front()) else { return };
        match to {
            Side::Server => {
                let Some(server) = &mut self.server else { return };
                let did = server.heard(id, &bytes);
                self.server_did(did);
            }
            Side::Agent => {
                let Some(agent) = &mut self.hosts[node].agent else { return };
                let did = agent.heard(id, &bytes, now);
                self.agent_did(node, did);
            }
        }
    }

    /// An end finds its connection lost.
    pub fn lost(&mut self, id: u64, side: Side, silence: u64) {
        let Some(connection) = self.links.all.get(&id).filter(|c| c.is_open(side)) else { return };
        let node = connection.node;
        self.links.close(id, side);
        self.say(|| format!("n{node}: {side:?} loses connection {id}"));
        match side {
            Side::Server => {
                if let Some(server) = &mut self.server {
                    server.lost(id, silence);
                }
            }
            Side::Agent => {
                let Some(agent) = &mut self.hosts[node].agent else { return };
                if agent.session.as_ref().is_some_and(|(held, _)| *held == id) {
                    agent.session = None;
                    self.redial(node, 2000);
                }
            }
        }
    }

    /// Cuts what is between a node and the server; each end notices in its own time. `drops`: what is
    /// on its way does not arrive either.
    pub fn reset_link(&mut self, node: usize, within: u64, drops: bool) {
        let now = self.now();
        let ids: Vec<u64> = self.links.all.iter().filter(|(_, c)| c.node == node).map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(connection) = self.links.all.get_mut(&id) {
                connection.cut |= drops;
                if !drops {
                    // What is still sent arrives after the next connection has begun.
                    connection.last[Side::Server as usize] = now + 6000;
                }
            }
            self.soon(within, Event::Lost(id, Side::Agent));
            let within = within.max(IDLE);
            self.soon(within, Event::Lost(id, Side::Server));
        }
    }

    /// A job begins: its effect, and then the word of it, take their time.
    pub fn job(&mut self, node: usize, job: Box<Job>) {
        self.jobs += 1;
        let uid = job.uid().clone();
        let starts = job.action == Action::CreateSandbox || matches!(job.action, Action::Start(_)) && job.attempt == 0;
        if starts && let Err(why) = agent::survives(&self.hosts[node].disk, &uid) {
            panic!("n{node} does {:?} for {uid}, which its ledger does not hold: {why}", job.action);
        }
        let mut takes = match job.action {
            Action::EnsureImage(_) => 50 + self.random.below(3000),
            Action::SignalStop(_) | Action::SignalKill(_) => 1,
            _ => 5 + self.random.below(100),
        };
        if !self.calm && self.random.below(60) == 0 {
            takes += self.random.below(60_000);
            self.struck.note(Kind::JobHung);
        }
        let incarnation = self.hosts[node].agent.as_ref().map_or(0, |agent| agent.incarnation);
        self.at(self.now() + takes, Event::Effect(node, incarnation, job));
    }

    pub fn effect(&mut self, node: usize, job: &Job) {
        let uid = job.uid().clone();
        self.say(|| format!("n{node}: {} {:?}", job.view.metadata.name, job.action));
        let now = self.now();
        let outcome = match job.action {
            Action::EnsureImage(i) => Outcome::Image(i, self.pull(&job.image)),
            Action::PrepareVolumes => Outcome::Volumes(self.volumes(node, job)),
            Action::RefreshVolumes => Outcome::Refreshed(self.volumes(node, job)),
            Action::CreateSandbox => Outcome::Sandbox(Ok(self.sandbox(node, job))),
            Action::Start(i) => Outcome::Started(i, self.start(node, job, i)),
            Action::SignalStop(i) => self.signal(node, job, i, false),
            Action::SignalKill(i) => self.signal(node, job, i, true),
            Action::Probe(i, kind) => Outcome::Probed(i, kind, Ok(())),
            Action::Teardown { .. } => Outcome::TornDown(self.teardown(node, &uid)),
            Action::Record => {
                let report = job.report.clone().expect("a record has a report");
                let agent = self.hosts[node].agent.as_mut().expect("its job");
                Outcome::Recorded(agent.record(*report, now).map_err(|e| Fault::new("Ledger", e.to_string())))
            }
        };
        let incarnation = self.hosts[node].agent.as_ref().map_or(0, |agent| agent.incarnation);
        self.soon(20, Event::Outcome(node, incarnation, uid, Box::new(outcome)));
    }

    fn strikes(&mut self, one_in: u64, kind: Kind) -> bool {
        let strikes = !self.calm && self.random.below(one_in) == 0;
        if strikes {
            self.struck.note(kind);
        }
        strikes
    }

    fn pull(&mut self, image: &str) -> Result<PulledImage, Fault> {
        if self.strikes(15, Kind::PullFailed) {
            return Err(Fault::new("ErrImagePull", "the registry is away"));
        }
        Ok(PulledImage { id: image_id(image), pulled: None })
    }

    fn volumes(&self, node: usize, job: &Job) -> Result<(), Fault> {
        let Some(agent) = &self.hosts[node].agent else { return Ok(()) };
        let namespace = &job.view.metadata.namespace;
        let missing =
            job.view.data_refs().into_iter().find(|r| agent.keeper.book().data(r.secret, namespace, &r.name).is_none());
        missing.map_or(Ok(()), |r| Err(Fault::new("FailedMount", format!("\"{}\" not found", r.name))))
    }

    fn sandbox(&mut self, node: usize, job: &Job) -> SandboxInfo {
        let (uid, m) = (job.uid().clone(), &job.view.metadata);
        for host in &self.hosts {
            assert!(!host.runtime.sandboxes.contains_key(&uid), "{uid} runs on {} already", host.name);
        }
        let runtime = &mut self.hosts[node].runtime;
        let twin = runtime.sandboxes.values().any(|s| s.namespace == m.namespace && s.name == m.name);
        assert!(!twin, "n{node} runs two pods named {}", m.name);
        let ip = runtime.address(node);
        let sandbox = Sandbox {
            namespace: m.namespace.clone(),
            name: m.name.clone(),
            ip,
            started_at: EPOCH + self.clock.now() as i64,
            alive: true,
            runs: Default::default(),
        };
        runtime.sandboxes.insert(uid.clone(), sandbox);
        if self.strikes(60, Kind::SandboxDied) {
            self.kill_sandbox(node, &uid);
        }
        SandboxInfo { pod_ip: Some(ip) }
    }

    pub fn kill_sandbox(&mut self, node: usize, uid: &PodUid) {
        let Some(sandbox) = self.hosts[node].runtime.sandboxes.get_mut(uid) else { return };
        sandbox.alive = false;
        let names: Vec<String> = sandbox.runs.keys().cloned().collect();
        for name in names {
            self.end_run(node, uid, &name, 137, Some(9));
        }
        let incarnation = self.hosts[node].starts;
        self.soon(200, Event::SandboxDied(node, incarnation, uid.clone()));
    }

    fn start(&mut self, node: usize, job: &Job, i: usize) -> Result<Started, StartFault> {
        if self.strikes(20, Kind::StartFailed) {
            return Err(StartFault::Create("no space left on device".into()));
        }
        let now = self.now();
        let (uid, name) = (job.uid(), job.view.container(i).expect("a container").name.clone());
        self.instances += 1;
        let (instance, act) = (self.instances, Act::of(&job.image));
        let Some(sandbox) = self.hosts[node].runtime.sandboxes.get_mut(uid).filter(|s| s.alive) else {
            return Err(StartFault::Create("the sandbox is gone".into()));
        };
        let started = Started { container_id: format!("coracle://{instance}"), started_at: EPOCH + now as i64 };
        let run =
            Run { instance, attempt: job.attempt, act, image: job.image.clone(), started: started.clone(), exit: None };
        let old = sandbox.runs.insert(name.clone(), run);
        assert!(old.is_none_or(|old| old.exit.is_some()), "n{node} starts {name} of {uid} over a running one");
        if let Act::End(millis, code) = act {
            self.at(now + millis, Event::Ends(node, uid.clone(), name.clone(), instance, code));
        }
        if self.strikes(12, Kind::ContainerDied) {
            self.soon(200_000, Event::Ends(node, uid.clone(), name, instance, 1));
        }
        Ok(started)
    }

    /// A container that nobody wanted gone must not be ended by the agent.
    fn may_end(&self, node: usize, uid: &PodUid) {
        assert!(self.mirror.is_doomed(uid), "n{node} ends {uid}, which nobody deleted");
    }

    fn signal(&mut self, node: usize, job: &Job, i: usize, kill: bool) -> Outcome {
        let (uid, name) = (job.uid().clone(), job.view.container(i).expect("a container").name.clone());
        let run = self.hosts[node].runtime.run_mut(&uid, &name).filter(|run| run.exit.is_none());
        let Some(act) = run.map(|run| run.act) else { return Outcome::Signalled };
        self.may_end(node, &uid);
        match (kill, act) {
            (true, _) => self.end_run(node, &uid, &name, 137, Some(9)),
            (false, Act::Deaf) => {}
            (false, _) => self.end_run(node, &uid, &name, 143, Some(15)),
        }
        Outcome::Signalled
    }

    fn teardown(&mut self, node: usize, uid: &PodUid) -> Result<(), Fault> {
        if self.strikes(25, Kind::TeardownFailed) {
            return Err(Fault::new("FailedKillPod", "busy"));
        }
        if self.hosts[node].runtime.sandboxes.get(uid).is_some_and(Sandbox::is_running) {
            self.may_end(node, uid);
            panic!("n{node} tears down {uid} with containers that run");
        }
        self.hosts[node].runtime.sandboxes.remove(uid);
        Ok(())
    }

    pub fn end_run(&mut self, node: usize, uid: &PodUid, name: &str, code: i32, signal: Option<i32>) {
        let finished_at = EPOCH + self.now() as i64;
        let Some(run) = self.hosts[node].runtime.run_mut(uid, name).filter(|run| run.exit.is_none()) else { return };
        run.exit = Some(Exit {
            code,
            signal,
            reason: if code == 0 { "Completed".into() } else { "Error".into() },
            message: String::new(),
            started_at: run.started.started_at,
            finished_at,
            container_id: run.started.container_id.clone(),
        });
        let instance = run.instance;
        let incarnation = self.hosts[node].starts;
        self.soon(30, Event::Exited(node, incarnation, uid.clone(), name.to_owned(), instance));
    }

    pub fn tell_exit(&mut self, node: usize, incarnation: u64, uid: &PodUid, name: &str, instance: u64) {
        let now = self.now();
        let run = self.hosts[node].runtime.run_mut(uid, name).filter(|run| run.instance == instance);
        let Some((attempt, Some(exit))) = run.map(|run| (run.attempt, run.exit.clone())) else { return };
        if let Some(agent) = self.agent(node, incarnation) {
            agent.fleet.exited(uid, name, attempt, exit, agent::at(now));
            self.pump(node);
        }
    }
}
