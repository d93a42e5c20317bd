//! A registry in this process, images built in memory, and the unpacking child as a test.

#![allow(dead_code, unused_imports, reason = "each test binary uses its part")]

pub mod registry;

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use coracle_images::{Config, Event, Images, Platform, Reference, Sha256, Unpacker};
use serde_json::json;

pub use registry::{Auth, Fault, Registry};

/// Free space that tests leave: little, so that they run on a full machine too.
const RESERVE: u64 = 1 << 20;

/// The unpacking child is this very test binary, running [`child_entry`] alone.
pub fn config() -> Config {
    let arguments = ["child_entry", "--exact", "--nocapture"].map(Into::into).to_vec();
    let program = std::env::current_exe().unwrap();
    Config { unpacker: Unpacker { program, arguments }, reserve: RESERVE, parallel: 2, ..Config::default() }
}

/// To be called from a test named `child_entry` in every binary that pulls.
pub fn child_entry() {
    let asked = std::env::var_os("CORACLE_UNPACK").is_some();
    let code = coracle_images::unpack::child_main();
    if asked {
        std::process::exit(0);
    }
    assert_eq!(format!("{code:?}"), format!("{:?}", std::process::ExitCode::from(2)), "it must be started with a job");
}

pub fn open(dir: &Path) -> Images {
    Images::open(dir, config()).unwrap()
}

pub fn quiet(_: Event) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

pub fn host() -> Platform {
    Platform::host()
}

pub fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

/// One entry of a layer.
pub enum Put<'a> {
    File(&'a str, &'a [u8]),
    Mode(&'a str, u32, &'a [u8]),
    Dir(&'a str, u32),
    Link(&'a str, &'a str),
    Hard(&'a str, &'a str),
}

/// A tar of these entries; paths are written as they are, however wrong.
pub fn tar(entries: &[Put<'_>]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for entry in entries {
        let (path, kind, mode, link, data): (_, _, _, _, &[u8]) = match entry {
            Put::File(path, data) => (path, tar::EntryType::Regular, 0o644, "", data),
            Put::Mode(path, mode, data) => (path, tar::EntryType::Regular, *mode, "", data),
            Put::Dir(path, mode) => (path, tar::EntryType::Directory, *mode, "", &[]),
            Put::Link(path, to) => (path, tar::EntryType::Symlink, 0o777, to, &[]),
            Put::Hard(path, to) => (path, tar::EntryType::Link, 0o644, to, &[]),
        };
        out.append(&header(path, kind, mode, link, data.len() as u64), data).unwrap();
    }
    out.into_inner().unwrap()
}

/// A ustar header with raw names.
pub fn header(path: &str, kind: tar::EntryType, mode: u32, link: &str, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_size(size);
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    header
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    gzip_at(data, flate2::Compression::fast())
}

pub fn gzip_at(data: &[u8], level: flate2::Compression) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// Bytes that do not compress, always the same for a seed (xorshift).
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

/// A layer as a registry has it.
pub struct Layer {
    pub blob: Vec<u8>,
    pub diff_id: Sha256,
    pub media_type: &'static str,
}

impl Layer {
    pub fn gzip(tar: &[u8]) -> Layer {
        let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
        Layer { blob: gzip(tar), diff_id: Sha256::of(tar), media_type }
    }

    pub fn plain(tar: &[u8]) -> Layer {
        Layer { blob: tar.to_vec(), diff_id: Sha256::of(tar), media_type: "application/vnd.oci.image.layer.v1.tar" }
    }

    pub fn digest(&self) -> Sha256 {
        Sha256::of(&self.blob)
    }
}

/// The configuration and manifest of an image of `layers` for `platform`.
pub fn image_json(layers: &[Layer], platform: &Platform) -> (Vec<u8>, Vec<u8>) {
    let config = json!({
        "os": platform.os, "architecture": platform.architecture, "variant": platform.variant,
        "config": {"Cmd": ["/bin/true"], "Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|l| l.diff_id.to_string()).collect::<Vec<_>>()},
    });
    let config = serde_json::to_vec(&config).unwrap();
    let describe =
        |l: &Layer| json!({"mediaType": l.media_type, "digest": l.digest().to_string(), "size": l.blob.len()});
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Sha256::of(&config).to_string(), "size": config.len(),
        },
        "layers": layers.iter().map(describe).collect::<Vec<_>>(),
    });
    (config, serde_json::to_vec(&manifest).unwrap())
}

/// Names of everything below the images' directory that is not metadata of its own.
pub fn leftovers(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for part in ["tmp", "layers", "partial", "images", "names"] {
        for entry in std::fs::read_dir(dir.join(part)).unwrap() {
            found.push(format!("{part}/{}", entry.unwrap().file_name().to_string_lossy()));
        }
    }
    found
}
