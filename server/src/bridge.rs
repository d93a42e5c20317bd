//! What rooms ask for in words of their own and do not find in each other: the system's clocks, the
//! platforms of images, backups.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use coracle_images::settings::Registries;
use coracle_images::{Images, Reference};
use coracle_scheduler::ImagePlatforms;
use coracle_shared::time::{Clock, Millis};
use coracle_store::Embedded;

use crate::api::backup::{Backups, Pieces};
use crate::pki::{self, files};

/// The system's clocks.
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    pub fn start() -> SystemClock {
        SystemClock { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> Millis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn monotonic(&self) -> Millis {
        Millis(i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX))
    }
}

/// Backups of the embedded store and of the cluster's identity.
pub struct StoreBackups {
    pub store: Arc<Embedded>,
    pub state: PathBuf,
}

/// Where the server keeps word of the last good backup.
const LAST_BACKUP: &str = "last-backup";

/// The last good backup that was reported, in words.
pub fn last_backup(state: &Path) -> Option<String> {
    let bytes = files::read(&state.join(LAST_BACKUP)).ok()??;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned())
}

impl Backups for StoreBackups {
    fn take(&self) -> Result<Pieces, String> {
        let files = pki::backup(&self.state).map_err(|error| error.to_string())?;
        Ok(Box::new(self.store.snapshot(&files)))
    }

    fn remember(&self, words: &str) -> Result<(), String> {
        let path = self.state.join(LAST_BACKUP);
        files::write(&path, format!("{words}\n").as_bytes(), files::Access::Secret)
            .map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// Images' platforms from their registries, as anybody may ask for them.
pub struct RegistryPlatforms {
    registries: Arc<Registries>,
}

impl RegistryPlatforms {
    /// `file` is a `registries.json`, as agents have.
    pub fn open(file: Option<&Path>) -> Result<RegistryPlatforms, String> {
        let registries = match file {
            None => Registries::default(),
            Some(path) => {
                let text = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
                serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display()))?
            }
        };
        Ok(RegistryPlatforms { registries: Arc::new(registries) })
    }
}

impl ImagePlatforms for RegistryPlatforms {
    fn architectures<'a>(&'a self, image: &'a str) -> Pin<Box<dyn Future<Output = Option<Vec<String>>> + Send + 'a>> {
        Box::pin(async move {
            let reference: Reference = image.parse().ok()?;
            let registries = self.registries.clone();
            let platforms = smol::unblock(move || Images::platforms(&registries, &reference, &[])).await.ok()?;
            Some(platforms.into_iter().map(|platform| platform.architecture).collect())
        })
    }
}
