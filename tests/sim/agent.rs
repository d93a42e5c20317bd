//! The agent: the product's own session, ledger, book, fleet and outbox, stepped one thing at a time.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use async_channel::Receiver;
use coracle_agent::ledger::{Book, Keeper, Ledger, LedgerError, Publication, Seal};
use coracle_agent::link::Desired;
use coracle_agent::reconcile::fleet::{Fleet, Found, Job, Outcome, Output};
use coracle_agent::reconcile::state::Now;
use coracle_shared::codec::{decode_evolving, encode};
use coracle_shared::desired::SetKind;
use coracle_shared::ids::{Generation, PodUid, StoreUuid};
use coracle_shared::report::{NodeReport, PodReport, Resources};
use coracle_shared::session::{AgentOutput, AgentSession, Apply, Outbox};
use coracle_shared::wire::{Features, Hello, PROTOCOLS, ToAgent, ToServer};
use smol::block_on;

use crate::clock::EPOCH;
use crate::disk::SimDisk;
use crate::ledger::SimLedger;
use crate::server::CLUSTER;

/// What came of a step.
#[derive(Debug)]
pub enum Did {
    Send(u64, Vec<u8>),
    Job(Box<Job>),
    /// The store's uuid is to be kept.
    Welcomed(StoreUuid),
    /// The ledger has taken in a set up to here.
    Took(SetKind, Generation),
    /// The ledger let these pods go.
    Dropped(Vec<PodUid>),
    Lost(u64, String),
    Say(String),
}

pub struct Agent {
    pub incarnation: u64,
    node: String,
    store: Option<StoreUuid>,
    pub keeper: Keeper<SimLedger>,
    published: Receiver<Publication>,
    pub fleet: Fleet,
    outbox: Outbox,
    pub session: Option<(u64, AgentSession)>,
}

pub fn at(now: u64) -> Now {
    Now { mono: now, wall: EPOCH + now as i64 }
}

fn node_report(index: usize, name: &str) -> NodeReport {
    let resources = Resources { cpu_millis: 4000, memory_bytes: 4 << 30, storage_bytes: 16 << 30, pods: 30 };
    NodeReport {
        addresses: vec![address(index)],
        hostname: name.to_owned(),
        capacity: resources,
        allocatable: resources,
        architecture: "arm64".into(),
        os_image: "sim".into(),
        kernel: "6.1".into(),
        machine_id: format!("m{index}"),
        boot_id: "b".into(),
        agent_version: "sim".into(),
        conditions: Vec::new(),
        labels: BTreeMap::new(),
    }
}

fn address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 0, 10 + index as u8)
}

impl Agent {
    /// Starts as the program does: ledger, book, what runs, then the desired set.
    pub fn start(
        (index, node): (usize, &str),
        disk: SimLedger,
        store: Option<StoreUuid>,
        found: BTreeMap<PodUid, Found>,
        (incarnation, now): (u64, u64),
    ) -> Result<Agent, LedgerError> {
        let ledger = Ledger::open(disk, Seal::new(&[3; 32]))?;
        let (book, _) = Book::new(ledger.read()?, Default::default());
        let (sender, published) = async_channel::unbounded();
        let mut agent = Agent {
            incarnation,
            node: node.to_owned(),
            store,
            keeper: Keeper::new(ledger, book, sender),
            published,
            fleet: Fleet::new(),
            outbox: Outbox::default(),
            session: None,
        };
        agent.outbox.node(node_report(index, node));
        agent.fleet.set_host_ip(Some(address(index)), at(now));
        agent.fleet.found(found);
        let pods = agent.keeper.book().pods();
        agent.fleet.desire(&pods, at(now));
        Ok(agent)
    }

    /// A connection is up: the session begins.
    pub fn connected(&mut self, connection: u64) {
        let hello = Hello {
            protocols: PROTOCOLS,
            features: Features::default(),
            cluster: CLUSTER,
            node: self.node.clone(),
            store: self.store,
            heads: self.keeper.heads(),
            agent_version: "sim".into(),
        };
        self.session = Some((connection, AgentSession::new(hello)));
        self.outbox.restart();
    }

    pub fn heard(&mut self, connection: u64, bytes: &[u8], now: u64) -> Vec<Did> {
        let Some((_, session)) = self.session.as_mut().filter(|(id, _)| *id == connection) else { return Vec::new() };
        let message = decode_evolving::<ToAgent>(bytes).expect("a link does not change bytes");
        if let Err(ended) = session.handle(message) {
            self.session = None;
            return vec![Did::Lost(connection, ended.to_string())];
        }
        self.pump(now)
    }

    /// Does what the session asks for, and hands out what the fleet brought forth.
    pub fn pump(&mut self, now: u64) -> Vec<Did> {
        let mut did = Vec::new();
        loop {
            self.collect(&mut did);
            let Some((connection, session)) = &mut self.session else { return did };
            let connection = *connection;
            let Some(output) = session.poll_output() else {
                if session.is_welcomed()
                    && let Some(report) = self.outbox.next_report(session.next_sequence())
                {
                    session.report(report);
                    continue;
                }
                return did;
            };
            match output {
                AgentOutput::Send(message) => {
                    if let ToServer::Rejected { set, why, .. } = &message {
                        did.push(Did::Say(format!("{} rejects {set:?}: {why:?}", self.node)));
                    }
                    did.push(Did::Send(connection, encode(&message)));
                }
                AgentOutput::Welcomed(welcome) => {
                    self.store = Some(welcome.store);
                    did.push(Did::Welcomed(welcome.store));
                }
                AgentOutput::NeedIndex(set) => {
                    let index = block_on(self.keeper.index(set)).expect("it is in memory");
                    self.with_session(|session| session.index(set, index));
                }
                AgentOutput::Apply(apply) => self.apply(apply, now, &mut did),
                AgentOutput::Reported(sequence) => self.outbox.acknowledged(sequence),
                // Certificates are not part of the simulation.
                AgentOutput::RenewFirst | AgentOutput::Renewed(_) => {}
            }
        }
    }

    fn with_session(&mut self, act: impl FnOnce(&mut AgentSession)) {
        if let Some((_, session)) = &mut self.session {
            act(session);
        }
    }

    fn apply(&mut self, apply: Apply, now: u64, did: &mut Vec<Did>) {
        let (set, generation) = (apply.set, apply.generation);
        let pods = apply.deletes.iter().filter_map(|id| id.0.strip_prefix("pod/"));
        let gone: Vec<PodUid> = pods.map(|uid| PodUid(uid.to_owned())).collect();
        match block_on(self.keeper.apply(apply)) {
            Ok(digest) => {
                if !gone.is_empty() {
                    did.push(Did::Dropped(gone));
                }
                did.extend(generation.map(|generation| Did::Took(set, generation)));
                self.with_session(|session| session.applied(set, digest));
            }
            Err(reason) => {
                did.push(Did::Say(format!("{}: {reason}", self.node)));
                self.with_session(|session| session.failed(set, reason));
            }
        }
        self.take_news(now);
    }

    /// Acts on what the ledger has published, and on nothing else.
    fn take_news(&mut self, now: u64) {
        let mut news = Publication::default();
        while let Ok(publication) = self.published.try_recv() {
            news.merge(publication);
        }
        if news.pods {
            let pods = self.keeper.book().pods();
            self.fleet.desire(&pods, at(now));
        }
        for (namespace, changed) in &news.data {
            self.fleet.data_changed(namespace, changed, at(now));
        }
    }

    /// Writes down that a pod ran to its end.
    pub fn record(&mut self, report: PodReport, now: u64) -> Result<(), LedgerError> {
        let recorded = self.keeper.record(report);
        self.take_news(now);
        recorded
    }

    pub fn done(&mut self, uid: &PodUid, outcome: Outcome, now: u64) {
        self.fleet.done(uid, outcome, at(now));
    }

    fn collect(&mut self, did: &mut Vec<Did>) {
        let Output { jobs, reports, events, forgotten, .. } = self.fleet.drain();
        did.extend(jobs.into_iter().map(|job| Did::Job(Box::new(job))));
        reports.into_iter().for_each(|report| self.outbox.pod(report));
        forgotten.iter().for_each(|uid| self.outbox.forget(uid));
        events.into_iter().for_each(|event| self.outbox.event(event));
    }
}

/// Whether what surely survives a power cut at this moment holds the pod; the error says what is there.
pub fn survives(disk: &SimDisk, uid: &PodUid) -> Result<(), String> {
    let disk = disk.after_cut(crate::disk::Survives::Nothing, 0);
    let ledger =
        Ledger::open(SimLedger::new(disk, Arc::default()), Seal::new(&[3; 32])).map_err(|error| error.to_string())?;
    let contents = ledger.read().map_err(|error| error.to_string())?;
    let held: Vec<String> = contents.items.into_keys().map(|(_, id)| id.0).collect();
    match held.iter().any(|id| id.strip_prefix("pod/") == Some(&uid.0)) {
        true => Ok(()),
        false => Err(format!("it holds {}", held.join(", "))),
    }
}
