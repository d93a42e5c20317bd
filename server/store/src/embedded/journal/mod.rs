//! The journal: checksummed frames in preallocated segment files that take turns.
//!
//! One segment is written, one is being checkpointed or spare. A frame is one group of commits and
//! is valid as a whole or not at all; it starts at a new block, so that no acknowledged byte is
//! ever written again. Version 1, little-endian:
//!
//! | segment | bytes |
//! |---|---|
//! | blocks 0 and 1, alike | "CORACLEJ", version u32, 0 u32, checksum u64 of what follows, store uuid (16), sequence u64, salt u64, previous sequence u64, end of the previous u64 |
//! | from block 2 on | frames |
//!
//! | frame | bytes |
//! |---|---|
//! | head | "CJF1", payload length u32, checksum u64 of what follows, salt u64, offset u64 |
//! | payload | records, padded with zeros to a whole block |
//!
//! The salt is random per use of a file, so that what an earlier use left behind never passes for
//! a frame. A segment names its predecessor and how far that one is valid: what a failed sync may
//! have left behind that point is ignored.

mod format;
mod scan;

use std::io;
use std::sync::Arc;

use super::disk::{Access, BLOCK, Blocks, Disk, File};
pub(crate) use format::Header;
use format::{FRAME_HEAD, FRAMES_AT, encode_frame};
pub(crate) use scan::{Found, ScanError, find};

/// A segment is filled with zeros this far ahead the first time it is written, so that later
/// syncs write data only, no file-system metadata.
const ZERO_AHEAD: u64 = 1 << 20;
/// Segments awaiting a checkpoint before commits are refused: one in normal running, more only
/// when the disk fails again and again.
pub(crate) const MAX_FULL: usize = 6;

/// What failed, on which file.
#[derive(Debug)]
pub(crate) struct JournalError {
    pub file: String,
    pub what: &'static str,
    pub source: io::Error,
}

impl std::fmt::Display for JournalError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: {}", self.file, self.what, self.source)
    }
}

fn failed(file: &str, what: &'static str) -> impl FnOnce(io::Error) -> JournalError {
    move |source| JournalError { file: file.to_string(), what, source }
}

/// A segment file and how far it is written.
pub(crate) struct Segment {
    name: String,
    file: Arc<dyn File>,
    pub header: Header,
    /// End of the last frame.
    pub end: u64,
    /// The file's length: everything before is written space.
    len: u64,
    /// No write or sync of this use failed.
    sound: bool,
}

/// The journal while it is written.
pub(crate) struct Journal {
    disk: Arc<dyn Disk>,
    random: fn() -> io::Result<u64>,
    segment_bytes: u64,
    current: Segment,
    /// Older segments that no checkpoint covers yet, oldest first.
    full: Vec<Segment>,
    /// A file ready to become the next segment.
    spare: Option<(String, Arc<dyn File>, u64)>,
    /// The highest sequence number ever tried.
    tried: u64,
    next_name: u64,
    frame: Blocks,
}

impl Journal {
    /// Starts the first segment of a new store.
    pub(crate) fn create(
        disk: Arc<dyn Disk>,
        random: fn() -> io::Result<u64>,
        segment_bytes: u64,
        uuid: [u8; 16],
    ) -> Result<Journal, JournalError> {
        let name = "journal.0";
        let salt = random().map_err(failed(name, "drawing random bytes"))?;
        let header = Header { uuid, sequence: 1, salt, previous: 0, previous_end: 0 };
        let (file, len) = create_file(&*disk, name, segment_bytes)?;
        let current = activate(name.to_string(), file, len, header)?;
        disk.sync_names().map_err(failed(".", "syncing the directory"))?;
        let mut journal = Journal {
            disk,
            random,
            segment_bytes,
            current,
            full: Vec::new(),
            spare: None,
            tried: 1,
            next_name: 1,
            frame: Blocks::default(),
        };
        journal.provide_spare()?;
        Ok(journal)
    }

    /// Goes on with the segments that recovery read, the newest last and made certain of
    /// ([`Segment::rewrite`]).
    pub(crate) fn resume(
        disk: Arc<dyn Disk>,
        random: fn() -> io::Result<u64>,
        segment_bytes: u64,
        mut live: Vec<(Segment, Option<u64>)>,
        free: Vec<Found>,
        current: Segment,
    ) -> Result<Journal, JournalError> {
        let names = live.iter().map(|(segment, _)| &segment.name).chain(free.iter().map(|found| &found.name));
        let number = |name: &String| name.strip_prefix("journal.").and_then(|n| n.parse().ok()).unwrap_or(0);
        let next_name = names.chain([&current.name]).map(number).max().unwrap_or(0) + 1;
        let tried = free.iter().filter_map(|found| Some(found.header?.sequence)).max().unwrap_or(0);
        let mut journal = Journal {
            disk,
            random,
            segment_bytes,
            tried: tried.max(current.header.sequence),
            current,
            full: live.drain(..).map(|(segment, _)| segment).collect(),
            spare: None,
            next_name,
            frame: Blocks::default(),
        };
        for found in free {
            journal.recycle(found.name, found.file, found.len);
        }
        match journal.provide_spare() {
            // The next checkpoint gives a segment back; until then there is the present one.
            Err(error) if error.source.kind() == io::ErrorKind::StorageFull => {}
            provided => provided?,
        }
        Ok(journal)
    }

    /// The newest segment that is full and waits for a checkpoint.
    pub(crate) fn newest_full(&self) -> Option<u64> {
        self.full.last().map(|segment| segment.header.sequence)
    }

    /// How many segments wait for a checkpoint.
    pub(crate) fn waiting(&self) -> usize {
        self.full.len()
    }

    /// Whether a frame with this payload goes into the current segment. An empty segment takes
    /// any frame.
    pub(crate) fn has_room(&self, payload: usize) -> bool {
        let size = (FRAME_HEAD + payload).next_multiple_of(BLOCK) as u64;
        self.current.end == FRAMES_AT || self.current.end + size <= self.segment_bytes
    }

    /// Whether the current segment can be appended to; otherwise [`Journal::rotate`].
    pub(crate) fn is_sound(&self) -> bool {
        self.current.sound
    }

    /// Appends one frame and makes it durable. After an error the segment is never written again.
    pub(crate) fn append(&mut self, payload: &[u8]) -> Result<(), JournalError> {
        let segment = &mut self.current;
        debug_assert!(segment.sound, "a segment that failed is replaced first");
        encode_frame(&mut self.frame, segment.header.salt, segment.end, payload);
        segment.sound = false;
        segment.write(&self.frame, self.segment_bytes)?;
        segment.file.sync().map_err(failed(&segment.name, "syncing"))?;
        segment.sound = true;
        segment.end += self.frame.len() as u64;
        Ok(())
    }

    /// Begins a new segment; the present one then awaits a checkpoint. After a failure the new
    /// one is a new file that is read back before it is trusted.
    pub(crate) fn rotate(&mut self) -> Result<(), JournalError> {
        if self.full.len() >= MAX_FULL {
            let why = io::Error::other("too many segments wait for a checkpoint, which keeps failing");
            return Err(failed(&self.current.name, "starting a new segment")(why));
        }
        let fail_over = !self.current.sound;
        if fail_over && let Some((name, ..)) = self.spare.take() {
            let _ = self.disk.remove(&name);
        }
        self.provide_spare()?;
        let Some((name, file, len)) = self.spare.take() else {
            return Err(failed("journal", "starting a new segment")(io::Error::other("no spare segment")));
        };
        self.tried += 1;
        let salt = (self.random)().map_err(failed(&name, "drawing random bytes"))?;
        let header = Header {
            uuid: self.current.header.uuid,
            sequence: self.tried,
            salt,
            previous: self.current.header.sequence,
            previous_end: self.current.end,
        };
        match activate(name.clone(), file, len, header) {
            Ok(segment) => {
                self.full.push(std::mem::replace(&mut self.current, segment));
                Ok(())
            }
            Err(error) => {
                // Its header may have got to the disk and says where the present one ends.
                self.current.sound = false;
                let _ = self.disk.remove(&name);
                Err(error)
            }
        }
    }

    /// A checkpoint covers every segment up to `sequence`: their files are free.
    pub(crate) fn covered(&mut self, sequence: u64) {
        while self.full.first().is_some_and(|segment| segment.header.sequence <= sequence) {
            let segment = self.full.remove(0);
            if segment.sound {
                self.recycle(segment.name, segment.file, segment.len);
            } else {
                // Its blocks failed once; a file that cannot be removed is ignored from now on.
                let _ = self.disk.remove(&segment.name);
            }
        }
    }

    /// Keeps a file for the next segment, or removes it when there is one already.
    fn recycle(&mut self, name: String, file: Arc<dyn File>, len: u64) {
        if self.spare.is_some() || len > self.segment_bytes {
            let _ = self.disk.remove(&name);
        } else {
            self.spare = Some((name, file, len));
        }
    }

    /// Takes the space of the next segment in advance, so that turning to it cannot find the disk full.
    fn provide_spare(&mut self) -> Result<(), JournalError> {
        if self.spare.is_some() {
            return Ok(());
        }
        let name = format!("journal.{}", self.next_name);
        self.next_name += 1;
        let made = create_file(&*self.disk, &name, self.segment_bytes).and_then(|made| {
            self.disk.sync_names().map_err(failed(".", "syncing the directory"))?;
            Ok(made)
        });
        let (file, len) = made.inspect_err(|_| {
            let _ = self.disk.remove(&name);
        })?;
        self.spare = Some((name, file, len));
        Ok(())
    }
}

/// Both copies of a segment's header.
fn header_blocks(header: &Header) -> Blocks {
    let mut blocks = Blocks::zeroed(2 * BLOCK);
    blocks.chunks_exact_mut(BLOCK).for_each(|block| header.encode(block));
    blocks
}

fn create_file(disk: &dyn Disk, name: &str, reserve: u64) -> Result<(Arc<dyn File>, u64), JournalError> {
    let file = disk.create(name, Access::Direct).map_err(failed(name, "creating"))?;
    file.reserve(reserve).map_err(failed(name, "reserving its space"))?;
    Ok((file, 0))
}

/// Writes a segment's header and reads it back.
fn activate(name: String, file: Arc<dyn File>, len: u64, header: Header) -> Result<Segment, JournalError> {
    let blocks = header_blocks(&header);
    file.write(0, &blocks).map_err(failed(&name, "writing its header"))?;
    file.sync().map_err(failed(&name, "syncing its header"))?;
    let mut back = Blocks::zeroed(2 * BLOCK);
    file.read(0, &mut back).map_err(failed(&name, "reading its header back"))?;
    if *back != *blocks {
        return Err(failed(&name, "checking its header")(io::Error::other("other bytes came back than were written")));
    }
    Ok(Segment { name, file, header, end: FRAMES_AT, len: len.max(FRAMES_AT), sound: true })
}

impl Segment {
    /// Writes the header and the last frame once more, unchanged: after a failed sync and a crash
    /// the page cache may show either without the disk having it. All between was synced before
    /// the next frame was written.
    pub(crate) fn rewrite(&self, last: Option<u64>) -> Result<(), JournalError> {
        let Segment { name, file, header, end, .. } = self;
        file.write(0, &header_blocks(header)).map_err(failed(name, "writing"))?;
        if let Some(last) = last {
            let mut blocks = Blocks::zeroed((end - last) as usize);
            file.read(last, &mut blocks).map_err(failed(name, "reading"))?;
            file.write(last, &blocks).map_err(failed(name, "writing"))?;
        }
        file.sync().map_err(failed(name, "syncing"))
    }

    /// Writes a frame at the end and, on a fresh file, zeros ahead of it.
    fn write(&mut self, frame: &[u8], segment_bytes: u64) -> Result<(), JournalError> {
        let end = self.end + frame.len() as u64;
        self.file.write(self.end, frame).map_err(failed(&self.name, "writing"))?;
        if end > self.len {
            let ahead = (end + ZERO_AHEAD).min(segment_bytes).max(end);
            if ahead > end {
                let zeros = Blocks::zeroed((ahead - end) as usize);
                self.file.write(end, &zeros).map_err(failed(&self.name, "writing zeros"))?;
            }
            self.len = ahead;
        }
        Ok(())
    }
}
