//! The agent's end of a session.

use std::collections::{BTreeSet, VecDeque};

use super::{Ended, INDEX_BATCH, MAX_SET_ITEMS};
use crate::desired::{Item, ItemId, SetHead, SetKind};
use crate::digest;
use crate::ids::{Digest, Generation};
use crate::wire::{
    Features, Hello, Refuse, RefuseCode, Rejection, Renewed, Report, SyncMode, ToAgent, ToServer, Welcome,
};

/// A change of a set, to be written to the ledger in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apply {
    pub set: SetKind,
    pub puts: Vec<Item>,
    pub deletes: Vec<ItemId>,
    /// On the last batch: the generation that the set has with it.
    pub generation: Option<Generation>,
    /// On the last batch: the server has all of the set, so that what is absent is not to be.
    pub complete: bool,
}

/// What the owner of a session has to do, in this order, each to its end before the next.
#[derive(Clone, Debug, PartialEq)]
pub enum AgentOutput {
    Send(ToServer),
    /// The session is open. Where the agent knows no store yet, this one's uuid is to be written
    /// down before anything else.
    Welcomed(Welcome),
    /// To be answered with [`AgentSession::index`].
    NeedIndex(SetKind),
    /// To be answered with [`AgentSession::applied`] or [`AgentSession::failed`].
    Apply(Apply),
    /// The report with this number is in the store.
    Reported(u64),
    /// The certificate has expired: to be answered with [`AgentSession::renew`].
    RenewFirst,
    /// To be written down in place of the old certificate, then told by [`AgentSession::renewed`].
    Renewed(Renewed),
}

/// A set on its way in.
#[derive(Debug)]
struct Incoming {
    to: SetHead,
    mode: SyncMode,
    complete: bool,
    /// Of a whole set: what came. What did not come goes at the end, if the set is complete.
    seen: BTreeSet<ItemId>,
    state: Receiving,
}

#[derive(Debug, PartialEq, Eq)]
enum Receiving {
    Items,
    /// `End` came; the index is needed to know what goes.
    Ending,
    /// The last batch is being written.
    Last,
    /// Rejected: the rest is ignored up to `End`.
    Ignored,
}

/// Why an index was asked for.
#[derive(Debug, PartialEq, Eq)]
enum IndexFor {
    Server,
    Ending,
}

/// One session with a server, from Hello on.
#[derive(Debug)]
pub struct AgentSession {
    hello: Hello,
    welcomed: bool,
    outputs: VecDeque<AgentOutput>,
    incoming: [Option<Incoming>; 2],
    index_for: VecDeque<(SetKind, IndexFor)>,
    next_report: u64,
    acknowledged: u64,
    renewal: Renewal,
}

/// How far a certificate's renewal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Renewal {
    /// Not asked for; the flag is whether the server knows how.
    Idle { possible: bool },
    /// Asked for.
    Asked,
    /// Nothing else is said before it.
    First,
}

impl AgentSession {
    /// Starts with what the agent says of itself and holds; its Hello is the first output.
    pub fn new(hello: Hello) -> AgentSession {
        let first = AgentOutput::Send(ToServer::Hello(hello.clone()));
        AgentSession {
            hello,
            welcomed: false,
            outputs: VecDeque::from([first]),
            incoming: [None, None],
            index_for: VecDeque::new(),
            next_report: 1,
            acknowledged: 0,
            renewal: Renewal::Idle { possible: false },
        }
    }

    pub fn is_welcomed(&self) -> bool {
        self.welcomed
    }

    pub fn poll_output(&mut self) -> Option<AgentOutput> {
        self.outputs.pop_front()
    }

    /// Takes a message. An error ends the session.
    pub fn handle(&mut self, message: ToAgent) -> Result<(), Ended> {
        match (self.welcomed, message) {
            (false, ToAgent::Welcome(welcome)) => self.welcome(welcome),
            (_, ToAgent::Refuse(refuse)) => Err(Ended::Refused(refuse)),
            (false, ToAgent::RenewFirst { protocol }) => self.renew_first(protocol),
            (_, ToAgent::Renewed(renewed)) => self.take_renewed(renewed),
            (false, _) => Err(Ended::Violation("no Welcome first")),
            (true, ToAgent::Welcome(_) | ToAgent::RenewFirst { .. }) => Err(Ended::Violation("a second Welcome")),
            (true, ToAgent::SendIndex { set }) => {
                self.index_for.push_back((set, IndexFor::Server));
                self.outputs.push_back(AgentOutput::NeedIndex(set));
                Ok(())
            }
            (true, ToAgent::Begin { set, to, mode, complete }) => self.begin(set, to, mode, complete),
            (true, ToAgent::Items { set, puts, deletes }) => self.items(set, puts, deletes),
            (true, ToAgent::End { set }) => self.end(set),
            (true, ToAgent::Reported { sequence }) => self.reported(sequence),
            (true, ToAgent::Unknown(_)) => Ok(()),
        }
    }

    fn welcome(&mut self, welcome: Welcome) -> Result<(), Ended> {
        let foreign = |code, message| Err(Ended::Foreign(Refuse { code, message }));
        self.offered(welcome.protocol)?;
        if welcome.cluster != self.hello.cluster {
            let (theirs, ours) = (welcome.cluster, self.hello.cluster);
            return foreign(RefuseCode::Cluster, format!("the server is of cluster {theirs}, this node of {ours}"));
        }
        if let Some(held) = self.hello.store
            && held != welcome.store
        {
            let theirs = welcome.store;
            return foreign(
                RefuseCode::Store,
                format!(
                    "the server has store {theirs}, this node's state comes from {held}: what runs is kept as it is"
                ),
            );
        }
        self.hello.store = Some(welcome.store);
        self.welcomed = true;
        self.renewal = Renewal::Idle { possible: welcome.features.has(Features::RENEW) };
        self.outputs.push_back(AgentOutput::Welcomed(welcome));
        Ok(())
    }

    fn offered(&self, protocol: u16) -> Result<(), Ended> {
        match self.hello.protocols.has(protocol) {
            true => Ok(()),
            false => Err(Ended::Violation("a protocol that was not offered")),
        }
    }

    fn renew_first(&mut self, protocol: u16) -> Result<(), Ended> {
        self.offered(protocol)?;
        if self.renewal == Renewal::First {
            return Err(Ended::Violation("a renewal asked for twice"));
        }
        self.renewal = Renewal::First;
        self.outputs.push_back(AgentOutput::RenewFirst);
        Ok(())
    }

    fn take_renewed(&mut self, renewed: Renewed) -> Result<(), Ended> {
        if matches!(self.renewal, Renewal::Idle { .. }) {
            return Err(Ended::Violation("a certificate that nobody asked for"));
        }
        self.outputs.push_back(AgentOutput::Renewed(renewed));
        Ok(())
    }

    /// Whether a renewal may be asked for.
    pub fn may_renew(&self) -> bool {
        self.renewal == Renewal::Idle { possible: true }
    }

    /// Asks for a new certificate.
    pub fn renew(&mut self, csr: Vec<u8>) {
        if self.renewal != Renewal::First {
            self.renewal = Renewal::Asked;
        }
        self.outputs.push_back(AgentOutput::Send(ToServer::Renew { csr }));
    }

    /// The new certificate is written down. A session under an expired one ends with that.
    pub fn renewed(&mut self) -> Result<(), Ended> {
        match std::mem::replace(&mut self.renewal, Renewal::Idle { possible: true }) {
            Renewal::First => Err(Ended::Renewed),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, set: SetKind, to: SetHead, mode: SyncMode, complete: bool) -> Result<(), Ended> {
        let held = self.hello.heads.of(set);
        let slot = &mut self.incoming[set as usize];
        if slot.is_some() {
            return Err(Ended::Violation("a set begins inside itself"));
        }
        let state = if to.generation < held.generation { Receiving::Ignored } else { Receiving::Items };
        if state == Receiving::Ignored {
            let why = Rejection::Older { held };
            self.outputs.push_back(AgentOutput::Send(ToServer::Rejected { set, to, why }));
        }
        *slot = Some(Incoming { to, mode, complete, seen: BTreeSet::new(), state });
        Ok(())
    }

    fn items(&mut self, set: SetKind, puts: Vec<Item>, deletes: Vec<ItemId>) -> Result<(), Ended> {
        let Some(incoming) = &mut self.incoming[set as usize] else {
            return Err(Ended::Violation("items outside a set"));
        };
        match incoming.state {
            Receiving::Ignored => return Ok(()),
            Receiving::Items => {}
            Receiving::Ending | Receiving::Last => return Err(Ended::Violation("items after the end of a set")),
        }
        if puts.iter().any(|item| digest::of_body(&item.body) != item.hash) {
            return Err(Ended::Violation("an item that does not match its hash"));
        }
        if incoming.mode == SyncMode::Full {
            if !deletes.is_empty() {
                return Err(Ended::Violation("deletes in a whole set"));
            }
            incoming.seen.extend(puts.iter().map(|item| item.id.clone()));
            if incoming.seen.len() > MAX_SET_ITEMS {
                return Err(Ended::Violation("a set without end"));
            }
        }
        self.outputs.push_back(AgentOutput::Apply(Apply { set, puts, deletes, generation: None, complete: false }));
        Ok(())
    }

    fn end(&mut self, set: SetKind) -> Result<(), Ended> {
        let slot = &mut self.incoming[set as usize];
        let Some(incoming) = slot else { return Err(Ended::Violation("the end of a set that did not begin")) };
        match incoming.state {
            Receiving::Ignored => *slot = None,
            Receiving::Items if incoming.mode == SyncMode::Full && incoming.complete => {
                incoming.state = Receiving::Ending;
                self.index_for.push_back((set, IndexFor::Ending));
                self.outputs.push_back(AgentOutput::NeedIndex(set));
            }
            Receiving::Items => self.last(set, Vec::new()),
            Receiving::Ending | Receiving::Last => return Err(Ended::Violation("a set ends twice")),
        }
        Ok(())
    }

    fn last(&mut self, set: SetKind, deletes: Vec<ItemId>) {
        let Some(incoming) = &mut self.incoming[set as usize] else { return };
        incoming.state = Receiving::Last;
        let (generation, complete) = (Some(incoming.to.generation), incoming.complete);
        self.outputs.push_back(AgentOutput::Apply(Apply { set, puts: Vec::new(), deletes, generation, complete }));
    }

    /// What the ledger holds of a set, in id order: the answer to [`AgentOutput::NeedIndex`].
    pub fn index(&mut self, set: SetKind, entries: Vec<(ItemId, Digest)>) {
        let Some(at) = self.index_for.iter().position(|(asked, _)| *asked == set) else { return };
        match self.index_for.remove(at) {
            Some((_, IndexFor::Server)) => self.send_index(set, entries),
            Some((_, IndexFor::Ending)) => {
                let Some(incoming) = &mut self.incoming[set as usize] else { return };
                let seen = std::mem::take(&mut incoming.seen);
                let deletes = entries.into_iter().map(|(id, _)| id).filter(|id| !seen.contains(id)).collect();
                self.last(set, deletes);
            }
            None => {}
        }
    }

    fn send_index(&mut self, set: SetKind, entries: Vec<(ItemId, Digest)>) {
        let mut rest = entries.into_iter().peekable();
        loop {
            let entries: Vec<_> = rest.by_ref().take(INDEX_BATCH).collect();
            let last = rest.peek().is_none();
            self.outputs.push_back(AgentOutput::Send(ToServer::Index { set, entries, last }));
            if last {
                return;
            }
        }
    }

    /// The ledger holds a batch; `digest` is what the set has now.
    pub fn applied(&mut self, set: SetKind, digest: Digest) {
        let slot = &mut self.incoming[set as usize];
        let Some(incoming) = slot.take_if(|i| i.state == Receiving::Last) else { return };
        let to = incoming.to;
        *self.hello.heads.of_mut(set) = SetHead { generation: to.generation, digest };
        let answer = if incoming.complete && digest != to.digest {
            ToServer::Rejected { set, to, why: Rejection::Digest }
        } else {
            ToServer::Persisted { set, to }
        };
        self.outputs.push_back(AgentOutput::Send(answer));
    }

    /// The ledger could not take a batch: the set as a whole is refused, to be offered again.
    pub fn failed(&mut self, set: SetKind, reason: String) {
        let slot = &mut self.incoming[set as usize];
        let Some(incoming) = slot else { return };
        let to = incoming.to;
        let ended = matches!(incoming.state, Receiving::Last | Receiving::Ending);
        if incoming.state != Receiving::Ignored {
            self.outputs.push_back(AgentOutput::Send(ToServer::Rejected { set, to, why: Rejection::Storage(reason) }));
        }
        if ended {
            *slot = None;
        } else {
            incoming.state = Receiving::Ignored;
        }
    }

    /// The number that the next report will have.
    pub fn next_sequence(&self) -> u64 {
        self.next_report
    }

    /// Sends a report; numbers it. Returns the number that [`AgentOutput::Reported`] will carry.
    pub fn report(&mut self, mut report: Report) -> u64 {
        let sequence = self.next_report;
        self.next_report += 1;
        report.sequence = sequence;
        self.outputs.push_back(AgentOutput::Send(ToServer::Report(Box::new(report))));
        sequence
    }

    fn reported(&mut self, sequence: u64) -> Result<(), Ended> {
        if sequence <= self.acknowledged || sequence >= self.next_report {
            return Err(Ended::Violation("an acknowledgement of a report that was not sent"));
        }
        self.acknowledged = sequence;
        self.outputs.push_back(AgentOutput::Reported(sequence));
        Ok(())
    }

    /// Tells the server whether the reconcile loop answers.
    pub fn liveness(&mut self, answering: bool) {
        self.outputs.push_back(AgentOutput::Send(ToServer::Liveness { answering }));
    }
}
