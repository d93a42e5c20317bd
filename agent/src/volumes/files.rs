//! Files that change all at once: a directory of links through `..data`, which one rename swings
//! from an old directory to a new one (as the kubelet's atomic writer lays them out).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// The link that every file is reached through.
const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Paths below a volume with their contents and modes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload(BTreeMap<String, (Vec<u8>, u32)>);

impl Payload {
    /// # Errors
    /// The path would leave the volume.
    pub fn add(&mut self, path: &str, bytes: Vec<u8>, mode: u32) -> Result<(), String> {
        let bad = |part: &str| part.is_empty() || part == "." || part == "..";
        if path.starts_with("..") || path.split('/').any(bad) {
            return Err(format!("path {path:?} does not stay in its volume"));
        }
        self.0.insert(path.to_owned(), (bytes, mode & 0o777));
        Ok(())
    }
}

/// Makes `dir` show exactly the payload. Nothing is written when it does already.
///
/// # Errors
/// The file system's.
pub fn publish(dir: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let old = fs::read_link(dir.join(DATA)).ok();
    if old.as_ref().is_some_and(|old| shows(&dir.join(old), payload)) {
        return Ok(());
    }
    // The other of two names: one holds what is shown, the other is free or left from a crash.
    let name = if old.as_deref() == Some(Path::new("..1")) { "..2" } else { "..1" };
    let fresh = dir.join(name);
    remove(&fresh)?;
    fs::create_dir(&fresh)?;
    for (path, (bytes, mode)) in &payload.0 {
        write(&fresh, path, bytes, *mode, group)?;
    }
    remove(&dir.join(DATA_NEW))?;
    symlink(name, dir.join(DATA_NEW))?;
    fs::rename(dir.join(DATA_NEW), dir.join(DATA))?;
    link_names(dir, payload)?;
    match old {
        Some(old) if old != Path::new(name) => remove(&dir.join(old)),
        _ => Ok(()),
    }
}

fn write(root: &Path, path: &str, bytes: &[u8], mode: u32, group: Option<u32>) -> io::Result<()> {
    let file = root.join(path);
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&file, bytes)?;
    let mode = if group.is_some() { mode | ((mode & 0o400) >> 3) } else { mode };
    if group.is_some() {
        std::os::unix::fs::chown(&file, None, group)?;
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(mode))
}

/// One link for each first component, and none for what is no more.
fn link_names(dir: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = payload.0.keys().map(|path| path.split('/').next().unwrap_or(path)).collect();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(name.as_ref()) {
            remove(&dir.join(name.as_ref()))?;
        }
    }
    for name in wanted {
        match symlink(Path::new(DATA).join(name), dir.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn shows(root: &Path, payload: &Payload) -> bool {
    let same = payload.0.iter().all(|(path, (bytes, _))| fs::read(root.join(path)).is_ok_and(|b| b == *bytes));
    same && count(root) == Some(payload.0.len())
}

/// How many files there are below.
fn count(dir: &Path) -> Option<usize> {
    let mut files = 0;
    for entry in fs::read_dir(dir).ok()? {
        let entry = entry.ok()?;
        files += if entry.file_type().ok()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Some(files)
}
