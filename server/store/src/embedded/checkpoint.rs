//! The checkpoint: a redb file with every object as of the end of a journal segment.
//!
//! It is open only while it is read at a start or written in a batch, so that the server keeps no
//! page of it in memory. Tables of version 1: `objects` (see [`super::codec`]) and `meta` with
//! `format` u32, `uuid` (16), `epoch` u64, `key` (8, the id of secret.key), `covered` u64 (the
//! newest journal segment that is in it), `ceiling` u64 (revisions below may have been handed
//! out), `volatile` (strings).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};

use super::codec::{DecodeError, Decoder, decode_key, encode_key, encode_row, string};
use super::disk::{Access, Disk, File};
use super::seal::{SealError, Sealer};
use crate::image::{Row, RowKey};
use crate::{Key, StoreId};

pub(crate) const FILE: &str = "store.redb";
const NEW_FILE: &str = "store.redb.new";
const FORMAT: u32 = 1;
/// Pages of redb in memory while a checkpoint is read or written: keys come in order, so that
/// each page is touched once.
const CACHE_BYTES: usize = 2 << 20;

const OBJECTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("objects");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// Rows by resource.
pub(crate) type Rows = BTreeMap<Arc<str>, BTreeMap<RowKey, Row>>;

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
    write_meta(&write, meta)?;
    write.commit()?;
    drop(database);
    disk.sync_names().map_err(CheckpointError::Io)?;
    disk.rename(NEW_FILE, FILE).map_err(CheckpointError::Io)?;
    disk.sync_names().map_err(CheckpointError::Io)
}

/// Reads what the store knows about itself; `None` when there is no store.
pub(crate) fn open(disk: &dyn Disk) -> Result<Option<(Database, Meta)>, CheckpointError> {
    let Some(file) = disk.open(FILE, Access::Cached).map_err(CheckpointError::Io)? else { return Ok(None) };
    let database = database(file)?;
    let meta = read_meta(&database)?;
    Ok(Some((database, meta)))
}

fn read_meta(database: &Database) -> Result<Meta, CheckpointError> {
    let read = database.begin_read()?;
    let table = read.open_table(META)?;
    let bytes = |name: &'static str| -> Result<Vec<u8>, CheckpointError> {
        Ok(table.get(name)?.ok_or(CheckpointError::Missing(name))?.value().to_vec())
    };
    fn array<const N: usize>(bytes: Vec<u8>) -> Result<[u8; N], CheckpointError> {
        bytes.try_into().map_err(|_| CheckpointError::Decode(DecodeError::Short))
    }
    let number = |name| Ok::<u64, CheckpointError>(u64::from_le_bytes(array(bytes(name)?)?));
    let format = u32::from_le_bytes(array(bytes("format")?)?);
    if format != FORMAT {
        return Err(CheckpointError::Format(format));
    }
    let id = StoreId { uuid: array(bytes("uuid")?)?, epoch: number("epoch")? };
    let names = bytes("volatile")?;
    // Names are never sealed: any sealer reads them.
    let unsealed = Sealer::new(&[0; 32]);
    let mut decoder = Decoder::new(&names, &unsealed);
    let mut volatile = BTreeSet::new();
    while !decoder.is_empty() {
        volatile.insert(Arc::from(decoder.string()?));
    }
    Ok(Meta { id, key: array(bytes("key")?)?, covered: number("covered")?, ceiling: number("ceiling")?, volatile })
}

fn write_meta(write: &redb::WriteTransaction, meta: &Meta) -> Result<(), CheckpointError> {
    let mut table = write.open_table(META)?;
    let mut names = Vec::new();
    meta.volatile.iter().for_each(|name| string(&mut names, name));
    let number = |number: u64| number.to_le_bytes();
    table.insert("format", &FORMAT.to_le_bytes()[..])?;
    table.insert("uuid", &meta.id.uuid[..])?;
    table.insert("epoch", &number(meta.id.epoch)[..])?;
    table.insert("key", &meta.key[..])?;
    table.insert("covered", &number(meta.covered)[..])?;
    table.insert("ceiling", &number(meta.ceiling)[..])?;
    table.insert("volatile", &names[..])?;
    Ok(())
}

/// Reads every object.
pub(crate) fn load(database: &Database, sealer: &Sealer) -> Result<Rows, CheckpointError> {
    let read = database.begin_read()?;
    let table = read.open_table(OBJECTS)?;
    let mut loading = Loading::default();
    for entry in table.iter()? {
        let (key, value) = entry?;
        let [resource, namespace, name] = decode_key(key.value())?;
        let key = loading.key(resource, namespace, name);
        let row = Decoder::new(value.value(), sealer).row(&key)?;
        loading.rows.push((RowKey { namespace: key.namespace, name: key.name }, row));
    }
    Ok(loading.finish())
}

/// Gathers rows that come in key order, sharing the names that repeat.
#[derive(Default)]
struct Loading {
    done: Rows,
    resource: Arc<str>,
    namespace: Arc<str>,
    rows: Vec<(RowKey, Row)>,
}

impl Loading {
    fn key(&mut self, resource: &str, namespace: &str, name: &str) -> Key {
        if *self.resource != *resource {
            self.flush();
            self.resource = resource.into();
        }
        if *self.namespace != *namespace {
            self.namespace = namespace.into();
        }
        Key { resource: self.resource.clone(), namespace: self.namespace.clone(), name: name.into() }
    }

    fn flush(&mut self) {
        let rows = std::mem::take(&mut self.rows);
        if !rows.is_empty() {
            self.done.insert(self.resource.clone(), rows.into_iter().collect());
        }
    }

    fn finish(mut self) -> Rows {
        self.flush();
        self.done
    }
}

/// Writes a batch in one transaction.
pub(crate) fn write(disk: &dyn Disk, sealer: &Sealer, batch: &Batch) -> Result<(), CheckpointError> {
    let (database, _) = open(disk)?.ok_or(CheckpointError::Missing(FILE))?;
    let write = database.begin_write()?;
    let mut table = write.open_table(OBJECTS)?;
    let (mut name, mut value) = (Vec::new(), Vec::new());
    for (key, row) in &batch.rows {
        name.clear();
        encode_key(&mut name, key);
        match row {
            Some(row) => {
                value.clear();
                encode_row(&mut value, sealer, key, row).map_err(CheckpointError::Seal)?;
                table.insert(&name[..], &value[..])?;
            }
            None => drop(table.remove(&name[..])?),
        }
    }
    drop(table);
    write_meta(&write, &batch.meta)?;
    coracle_shared::fault::crash("checkpoint-crash");
    write.commit()?;
    Ok(())
}
