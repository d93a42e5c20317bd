//! Which nodes are connected, and when the others were last heard of. In memory only.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coracle_shared::contact::{Contact, Contacts};
use coracle_store::Clock;
use coracle_transport::Connection;
use event_listener::Event;

/// The nodes' connections. `C` is what a connection is reached by.
pub struct Registry<C = Connection> {
    clock: Clock,
    /// The clock when this server began to listen: nobody was silent before.
    started: Duration,
    state: Mutex<State<C>>,
    changed: Event,
}

struct State<C> {
    nodes: BTreeMap<String, Known<C>>,
    next: u64,
    version: u64,
}

enum Known<C> {
    Connected { session: u64, connection: C, answering: bool },
    Lost { at: Duration },
}

impl<C: Clone> Registry<C> {
    pub fn new(clock: Clock) -> Registry<C> {
        let started = clock();
        let state = State { nodes: BTreeMap::new(), next: 0, version: 0 };
        Registry { clock, started, state: Mutex::new(state), changed: Event::new() }
    }

    /// Enters a session and answers with its number; the connection of an older one of the same node
    /// is given back, to be closed.
    pub fn connected(&self, node: &str, connection: C) -> (u64, Option<C>) {
        let mut state = self.state();
        state.next += 1;
        let session = state.next;
        let known = Known::Connected { session, connection, answering: true };
        let old = match state.nodes.insert(node.to_owned(), known) {
            Some(Known::Connected { connection, .. }) => Some(connection),
            _ => None,
        };
        self.bump(state);
        (session, old)
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
    pub fn connection(&self, node: &str) -> Option<C> {
        match self.state().nodes.get(node) {
            Some(Known::Connected { connection, .. }) => Some(connection.clone()),
            _ => None,
        }
    }

    /// All connections that stand.
    pub fn connections(&self) -> Vec<C> {
        let state = self.state();
        let connections = state.nodes.values().filter_map(|known| match known {
            Known::Connected { connection, .. } => Some(connection.clone()),
            Known::Lost { .. } => None,
        });
        connections.collect()
    }

    fn bump(&self, mut state: MutexGuard<'_, State<C>>) {
        state.version += 1;
        drop(state);
        self.changed.notify(usize::MAX);
    }

    fn state(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> Known<C> {
    fn session(&self) -> Option<u64> {
        match self {
            Known::Connected { session, .. } => Some(*session),
            Known::Lost { .. } => None,
        }
    }
}

impl<C: Clone + Send + 'static> Contacts for Registry<C> {
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
