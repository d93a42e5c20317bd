//! What a caller gets: an image that is whole on this node.

use std::ops::ControlFlow;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256;

/// When a registry is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Ask the registry which manifest the name means now; download only what is missing.
    Always,
    /// Ask only when the name is not known on this node.
    IfNotPresent,
    /// Never ask.
    Never,
}

/// An image whose layers are all on disk, synced.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest of the platform's manifest: the image's identity, for [`crate::Images::gc`] too.
    pub id: Sha256,
    /// `REGISTRY/REPOSITORY@sha256:…` of that manifest, for a pod's `imageID`.
    pub pinned: String,
    /// Directories for overlayfs `lowerdir`, **topmost first**. They are read-only to everybody.
    /// overlayfs shows the upper directory's own mode and owner as those of `/`: give it the first
    /// layer's. One directory alone needs an upper one, or a second (empty) lower one.
    ///
    /// A mount's options share one page: with many layers, `chdir` to [`Image::layers_dir`] and use
    /// [`Image::lowerdir`], whose names are short (127 layers fit), or add them one by one with
    /// `fsconfig(lowerdir+)`.
    pub layers: Vec<PathBuf>,
    /// The directory that the names in [`Image::lowerdir`] are relative to.
    pub layers_dir: PathBuf,
    pub config: ImageConfig,
    /// Bytes of the layers as unpacked.
    pub size: u64,
    /// Whether opaque directories are marked with `user.overlay.opaque`: mount with `userxattr`.
    pub userxattr: bool,
}

impl Image {
    /// The value of overlayfs' `lowerdir=` option with names relative to [`Image::layers_dir`].
    pub fn lowerdir(&self) -> String {
        let names: Vec<String> = self
            .layers
            .iter()
            .map(|layer| layer.strip_prefix(&self.layers_dir).unwrap_or(layer).display().to_string())
            .collect();
        names.join(":")
    }
}

/// The part of an image's configuration that concerns running it (OCI Image, `config.md`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    /// `user`, `uid`, `user:group`, `uid:gid` …; empty is root.
    pub user: String,
    /// Empty is `/`.
    pub workdir: String,
    /// Mount points that the image declares.
    pub volumes: Vec<String>,
    /// `SIGTERM`, `15`, …; empty is SIGTERM.
    pub stop_signal: String,
    /// `80/tcp`.
    pub exposed_ports: Vec<String>,
    pub labels: std::collections::BTreeMap<String, String>,
}

/// What a pull reports while it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The manifest is known: what there is to download, in compressed bytes.
    Resolved { id: Sha256, layers: usize, missing_layers: usize, missing_bytes: u64 },
    /// Compressed bytes of this layer that arrived so far.
    Layer { digest: Sha256, bytes: u64, total: u64 },
    /// The layer is unpacked and verified.
    Unpacked { digest: Sha256 },
}

/// Called from several threads during a pull, at most a few times a megabyte. `Break` cancels it.
pub type Progress<'a> = dyn Fn(Event) -> ControlFlow<()> + Sync + 'a;
