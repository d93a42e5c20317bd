//! The embedded store: one journal, one checkpoint, everything in memory.
//!
//! Files in its directory: `journal.N` (the log, see [`journal`](self)), `store.redb` (the
//! checkpoint; `store.redb.unclean` beside it while it is open or in doubt), `secret.key` (what Secrets are encrypted with; keep a copy of it apart from
//! backups), `reserve` (space for deletes on a full disk) and `lock`.

mod backend;
pub(crate) mod build;
pub(crate) mod checkpoint;
pub(crate) mod codec;
mod digest;
mod dirty;
pub mod disk;
mod group;
mod journal;
mod load;
pub(crate) mod open;
pub mod reader;
mod reply;
mod rotate;
pub(crate) mod seal;
mod space;
mod writer;
mod xxh64;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use async_channel::Sender;

pub use self::build::settle;
use self::disk::Disk;
use self::reader::Reader;
use self::reply::reply;
pub use self::rotate::rotate_key;
use self::seal::Sealer;
use self::writer::{Submission, Writer};
use crate::backup::Snapshot;
use crate::visible::Visible;
use crate::{
    BoxFuture, Clock, Commit, CommitError, Event, HistoryError, Item, Key, Page, Range, Revision, Store, StoreId,
};

/// Commits waiting for the writer; beyond it a committer waits to be let in.
const QUEUE: usize = 4096;

/// Where the store tells of what goes wrong beside a commit, a line at a time.
pub type Log = Arc<dyn Fn(&str) + Send + Sync>;

/// How a store is opened.
#[derive(Clone)]
pub struct Options {
    pub clock: Clock,
    /// Size of a journal segment in bytes; two are kept. Larger ones make checkpoints rarer and
    /// starts after a crash longer.
    pub segment_bytes: u64,
    /// Space held back for deletes on a full disk, in bytes.
    pub reserve_bytes: u64,
    pub log: Log,
    /// Reads the checkpoint in a child process; without it, in this one.
    pub reader: Option<Reader>,
}

impl Default for Options {
    fn default() -> Options {
        let log = Arc::new(|words: &str| eprintln!("{words}"));
        Options { clock: crate::monotonic(), segment_bytes: 16 << 20, reserve_bytes: 32 << 20, log, reader: None }
    }
}

/// Why a store does not open.
#[derive(Debug)]
pub enum OpenError {
    Io {
        file: String,
        what: &'static str,
        source: io::Error,
    },
    /// Another process has the directory.
    Locked,
    /// What is there contradicts itself; nothing was changed.
    Damaged {
        file: String,
        what: String,
    },
    /// A file of another format version.
    Format {
        file: String,
        found: u32,
    },
    /// The store exists, its secret.key does not.
    KeyMissing,
    /// The store was written with another secret.key.
    KeyChanged,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Io { file, what, source } => write!(f, "store: {file}: {what}: {source}"),
            OpenError::Locked => write!(f, "store: another server uses this directory: stop it first"),
            OpenError::Damaged { file, what } => {
                write!(f, "store: {file} is damaged: {what}. Check the disk and restore a backup")
            }
            OpenError::Format { file, found } => {
                write!(f, "store: {file} has format {found}: use the release that wrote it or a newer one")
            }
            OpenError::KeyMissing => write!(f, "store: secret.key is missing: put back the copy of it"),
            OpenError::KeyChanged => {
                write!(f, "store: secret.key is not the one this store was written with: put back the right one")
            }
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OpenError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// The embedded store. Dropping it finishes what is queued.
pub struct Embedded {
    id: StoreId,
    sealer: Arc<Sealer>,
    visible: Arc<Visible>,
    queue: Sender<Submission>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Embedded {
    /// Opens the store in a directory, or makes one there.
    pub fn open(directory: &Path, options: Options) -> Result<Embedded, OpenError> {
        Embedded::open_on(build::lock(directory)?, options)
    }

    /// Opens the store on any bottom layer.
    pub fn open_on(disk: Arc<dyn Disk>, options: Options) -> Result<Embedded, OpenError> {
        let opened = open::open(disk, &options)?;
        let (id, sealer) = (opened.meta.id, opened.base.sealer.clone());
        let visible = Arc::new(Visible::new(opened.image));
        let (queue, receiver) = async_channel::bounded(QUEUE);
        let writer = Writer::new(
            opened.base,
            options.clock,
            visible.clone(),
            receiver,
            opened.journal,
            opened.meta,
            opened.dirty,
        );
        let spawned = std::thread::Builder::new().name("store-writer".into()).spawn(move || writer.run());
        let writer = spawned.map_err(|source| OpenError::Io {
            file: "store-writer".to_string(),
            what: "starting the writer's thread",
            source,
        })?;
        Ok(Embedded { id, sealer, visible, queue, writer: Mutex::new(Some(writer)) })
    }

    /// Everything as it is now, to be written somewhere; `files` ride along, sealed.
    pub fn snapshot(&self, files: &[(String, Vec<u8>)]) -> Snapshot {
        let image = self.visible.read();
        let rows = image.rows().map(|(key, row)| (key, row.clone())).collect();
        Snapshot::new(self.id, image.revision(), self.sealer.clone(), rows, files)
    }

    /// Refuses new commits, finishes the queued ones and waits for the writer. Blocks.
    pub fn close(&self) {
        self.queue.close();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // A panic of the writer was printed where it happened; commits answer `Closed`.
            let _ = writer.join();
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

impl Store for Embedded {
    fn id(&self) -> StoreId {
        self.id
    }

    fn revision(&self) -> Revision {
        self.visible.revision()
    }

    fn get(&self, key: &Key) -> Option<Item> {
        self.visible.read().get(key)
    }

    fn list(&self, range: &Range) -> Result<Page, HistoryError> {
        self.visible.read().list(range)
    }

    fn count(&self, resource: &str) -> usize {
        self.visible.read().count(resource)
    }

    fn changes(&self, resource: Option<&str>, after: Revision, limit: usize) -> Result<Vec<Event>, HistoryError> {
        self.visible.read().changes(resource, after, limit)
    }

    fn wait(&self, after: Revision) -> BoxFuture<'_, Revision> {
        self.visible.wait(after)
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Revision, CommitError>> {
        Box::pin(async move {
            commit.validate()?;
            let (reply, waiting) = reply();
            let submission = Submission { commit, reply };
            self.queue.send(submission).await.map_err(|_| CommitError::Closed)?;
            waiting.await
        })
    }
}
