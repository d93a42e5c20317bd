//! The one loop that runs every controller.

use std::sync::Arc;
use std::time::Duration;

use coracle_shared::contact::Contacts;
use coracle_shared::submit::{Identity, Refusal, Submit, Write};
use coracle_shared::time::{Clock, Millis};
use coracle_store::{Event, Key, Store};
use futures_lite::future::or;
use smol::channel::{Receiver, Sender};

use crate::deployment::Deployments;
use crate::endpoints::EndpointsController;
use crate::garbage::Garbage;
use crate::namespace::Namespaces;
use crate::node::{NodeLimits, Nodes};
use crate::queue::{Queue, Work};
use crate::replicaset::ReplicaSets;
use crate::serviceaccount::ServiceAccounts;
use crate::world::World;

/// Keys whose writes may be on their way at once: enough to fill a group commit.
const MAX_BUSY: usize = 128;

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
    let namespaced = parts.resources.iter().filter(|(_, namespaced)| *namespaced).map(|(name, _)| *name).collect();
    let controllers: Vec<Box<dyn Controller>> = vec![
        Box::new(Deployments),
        Box::new(ReplicaSets),
        Box::new(EndpointsController),
        Box::new(Nodes::new(parts.contacts.clone(), parts.node_limits)),
        Box::new(Namespaces::new(namespaced)),
        Box::new(Garbage),
        Box::new(ServiceAccounts),
    ];
    let (sender, done) = smol::channel::unbounded();
    let resources: Vec<&'static str> = parts.resources.iter().map(|(name, _)| *name).collect();
    let executor = smol::Executor::new();
    let mut driver = Driver {
        world: World::new(parts.store.clone(), &resources),
        resources,
        store: parts.store,
        submit: parts.submit,
        clock: parts.clock,
        controllers,
        queue: Queue::default(),
        sender,
        executor: &executor,
    };
    driver.mark_all();
    executor.run(driver.follow(done, parts.contacts)).await;
}

/// A finished row of writes.
type Done = (Work, Option<Refusal>);

/// What ends a wait.
enum Woken {
    ByStore,
    ByTimer,
    ByContacts(u64),
    Done(Work, Option<Refusal>),
}

struct Driver<'e> {
    world: World,
    resources: Vec<&'static str>,
    store: Arc<dyn Store>,
    submit: Arc<dyn Submit>,
    clock: Arc<dyn Clock>,
    controllers: Vec<Box<dyn Controller>>,
    queue: Queue,
    sender: Sender<Done>,
    executor: &'e smol::Executor<'static>,
}

impl Driver<'_> {
    async fn follow(&mut self, done: Receiver<Done>, contacts: Arc<dyn Contacts>) {
        let mut contacts_seen = contacts.version();
        loop {
            let next = self.turn();
            let woken = self.wait(next, &done, &*contacts, contacts_seen).await;
            // The store has what finished writes did: the world follows before their keys are planned again.
            self.catch_up();
            match woken {
                Woken::ByStore | Woken::ByTimer => {}
                Woken::ByContacts(version) => {
                    contacts_seen = version;
                    self.contacts_changed();
                }
                Woken::Done(work, refusal) => self.finished(work, refusal),
            }
            while let Ok((work, refusal)) = done.try_recv() {
                self.finished(work, refusal);
            }
        }
    }

    async fn wait(&self, next: Option<Millis>, done: &Receiver<Done>, contacts: &dyn Contacts, seen: u64) -> Woken {
        let stored = async {
            self.store.wait(self.world.revision()).await;
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
                Ok((work, refusal)) => Woken::Done(work, refusal),
                Err(_) => std::future::pending().await,
            }
        };
        let contact = async { Woken::ByContacts(contacts.wait(seen).await) };
        or(or(finished, contact), or(stored, timer)).await
    }

    fn contacts_changed(&mut self) {
        for (i, controller) in self.controllers.iter().enumerate() {
            controller.contacts_changed(&self.world, &mut |key| self.queue.mark((i, key)));
        }
    }

    fn now(&self) -> Now {
        Now { wall: self.clock.wall(), monotonic: self.clock.monotonic() }
    }

    /// Plans what is dirty; the time of the next look that is due without a change.
    fn turn(&mut self) -> Option<Millis> {
        self.catch_up();
        let next = self.queue.wake(self.clock.monotonic());
        while self.queue.busy() < MAX_BUSY {
            let Some(work) = self.queue.pop() else { break };
            let outcome = self.controllers[work.0].reconcile(&work.1, &self.world, self.now());
            if let Some(at) = outcome.again {
                self.queue.at(work.clone(), at);
            }
            if !outcome.writes.is_empty() {
                self.write(work, outcome.writes);
            }
        }
        self.queue.wake(self.clock.monotonic()).or(next)
    }

    fn write(&mut self, work: Work, writes: Vec<Write>) {
        self.queue.begin(work.clone());
        let identity = identity(self.controllers[work.0].name());
        let (submit, sender) = (self.submit.clone(), self.sender.clone());
        let task = async move {
            let mut refused = None;
            for write in writes {
                // An event is a courtesy: losing one loses nothing.
                let courtesy = matches!(write, Write::Create { resource: "events", .. });
                if let Err(refusal) = submit.submit(&identity, write).await
                    && !courtesy
                {
                    refused = Some(refusal);
                    break;
                }
            }
            let _ = sender.send((work, refused)).await;
        };
        self.executor.spawn(task).detach();
    }

    fn finished(&mut self, work: Work, refusal: Option<Refusal>) {
        let now = self.now();
        let Some(refusal) = refusal else { return self.queue.finish(work, false, now.monotonic) };
        // A conflict, or something that is gone, says that the world moved on: no news for anybody.
        if !matches!(refusal.code, 404 | 409) {
            let told = self.controllers[work.0].refused(&work.1, &refusal, &self.world, now);
            let identity = identity(self.controllers[work.0].name());
            let submit = self.submit.clone();
            let task = async move {
                for write in told {
                    let _ = submit.submit(&identity, write).await;
                }
            };
            self.executor.spawn(task).detach();
        }
        self.queue.finish(work, true, now.monotonic);
    }

    fn catch_up(&mut self) {
        match self.world.catch_up(&self.resources) {
            Ok(events) => events.iter().for_each(|event| self.mark(event)),
            Err(_) => self.mark_all(),
        }
    }

    fn mark(&mut self, event: &Event) {
        for (i, controller) in self.controllers.iter().enumerate() {
            controller.dirty(event, &self.world, &mut |key| self.queue.mark((i, key)));
        }
    }

    fn mark_all(&mut self) {
        for (i, controller) in self.controllers.iter().enumerate() {
            controller.all(&self.world, &mut |key| self.queue.mark((i, key)));
        }
    }
}

fn identity(controller: &str) -> Identity {
    Identity {
        user: format!("system:serviceaccount:kube-system:{controller}-controller"),
        groups: ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"]
            .map(str::to_owned)
            .to_vec(),
    }
}
