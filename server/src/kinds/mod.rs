//! One row a resource kind: its names, scope, subresources, columns, how long its writes live, and
//! the rules of its own.
//!
//! Adding a built-in resource is a row in [`rows`] and, when it has rules of its own, one file of
//! them beside it.

mod admission;
mod autoscale;
mod batch;
mod cluster;
mod event;
mod human;
mod network;
mod node;
mod pod;
mod policy;
mod rbac;
mod resource;
mod rows;
mod service;
mod storage;
mod view;
mod workload;

use std::sync::{Arc, LazyLock};

use coracle_store::Class;
use serde_json::Value;

pub use human::{age, millis};
pub use view::View;
pub use workload::selector;

/// A column of `kubectl get`.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`, `date`.
    pub kind: &'static str,
    /// `name` marks the object's name.
    pub format: &'static str,
    pub description: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
}

/// What of an object a subresource shows and changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubKind {
    /// The object itself; writes touch `status` alone.
    Status,
    /// autoscaling/v1 Scale over `spec.replicas`.
    Scale,
    /// Writes touch a namespace's `spec.finalizers` alone.
    Finalize,
    /// Writes touch the conditions of a request for a certificate alone.
    Approval,
    /// Sets `spec.nodeName` of a pod, once.
    Binding,
    /// Deletes the pod as `policy/v1` Eviction asks.
    Eviction,
    Log,
    Exec,
    /// Refuses a node's key for ever.
    Revoke,
}

/// A subresource as discovery shows it.
#[derive(Clone, Copy, Debug)]
pub struct Subresource {
    pub name: &'static str,
    pub sub: SubKind,
    /// Group, version and kind of what is sent and answered.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub verbs: &'static [&'static str],
}

/// What a write knows besides the object.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Milliseconds since the Unix epoch.
    pub now: i64,
}

/// Where objects of a row lie in the store and what they look like there.
#[derive(Clone, Copy)]
pub struct Storage {
    /// `plural` or `plural.group` of the row that owns the store's keys.
    pub resource: &'static str,
    /// The group and version that the bytes are in; the row's own unless it is a second face of the same objects.
    pub group: &'static str,
    pub version: &'static str,
    /// From this row's form to the stored one, and back. `None`: the same.
    pub convert: Option<Conversion>,
}

/// Both directions between a second face of a kind and its stored form.
#[derive(Clone, Copy)]
pub struct Conversion {
    pub to_stored: fn(&mut Value),
    pub from_stored: fn(&mut Value),
}

/// What a kind does on its own besides what the field table says. Checks are in
/// `coracle_shared::api::rules`; these are the changes.
#[derive(Clone, Copy)]
pub struct Rules {
    /// Fills in what a new object has from the start; after defaults, before checks.
    pub create: fn(&mut Value, &Moment),
    /// Carries over from the old object what an update may not touch or leave out; before checks.
    pub update: fn(&mut Value, &Value),
    /// How long a write lives: see DESIGN on what is volatile.
    pub class: fn(&Write<'_>) -> Class,
}

/// A write as [`Rules::class`] judges it.
pub struct Write<'a> {
    pub old: Option<&'a Value>,
    pub new: &'a Value,
    pub status: bool,
    /// A node wrote it.
    pub by_node: bool,
}

/// A resource kind.
#[derive(Clone)]
pub struct Kind {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    /// The kind has `metadata.generation`, raised when `spec` changes.
    pub generation: bool,
    /// The bytes are encrypted on every disk.
    pub sealed: bool,
    /// Seconds a delete waits for without being told; `None`: removed at once.
    pub grace: Option<u32>,
    pub subresources: &'static [Subresource],
    /// What can be done with the resource itself.
    pub verbs: &'static [&'static str],
    pub storage: Storage,
    pub columns: &'static [Column],
    /// The cells of one row, in the order of `columns`.
    pub cells: fn(&View<'_>, &Moment) -> Vec<Value>,
    /// Fields that can be selected besides `metadata.name` and `metadata.namespace`.
    pub selectable: &'static [&'static str],
    pub rules: Rules,
}

/// What can be done with a resource that is stored.
pub const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

impl Kind {
    /// `v1` or `group/version`.
    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }

    /// `plural` or `plural.group`: how controllers and messages name the resource.
    pub fn resource(&self) -> String {
        match self.group {
            "" => self.plural.to_owned(),
            group => format!("{}.{group}", self.plural),
        }
    }

    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    pub fn has(&self, sub: SubKind) -> bool {
        self.subresources.iter().any(|s| s.sub == sub)
    }

    /// The store's name of this resource, shared and not allocated again.
    pub fn stored(&self) -> Arc<str> {
        STORED
            .iter()
            .find(|name| &***name == self.storage.resource)
            .cloned()
            .unwrap_or_else(|| Arc::from(self.storage.resource))
    }
}

static STORED: LazyLock<Vec<Arc<str>>> = LazyLock::new(|| {
    let mut names: Vec<Arc<str>> = stored().map(|k| Arc::from(k.storage.resource)).collect();
    names.dedup();
    names
});

/// `v1` or `group/version`.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Every row, in the order in which discovery lists them.
pub fn all() -> &'static [Kind] {
    &rows::ROWS
}

/// The rows whose objects are kept: all but questions, which are answered at once.
pub fn stored() -> impl Iterator<Item = &'static Kind> {
    all().iter().filter(|kind| kind.verbs.contains(&"list"))
}

/// The row behind a path's group, version and plural.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    all().iter().find(|k| k.plural == plural && k.group == group && k.version == version)
}

/// The row that controllers name `plural` or `plural.group`: of several versions, the one that is stored.
pub fn by_resource(resource: &str) -> Option<&'static Kind> {
    let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
    all().iter().find(|k| k.plural == plural && k.group == group)
}

/// The row of a kind, as `apiVersion` and `kind` name it.
pub fn by_kind(group: &str, kind: &str) -> Option<&'static Kind> {
    all().iter().find(|k| k.kind == kind && k.group == group)
}

/// Group and version pairs that are served, core first, each once.
pub fn group_versions() -> &'static [(&'static str, &'static str)] {
    static SEEN: LazyLock<Vec<(&'static str, &'static str)>> = LazyLock::new(|| {
        let mut seen = Vec::new();
        for kind in all() {
            if !seen.contains(&(kind.group, kind.version)) {
                seen.push((kind.group, kind.version));
            }
        }
        seen
    });
    &SEEN
}

#[cfg(test)]
mod tests;
