//! The checkpoint: a redb file with every object as of the end of a journal segment.
//!
//! It is open only while it is read at a start or written in a batch, so that the server keeps no
//! page of it in memory. Tables of version 2: `objects` (see [`super::codec`]) and `meta` with
//! `format` u32, `uuid` (16), `epoch` u64, `key` (8, the id of secret.key), `covered` u64 (the
//! newest journal segment that is in it), `ceiling` u64 (revisions below may have been handed
//! out), `volatile` (strings), `digest` (number of objects u64, sum of their checksums u64,
//! checksum u64 of all of meta). Version 1 has no `digest`; the next checkpoint gives it one.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};

use super::codec::{DecodeError, Decoder, encode_key, encode_row, string};
use super::digest::Digest;
use super::disk::{Access, Disk, File};
use super::seal::{SealError, Sealer};
use super::xxh64::xxh64;
use crate::image::Row;
use crate::{Key, StoreId};

pub(crate) const FILE: &str = "store.redb";
const NEW_FILE: &str = "store.redb.new";
const FORMAT: u32 = 2;
/// The format before rows had a digest.
const UNSUMMED: u32 = 1;
/// Pages of redb in memory while a checkpoint is read or written: keys come in order, so that
/// each page is touched once.
const CACHE_BYTES: usize = 2 << 20;

const OBJECTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("objects");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// What a checkpoint knows beside the objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub id: StoreId,
    pub key: [u8; 8],
    pub covered: u64,
    pub ceiling: u64,
    pub volatile: BTreeSet<Arc<str>>,
}

/// Changes that go into a checkpoint, in key order.
pub(crate) struct Batch {
    pub rows: Vec<(Key, Option<Row>)>,
    pub meta: Meta,
}

/// Why a checkpoint could not be read or written.
#[derive(Debug)]
pub(crate) enum CheckpointError {
    Io(io::Error),
    Redb(Box<redb::Error>),
    Decode(DecodeError),
    Seal(SealError),
    Format(u32),
    Missing(&'static str),
    /// What is in it is not what was written.
    Changed(&'static str),
}

impl fmt::Display for CheckpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckpointError::Io(error) => write!(f, "{error}"),
            CheckpointError::Redb(error) => write!(f, "{error}"),
            CheckpointError::Decode(error) => write!(f, "{error}"),
            CheckpointError::Seal(error) => write!(f, "{error}"),
            CheckpointError::Format(found) => write!(f, "format {found}, and this release reads {FORMAT}"),
            CheckpointError::Missing(what) => write!(f, "no {what} in it"),
            CheckpointError::Changed(what) => write!(f, "{what} not what was written"),
        }
    }
}

impl CheckpointError {
    pub(crate) fn is_full(&self) -> bool {
        let full = |error: &io::Error| error.kind() == io::ErrorKind::StorageFull;
        match self {
            CheckpointError::Io(error) => full(error),
            CheckpointError::Redb(error) => matches!(&**error, redb::Error::Io(error) if full(error)),
            _ => false,
        }
    }
}

impl<E: Into<redb::Error>> From<E> for CheckpointError {
    fn from(error: E) -> CheckpointError {
        CheckpointError::Redb(Box::new(error.into()))
    }
}

impl From<DecodeError> for CheckpointError {
    fn from(error: DecodeError) -> CheckpointError {
        CheckpointError::Decode(error)
    }
}

/// The file below redb.
struct Backend(Arc<dyn File>);

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FILE)
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.length()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

fn database(file: Arc<dyn File>) -> Result<Database, CheckpointError> {
    Ok(Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(Backend(file))?)
}

/// Makes the checkpoint of a new, empty store. Its final name appears last: it says that the
/// store exists.
pub(crate) fn create(disk: &dyn Disk, meta: &Meta) -> Result<(), CheckpointError> {
    let file = disk.create(NEW_FILE, Access::Cached).map_err(CheckpointError::Io)?;
    let database = database(file)?;
    let write = database.begin_write()?;
    write.open_table(OBJECTS)?;
    write_meta(&write, meta, Digest::default())?;
    write.commit()?;
    drop(database);
    disk.sync_names().map_err(CheckpointError::Io)?;
    disk.rename(NEW_FILE, FILE).map_err(CheckpointError::Io)?;
    disk.sync_names().map_err(CheckpointError::Io)
}

/// Whether there is a store.
pub(crate) fn exists(disk: &dyn Disk) -> Result<bool, CheckpointError> {
    Ok(disk.open(FILE, Access::Cached).map_err(CheckpointError::Io)?.is_some())
}

/// Opens the database and reads what the store knows about itself.
fn open(disk: &dyn Disk) -> Result<(Database, Meta, Option<Digest>), CheckpointError> {
    let file = disk.open(FILE, Access::Cached).map_err(CheckpointError::Io)?;
    let database = database(file.ok_or(CheckpointError::Missing(FILE))?)?;
    let (meta, digest) = read_meta(&database)?;
    Ok((database, meta, digest))
}

fn read_meta(database: &Database) -> Result<(Meta, Option<Digest>), CheckpointError> {
    let read = database.begin_read()?;
    let table = read.open_table(META)?;
    let found = |name: &'static str| -> Result<Option<Vec<u8>>, CheckpointError> {
        Ok(table.get(name)?.map(|entry| entry.value().to_vec()))
    };
    let bytes = |name| found(name)?.ok_or(CheckpointError::Missing(name));
    fn array<const N: usize>(bytes: Vec<u8>) -> Result<[u8; N], CheckpointError> {
        bytes.try_into().map_err(|_| CheckpointError::Decode(DecodeError::Short))
    }
    let number = |name| Ok::<u64, CheckpointError>(u64::from_le_bytes(array(bytes(name)?)?));
    let format = u32::from_le_bytes(array(bytes("format")?)?);
    let sums = found("digest")?;
    match (format, &sums) {
        (FORMAT, Some(_)) | (UNSUMMED, None) => {}
        (FORMAT | UNSUMMED, _) => return Err(CheckpointError::Changed("its format is")),
        _ => return Err(CheckpointError::Format(format)),
    }
    let id = StoreId { uuid: array(bytes("uuid")?)?, epoch: number("epoch")? };
    let volatile = decode_names(&bytes("volatile")?)?;
    let meta =
        Meta { id, key: array(bytes("key")?)?, covered: number("covered")?, ceiling: number("ceiling")?, volatile };
    let Some(sums) = sums else { return Ok((meta, None)) };
    let [rows, sum, checksum] = thirds(array(sums)?);
    let digest = Digest { rows, sum };
    match checksum == meta.checksum(digest) {
        true => Ok((meta, Some(digest))),
        false => Err(CheckpointError::Changed("its head is")),
    }
}

fn thirds(bytes: [u8; 24]) -> [u64; 3] {
    let mut numbers = [0; 3];
    for (number, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
        *number = bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
    }
    numbers
}

fn decode_names(bytes: &[u8]) -> Result<BTreeSet<Arc<str>>, DecodeError> {
    // Names are never sealed: any sealer reads them.
    let unsealed = Sealer::new(&[0; 32]);
    let mut decoder = Decoder::new(bytes, &unsealed);
    let mut names = BTreeSet::new();
    while !decoder.is_empty() {
        names.insert(Arc::from(decoder.string()?));
    }
    Ok(names)
}

impl Meta {
    /// uuid, epoch, key, covered, ceiling, names.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.id.uuid.to_vec();
        bytes.extend(self.id.epoch.to_le_bytes());
        bytes.extend(self.key);
        bytes.extend(self.covered.to_le_bytes());
        bytes.extend(self.ceiling.to_le_bytes());
        self.volatile.iter().for_each(|name| string(&mut bytes, name));
        bytes
    }

    /// What [`Meta::encode`] wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Meta, DecodeError> {
        let (uuid, rest) = bytes.split_first_chunk::<16>().ok_or(DecodeError::Short)?;
        let (numbers, names) = rest.split_first_chunk::<32>().ok_or(DecodeError::Short)?;
        let number = |at: usize| {
            let bytes = &numbers[at..at + 8];
            bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
        };
        let mut key = [0; 8];
        key.copy_from_slice(&numbers[8..16]);
        let id = StoreId { uuid: *uuid, epoch: number(0) };
        Ok(Meta { id, key, covered: number(16), ceiling: number(24), volatile: decode_names(names)? })
    }

    fn checksum(&self, digest: Digest) -> u64 {
        let mut bytes = self.encode();
        bytes.extend(digest.rows.to_le_bytes());
        bytes.extend(digest.sum.to_le_bytes());
        xxh64(u64::from(FORMAT), &bytes)
    }
}

fn write_meta(write: &redb::WriteTransaction, meta: &Meta, digest: Digest) -> Result<(), CheckpointError> {
    let mut table = write.open_table(META)?;
    let mut names = Vec::new();
    meta.volatile.iter().for_each(|name| string(&mut names, name));
    let number = |number: u64| number.to_le_bytes();
    let sums = [digest.rows, digest.sum, meta.checksum(digest)].map(u64::to_le_bytes);
    table.insert("format", &FORMAT.to_le_bytes()[..])?;
    table.insert("uuid", &meta.id.uuid[..])?;
    table.insert("epoch", &number(meta.id.epoch)[..])?;
    table.insert("key", &meta.key[..])?;
    table.insert("covered", &number(meta.covered)[..])?;
    table.insert("ceiling", &number(meta.ceiling)[..])?;
    table.insert("volatile", &names[..])?;
    table.insert("digest", sums.as_flattened())?;
    Ok(())
}

/// Who takes what a checkpoint holds.
pub(crate) trait Sink {
    type Error: From<CheckpointError>;
    /// Comes first.
    fn meta(&mut self, meta: Meta) -> Result<(), Self::Error>;
    /// A row as it is stored, in the order of keys.
    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), Self::Error>;
}

/// Reads everything, and checks that it is what was written.
pub(crate) fn read<S: Sink>(disk: &dyn Disk, sink: &mut S) -> Result<(), S::Error> {
    let (database, meta, expected) = open(disk)?;
    sink.meta(meta)?;
    let mut digest = Digest::default();
    each_row(&database, |key, value| {
        digest.add(key, value);
        // A tree whose pages point in a circle must not be read for ever.
        match expected {
            Some(expected) if digest.rows > expected.rows => Err(CheckpointError::Changed("its rows are").into()),
            _ => sink.row(key, value),
        }
    })?;
    match expected.is_none_or(|expected| expected == digest) {
        true => Ok(()),
        false => Err(CheckpointError::Changed("its rows are").into()),
    }
}

fn each_row<E: From<CheckpointError>>(
    database: &Database,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let read = database.begin_read().map_err(CheckpointError::from)?;
    let table = read.open_table(OBJECTS).map_err(CheckpointError::from)?;
    for entry in table.iter().map_err(CheckpointError::from)? {
        let (key, value) = entry.map_err(CheckpointError::from)?;
        each(key.value(), value.value())?;
    }
    Ok(())
}

/// Writes a batch in one transaction.
pub(crate) fn write(disk: &dyn Disk, sealer: &Sealer, batch: &Batch) -> Result<(), CheckpointError> {
    let (database, _, digest) = open(disk)?;
    let mut digest = match digest {
        Some(digest) => digest,
        None => sum(&database)?,
    };
    let write = database.begin_write()?;
    let mut table = write.open_table(OBJECTS)?;
    let (mut name, mut value) = (Vec::new(), Vec::new());
    for (key, row) in &batch.rows {
        name.clear();
        encode_key(&mut name, key);
        let old = match row {
            Some(row) => {
                value.clear();
                encode_row(&mut value, sealer, key, row).map_err(CheckpointError::Seal)?;
                digest.add(&name, &value);
                table.insert(&name[..], &value[..])?
            }
            None => table.remove(&name[..])?,
        };
        if let Some(old) = old {
            digest.remove(&name, old.value());
        }
    }
    drop(table);
    write_meta(&write, &batch.meta, digest)?;
    coracle_shared::fault::crash("checkpoint-crash");
    write.commit()?;
    Ok(())
}

/// The digest of a checkpoint of the format that had none.
fn sum(database: &Database) -> Result<Digest, CheckpointError> {
    let mut digest = Digest::default();
    each_row(database, |key, value| {
        digest.add(key, value);
        Ok::<(), CheckpointError>(())
    })?;
    Ok(digest)
}
