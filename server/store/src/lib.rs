//! The store: every object of the cluster, its revisions and its history.
//!
//! One trait, [`Store`], and backends behind it. Reads are answered from memory and never wait;
//! only [`Store::commit`] touches a disk. A backend that is not local (etcd) keeps the same image
//! in memory from its change log.
//!
//! Objects are bytes: compact JSON in the storage version of their kind, without `apiVersion` and
//! `metadata.resourceVersion`, which the API splices in on output. The store never parses them.

pub mod backup;
pub mod embedded;
mod history;
mod image;
pub mod indexes;
mod memory;
mod snapshots;
mod visible;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub use embedded::{Embedded, OpenError, Options};
pub use indexes::Index;
pub use memory::Memory;

/// Monotonic time since some fixed start; an argument, so that tests move it by hand.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// The process's monotonic clock.
pub fn monotonic() -> Clock {
    let start = std::time::Instant::now();
    Arc::new(move || start.elapsed())
}

/// The store's clock: one counter for all keys, assigned at commit, never going back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names one object. `resource` is `plural` or `plural.group` (`pods`, `deployments.apps`), or the
/// name of an internal table (`-alloc`, `-lease`); `namespace` is empty for cluster scope.
///
/// Keys order by resource, then namespace, then name: the order of every list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub resource: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Key {
    pub fn new(resource: impl Into<Arc<str>>, namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Key {
        Key { resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.resource, self.namespace, self.name)
    }
}

/// One stored object at one revision. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub key: Key,
    /// The revision of the commit that wrote these bytes.
    pub revision: Revision,
    /// Which schema the bytes were written under; the API converts when it is not current.
    pub schema: u16,
    pub value: Arc<[u8]>,
}

/// How long a write has to live. See DESIGN.md for the exact list of what is volatile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Acknowledged only once it survives a power cut.
    Durable,
    /// Kept in memory; reaches the disk on the back of a durable commit or at a long interval.
    /// A backend without this class treats it as durable.
    Volatile,
}

/// One change of a commit.
#[derive(Clone, Debug)]
pub enum Change {
    Put {
        key: Key,
        schema: u16,
        value: Arc<[u8]>,
        class: Class,
        /// The object's uid when its bytes must be encrypted on every disk (Secrets); it is part
        /// of the additional authenticated data together with the key.
        seal: Option<Arc<str>>,
    },
    /// Removes the key; `last` is the object's final form that watchers see (with the deletion
    /// marks it may have gained); `None` repeats the stored bytes.
    Delete { key: Key, last: Option<Arc<[u8]>> },
}

impl Change {
    pub fn key(&self) -> &Key {
        match self {
            Change::Put { key, .. } | Change::Delete { key, .. } => key,
        }
    }

    /// Size of the value in bytes.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Change::Put { value, .. } => value.len(),
            Change::Delete { .. } => 0,
        }
    }
}

/// What must hold at the instant of the commit; otherwise nothing of it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// The key exists at exactly this revision.
    At(Key, Revision),
    Absent(Key),
    Exists(Key),
}

/// All or nothing. At most [`MAX_CHANGES`] changes, each key at most once.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    pub preconditions: Vec<Precondition>,
    pub changes: Vec<Change>,
}

impl Commit {
    pub fn new() -> Commit {
        Commit::default()
    }

    /// Adds a precondition.
    pub fn require(mut self, precondition: Precondition) -> Commit {
        self.preconditions.push(precondition);
        self
    }

    /// Adds a durable put.
    pub fn put(self, key: Key, schema: u16, value: impl Into<Arc<[u8]>>) -> Commit {
        self.change(Change::Put { key, schema, value: value.into(), class: Class::Durable, seal: None })
    }

    /// Adds a volatile put.
    pub fn put_volatile(self, key: Key, schema: u16, value: impl Into<Arc<[u8]>>) -> Commit {
        self.change(Change::Put { key, schema, value: value.into(), class: Class::Volatile, seal: None })
    }

    /// Creates: the key must be absent, then is durably put.
    pub fn create(self, key: Key, schema: u16, value: impl Into<Arc<[u8]>>) -> Commit {
        self.require(Precondition::Absent(key.clone())).put(key, schema, value)
    }

    /// Replaces: the key must be at `revision`, then is durably put.
    pub fn replace(self, key: Key, revision: Revision, schema: u16, value: impl Into<Arc<[u8]>>) -> Commit {
        self.require(Precondition::At(key.clone(), revision)).put(key, schema, value)
    }

    /// Adds a delete; watchers see the stored bytes as the last ones.
    pub fn delete(self, key: Key) -> Commit {
        self.change(Change::Delete { key, last: None })
    }

    /// Adds any change.
    pub fn change(mut self, change: Change) -> Commit {
        self.changes.push(change);
        self
    }

    /// Sum of the sizes of its values.
    pub fn bytes(&self) -> usize {
        self.changes.iter().map(Change::bytes).sum()
    }

    /// Checks the bounds that every backend shares.
    pub fn validate(&self) -> Result<(), CommitError> {
        if self.changes.len() > MAX_CHANGES {
            return Err(CommitError::Malformed("more than 100 changes in a commit"));
        }
        let mut keys: Vec<&Key> = self.changes.iter().map(Change::key).collect();
        keys.sort_unstable();
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(CommitError::Malformed("a key occurs twice in a commit"));
        }
        let bad = |part: &str| part.len() > MAX_KEY_PART || part.contains('\0');
        if keys.iter().any(|key| bad(&key.resource) || bad(&key.namespace) || bad(&key.name)) {
            return Err(CommitError::Malformed("a part of a key is longer than 1 kB or contains NUL"));
        }
        if self.bytes() > MAX_COMMIT_BYTES {
            return Err(CommitError::Malformed("a commit is larger than 8 MiB"));
        }
        Ok(())
    }
}

/// Longest part of a key in bytes. Kubernetes names end at 253; Events and custom keys are longer.
pub const MAX_KEY_PART: usize = 1024;

/// Largest sum of values in a commit: two of the largest request bodies (3 MiB) and some room.
pub const MAX_COMMIT_BYTES: usize = 8 << 20;

/// etcd's default bound on operations in a transaction is 128; a commit stays under it.
pub const MAX_CHANGES: usize = 100;

/// One committed change, as watchers see it: what was and what is.
#[derive(Clone, Debug)]
pub struct Event {
    /// The revision of the commit; several events of one commit share it.
    pub revision: Revision,
    pub key: Key,
    pub old: Option<Item>,
    /// `None`: deleted; `last` then holds the final bytes.
    pub new: Option<Item>,
    pub last: Option<Arc<[u8]>>,
}

/// A page of a list, in key order, all at `revision`.
#[derive(Clone, Debug)]
pub struct Page {
    pub items: Vec<Item>,
    pub revision: Revision,
    /// How many further items there are after the last one.
    pub remaining: usize,
}

/// What a list covers: a resource, optionally one namespace of it, from after a key on.
#[derive(Clone, Debug)]
pub struct Range {
    pub resource: Arc<str>,
    pub namespace: Option<Arc<str>>,
    /// Exclusive start: namespace and name of the last item of the page before.
    pub after: Option<(Arc<str>, Arc<str>)>,
    /// 0: no limit.
    pub limit: usize,
    /// The revision of the first page, for later pages; `None`: now.
    pub at: Option<Revision>,
}

/// Identity of a store: a restored backup has the same uuid and a higher epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreId {
    pub uuid: [u8; 16],
    pub epoch: u64,
}

/// Why a commit did not happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitError {
    /// This precondition did not hold.
    Failed(Precondition),
    /// More than [`MAX_CHANGES`], or a key twice.
    Malformed(&'static str),
    /// The disk is full up to its reserve; deletes still work. The text names the disk, what is
    /// free and what is needed.
    Full(Arc<str>),
    /// The disk failed; nothing was acknowledged. The text names the file and the error.
    Io(Arc<str>),
    /// The store is shutting down.
    Closed,
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommitError::Failed(Precondition::At(key, revision)) => write!(f, "{key} is not at revision {revision}"),
            CommitError::Failed(Precondition::Absent(key)) => write!(f, "{key} already exists"),
            CommitError::Failed(Precondition::Exists(key)) => write!(f, "{key} does not exist"),
            CommitError::Malformed(why) => write!(f, "malformed commit: {why}"),
            CommitError::Full(why) | CommitError::Io(why) => write!(f, "{why}"),
            CommitError::Closed => write!(f, "the store is shutting down"),
        }
    }
}

impl std::error::Error for CommitError {}

impl fmt::Display for HistoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HistoryError::Compacted { floor } => {
                write!(f, "history before revision {floor} is no longer kept: list again")
            }
            HistoryError::Future { current } => write!(f, "the store is only at revision {current}"),
        }
    }
}

impl std::error::Error for HistoryError {}

/// Why history can not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryError {
    /// Older than what is kept: list again (410 Expired).
    Compacted { floor: Revision },
    /// Newer than the store.
    Future { current: Revision },
}

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The database of the cluster.
pub trait Store: Send + Sync + 'static {
    fn id(&self) -> StoreId;

    /// The newest visible revision. Whatever it covers can be read.
    fn revision(&self) -> Revision;

    fn get(&self, key: &Key) -> Option<Item>;

    /// Lists a range. With `at`, the content at that revision while it is kept (5 minutes).
    fn list(&self, range: &Range) -> Result<Page, HistoryError>;

    /// How many objects of a resource there are.
    fn count(&self, resource: &str) -> usize;

    /// Changes after `after`, of one resource or (with `None`) of all, in order, at most `limit`
    /// events, but never a part of a revision. Churn in one resource never expires another's history.
    fn changes(&self, resource: Option<&str>, after: Revision, limit: usize) -> Result<Vec<Event>, HistoryError>;

    /// Resolves when the newest visible revision is above `after`.
    fn wait(&self, after: Revision) -> BoxFuture<'_, Revision>;

    /// Applies all of a commit or nothing, and answers once it is as durable as its classes ask.
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Revision, CommitError>>;
}
