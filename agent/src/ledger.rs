//! The ledger: what this node should be, on disk, so that it starts without its server.
//!
//! One redb table of small records, each sealed by a key of this node ([`seal`]), so that no
//! Secret's value is readable in the file. A [`Change`] is one transaction: whole or not at all,
//! one sync. What is read at the start lives on in memory as a [`Book`], which changes only after
//! the disk has: *persist, then publish, then act*.
//!
//! Format 1, keys of the table `ledger` and what their sealed values hold:
//! `format` (unsealed: one byte), `store` (a [`StoreUuid`]), `head/SET` (a [`Head`]),
//! `item/SET/ID` (hash, body), `ended/UID` (the last report of a pod that ran to its end).

mod book;
pub mod disk;
mod keeper;
mod open;
mod seal;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use coracle_shared::codec::{self, CodecError};
use coracle_shared::desired::{Item, ItemId, SetHead, SetKind};
use coracle_shared::ids::{Digest, PodUid, StoreUuid};
use coracle_shared::report::PodReport;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

pub use book::{Book, Publication};
pub use disk::{Disk, FileDisk};
pub use keeper::Keeper;
pub use open::{CHECK_COMMAND, Opened, check_file, open_or_refill};
pub use seal::{Seal, SealError};

const TABLE: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("ledger");
/// The format that this release writes.
const FORMAT: u8 = 1;
/// redb's page cache: the ledger is read once, and written a few pages at a time.
const CACHE_BYTES: usize = 128 << 10;

/// Where a set stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub head: SetHead,
    /// The server has marked it complete: what is absent is not to be.
    pub complete: bool,
}

/// One durable step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub store: Option<StoreUuid>,
    pub heads: Vec<(SetKind, Head)>,
    pub puts: Vec<(SetKind, Item)>,
    pub deletes: Vec<(SetKind, ItemId)>,
    /// Pods that ran to their end.
    pub ended: Vec<PodReport>,
    /// Records of ended pods that nobody needs any more.
    pub forget: Vec<PodUid>,
}

impl Change {
    pub fn is_empty(&self) -> bool {
        *self == Change::default()
    }

    /// Takes nothing new: it can be acted on even if it cannot be written.
    pub fn only_removes(&self) -> bool {
        self.puts.is_empty() && self.ended.is_empty()
    }
}

/// What the ledger holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    pub store: Option<StoreUuid>,
    pub node: Head,
    pub shared: Head,
    /// Encoded bodies.
    pub items: BTreeMap<(SetKind, ItemId), (Digest, Vec<u8>)>,
    pub ended: BTreeMap<PodUid, PodReport>,
}

/// The ledger cannot be read or written.
#[derive(Debug)]
pub enum LedgerError {
    /// The file system refused: what was tried.
    Io { what: &'static str, source: io::Error },
    /// The database refused.
    Database(Box<redb::Error>),
    /// A record does not open with this node's key: the key or the file is not the node's.
    Seal { record: String },
    /// A record is not what its key says.
    Record { record: String, source: CodecError },
    /// Written by another release.
    Format(u8),
}

impl fmt::Display for LedgerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LedgerError::Io { what, source } => write!(f, "ledger: {what}: {source}"),
            LedgerError::Database(source) => write!(f, "ledger: {source}"),
            LedgerError::Seal { record } => write!(f, "ledger: record {record} does not open with this node's key"),
            LedgerError::Record { record, source } => write!(f, "ledger: record {record}: {source}"),
            LedgerError::Format(found) => write!(f, "ledger: format {found}, this release reads {FORMAT}"),
        }
    }
}

impl std::error::Error for LedgerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LedgerError::Io { source, .. } => Some(source),
            LedgerError::Database(source) => Some(source.as_ref()),
            LedgerError::Record { source, .. } => Some(source),
            LedgerError::Seal { .. } | LedgerError::Format(_) => None,
        }
    }
}

impl<E: Into<redb::Error>> From<E> for LedgerError {
    fn from(error: E) -> Self {
        LedgerError::Database(Box::new(error.into()))
    }
}

/// The open ledger. Calls block on the disk.
#[derive(Debug)]
pub struct Ledger<D: Disk = FileDisk> {
    disk: D,
    seal: Seal,
    /// `None` after an error: the next commit opens the database anew, as redb wants it.
    database: Option<Database>,
}

impl<D: Disk> Ledger<D> {
    /// Opens or makes the ledger.
    ///
    /// # Errors
    /// The disk fails, or the file is not a ledger of this node.
    pub fn open(disk: D, seal: Seal) -> Result<Self, LedgerError> {
        let mut ledger = Ledger { disk, seal, database: None };
        ledger.database = Some(ledger.start()?);
        Ok(ledger)
    }

    fn start(&self) -> Result<Database, LedgerError> {
        let backend = self.disk.open().map_err(|source| LedgerError::Io { what: "open", source })?;
        let database = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend)?;
        let write = database.begin_write()?;
        let mut fresh = false;
        {
            let mut table = write.open_table(TABLE)?;
            let found = table.get(b"format".as_slice())?.map(|v| v.value().first().copied().unwrap_or(0));
            match found {
                Some(FORMAT) => {}
                Some(other) => return Err(LedgerError::Format(other)),
                None => {
                    table.insert(b"format".as_slice(), [FORMAT].as_slice())?;
                    fresh = true;
                }
            }
        }
        // A start that finds everything in place writes nothing.
        if fresh {
            write.commit()?
        } else {
            write.abort()?
        }
        Ok(database)
    }

    /// Reads everything.
    ///
    /// # Errors
    /// The disk fails, or a record is damaged: then the ledger is to be refilled.
    pub fn read(&self) -> Result<Contents, LedgerError> {
        let mut contents = Contents::default();
        let Some(database) = &self.database else { return Ok(contents) };
        let table = database.begin_read()?.open_table(TABLE)?;
        for entry in table.iter()? {
            let (key, value) = entry?;
            if key.value() != b"format" {
                self.take(&mut contents, key.value(), value.value())?;
            }
        }
        Ok(contents)
    }

    fn take(&self, contents: &mut Contents, key: &[u8], sealed: &[u8]) -> Result<(), LedgerError> {
        let record = String::from_utf8_lossy(key).into_owned();
        let plain = self.seal.open(key, sealed).map_err(|_| LedgerError::Seal { record: record.clone() })?;
        let fail = |source| LedgerError::Record { record: record.clone(), source };
        let mut parts = record.splitn(3, '/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("store"), None, None) => contents.store = Some(codec::decode(&plain).map_err(fail)?),
            (Some("head"), Some("node"), None) => contents.node = codec::decode(&plain).map_err(fail)?,
            (Some("head"), Some("shared"), None) => contents.shared = codec::decode(&plain).map_err(fail)?,
            (Some("item"), Some(set @ ("node" | "shared")), Some(id)) => {
                let set = if set == "node" { SetKind::Node } else { SetKind::Shared };
                let item: Item = codec::decode(&plain).map_err(fail)?;
                contents.items.insert((set, ItemId(id.to_owned())), (item.hash, item.body));
            }
            (Some("ended"), Some(uid), None) => {
                contents.ended.insert(PodUid(uid.to_owned()), codec::decode(&plain).map_err(fail)?);
            }
            // Of a newer release that was gone back from: left alone.
            _ => {}
        }
        Ok(())
    }

    /// Writes a change, whole, and syncs it.
    ///
    /// # Errors
    /// Nothing of the change is in the ledger; the next call opens the file anew.
    pub fn commit(&mut self, change: &Change) -> Result<(), LedgerError> {
        if change.is_empty() {
            return Ok(());
        }
        let first = self.try_commit(change);
        match first {
            Err(error) if out_of_space(&error) => {
                // The reserve is there for exactly this; it is made again when there is space.
                self.disk.release_reserve();
                self.try_commit(change)
            }
            result => {
                self.disk.keep_reserve();
                result
            }
        }
    }

    /// Closes the file in good order. A later commit opens it again.
    pub fn close(&mut self) {
        self.database = None;
    }

    fn try_commit(&mut self, change: &Change) -> Result<(), LedgerError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => self.start()?,
        };
        // Put back only when it worked: after an error redb answers nothing until reopened.
        self.write(&database, change)?;
        self.database = Some(database);
        Ok(())
    }

    fn write(&self, database: &Database, change: &Change) -> Result<(), LedgerError> {
        let write = database.begin_write()?;
        {
            let mut table = write.open_table(TABLE)?;
            let mut put = |key: &str, plain: Vec<u8>| -> Result<(), LedgerError> {
                let sealed =
                    self.seal.close(key.as_bytes(), plain).map_err(|_| LedgerError::Seal { record: key.into() })?;
                table.insert(key.as_bytes(), sealed.as_slice())?;
                Ok(())
            };
            if let Some(store) = &change.store {
                put("store", codec::encode(store))?;
            }
            for (set, head) in &change.heads {
                put(&format!("head/{}", set_name(*set)), codec::encode(head))?;
            }
            for (set, item) in &change.puts {
                put(&item_key(*set, &item.id), codec::encode(item))?;
            }
            for report in &change.ended {
                put(&format!("ended/{}", report.uid), codec::encode(report))?;
            }
            for (set, id) in &change.deletes {
                table.remove(item_key(*set, id).as_bytes())?;
            }
            for uid in &change.forget {
                table.remove(format!("ended/{uid}").as_bytes())?;
            }
        }
        write.commit()?;
        Ok(())
    }
}

fn set_name(set: SetKind) -> &'static str {
    match set {
        SetKind::Node => "node",
        SetKind::Shared => "shared",
    }
}

fn item_key(set: SetKind, id: &ItemId) -> String {
    format!("item/{}/{}", set_name(set), id.0)
}

fn out_of_space(error: &LedgerError) -> bool {
    let full = |e: &io::Error| matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    match error {
        LedgerError::Io { source, .. } => full(source),
        LedgerError::Database(e) => matches!(e.as_ref(), redb::Error::Io(source) if full(source)),
        _ => false,
    }
}
