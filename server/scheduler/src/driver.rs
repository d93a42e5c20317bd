//! The loop around [`decide`](crate::decide): follow the store, bind, and say why not.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_shared::ids::PodUid;
use coracle_shared::submit::{Identity, Refusal, Submit, Write};
use coracle_shared::time::Clock;
use coracle_store::{BoxFuture, Event, Item, Range, Revision, Store};
use serde_json::{Value, json};
use smol::channel::{Receiver, Sender};

use crate::decide::{Decision, decide};
use crate::queue::Queue;
use crate::request::Request;
use crate::snapshot::Snapshot;

/// What the registry says an image exists for.
pub trait ImagePlatforms: Send + Sync + 'static {
    /// The architectures (`amd64`, `arm64`, `arm`) of a reference; `None` when the registry does not
    /// tell (private, offline): then the node finds out.
    fn architectures<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Option<Vec<String>>>;
}

/// Events of one read of the change log; more are read in the next turn.
const CHANGES: usize = 4096;
/// How long an image's platforms are believed: a tag may be pushed again.
const PLATFORMS_TTL: Duration = Duration::from_secs(300);
/// How many images' platforms are remembered.
const PLATFORMS_MAX: usize = 1000;
/// A registry that does not answer in time counts as not telling.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(3);
/// After a refused binding the pod is tried again this much later.
const RETRY: Duration = Duration::from_secs(1);

/// What happened outside of the loop.
enum Outcome {
    Platforms(String, Option<Vec<String>>),
    Refused(Box<Request>, Refusal),
    Retry(PodUid),
}

/// Schedules until the returned future is dropped.
pub async fn run(
    store: Arc<dyn Store>,
    submit: Arc<dyn Submit>,
    platforms: Arc<dyn ImagePlatforms>,
    clock: Arc<dyn Clock>,
) {
    let executor = smol::Executor::new();
    let (sender, outcomes) = smol::channel::unbounded();
    let mut scheduler = Scheduler {
        store,
        submit,
        platforms,
        clock,
        executor: &executor,
        sender,
        snapshot: Snapshot::default(),
        queue: Queue::default(),
        images: HashMap::new(),
        revision: Revision::default(),
    };
    executor.run(scheduler.follow(outcomes)).await;
}

struct Scheduler<'e> {
    store: Arc<dyn Store>,
    submit: Arc<dyn Submit>,
    platforms: Arc<dyn ImagePlatforms>,
    clock: Arc<dyn Clock>,
    executor: &'e smol::Executor<'static>,
    sender: Sender<Outcome>,
    snapshot: Snapshot,
    queue: Queue,
    images: HashMap<String, Platforms>,
    revision: Revision,
}

enum Platforms {
    /// Asked for; these pods wait for the answer.
    Asked(Vec<PodUid>),
    Known(Option<Vec<String>>, Instant),
}

impl Scheduler<'_> {
    async fn follow(&mut self, outcomes: Receiver<Outcome>) {
        self.relist();
        loop {
            while let Some(request) = self.queue.pop() {
                self.schedule(request);
            }
            let store = self.store.clone();
            let after = self.revision;
            let changed = async {
                store.wait(after).await;
                None
            };
            let outcome = futures_lite::future::or(changed, async { outcomes.recv().await.ok() }).await;
            self.catch_up();
            for outcome in outcome.into_iter().chain(std::iter::from_fn(|| outcomes.try_recv().ok())) {
                self.take(outcome);
            }
        }
    }

    fn relist(&mut self) {
        self.snapshot = Snapshot::default();
        for resource in ["nodes", "pods"] {
            let range = Range { resource: resource.into(), namespace: None, after: None, limit: 0, at: None };
            // Without `at` a list has no history to miss.
            let Ok(page) = self.store.list(&range) else { continue };
            self.revision = if resource == "nodes" { page.revision } else { self.revision.min(page.revision) };
            page.items.iter().for_each(|item| self.see(item));
        }
    }

    fn catch_up(&mut self) {
        loop {
            match self.store.changes(None, self.revision, CHANGES) {
                Ok(events) if events.is_empty() => {
                    self.revision = self.revision.max(self.store.revision());
                    return;
                }
                Ok(events) => events.iter().for_each(|event| self.apply(event)),
                Err(_) => return self.relist(),
            }
        }
    }

    fn apply(&mut self, event: &Event) {
        self.revision = event.revision;
        match (&*event.key.resource, &event.new) {
            ("nodes" | "pods", Some(item)) => self.see(item),
            ("nodes", None) => self.snapshot.remove_node(&event.key.name),
            ("pods", None) => {
                if let Some(old) = event.old.as_ref().and_then(parse) {
                    self.release(&uid_of(&old));
                }
            }
            _ => {}
        }
    }

    fn see(&mut self, item: &Item) {
        let Some(object) = parse(item) else { return };
        if &*item.key.resource == "nodes" {
            self.snapshot.set_node(&item.key.name, &object);
            return self.queue.wake_all();
        }
        let bound = object["spec"]["nodeName"].as_str().is_some_and(|n| !n.is_empty());
        let ended = matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        if bound && !ended {
            self.queue.forget(&uid_of(&object));
            self.snapshot.set_pod(&object);
        } else if bound || ended || !object["metadata"]["deletionTimestamp"].is_null() {
            self.release(&uid_of(&object));
        } else if self.snapshot.is_placed(&uid_of(&object)) {
            // Its binding is on the way.
        } else if object["spec"]["schedulerName"].as_str().is_none_or(|n| n == "default-scheduler") {
            self.queue.push(Request::of(&object));
        }
    }

    /// The pod no longer wants or has a node: there may be room for others.
    fn release(&mut self, uid: &PodUid) {
        self.queue.forget(uid);
        self.snapshot.remove_pod(uid);
        self.queue.wake_all();
    }

    fn schedule(&mut self, request: Request) {
        let Some(architectures) = self.architectures(&request) else { return };
        match decide(&self.snapshot, &request, architectures.as_deref()) {
            Decision::Bind(node) => self.bind(request, node),
            Decision::Nowhere(why) => {
                if self.queue.park(&request.uid, &why) {
                    self.explain(&request, &why);
                }
            }
        }
    }

    /// What all images of the pod exist for; the outer `None` when an answer is awaited.
    #[allow(clippy::option_option)]
    fn architectures(&mut self, request: &Request) -> Option<Option<Vec<String>>> {
        let mut common: Option<Vec<String>> = None;
        for image in &request.images {
            match self.images.get_mut(image) {
                Some(Platforms::Known(known, since)) if since.elapsed() < PLATFORMS_TTL => {
                    if let Some(known) = known {
                        common = Some(match common {
                            Some(both) => both.into_iter().filter(|a| known.contains(a)).collect(),
                            None => known.clone(),
                        });
                    }
                }
                Some(Platforms::Asked(waiting)) => {
                    waiting.push(request.uid.clone());
                    return None;
                }
                _ => {
                    self.ask(image, request.uid.clone());
                    return None;
                }
            }
        }
        Some(common)
    }

    fn ask(&mut self, image: &str, pod: PodUid) {
        if self.images.len() >= PLATFORMS_MAX {
            self.images.retain(|_, p| matches!(p, Platforms::Asked(_)));
        }
        self.images.insert(image.to_owned(), Platforms::Asked(vec![pod]));
        let (platforms, sender, image) = (self.platforms.clone(), self.sender.clone(), image.to_owned());
        let task = async move {
            let timeout = async {
                smol::Timer::after(REGISTRY_TIMEOUT).await;
                None
            };
            let answer = futures_lite::future::or(platforms.architectures(&image), timeout).await;
            let _ = sender.send(Outcome::Platforms(image, answer)).await;
        };
        self.executor.spawn(task).detach();
    }

    fn bind(&mut self, request: Request, node: String) {
        self.snapshot.place(&node, &request);
        let (submit, sender, clock) = (self.submit.clone(), self.sender.clone(), self.clock.clone());
        let task = async move {
            let write = Write::Bind {
                namespace: request.namespace.clone(),
                name: request.name.clone(),
                uid: request.uid.0.clone(),
                node: node.clone(),
            };
            if let Err(refusal) = submit.submit(&identity(), write).await {
                let _ = sender.send(Outcome::Refused(Box::new(request), refusal)).await;
                return;
            }
            let text = format!("Successfully assigned {}/{} to {node}", request.namespace, request.name);
            // An event is a courtesy: losing one loses nothing.
            let _ = submit.submit(&identity(), event(&request, "Normal", "Scheduled", &text, &*clock)).await;
        };
        self.executor.spawn(task).detach();
    }

    fn explain(&mut self, request: &Request, why: &str) {
        let now = self.clock.wall().seconds_text();
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why,
            "lastProbeTime": null, "lastTransitionTime": now,
        });
        let status = Write::Merge {
            resource: "pods",
            namespace: request.namespace.clone(),
            name: request.name.clone(),
            subresource: "status",
            patch: json!({"metadata": {"uid": request.uid.0}, "status": {"conditions": [condition]}}),
        };
        let event = event(request, "Warning", "FailedScheduling", why, &*self.clock);
        let submit = self.submit.clone();
        let task = async move {
            // Both are told again when the reason changes; the pod stays in the queue either way.
            let _ = submit.submit(&identity(), status).await;
            let _ = submit.submit(&identity(), event).await;
        };
        self.executor.spawn(task).detach();
    }

    fn take(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Platforms(image, answer) => {
                if let Some(Platforms::Asked(pods)) =
                    self.images.insert(image, Platforms::Known(answer, Instant::now()))
                {
                    pods.iter().for_each(|pod| self.queue.wake(pod));
                }
            }
            Outcome::Refused(request, refusal) => self.refused(*request, &refusal),
            Outcome::Retry(pod) => self.queue.wake(&pod),
        }
    }

    /// A binding that was not stored: gone or bound by now is settled by the change log; anything else
    /// is tried again.
    fn refused(&mut self, request: Request, refusal: &Refusal) {
        self.snapshot.remove_pod(&request.uid);
        if refusal.code == 404 {
            return self.queue.forget(&request.uid);
        }
        let why = format!("binding was refused: {}", refusal.message);
        if self.queue.park(&request.uid, &why) && refusal.code != 409 {
            self.explain(&request, &why);
        }
        let sender = self.sender.clone();
        let task = async move {
            smol::Timer::after(RETRY).await;
            let _ = sender.send(Outcome::Retry(request.uid)).await;
        };
        self.executor.spawn(task).detach();
    }
}

fn parse(item: &Item) -> Option<Value> {
    serde_json::from_slice(&item.value).ok()
}

fn uid_of(object: &Value) -> PodUid {
    PodUid(object["metadata"]["uid"].as_str().unwrap_or_default().to_owned())
}

fn identity() -> Identity {
    Identity { user: "system:kube-scheduler".into(), groups: vec!["system:authenticated".into()] }
}

fn event(request: &Request, kind: &str, reason: &str, message: &str, clock: &dyn Clock) -> Write {
    let now = clock.wall().seconds_text();
    Write::Create {
        resource: "events",
        namespace: request.namespace.clone(),
        object: json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"generateName": format!("{}.", request.name), "namespace": request.namespace},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": request.namespace,
                "name": request.name, "uid": request.uid.0},
            "type": kind, "reason": reason, "message": message, "count": 1,
            "firstTimestamp": now, "lastTimestamp": now,
            "source": {"component": "default-scheduler"},
        }),
    }
}
