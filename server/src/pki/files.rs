//! Small files that survive a power cut: written beside, synced, renamed, and the directory synced.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Certificates, keys and kubeconfigs are a few kilobytes; anything larger is not one of ours.
const MAX_SMALL_FILE: u64 = 256 * 1024;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// 0600.
    Secret,
    /// 0644.
    Public,
}

impl Access {
    fn mode(self) -> u32 {
        match self {
            Access::Secret => 0o600,
            Access::Public => 0o644,
        }
    }
}

/// Creates a directory and its parents, 0700, each entry synced into its parent.
pub fn create_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = parent_of(dir);
    create_dir(&parent)?;
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_dir(&parent),
    }
}

/// Replaces a file as a whole: after a power cut it holds the old bytes or the new ones.
pub fn write(path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    let parent = parent_of(path);
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(access.mode()).open(&temporary)?;
    file.set_permissions(fs::Permissions::from_mode(access.mode()))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_dir(&parent)
}

/// Writes only when the content or the mode differs, so that a start changes nothing that is right.
pub fn write_if_changed(path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    let same_mode = fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o777 == access.mode());
    if same_mode && read(path)?.as_deref() == Some(bytes) {
        return Ok(());
    }
    write(path, bytes, access)
}

/// Reads a small file; `None` when there is none.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_SMALL_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_SMALL_FILE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "larger than 256 KiB"));
    }
    Ok(Some(bytes))
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_with_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/key");
        create_dir(path.parent().unwrap()).unwrap();
        assert_eq!(read(&path).unwrap(), None);
        write(&path, b"one", Access::Secret).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(dir.path().join("a/b/key.new"), b"left by a power cut").unwrap();
        write(&path, b"two", Access::Secret).unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some(&b"two"[..]));
        assert!(!dir.path().join("a/b/key.new").exists());
    }

    #[test]
    fn an_unchanged_file_is_not_written() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("crt");
        write_if_changed(&path, b"x", Access::Public).unwrap();
        let before = fs::metadata(&path).unwrap().ino();
        write_if_changed(&path, b"x", Access::Public).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), before);
        write_if_changed(&path, b"x", Access::Secret).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
