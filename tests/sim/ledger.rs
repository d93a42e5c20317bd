//! The agent's real ledger over the simulated disk.

use std::io;
use std::sync::Arc;

use coracle_agent::ledger::Disk as LedgerDisk;
use coracle_store::embedded::disk::{Access, Disk, File};
use redb::StorageBackend;

use crate::disk::SimDisk;

const FILE: &str = "ledger.redb";

/// A file on the simulated disk.
#[derive(Clone)]
pub struct SimLedger(pub SimDisk);

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
        let file = match self.0.open(FILE, Access::Cached)? {
            Some(file) => file,
            None => {
                let file = self.0.create(FILE, Access::Cached)?;
                self.0.sync_names()?;
                file
            }
        };
        Ok(Backend(file))
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
