//! Taking in a checkpoint at a start: rows of bytes become rows of the image.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::OpenError;
use super::checkpoint::{self, Meta, Sink};
use super::codec::{DecodeError, Decoder, decode_key};
use super::disk::Disk;
use super::open::{damaged, read_key};
use super::seal::Sealer;
use crate::Key;
use crate::image::{Row, RowKey};

/// Rows by resource.
pub(crate) type Rows = BTreeMap<Arc<str>, BTreeMap<RowKey, Row>>;

/// What a checkpoint came to.
pub(crate) struct Loaded {
    pub meta: Meta,
    pub sealer: Arc<Sealer>,
    pub rows: Rows,
}

/// Gathers rows that come in key order, sharing the names that repeat.
pub(crate) struct Loader<'a> {
    disk: &'a dyn Disk,
    head: Option<(Meta, Arc<Sealer>)>,
    done: Rows,
    resource: Arc<str>,
    namespace: Arc<str>,
    rows: Vec<(RowKey, Row)>,
}

impl<'a> Loader<'a> {
    pub(crate) fn new(disk: &'a dyn Disk) -> Loader<'a> {
        let (done, rows) = (Rows::new(), Vec::new());
        Loader { disk, head: None, done, resource: "".into(), namespace: "".into(), rows }
    }

    pub(crate) fn finish(mut self) -> Result<Loaded, OpenError> {
        self.flush();
        let (meta, sealer) = self.head.ok_or_else(|| damaged(checkpoint::FILE, "it is empty"))?;
        Ok(Loaded { meta, sealer, rows: self.done })
    }

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
}

impl Sink for Loader<'_> {
    type Error = OpenError;

    fn meta(&mut self, meta: Meta) -> Result<(), OpenError> {
        let sealer = read_key(self.disk)?.ok_or(OpenError::KeyMissing)?;
        if sealer.id() != meta.key {
            return Err(OpenError::KeyChanged);
        }
        self.head = Some((meta, Arc::new(sealer)));
        Ok(())
    }

    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), OpenError> {
        let decode = |error: DecodeError| damaged(checkpoint::FILE, &error.to_string());
        let [resource, namespace, name] = decode_key(key).map_err(decode)?;
        let key = self.key(resource, namespace, name);
        let (_, sealer) = self.head.as_ref().ok_or_else(|| damaged(checkpoint::FILE, "rows come before its head"))?;
        let row = Decoder::new(value, sealer).row(&key).map_err(decode)?;
        self.rows.push((RowKey { namespace: key.namespace, name: key.name }, row));
        Ok(())
    }
}
