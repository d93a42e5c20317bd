//! Where the other rooms leave what they have to report.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coracle_shared::ids::PodUid;
use coracle_shared::report::{EventReport, NodeReport, PodReport};
use coracle_shared::session::Outbox;
use coracle_shared::wire::Report;
use event_listener::{Event, EventListener};

/// Takes reports at any time, connected or not, and never waits. Bounded: of each pod only the newest
/// state is kept, and the last [`coracle_shared::session::MAX_EVENTS`] events.
#[derive(Clone, Debug, Default)]
pub struct Reporter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Event,
}

#[derive(Debug)]
struct State {
    outbox: Outbox,
    answering: bool,
}

impl Default for Shared {
    fn default() -> Shared {
        Shared { state: Mutex::new(State { outbox: Outbox::default(), answering: true }), changed: Event::new() }
    }
}

impl Reporter {
    pub fn new() -> Reporter {
        Reporter::default()
    }

    /// The state of a pod, whole.
    pub fn pod(&self, report: PodReport) {
        self.state().outbox.pod(report);
        self.0.changed.notify(1);
    }

    /// The server has removed the pod, and nothing of it is left here.
    pub fn forget(&self, uid: &PodUid) {
        self.state().outbox.forget(uid);
    }

    /// The node itself.
    pub fn node(&self, report: NodeReport) {
        self.state().outbox.node(report);
        self.0.changed.notify(1);
    }

    pub fn event(&self, event: EventReport) {
        self.state().outbox.event(event);
        self.0.changed.notify(1);
    }

    /// Whether the reconcile loop answers within its bound; a node that does not is not Ready.
    pub fn liveness(&self, answering: bool) {
        self.state().answering = answering;
        self.0.changed.notify(1);
    }

    /// Resolves after the next change from now on.
    pub(super) fn listen(&self) -> EventListener {
        self.0.changed.listen()
    }

    pub(super) fn restart(&self) {
        self.state().outbox.restart();
    }

    pub(super) fn next_report(&self, sequence: u64) -> Option<Report> {
        self.state().outbox.next_report(sequence)
    }

    pub(super) fn acknowledged(&self, sequence: u64) {
        self.state().outbox.acknowledged(sequence);
    }

    pub(super) fn is_answering(&self) -> bool {
        self.state().answering
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
