//! What the agent has to report: the latest of everything, sent when the server can take it.

use std::collections::{BTreeMap, VecDeque};

use crate::ids::PodUid;
use crate::report::{EventReport, NodeReport, PodReport};
use crate::wire::Report;

/// A report becomes one commit of at most 100 changes; pods, events and the node share it.
const REPORT_PODS: usize = 50;
const REPORT_EVENTS: usize = 40;
/// What is kept of events while the server is away; the oldest go first.
pub const MAX_EVENTS: usize = 256;
/// A message longer than this tells a person nothing more.
const MAX_EVENT_MESSAGE: usize = 1024;

/// Coalesces: of a pod only its newest state is kept, whoever waits for whatever.
#[derive(Debug, Default)]
pub struct Outbox {
    pods: BTreeMap<PodUid, Slot<PodReport>>,
    node: Option<Slot<NodeReport>>,
    events: VecDeque<EventReport>,
    events_dropped: u64,
    /// Of the report under way: its events stay in front of the queue until it is acknowledged.
    under_way: Option<UnderWay>,
    /// Everything has been told in this session.
    told: bool,
}

#[derive(Debug)]
struct Slot<T> {
    report: T,
    /// Counts changes, so that an acknowledgement of an older state leaves a newer one dirty.
    version: u64,
    sent: u64,
}

#[derive(Debug)]
struct UnderWay {
    sequence: u64,
    events: usize,
}

impl<T: PartialEq> Slot<T> {
    fn new(report: T) -> Slot<T> {
        Slot { report, version: 1, sent: 0 }
    }

    fn set(&mut self, report: T) {
        if self.report != report {
            self.report = report;
            self.version += 1;
        }
    }

    fn is_dirty(&self) -> bool {
        self.sent != self.version
    }
}

impl Outbox {
    pub fn pod(&mut self, report: PodReport) {
        match self.pods.get_mut(&report.uid) {
            Some(slot) => slot.set(report),
            None => {
                self.pods.insert(report.uid.clone(), Slot::new(report));
            }
        }
    }

    /// The pod is not of this node any more.
    pub fn forget(&mut self, uid: &PodUid) {
        self.pods.remove(uid);
    }

    pub fn node(&mut self, report: NodeReport) {
        match &mut self.node {
            Some(slot) => slot.set(report),
            None => self.node = Some(Slot::new(report)),
        }
    }

    pub fn event(&mut self, mut event: EventReport) {
        if event.message.len() > MAX_EVENT_MESSAGE {
            let end = event.message.floor_char_boundary(MAX_EVENT_MESSAGE);
            event.message.truncate(end);
        }
        if self.events.len() == MAX_EVENTS {
            // What is under way stays in front until it is acknowledged.
            let at = self.under_way.as_ref().map_or(0, |u| u.events);
            self.events.remove(at);
            self.events_dropped += 1;
        }
        self.events.push_back(event);
    }

    /// How many events were lost because the server was away too long.
    pub fn events_dropped(&self) -> u64 {
        self.events_dropped
    }

    /// A new session: everything is told again, and nothing is under way.
    pub fn restart(&mut self) {
        self.under_way = None;
        self.told = false;
        self.pods.values_mut().for_each(|slot| slot.sent = 0);
        if let Some(slot) = &mut self.node {
            slot.sent = 0;
        }
    }

    /// Whether [`Self::next_report`] has something.
    pub fn is_ready(&self) -> bool {
        self.under_way.is_none() && (!self.told || self.has_news())
    }

    fn has_news(&self) -> bool {
        !self.events.is_empty()
            || self.node.as_ref().is_some_and(Slot::is_dirty)
            || self.pods.values().any(Slot::is_dirty)
    }

    /// The next report, one at a time; `sequence` is the number that its session gives it.
    pub fn next_report(&mut self, sequence: u64) -> Option<Report> {
        if !self.is_ready() {
            return None;
        }
        let mut report = Report { sequence, ..Report::default() };
        if let Some(slot) = self.node.as_mut().filter(|slot| slot.is_dirty()) {
            slot.sent = slot.version;
            report.node = Some(slot.report.clone());
        }
        for slot in self.pods.values_mut().filter(|slot| slot.is_dirty()).take(REPORT_PODS) {
            slot.sent = slot.version;
            report.pods.push(slot.report.clone());
        }
        report.events = self.events.iter().take(REPORT_EVENTS).cloned().collect();
        let all_pods = !self.pods.values().any(Slot::is_dirty);
        report.whole = !self.told && all_pods && self.node.is_some();
        if !report.whole && report.node.is_none() && report.pods.is_empty() && report.events.is_empty() {
            return None;
        }
        self.told |= report.whole;
        self.under_way = Some(UnderWay { sequence, events: report.events.len() });
        Some(report)
    }

    /// The server has it in its store.
    pub fn acknowledged(&mut self, sequence: u64) {
        if let Some(done) = self.under_way.take_if(|u| u.sequence == sequence) {
            self.events.drain(..done.events);
        }
    }
}
