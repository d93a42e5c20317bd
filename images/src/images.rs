//! [`Images`]: the one object that the agent holds.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::credential::Credential;
use crate::error::ImageError;
use crate::image::{Image, Policy, Progress};
use crate::platform::Platform;
use crate::pull;
use crate::reference::Reference;
use crate::registry::Session;
use crate::registry::auth::Grants;
use crate::registry::settings::{Registries, SettingsFile};
use crate::store::{ImageRecord, Store};
use crate::turns::{Claims, Permits, Pins};

/// Free bytes that a pull leaves on the disk unless told otherwise: logs, the ledger and the pods
/// themselves need them.
const DEFAULT_RESERVE: u64 = 256 << 20;

/// Pulls of one image in one call before giving up against collections.
const MAX_PULLS: usize = 3;

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
    pub(crate) store: Store,
    config: Config,
    pub(crate) settings: SettingsFile,
    pub(crate) grants: Grants,
    pub(crate) claims: Claims,
    pub(crate) pins: Pins,
    pub(crate) permits: Permits,
    warnings: Mutex<BTreeSet<String>>,
}

impl Images {
    /// Opens or makes the directory, sweeps what an earlier process left unfinished, and finds what
    /// is whole. One process at a time holds it.
    pub fn open(dir: &Path, config: Config) -> Result<Images, ImageError> {
        Ok(Images {
            store: Store::open(dir)?,
            settings: SettingsFile::new(config.registries.clone()),
            grants: Grants::default(),
            claims: Claims::default(),
            pins: Pins::default(),
            permits: Permits::new(config.parallel),
            warnings: Mutex::default(),
            config,
        })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Makes sure that the image is on this node, whole and synced, and says where.
    ///
    /// Blocks, for minutes where the network is slow. Pulls at the same time share the layers that
    /// they have in common. An image that is present costs no network and no sync, except under
    /// [`Policy::Always`], which asks the registry what the name means now.
    pub fn ensure(
        &self,
        reference: &Reference,
        policy: Policy,
        credentials: &[Credential],
        platform: &Platform,
        progress: &Progress,
    ) -> Result<Image, ImageError> {
        if policy != Policy::Always
            && let Some(record) = self.store.named(reference, platform)
            && let Some(image) = self.use_present(&record, reference)?
        {
            return Ok(image);
        }
        if policy == Policy::Never {
            return Err(ImageError::Absent { reference: reference.to_string() });
        }
        // A collection between the end of a pull and its use makes it necessary once more.
        for _ in 0..MAX_PULLS {
            let session = pull::session(self, reference, credentials)?;
            let record = pull::pull(self, &session, reference, platform, progress)?;
            self.store.publish_name(reference, platform, record.id)?;
            if let Some(image) = self.use_present(&record, reference)? {
                return Ok(image);
            }
        }
        Err(ImageError::Manifest {
            what: format!("image {reference}"),
            problem: "it was collected as fast as it was pulled: the disk is too small for it".into(),
        })
    }

    /// The platforms that the image is there for at its registry: one for a plain manifest, several
    /// for an index. Nothing is kept.
    pub fn platforms(
        registries: &Registries,
        reference: &Reference,
        credentials: &[Credential],
    ) -> Result<Vec<Platform>, ImageError> {
        let grants = Grants::default();
        pull::platforms(&Session::new(reference, registries, credentials, &grants)?, reference)
    }

    /// What this kernel or user could not confine the unpacking process with, each once.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    pub(crate) fn warn(&self, warning: &str) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).insert(warning.to_owned());
    }

    /// Notes the use of an image, unless a collection has just taken it.
    fn use_present(&self, record: &ImageRecord, reference: &Reference) -> Result<Option<Image>, ImageError> {
        let _frozen = self.pins.freeze();
        if self.store.whole(&record.id).is_none() {
            return Ok(None);
        }
        self.store.touch(&record.id)?;
        self.store.view(record, reference).map(Some)
    }
}
