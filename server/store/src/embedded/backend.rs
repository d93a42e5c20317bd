//! The file below redb, and whether anything went wrong with it: redb itself ends in silence when
//! the last sync of closing a database fails.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use redb::{Database, StorageBackend};

use super::checkpoint::{CheckpointError, FILE};
use super::disk::File;

/// Pages of redb in memory while a checkpoint is read or written: keys come in order, so that
/// each page is touched once.
const CACHE_BYTES: usize = 2 << 20;

/// The first thing that went wrong with a file.
#[derive(Clone, Default)]
pub(super) struct Health(Arc<Mutex<Option<io::Error>>>);

impl Health {
    /// What went wrong, to be asked once the database is dropped.
    pub fn check(&self) -> Result<(), CheckpointError> {
        let failure = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or(Ok(()), |error| Err(CheckpointError::Io(error)))
    }

    fn note(&self, error: &io::Error) {
        let copy = match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(error.kind(), error.to_string()),
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(copy);
    }

    /// A full disk that refuses a write has lost nothing: what was written before is still to be
    /// synced, and the root of the database comes last.
    fn note_write(&self, error: &io::Error) {
        if error.kind() != io::ErrorKind::StorageFull {
            self.note(error);
        }
    }
}

pub(super) struct Backend {
    file: Arc<dyn File>,
    health: Health,
}

impl Backend {
    pub fn new(file: Arc<dyn File>) -> (Backend, Health) {
        let health = Health::default();
        (Backend { file, health: health.clone() }, health)
    }
}

pub(super) fn database(backend: Backend) -> Result<Database, CheckpointError> {
    Ok(Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend)?)
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FILE)
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out).inspect_err(|error| self.health.note(error))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len).inspect_err(|error| self.health.note_write(error))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync().inspect_err(|error| self.health.note(error))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data).inspect_err(|error| self.health.note_write(error))
    }
}
