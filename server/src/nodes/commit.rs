//! Reports on their short path into the store: planned over what is stored, committed under
//! preconditions, planned anew when somebody was faster.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use coracle_shared::desired::Cidr;
use coracle_shared::report::{EventReport, NodeReport, PodReport};
use coracle_shared::wire::Report;
use coracle_store::{Change, Class, Commit, CommitError, Item, Key, Precondition, Store};
use serde_json::Value;

use super::merge::{self, PodOutcome};
use super::stored::{SCHEMA, decode, encode, new_uid, wall};
use super::{cidr, log};
use crate::pki::PkiError;

/// Waits between attempts while the store can not write.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Who reports.
#[derive(Clone)]
pub struct Reporter {
    pub node: String,
    /// Whether the agent's reconcile loop answers.
    pub answering: bool,
    pub pod_network: Cidr,
}

/// Puts a report into the store; resolves when it is there. While the store can not write it waits:
/// the agent keeps what is not acknowledged, and sends nothing more.
pub async fn report(store: Arc<dyn Store>, who: Reporter, report: Report) {
    let mut wait = FIRST_WAIT;
    loop {
        let planned = plan(&*store, &who, &report, wall(SystemTime::now()));
        let error = match planned {
            Ok(commit) if commit.changes.is_empty() => return,
            Ok(commit) => match store.commit(commit).await {
                Ok(_) | Err(CommitError::Closed) => return,
                Err(CommitError::Failed(_)) => continue,
                Err(CommitError::Malformed(what)) => {
                    // Too large for one commit, or foreign: it would never pass.
                    log(&format!("a report of node {} was dropped: {what}", who.node));
                    return;
                }
                Err(error) => format!("{error:?}"),
            },
            Err(error) => error.to_string(),
        };
        log(&format!("a report of node {} waits: {error}", who.node));
        smol::Timer::after(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// What has to be written for a report; nothing when all of it is known.
pub fn plan(store: &dyn Store, who: &Reporter, report: &Report, now: i64) -> Result<Commit, PkiError> {
    let mut commit = Commit::new();
    let uid = node(&mut commit, store, who, report.node.as_ref(), now)?;
    for pod in latest(&report.pods) {
        self::pod(&mut commit, store, who, pod, now);
    }
    events(&mut commit, store, &who.node, &uid, &report.events)?;
    Ok(commit)
}

/// Of each pod the last report of the batch.
fn latest(pods: &[PodReport]) -> impl Iterator<Item = &PodReport> {
    pods.iter()
        .enumerate()
        .filter(|(at, pod)| !pods[at + 1..].iter().any(|later| is_same(later, pod)))
        .map(|(_, pod)| pod)
}

fn is_same(a: &PodReport, b: &PodReport) -> bool {
    a.name == b.name && a.namespace == b.namespace
}

/// The Node object: made when it is not there, given a network, and brought up to date. Answers with
/// its uid.
fn node(
    commit: &mut Commit,
    store: &dyn Store,
    who: &Reporter,
    report: Option<&NodeReport>,
    now: i64,
) -> Result<String, PkiError> {
    let key = Key::new("nodes", "", who.node.as_str());
    let stored = store.get(&key);
    let old = match &stored {
        Some(item) => decode(item),
        None => {
            let arch = report.map_or("", |r| &*r.architecture);
            merge::create_node(&who.node, &new_uid()?, arch, now)
        }
    };
    let uid = old["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let wants_network = old["spec"]["podCIDR"].is_null();
    let network = match wants_network {
        true => cidr::assign(commit, store, who.pod_network, &who.node),
        false => None,
    };
    let new = merge::node(&old, report, who.answering, network.as_deref(), now);
    if stored.is_none() || new != old {
        put(commit, key, stored.as_ref(), "Node", &new, Class::Durable);
    }
    Ok(uid)
}

fn pod(commit: &mut Commit, store: &dyn Store, who: &Reporter, report: &PodReport, now: i64) {
    let key = Key::new("pods", report.namespace.as_str(), report.name.as_str());
    let Some(stored) = store.get(&key) else { return };
    match merge::pod(&decode(&stored), report, &who.node, now) {
        PodOutcome::Nothing => {}
        PodOutcome::Update { object, class } => put(commit, key, Some(&stored), "Pod", &object, class),
        PodOutcome::Remove { object } => {
            commit.preconditions.push(Precondition::At(key.clone(), stored.revision));
            commit.changes.push(Change::Delete { key, last: Some(encode("Pod", &object)) });
        }
    }
}

fn events(
    commit: &mut Commit,
    store: &dyn Store,
    node: &str,
    node_uid: &str,
    reports: &[EventReport],
) -> Result<(), PkiError> {
    // The same thing may have happened twice in one batch.
    let mut pending: Vec<(Key, Option<Item>, Value)> = Vec::new();
    for report in reports {
        let namespace = report.pod.as_ref().map_or("default", |(namespace, _, _)| namespace);
        if store.get(&Key::new("namespaces", "", namespace)).is_none() {
            continue;
        }
        let key = Key::new("events", namespace, merge::event_name(report, node, node_uid));
        let uid = new_uid()?;
        if let Some((_, _, object)) = pending.iter_mut().find(|(k, _, _)| *k == key) {
            *object = merge::event(Some(object), report, node, node_uid, &uid);
            continue;
        }
        let stored = store.get(&key);
        let old = stored.as_ref().map(decode);
        let object = merge::event(old.as_ref(), report, node, node_uid, &uid);
        pending.push((key, stored, object));
    }
    for (key, stored, object) in pending {
        put(commit, key, stored.as_ref(), "Event", &object, Class::Volatile);
    }
    Ok(())
}

/// A put that holds only while the object is what it was when the change was planned.
fn put(commit: &mut Commit, key: Key, stored: Option<&Item>, kind: &str, object: &Value, class: Class) {
    commit.preconditions.push(match stored {
        Some(item) => Precondition::At(key.clone(), item.revision),
        None => Precondition::Absent(key.clone()),
    });
    let schema = stored.map_or(SCHEMA, |item| item.schema);
    commit.changes.push(Change::Put { key, schema, value: encode(kind, object), class, seal: None });
}
