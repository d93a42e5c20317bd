//! The records of a journal frame and the rows of a checkpoint, version 1.
//!
//! All numbers are little-endian; a string is its length as u16 and its bytes.
//!
//! | record | bytes |
//! |---|---|
//! | put | 1, revision u64, resource, namespace, name, row without revision, prefixed by its length as u32 |
//! | delete | 2, revision u64, resource, namespace, name |
//! | ceiling | 3, u64: no revision from here on was ever handed out |
//! | volatile | 4, resource: it has volatile objects, whose newest revisions may not be on disk |
//!
//! | row | bytes |
//! |---|---|
//! | in a checkpoint | revision u64, then as in a put |
//! | in a put | schema u16, 0, value — or — schema u16, 1, uid, sealed value |
//!
//! The key of a checkpoint row is resource, NUL, namespace, NUL, name: it orders as [`Key`] does.

use std::sync::Arc;

use super::seal::{SealError, Sealer};
use crate::image::{Row, RowKey};
use crate::{Key, Revision};

const PUT: u8 = 1;
const DELETE: u8 = 2;
const CEILING: u8 = 3;
const VOLATILE: u8 = 4;

const PLAIN: u8 = 0;
const SEALED: u8 = 1;

/// Bytes that are not what they should be, although their checksum holds.
#[derive(Debug)]
pub(crate) enum DecodeError {
    Short,
    NotUtf8,
    UnknownRecord(u8),
    Seal { key: Key, source: SealError },
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DecodeError::Short => write!(f, "a record ends early"),
            DecodeError::NotUtf8 => write!(f, "a name is not UTF-8"),
            DecodeError::UnknownRecord(tag) => write!(f, "record of unknown kind {tag}: written by a newer release"),
            DecodeError::Seal { key, source } => write!(f, "{key}: {source}"),
        }
    }
}

/// One record, decoded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Put(Key, Row),
    Delete(Key, Revision),
    Ceiling(u64),
    Volatile(Arc<str>),
}

/// Writes records.
pub(crate) struct Encoder<'a> {
    pub bytes: &'a mut Vec<u8>,
    pub sealer: &'a Sealer,
}

impl Encoder<'_> {
    pub(crate) fn put(&mut self, key: &Key, row: &Row) -> Result<(), SealError> {
        self.bytes.push(PUT);
        self.bytes.extend(row.revision.0.to_le_bytes());
        self.key(key);
        let length_at = self.bytes.len();
        self.bytes.extend([0; 4]);
        row_body(self.bytes, self.sealer, key, row)?;
        let length = (self.bytes.len() - length_at - 4) as u32;
        self.bytes[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
        Ok(())
    }

    pub(crate) fn delete(&mut self, key: &Key, revision: Revision) {
        self.bytes.push(DELETE);
        self.bytes.extend(revision.0.to_le_bytes());
        self.key(key);
    }

    pub(crate) fn ceiling(&mut self, ceiling: u64) {
        self.bytes.push(CEILING);
        self.bytes.extend(ceiling.to_le_bytes());
    }

    pub(crate) fn volatile(&mut self, resource: &str) {
        self.bytes.push(VOLATILE);
        string(self.bytes, resource);
    }

    fn key(&mut self, key: &Key) {
        string(self.bytes, &key.resource);
        string(self.bytes, &key.namespace);
        string(self.bytes, &key.name);
    }
}

/// A row as the value of a checkpoint table.
pub(crate) fn encode_row(bytes: &mut Vec<u8>, sealer: &Sealer, key: &Key, row: &Row) -> Result<(), SealError> {
    bytes.extend(row.revision.0.to_le_bytes());
    row_body(bytes, sealer, key, row)
}

fn row_body(bytes: &mut Vec<u8>, sealer: &Sealer, key: &Key, row: &Row) -> Result<(), SealError> {
    bytes.extend(row.schema.to_le_bytes());
    match &row.seal {
        None => {
            bytes.push(PLAIN);
            bytes.extend_from_slice(&row.value);
        }
        Some(uid) => {
            bytes.push(SEALED);
            string(bytes, uid);
            sealer.seal(key, uid, &row.value, bytes)?;
        }
    }
    Ok(())
}

/// Parts of keys are at most [`crate::MAX_KEY_PART`] long, uids and resources shorter.
pub(crate) fn string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

/// A key of the checkpoint table.
pub(crate) fn encode_key(bytes: &mut Vec<u8>, key: &Key) {
    bytes.extend_from_slice(key.resource.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(key.namespace.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(key.name.as_bytes());
}

/// Resource, namespace and name of a checkpoint key.
pub(crate) fn decode_key(bytes: &[u8]) -> Result<[&str; 3], DecodeError> {
    let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::NotUtf8)?;
    let mut parts = text.splitn(3, '\0');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(resource), Some(namespace), Some(name)) => Ok([resource, namespace, name]),
        _ => Err(DecodeError::Short),
    }
}

/// Reads what the functions above wrote.
pub(crate) struct Decoder<'a> {
    bytes: &'a [u8],
    sealer: &'a Sealer,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(bytes: &'a [u8], sealer: &'a Sealer) -> Decoder<'a> {
        Decoder { bytes, sealer }
    }

    /// The next record; `None` at the end.
    pub(crate) fn record(&mut self) -> Result<Option<Record>, DecodeError> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let record = match self.take(1)?[0] {
            PUT => {
                let revision = Revision(self.u64()?);
                let key = self.key()?;
                let length = u32::from_le_bytes(self.array()?) as usize;
                let mut row = Decoder { bytes: self.take(length)?, sealer: self.sealer };
                let row = row.row_body(&key, revision)?;
                Record::Put(key, row)
            }
            DELETE => {
                let revision = Revision(self.u64()?);
                Record::Delete(self.key()?, revision)
            }
            CEILING => Record::Ceiling(self.u64()?),
            VOLATILE => Record::Volatile(self.string()?.into()),
            tag => return Err(DecodeError::UnknownRecord(tag)),
        };
        Ok(Some(record))
    }

    /// The value of a checkpoint table.
    pub(crate) fn row(&mut self, key: &Key) -> Result<Row, DecodeError> {
        let revision = Revision(self.u64()?);
        self.row_body(key, revision)
    }

    fn row_body(&mut self, key: &Key, revision: Revision) -> Result<Row, DecodeError> {
        let schema = u16::from_le_bytes(self.array()?);
        let (value, seal): (Arc<[u8]>, Option<Arc<str>>) = match self.take(1)?[0] {
            PLAIN => (self.bytes.into(), None),
            SEALED => {
                let uid = self.string()?;
                let plain = self.sealer.open(key, uid, self.bytes);
                let plain = plain.map_err(|source| DecodeError::Seal { key: key.clone(), source })?;
                (plain.into(), Some(uid.into()))
            }
            tag => return Err(DecodeError::UnknownRecord(tag)),
        };
        self.bytes = &[];
        Ok(Row { revision, schema, value, seal, stored: true })
    }

    fn key(&mut self) -> Result<Key, DecodeError> {
        let (resource, namespace, name) = (self.string()?, self.string()?, self.string()?);
        Ok(Key::new(resource, namespace, name))
    }

    pub(crate) fn string(&mut self) -> Result<&'a str, DecodeError> {
        let length = u16::from_le_bytes(self.array()?);
        std::str::from_utf8(self.take(usize::from(length))?).map_err(|_| DecodeError::NotUtf8)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.bytes.split_first_chunk::<N>().ok_or(DecodeError::Short)?;
        self.bytes = rest;
        Ok(*head)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.bytes.split_at_checked(length).ok_or(DecodeError::Short)?;
        self.bytes = rest;
        Ok(head)
    }
}

/// The row of a put as it will be in memory.
pub(crate) fn row(revision: Revision, schema: u16, value: &Arc<[u8]>, seal: &Option<Arc<str>>) -> Row {
    Row { revision, schema, value: value.clone(), seal: seal.clone(), stored: true }
}

/// Splits a key for the image.
pub(crate) fn split(key: Key) -> (Arc<str>, RowKey) {
    (key.resource, RowKey { namespace: key.namespace, name: key.name })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealer() -> Sealer {
        Sealer::new(&[9; 32])
    }

    fn records() -> impl Strategy<Value = Vec<(String, Option<Vec<u8>>, bool)>> {
        prop::collection::vec(
            (".{0,20}", prop::option::of(prop::collection::vec(any::<u8>(), 0..50)), any::<bool>()),
            0..9,
        )
    }

    proptest! {
        #[test]
        fn records_come_back(records in records()) {
            let sealer = sealer();
            let mut bytes = Vec::new();
            let mut expected = Vec::new();
            let mut encoder = Encoder { bytes: &mut bytes, sealer: &sealer };
            for (number, (name, value, sealed)) in records.into_iter().enumerate() {
                let key = Key::new("secrets", name.clone(), name);
                let revision = Revision(number as u64);
                match value {
                    Some(value) => {
                        let row = row(revision, 7, &value.into(), &sealed.then(|| "uid".into()));
                        encoder.put(&key, &row).expect("randomness");
                        expected.push(Record::Put(key, row));
                    }
                    None => {
                        encoder.delete(&key, revision);
                        expected.push(Record::Delete(key, revision));
                    }
                }
            }
            encoder.ceiling(5);
            encoder.volatile("pods");
            expected.extend([Record::Ceiling(5), Record::Volatile("pods".into())]);
            let mut decoder = Decoder::new(&bytes, &sealer);
            for record in expected {
                prop_assert_eq!(decoder.record().expect("whole"), Some(record));
            }
            prop_assert_eq!(decoder.record().expect("whole"), None);
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let sealer = sealer();
            let mut decoder = Decoder::new(&bytes, &sealer);
            while let Ok(Some(_)) = decoder.record() {}
            let _ = Decoder::new(&bytes, &sealer).row(&Key::new("a", "b", "c"));
            let _ = decode_key(&bytes);
        }

        #[test]
        fn keys_order_as_keys(a in "[a-c.]{0,3}", b in "[a-c.-]{0,3}", c in "[a-c]{0,2}", d in "[a-c-]{0,3}") {
            let (one, two) = (Key::new(a.clone(), b.clone(), c.clone()), Key::new(b, d, a));
            let bytes = |key: &Key| {
                let mut bytes = Vec::new();
                encode_key(&mut bytes, key);
                bytes
            };
            prop_assert_eq!(one.cmp(&two), bytes(&one).cmp(&bytes(&two)));
            let encoded = bytes(&one);
            prop_assert_eq!(decode_key(&encoded).expect("whole"), [&*one.resource, &*one.namespace, &*one.name]);
        }
    }
}
