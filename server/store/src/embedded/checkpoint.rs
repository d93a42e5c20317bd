//! The checkpoint: a redb file with every object as of the end of a journal segment.
//!
//! After a failed sync a file may show what the disk does not have, and what no later sync writes:
//! it is never built upon. The file [`MARK`] stands beside it from before it is opened until it is
//! closed with nothing gone wrong; when it is found, or when something went wrong, the checkpoint
//! is made anew from memory in another file, and until that is done no journal segment goes.
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

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::backend::{Backend, database};
use super::codec::{DecodeError, Decoder, encode_key, encode_row, string};
use super::digest::Digest;
use super::disk::{Access, Disk};
use super::seal::{SealError, Sealer};
use super::xxh64::xxh64;
use crate::image::Row;
use crate::{Key, StoreId};

pub(crate) const FILE: &str = "store.redb";
const NEW_FILE: &str = "store.redb.new";
/// Stands beside the checkpoint while it is open, and after that if something went wrong.
const MARK: &str = "store.redb.unclean";
/// Bytes that are written again at once.
const AGAIN_BYTES: usize = 64 << 10;
const FORMAT: u32 = 2;
/// The format before rows had a digest.
const UNSUMMED: u32 = 1;

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
    /// The rows are all there are, for a file made anew.
    pub whole: bool,
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
    /// Something went wrong with it before; it is not built upon.
    Doubted,
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
            CheckpointError::Doubted => write!(f, "a sync of it failed before, and it is to be made anew"),
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

/// Makes a checkpoint in a new file, which then takes the place of any there is. Its final name
/// appears last: for a new store it says that the store exists.
pub(crate) fn make(disk: &dyn Disk, sealer: &Sealer, batch: &Batch) -> Result<(), CheckpointError> {
    let made = fill(disk, sealer, batch);
    if made.is_err() {
        // Its space may be all there is; the next attempt replaces it anyhow.
        let _ = disk.remove(NEW_FILE);
    }
    made?;
    disk.sync_names().map_err(CheckpointError::Io)?;
    disk.rename(NEW_FILE, FILE).map_err(CheckpointError::Io)?;
    disk.sync_names().map_err(CheckpointError::Io)?;
    unmark(disk)
}

fn fill(disk: &dyn Disk, sealer: &Sealer, batch: &Batch) -> Result<(), CheckpointError> {
    let (backend, health) = Backend::new(disk.create(NEW_FILE, Access::Cached).map_err(CheckpointError::Io)?);
    let database = database(backend)?;
    put_batch(&database, sealer, batch, Digest::default())?;
    drop(database);
    health.check()
}

/// On a disk without room for a second file: what the file shows is written once more and synced.
/// A power cut meanwhile finds bytes that were overwritten with themselves.
pub(crate) fn write_again(disk: &dyn Disk) -> Result<(), CheckpointError> {
    let file = disk.open(FILE, Access::Cached).map_err(CheckpointError::Io)?.ok_or(CheckpointError::Missing(FILE))?;
    let rewrite = || {
        let (mut at, end) = (0, file.length()?);
        let mut piece = vec![0; AGAIN_BYTES];
        while at < end {
            let piece = &mut piece[..(end - at).min(AGAIN_BYTES as u64) as usize];
            file.read(at, piece)?;
            file.write(at, piece)?;
            at += piece.len() as u64;
        }
        file.sync()
    };
    rewrite().map_err(CheckpointError::Io)?;
    let (backend, health) = Backend::new(file.clone());
    let mut database = database(backend)?;
    // Some of it may have left the cache since, and what was read then is what the disk had.
    let whole = database.check_integrity()?;
    drop(database);
    health.check()?;
    if whole { unmark(disk) } else { Err(CheckpointError::Changed("its pages are")) }
}

/// Whether there is a store.
pub(crate) fn exists(disk: &dyn Disk) -> Result<bool, CheckpointError> {
    Ok(disk.open(FILE, Access::Cached).map_err(CheckpointError::Io)?.is_some())
}

/// Whether the file may show what is not on the disk.
pub(crate) fn is_doubted(disk: &dyn Disk) -> io::Result<bool> {
    Ok(disk.open(MARK, Access::Cached)?.is_some())
}

fn unmark(disk: &dyn Disk) -> Result<(), CheckpointError> {
    disk.remove(MARK).map_err(CheckpointError::Io)
}

/// Works with the database, marked while it is open. The mark need not be durable: a power cut
/// takes along what the file showed and the disk did not have.
fn with<T, E: From<CheckpointError>>(disk: &dyn Disk, work: impl FnOnce(Database) -> Result<T, E>) -> Result<T, E> {
    let doubted = is_doubted(disk).map_err(CheckpointError::Io)?;
    let file = disk.open(FILE, Access::Cached).map_err(CheckpointError::Io)?;
    let (backend, health) = Backend::new(file.ok_or(CheckpointError::Missing(FILE))?);
    if !doubted {
        disk.create(MARK, Access::Cached).map_err(CheckpointError::Io)?;
    }
    let result = database(backend).map_err(E::from).and_then(work);
    match health.check() {
        Ok(()) if doubted => result,
        Ok(()) => {
            let unmarked = unmark(disk);
            let value = result?;
            unmarked?;
            Ok(value)
        }
        // What the work says of it tells more.
        Err(unhealthy) => result.and_then(|_| Err(unhealthy.into())),
    }
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
    with(disk, |database| read_from(&database, sink))
}

fn read_from<S: Sink>(database: &Database, sink: &mut S) -> Result<(), S::Error> {
    let (meta, expected) = read_meta(database)?;
    sink.meta(meta)?;
    let mut digest = Digest::default();
    each_row(database, |key, value| {
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

/// Writes a batch: into the checkpoint that there is, or all anew.
pub(crate) fn write(disk: &dyn Disk, sealer: &Sealer, batch: &Batch) -> Result<(), CheckpointError> {
    if batch.whole {
        return make(disk, sealer, batch);
    }
    if is_doubted(disk).map_err(CheckpointError::Io)? {
        return Err(CheckpointError::Doubted);
    }
    with(disk, |database| {
        let digest = match read_meta(&database)?.1 {
            Some(digest) => digest,
            None => sum(&database)?,
        };
        put_batch(&database, sealer, batch, digest)
    })
}

/// One transaction, on top of what has this digest.
fn put_batch(database: &Database, sealer: &Sealer, batch: &Batch, mut digest: Digest) -> Result<(), CheckpointError> {
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
