//! The loop around the stepper: wait for the store, and do the stepper's errands.

use std::sync::Arc;
use std::time::Duration;

use coracle_shared::submit::Submit;
use coracle_shared::time::Clock;
use coracle_store::{BoxFuture, Store};
use smol::channel::{Receiver, Sender};

use crate::request::Request;
use crate::stepper::{Errand, Outcome, Stepper, bind_write, identity, scheduled_event};

/// What the registry says an image exists for.
pub trait ImagePlatforms: Send + Sync + 'static {
    /// The architectures (`amd64`, `arm64`, `arm`) of a reference; `None` when the registry does not
    /// tell (private, offline): then the node finds out.
    fn architectures<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Option<Vec<String>>>;
}

/// A registry that does not answer in time counts as not telling.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(3);
/// After a refused binding the pod is tried again this much later.
const RETRY: Duration = Duration::from_secs(1);

/// Schedules until the returned future is dropped.
pub async fn run(
    store: Arc<dyn Store>,
    submit: Arc<dyn Submit>,
    platforms: Arc<dyn ImagePlatforms>,
    clock: Arc<dyn Clock>,
) {
    let executor = smol::Executor::new();
    let (sender, outcomes) = smol::channel::unbounded();
    let stepper = Stepper::new(store.clone(), clock.clone());
    let mut scheduler = Scheduler { stepper, store, submit, platforms, clock, executor: &executor, sender };
    executor.run(scheduler.follow(outcomes)).await;
}

struct Scheduler<'e> {
    stepper: Stepper,
    store: Arc<dyn Store>,
    submit: Arc<dyn Submit>,
    platforms: Arc<dyn ImagePlatforms>,
    clock: Arc<dyn Clock>,
    executor: &'e smol::Executor<'static>,
    sender: Sender<Outcome>,
}

impl Scheduler<'_> {
    async fn follow(&mut self, outcomes: Receiver<Outcome>) {
        loop {
            for errand in self.stepper.turn() {
                self.run(errand);
            }
            let changed = async {
                self.store.wait(self.stepper.revision()).await;
                None
            };
            let outcome = futures_lite::future::or(changed, async { outcomes.recv().await.ok() }).await;
            self.stepper.catch_up();
            for outcome in outcome.into_iter().chain(std::iter::from_fn(|| outcomes.try_recv().ok())) {
                self.stepper.take(outcome);
            }
        }
    }

    fn run(&self, errand: Errand) {
        let (submit, sender) = (self.submit.clone(), self.sender.clone());
        match errand {
            Errand::Ask(image) => self.executor.spawn(ask(self.platforms.clone(), sender, image)),
            Errand::Bind(request, node) => self.executor.spawn(bind(submit, sender, self.clock.clone(), request, node)),
            Errand::Tell(writes) => self.executor.spawn(async move {
                for write in writes {
                    let _ = submit.submit(&identity(), write).await;
                }
            }),
            Errand::Retry(pod) => self.executor.spawn(async move {
                smol::Timer::after(RETRY).await;
                let _ = sender.send(Outcome::Retry(pod)).await;
            }),
        }
        .detach();
    }
}

async fn ask(platforms: Arc<dyn ImagePlatforms>, sender: Sender<Outcome>, image: String) {
    let timeout = async {
        smol::Timer::after(REGISTRY_TIMEOUT).await;
        None
    };
    let answer = futures_lite::future::or(platforms.architectures(&image), timeout).await;
    let _ = sender.send(Outcome::Platforms(image, answer)).await;
}

async fn bind(
    submit: Arc<dyn Submit>,
    sender: Sender<Outcome>,
    clock: Arc<dyn Clock>,
    request: Box<Request>,
    node: String,
) {
    if let Err(refusal) = submit.submit(&identity(), bind_write(&request, &node)).await {
        let _ = sender.send(Outcome::Refused(request, refusal)).await;
        return;
    }
    // An event is a courtesy: losing one loses nothing.
    let _ = submit.submit(&identity(), scheduled_event(&request, &node, &*clock)).await;
}
