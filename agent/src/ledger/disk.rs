//! The file under the ledger, and the space kept for it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coracle_shared::fault;
use redb::StorageBackend;
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};

/// Space that is freed when the disk is full, so that removals can still be written, at least: a
/// commit takes some tens of kilobytes, but a file without free pages is doubled.
const RESERVE_BYTES: u64 = 1 << 20;

/// How much is read and written at once when a file is written again.
const AGAIN_BYTES: u64 = 64 << 10;

/// Where the ledger lies. Opened again after an error.
pub trait Disk: std::fmt::Debug + Send + Sync + 'static {
    type Backend: StorageBackend;

    /// # Errors
    /// The file cannot be opened, or another agent holds it.
    fn open(&self) -> io::Result<Self::Backend>;

    /// Gives up the reserve: the disk is full.
    fn release_reserve(&self) {}

    /// Makes sure of the reserve, as far as there is space.
    fn keep_reserve(&self) {}

    /// A sync failed: the kernel may have taken what it could not write for written, so that reads show
    /// it and no later sync writes it. To be remembered beyond this process; a power cut clears it up.
    fn doubt(&self);

    /// Whether what the file shows may not be on the disk.
    fn doubted(&self) -> bool;

    /// Everything was written again.
    ///
    /// # Errors
    /// The doubt stays.
    fn trust(&self) -> io::Result<()>;
}

/// Writes what the file shows once more and syncs it. A power cut meanwhile is one in a usual commit:
/// what was durable is overwritten with its own bytes.
pub(super) fn write_again(file: &impl StorageBackend) -> io::Result<()> {
    let end = file.len()?;
    let mut at = 0;
    while at < end {
        let mut part = vec![0; AGAIN_BYTES.min(end - at) as usize];
        file.read(at, &mut part)?;
        file.write(at, &part)?;
        at += part.len() as u64;
    }
    file.sync_data()
}

/// A file whose failed syncs are not forgotten.
#[derive(Debug)]
pub(super) struct Watched<D: Disk> {
    file: D::Backend,
    disk: Arc<D>,
}

impl<D: Disk> Watched<D> {
    pub fn new(file: D::Backend, disk: Arc<D>) -> Self {
        Self { file, disk }
    }
}

impl<D: Disk> StorageBackend for Watched<D> {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data().inspect_err(|_| self.disk.doubt())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }
}

/// A file of the node's state directory.
#[derive(Clone, Debug)]
pub struct FileDisk {
    path: PathBuf,
    /// The mark of a doubt, for when not even an empty file can be made.
    doubted: Arc<AtomicBool>,
}

impl FileDisk {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), doubted: Arc::default() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn reserve(&self) -> PathBuf {
        self.path.with_extension("reserve")
    }

    fn mark(&self) -> PathBuf {
        self.path.with_extension("unsynced")
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
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
        let (path, wanted) = (self.reserve(), RESERVE_BYTES.max(size(&self.path)));
        if size(&path) >= wanted {
            return;
        }
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let made = file.and_then(|f| Ok(fallocate(&f, FallocateFlags::empty(), 0, wanted)?));
        if made.is_err() && size(&path) < RESERVE_BYTES {
            // A reserve that is not whole is none: the space is needed elsewhere now.
            let _ = std::fs::remove_file(&path);
        }
    }

    fn doubt(&self) {
        self.doubted.store(true, Ordering::Relaxed);
        // The mark is for the next process, and lost only with the disk that would have needed it.
        let _ = File::create(self.mark());
    }

    fn doubted(&self) -> bool {
        self.doubted.load(Ordering::Relaxed) || self.mark().exists()
    }

    fn trust(&self) -> io::Result<()> {
        match std::fs::remove_file(self.mark()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => self.doubted.store(false, Ordering::Relaxed),
        }
        Ok(())
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
