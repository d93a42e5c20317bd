//! The store: every object of the cluster, its revisions and its history.
//!
//! One trait, [`Store`], and backends behind it. Reads are answered from memory and never wait;
//! only [`Store::commit`] touches a disk. A backend that is not local (etcd) keeps the same image
//! in memory from its change log.
//!
//! Objects are bytes: compact JSON in the storage version of their kind, without `apiVersion` and
//! `metadata.resourceVersion`, which the API splices in on output. The store never parses them.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

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
    /// The disk is full up to its reserve; deletes still work.
    Full,
    /// The disk failed; nothing was acknowledged. The text names the file and the error.
    Io(Arc<str>),
    /// The store is shutting down.
    Closed,
}

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
