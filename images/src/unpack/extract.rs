//! Putting a layer's entries on disk, in the form that overlayfs stacks.
//!
//! Every path is resolved by the kernel below the layer's own directory (`openat2` with
//! `RESOLVE_BENEATH`), so that no symbolic link of the layer leads out of it, and the last component
//! is never followed. Whiteouts become character devices 0/0, opaque directories an extended
//! attribute (kernel: `Documentation/filesystems/overlayfs.rst`; OCI Image 1.1, `layer.md`).

use std::collections::{BTreeSet, HashMap};
use std::io::BufRead;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, fchmod, fchown,
    fsetxattr, fstatvfs, ftruncate, futimens, linkat, makedev, mkdirat, mknodat, openat, openat2, statat, symlinkat,
    unlinkat,
};
use rustix::io::Errno;

use super::Refusal;
use super::archive::{Archive, Entry, Kind, show};
use super::limits::{INODE_RESERVE, MAX_DEPTH, MAX_ENTRIES, MAX_IMPLIED, MAX_LAYER, MAX_PATH, SPACE_CHECK};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names that aufs kept for itself (`.wh..wh.plnk`): Docker's reader drops them too.
const AUFS: &[u8] = b".wh..wh.";

/// What a finished layer amounts to.
pub struct Extracted {
    pub bytes: u64,
    pub entries: u64,
    pub implied: Vec<Vec<u8>>,
}

/// A layer being written.
pub struct Extractor {
    root: OwnedFd,
    /// `trusted.overlay.opaque`, or `user.overlay.opaque` for mounts with `userxattr`.
    opaque: &'static str,
    reserve: u64,
    /// The directory of the last entry: archives come directory by directory.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Directories that no entry spoke of so far.
    implied: BTreeSet<Vec<u8>>,
    implied_bytes: usize,
    /// Times of directories, set at the end because writing into a directory changes its own.
    times: HashMap<Vec<u8>, (i64, u32)>,
    whiteouts: BTreeSet<Vec<u8>>,
    bytes: u64,
    entries: u64,
    unchecked: u64,
}

impl Extractor {
    /// Writes below `root`, an empty directory. At least `reserve` bytes stay free on its file system.
    pub fn new(root: OwnedFd, userxattr: bool, reserve: u64) -> Result<Extractor, Refusal> {
        let extractor = Extractor {
            root,
            opaque: if userxattr { "user.overlay.opaque" } else { "trusted.overlay.opaque" },
            reserve,
            parent: None,
            implied: BTreeSet::from([Vec::new()]),
            implied_bytes: 0,
            times: HashMap::new(),
            whiteouts: BTreeSet::new(),
            bytes: 0,
            entries: 0,
            unchecked: 0,
        };
        make_default(extractor.root.as_fd()).map_err(|e| failed("set up", b"", e))?;
        extractor.check_space()?;
        Ok(extractor)
    }

    /// Writes one entry; a file's data is taken from `archive`.
    pub fn add<R: BufRead>(&mut self, entry: &Entry, archive: &mut Archive<R>) -> Result<(), Refusal> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(Refusal::new(format!("more than {MAX_ENTRIES} entries")));
        }
        if self.entries.is_multiple_of(4096) {
            self.check_space()?;
        }
        let path = normalise(&entry.path)?;
        let (folder, name) = split(&path);
        if name.starts_with(WHITEOUT) {
            return self.whiteout(folder, name);
        }
        if name.is_empty() {
            return if entry.kind == Kind::Directory {
                self.directory(entry, &path)
            } else {
                Err(Refusal::new("the root of the layer is not a directory".into()))
            };
        }
        match entry.kind {
            Kind::Directory => self.directory(entry, &path),
            Kind::File => self.file(entry, &path, archive),
            Kind::HardLink => self.hard_link(entry, &path),
            Kind::Symlink => self.symlink(entry, &path),
            Kind::Character { major, minor } => self.node(entry, &path, FileType::CharacterDevice, (major, minor)),
            Kind::Block { major, minor } => self.node(entry, &path, FileType::BlockDevice, (major, minor)),
            Kind::Fifo => self.node(entry, &path, FileType::Fifo, (0, 0)),
        }
    }

    /// Sets what can only be set at the end.
    pub fn finish(mut self) -> Result<Extracted, Refusal> {
        self.parent = None;
        let implied: Vec<Vec<u8>> = std::mem::take(&mut self.implied).into_iter().collect();
        for path in &implied {
            self.times.insert(path.clone(), (0, 0));
        }
        // Deepest first is not needed: setting a time changes no other directory.
        for (path, mtime) in &self.times {
            // A directory that a later entry replaced is no directory any more.
            if let Ok(fd) = self.open_beneath(path, ResolveFlags::NO_SYMLINKS) {
                futimens(&fd, &times(*mtime)).map_err(|e| failed("set the time of", path, e))?;
            }
        }
        Ok(Extracted { bytes: self.bytes, entries: self.entries, implied })
    }

    fn whiteout(&mut self, folder: &[u8], name: &[u8]) -> Result<(), Refusal> {
        self.enter(folder)?;
        if name == OPAQUE {
            return self.make_opaque(self.parent().as_fd(), folder);
        }
        if name.starts_with(AUFS) {
            return Ok(());
        }
        let hidden = &name[WHITEOUT.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Refusal::new(format!("{}: a whiteout of nothing", show(&join(folder, name)))));
        }
        let path = join(folder, hidden);
        match mknodat(self.parent(), hidden, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => {
                self.whiteouts.insert(path);
                Ok(())
            }
            // What this layer itself has hides what lies below; a directory has to say so.
            Err(Errno::EXIST) => match self.open_child(hidden) {
                Ok(fd) => self.make_opaque(fd.as_fd(), &path),
                Err(_) => Ok(()),
            },
            Err(error) => Err(failed("hide", &path, error)),
        }
    }

    fn directory(&mut self, entry: &Entry, path: &[u8]) -> Result<(), Refusal> {
        let fd = if path.is_empty() {
            self.open_beneath(b".", ResolveFlags::empty()).map_err(|e| failed("open", path, e))?
        } else {
            let (folder, name) = split(path);
            self.enter(folder)?;
            self.make_dir(name, path)?
        };
        set_owner(fd.as_fd(), entry).and_then(|()| fchmod(&fd, mode(entry))).map_err(|e| failed("set up", path, e))?;
        set_xattrs(fd.as_fd(), entry, path)?;
        if self.implied.remove(path) {
            self.implied_bytes -= path.len();
        }
        self.times.insert(path.to_vec(), entry.mtime);
        Ok(())
    }

    /// Makes `name` in the current directory a directory, and opens it.
    fn make_dir(&mut self, name: &[u8], path: &[u8]) -> Result<OwnedFd, Refusal> {
        let made = match mkdirat(self.parent(), name, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) if !self.is_dir(name) => {
                let was_whiteout = self.clear(name, path)?;
                mkdirat(self.parent(), name, Mode::from_raw_mode(0o755)).map(|()| was_whiteout)
            }
            Err(Errno::EXIST) => Ok(false),
            made => made.map(|()| false),
        };
        let was_whiteout = made.map_err(|e| failed("make the directory", path, e))?;
        let fd = self.open_child(name).map_err(|e| failed("open", path, e))?;
        if was_whiteout {
            self.make_opaque(fd.as_fd(), path)?;
        }
        Ok(fd)
    }

    fn file<R: BufRead>(&mut self, entry: &Entry, path: &[u8], archive: &mut Archive<R>) -> Result<(), Refusal> {
        if entry.size > MAX_LAYER {
            return Err(Refusal::new(format!("{}: a file of {} bytes", show(path), entry.size)));
        }
        let (folder, name) = split(path);
        self.enter(folder)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = |dir: BorrowedFd<'_>| openat(dir, name, flags, Mode::from_raw_mode(0o600));
        let fd = self.replacing(name, path, "create", create)?;
        match &entry.sparse {
            None => self.write_all(&fd, path, archive)?,
            Some(map) => self.write_sparse(&fd, entry.size, map, path, archive)?,
        }
        // In this order: a change of owner clears setuid and file capabilities.
        set_owner(fd.as_fd(), entry).and_then(|()| fchmod(&fd, mode(entry))).map_err(|e| failed("set up", path, e))?;
        set_xattrs(fd.as_fd(), entry, path)?;
        futimens(&fd, &times(entry.mtime)).map_err(|e| failed("set the time of", path, e))
    }

    fn write_all<R: BufRead>(&mut self, fd: &OwnedFd, path: &[u8], archive: &mut Archive<R>) -> Result<(), Refusal> {
        loop {
            let piece = archive.data()?;
            if piece.is_empty() {
                return Ok(());
            }
            let count = write(fd, piece).map_err(|e| failed("write", path, e))?;
            archive.consume(count);
            self.wrote(count)?;
        }
    }

    fn write_sparse<R: BufRead>(
        &mut self,
        fd: &OwnedFd,
        size: u64,
        map: &[(u64, u64)],
        path: &[u8],
        archive: &mut Archive<R>,
    ) -> Result<(), Refusal> {
        for (offset, length) in map {
            let (mut at, end) = (*offset, offset + length);
            while at < end {
                let piece = archive.data()?;
                let most = usize::try_from(end - at).unwrap_or(usize::MAX);
                let count = rustix::io::pwrite(fd, &piece[..piece.len().min(most)], at)
                    .map_err(|e| failed("write", path, e))?;
                archive.consume(count);
                at += count as u64;
                self.wrote(count)?;
            }
        }
        ftruncate(fd, size).map_err(|e| failed("extend", path, e))
    }

    fn wrote(&mut self, count: usize) -> Result<(), Refusal> {
        self.bytes += count as u64;
        self.unchecked += count as u64;
        if self.unchecked >= SPACE_CHECK {
            self.unchecked = 0;
            self.check_space()?;
        }
        Ok(())
    }

    fn check_space(&self) -> Result<(), Refusal> {
        let stat = fstatvfs(&self.root).map_err(|e| failed("look at the file system of", b"", e))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < self.reserve {
            return Err(Refusal::Space { free });
        }
        // File systems without a fixed number of inodes say that they have none at all.
        if stat.f_files > 0 && stat.f_favail < INODE_RESERVE {
            return Err(Refusal::Failed(format!("the file system has only {} inodes left", stat.f_favail)));
        }
        Ok(())
    }

    fn hard_link(&mut self, entry: &Entry, path: &[u8]) -> Result<(), Refusal> {
        let target = normalise(&entry.link).map_err(|e| Refusal::new(format!("{}: hard link: {e}", show(path))))?;
        let (target_folder, target_name) = split(&target);
        if target_name.is_empty() || target == path {
            return Err(Refusal::new(format!("{}: a hard link to {}", show(path), show(&target))));
        }
        let (folder, name) = split(path);
        self.enter(folder)?;
        let from = self
            .open_beneath(target_folder, ResolveFlags::empty())
            .map_err(|e| escape_or("find the target of the hard link", path, e))?;
        let link = |dir: BorrowedFd<'_>| linkat(&from, target_name, dir, name, AtFlags::empty());
        match self.replacing(name, path, "link", link) {
            Err(Refusal::Failed(_)) if statat(&from, target_name, AtFlags::SYMLINK_NOFOLLOW).is_err() => {
                let target = show(&target);
                Err(Refusal::new(format!("{}: a hard link to {target}, which is not in this layer", show(path))))
            }
            other => other,
        }
    }

    fn symlink(&mut self, entry: &Entry, path: &[u8]) -> Result<(), Refusal> {
        if entry.link.is_empty() || entry.link.len() >= MAX_PATH || entry.link.contains(&0) {
            return Err(Refusal::new(format!("{}: a symbolic link to {}", show(path), show(&entry.link))));
        }
        let (folder, name) = split(path);
        self.enter(folder)?;
        self.replacing(name, path, "link", |dir| symlinkat(entry.link.as_slice(), dir, name))?;
        self.set_by_name(entry, name, path)
    }

    fn node(&mut self, entry: &Entry, path: &[u8], kind: FileType, device: (u32, u32)) -> Result<(), Refusal> {
        let (folder, name) = split(path);
        self.enter(folder)?;
        let device = makedev(device.0, device.1);
        self.replacing(name, path, "make", |dir| mknodat(dir, name, kind, mode(entry), device))?;
        self.set_by_name(entry, name, path)
    }

    /// Owner and time of what is not opened: links and devices.
    fn set_by_name(&self, entry: &Entry, name: &[u8], path: &[u8]) -> Result<(), Refusal> {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(self.parent(), name, Some(uid), Some(gid), flags)
            .and_then(|()| rustix::fs::utimensat(self.parent(), name, &times(entry.mtime), flags))
            .map_err(|e| failed("set up", path, e))
    }

    /// Makes something in the current directory; where something is, the later entry wins.
    fn replacing<T>(
        &mut self,
        name: &[u8],
        path: &[u8],
        action: &str,
        make: impl Fn(BorrowedFd<'_>) -> rustix::io::Result<T>,
    ) -> Result<T, Refusal> {
        let made = match make(self.parent().as_fd()) {
            Err(Errno::EXIST) => {
                self.clear(name, path)?;
                make(self.parent().as_fd())
            }
            made => made,
        };
        made.map_err(|e| failed(action, path, e))
    }

    /// Takes away what an earlier entry put there. True when that was a whiteout.
    fn clear(&mut self, name: &[u8], path: &[u8]) -> Result<bool, Refusal> {
        let flags = if self.is_dir(name) { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match unlinkat(self.parent(), name, flags) {
            Ok(()) => {
                if self.implied.remove(path) {
                    self.implied_bytes -= path.len();
                }
                self.times.remove(path);
                Ok(self.whiteouts.remove(path))
            }
            Err(Errno::NOTEMPTY) => {
                Err(Refusal::new(format!("{}: replaces a directory that the layer has put files into", show(path))))
            }
            Err(error) => Err(failed("replace", path, error)),
        }
    }

    /// Opens the directory `folder` as the current one, making what is missing.
    fn enter(&mut self, folder: &[u8]) -> Result<(), Refusal> {
        if self.parent.as_ref().is_some_and(|(open, _)| open == folder) {
            return Ok(());
        }
        match self.open_beneath(folder, ResolveFlags::empty()) {
            Ok(fd) => {
                self.parent = Some((folder.to_vec(), fd));
                Ok(())
            }
            Err(Errno::NOENT | Errno::NOTDIR) => self.enter_missing(folder),
            Err(error) => Err(escape_or("open", folder, error)),
        }
    }

    /// As [`Extractor::enter`], a component at a time; what is made here is only implied.
    fn enter_missing(&mut self, folder: &[u8]) -> Result<(), Refusal> {
        let root = self.open_beneath(b"", ResolveFlags::empty()).map_err(|e| failed("open", b"", e))?;
        self.parent = Some((Vec::new(), root));
        let ends = folder.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at).chain([folder.len()]);
        for end in ends {
            let path = &folder[..end];
            let fd = match self.open_beneath(path, ResolveFlags::empty()) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => self.imply(path)?,
                Err(Errno::NOTDIR) if self.whiteouts.contains(path) => self.imply(path)?,
                Err(Errno::NOTDIR) => {
                    return Err(Refusal::new(format!(
                        "{}: not a directory, but the layer has files in it",
                        show(path)
                    )));
                }
                Err(error) => return Err(escape_or("open", path, error)),
            };
            self.parent = Some((path.to_vec(), fd));
        }
        Ok(())
    }

    fn imply(&mut self, path: &[u8]) -> Result<OwnedFd, Refusal> {
        let (_, name) = split(path);
        if statat(self.parent(), name, AtFlags::SYMLINK_NOFOLLOW).is_ok() && !self.whiteouts.contains(path) {
            return Err(Refusal::new(format!("{}: goes through a symbolic link that leads nowhere", show(path))));
        }
        let fd = self.make_dir(name, path)?;
        make_default(fd.as_fd()).map_err(|e| failed("set up", path, e))?;
        self.implied_bytes += path.len();
        if self.implied_bytes > MAX_IMPLIED {
            return Err(Refusal::new("too many directories without an entry of their own".into()));
        }
        self.implied.insert(path.to_vec());
        Ok(fd)
    }

    fn open_beneath(&self, path: &[u8], more: ResolveFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | more;
        openat2(&self.root, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    fn open_child(&self, name: &[u8]) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(self.parent(), name, flags, Mode::empty())
    }

    fn is_dir(&self, name: &[u8]) -> bool {
        statat(self.parent(), name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }

    fn parent(&self) -> &OwnedFd {
        &self.parent.as_ref().expect("enter() comes before every use of the current directory").1
    }

    fn make_opaque(&self, fd: BorrowedFd<'_>, path: &[u8]) -> Result<(), Refusal> {
        fsetxattr(fd, self.opaque, b"y", XattrFlags::empty()).map_err(|e| failed("make opaque", path, e))
    }
}

/// What a directory is that nothing is known of.
fn make_default(fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    fchown(fd, Some(Uid::ROOT), Some(Gid::ROOT))?;
    fchmod(fd, Mode::from_raw_mode(0o755))
}

fn write(fd: &OwnedFd, bytes: &[u8]) -> rustix::io::Result<usize> {
    rustix::io::retry_on_intr(|| rustix::io::write(fd, bytes))
}

fn mode(entry: &Entry) -> Mode {
    Mode::from_raw_mode(entry.mode)
}

fn set_owner(fd: BorrowedFd<'_>, entry: &Entry) -> rustix::io::Result<()> {
    fchown(fd, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
}

fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// User attributes, file capabilities and ACLs. Never `*.overlay.*`, by which a layer could redirect
/// overlayfs, nor `trusted.*` and labels, which belong to the host.
fn set_xattrs(fd: BorrowedFd<'_>, entry: &Entry, path: &[u8]) -> Result<(), Refusal> {
    for (name, value) in &entry.xattrs {
        let wanted = match name.as_slice() {
            b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => true,
            name => name.starts_with(b"user.") && !name.starts_with(b"user.overlay."),
        };
        if !wanted {
            continue;
        }
        match fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
            // A file system without user attributes or ACLs: Docker goes on without them as well.
            Err(Errno::OPNOTSUPP) if name != b"security.capability" => {}
            Err(error) => return Err(failed("set an attribute of", path, error)),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// A path without `.`, empty components and a final slash. `..` and absolute paths are refused: no
/// tool writes them, and whoever does means to write elsewhere.
fn normalise(path: &[u8]) -> Result<Vec<u8>, Refusal> {
    if path.len() >= MAX_PATH || path.contains(&0) {
        return Err(Refusal::new(format!("{}: an impossible path", show(path))));
    }
    let mut clean = Vec::with_capacity(path.len());
    let mut depth = 0;
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err(Refusal::new(format!("{}: the path leaves the layer with ..", show(path)))),
            part => {
                depth += 1;
                if !clean.is_empty() {
                    clean.push(b'/');
                }
                clean.extend_from_slice(part);
            }
        }
    }
    if path.starts_with(b"/") && !clean.is_empty() {
        return Err(Refusal::new(format!("{}: an absolute path", show(path))));
    }
    if depth > MAX_DEPTH {
        return Err(Refusal::new(format!("{}: more than {MAX_DEPTH} directories deep", show(path))));
    }
    Ok(clean)
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

fn failed(action: &str, path: &[u8], error: Errno) -> Refusal {
    let text = format!("{action} {}: {}", show(path), std::io::Error::from(error));
    match error {
        Errno::NOSPC | Errno::DQUOT => Refusal::Failed(format!("{text} (the disk is full)")),
        Errno::NAMETOOLONG => Refusal::new(text),
        _ => Refusal::Failed(text),
    }
}

/// `EXDEV` is how the kernel says that a path led out of the root.
fn escape_or(action: &str, path: &[u8], error: Errno) -> Refusal {
    match error {
        Errno::XDEV => Refusal::new(format!("{}: the path leaves the layer through a symbolic link", show(path))),
        Errno::LOOP => Refusal::new(format!("{}: the path goes through too many symbolic links", show(path))),
        other => failed(action, path, other),
    }
}
