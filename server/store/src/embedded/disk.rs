//! The bottom layer: a directory of files. Crash tests put another one in its place.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Unit of direct access and of a journal frame: the page of every kernel we run on, and a
/// multiple of every disk's sector.
pub const BLOCK: usize = 4096;

/// How a file is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Any offset and length.
    Cached,
    /// Offsets, lengths and buffers ([`Blocks`]) are whole blocks; past the page cache where the
    /// file system can, which halves the time of a synced write.
    Direct,
}

/// A directory.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file for reading and writing; `None` when there is none.
    fn open(&self, name: &str, access: Access) -> io::Result<Option<Arc<dyn File>>>;
    /// Makes an empty file readable by its owner only, in place of any there is.
    fn create(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file; removing none is no error.
    fn remove(&self, name: &str) -> io::Result<()>;
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes what was created, renamed and removed survive a power cut.
    fn sync_names(&self) -> io::Result<()>;
    /// Bytes that can still be written on this disk.
    fn free(&self) -> io::Result<u64>;
    /// Where it is, for messages.
    fn place(&self) -> String;
}

/// An open file.
pub trait File: Send + Sync + 'static {
    fn length(&self) -> io::Result<u64>;
    /// Fills `buffer`; the end of the file before that is an error.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Takes space for `len` bytes without changing the length; a disk that cannot does nothing.
    fn reserve(&self, len: u64) -> io::Result<()>;
    /// Makes everything written survive a power cut (fdatasync).
    fn sync(&self) -> io::Result<()>;
}

/// A buffer larger than this is given back once it is mostly unused.
const KEPT_BYTES: usize = 256 << 10;

/// A buffer of whole blocks, aligned for direct access.
#[derive(Debug, Default)]
pub struct Blocks {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Blocks {
    /// Makes it `len` bytes, rounded up to whole blocks. What was in it is undefined afterwards.
    pub fn resize(&mut self, len: usize) {
        self.len = len.next_multiple_of(BLOCK);
        if self.memory.len() < self.len + BLOCK || self.memory.len() > (2 * self.len).max(KEPT_BYTES) {
            self.memory = Vec::new();
            self.memory = vec![0; self.len + BLOCK];
            self.start = self.memory.as_ptr().align_offset(BLOCK);
        }
    }

    pub fn zeroed(len: usize) -> Blocks {
        let mut blocks = Blocks::default();
        blocks.resize(len);
        blocks
    }
}

impl std::ops::Deref for Blocks {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl std::ops::DerefMut for Blocks {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// A real directory, locked against a second process.
pub struct LocalDisk {
    path: PathBuf,
    /// Held for its lock, which ends with the process.
    _lock: Option<fs::File>,
}

/// Why a directory cannot be used.
#[derive(Debug)]
pub enum LocalError {
    Io(io::Error),
    /// Another process has it.
    Locked,
}

impl LocalDisk {
    /// Makes the directory (0700) if need be and locks it.
    pub fn open(path: &Path) -> Result<LocalDisk, LocalError> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(LocalError::Io)?;
        let lock = options(Access::Cached).create(true).open(path.join("lock")).map_err(LocalError::Io)?;
        match lock.try_lock() {
            Ok(()) => Ok(LocalDisk { path: path.to_path_buf(), _lock: Some(lock) }),
            Err(fs::TryLockError::WouldBlock) => Err(LocalError::Locked),
            Err(fs::TryLockError::Error(error)) => Err(LocalError::Io(error)),
        }
    }

    /// The directory as a child sees it, whose parent holds the lock and waits for it.
    pub(crate) fn locked_by_parent(path: &Path) -> LocalDisk {
        LocalDisk { path: path.to_path_buf(), _lock: None }
    }

    /// Opens with what is asked for, or without direct access where the file system has none.
    fn open_with(&self, name: &str, access: Access, create: bool) -> io::Result<fs::File> {
        let path = self.path.join(name);
        let open = |access| options(access).create(create).truncate(create).open(&path);
        match open(access) {
            Err(error) if access == Access::Direct && error.kind() == io::ErrorKind::InvalidInput => {
                open(Access::Cached)
            }
            other => other,
        }
    }
}

fn options(access: Access) -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    if access == Access::Direct {
        options.custom_flags(rustix::fs::OFlags::DIRECT.bits().cast_signed());
    }
    options
}

impl Disk for LocalDisk {
    fn open(&self, name: &str, access: Access) -> io::Result<Option<Arc<dyn File>>> {
        match self.open_with(name, access, false) {
            Ok(file) => Ok(Some(Arc::new(LocalFile(file)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        self.remove(name)?;
        Ok(Arc::new(LocalFile(self.open_with(name, access, true)?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(&self.path)?;
        let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        entries.map(name).collect()
    }

    fn sync_names(&self) -> io::Result<()> {
        fs::File::open(&self.path)?.sync_all()
    }

    fn free(&self) -> io::Result<u64> {
        let status = rustix::fs::statvfs(&self.path)?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }
}

struct LocalFile(fs::File);

impl File for LocalFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        use rustix::io::Errno;
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::KEEP_SIZE, 0, len) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            other => Ok(other?),
        }
    }

    fn sync(&self) -> io::Result<()> {
        coracle_shared::fault::fails("store-sync")?;
        self.0.sync_data()
    }
}
