//! The server: the product's own store, pipeline, controllers, scheduler, compiling, sessions and
//! reports, stepped one thing at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use coracle_controllers::{Batch, Controllers, NodeLimits};
use coracle_scheduler::{Errand, Outcome};
use coracle_server::api::stream::{
    BoxFuture, ExecRequest, ExecStream, LogReader, LogRequest, NodeStreams, RevokeError, Revoked, StreamError,
};
use coracle_server::api::{Api, Config, seed};
use coracle_server::kinds;
use coracle_server::nodes::commit::{self, Reporter};
use coracle_server::nodes::desired::{DesiredSets, Subscription};
use coracle_server::nodes::registry::Registry;
use coracle_server::nodes::{ClusterNetwork, parse_cidr};
use coracle_shared::codec::{decode_evolving, encode};
use coracle_shared::contact::Contacts;
use coracle_shared::ids::{ClusterId, StoreUuid};
use coracle_shared::session::{Millis, ServerIdentity, ServerOutput, ServerSession, Standing};
use coracle_shared::submit::{Identity, Refusal, Submit, Write};
use coracle_shared::wire::{Features, PROTOCOLS, Rejection, Report, ToServer};
use coracle_store::embedded::Options;
use coracle_store::{CommitError, Embedded, Store};
use serde_json::Value;
use smol::block_on;

use crate::clock::Virtual;
use crate::disk::{Random, SimDisk};

pub const CLUSTER: ClusterId = ClusterId([7; 16]);
/// Larger than any run's writes: checkpoints have a thread of their own and tests of their own.
const SEGMENT_BYTES: u64 = 64 << 20;
/// As the server's flags have them by default.
pub const LIMITS: NodeLimits = NodeLimits { grace_millis: 60_000, evict_millis: 300_000 };

/// What the server does next, and when the world lets it.
#[derive(Debug)]
pub enum Task {
    Controllers,
    Scheduler,
    Nodes,
    /// The write of a batch that is due.
    Batch(Box<Batch>, usize),
    Tell(Identity, Vec<Write>),
    Errand(Errand),
    Decided(Outcome),
    Report(u64),
    /// A session has something to do without a message.
    Session(u64),
}

/// What came of a step.
#[derive(Debug)]
pub enum Did {
    /// After a moment.
    Soon(Task),
    /// At this time.
    At(u64, Task),
    Send(u64, Vec<u8>),
    Close(u64),
    Say(String),
}

pub struct Session {
    pub node: String,
    core: ServerSession,
    subscription: Option<Subscription>,
    number: Option<u64>,
    answering: bool,
    /// A report on its way into the store; nothing more is read meanwhile.
    writing: Option<(Option<u64>, Report)>,
    /// The agent said in its Hello that it holds exactly this.
    same: Option<[coracle_shared::desired::SetHead; 2]>,
}

pub struct Server {
    pub started: u64,
    clock: Virtual,
    pub store: Arc<Embedded>,
    api: Arc<Api>,
    pub desired: Arc<DesiredSets>,
    pub registry: Arc<Registry<u64>>,
    controllers: coracle_controllers::Stepper,
    scheduler: coracle_scheduler::Stepper,
    contacts_seen: u64,
    /// How far compiling has followed the store.
    compiled: coracle_store::Revision,
    pub sessions: BTreeMap<u64, Session>,
    /// Tasks of the three followers that are on their way.
    pub waiting: [bool; 3],
}

struct NoStreams;

impl NodeStreams for NoStreams {
    fn open_logs<'a>(&'a self, node: &'a str, _: LogRequest) -> BoxFuture<'a, Result<LogReader, StreamError>> {
        Box::pin(async move { Err(StreamError::NodeAway { node: node.to_owned() }) })
    }

    fn revoke<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Revoked, RevokeError>> {
        Box::pin(async move { Err(RevokeError::NoSuchNode) })
    }

    fn open_exec<'a>(&'a self, node: &'a str, _: ExecRequest) -> BoxFuture<'a, Result<ExecStream, StreamError>> {
        Box::pin(async move { Err(StreamError::NodeAway { node: node.to_owned() }) })
    }
}

fn network() -> ClusterNetwork {
    ClusterNetwork {
        cluster_cidr: parse_cidr("10.42.0.0/16").expect("a network"),
        service_cidr: parse_cidr("10.43.0.0/16").expect("a network"),
        dns_ip: "10.43.0.10".parse().expect("an address"),
        domain: "cluster.local".into(),
    }
}

impl Server {
    /// Starts on a disk, as the program does. `None` when the disk fails meanwhile.
    pub fn start(disk: &SimDisk, clock: &Virtual, seed: u64) -> Result<Server, String> {
        let options = Options {
            clock: clock.store_clock(),
            segment_bytes: SEGMENT_BYTES,
            reserve_bytes: 64 << 10,
            ..Options::default()
        };
        let store = Arc::new(Embedded::open_on(Arc::new(disk.clone()), options).map_err(|e| e.to_string())?);
        let wall = clock.clone();
        let random = Mutex::new(Random(seed));
        let config = Config {
            address: "10.0.0.1:6443".into(),
            service_cidr: network().service_cidr,
            clock: Arc::new(move || wall.wall_millis()),
            random: Arc::new(move || {
                let mut random = random.lock().expect("nobody panics with it");
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&random.next().to_le_bytes());
                bytes[8..].copy_from_slice(&random.next().to_le_bytes());
                bytes
            }),
            executor: Arc::new(smol::Executor::new()),
        };
        let api = Arc::new(Api::new(store.clone(), Arc::new(NoStreams), config));
        block_on(seed::seed(&api, 6443)).map_err(|status| status.message)?;
        let registry = Arc::new(Registry::new(clock.store_clock()));
        let mut resources: Vec<(&'static str, bool)> =
            kinds::stored().map(|kind| (kind.storage.resource, kind.namespaced)).collect();
        resources.sort_unstable();
        resources.dedup();
        let parts = Controllers {
            store: store.clone(),
            submit: api.clone(),
            clock: Arc::new(clock.clone()),
            contacts: registry.clone(),
            node_limits: LIMITS,
            resources,
        };
        let desired = Arc::new(DesiredSets::new(store.clone(), network()));
        desired.rebuild();
        Ok(Server {
            started: clock.now(),
            clock: clock.clone(),
            controllers: coracle_controllers::Stepper::new(&parts),
            scheduler: coracle_scheduler::Stepper::new(store.clone(), Arc::new(clock.clone())),
            store,
            api,
            desired,
            registry,
            contacts_seen: 0,
            compiled: coracle_store::Revision::default(),
            sessions: BTreeMap::new(),
            waiting: [false; 3],
        })
    }

    fn now(&self) -> Millis {
        Millis(self.clock.now())
    }

    pub fn submit(&self, who: &Identity, write: Write) -> Result<Value, Refusal> {
        block_on(self.api.submit(who, write))
    }

    pub fn step(&mut self, task: Task) -> Vec<Did> {
        match task {
            Task::Controllers => self.control(),
            Task::Scheduler => {
                self.waiting[1] = false;
                self.scheduler.turn().into_iter().map(|errand| Did::Soon(Task::Errand(errand))).collect()
            }
            Task::Nodes => {
                self.waiting[2] = false;
                self.compiled = self.store.revision();
                while self.desired.catch_up() {}
                self.fill_all()
            }
            Task::Batch(batch, at) => self.batch(batch, at),
            Task::Tell(who, writes) => {
                for write in writes {
                    let _ = self.submit(&who, write);
                }
                Vec::new()
            }
            Task::Errand(errand) => self.errand(errand),
            Task::Decided(outcome) => {
                self.scheduler.catch_up();
                self.scheduler.take(outcome);
                let errands = self.scheduler.turn();
                errands.into_iter().map(|errand| Did::Soon(Task::Errand(errand))).collect()
            }
            Task::Report(session) => self.report(session),
            Task::Session(session) => self.fill(session),
        }
    }

    fn control(&mut self) -> Vec<Did> {
        self.waiting[0] = false;
        let version = self.registry.version();
        if version != self.contacts_seen {
            self.contacts_seen = version;
            self.controllers.catch_up();
            self.controllers.contacts_changed();
        }
        let (batches, next) = self.controllers.turn();
        let mut did: Vec<Did> = batches.into_iter().map(|b| Did::Soon(Task::Batch(Box::new(b), 0))).collect();
        did.extend(next.map(|at| Did::At(at.0 as u64, Task::Controllers)));
        did
    }

    fn batch(&mut self, batch: Box<Batch>, at: usize) -> Vec<Did> {
        let mut refused = None;
        if let Some(write) = batch.writes.get(at) {
            match self.submit(&batch.who, write.clone()) {
                Err(refusal) if !Batch::is_courtesy(write) => refused = Some(refusal),
                _ if at + 1 < batch.writes.len() => return vec![Did::Soon(Task::Batch(batch, at + 1))],
                _ => {}
            }
        }
        let mut did: Vec<Did> = Vec::new();
        if let Some(refusal) = &refused {
            did.push(Did::Say(format!("{}: refused {}: {}", batch.who.user, refusal.code, refusal.message)));
        }
        self.controllers.catch_up();
        let told = self.controllers.finished(&batch, refused);
        if !told.is_empty() {
            did.push(Did::Soon(Task::Tell(batch.who.clone(), told)));
        }
        did.extend(self.control());
        did
    }

    fn errand(&mut self, errand: Errand) -> Vec<Did> {
        match errand {
            Errand::Ask(image) => vec![Did::Soon(Task::Decided(Outcome::Platforms(image, None)))],
            Errand::Retry(pod) => vec![Did::At(self.clock.now() + 1000, Task::Decided(Outcome::Retry(pod)))],
            Errand::Tell(writes) => vec![Did::Soon(Task::Tell(coracle_scheduler::identity(), writes))],
            Errand::Bind(request, node) => {
                let who = coracle_scheduler::identity();
                match self.submit(&who, coracle_scheduler::bind_write(&request, &node)) {
                    Ok(_) => {
                        let event = coracle_scheduler::scheduled_event(&request, &node, &self.clock);
                        vec![
                            Did::Say(format!("bound {} to {node}", request.name)),
                            Did::Soon(Task::Tell(who, vec![event])),
                        ]
                    }
                    Err(refusal) => vec![Did::Soon(Task::Decided(Outcome::Refused(request, refusal)))],
                }
            }
        }
    }

    /// A node has opened its stream.
    pub fn accept(&mut self, connection: u64, node: &str) {
        let identity = ServerIdentity {
            cluster: CLUSTER,
            store: StoreUuid(self.store.id().uuid),
            protocols: PROTOCOLS,
            features: Features::default(),
            version: "sim".into(),
        };
        let core = ServerSession::new(identity, node.to_owned(), Standing::Valid, self.now());
        let session = Session {
            node: node.to_owned(),
            core,
            subscription: None,
            number: None,
            answering: true,
            writing: None,
            same: None,
        };
        self.sessions.insert(connection, session);
    }

    /// Whether the session reads.
    pub fn reads(&self, connection: u64) -> bool {
        self.sessions.get(&connection).is_some_and(|session| session.writing.is_none())
    }

    pub fn heard(&mut self, connection: u64, bytes: &[u8]) -> Vec<Did> {
        let message = decode_evolving::<ToServer>(bytes).expect("a link does not change bytes");
        let (now, wall) = (self.now(), self.clock.wall_millis());
        let Some(session) = self.sessions.get_mut(&connection) else { return Vec::new() };
        let heads = if let ToServer::Hello(hello) = &message { Some(hello.heads) } else { None };
        let ended = session.core.handle(message, now, wall).err();
        let mut did = Vec::new();
        while let Some(output) = session.core.poll_output() {
            match output {
                ServerOutput::Started(_) => {
                    let subscription = self.desired.subscribe(&session.node);
                    let sets = subscription.with(|sets| sets.map(|set| set.map(|set| set.head())));
                    if let ([Some(node), Some(shared)], Some(heads)) = (sets, heads)
                        && node.digest == heads.node.digest
                        && shared.digest == heads.shared.digest
                    {
                        session.same = Some([node, shared]);
                    }
                    session.subscription = Some(subscription);
                    let (number, old) = self.registry.connected(&session.node, connection);
                    session.number = Some(number);
                    did.extend(old.map(Did::Close));
                }
                ServerOutput::Synced { .. } | ServerOutput::Renew { .. } => {}
                ServerOutput::Rejected { set, why } => {
                    // Digests are checked at both ends: another one than the server's is a defect.
                    assert!(why != Rejection::Digest, "{} holds another {set:?} set than it was sent", session.node);
                    did.push(Did::Say(format!("{} rejected {set:?}: {why:?}", session.node)));
                }
                ServerOutput::Report(report) => {
                    session.writing = Some((Some(report.sequence), *report));
                    did.push(Did::Soon(Task::Report(connection)));
                }
                ServerOutput::Liveness(answering) => {
                    session.answering = answering;
                    if let Some(number) = session.number {
                        self.registry.liveness(&session.node, number, answering);
                    }
                    session.writing = Some((None, Report::default()));
                    did.push(Did::Soon(Task::Report(connection)));
                }
            }
        }
        did.extend(self.fill(connection));
        if let Some(ended) = ended {
            did.push(Did::Say(format!("session {connection} ended: {ended}")));
            did.push(Did::Close(connection));
        }
        did
    }

    /// Puts a report into the store, as `nodes::commit::report` does.
    fn report(&mut self, connection: u64) -> Vec<Did> {
        let Some(session) = self.sessions.get_mut(&connection) else { return Vec::new() };
        let Some((sequence, report)) = &session.writing else { return Vec::new() };
        let who =
            Reporter { node: session.node.clone(), answering: session.answering, pod_network: network().cluster_cidr };
        loop {
            let planned = commit::plan(&*self.store, &who, report, self.clock.wall_millis()).expect("randomness");
            if planned.changes.is_empty() {
                break;
            }
            match block_on(self.store.commit(planned)) {
                Ok(_) => break,
                Err(CommitError::Failed(_)) => continue,
                Err(error @ CommitError::Malformed(_)) => panic!("a report makes a bad commit: {error}"),
                Err(_) => return vec![Did::At(self.clock.now() + 200, Task::Report(connection))],
            }
        }
        if let Some(sequence) = *sequence {
            session.core.reported(sequence);
        }
        session.writing = None;
        self.fill(connection)
    }

    fn fill_all(&mut self) -> Vec<Did> {
        let all: Vec<u64> = self.sessions.keys().copied().collect();
        all.into_iter().flat_map(|connection| self.fill(connection)).collect()
    }

    /// Makes the messages that there are to make.
    fn fill(&mut self, connection: u64) -> Vec<Did> {
        let now = self.now();
        let Some(session) = self.sessions.get_mut(&connection) else { return Vec::new() };
        let mut did = Vec::new();
        loop {
            let message = match &session.subscription {
                Some(subscription) => subscription.with(|sets| session.core.poll_transmit(sets, now)),
                None => session.core.poll_transmit([None, None], now),
            };
            let Some(message) = message else { break };
            did.push(Did::Send(connection, encode(&message)));
        }
        if let (Some(same), Some(subscription)) = (session.same, &session.subscription) {
            let unchanged = subscription.with(|sets| sets.map(|set| set.map(|set| set.head()))) == same.map(Some);
            assert!(
                !unchanged || session.core.items_sent() == 0,
                "{} held everything when it connected, and got {} items",
                session.node,
                session.core.items_sent()
            );
            session.same = Some(same).filter(|_| unchanged);
        }
        if session.core.handle_timeout(now).is_err() {
            did.push(Did::Close(connection));
        } else if let Some(at) = session.core.poll_timeout() {
            did.push(Did::At(at.0, Task::Session(connection)));
        }
        did
    }

    /// The connection is gone, as this end sees it after so much silence.
    pub fn lost(&mut self, connection: u64, silence: u64) {
        if let Some(session) = self.sessions.remove(&connection)
            && let Some(number) = session.number
        {
            self.registry.lost(&session.node, number, std::time::Duration::from_millis(silence));
        }
    }

    /// Which followers have something to do: controllers, scheduler, nodes.
    pub fn behind(&self) -> [bool; 3] {
        let newest = self.store.revision();
        let contacts = self.registry.version() != self.contacts_seen;
        [self.controllers.revision() < newest || contacts, self.scheduler.revision() < newest, self.compiled < newest]
    }
}
