//! Reading a journal: which segments there are, and which of their frames are whole.

use std::sync::Arc;

use super::format::{FRAME_HEAD, FRAMES_AT, Header, frame_is_whole, frame_length};
use super::{JournalError, Segment, failed};
use crate::embedded::disk::{Access, BLOCK, Blocks, Disk, File};

/// Bytes that are looked through at once for a frame behind a broken one.
const LOOK_AHEAD: u64 = 1 << 20;

/// A segment as found on disk.
pub(crate) struct Found {
    pub(super) name: String,
    pub(super) file: Arc<dyn File>,
    pub(super) len: u64,
    pub header: Option<Header>,
}

/// Why a journal cannot be read.
#[derive(Debug)]
pub(crate) enum ScanError {
    Journal(JournalError),
    Version {
        file: String,
        found: u32,
    },
    /// A frame in the middle is broken: more than a torn end.
    Damaged {
        file: String,
        offset: u64,
    },
}

impl From<JournalError> for ScanError {
    fn from(error: JournalError) -> ScanError {
        ScanError::Journal(error)
    }
}

/// Finds the segment files and their headers.
pub(crate) fn find(disk: &dyn Disk) -> Result<Vec<Found>, ScanError> {
    let mut found = Vec::new();
    for name in disk.list().map_err(failed(".", "listing the directory"))? {
        if !name.starts_with("journal.") {
            continue;
        }
        let opened = disk.open(&name, Access::Direct).map_err(failed(&name, "opening"))?;
        let Some(file) = opened else { continue };
        let len = file.length().map_err(failed(&name, "reading its length"))?;
        let header = read_header(&name, &*file, len)?;
        found.push(Found { name, file, len, header });
    }
    Ok(found)
}

fn read_header(name: &str, file: &dyn File, len: u64) -> Result<Option<Header>, ScanError> {
    if len < FRAMES_AT {
        return Ok(None);
    }
    let mut blocks = Blocks::zeroed(2 * BLOCK);
    file.read(0, &mut blocks).map_err(failed(name, "reading"))?;
    // Either copy will do: a damaged one may even look like another version.
    let copies: Vec<Result<Header, u32>> = blocks.chunks_exact(BLOCK).filter_map(Header::decode).collect();
    match (copies.iter().find_map(|copy| copy.as_ref().ok()), copies.first()) {
        (Some(header), _) => Ok(Some(*header)),
        (None, Some(Err(found))) => Err(ScanError::Version { file: name.to_string(), found: *found }),
        (None, _) => Ok(None),
    }
}

impl Found {
    /// Reads the frames one after the other, up to `until` or, in the newest segment, up to the
    /// first one that is not whole. Returns the segment and where its last frame began.
    pub(crate) fn read<E: From<ScanError>>(
        self,
        header: Header,
        until: Option<u64>,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(Segment, Option<u64>), E> {
        let Found { name, file, len, .. } = self;
        let damaged = |offset| ScanError::Damaged { file: name.clone(), offset };
        let mut blocks = Blocks::default();
        let (mut end, mut last) = (FRAMES_AT, None);
        while until.is_none_or(|until| end < until) {
            let Some(length) = read_frame(&name, &*file, len, header.salt, end, &mut blocks)? else {
                match until {
                    Some(_) => return Err(damaged(end).into()),
                    None => break,
                }
            };
            each(&blocks[FRAME_HEAD..FRAME_HEAD + length])?;
            last = Some(end);
            end += blocks.len() as u64;
        }
        if until.is_some_and(|until| until != end) {
            return Err(damaged(end).into());
        }
        if until.is_none() && later_frame(&name, &*file, len, header.salt, end)? {
            return Err(damaged(end).into());
        }
        Ok((Segment { name, file, header, end, len, sound: true }, last))
    }
}

/// Reads the frame at `offset` into `blocks`; its payload's length, or `None` when there is no
/// whole frame.
fn read_frame(
    name: &str,
    file: &dyn File,
    len: u64,
    salt: u64,
    offset: u64,
    blocks: &mut Blocks,
) -> Result<Option<usize>, ScanError> {
    if offset + BLOCK as u64 > len {
        return Ok(None);
    }
    blocks.resize(BLOCK);
    file.read(offset, blocks).map_err(failed(name, "reading"))?;
    let Some(length) = frame_length(blocks, salt, offset) else { return Ok(None) };
    let size = (FRAME_HEAD + length).next_multiple_of(BLOCK);
    if offset + size as u64 > len {
        return Ok(None);
    }
    if size > BLOCK {
        blocks.resize(size);
        file.read(offset, blocks).map_err(failed(name, "reading"))?;
    }
    Ok(frame_is_whole(blocks, length).then_some(length))
}

/// Whether a whole frame stands anywhere behind a broken one. Only one frame is ever in flight, so
/// that a power cut cannot leave that.
fn later_frame(name: &str, file: &dyn File, len: u64, salt: u64, broken: u64) -> Result<bool, ScanError> {
    let mut chunk = Blocks::default();
    let mut blocks = Blocks::default();
    let mut offset = broken + BLOCK as u64;
    while offset + BLOCK as u64 <= len {
        let size = (len - offset).min(LOOK_AHEAD) as usize / BLOCK * BLOCK;
        chunk.resize(size);
        file.read(offset, &mut chunk).map_err(failed(name, "reading"))?;
        for (index, block) in chunk.chunks_exact(BLOCK).enumerate() {
            let at = offset + (index * BLOCK) as u64;
            let looks = frame_length(block, salt, at).is_some();
            if looks && read_frame(name, file, len, salt, at, &mut blocks)?.is_some() {
                return Ok(true);
            }
        }
        offset += size as u64;
    }
    Ok(false)
}
