//! The space of the disk: what the next checkpoint will need, and the reserve that it works from
//! when there is none.

use std::io;
use std::sync::Arc;

use super::Log;
use super::checkpoint::{self, Batch, CheckpointError};
use super::disk::{Access, BLOCK, Disk};
use super::seal::Sealer;
use crate::CommitError;

/// What checkpointing one key may take of the disk: its page and a share of the pages above.
pub(crate) const CHECKPOINT_KEY_BYTES: u64 = 6 << 10;
/// Free space below which a disk counts as full beside what the next checkpoint needs.
const SLACK_BYTES: u64 = 1 << 20;
/// The file that holds the reserve.
pub(crate) const RESERVE_FILE: &str = "reserve";

/// What the writer and its checkpoints share.
#[derive(Clone)]
pub(crate) struct Base {
    pub disk: Arc<dyn Disk>,
    pub sealer: Arc<Sealer>,
    pub reserve_bytes: u64,
    pub log: Log,
}

impl Base {
    /// Why nothing new is taken, when the disk has no room for the `needed` bytes of the next
    /// checkpoints.
    pub(crate) fn refusal(&self, needed: u64) -> Option<CommitError> {
        let needed = needed + SLACK_BYTES;
        let free = self.disk.free().ok().filter(|free| *free < needed)?;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let numbers = format!("{:.1} MiB are free and {:.1} MiB are needed", mib(free), mib(needed));
        Some(self.full(&numbers))
    }

    /// The refusal of a full disk.
    pub(crate) fn full(&self, what: &str) -> CommitError {
        let place = self.disk.place();
        let words = "free space on it, or delete objects: reads, deletes and small updates still work";
        CommitError::Full(format!("the disk of {place} is full: {what}; {words}").into())
    }

    /// The refusal of a disk that fails otherwise.
    pub(crate) fn broken(&self, error: &io::Error, what: &str) -> CommitError {
        let place = self.disk.place();
        let cure = match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem => {
                "the file system is read-only, as the kernel makes it after errors: see dmesg, check and remount it"
            }
            _ => "check the disk (dmesg)",
        };
        CommitError::Io(format!("the store could not write to {place}: {what}; {cure}. Reads still work").into())
    }
}

/// Takes the space that checkpoints of a full disk work from, or as much of it as there is.
pub(crate) fn provide_reserve(base: &Base) -> io::Result<()> {
    let file = base.disk.create(RESERVE_FILE, Access::Cached)?;
    let mut bytes = base.reserve_bytes;
    loop {
        match file.reserve(bytes) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull && bytes > BLOCK as u64 => bytes /= 2,
            Err(error) => {
                let _ = base.disk.remove(RESERVE_FILE);
                return Err(error);
            }
            Ok(()) => return Ok(()),
        }
    }
}

/// Writes a checkpoint, out of the reserve when the disk is full. When there is no room to make it
/// anew, the old file is made one to build upon, for the next attempt.
pub(crate) fn write_checkpoint(base: &Base, batch: &Batch) -> Result<(), CheckpointError> {
    let bytes: u64 = batch.rows.iter().map(|(_, row)| row.as_ref().map_or(0, |row| row.value.len() as u64)).sum();
    let needed = bytes + batch.rows.len() as u64 * CHECKPOINT_KEY_BYTES + SLACK_BYTES;
    let scarce = |needed| base.disk.free().is_ok_and(|free| free < needed);
    let mut released = scarce(needed);
    if released {
        base.disk.remove(RESERVE_FILE).map_err(CheckpointError::Io)?;
    }
    let mut result = checkpoint::write(&*base.disk, &base.sealer, batch);
    if !released && result.as_ref().is_err_and(CheckpointError::is_full) {
        released = true;
        base.disk.remove(RESERVE_FILE).map_err(CheckpointError::Io)?;
        result = checkpoint::write(&*base.disk, &base.sealer, batch);
    }
    if batch.whole && result.as_ref().is_err_and(CheckpointError::is_full) {
        checkpoint::write_again(&*base.disk)?;
    }
    if released {
        // Without it the store works on; the next checkpoint tries again.
        let _ = provide_reserve(base);
    }
    result
}
