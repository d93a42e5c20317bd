//! The one loop that runs every controller: it waits, and submits what the stepper says.

use std::sync::Arc;
use std::time::Duration;

use coracle_shared::contact::Contacts;
use coracle_shared::submit::{Refusal, Submit, Write};
use coracle_shared::time::{Clock, Millis};
use coracle_store::{Event, Key, Store};
use futures_lite::future::or;
use smol::channel::{Receiver, Sender};

use crate::node::NodeLimits;
use crate::stepper::{Batch, Stepper};
use crate::world::World;

/// What a look at a key led to.
#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    /// Submitted in order; the first refusal ends the row.
    pub writes: Vec<Write>,
    /// Look again at this monotonic time even if nothing changes.
    pub again: Option<Millis>,
}

/// The two clocks at the moment of planning.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub wall: Millis,
    pub monotonic: Millis,
}

/// One controller. Keys are of the kind it brings about; a deleted object may still be asked for.
pub trait Controller: Send + Sync {
    /// `deployment`: its identity is `system:serviceaccount:kube-system:deployment-controller`.
    fn name(&self) -> &'static str;

    /// The keys that a change makes dirty.
    fn dirty(&self, event: &Event, world: &World, mark: &mut dyn FnMut(Key));

    /// All keys: after a start, or when changes were missed.
    fn all(&self, world: &World, mark: &mut dyn FnMut(Key));

    fn reconcile(&self, key: &Key, world: &World, now: Now) -> Outcome;

    /// The name under which Events tell of the pods that it makes and removes.
    fn teller(&self) -> Option<&'static str> {
        None
    }

    /// The keys that lost or regained contacts with nodes make dirty.
    fn contacts_changed(&self, _world: &World, _mark: &mut dyn FnMut(Key)) {}

    /// What to tell the owner about a refused write.
    fn refused(&self, _key: &Key, _refusal: &Refusal, _world: &World, _now: Now) -> Vec<Write> {
        Vec::new()
    }
}

/// What the controllers need to know from outside of the store.
pub struct Controllers {
    pub store: Arc<dyn Store>,
    pub submit: Arc<dyn Submit>,
    pub clock: Arc<dyn Clock>,
    pub contacts: Arc<dyn Contacts>,
    pub node_limits: NodeLimits,
    /// Every stored resource (`pods`, `deployments.apps`, …) and whether it is namespaced.
    pub resources: Vec<(&'static str, bool)>,
}

/// Runs all controllers until the returned future is dropped.
pub async fn run(parts: Controllers) {
    let (sender, done) = smol::channel::unbounded();
    let executor = smol::Executor::new();
    let mut driver = Driver {
        stepper: Stepper::new(&parts),
        store: parts.store,
        submit: parts.submit,
        clock: parts.clock,
        sender,
        executor: &executor,
    };
    executor.run(driver.follow(done, parts.contacts)).await;
}

/// A finished row of writes.
type Done = (Batch, Option<Refusal>);

/// What ends a wait.
enum Woken {
    ByStore,
    ByTimer,
    ByContacts(u64),
    Done(Batch, Option<Refusal>),
}

struct Driver<'e> {
    stepper: Stepper,
    store: Arc<dyn Store>,
    submit: Arc<dyn Submit>,
    clock: Arc<dyn Clock>,
    sender: Sender<Done>,
    executor: &'e smol::Executor<'static>,
}

impl Driver<'_> {
    async fn follow(&mut self, done: Receiver<Done>, contacts: Arc<dyn Contacts>) {
        let mut contacts_seen = contacts.version();
        loop {
            let (batches, next) = self.stepper.turn();
            batches.into_iter().for_each(|batch| self.write(batch));
            let woken = self.wait(next, &done, &*contacts, contacts_seen).await;
            // The store has what finished writes did: the world follows before their keys are planned again.
            self.stepper.catch_up();
            match woken {
                Woken::ByStore | Woken::ByTimer => {}
                Woken::ByContacts(version) => {
                    contacts_seen = version;
                    self.stepper.contacts_changed();
                }
                Woken::Done(batch, refusal) => self.finished(batch, refusal),
            }
            while let Ok((batch, refusal)) = done.try_recv() {
                self.finished(batch, refusal);
            }
        }
    }

    async fn wait(&self, next: Option<Millis>, done: &Receiver<Done>, contacts: &dyn Contacts, seen: u64) -> Woken {
        let stored = async {
            self.store.wait(self.stepper.revision()).await;
            Woken::ByStore
        };
        let timer = async {
            match next {
                Some(at) => {
                    let wait = (at.0 - self.clock.monotonic().0).max(0) as u64;
                    smol::Timer::after(Duration::from_millis(wait)).await;
                    Woken::ByTimer
                }
                None => std::future::pending().await,
            }
        };
        let finished = async {
            match done.recv().await {
                Ok((batch, refusal)) => Woken::Done(batch, refusal),
                Err(_) => std::future::pending().await,
            }
        };
        let contact = async { Woken::ByContacts(contacts.wait(seen).await) };
        or(or(finished, contact), or(stored, timer)).await
    }

    fn write(&mut self, batch: Batch) {
        let (submit, sender, clock) = (self.submit.clone(), self.sender.clone(), self.clock.clone());
        let task = async move {
            let (mut refused, mut told) = (None, Vec::new());
            for write in &batch.writes {
                match submit.submit(&batch.who, write.clone()).await {
                    Ok(object) => told.extend(batch.told(write, &object, clock.wall())),
                    Err(_) if Batch::is_courtesy(write) => {}
                    Err(refusal) => {
                        refused = Some(refusal);
                        break;
                    }
                }
            }
            let who = batch.who.clone();
            let _ = sender.send((batch, refused)).await;
            // Courtesies come last: nothing waits for them.
            for event in told {
                let _ = submit.submit(&who, event).await;
            }
        };
        self.executor.spawn(task).detach();
    }

    fn finished(&mut self, batch: Batch, refusal: Option<Refusal>) {
        let told = self.stepper.finished(&batch, refusal);
        let submit = self.submit.clone();
        let task = async move {
            for write in told {
                let _ = submit.submit(&batch.who, write).await;
            }
        };
        self.executor.spawn(task).detach();
    }
}
