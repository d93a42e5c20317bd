//! The bytes of everything that is not API JSON: a version byte, then postcard.
//!
//! On a stream, a value travels as a frame: its length in four bytes, little-endian, then the
//! encoded value. Lengths are checked before anything is allocated, and a claimed element count
//! never allocates more than a megabyte ahead of the bytes that prove it (serde's own bound), so
//! hostile bytes cost at most a small multiple of the frame they came in.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::desired::{Body, Item};
use crate::digest;

/// The format of this release. A decoder takes this version only; another one is named in the error.
pub const VERSION: u8 = 1;
/// An API object may have 3 MiB of JSON, and a pod travels whole inside an item: this leaves room
/// for the envelope and for a batch that ends with such an item.
pub const MAX_FRAME: usize = 4 << 20;
/// What a peer without a certificate may make us hold: a request with its CSR is under 2 KiB.
pub const MAX_JOIN_FRAME: usize = 16 << 10;
/// Bytes of the length before each frame.
pub const LENGTH_BYTES: usize = 4;

/// Bytes that are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CodecError {
    /// Written by a release with another format.
    Version(u8),
    /// A known format, but a variant that this release does not know.
    Unknown(u32),
    /// A frame longer than its limit.
    TooLong { bytes: usize, limit: usize },
    /// Not a value of the expected type.
    Malformed,
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CodecError::Version(found) => write!(f, "format {found}, this release reads format {VERSION}"),
            CodecError::Unknown(tag) => write!(f, "variant {tag} is not known to this release"),
            CodecError::TooLong { bytes, limit } => write!(f, "a frame of {bytes} bytes, the limit is {limit}"),
            CodecError::Malformed => f.write_str("malformed bytes"),
        }
    }
}

impl std::error::Error for CodecError {}

/// An enum that travels and may gain variants: one that is not known decodes as its unknown arm.
pub trait Evolving: Serialize + DeserializeOwned {
    /// How many variants this release knows; their tags are `0..KNOWN`.
    const KNOWN: u32;
    /// The arm for a tag that is not known.
    fn unknown(tag: u32) -> Self;
}

/// Encodes a value.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    // Fails only for sequences of unknown length and for a full buffer: our types have none of
    // the first, and a Vec grows.
    postcard::to_extend(value, vec![VERSION]).expect("wire types have sized sequences")
}

/// Decodes a value that fills the bytes exactly.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, rest) = postcard::take_from_bytes(payload(bytes)?).map_err(|_| CodecError::Malformed)?;
    if rest.is_empty() { Ok(value) } else { Err(CodecError::Malformed) }
}

/// Decodes an enum that may come from a newer release.
pub fn decode_evolving<T: Evolving>(bytes: &[u8]) -> Result<T, CodecError> {
    let tag = tag(payload(bytes)?)?;
    if tag >= T::KNOWN { Ok(T::unknown(tag)) } else { decode(bytes) }
}

/// Decodes the body of a desired item; one of a kind that is not known is [`CodecError::Unknown`].
pub fn decode_body(bytes: &[u8]) -> Result<Body, CodecError> {
    let tag = tag(payload(bytes)?)?;
    if tag >= Body::KNOWN { Err(CodecError::Unknown(tag)) } else { decode(bytes) }
}

/// Encodes a body into an item with its id and hash.
pub fn item(body: &Body) -> Item {
    let bytes = encode(body);
    Item { id: body.id(), hash: digest::of_body(&bytes), body: bytes }
}

/// A value as a frame: length, then the encoded value.
pub fn frame<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let start = vec![0, 0, 0, 0, VERSION];
    let mut bytes = postcard::to_extend(value, start).expect("wire types have sized sequences");
    let length = (bytes.len() - LENGTH_BYTES) as u32;
    bytes[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// The length that a frame's head announces, checked against the limit.
pub fn frame_length(head: [u8; LENGTH_BYTES], limit: usize) -> Result<usize, CodecError> {
    let bytes = u32::from_le_bytes(head) as usize;
    match bytes {
        0 => Err(CodecError::Malformed),
        n if n > limit => Err(CodecError::TooLong { bytes, limit }),
        n => Ok(n),
    }
}

/// Cuts a stream of bytes into frames; holds at most one frame and what came with it.
#[derive(Debug)]
pub struct Frames {
    limit: usize,
    buffer: Vec<u8>,
    /// Where the first unread byte is.
    start: usize,
}

impl Frames {
    pub fn new(limit: usize) -> Frames {
        Frames { limit, buffer: Vec::new(), start: 0 }
    }

    /// Takes bytes as they came from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame's content, once it is there. After an error the stream is of no use.
    pub fn next_frame(&mut self) -> Result<Option<Vec<u8>>, CodecError> {
        let rest = &self.buffer[self.start..];
        let Some(head) = rest.first_chunk::<LENGTH_BYTES>() else {
            self.compact();
            return Ok(None);
        };
        let length = frame_length(*head, self.limit)?;
        let Some(content) = rest.get(LENGTH_BYTES..LENGTH_BYTES + length) else {
            self.compact();
            return Ok(None);
        };
        let content = content.to_vec();
        self.start += LENGTH_BYTES + length;
        Ok(Some(content))
    }

    /// Gives back what was read; an idle stream holds no buffer.
    fn compact(&mut self) {
        if self.start == self.buffer.len() {
            self.buffer = Vec::new();
        } else {
            self.buffer.drain(..self.start);
        }
        self.start = 0;
    }
}

fn payload(bytes: &[u8]) -> Result<&[u8], CodecError> {
    match bytes.split_first() {
        None => Err(CodecError::Malformed),
        Some((&VERSION, rest)) => Ok(rest),
        Some((&other, _)) => Err(CodecError::Version(other)),
    }
}

fn tag(payload: &[u8]) -> Result<u32, CodecError> {
    postcard::take_from_bytes(payload).map(|(tag, _)| tag).map_err(|_| CodecError::Malformed)
}

/// Bytes as one block instead of an element at a time; the encoding is the same.
pub mod block {
    use std::fmt;

    use serde::de::{Deserializer, Error, Visitor};
    use serde::ser::Serializer;

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        struct Block;
        impl Visitor<'_> for Block {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }

            fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
        }
        from.deserialize_bytes(Block)
    }
}

#[cfg(test)]
mod tests;
