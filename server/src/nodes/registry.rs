//! Which nodes are connected, and when the others were last heard of. In memory only.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coracle_shared::contact::{Contact, Contacts};
use coracle_store::Clock;
use event_listener::Event;
use quinn::{Connection, VarInt};

/// Closing code for a session whose node has opened a newer one.
const REPLACED: VarInt = VarInt::from_u32(1);

/// The nodes' connections.
pub struct Registry {
    clock: Clock,
    /// The clock when this server began to listen: nobody was silent before.
    started: Duration,
    state: Mutex<State>,
    changed: Event,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<String, Known>,
    next: u64,
    version: u64,
}

enum Known {
    Connected { session: u64, connection: Connection, answering: bool },
    Lost { at: Duration },
}

impl Registry {
    pub fn new(clock: Clock) -> Registry {
        let started = clock();
        Registry { clock, started, state: Mutex::default(), changed: Event::new() }
    }

    /// Enters a session; an older one of the same node is closed.
    pub fn connected(&self, node: &str, connection: Connection) -> u64 {
        let mut state = self.state();
        state.next += 1;
        let session = state.next;
        let known = Known::Connected { session, connection, answering: true };
        if let Some(Known::Connected { connection: old, .. }) = state.nodes.insert(node.to_owned(), known) {
            old.close(REPLACED, b"the node has a newer session");
        }
        self.bump(state);
        session
    }

    /// Whether the agent's reconcile loop answers.
    pub fn liveness(&self, node: &str, session: u64, answers: bool) {
        let mut state = self.state();
        match state.nodes.get_mut(node) {
            Some(Known::Connected { session: s, answering, .. }) if *s == session => *answering = answers,
            _ => return,
        }
        self.bump(state);
    }

    /// A session ended; `silent` is how long nothing had been heard by then.
    pub fn lost(&self, node: &str, session: u64, silent: Duration) {
        let mut state = self.state();
        match state.nodes.get_mut(node) {
            Some(known @ Known::Connected { .. }) if known.session() == Some(session) => {
                *known = Known::Lost { at: (self.clock)().saturating_sub(silent).max(self.started) };
            }
            _ => return,
        }
        self.bump(state);
    }

    /// The connection of a node, for streams to it.
    pub fn connection(&self, node: &str) -> Option<Connection> {
        match self.state().nodes.get(node) {
            Some(Known::Connected { connection, .. }) => Some(connection.clone()),
            _ => None,
        }
    }

    fn bump(&self, mut state: MutexGuard<'_, State>) {
        state.version += 1;
        drop(state);
        self.changed.notify(usize::MAX);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn session(&self) -> Option<u64> {
        match self {
            Known::Connected { session, .. } => Some(*session),
            Known::Lost { .. } => None,
        }
    }
}

impl Contacts for Registry {
    fn contact(&self, node: &str) -> Contact {
        let since = match self.state().nodes.get(node) {
            Some(Known::Connected { answering, .. }) => return Contact::Connected { answering: *answering },
            Some(Known::Lost { at }) => *at,
            None => self.started,
        };
        Contact::Silent((self.clock)().saturating_sub(since))
    }

    fn version(&self) -> u64 {
        self.state().version
    }

    fn wait(&self, seen: u64) -> Pin<Box<dyn Future<Output = u64> + Send + '_>> {
        Box::pin(async move {
            loop {
                let listener = self.changed.listen();
                let version = self.version();
                if version > seen {
                    return version;
                }
                listener.await;
            }
        })
    }
}
