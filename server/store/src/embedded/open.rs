//! Opening a store: read the checkpoint, replay the journal, begin a new block of revisions.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use ring::rand::{SecureRandom, SystemRandom};

use super::checkpoint::{self, Batch, CheckpointError, Meta};
use super::codec::{Decoder, Encoder, Record, split};
use super::dirty::Dirty;
use super::disk::{Access, Disk};
use super::journal::{self, Found, Header, Journal, JournalError, MAX_FULL, ScanError, Segment};
use super::load::{Loaded, Loader, Rows};
use super::reader;
use super::seal::{KEY_BYTES, Sealer};
use super::space::{Base, RESERVE_FILE, provide_reserve, write_checkpoint};
use super::writer::{REVISION_BLOCK, next_block};
use super::{OpenError, Options};
use crate::image::Image;
use crate::{Key, Revision, StoreId};

pub(crate) const KEY_FILE: &str = "secret.key";
const NEW_KEY_FILE: &str = "secret.key.new";

/// A store that is ready to be written.
pub(crate) struct Opened {
    pub base: Base,
    pub image: Image,
    pub journal: Journal,
    pub meta: Meta,
    pub dirty: (Dirty, Dirty),
}

pub(crate) fn open(disk: Arc<dyn Disk>, options: &Options) -> Result<Opened, OpenError> {
    let random = SystemRandom::new();
    if !checkpoint::exists(&*disk).map_err(checkpoint_error)? {
        create(&disk, options, &random)?;
    }
    // The names that an attempt before left may be visible and not yet durable.
    disk.sync_names().map_err(|error| io_error(".", "syncing the directory", error))?;
    let doubted = checkpoint::is_doubted(&*disk).map_err(|error| io_error(checkpoint::FILE, "looking at", error))?;
    let loaded = load(&*disk, options).or_else(|error| match error {
        // Mending what a crash left takes a few pages; the reserve is made again below.
        OpenError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
            disk.remove(RESERVE_FILE).map_err(|error| io_error(RESERVE_FILE, "removing", error))?;
            load(&*disk, options)
        }
        error => Err(error),
    });
    let Loaded { mut meta, sealer, rows } = loaded?;
    let mut replay = Replay { rows, sealer: &sealer, meta: &mut meta, newest: 0, dirty: Dirty::default() };
    let segments = replay.segments(&*disk)?;
    let (newest, dirty) = (replay.newest, replay.dirty);
    let rows = std::mem::take(&mut replay.rows);
    meta.ceiling = meta.ceiling.max(newest + 1);
    let start = next_block(meta.ceiling);
    meta.ceiling = start.0 + REVISION_BLOCK;
    let (live, free, (current, last)) = segments;
    // Before a checkpoint has what it says: replaying the frames before it would undo half of it.
    current.rewrite(last)?;
    let image = image(rows, start, &meta.volatile, options);
    let base = Base { disk, sealer, reserve_bytes: options.reserve_bytes, log: options.log.clone() };
    // Nor can the journal go on when all its segments wait for a checkpoint.
    if doubted || live.len() >= MAX_FULL {
        let newest = live.last().map_or(meta.covered, |(segment, _)| segment.header.sequence);
        renew(&base, &image, &mut meta, newest)?;
    }
    let disk = base.disk.clone();
    let mut journal = Journal::resume(disk, random_u64, options.segment_bytes, live, free, current)?;
    journal.covered(meta.covered);
    provide_reserve(&base).or_else(|error| match error.kind() {
        // A full disk must not keep the store from opening: deletes are what mends it.
        io::ErrorKind::StorageFull => Ok(()),
        _ => Err(io_error("reserve", "reserving space", error)),
    })?;
    let dirty = begin_block(&mut journal, &base.sealer, meta.ceiling, dirty)?;
    Ok(Opened { base, image, journal, meta, dirty })
}

fn load(disk: &dyn Disk, options: &Options) -> Result<Loaded, OpenError> {
    let mut loader = Loader::new(disk);
    match &options.reader {
        Some(reader) => reader::read(reader, &mut loader)?,
        None => checkpoint::read(disk, &mut loader)?,
    }
    loader.finish()
}

/// Makes the checkpoint anew that the process before may not have got to the disk as it reads;
/// segments that it covers are free only then. Now it covers `newest`.
fn renew(base: &Base, image: &Image, meta: &mut Meta, newest: u64) -> Result<(), OpenError> {
    (base.log)(&format!("store: {}: the last checkpoint did not end well: it is made anew", base.disk.place()));
    let rows = image.rows().map(|(key, row)| (key, Some(row.clone()))).collect();
    let renewed = Meta { covered: newest, ..meta.clone() };
    match write_checkpoint(base, &Batch { rows, meta: renewed, whole: true }) {
        Ok(()) => meta.covered = newest,
        // There is no room, and what is there was made certain of: deletes are what mends it.
        Err(error) if error.is_full() && checkpoint::is_doubted(&*base.disk).is_ok_and(|doubted| !doubted) => {}
        Err(error) => return Err(checkpoint_error(error)),
    }
    Ok(())
}

/// Promises on disk that no revision from the new ceiling on was handed out.
fn begin_block(
    journal: &mut Journal,
    sealer: &Sealer,
    ceiling: u64,
    dirty: Dirty,
) -> Result<(Dirty, Dirty), OpenError> {
    let mut payload = Vec::new();
    Encoder { bytes: &mut payload, sealer }.ceiling(ceiling);
    if !journal.has_room(payload.len()) {
        journal.rotate()?;
    }
    journal.append(&payload)?;
    // Keys of full segments and of the current one are not told apart: each set has them all.
    let full = match journal.newest_full() {
        Some(_) => Dirty { keys: dirty.keys.clone(), bytes: dirty.bytes },
        None => Dirty::default(),
    };
    Ok((dirty, full))
}

/// Objects of resources with volatile ones carry a revision of the new block: a newer version of
/// them, with a higher revision, may have been seen and lost.
fn image(rows: Rows, start: Revision, volatile: &BTreeSet<Arc<str>>, options: &Options) -> Image {
    let mut image = Image::new(start, options.clock.clone());
    for (resource, mut rows) in rows {
        if volatile.contains(&resource) {
            rows.values_mut().for_each(|row| row.revision = start);
        }
        image.load(resource, rows);
    }
    image
}

/// Makes an empty store. A power cut in the middle leaves no store, and this runs again.
fn create(disk: &Arc<dyn Disk>, options: &Options, random: &SystemRandom) -> Result<(), OpenError> {
    for found in journal::find(&**disk)? {
        let Some(header) = found.header else { continue };
        let nothing = |_: &[u8]| Err(damaged(checkpoint::FILE, "it is missing, and a journal of it is there"));
        found.read(header, None, nothing)?;
    }
    let names = disk.list().map_err(|error| io_error(".", "listing the directory", error))?;
    for name in names.iter().filter(|name| name.starts_with("journal.")) {
        disk.remove(name).map_err(|error| io_error(name, "removing", error))?;
    }
    let sealer = match read_key(&**disk)? {
        Some(sealer) => sealer,
        None => new_key(&**disk, random)?,
    };
    let mut uuid = [0; 16];
    random.fill(&mut uuid).map_err(|_| io_error(KEY_FILE, "drawing random bytes", io::Error::other("none")))?;
    // A random (version 4) UUID of RFC 9562.
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    Journal::create(disk.clone(), random_u64, options.segment_bytes, uuid)?;
    let id = StoreId { uuid, epoch: 1 };
    let meta = Meta { id, key: sealer.id(), covered: 0, ceiling: 0, volatile: BTreeSet::new() };
    let empty = Batch { rows: Vec::new(), meta, whole: true };
    checkpoint::make(&**disk, &sealer, &empty).map_err(checkpoint_error)
}

pub(crate) fn random_u64() -> io::Result<u64> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("the system gives no randomness"))?;
    Ok(u64::from_le_bytes(bytes))
}

/// The secret key: 64 hexadecimal digits and a newline.
pub(crate) fn read_key(disk: &dyn Disk) -> Result<Option<Sealer>, OpenError> {
    let io_error = |error| io_error(KEY_FILE, "reading", error);
    let Some(file) = disk.open(KEY_FILE, Access::Cached).map_err(io_error)? else { return Ok(None) };
    let length = file.length().map_err(io_error)?.min(256);
    let mut text = vec![0; length as usize];
    file.read(0, &mut text).map_err(io_error)?;
    let key = parse_key(&text);
    key.map(|key| Some(Sealer::new(&key))).ok_or_else(|| damaged(KEY_FILE, "it is not 64 hexadecimal digits"))
}

/// The key in the text of a secret.key.
pub(crate) fn parse_key(text: &[u8]) -> Option<[u8; KEY_BYTES]> {
    let text = text.trim_ascii_end();
    (text.len() == 2 * KEY_BYTES).then(|| decode_hex(text)).flatten()
}

fn decode_hex(text: &[u8]) -> Option<[u8; KEY_BYTES]> {
    let mut key = [0; KEY_BYTES];
    for (byte, digits) in key.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        *byte = (digit(0)? * 16 + digit(1)?) as u8;
    }
    Some(key)
}

fn new_key(disk: &dyn Disk, random: &SystemRandom) -> Result<Sealer, OpenError> {
    let mut key = [0; KEY_BYTES];
    random.fill(&mut key).map_err(|_| io_error(KEY_FILE, "drawing random bytes", io::Error::other("none")))?;
    write_key(disk, &key)?;
    Ok(Sealer::new(&key))
}

pub(crate) fn write_key(disk: &dyn Disk, key: &[u8; KEY_BYTES]) -> Result<(), OpenError> {
    let mut text: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    text.push('\n');
    let write = || {
        let file = disk.create(NEW_KEY_FILE, Access::Cached)?;
        file.write(0, text.as_bytes())?;
        file.sync()?;
        disk.sync_names()?;
        disk.rename(NEW_KEY_FILE, KEY_FILE)?;
        disk.sync_names()
    };
    write().map_err(|error| io_error(KEY_FILE, "writing", error))
}

/// Full segments (with where their last frame began), files that are free, and the newest segment.
type Segments = (Vec<(Segment, Option<u64>)>, Vec<Found>, (Segment, Option<u64>));

/// The state while frames are replayed.
struct Replay<'a> {
    rows: Rows,
    sealer: &'a Sealer,
    meta: &'a mut Meta,
    newest: u64,
    dirty: Dirty,
}

impl Replay<'_> {
    /// Replays every segment that the checkpoint does not cover, oldest first.
    fn segments(&mut self, disk: &dyn Disk) -> Result<Segments, OpenError> {
        self.newest = self.rows.values().flat_map(|rows| rows.values()).map(|row| row.revision.0).max().unwrap_or(0);
        let mut free = Vec::new();
        let mut known: HashMap<u64, (Found, Header)> = HashMap::new();
        for found in journal::find(disk)? {
            match found.header {
                Some(header) if header.uuid != self.meta.id.uuid => {
                    return Err(damaged("journal.*", "one of them belongs to another store"));
                }
                Some(header) if header.sequence > self.meta.covered => {
                    known.insert(header.sequence, (found, header));
                }
                _ => free.push(found),
            }
        }
        let mut chain = self.chain(&mut known)?;
        free.extend(known.into_values().map(|(found, _)| found));
        let (found, header) = chain.pop().ok_or_else(|| damaged("journal.*", "the newest is missing"))?;
        let mut live = Vec::new();
        let ends = chain.iter().skip(1).map(|(_, header)| header.previous_end).chain([header.previous_end]);
        let ends: Vec<u64> = ends.collect();
        for ((found, header), end) in chain.into_iter().zip(ends) {
            live.push(found.read(header, Some(end), |payload| self.frame(payload))?);
        }
        let current = found.read(header, None, |payload| self.frame(payload))?;
        Ok((live, free, current))
    }

    /// The segments from the checkpoint on, oldest first, found by their predecessors from the newest.
    fn chain(&self, known: &mut HashMap<u64, (Found, Header)>) -> Result<Vec<(Found, Header)>, OpenError> {
        let mut chain = Vec::new();
        let mut wanted = known.keys().copied().max();
        while let Some(sequence) = wanted {
            let segment = known.remove(&sequence);
            let segment =
                segment.ok_or_else(|| damaged("journal.*", "one between the checkpoint and the newest is missing"))?;
            let previous = segment.1.previous;
            wanted = (previous > self.meta.covered && previous < sequence).then_some(previous);
            chain.push(segment);
        }
        chain.reverse();
        Ok(chain)
    }

    fn frame(&mut self, payload: &[u8]) -> Result<(), OpenError> {
        let mut decoder = Decoder::new(payload, self.sealer);
        let decode = |error| damaged("journal.*", &format!("a frame cannot be read: {error}"));
        while let Some(record) = decoder.record().map_err(decode)? {
            match record {
                Record::Put(key, row) => {
                    self.note(&key, row.revision, row.value.len());
                    let (resource, key) = split(key);
                    self.rows.entry(resource).or_default().insert(key, row);
                }
                Record::Delete(key, revision) => {
                    self.note(&key, revision, 0);
                    let (resource, key) = split(key);
                    if let Some(rows) = self.rows.get_mut(&resource) {
                        rows.remove(&key);
                    }
                }
                Record::Ceiling(ceiling) => self.meta.ceiling = self.meta.ceiling.max(ceiling),
                Record::Volatile(resource) => drop(self.meta.volatile.insert(resource)),
            }
        }
        Ok(())
    }

    fn note(&mut self, key: &Key, revision: Revision, bytes: usize) {
        self.newest = self.newest.max(revision.0);
        self.dirty.bytes += bytes as u64;
        self.dirty.keys.insert(key.clone());
    }
}

pub(crate) fn damaged(file: &str, what: &str) -> OpenError {
    OpenError::Damaged { file: file.to_string(), what: what.to_string() }
}

fn io_error(file: &str, what: &'static str, source: io::Error) -> OpenError {
    OpenError::Io { file: file.to_string(), what, source }
}

pub(crate) fn checkpoint_error(error: CheckpointError) -> OpenError {
    match error {
        CheckpointError::Io(source) => io_error(checkpoint::FILE, "reading or writing", source),
        CheckpointError::Format(found) => OpenError::Format { file: checkpoint::FILE.to_string(), found },
        CheckpointError::Redb(error) => match *error {
            // How the database says that the file is not its own, or is too short.
            redb::Error::Io(source)
                if matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                damaged(checkpoint::FILE, &source.to_string())
            }
            redb::Error::Io(source) => io_error(checkpoint::FILE, "reading or writing", source),
            error => damaged(checkpoint::FILE, &error.to_string()),
        },
        error => damaged(checkpoint::FILE, &error.to_string()),
    }
}

impl From<CheckpointError> for OpenError {
    fn from(error: CheckpointError) -> OpenError {
        checkpoint_error(error)
    }
}

impl From<JournalError> for OpenError {
    fn from(error: JournalError) -> OpenError {
        OpenError::Io { file: error.file, what: error.what, source: error.source }
    }
}

impl From<ScanError> for OpenError {
    fn from(error: ScanError) -> OpenError {
        match error {
            ScanError::Journal(error) => error.into(),
            ScanError::Version { file, found } => OpenError::Format { file, found },
            ScanError::Damaged { file, offset } => {
                damaged(&file, &format!("the frame at byte {offset} is broken and is not its end"))
            }
        }
    }
}
