//! Backups: everything in one file, taken while the server works, and put back on an empty machine.
//!
//! | file | bytes |
//! |---|---|
//! | head | "CORACLEB", version u32, length u32, meta of the store |
//! | chunk | length u32, records as in the journal |
//! | end | 0 u32, number of records u64, SHA-256 (32) of everything before it |
//!
//! Secrets, and the files that ride along (the cluster's keys), are sealed with secret.key, which is
//! in no backup: without it a backup gives nothing away, and nothing back.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use ring::digest::{Context, SHA256};

use crate::embedded::OpenError;
use crate::embedded::build::{build, take_over};
use crate::embedded::checkpoint::Meta;
use crate::embedded::codec::{Decoder, Encoder, Record};
use crate::embedded::open::parse_key;
use crate::embedded::seal::Sealer;
use crate::image::Row;
use crate::{Key, Revision, StoreId};

const MAGIC: &[u8; 8] = b"CORACLEB";
const VERSION: u32 = 1;
/// A chunk is closed beyond this many bytes; a single record may be longer.
const CHUNK_BYTES: usize = 128 << 10;
/// No chunk is longer: the largest commit, sealed, and a chunk's rest.
const MAX_CHUNK: usize = 2 * crate::MAX_COMMIT_BYTES;
const SUM_BYTES: usize = 32;
/// The table of files that ride along.
const FILES: &str = "-file";
/// The uid under which they are sealed.
const FILE_UID: &str = "backup";

/// Revisions that a restored store leaves out at least: more than the lost one can have handed out
/// since the backup.
const JUMP: u64 = 1_000_000_000;
/// Revisions a second of wall time: faster than any store commits, so that two restores of one
/// backup never hand out the same ones.
const PER_SECOND: u64 = 1_000_000;

/// A backup being written: an iterator over its bytes.
pub struct Snapshot {
    sealer: Arc<Sealer>,
    rows: std::vec::IntoIter<(Key, Row)>,
    sum: Context,
    records: u64,
    next: Next,
}

enum Next {
    Head(Meta),
    Rows,
    End,
    Nothing,
}

impl Snapshot {
    pub(crate) fn new(
        id: StoreId,
        revision: Revision,
        sealer: Arc<Sealer>,
        mut rows: Vec<(Key, Row)>,
        files: &[(String, Vec<u8>)],
    ) -> Snapshot {
        for (name, bytes) in files {
            let seal = Some(FILE_UID.into());
            let value = bytes.as_slice().into();
            let row = Row { revision: Revision(0), schema: 0, value, seal, stored: true };
            rows.push((Key::new(FILES, "", name.as_str()), row));
        }
        let meta = Meta { id, key: sealer.id(), covered: 0, ceiling: revision.0 + 1, volatile: BTreeSet::new() };
        Snapshot { sealer, rows: rows.into_iter(), sum: Context::new(&SHA256), records: 0, next: Next::Head(meta) }
    }

    fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; 4];
        while bytes.len() < CHUNK_BYTES {
            let Some((key, row)) = self.rows.next() else { break };
            let mut encoder = Encoder { bytes: &mut bytes, sealer: &self.sealer };
            encoder.put(&key, &row).map_err(|error| io::Error::other(format!("{key}: {error}")))?;
            self.records += 1;
        }
        let length = (bytes.len() - 4) as u32;
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        Ok((length > 0).then_some(bytes))
    }
}

impl Iterator for Snapshot {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<io::Result<Vec<u8>>> {
        let bytes = match std::mem::replace(&mut self.next, Next::Rows) {
            Next::Head(meta) => {
                let meta = meta.encode();
                [MAGIC, &VERSION.to_le_bytes()[..], &(meta.len() as u32).to_le_bytes(), &meta].concat()
            }
            Next::Rows => match self.chunk() {
                Ok(Some(bytes)) => bytes,
                Ok(None) => {
                    self.next = Next::End;
                    return self.next();
                }
                Err(error) => {
                    self.next = Next::Nothing;
                    return Some(Err(error));
                }
            },
            Next::End => {
                self.next = Next::Nothing;
                let end = [&0u32.to_le_bytes()[..], &self.records.to_le_bytes()].concat();
                self.sum.update(&end);
                return Some(Ok([&end[..], self.sum.clone().finish().as_ref()].concat()));
            }
            Next::Nothing => {
                self.next = Next::Nothing;
                return None;
            }
        };
        self.sum.update(&bytes);
        Some(Ok(bytes))
    }
}

/// Why a backup was not restored.
#[derive(Debug)]
pub enum RestoreError {
    Io {
        what: &'static str,
        source: io::Error,
    },
    /// Not a backup, cut off, or changed.
    Damaged(&'static str),
    Version(u32),
    /// It was made with another secret.key.
    Key,
    /// The key file is none.
    NoKey(String),
    /// There is a store already.
    Occupied,
    Store(OpenError),
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RestoreError::Io { what, source } => write!(f, "{what}: {source}"),
            RestoreError::Damaged(what) => write!(f, "the backup is damaged: {what}; nothing was restored"),
            RestoreError::Version(found) => {
                write!(f, "the backup has version {found}: use the release that made it or a newer one")
            }
            RestoreError::Key => write!(f, "the backup was made with another secret.key: give the one of its day"),
            RestoreError::NoKey(why) => write!(f, "the key file: {why}"),
            RestoreError::Occupied => {
                write!(f, "the state directory holds a store already: move its `store` aside, or restore elsewhere")
            }
            RestoreError::Store(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for RestoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RestoreError::Io { source, .. } => Some(source),
            RestoreError::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl From<OpenError> for RestoreError {
    fn from(error: OpenError) -> RestoreError {
        RestoreError::Store(error)
    }
}

/// A backup that was read and found whole, not yet in any place.
pub struct Backup {
    meta: Meta,
    key: [u8; 32],
    rows: Vec<(Key, Option<Row>)>,
    /// The files that rode along, by name.
    pub files: Vec<(String, Vec<u8>)>,
}

/// Reads a backup to its end and checks it. `key` is the text of the secret.key of its day.
pub fn read(file: &Path, key: &[u8]) -> Result<Backup, RestoreError> {
    let key = parse_key(key).ok_or_else(|| RestoreError::NoKey("it is not 64 hexadecimal digits".into()))?;
    let opened = File::open(file).map_err(|source| RestoreError::Io { what: "opening the backup", source })?;
    let mut source = Source { file: BufReader::new(opened), sum: Context::new(&SHA256) };
    let head = source.take(16)?;
    let (magic, numbers) = head.split_at(8);
    if magic != MAGIC {
        return Err(RestoreError::Damaged("it does not begin as one"));
    }
    let version = u32_at(numbers, 0);
    if version != VERSION {
        return Err(RestoreError::Version(version));
    }
    let meta = Meta::decode(&source.chunk(u32_at(numbers, 4))?).map_err(|_| RestoreError::Damaged("its head"))?;
    let sealer = Sealer::new(&key);
    if sealer.id() != meta.key {
        // What is damaged may look like another key: the sum knows.
        source.rest()?;
        return Err(RestoreError::Key);
    }
    let mut backup = Backup { meta, key, rows: Vec::new(), files: Vec::new() };
    loop {
        let length = u32_at(&source.take(4)?, 0);
        if length == 0 {
            break;
        }
        backup.take(&source.chunk(length)?, &sealer)?;
    }
    let records = source.take(8)?.iter().rev().fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    source.check()?;
    match records == (backup.rows.len() + backup.files.len()) as u64 {
        true => Ok(backup),
        false => Err(RestoreError::Damaged("records are missing")),
    }
}

impl Backup {
    fn take(&mut self, chunk: &[u8], sealer: &Sealer) -> Result<(), RestoreError> {
        let mut decoder = Decoder::new(chunk, sealer);
        let damaged = |_| RestoreError::Damaged("a record cannot be read");
        while let Some(record) = decoder.record().map_err(damaged)? {
            match record {
                Record::Put(key, row) if &*key.resource == FILES => {
                    self.files.push((key.name.to_string(), row.value.to_vec()));
                }
                Record::Put(key, row) => self.rows.push((key, Some(row))),
                _ => return Err(RestoreError::Damaged("a record of another kind")),
            }
        }
        Ok(())
    }

    /// Makes the store in `store` of it, with a higher epoch and revisions beyond any that the lost
    /// one handed out, so that no watch goes on as if nothing had happened. `keep` says which
    /// objects come back; how many did. `now` is in seconds since the Unix epoch.
    pub fn restore(self, store: &Path, now: u64, keep: impl Fn(&Key) -> bool) -> Result<usize, RestoreError> {
        if store.exists() {
            return Err(RestoreError::Occupied);
        }
        let mut meta = self.meta;
        // By the time of day too: a backup may be restored twice, and each life is another one.
        meta.id.epoch = (meta.id.epoch + 1).max(now);
        meta.ceiling = (meta.ceiling + JUMP).max(now * PER_SECOND);
        let rows: Vec<_> = self.rows.into_iter().filter(|(key, _)| keep(key)).collect();
        let count = rows.len();
        build(store, &self.key, meta, rows)?;
        take_over(store)?;
        Ok(count)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// A backup's file and the sum of what was read of it.
struct Source {
    file: BufReader<File>,
    sum: Context,
}

impl Source {
    fn take(&mut self, length: usize) -> Result<Vec<u8>, RestoreError> {
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        self.sum.update(&bytes);
        Ok(bytes)
    }

    fn chunk(&mut self, length: u32) -> Result<Vec<u8>, RestoreError> {
        match length as usize {
            length @ 0..=MAX_CHUNK => self.take(length),
            _ => Err(RestoreError::Damaged("a chunk is longer than any can be")),
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), RestoreError> {
        self.file.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => RestoreError::Damaged("it ends early"),
            _ => RestoreError::Io { what: "reading the backup", source: error },
        })
    }

    /// Reads everything up to the sum, and checks it.
    fn rest(&mut self) -> Result<(), RestoreError> {
        loop {
            let length = u32_at(&self.take(4)?, 0);
            if length == 0 {
                self.take(8)?;
                return self.check();
            }
            self.chunk(length)?;
        }
    }

    fn check(&mut self) -> Result<(), RestoreError> {
        let mut sum = [0; SUM_BYTES];
        self.fill(&mut sum)?;
        let mut beyond = [0];
        let more = self.file.read(&mut beyond);
        let more = more.map_err(|source| RestoreError::Io { what: "reading the backup", source })?;
        match more == 0 && self.sum.clone().finish().as_ref() == sum {
            true => Ok(()),
            false => Err(RestoreError::Damaged("its checksum is not right")),
        }
    }
}
