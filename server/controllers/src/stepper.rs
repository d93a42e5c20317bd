//! All controllers without their waiting: what is dirty, what is to be written, when to look again.
//! The driver and the simulator step it alike.

use std::sync::Arc;

use coracle_shared::event::pod_made_or_removed;
use coracle_shared::submit::{Identity, Refusal, Write};
use coracle_shared::time::{Clock, Millis};
use coracle_store::{Event, Revision};
use serde_json::Value;

use crate::aggregation::Aggregation;
use crate::deployment::Deployments;
use crate::driver::{Controller, Controllers, Now};
use crate::endpoints::EndpointsController;
use crate::garbage::Garbage;
use crate::mirror::Mirror;
use crate::namespace::Namespaces;
use crate::node::Nodes;
use crate::queue::{Queue, Work};
use crate::replicaset::ReplicaSets;
use crate::serviceaccount::ServiceAccounts;
use crate::world::World;

/// Keys whose writes may be on their way at once: enough to fill a group commit.
const MAX_BUSY: usize = 128;

/// One key's writes. Submitted in order; the first refusal of one that is no courtesy ends the row,
/// and then [`Stepper::finished`] hears of it.
#[derive(Clone, Debug)]
pub struct Batch {
    work: Work,
    pub who: Identity,
    pub writes: Vec<Write>,
    /// The component that tells of pods made and removed.
    teller: Option<&'static str>,
}

impl Batch {
    /// The event about a write that was done; `object` is what the pipeline answered.
    pub fn told(&self, write: &Write, object: &Value, now: Millis) -> Option<Write> {
        pod_made_or_removed(self.teller?, write, object, now)
    }

    /// An event is a courtesy: losing one loses nothing.
    pub fn is_courtesy(write: &Write) -> bool {
        matches!(write, Write::Create { resource: "events", .. })
    }
}

/// The controllers and what they have to look at.
pub struct Stepper {
    world: World,
    resources: Vec<&'static str>,
    clock: Arc<dyn Clock>,
    controllers: Vec<Box<dyn Controller>>,
    queue: Queue,
}

impl Stepper {
    /// Reads the store; everything is to be looked at.
    pub fn new(parts: &Controllers) -> Stepper {
        let namespaced = parts.resources.iter().filter(|(_, namespaced)| *namespaced).map(|(name, _)| *name).collect();
        let controllers: Vec<Box<dyn Controller>> = vec![
            Box::new(Deployments),
            Box::new(ReplicaSets),
            Box::new(EndpointsController),
            Box::new(Mirror),
            Box::new(Nodes::new(parts.contacts.clone(), parts.node_limits)),
            Box::new(Namespaces::new(namespaced)),
            Box::new(Garbage),
            Box::new(ServiceAccounts),
            Box::new(Aggregation),
        ];
        let resources: Vec<&'static str> = parts.resources.iter().map(|(name, _)| *name).collect();
        let mut stepper = Stepper {
            world: World::new(parts.store.clone(), &resources),
            resources,
            clock: parts.clock.clone(),
            controllers,
            queue: Queue::default(),
        };
        stepper.mark_all();
        stepper
    }

    /// How far the store has been followed.
    pub fn revision(&self) -> Revision {
        self.world.revision()
    }

    /// Plans what is dirty: what is to be written, and the time of the next look that is due without
    /// a change.
    pub fn turn(&mut self) -> (Vec<Batch>, Option<Millis>) {
        self.catch_up();
        let next = self.queue.wake(self.clock.monotonic());
        let mut batches = Vec::new();
        while self.queue.busy() < MAX_BUSY {
            let Some(work) = self.queue.pop() else { break };
            let controller = &self.controllers[work.0];
            let outcome = controller.reconcile(&work.1, &self.world, self.now());
            if let Some(at) = outcome.again {
                self.queue.at(work.clone(), at);
            }
            if !outcome.writes.is_empty() {
                self.queue.begin(work.clone());
                let (who, teller) = (identity(controller.name()), controller.teller());
                batches.push(Batch { who, work, writes: outcome.writes, teller });
            }
        }
        (batches, self.queue.wake(self.clock.monotonic()).or(next))
    }

    /// A batch's writes are done, or one was refused: what to tell the owner about that.
    pub fn finished(&mut self, batch: &Batch, refusal: Option<Refusal>) -> Vec<Write> {
        let (now, work) = (self.now(), &batch.work);
        let refused = refusal.is_some();
        // A conflict, or something that is gone, says that the world moved on: no news for anybody.
        let news = refusal.filter(|refusal| !matches!(refusal.code, 404 | 409));
        let told = news.map(|refusal| self.controllers[work.0].refused(&work.1, &refusal, &self.world, now));
        self.queue.finish(work.clone(), refused, now.monotonic);
        told.unwrap_or_default()
    }

    /// A node came or went.
    pub fn contacts_changed(&mut self) {
        for (i, controller) in self.controllers.iter().enumerate() {
            controller.contacts_changed(&self.world, &mut |key| self.queue.mark((i, key)));
        }
    }

    /// Follows the store.
    pub fn catch_up(&mut self) {
        match self.world.catch_up(&self.resources) {
            Ok(events) => events.iter().for_each(|event| self.mark(event)),
            Err(_) => self.mark_all(),
        }
    }

    fn now(&self) -> Now {
        Now { wall: self.clock.wall(), monotonic: self.clock.monotonic() }
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
