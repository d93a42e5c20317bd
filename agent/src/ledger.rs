//! The ledger: what this node should be, on disk, so that it starts without its server.
//!
//! One redb table of small records, each sealed by a key of this node ([`seal`]), so that no
//! Secret's value is readable in the file. A [`Change`] is one transaction: whole or not at all,
//! one sync. What is read at the start lives on in memory as a [`Book`], which changes only after
//! the disk has: *persist, then publish, then act*.
//!
//! Format 1, keys of the table `ledger` and what their sealed values hold:
//! `format` (unsealed: one byte), `store` (a [`StoreUuid`]), `head/SET` (a [`Head`]),
//! `item/SET/ID` (hash, body), `ended/UID` (the last report of a pod that ran to its end),
//! `sum` (the seals' tags of all other records, XORed): a damaged page can lose records without a
//! trace, and what is absent from a complete set is stopped.
//!
//! After an error the file may hold the change that failed, or not: it is opened anew before the
//! next one, and what it turns out to hold is published ([`Ledger::take_found`]). After a failed
//! *sync* what the file shows may never get to the disk, and no later sync would say so
//! ([`disk::Disk::doubt`]): everything is written once more before it is built upon.

mod book;
pub mod disk;
mod keeper;
mod lost;
mod open;
mod seal;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use coracle_shared::codec::{self, CodecError};
use coracle_shared::desired::{Body, Item, ItemId, SetHead, SetKind};
use coracle_shared::ids::{Digest, PodUid, StoreUuid};
use coracle_shared::report::PodReport;
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition};
use serde::{Deserialize, Serialize};

use disk::Watched;
use lost::Lost;
use seal::TAG_LEN;

pub use book::{Book, Publication};
pub use disk::{Disk, FileDisk};
pub use keeper::Keeper;
pub use open::{CHECK_COMMAND, Opened, check_file, confine_check, open_or_refill};
pub use seal::{Seal, SealError};

const TABLE: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("ledger");
/// The format that this release writes.
const FORMAT: u8 = 1;
/// The record that says which others there are.
const SUM: &str = "sum";
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

    /// Takes nothing new.
    pub fn only_removes(&self) -> bool {
        self.puts.is_empty() && self.ended.is_empty()
    }

    /// What of it is acted on although it could not be written: what goes, and what is to stop.
    /// Stopping never waits for a disk; starting does.
    pub fn removals(self) -> Change {
        let stops = |item: &Item| matches!(codec::decode_body(&item.body), Ok(Body::Pod(pod)) if pod.stop.is_some());
        Change {
            puts: self.puts.into_iter().filter(|(_, item)| stops(item)).collect(),
            deletes: self.deletes,
            forget: self.forget,
            ..Change::default()
        }
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
    /// Pages or records are damaged, missing, or there and should not be.
    Sum,
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
            LedgerError::Sum => write!(f, "ledger: it is damaged: not all of it is there, or not as it was written"),
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
            LedgerError::Seal { .. } | LedgerError::Sum | LedgerError::Format(_) => None,
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
    disk: Arc<D>,
    seal: Seal,
    /// `None` after an error: the next commit opens the database anew, as redb wants it.
    database: Option<Database>,
    /// What was acted on and is not written yet.
    lost: Lost,
    found: Option<Contents>,
}

impl<D: Disk> Ledger<D> {
    /// Opens or makes the ledger.
    ///
    /// # Errors
    /// The disk fails, or the file is not a ledger of this node.
    pub fn open(disk: D, seal: Seal) -> Result<Self, LedgerError> {
        let mut ledger = Ledger { disk: Arc::new(disk), seal, database: None, lost: Lost::default(), found: None };
        let mut database = ledger.start()?;
        // redb looks at its checksums after an unclean end only, and then goes back behind what they
        // disown: what was committed meanwhile would be lost with it.
        if !database.check_integrity()? {
            return Err(LedgerError::Sum);
        }
        ledger.database = Some(database);
        Ok(ledger)
    }

    fn start(&self) -> Result<Database, LedgerError> {
        let io = |what| move |source| LedgerError::Io { what, source };
        let backend = self.disk.open().map_err(io("open"))?;
        if self.disk.doubted() {
            disk::write_again(&backend).map_err(io("write again after a failed sync"))?;
            self.disk.trust().map_err(io("note that everything is written again"))?;
        }
        let backend = Watched::new(backend, Arc::clone(&self.disk));
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

    /// Opens the database again after an error.
    fn restart(&mut self) -> Result<Database, LedgerError> {
        let database = self.start()?;
        let lost = self.lost.change();
        if !lost.is_empty() {
            self.write(&database, &lost)?;
            self.lost = Lost::default();
        }
        self.found = Some(self.read_from(&database)?);
        Ok(database)
    }

    /// What the ledger held when it was opened again after an error, before what was committed
    /// since: a change that failed may be there after all. Once.
    pub fn take_found(&mut self) -> Option<Contents> {
        self.found.take()
    }

    /// Reads everything.
    ///
    /// # Errors
    /// The disk fails, or a record is damaged: then the ledger is to be refilled.
    pub fn read(&self) -> Result<Contents, LedgerError> {
        self.database.as_ref().map_or_else(|| Ok(Contents::default()), |database| self.read_from(database))
    }

    fn read_from(&self, database: &Database) -> Result<Contents, LedgerError> {
        let mut contents = Contents::default();
        let (mut wanted, mut sum) = (Sum::default(), Sum::default());
        let table = database.begin_read()?.open_table(TABLE)?;
        for entry in table.iter()? {
            let (key, value) = entry?;
            match key.value() {
                b"format" => {}
                key if key == SUM.as_bytes() => wanted = self.sum(value.value())?,
                key => {
                    self.take(&mut contents, key, value.value())?;
                    sum.toggle(value.value());
                }
            }
        }
        if sum == wanted { Ok(contents) } else { Err(LedgerError::Sum) }
    }

    fn sum(&self, sealed: &[u8]) -> Result<Sum, LedgerError> {
        let damaged = || LedgerError::Seal { record: SUM.into() };
        let plain = self.seal.open(SUM.as_bytes(), sealed).map_err(|_| damaged())?;
        plain.try_into().map(Sum).map_err(|_| damaged())
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
    /// The change may be in the ledger or not; the next call finds out ([`Self::take_found`]). What it
    /// removes is acted on anyhow ([`Change::removals`]), and written with the next change.
    pub fn commit(&mut self, change: &Change) -> Result<(), LedgerError> {
        if change.is_empty() {
            return Ok(());
        }
        let mut result = self.try_commit(change);
        if change.only_removes() && result.as_ref().is_err_and(out_of_space) {
            // The reserve is there for exactly this, and for nothing else: what it is spent on has to
            // make room. It is made again when there is space.
            self.disk.release_reserve();
            result = self.try_commit(change);
        } else {
            self.disk.keep_reserve();
        }
        if result.is_err() {
            self.lost.add(change.clone().removals());
        }
        result
    }

    /// Closes the file in good order. A later commit opens it again.
    pub fn close(&mut self) {
        self.database = None;
    }

    fn try_commit(&mut self, change: &Change) -> Result<(), LedgerError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => self.restart()?,
        };
        // Put back only when it worked: after an error redb answers nothing until reopened.
        self.write(&database, change)?;
        self.database = Some(database);
        Ok(())
    }

    fn write(&self, database: &Database, change: &Change) -> Result<(), LedgerError> {
        let write = database.begin_write()?;
        let mut writing = Writing { seal: &self.seal, table: write.open_table(TABLE)?, sum: Sum::default() };
        if let Some(sealed) = writing.table.get(SUM.as_bytes())? {
            writing.sum = self.sum(sealed.value())?;
        }
        writing.all(change)?;
        drop(writing);
        write.commit()?;
        Ok(())
    }
}

/// The tags of all records, XORed: it changes with each of them, whatever their number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum([u8; TAG_LEN]);

impl Sum {
    /// A sealed record comes or goes.
    fn toggle(&mut self, sealed: &[u8]) {
        let tag = sealed.last_chunk::<TAG_LEN>().unwrap_or(&[0; TAG_LEN]);
        self.0.iter_mut().zip(tag).for_each(|(a, b)| *a ^= b);
    }
}

/// A transaction on its way.
struct Writing<'a> {
    seal: &'a Seal,
    table: Table<'a, &'static [u8], &'static [u8]>,
    sum: Sum,
}

impl Writing<'_> {
    fn all(&mut self, change: &Change) -> Result<(), LedgerError> {
        if let Some(store) = &change.store {
            self.put("store", codec::encode(store))?;
        }
        for (set, head) in &change.heads {
            self.put(&format!("head/{}", set_name(*set)), codec::encode(head))?;
        }
        for (set, item) in &change.puts {
            self.put(&item_key(*set, &item.id), codec::encode(item))?;
        }
        for report in &change.ended {
            self.put(&format!("ended/{}", report.uid), codec::encode(report))?;
        }
        for (set, id) in &change.deletes {
            self.remove(&item_key(*set, id))?;
        }
        for uid in &change.forget {
            self.remove(&format!("ended/{uid}"))?;
        }
        let sum = self.sealed(SUM, self.sum.0.to_vec())?;
        self.table.insert(SUM.as_bytes(), sum.as_slice())?;
        Ok(())
    }

    fn sealed(&self, key: &str, plain: Vec<u8>) -> Result<Vec<u8>, LedgerError> {
        self.seal.close(key.as_bytes(), plain).map_err(|_| LedgerError::Seal { record: key.into() })
    }

    fn put(&mut self, key: &str, plain: Vec<u8>) -> Result<(), LedgerError> {
        let sealed = self.sealed(key, plain)?;
        if let Some(old) = self.table.insert(key.as_bytes(), sealed.as_slice())? {
            self.sum.toggle(old.value());
        }
        self.sum.toggle(&sealed);
        Ok(())
    }

    fn remove(&mut self, key: &str) -> Result<(), LedgerError> {
        if let Some(old) = self.table.remove(key.as_bytes())? {
            self.sum.toggle(old.value());
        }
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
