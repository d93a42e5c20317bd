//! What a segment and a frame look like on disk. The tables stand at the [room](super)'s head.

use crate::embedded::disk::{BLOCK, Blocks};
use crate::embedded::xxh64::xxh64;

const MAGIC: &[u8; 8] = b"CORACLEJ";
const FRAME_MAGIC: &[u8; 4] = b"CJF1";
const VERSION: u32 = 1;
/// Where a segment's frames start.
pub(crate) const FRAMES_AT: u64 = 2 * BLOCK as u64;
pub(crate) const FRAME_HEAD: usize = 32;

/// The head of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub uuid: [u8; 16],
    pub sequence: u64,
    pub salt: u64,
    pub previous: u64,
    pub previous_end: u64,
}

impl Header {
    pub(crate) fn encode(&self, block: &mut [u8]) {
        block.fill(0);
        block[0..8].copy_from_slice(MAGIC);
        block[8..12].copy_from_slice(&VERSION.to_le_bytes());
        block[24..40].copy_from_slice(&self.uuid);
        for (index, number) in [self.sequence, self.salt, self.previous, self.previous_end].into_iter().enumerate() {
            block[40 + 8 * index..48 + 8 * index].copy_from_slice(&number.to_le_bytes());
        }
        let checksum = xxh64(0, &block[24..72]);
        block[16..24].copy_from_slice(&checksum.to_le_bytes());
    }

    /// `None` for a block that is no whole header; the version of one that a newer release wrote.
    pub(crate) fn decode(block: &[u8]) -> Option<Result<Header, u32>> {
        if &block[0..8] != MAGIC || u64_at(block, 16) != xxh64(0, &block[24..72]) {
            return None;
        }
        let version = u32_at(block, 8);
        if version != VERSION {
            return Some(Err(version));
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&block[24..40]);
        let [sequence, salt, previous, previous_end] = [40, 48, 56, 64].map(|at| u64_at(block, at));
        Some(Ok(Header { uuid, sequence, salt, previous, previous_end }))
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut array = [0; 8];
    array.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(array)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut array = [0; 4];
    array.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(array)
}

/// Lays a frame into `blocks`.
pub(crate) fn encode_frame(blocks: &mut Blocks, salt: u64, offset: u64, payload: &[u8]) {
    let length = FRAME_HEAD + payload.len();
    blocks.resize(length);
    blocks[0..4].copy_from_slice(FRAME_MAGIC);
    blocks[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    blocks[16..24].copy_from_slice(&salt.to_le_bytes());
    blocks[24..32].copy_from_slice(&offset.to_le_bytes());
    blocks[FRAME_HEAD..length].copy_from_slice(payload);
    blocks[length..].fill(0);
    let checksum = xxh64(payload.len() as u64, &blocks[16..length]);
    blocks[8..16].copy_from_slice(&checksum.to_le_bytes());
}

/// The length of the payload if a block looks like the start of this segment's frame at `offset`.
pub(crate) fn frame_length(block: &[u8], salt: u64, offset: u64) -> Option<usize> {
    let ours = &block[0..4] == FRAME_MAGIC && u64_at(block, 16) == salt && u64_at(block, 24) == offset;
    ours.then(|| u32_at(block, 4) as usize)
}

pub(crate) fn frame_is_whole(frame: &[u8], length: usize) -> bool {
    u64_at(frame, 8) == xxh64(length as u64, &frame[16..FRAME_HEAD + length])
}
