//! Hands each change of the store to everyone who watches its resource.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_channel::{Receiver, Sender};
use coracle_shared::api::status::Status;
use coracle_store::{Revision, Store};

use super::Change;

/// Watches at once: each holds a queue and a connection's stream.
const MAX_WATCHES: usize = 20_000;

/// Changes that wait for one watcher. One that falls further behind is cut off: its client lists again.
const MAX_BEHIND: usize = 1024;

/// Changes read from the store at once.
const BATCH: usize = 256;

/// Everyone who watches.
pub struct Hub {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Every change up to here was handed out.
    handed: Revision,
    watches: BTreeMap<Arc<str>, Vec<Watch>>,
    count: usize,
    next: u64,
}

struct Watch {
    id: u64,
    namespace: Option<Arc<str>>,
    name: Option<Arc<str>>,
    queue: Sender<Arc<Change>>,
}

/// A place among the watchers; dropping it leaves.
pub struct Seat {
    hub: Arc<Hub>,
    resource: Arc<str>,
    id: u64,
    pub changes: Receiver<Arc<Change>>,
    /// Changes after this revision come through `changes`; earlier ones are in the store.
    pub from: Revision,
}

impl Hub {
    /// Starts handing out after the store's current revision.
    pub fn new(store: &dyn Store) -> Arc<Hub> {
        let state = State { handed: store.revision(), ..State::default() };
        Arc::new(Hub { state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole after every statement: a panic elsewhere leaves nothing half-done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands out changes for ever. Runs once a process.
    pub async fn run(&self, store: &dyn Store) {
        let mut after = self.handed();
        loop {
            match store.changes(None, after, BATCH) {
                Ok(events) => match events.last().map(|e| e.revision) {
                    Some(last) => {
                        after = last;
                        self.hand_out(events.into_iter().map(|e| Arc::new(Change::new(e))).collect(), last);
                    }
                    None => {
                        store.wait(after).await;
                    }
                },
                // So far behind that history is gone: everyone lists again.
                Err(_) => {
                    after = store.revision();
                    self.dismiss(after);
                }
            }
        }
    }

    fn hand_out(&self, changes: Vec<Arc<Change>>, last: Revision) {
        let mut state = self.lock();
        for change in changes {
            let key = &change.event.key;
            let Some(watches) = state.watches.get_mut(&key.resource) else { continue };
            let meant = |watch: &Watch| {
                watch.namespace.as_ref().is_none_or(|n| *n == key.namespace)
                    && watch.name.as_ref().is_none_or(|n| *n == key.name)
            };
            // Closing the queue is what cuts a watcher off; it leaves by itself.
            for watch in watches.iter().filter(|w| meant(w)) {
                if watch.queue.try_send(change.clone()).is_err() {
                    watch.queue.close();
                }
            }
        }
        state.handed = last;
    }

    fn dismiss(&self, at: Revision) {
        let mut state = self.lock();
        state.watches.values().flatten().for_each(|w| {
            w.queue.close();
        });
        state.handed = at;
    }

    /// Every change up to this revision is in the queues of those who watch.
    pub fn handed(&self) -> Revision {
        self.lock().handed
    }

    /// Joins those who watch a resource, a namespace of it or one name.
    pub fn join(
        self: &Arc<Hub>,
        resource: Arc<str>,
        namespace: Option<Arc<str>>,
        name: Option<Arc<str>>,
    ) -> Result<Seat, Status> {
        let mut state = self.lock();
        if state.count >= MAX_WATCHES {
            return Err(Status::too_many_requests("too many watches, please try again later", 1));
        }
        state.count += 1;
        state.next += 1;
        let (id, from) = (state.next, state.handed);
        let (queue, changes) = async_channel::bounded(MAX_BEHIND);
        state.watches.entry(resource.clone()).or_default().push(Watch { id, namespace, name, queue });
        Ok(Seat { hub: self.clone(), resource, id, changes, from })
    }
}

impl Seat {
    /// A number in [0, 1) of this seat, to spread what would otherwise happen at once.
    pub fn spread(&self) -> f64 {
        (self.id % 64) as f64 / 64.0
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        state.count -= 1;
        let Some(watches) = state.watches.get_mut(&self.resource) else { return };
        watches.retain(|w| w.id != self.id);
        if watches.is_empty() {
            state.watches.remove(&self.resource);
        }
    }
}
