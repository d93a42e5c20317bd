//! Making a whole store out of rows: what restoring and changing the key have in common.
//!
//! It is made in a directory of its own beside the one that is served (`store.new`), and takes its
//! place by renames; the one before goes by the name `store.old` until it is wiped. Whatever
//! instant the power goes, [`settle`] knows which is which.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checkpoint::{self, Batch, Meta};
use super::disk::{Disk, LocalDisk, LocalError};
use super::journal::Journal;
use super::open::{checkpoint_error, random_u64, write_key};
use super::seal::{KEY_BYTES, Sealer};
use super::{OpenError, Options};
use crate::Key;
use crate::image::Row;

/// Bytes overwritten at once when a store is wiped.
const WIPE_BYTES: usize = 256 << 10;

fn beside(store: &Path, suffix: &str) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

pub(crate) fn failed(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io { file: path.display().to_string(), what, source }
}

/// Opens a directory as a store's, against a second process.
pub(crate) fn lock(directory: &Path) -> Result<Arc<dyn Disk>, OpenError> {
    let disk = LocalDisk::open(directory).map_err(|error| match error {
        LocalError::Locked => OpenError::Locked,
        LocalError::Io(source) => failed(directory, "making and locking it")(source),
    })?;
    Ok(Arc::new(disk))
}

/// Makes a store beside `store`, complete and synced but not yet in its place.
pub(crate) fn build(
    store: &Path,
    key: &[u8; KEY_BYTES],
    meta: Meta,
    rows: Vec<(Key, Option<Row>)>,
) -> Result<(), OpenError> {
    let new = beside(store, ".new");
    remove(&new)?;
    let disk = lock(&new)?;
    let sealer = Sealer::new(key);
    let meta = Meta { key: sealer.id(), covered: 0, ..meta };
    write_key(&*disk, key)?;
    Journal::create(disk.clone(), random_u64, Options::default().segment_bytes, meta.id.uuid)?;
    checkpoint::make(&*disk, &sealer, &Batch { rows, meta, whole: true }).map_err(checkpoint_error)
}

/// Puts what [`build`] made into its place, and wipes what was there.
pub(crate) fn take_over(store: &Path) -> Result<(), OpenError> {
    let (new, old) = (beside(store, ".new"), beside(store, ".old"));
    if store.exists() {
        fs::rename(store, &old).map_err(failed(&old, "moving the old store aside"))?;
        sync_parent(store)?;
    }
    fs::rename(&new, store).map_err(failed(store, "moving the new store into its place"))?;
    sync_parent(store)?;
    wipe(&old)
}

/// Ends what a power cut interrupted. To be called before the store in `store` is opened.
pub fn settle(store: &Path) -> Result<(), OpenError> {
    let (new, old) = (beside(store, ".new"), beside(store, ".old"));
    match (store.exists(), new.exists(), old.exists()) {
        // The old one was moved aside: so the new one was complete.
        (false, true, true) => take_over(store),
        (false, true, false) => Err(OpenError::Damaged {
            file: new.display().to_string(),
            what: "a restore was interrupted; run the same `coracle restore` again".into(),
        }),
        (false, false, true) => {
            fs::rename(&old, store).map_err(failed(store, "moving the store back into its place"))?;
            sync_parent(store)
        }
        (true, _, _) => {
            wipe(&old)?;
            remove(&new)
        }
        (false, false, false) => Ok(()),
    }
}

fn sync_parent(path: &Path) -> Result<(), OpenError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(parent).and_then(|directory| directory.sync_all());
    synced.map_err(failed(parent, "syncing the directory"))
}

fn remove(directory: &Path) -> Result<(), OpenError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(directory, "removing")(error)),
        _ => Ok(()),
    }
}

/// Overwrites every file of a store before it is removed, so that what an old key sealed does not
/// stay in the file system's free space.
fn wipe(directory: &Path) -> Result<(), OpenError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed(directory, "listing"))?,
    };
    for entry in entries {
        let path = entry.map_err(failed(directory, "listing"))?.path();
        overwrite(&path).map_err(failed(&path, "overwriting"))?;
    }
    remove(directory)
}

fn overwrite(path: &Path) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    let mut left = file.metadata()?.len();
    let zeros = vec![0; WIPE_BYTES];
    while left > 0 {
        let piece = left.min(WIPE_BYTES as u64);
        file.write_all(&zeros[..piece as usize])?;
        left -= piece;
    }
    file.sync_all()
}
