//! Changing: replace and every kind of patch are one loop.

use coracle_shared::api::json::Parsed;
use coracle_shared::api::managed;
use coracle_shared::api::status::Status;
use coracle_store::{Change, Commit, CommitError, Item, Precondition};
use serde_json::Value;

use super::{ATTEMPTS, Call, Writer, Written, alloc, broken, check, item_of, meta, put, shape, stored_type};
use crate::api::list;
use crate::api::object;
use crate::kinds::{SubKind, View};

/// From the object as it is (in the row's form, with its `resourceVersion`) to what is wanted.
pub type Intent<'a> = &'a (dyn Fn(&Value) -> Result<Parsed, Status> + Send + Sync);

impl Writer {
    /// Changes the object of the call's target, starting over when another write came first.
    pub async fn modify(&self, call: &Call<'_>, intent: Intent<'_>) -> Result<Written, Status> {
        for attempt in 1.. {
            let item = list::find(&*self.store, call.target)?;
            let (new, warnings) = self.wanted(call, &item, intent)?;
            let old = object::decode(call.target.kind, &item.value, None);
            let mut commit = Commit::new().require(Precondition::At(item.key.clone(), item.revision));
            let change = match is_over(&new) {
                true => Change::Delete {
                    key: item.key.clone(),
                    last: Some(object::encode(call.target.kind.kind, &new).into()),
                },
                false => {
                    let mut new = new;
                    alloc::claim(self, call.target.kind, &mut new, Some(&old), &mut commit)?;
                    put(call, &item.key, Some(&old), &new)
                }
            };
            let same = matches!(&change, Change::Put { value, .. } if *value == item.value);
            if same {
                return Ok(Written { item, warnings });
            }
            if call.dry_run {
                return Ok(Written { item: item_of(&change, item.revision), warnings });
            }
            if let Change::Delete { .. } = &change {
                alloc::release(call.target.kind, &old, &mut commit);
            }
            match self.store.commit(commit.change(change.clone())).await {
                Ok(revision) => return Ok(Written { item: item_of(&change, revision), warnings }),
                Err(CommitError::Failed(_)) if attempt < ATTEMPTS => {}
                Err(error) => return Err(broken(&error)),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// The new object in its stored form, checked.
    fn wanted(&self, call: &Call<'_>, item: &Item, intent: Intent<'_>) -> Result<(Value, Vec<String>), Status> {
        let kind = call.target.kind;
        let mut old = object::of_item(kind, item);
        let (mut new, warnings) = shape(kind, intent(&old)?, call.mode)?;
        meta::update(&mut new, &old, call.target)?;
        object::to_stored(kind, &mut new);
        object::to_stored(kind, &mut old);
        match call.target.sub.map(|s| s.sub) {
            Some(SubKind::Status) => new = with_part_of(&new, &old, &["status"], true),
            Some(SubKind::Approval) => {
                let mut decided = old.clone();
                if let Some(conditions) = new["status"].get_mut("conditions") {
                    decided["status"]["conditions"] = conditions.take();
                }
                new = decided;
            }
            Some(SubKind::Finalize) => {
                let mut finalized = old.clone();
                finalized["spec"]["finalizers"] = new["spec"]["finalizers"].take();
                new = finalized;
            }
            _ => {
                (kind.rules.update)(&mut new, &old);
                if kind.has(SubKind::Status) {
                    new = keep_status(new, &old);
                }
            }
        }
        if kind.generation && meta::desired_differs(&new, &old) {
            new["metadata"]["generation"] = (View(&old).number(&["metadata", "generation"]) + 1).into();
        }
        if let Some(manager) = call.manager
            && managed::is_managed(&new)
        {
            let (time, api_version) = (meta::timestamp((self.clock)()), kind.api_version());
            let subresource = call.target.sub.map_or("", |sub| sub.name);
            let by = managed::Writer { manager, api_version: &api_version, subresource, time: &time };
            managed::update(stored_type(kind), &old, &mut new, &by);
        }
        check(call.target, &new, Some(&old))?;
        self.admit(call, &new, Some(&old))?;
        Ok((new, warnings))
    }
}

/// `old` with some fields (and the labels and annotations, when `metadata`) of `new`.
fn with_part_of(new: &Value, old: &Value, fields: &[&str], metadata: bool) -> Value {
    let mut mixed = old.clone();
    let copy = |to: &mut Value, from: &Value, field: &str| match from.get(field) {
        Some(value) => to[field] = value.clone(),
        None => {
            if let Some(to) = to.as_object_mut() {
                to.remove(field);
            }
        }
    };
    for field in fields {
        copy(&mut mixed, new, field);
    }
    if metadata {
        for field in ["labels", "annotations", "finalizers", "managedFields"] {
            copy(&mut mixed["metadata"], &new["metadata"], field);
        }
    }
    mixed
}

fn keep_status(mut new: Value, old: &Value) -> Value {
    if let Some(fields) = new.as_object_mut() {
        match old.get("status") {
            Some(status) => fields.insert("status".into(), status.clone()),
            None => fields.remove("status"),
        };
    }
    new
}

/// Whether an object that is being deleted has nothing left to wait for.
pub(super) fn is_over(object: &Value) -> bool {
    let view = View(object);
    view.has(&["metadata", "deletionTimestamp"])
        && view.list(&["metadata", "finalizers"]).is_empty()
        && view.number(&["metadata", "deletionGracePeriodSeconds"]) == 0
        && (view.text(&["kind"]) != "Namespace" || view.list(&["spec", "finalizers"]).is_empty())
}
