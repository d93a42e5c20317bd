//! Image indexes, manifests and configurations: OCI Image 1.1 and Docker schema 2. Pure functions
//! over bytes that the caller has bounded and whose digest it has checked.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::digest::Sha256;
use crate::error::ImageError;
use crate::image::ImageConfig;
use crate::platform::Platform;

/// The largest manifest or index, which is what registries accept (OCI Distribution 1.1).
pub const MAX_MANIFEST: u64 = 4 << 20;
/// The largest image configuration; real ones are a few KiB, and it is held in memory.
pub const MAX_CONFIG: u64 = 4 << 20;
/// The most layers of an image: Docker's own limit, and what fits into one mount's options.
pub const MAX_LAYERS: usize = 127;

/// What is asked for when a manifest is fetched, in order of preference.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// A pointer to content, with its size in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Sha256,
    pub size: u64,
    pub platform: Option<Platform>,
}

/// What a name stands for at a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// Manifests of several platforms.
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

/// One platform's image: its configuration, and its layers, bottom first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// An image's configuration as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    pub platform: Platform,
    /// Of the uncompressed layers, bottom first.
    pub diff_ids: Vec<Sha256>,
    pub config: ImageConfig,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    #[serde(default)]
    schema_version: Option<u32>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<RawDescriptor>>,
    #[serde(default)]
    config: Option<RawDescriptor>,
    #[serde(default)]
    layers: Option<Vec<RawDescriptor>>,
    #[serde(default)]
    fs_layers: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    platform: Option<RawPlatform>,
}

#[derive(Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

impl RawDescriptor {
    fn check(self) -> Result<Descriptor, String> {
        let digest = self.digest.parse().map_err(|e: crate::digest::DigestError| e.to_string())?;
        let platform = self.platform.map(|p| Platform::new(&p.os, &p.architecture, &p.variant));
        Ok(Descriptor { media_type: self.media_type, digest, size: self.size, platform })
    }
}

impl Document {
    /// Reads an index or a manifest. `what` names it in errors; `content_type` is the HTTP header,
    /// which counts only where the document itself is silent.
    pub fn parse(what: &str, bytes: &[u8], content_type: &str) -> Result<Document, ImageError> {
        parse_document(bytes, content_type)
            .map_err(|problem| ImageError::Manifest { what: format!("manifest of {what}"), problem })
    }
}

fn parse_document(bytes: &[u8], content_type: &str) -> Result<Document, String> {
    let raw: RawDocument = serde_json::from_slice(bytes).map_err(|e| format!("not a manifest: {e}"))?;
    let media_type = raw.media_type.as_deref().unwrap_or_else(|| content_type.split(';').next().unwrap_or("").trim());
    if raw.schema_version == Some(1) || raw.fs_layers.is_some() || media_type.contains("distribution.manifest.v1") {
        return Err("Docker schema 1 is not supported: push the image again with a current tool".into());
    }
    match (raw.manifests, raw.config, raw.layers) {
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => Err("both an index and a manifest".into()),
        (Some(manifests), None, None) => {
            let entries = manifests.into_iter().map(RawDescriptor::check).collect::<Result<_, _>>()?;
            Ok(Document::Index(entries))
        }
        (None, Some(config), Some(layers)) => {
            let config = config.check()?;
            let layers = layers.into_iter().map(RawDescriptor::check).collect::<Result<Vec<_>, _>>()?;
            check_manifest(&config, &layers)?;
            Ok(Document::Manifest(Manifest { config, layers }))
        }
        _ => Err(format!("neither an index nor an image manifest (media type {media_type:?})")),
    }
}

fn check_manifest(config: &Descriptor, layers: &[Descriptor]) -> Result<(), String> {
    if layers.len() > MAX_LAYERS {
        return Err(format!("{} layers; at most {MAX_LAYERS} can be stacked", layers.len()));
    }
    if config.size > MAX_CONFIG {
        return Err(format!("a configuration of {} bytes; at most {MAX_CONFIG} are read", config.size));
    }
    match layers.iter().find(|l| !is_layer(&l.media_type)) {
        Some(odd) => Err(format!("{:?} is not a layer of a container image", odd.media_type)),
        None => Ok(()),
    }
}

/// The compression is recognised by its first bytes, as other runtimes do, since some tools name
/// the wrong one.
fn is_layer(media_type: &str) -> bool {
    let kind = media_type.strip_prefix("application/vnd.").unwrap_or(media_type);
    let tar = |prefix: &str| {
        kind.strip_prefix(prefix).is_some_and(|rest| matches!(rest, "" | "+gzip" | "+zstd" | ".gzip" | ".zstd"))
    };
    tar("oci.image.layer.v1.tar")
        || tar("oci.image.layer.nondistributable.v1.tar")
        || tar("docker.image.rootfs.diff.tar")
        || tar("docker.image.rootfs.foreign.diff.tar")
}

/// The manifest of an index that suits `platform` best; the first of equals, as OCI says.
pub fn select<'a>(reference: &str, index: &'a [Descriptor], platform: &Platform) -> Result<&'a Descriptor, ImageError> {
    let ranked = index.iter().filter_map(|d| Some((platform.rank(d.platform.as_ref()?)?, d)));
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, descriptor)| descriptor).ok_or_else(|| ImageError::Platform {
        reference: reference.to_owned(),
        wanted: platform.clone(),
        offered: platforms(index),
    })
}

/// The platforms of an index, without entries that are no images (attestations).
pub fn platforms(index: &[Descriptor]) -> Vec<Platform> {
    let mut all: Vec<Platform> =
        index.iter().filter_map(|d| d.platform.clone()).filter(|p| p.os != "unknown" && !p.os.is_empty()).collect();
    all.dedup();
    all
}

#[derive(Deserialize)]
struct RawConfiguration {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
    #[serde(default)]
    rootfs: Option<RawRootfs>,
    #[serde(default)]
    config: Option<RawConfig>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Vec<Sha256>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    volumes: Option<BTreeMap<String, Value>>,
    stop_signal: Option<String>,
    exposed_ports: Option<BTreeMap<String, Value>>,
    labels: Option<BTreeMap<String, String>>,
}

impl Configuration {
    /// Reads a configuration and checks that it and its manifest speak of as many layers.
    pub fn parse(what: &str, bytes: &[u8], layers: usize) -> Result<Configuration, ImageError> {
        let bad = |problem: String| ImageError::Manifest { what: format!("configuration of {what}"), problem };
        let raw: RawConfiguration = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        let diff_ids = raw.rootfs.map(|r| r.diff_ids).unwrap_or_default();
        if diff_ids.len() != layers {
            return Err(bad(format!("{} diff ids for {layers} layers", diff_ids.len())));
        }
        if raw.os.is_empty() || raw.architecture.is_empty() {
            return Err(bad("it names no operating system or architecture".into()));
        }
        let platform = Platform::new(&raw.os, &raw.architecture, &raw.variant);
        Ok(Configuration { platform, diff_ids, config: flatten(raw.config.unwrap_or_default()) })
    }
}

fn flatten(raw: RawConfig) -> ImageConfig {
    ImageConfig {
        entrypoint: raw.entrypoint.unwrap_or_default(),
        cmd: raw.cmd.unwrap_or_default(),
        env: raw.env.unwrap_or_default(),
        user: raw.user.unwrap_or_default(),
        workdir: raw.working_dir.unwrap_or_default(),
        volumes: raw.volumes.unwrap_or_default().into_keys().collect(),
        stop_signal: raw.stop_signal.unwrap_or_default(),
        exposed_ports: raw.exposed_ports.unwrap_or_default().into_keys().collect(),
        labels: raw.labels.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
