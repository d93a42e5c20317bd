//! Directories that a layer only implies.
//!
//! A layer with `tmp/x` and no entry for `tmp` says nothing about `/tmp`: its mode and owner are
//! those of the layer below. overlayfs takes them from the topmost layer that has the directory, so
//! a layer that is unpacked alone, and shared between images, would hide them. For an image in which
//! that happens a further layer is made that holds these directories and nothing else, and lies on
//! top. It is decided here, from the unpacked layers.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, fchmod, fchown, fgetxattr, flistxattr, fsetxattr,
    fstat, futimens, openat,
};
use rustix::io::Errno;

/// The most implied directories of one image that are looked at: 127 layers with many each still
/// take less than a second.
const MAX_PATHS: usize = 20_000;
/// Of the list of attributes of a directory, and of one attribute: the kernel's limits.
const MAX_XATTR: usize = 64 << 10;

/// An unpacked layer.
pub struct Layer {
    pub root: OwnedFd,
    /// From its record.
    pub implied: HashSet<String>,
}

impl Layer {
    pub fn open(fs: &Path, implied: Vec<String>) -> io::Result<Layer> {
        Ok(Layer { root: File::open(fs)?.into(), implied: implied.into_iter().collect() })
    }
}

/// What a directory is, apart from what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, i64),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The directories that a further layer has to hold, with their attributes; empty when all is right
/// already. `layers` come topmost first. Parents come before what is in them.
pub fn plan(layers: &[Layer]) -> io::Result<BTreeMap<String, Attributes>> {
    let mut paths: Vec<&String> = layers.iter().flat_map(|layer| &layer.implied).collect();
    paths.sort();
    paths.dedup();
    if paths.len() > MAX_PATHS {
        return Err(io::Error::other(format!("more than {MAX_PATHS} directories without an entry of their own")));
    }
    let mut needed = BTreeMap::new();
    for path in paths {
        if let Some(attributes) = wrong(layers, path)? {
            needed.insert(path.clone(), attributes);
        }
    }
    let parents: Vec<String> = needed.keys().flat_map(|path| ancestors(path)).collect();
    for path in parents {
        if !needed.contains_key(&path)
            && let (Some(top), below) = find(layers, &path)?
        {
            needed.insert(path, below.unwrap_or(top));
        }
    }
    Ok(needed)
}

/// Makes the further layer in `root`, an empty directory of ours.
pub fn write(root: &Path, directories: &BTreeMap<String, Attributes>) -> io::Result<()> {
    for path in directories.keys().filter(|path| !path.is_empty()) {
        std::fs::create_dir(root.join(path))?;
    }
    for (path, attributes) in directories.iter().rev() {
        let fd = File::open(root.join(path))?;
        fchown(&fd, Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)))?;
        fchmod(&fd, Mode::from_raw_mode(attributes.mode & 0o7777))?;
        for (name, value) in &attributes.xattrs {
            fsetxattr(&fd, name.as_slice(), value, XattrFlags::empty())?;
        }
        let time = Timespec { tv_sec: attributes.mtime.0, tv_nsec: attributes.mtime.1 as _ };
        futimens(&fd, &Timestamps { last_access: time, last_modification: time })?;
    }
    Ok(())
}

/// What `path` should be, where overlayfs would show something else.
fn wrong(layers: &[Layer], path: &str) -> io::Result<Option<Attributes>> {
    let (Some(shown), Some(meant)) = find(layers, path)? else { return Ok(None) };
    // The time alone is not worth a layer.
    let same = (shown.mode, shown.uid, shown.gid, &shown.xattrs) == (meant.mode, meant.uid, meant.gid, &meant.xattrs);
    Ok((!same).then_some(meant))
}

/// What overlayfs shows of `path`, and what the topmost layer with an entry for it says.
fn find(layers: &[Layer], path: &str) -> io::Result<(Option<Attributes>, Option<Attributes>)> {
    let mut shown = None;
    for layer in layers {
        match look(layer, path)? {
            Look::Absent => {}
            Look::Hides => break,
            Look::There(fd, hidden) => {
                let attributes = read(&fd)?;
                if !layer.implied.contains(path) {
                    return Ok((shown.or(Some(attributes.clone())), Some(attributes)));
                }
                shown = shown.or(Some(attributes));
                if hidden {
                    break;
                }
            }
        }
    }
    Ok((shown, None))
}

/// One layer's word on a path.
enum Look {
    /// Nothing: the layer below decides.
    Absent,
    /// What lies below does not count: a whiteout, a file, or nothing in an opaque directory.
    Hides,
    /// A directory; true when one above it is opaque. Being opaque itself takes away what is in the
    /// directory below, not what that is.
    There(OwnedFd, bool),
}

fn look(layer: &Layer, path: &str) -> io::Result<Look> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut fd = openat(&layer.root, ".", flags, Mode::empty())?;
    let mut hidden = false;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        hidden |= is_opaque(&fd);
        fd = match openat(&fd, name, flags, Mode::empty()) {
            Ok(next) => next,
            Err(Errno::NOENT) if hidden => return Ok(Look::Hides),
            Err(Errno::NOENT) => return Ok(Look::Absent),
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Look::Hides),
            Err(error) => return Err(error.into()),
        };
    }
    Ok(Look::There(fd, hidden))
}

fn is_opaque(fd: &OwnedFd) -> bool {
    ["trusted.overlay.opaque", "user.overlay.opaque"].iter().any(|name| {
        let mut value = [0u8; 1];
        matches!(fgetxattr(fd, *name, &mut value), Ok(1) if value == *b"y")
    })
}

fn read(fd: &OwnedFd) -> io::Result<Attributes> {
    let stat: Stat = fstat(fd)?;
    Ok(Attributes {
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime as _, stat.st_mtime_nsec as _),
        xattrs: read_xattrs(fd)?,
    })
}

/// Those that belong to the directory's content rather than to overlayfs or the host.
fn read_xattrs(fd: &OwnedFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0u8; MAX_XATTR];
    let length = match flistxattr(fd.as_fd(), names.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    for name in names[..length].split(|b| *b == 0) {
        let user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
        if !user && !name.starts_with(b"system.posix_acl_") {
            continue;
        }
        let mut value = vec![0u8; MAX_XATTR];
        let length = fgetxattr(fd.as_fd(), name, value.as_mut_slice())?;
        value.truncate(length);
        found.push((name.to_vec(), value));
    }
    found.sort();
    Ok(found)
}

/// The directories above `path`, the root included.
fn ancestors(path: &str) -> Vec<String> {
    let inner = path.match_indices('/').map(|(at, _)| path[..at].to_owned());
    let root = (!path.is_empty()).then(String::new);
    root.into_iter().chain(inner).collect()
}
