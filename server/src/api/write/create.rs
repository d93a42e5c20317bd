//! Creating.

use coracle_shared::api::json::Parsed;
use coracle_shared::api::status::{Cause, Resource, Status};
use coracle_store::{Change, Commit, CommitError, Key, Precondition, Revision};

use super::{ATTEMPTS, Call, Writer, Written, alloc, broken, check, item_of, meta, put, shape};
use crate::api::list::{key, resource};
use crate::api::object;
use crate::api::route::Target;
use crate::kinds::View;

const NAMESPACES: Resource<'static> = Resource { group: "", plural: "namespaces" };

impl Writer {
    /// Creates an object in the collection of the call's target.
    pub async fn create(&self, call: &Call<'_>, parsed: Parsed) -> Result<Written, Status> {
        let kind = call.target.kind;
        let (mut object, warnings) = shape(kind, parsed, call.mode)?;
        let base = View(&object).text(&["metadata", "generateName"]).to_owned();
        let generate = meta::create(&mut object, call.target, (self.clock)(), &*self.random)?;
        object::to_stored(kind, &mut object);
        (kind.rules.create)(&mut object, &self.moment());
        for attempt in 1.. {
            if attempt > 1 && generate {
                object["metadata"]["name"] = meta::generated(&base, (self.random)()).into();
            }
            // What one attempt claimed is not what the next one claims.
            let mut completed = alloc::claims(kind).then(|| object.clone());
            let object = completed.as_mut().unwrap_or(&mut object);
            let mut commit = Commit::new();
            self.within_namespace(call.target, &mut commit)?;
            let claim = alloc::claim(self, kind, object, None, &mut commit);
            // What is wrong with the object comes before what could not be had for it.
            check(call.target, object, None)?;
            claim?;
            self.admit(call, object, None)?;
            let name = View(object).text(&["metadata", "name"]).to_owned();
            let key = key(&Target { name: name.clone(), ..call.target.clone() });
            let change = put(call, &key, None, object);
            let written =
                |change: &Change, revision| Written { item: item_of(change, revision), warnings: warnings.clone() };
            let taken = || match generate {
                true => Status::generate_name_conflict(resource(kind), &name),
                false => Status::already_exists(resource(kind), &name),
            };
            if call.dry_run {
                return if self.store.get(&key).is_some() { Err(taken()) } else { Ok(written(&change, Revision(0))) };
            }
            // The name first, so that a name in use is told from a number in use.
            commit.preconditions.insert(0, Precondition::Absent(key.clone()));
            match self.store.commit(commit.change(change.clone())).await {
                Ok(revision) => return Ok(written(&change, revision)),
                Err(CommitError::Failed(Precondition::Absent(k))) if k == key && (!generate || attempt >= ATTEMPTS) => {
                    return Err(taken());
                }
                Err(CommitError::Failed(_)) if attempt < ATTEMPTS => {}
                Err(error) => return Err(broken(&error)),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// New objects need a namespace that is there and stays, up to the instant of the commit.
    fn within_namespace(&self, target: &Target, commit: &mut Commit) -> Result<(), Status> {
        if !target.kind.namespaced {
            return Ok(());
        }
        let key = Key::new("namespaces", "", target.namespace.as_str());
        let Some(item) = self.store.get(&key) else {
            return Err(Status::not_found(NAMESPACES, &target.namespace));
        };
        let leaving = is_leaving(&item.value);
        // What happens while a namespace empties may still be told.
        if leaving && target.kind.kind != "Event" {
            return Err(terminating(target));
        }
        commit.preconditions.push(Precondition::At(key, item.revision));
        Ok(())
    }
}

/// Whether a namespace is being deleted. Most are not, and need not be parsed to know.
fn is_leaving(namespace: &[u8]) -> bool {
    const MARK: &[u8] = b"deletionTimestamp";
    namespace.windows(MARK.len()).any(|bytes| bytes == MARK)
        && View(&serde_json::from_slice(namespace).unwrap_or_default()).has(&["metadata", "deletionTimestamp"])
}

fn terminating(target: &Target) -> Status {
    let namespace = &target.namespace;
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut status = Status::forbidden(resource(target.kind), &target.name, why);
    if let Some(details) = &mut status.details {
        details.causes.push(Cause {
            reason: "NamespaceTerminating",
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".into(),
        });
    }
    status
}
