//! The write side of the pipeline: mutate → schema → validate → store, for every client alike.

mod alloc;
mod create;
mod delete;
mod meta;
mod parts;
mod update;

use std::sync::Arc;

use coracle_shared::api::json::Parsed;
use coracle_shared::api::status::{GroupKind, Status};
use coracle_shared::api::table::{TypeId, schema};
use coracle_shared::api::validate::{self, Mode};
use coracle_shared::api::{canonical, defaults, rules};
use coracle_shared::desired::Cidr;
use coracle_shared::submit::Identity;
use coracle_store::{Change, CommitError, Item, Revision, Store};
use serde_json::Value;

use super::WallClock;
use super::authz::NODES;
use super::object::{self, SCHEMA};
use super::rbac::{self, Roles};
use super::route::Target;
use crate::kinds::{self, Kind, Moment, View};

pub use alloc::address;
pub use delete::{Deleted, Options, Propagation, dry_run};
pub use meta::timestamp;
pub use parts::{scale_of, scaled};
pub use update::Intent;

/// Sixteen random bytes.
pub type Random = Arc<dyn Fn() -> [u8; 16] + Send + Sync>;

/// Everything that writes need of the world.
pub struct Writer {
    pub store: Arc<dyn Store>,
    pub roles: Arc<Roles>,
    pub clock: WallClock,
    pub random: Random,
    pub service_cidr: Cidr,
}

/// Who writes what, and how.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub who: &'a Identity,
    pub target: &'a Target,
    /// Everything is done but the commit.
    pub dry_run: bool,
    pub mode: Mode,
    /// Who is told to manage what a change touches; `None` when the change says so itself.
    pub manager: Option<&'a str>,
}

/// What came of a write.
pub struct Written {
    /// The object as it is now (or was last, when the write removed it). Its revision is 0 when a
    /// dry run would have created it.
    pub item: Item,
    pub warnings: Vec<String>,
}

impl Written {
    /// The object in the row's form.
    pub fn value(&self, kind: &'static Kind) -> Value {
        object::of_item(kind, &self.item)
    }
}

/// How often a write that lost against another is tried again.
const ATTEMPTS: usize = 16;

impl Writer {
    fn moment(&self) -> Moment {
        Moment { now: (self.clock)() }
    }

    /// What else has a say in a write that is right in itself.
    fn admit(&self, call: &Call<'_>, new: &Value, old: Option<&Value>) -> Result<(), Status> {
        if rbac::guards(call.target.kind) {
            rbac::guard(&*self.store, &self.roles.book(), call.who, call.target, new, old)?;
        }
        Ok(())
    }
}

/// The kind in the words of an Invalid.
fn group_kind(kind: &'static Kind) -> GroupKind<'static> {
    GroupKind { group: kind.group, kind: kind.kind }
}

fn type_id(kind: &'static Kind) -> TypeId {
    // A test goes through all rows.
    schema().kind(kind.group, kind.version, kind.kind).expect("every row is in the field table")
}

/// The type of the bytes that are kept.
fn stored_type(kind: &'static Kind) -> TypeId {
    let storage = kind.storage;
    schema().kind(storage.group, storage.version, kind.kind).expect("every row is in the field table")
}

/// The schema stage: the object is of the row's kind, its fields fit, its defaults are filled in.
/// Returns it with warnings.
fn shape(kind: &'static Kind, parsed: Parsed, mode: Mode) -> Result<(Value, Vec<String>), Status> {
    let Parsed { mut value, duplicates } = parsed;
    identify(kind, &mut value)?;
    let id = type_id(kind);
    let warnings =
        validate::fields(id, &mut value, &duplicates, mode).map_err(|e| e.status(kind.kind, kind.version))?;
    canonical::object(id, &mut value);
    defaults::apply(id, &mut value);
    if !value["metadata"].is_object() {
        value["metadata"] = Value::Object(serde_json::Map::new());
    }
    Ok((value, warnings))
}

/// The last check before the store: the object in its stored form, and what it was. A write to a
/// part of an object leaves the rest as it was checked before.
fn check(target: &Target, new: &Value, old: Option<&Value>) -> Result<(), Status> {
    let kind = target.kind;
    let id = stored_type(kind);
    let errors = match (target.sub, old) {
        (Some(_), Some(old)) => rules::validate_status(id, new, old),
        _ => rules::validate(id, new, old),
    };
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid(group_kind(kind), View(new).text(&["metadata", "name"]), &errors)),
    }
}

/// Fills in `apiVersion` and `kind`, or refuses those of something else.
fn identify(kind: &'static Kind, value: &mut Value) -> Result<(), Status> {
    let Some(fields) = value.as_object_mut() else {
        return Err(Status::bad_request("the request's body is not an object"));
    };
    let expected = kind.api_version();
    for (field, expected, words) in [("apiVersion", expected.as_str(), "API version"), ("kind", kind.kind, "kind")] {
        match fields.get(field) {
            None | Some(Value::Null) => {}
            Some(Value::String(given)) if given == expected => {}
            Some(Value::String(given)) if given.is_empty() => {}
            Some(given) => {
                let given = given.as_str().map_or_else(|| given.to_string(), str::to_owned);
                return Err(Status::bad_request(format!(
                    "the {words} in the data ({given}) does not match the expected {words} ({expected})"
                )));
            }
        }
        fields.insert(field.into(), expected.into());
    }
    Ok(())
}

/// The change that puts an object in its stored form.
fn put(call: &Call<'_>, key: &coracle_store::Key, old: Option<&Value>, new: &Value) -> Change {
    let kind = call.target.kind;
    let write = kinds::Write {
        old,
        new,
        status: call.target.sub.is_some_and(|s| s.sub == kinds::SubKind::Status),
        by_node: call.who.groups.iter().any(|g| g == NODES),
    };
    let seal = kind.sealed.then(|| Arc::from(new["metadata"]["uid"].as_str().unwrap_or_default()));
    Change::Put {
        key: key.clone(),
        schema: SCHEMA,
        value: object::encode(kind.kind, new).into(),
        class: (kind.rules.class)(&write),
        seal,
    }
}

/// The object that a change leaves.
fn item_of(change: &Change, revision: Revision) -> Item {
    let value = match change {
        Change::Put { value, .. } => value.clone(),
        Change::Delete { last, .. } => last.clone().unwrap_or_else(|| Arc::from(&b"{}"[..])),
    };
    Item { key: change.key().clone(), revision, schema: SCHEMA, value }
}

/// A commit that failed for a reason that no other attempt mends.
fn broken(error: &CommitError) -> Status {
    match error {
        CommitError::Failed(_) => Status::unavailable("too much contention for this object, please try again"),
        CommitError::Closed => Status::unavailable("the server is shutting down"),
        CommitError::Full(why) => Status::insufficient_storage(why.to_string()),
        CommitError::Io(_) | CommitError::Malformed(_) => Status::internal(error),
    }
}

#[cfg(test)]
mod tests;
