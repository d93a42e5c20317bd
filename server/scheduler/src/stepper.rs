//! The scheduler without its waiting: follows the store, decides, and says what is to be done. The
//! driver and the simulator step it alike.

use std::collections::HashMap;
use std::sync::Arc;

use coracle_shared::event::{About, Happening};
use coracle_shared::ids::PodUid;
use coracle_shared::submit::{Identity, Refusal, Write};
use coracle_shared::time::{Clock, Millis};
use coracle_store::{Event, Item, Range, Revision, Store};
use serde_json::{Value, json};

use crate::decide::{Decision, decide};
use crate::queue::Queue;
use crate::request::Request;
use crate::snapshot::Snapshot;

/// Events of one read of the change log; more are read in the next turn.
const CHANGES: usize = 4096;
/// How long an image's platforms are believed, in milliseconds: a tag may be pushed again.
const PLATFORMS_TTL: i64 = 300_000;
/// How many images' platforms are remembered.
const PLATFORMS_MAX: usize = 1000;

/// What is to be done outside.
#[derive(Debug)]
pub enum Errand {
    /// Ask for an image's platforms; [`Outcome::Platforms`] answers.
    Ask(String),
    /// Submit [`bind_write`]. On success [`scheduled_event`] may follow, else [`Outcome::Refused`].
    Bind(Box<Request>, String),
    /// Submit these; how it goes does not matter.
    Tell(Vec<Write>),
    /// Give [`Outcome::Retry`] a moment later.
    Retry(PodUid),
}

/// What happened outside.
#[derive(Debug)]
pub enum Outcome {
    Platforms(String, Option<Vec<String>>),
    Refused(Box<Request>, Refusal),
    Retry(PodUid),
}

/// The scheduler's memory.
pub struct Stepper {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    snapshot: Snapshot,
    queue: Queue,
    images: HashMap<String, Platforms>,
    revision: Revision,
    errands: Vec<Errand>,
}

enum Platforms {
    /// Asked for; these pods wait for the answer.
    Asked(Vec<PodUid>),
    /// With the monotonic time of the answer.
    Known(Option<Vec<String>>, Millis),
}

impl Stepper {
    /// Reads the store; nothing is decided yet. `clock` ages what is known of images.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Stepper {
        let mut stepper = Stepper {
            store,
            clock,
            snapshot: Snapshot::default(),
            queue: Queue::default(),
            images: HashMap::new(),
            revision: Revision::default(),
            errands: Vec::new(),
        };
        stepper.relist();
        stepper
    }

    /// How far the store has been followed.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Follows the store, decides about every pod whose turn it is, and says what is to be done.
    pub fn turn(&mut self) -> Vec<Errand> {
        self.catch_up();
        while let Some(request) = self.queue.pop() {
            self.schedule(request);
        }
        std::mem::take(&mut self.errands)
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

    /// Follows the store.
    pub fn catch_up(&mut self) {
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
        let now = self.clock.monotonic();
        let mut common: Option<Vec<String>> = None;
        for image in &request.images {
            match self.images.get_mut(image) {
                Some(Platforms::Known(known, since)) if now.0 - since.0 < PLATFORMS_TTL => {
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
        self.errands.push(Errand::Ask(image.to_owned()));
    }

    fn bind(&mut self, request: Request, node: String) {
        self.snapshot.place(&node, &request);
        self.errands.push(Errand::Bind(Box::new(request), node));
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
        let event = event(request, true, "FailedScheduling", why, &*self.clock);
        // Both are told again when the reason changes; the pod stays in the queue either way.
        self.errands.push(Errand::Tell(vec![status, event]));
    }

    /// Takes in how an errand went, or that a pod is to be tried again.
    pub fn take(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Platforms(image, answer) => {
                if let Some(Platforms::Asked(pods)) =
                    self.images.insert(image, Platforms::Known(answer, self.clock.monotonic()))
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
        self.errands.push(Errand::Retry(request.uid));
    }
}

/// The binding of a pod to a node.
pub fn bind_write(request: &Request, node: &str) -> Write {
    Write::Bind {
        namespace: request.namespace.clone(),
        name: request.name.clone(),
        uid: request.uid.0.clone(),
        node: node.to_owned(),
    }
}

/// What a person is told of a binding.
pub fn scheduled_event(request: &Request, node: &str, clock: &dyn Clock) -> Write {
    let text = format!("Successfully assigned {}/{} to {node}", request.namespace, request.name);
    event(request, false, "Scheduled", &text, clock)
}

/// Who the scheduler is.
pub fn identity() -> Identity {
    Identity { user: "system:kube-scheduler".into(), groups: vec!["system:authenticated".into()] }
}

fn parse(item: &Item) -> Option<Value> {
    serde_json::from_slice(&item.value).ok()
}

fn uid_of(object: &Value) -> PodUid {
    PodUid(object["metadata"]["uid"].as_str().unwrap_or_default().to_owned())
}

fn event(request: &Request, warning: bool, reason: &str, message: &str, clock: &dyn Clock) -> Write {
    let about = About {
        api_version: "v1",
        kind: "Pod",
        namespace: &request.namespace,
        name: &request.name,
        uid: &request.uid.0,
    };
    let what = Happening { component: "default-scheduler", warning, reason, message };
    coracle_shared::event::event(&about, &what, clock.wall())
}
