//! The file under the ledger, and the space kept for it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use coracle_shared::fault;
use redb::StorageBackend;
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};

/// Space that is freed when the disk is full, so that removals can still be written: a commit
/// takes some tens of kilobytes.
const RESERVE_BYTES: u64 = 1 << 20;

/// Where the ledger lies. Opened again after an error.
pub trait Disk: std::fmt::Debug {
    type Backend: StorageBackend;

    /// # Errors
    /// The file cannot be opened, or another agent holds it.
    fn open(&self) -> io::Result<Self::Backend>;

    /// Gives up the reserve: the disk is full.
    fn release_reserve(&self) {}

    /// Makes sure of the reserve, as far as there is space.
    fn keep_reserve(&self) {}
}

/// A file of the node's state directory.
#[derive(Clone, Debug)]
pub struct FileDisk {
    path: PathBuf,
}

impl FileDisk {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn reserve(&self) -> PathBuf {
        self.path.with_extension("reserve")
    }
}

impl Disk for FileDisk {
    type Backend = LedgerFile;

    fn open(&self) -> io::Result<LedgerFile> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(LedgerFile { file })
    }

    fn release_reserve(&self) {
        // Not there: it was given up before.
        let _ = std::fs::remove_file(self.reserve());
    }

    fn keep_reserve(&self) {
        let path = self.reserve();
        if path.exists() {
            return;
        }
        let made = File::create(&path).and_then(|f| Ok(fallocate(&f, FallocateFlags::empty(), 0, RESERVE_BYTES)?));
        if made.is_err() {
            // A reserve that is not whole is none: the space is needed elsewhere now.
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// redb's bottom layer: positioned reads and writes, and space that is there once promised.
#[derive(Debug)]
pub struct LedgerFile {
    file: File,
}

impl StorageBackend for LedgerFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let old = self.len()?;
        if len > old {
            // Growing allocates: a later write inside the file cannot run out of space.
            match fallocate(&self.file, FallocateFlags::empty(), old, len - old) {
                Ok(()) => return Ok(()),
                Err(rustix::io::Errno::OPNOTSUPP) => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        fault::fails("ledger-sync")?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        fault::fails("ledger-write")?;
        self.file.write_all_at(data, offset)
    }
}
