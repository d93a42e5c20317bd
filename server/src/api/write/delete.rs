//! Deleting: at once, with grace, or once finalizers are done.

use coracle_shared::api::status::{Details, Status, success};
use coracle_store::{Change, Commit, CommitError, Item, Precondition};
use serde_json::Value;

use super::update::is_over;
use super::{ATTEMPTS, Call, Writer, alloc, broken, item_of, meta, put};
use crate::api::list::{self, resource};
use crate::api::object;
use crate::api::query::Query;
use crate::kinds::{Kind, View};

/// What becomes of an object's dependents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// The object goes now, the garbage collector takes its dependents.
    #[default]
    Background,
    /// Dependents go first.
    Foreground,
    Orphan,
}

/// `DeleteOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub grace_seconds: Option<u32>,
    pub propagation: Propagation,
    pub uid: Option<String>,
    pub revision: Option<String>,
    pub dry_run: bool,
}

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

impl Propagation {
    pub fn parse(text: &str) -> Result<Propagation, Status> {
        match text {
            "Background" => Ok(Propagation::Background),
            "Foreground" => Ok(Propagation::Foreground),
            "Orphan" => Ok(Propagation::Orphan),
            other => Err(Status::bad_request(format!(
                "DeleteOptions: propagationPolicy: {other:?} is none of \"Background\", \"Foreground\", \"Orphan\""
            ))),
        }
    }

    fn finalizer(self) -> Option<&'static str> {
        match self {
            Propagation::Background => None,
            Propagation::Foreground => Some(FOREGROUND),
            Propagation::Orphan => Some(ORPHAN),
        }
    }
}

impl Options {
    /// From the body (null when there is none) and the query, which wins.
    pub fn parse(body: &Value, query: &Query) -> Result<Options, Status> {
        let view = View(body);
        let mut options = Options {
            grace_seconds: view.at(&["gracePeriodSeconds"]).as_i64().map(|g| u32::try_from(g).unwrap_or(1)),
            uid: view.at(&["preconditions", "uid"]).as_str().map(str::to_owned),
            revision: view.at(&["preconditions", "resourceVersion"]).as_str().map(str::to_owned),
            dry_run: dry_run(query)?,
            ..Options::default()
        };
        for word in view.list(&["dryRun"]) {
            options.dry_run |= dry_run_word(word.as_str().unwrap_or_default())?;
        }
        if let Some(grace) = query.number::<i64>("gracePeriodSeconds")? {
            options.grace_seconds = Some(u32::try_from(grace).unwrap_or(1));
        }
        if let Some(orphan) = view.at(&["orphanDependents"]).as_bool() {
            options.propagation = if orphan { Propagation::Orphan } else { Propagation::Background };
        }
        let policy = query.get("propagationPolicy").unwrap_or(view.text(&["propagationPolicy"]));
        if !policy.is_empty() {
            options.propagation = Propagation::parse(policy)?;
        }
        Ok(options)
    }
}

/// The `dryRun` parameter: `All`, or not there.
pub fn dry_run(query: &Query) -> Result<bool, Status> {
    query.get("dryRun").map_or(Ok(false), dry_run_word)
}

fn dry_run_word(word: &str) -> Result<bool, Status> {
    match word {
        "All" => Ok(true),
        other => Err(Status::bad_request(format!("dryRun: Unsupported value: {other:?}: supported values: \"All\""))),
    }
}

/// What came of a delete.
pub enum Deleted {
    /// It is gone; this is what it was.
    Gone(Item),
    /// It stays until its grace and finalizers are over.
    Lingers(Item),
}

impl Deleted {
    /// The Status that tells of an object that is gone.
    pub fn status(kind: &'static Kind, item: &Item) -> Value {
        let object: Value = serde_json::from_slice(&item.value).unwrap_or_default();
        let details = Details {
            name: item.key.name.to_string(),
            group: kind.group.into(),
            kind: kind.plural.into(),
            uid: View(&object).text(&["metadata", "uid"]).into(),
            ..Details::default()
        };
        success(Some(&details))
    }
}

/// Namespaces that the cluster does not work without.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

impl Writer {
    /// Deletes the object of the call's target, or marks it for deletion.
    pub async fn delete(&self, call: &Call<'_>, options: &Options) -> Result<Deleted, Status> {
        let kind = call.target.kind;
        if kind.kind == "Namespace" && IMMORTAL.contains(&call.target.name.as_str()) {
            let why = "this namespace may not be deleted";
            return Err(Status::forbidden(resource(kind), &call.target.name, why));
        }
        for attempt in 1.. {
            let item = list::find(&*self.store, call.target)?;
            let old = object::decode(kind, &item.value, Some(item.revision));
            preconditions(call, options, &old)?;
            let Some(new) = marked(kind, &old, options, (self.clock)()) else {
                return Ok(Deleted::Lingers(item));
            };
            let mut commit = Commit::new().require(Precondition::At(item.key.clone(), item.revision));
            let over = is_over(&new);
            let change = match over {
                true => {
                    alloc::release(kind, &old, &mut commit);
                    Change::Delete { key: item.key.clone(), last: Some(object::encode(kind.kind, &new).into()) }
                }
                false => put(call, &item.key, Some(&old), &new),
            };
            let outcome = |item| if over { Deleted::Gone(item) } else { Deleted::Lingers(item) };
            if options.dry_run || call.dry_run {
                return Ok(outcome(item_of(&change, item.revision)));
            }
            match self.store.commit(commit.change(change.clone())).await {
                Ok(revision) => return Ok(outcome(item_of(&change, revision))),
                Err(CommitError::Failed(_)) if attempt < ATTEMPTS => {}
                Err(error) => return Err(broken(&error)),
            }
        }
        unreachable!("the last attempt returns")
    }
}

fn preconditions(call: &Call<'_>, options: &Options, old: &Value) -> Result<(), Status> {
    let pairs = [("UID", "uid", &options.uid), ("ResourceVersion", "resourceVersion", &options.revision)];
    for (words, field, given) in pairs {
        let found = View(old).text(&["metadata", field]);
        if let Some(given) = given.as_deref().filter(|g| *g != found) {
            return Err(Status::precondition(resource(call.target.kind), &call.target.name, words, given, found));
        }
    }
    Ok(())
}

/// The object with the marks of its deletion. `None`: nothing changes by this delete.
fn marked(kind: &'static Kind, old: &Value, options: &Options, now: i64) -> Option<Value> {
    let view = View(old);
    let grace = grace(kind, &view, options);
    let leaving = view.has(&["metadata", "deletionTimestamp"]);
    let mut new = old.clone();
    if let Some(finalizer) = options.propagation.finalizer() {
        add_finalizer(&mut new, finalizer);
    }
    let left = view.number(&["metadata", "deletionGracePeriodSeconds"]);
    if leaving && i64::from(grace) >= left && new == *old && !is_over(&new) {
        return None;
    }
    if !leaving || i64::from(grace) < left {
        let meta = &mut new["metadata"];
        meta["deletionTimestamp"] = meta::timestamp(now + i64::from(grace) * 1000).into();
        meta["deletionGracePeriodSeconds"] = grace.into();
        if kind.generation {
            meta["generation"] = (view.number(&["metadata", "generation"]) + 1).into();
        }
    }
    if kind.kind == "Namespace" {
        new["status"]["phase"] = "Terminating".into();
    }
    Some(new)
}

fn add_finalizer(object: &mut Value, finalizer: &str) {
    let mut finalizers = View(object).list(&["metadata", "finalizers"]).to_vec();
    if !finalizers.iter().any(|f| f == finalizer) {
        finalizers.push(finalizer.into());
        object["metadata"]["finalizers"] = finalizers.into();
    }
}

/// How many seconds the object may take to stop. A pod that no node runs stops at once.
fn grace(kind: &'static Kind, view: &View<'_>, options: &Options) -> u32 {
    let Some(default) = kind.grace else { return 0 };
    let over = matches!(view.text(&["status", "phase"]), "Succeeded" | "Failed");
    if view.text(&["spec", "nodeName"]).is_empty() || over {
        return 0;
    }
    let own = || view.at(&["spec", "terminationGracePeriodSeconds"]).as_i64().and_then(|g| u32::try_from(g).ok());
    options.grace_seconds.or_else(own).unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds;

    fn pod() -> Value {
        json!({"kind": "Pod", "metadata": {"name": "p", "generation": 1}, "spec": {"nodeName": "n"},
            "status": {"phase": "Running"}})
    }

    fn mark(object: &Value, grace: Option<u32>, propagation: Propagation) -> Option<Value> {
        let kind = kinds::by_resource("pods").expect("known");
        marked(kind, object, &Options { grace_seconds: grace, propagation, ..Options::default() }, 0)
    }

    #[test]
    fn a_bound_pod_gets_its_grace_and_a_second_delete_only_shortens_it() {
        let first = mark(&pod(), None, Propagation::Background).expect("marked");
        assert_eq!(first["metadata"]["deletionTimestamp"], "1970-01-01T00:00:30Z");
        assert_eq!(first["metadata"]["generation"], 2);
        assert!(!is_over(&first));
        assert_eq!(mark(&first, Some(60), Propagation::Background), None);
        let shorter = mark(&first, Some(5), Propagation::Background).expect("marked");
        assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
        assert!(is_over(&mark(&first, Some(0), Propagation::Background).expect("marked")));
    }

    #[test]
    fn a_pod_that_nothing_runs_is_over_at_once() {
        let mut unbound = pod();
        unbound["spec"] = json!({});
        assert!(is_over(&mark(&unbound, None, Propagation::Background).expect("marked")));
        let mut done = pod();
        done["status"]["phase"] = "Succeeded".into();
        assert!(is_over(&mark(&done, Some(30), Propagation::Background).expect("marked")));
    }

    #[test]
    fn finalizers_hold_an_object() {
        let held = mark(&pod(), Some(0), Propagation::Foreground).expect("marked");
        assert_eq!(held["metadata"]["finalizers"], json!([FOREGROUND]));
        assert!(!is_over(&held));
        assert_eq!(mark(&held, Some(0), Propagation::Foreground), None);
    }

    #[test]
    fn options_come_from_body_and_query() {
        let body = json!({"propagationPolicy": "Orphan", "gracePeriodSeconds": 5, "preconditions": {"uid": "u"}});
        let options = Options::parse(&body, &Query::parse("gracePeriodSeconds=0&dryRun=All")).expect("readable");
        assert_eq!(options.grace_seconds, Some(0));
        assert_eq!(options.propagation, Propagation::Orphan);
        assert_eq!(options.uid.as_deref(), Some("u"));
        assert!(options.dry_run);
        assert!(Options::parse(&json!({"propagationPolicy": "Later"}), &Query::default()).is_err());
        assert!(Options::parse(&Value::Null, &Query::parse("dryRun=Some")).is_err());
    }
}
