//! The server's end of a session.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::{
    BATCH_BYTES, BATCH_ITEMS, DesiredSet, Difference, Ended, HELLO_TIMEOUT, MAX_SET_ITEMS, Millis, STORAGE_RETRY, Since,
};
use crate::desired::{Item, ItemId, SetHead, SetKind};
use crate::ids::{ClusterId, Digest, StoreUuid};
use crate::wire::{
    Features, Hello, ProtocolRange, Refuse, RefuseCode, Rejection, Renewed, Report, SyncMode, ToAgent, ToServer,
    Welcome,
};

/// Both sets, in the order in which they are sent.
const SETS: [SetKind; 2] = [SetKind::Node, SetKind::Shared];

/// What the server says of itself.
#[derive(Clone, Debug)]
pub struct ServerIdentity {
    pub cluster: ClusterId,
    pub store: StoreUuid,
    /// What it speaks: its own protocol and the two before it.
    pub protocols: ProtocolRange,
    pub features: Features,
    pub version: String,
}

/// What the peer's certificate allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Valid,
    /// It may renew, and do nothing else.
    Expired,
}

/// What the owner of a session has to know or do.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerOutput {
    /// The agent is who it says it is, and may be served.
    Started(Hello),
    /// The agent's ledger holds this set as it was sent.
    Synced { set: SetKind, head: SetHead },
    /// The agent did not take a set.
    Rejected { set: SetKind, why: Rejection },
    /// To be put into the store, then acknowledged with [`ServerSession::reported`].
    Report(Box<Report>),
    /// Whether the agent's reconcile loop answers.
    Liveness(bool),
    /// A certificate is asked for; to be answered with [`ServerSession::renewed`].
    Renew { csr: Vec<u8> },
}

/// How far the agent is with one set.
#[derive(Debug)]
enum Sync {
    /// It claimed to hold this; not yet compared.
    Claimed(SetHead),
    /// `SendIndex` is due.
    AskIndex,
    /// Its index is on the way.
    Indexing(BTreeMap<ItemId, Digest>),
    /// The index is whole; the difference is due.
    Indexed(BTreeMap<ItemId, Digest>),
    Sending(Sending),
    /// `End` went out; the ledger's word is due.
    Waiting {
        to: SetHead,
        mode: SyncMode,
    },
    /// The agent holds what the set was at this head.
    At(SetHead),
    /// All has to travel, because what was applied gave another digest.
    Resend,
    /// Nothing until the time or, without one, until the set changes.
    Held {
        seen: SetHead,
        claim: SetHead,
        until: Option<Millis>,
    },
}

#[derive(Debug)]
struct Sending {
    to: SetHead,
    mode: SyncMode,
    complete: bool,
    begun: bool,
    left: Difference,
}

/// One agent's session, from its Hello on.
#[derive(Debug)]
pub struct ServerSession {
    identity: ServerIdentity,
    /// The node that the peer's certificate names.
    node: String,
    standing: Standing,
    deadline: Option<Millis>,
    queue: VecDeque<ToAgent>,
    outputs: VecDeque<ServerOutput>,
    syncs: [Sync; 2],
    last_report: u64,
    items_sent: u64,
    ended: bool,
}

impl ServerSession {
    /// `node` is the name in the verified certificate of the peer.
    pub fn new(identity: ServerIdentity, node: String, standing: Standing, now: Millis) -> ServerSession {
        ServerSession {
            identity,
            node,
            standing,
            deadline: Some(now.after(HELLO_TIMEOUT)),
            queue: VecDeque::new(),
            outputs: VecDeque::new(),
            syncs: [Sync::Claimed(SetHead::default()), Sync::Claimed(SetHead::default())],
            last_report: 0,
            items_sent: 0,
            ended: false,
        }
    }

    /// How many desired items went out in this session.
    pub fn items_sent(&self) -> u64 {
        self.items_sent
    }

    /// Whether the agent holds both sets as they are.
    pub fn is_synced(&self, sets: [Option<&DesiredSet>; 2]) -> bool {
        self.syncs.iter().zip(sets).all(|(sync, set)| match (sync, set) {
            (Sync::At(head), Some(set)) => *head == set.head(),
            _ => false,
        })
    }

    /// Takes a message. An error ends the session; what [`Self::poll_transmit`] still has (a refusal)
    /// should be sent first. `wall` is the time for the agent, in milliseconds since the Unix epoch.
    pub fn handle(&mut self, message: ToServer, now: Millis, wall: i64) -> Result<(), Ended> {
        let outcome = self.take(message, now, wall);
        self.ended |= outcome.is_err();
        outcome
    }

    fn take(&mut self, message: ToServer, now: Millis, wall: i64) -> Result<(), Ended> {
        match (self.deadline, message) {
            (Some(_), ToServer::Hello(hello)) => self.hello(hello, wall),
            (None, ToServer::Renew { csr }) => {
                self.outputs.push_back(ServerOutput::Renew { csr });
                Ok(())
            }
            (None, _) if self.standing == Standing::Expired => {
                Err(Ended::Violation("more than a renewal under an expired certificate"))
            }
            (Some(_), _) => Err(Ended::Violation("no Hello first")),
            (None, ToServer::Hello(_)) => Err(Ended::Violation("a second Hello")),
            (None, ToServer::Index { set, entries, last }) => self.index(set, entries, last),
            (None, ToServer::Persisted { set, to }) => self.persisted(set, to),
            (None, ToServer::Rejected { set, to, why }) => self.rejected(set, to, why, now),
            (None, ToServer::Report(report)) => self.report(report),
            (None, ToServer::Liveness { answering }) => {
                self.outputs.push_back(ServerOutput::Liveness(answering));
                Ok(())
            }
            (None, ToServer::Unknown(_)) => Ok(()),
        }
    }

    fn hello(&mut self, hello: Hello, wall: i64) -> Result<(), Ended> {
        let protocol = match self.check(&hello) {
            Ok(protocol) => protocol,
            Err(refuse) => {
                self.queue.push_back(ToAgent::Refuse(refuse.clone()));
                return Err(Ended::Foreign(refuse));
            }
        };
        self.deadline = None;
        if self.standing == Standing::Expired {
            self.queue.push_back(ToAgent::RenewFirst { protocol });
            return Ok(());
        }
        self.syncs = SETS.map(|set| Sync::Claimed(hello.heads.of(set)));
        self.queue.push_back(ToAgent::Welcome(Welcome {
            protocol,
            features: self.identity.features,
            cluster: self.identity.cluster,
            store: self.identity.store,
            now: wall,
            server_version: self.identity.version.clone(),
        }));
        self.outputs.push_back(ServerOutput::Started(hello));
        Ok(())
    }

    fn check(&self, hello: &Hello) -> Result<u16, Refuse> {
        let refuse = |code, message| Err(Refuse { code, message });
        let (ours, theirs) = (self.identity.protocols, hello.protocols);
        let Some(protocol) = ours.common(theirs) else {
            return refuse(
                RefuseCode::Protocol,
                format!(
                    "the server speaks protocols {} to {}, the agent {} to {}: update the older of the two",
                    ours.min, ours.max, theirs.min, theirs.max
                ),
            );
        };
        if hello.cluster != self.identity.cluster {
            let ours = self.identity.cluster;
            return refuse(
                RefuseCode::Cluster,
                format!(
                    "node {} belongs to cluster {}, this is cluster {ours}: join it anew",
                    self.node, hello.cluster
                ),
            );
        }
        if hello.node != self.node {
            return refuse(
                RefuseCode::Identity,
                format!("the agent calls itself {}, its certificate names {}", hello.node, self.node),
            );
        }
        if self.standing == Standing::Expired && !hello.features.has(Features::RENEW) {
            return refuse(
                RefuseCode::Expired,
                format!(
                    "the certificate of node {} has expired, and its agent {} can not renew it: update the agent",
                    self.node, hello.agent_version
                ),
            );
        }
        match hello.store {
            Some(store) if store != self.identity.store => {
                let ours = self.identity.store;
                refuse(
                    RefuseCode::Store,
                    format!(
                        "node {} holds the state of store {store}, this server has store {ours}: restore the server's data, or empty the node and join it anew",
                        self.node
                    ),
                )
            }
            _ => Ok(protocol),
        }
    }

    fn index(&mut self, set: SetKind, entries: Vec<(ItemId, Digest)>, last: bool) -> Result<(), Ended> {
        let sync = self.sync(set);
        let Sync::Indexing(index) = sync else { return Err(Ended::Violation("an index that nobody asked for")) };
        index.extend(entries);
        if index.len() > MAX_SET_ITEMS {
            return Err(Ended::Violation("an index without end"));
        }
        if last {
            *sync = Sync::Indexed(std::mem::take(index));
        }
        Ok(())
    }

    fn persisted(&mut self, set: SetKind, to: SetHead) -> Result<(), Ended> {
        let sync = self.sync(set);
        match sync {
            Sync::Waiting { to: sent, .. } if *sent == to => {
                *sync = Sync::At(to);
                self.outputs.push_back(ServerOutput::Synced { set, head: to });
                Ok(())
            }
            _ => Err(Ended::Violation("an acknowledgement of what was not sent")),
        }
    }

    fn rejected(&mut self, set: SetKind, to: SetHead, why: Rejection, now: Millis) -> Result<(), Ended> {
        let sync = self.sync(set);
        // A rejection may come while later items are still on their way out: those are dropped.
        let mode = match sync {
            Sync::Waiting { to: sent, mode } if *sent == to => *mode,
            Sync::Sending(sending) if sending.to == to => sending.mode,
            _ => return Err(Ended::Violation("a rejection of what was not sent")),
        };
        *sync = match &why {
            Rejection::Older { held } => Sync::Held { seen: to, claim: *held, until: None },
            Rejection::Digest if mode == SyncMode::Delta => Sync::Resend,
            Rejection::Digest => Sync::Held { seen: to, claim: SetHead::default(), until: None },
            Rejection::Storage(_) => {
                Sync::Held { seen: to, claim: SetHead::default(), until: Some(now.after(STORAGE_RETRY)) }
            }
        };
        self.outputs.push_back(ServerOutput::Rejected { set, why });
        Ok(())
    }

    fn report(&mut self, report: Box<Report>) -> Result<(), Ended> {
        if report.sequence != self.last_report + 1 {
            return Err(Ended::Violation("reports out of order"));
        }
        self.last_report = report.sequence;
        self.outputs.push_back(ServerOutput::Report(report));
        Ok(())
    }

    /// The report with this number is in the store.
    pub fn reported(&mut self, sequence: u64) {
        self.queue.push_back(ToAgent::Reported { sequence });
    }

    /// The answer to a renewal that was asked for.
    pub fn renewed(&mut self, renewed: Renewed) {
        self.queue.push_back(ToAgent::Renewed(renewed));
    }

    pub fn poll_output(&mut self) -> Option<ServerOutput> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] or [`Self::poll_transmit`] has something to do without a message.
    pub fn poll_timeout(&self) -> Option<Millis> {
        let held = self.syncs.iter().filter_map(|sync| match sync {
            Sync::Held { until, .. } => *until,
            _ => None,
        });
        held.chain(self.deadline).min()
    }

    pub fn handle_timeout(&mut self, now: Millis) -> Result<(), Ended> {
        match self.deadline {
            Some(deadline) if deadline <= now => {
                self.ended = true;
                Err(Ended::Silent)
            }
            _ => Ok(()),
        }
    }

    /// The next message to send, made only when asked for, so that nothing piles up behind a slow
    /// link. `sets` are the node's and the shared one, `None` while not compiled. To be called after
    /// every input and after every change of a set, until `None`.
    pub fn poll_transmit(&mut self, sets: [Option<&DesiredSet>; 2], now: Millis) -> Option<ToAgent> {
        if let Some(message) = self.queue.pop_front() {
            return Some(message);
        }
        if self.deadline.is_some() || self.ended || self.standing == Standing::Expired {
            return None;
        }
        for (kind, set) in SETS.into_iter().zip(sets) {
            let Some(set) = set else { continue };
            let sync = &mut self.syncs[kind as usize];
            advance(sync, set, now);
            if let Some(message) = emit(sync, kind) {
                if let ToAgent::Items { puts, .. } = &message {
                    self.items_sent += puts.len() as u64;
                }
                return Some(message);
            }
        }
        None
    }

    /// Where the agent's ledger is known to be with a set; `None` while something is on its way.
    pub fn held(&self, set: SetKind) -> Option<SetHead> {
        match &self.syncs[set as usize] {
            Sync::At(head) => Some(*head),
            _ => None,
        }
    }

    fn sync(&mut self, set: SetKind) -> &mut Sync {
        &mut self.syncs[set as usize]
    }
}

/// Decides what is next for a set, as far as that follows from what is known.
fn advance(sync: &mut Sync, set: &DesiredSet, now: Millis) {
    let head = set.head();
    let next = match sync {
        Sync::Claimed(held) => compare(*held, set),
        Sync::At(held) if *held != head => compare(*held, set),
        Sync::Indexed(index) => start(set, SyncMode::Delta, set.difference(index)),
        Sync::Resend => start(set, SyncMode::Full, set.whole()),
        Sync::Held { seen, claim, until } if *seen != head || until.is_some_and(|t| t <= now) => Sync::Claimed(*claim),
        _ => return,
    };
    *sync = next;
    if matches!(sync, Sync::Claimed(_)) {
        advance(sync, set, now);
    }
}

fn compare(held: SetHead, set: &DesiredSet) -> Sync {
    match set.since(held) {
        Since::Same => Sync::At(set.head()),
        Since::Delta(difference) => start(set, SyncMode::Delta, difference),
        Since::Ahead => Sync::Held { seen: set.head(), claim: held, until: None },
        Since::Whole => start(set, SyncMode::Full, set.whole()),
        // Nothing held: an index would be empty.
        Since::Unknown if held == SetHead::default() => start(set, SyncMode::Full, set.whole()),
        Since::Unknown => Sync::AskIndex,
    }
}

fn start(set: &DesiredSet, mode: SyncMode, left: Difference) -> Sync {
    Sync::Sending(Sending { to: set.head(), mode, complete: set.is_complete(), begun: false, left })
}

fn emit(sync: &mut Sync, set: SetKind) -> Option<ToAgent> {
    match sync {
        Sync::AskIndex => {
            *sync = Sync::Indexing(BTreeMap::new());
            Some(ToAgent::SendIndex { set })
        }
        Sync::Sending(sending) if !sending.begun => {
            sending.begun = true;
            Some(ToAgent::Begin { set, to: sending.to, mode: sending.mode, complete: sending.complete })
        }
        Sync::Sending(sending) => match batch(&mut sending.left) {
            Some((puts, deletes)) => Some(ToAgent::Items { set, puts, deletes }),
            None => {
                *sync = Sync::Waiting { to: sending.to, mode: sending.mode };
                Some(ToAgent::End { set })
            }
        },
        _ => None,
    }
}

/// The next bounded batch: deletes first, because they free what puts may need.
fn batch(left: &mut Difference) -> Option<(Vec<Item>, Vec<ItemId>)> {
    if !left.deletes.is_empty() {
        let at = left.deletes.len().min(BATCH_ITEMS);
        return Some((Vec::new(), left.deletes.drain(..at).collect()));
    }
    let mut puts = Vec::new();
    let mut bytes = 0;
    while puts.len() < BATCH_ITEMS && bytes < BATCH_BYTES {
        let Some(item) = left.puts.pop_front() else { break };
        bytes += item.body.len() + item.id.0.len();
        puts.push(Arc::unwrap_or_clone(item));
    }
    (!puts.is_empty()).then_some((puts, Vec::new()))
}
