//! The agent's real ledger over the simulated disk.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coracle_agent::ledger::Disk as LedgerDisk;
use coracle_store::embedded::disk::{Access, Disk, File};
use redb::StorageBackend;

use crate::disk::SimDisk;

const FILE: &str = "ledger.redb";

/// A file on the simulated disk.
#[derive(Clone)]
pub struct SimLedger {
    disk: SimDisk,
    /// A sync failed since the power came: the mark outlives the process, as a file's name does.
    doubted: Arc<AtomicBool>,
}

impl SimLedger {
    /// `doubted` as it was left by the agent before, unless the power was cut.
    pub fn new(disk: SimDisk, doubted: Arc<AtomicBool>) -> SimLedger {
        SimLedger { disk, doubted }
    }
}

impl std::fmt::Debug for SimLedger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimLedger")
    }
}

pub struct Backend(Arc<dyn File>);

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Backend")
    }
}

impl LedgerDisk for SimLedger {
    type Backend = Backend;

    fn open(&self) -> io::Result<Backend> {
        let file = match self.disk.open(FILE, Access::Cached)? {
            Some(file) => file,
            None => {
                let file = self.disk.create(FILE, Access::Cached)?;
                self.disk.sync_names()?;
                file
            }
        };
        Ok(Backend(file))
    }

    fn doubt(&self) {
        self.doubted.store(true, Ordering::Relaxed);
    }

    fn doubted(&self) -> bool {
        self.doubted.load(Ordering::Relaxed)
    }

    fn trust(&self) -> io::Result<()> {
        self.doubted.store(false, Ordering::Relaxed);
        Ok(())
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.length()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}
