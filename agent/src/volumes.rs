//! A pod's volumes: what they should hold (pure), and making them so.
//!
//! Everything that may hold a Secret lies on a tmpfs; only `emptyDir` on disk does not.

mod files;
mod names;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use coracle_shared::api::quantity::Quantity;
use coracle_shared::ids::PodUid;
use rustix::mount::{MountFlags, UnmountFlags};

pub use files::{Payload, publish};
pub use names::{HostNames, hosts, resolv_conf};

use crate::reconcile::env::{Lookup, Surroundings, pod_field, resource_field};
use crate::reconcile::view::{ContainerView, DownwardVolume, HostPath, KeyToPath, PodView, VolumeView};

/// The mode of files of ConfigMaps and Secrets unless the pod says otherwise.
const DEFAULT_MODE: u32 = 0o644;

/// What a volume is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Volume {
    /// An empty directory on disk.
    Empty,
    /// An empty directory in memory, with a limit in bytes.
    Memory { size: Option<u64> },
    /// The node's own file or directory.
    Host { path: PathBuf, kind: HostKind },
    /// Files that the agent writes, read-only to the pod.
    Files(Payload),
}

/// `hostPath.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKind {
    Any,
    DirectoryOrCreate,
    Directory,
    FileOrCreate,
    File,
    Socket,
    CharDevice,
    BlockDevice,
}

/// All volumes of a pod by name.
///
/// # Errors
/// The sentence of a FailedMount event: what is missing.
pub fn plan(view: &PodView, around: &Surroundings, lookup: Lookup) -> Result<BTreeMap<String, Volume>, String> {
    let one = |v: &VolumeView| Ok((v.name.clone(), volume(view, v, around, lookup)?));
    view.spec.volumes.iter().map(one).collect()
}

fn volume(view: &PodView, v: &VolumeView, around: &Surroundings, lookup: Lookup) -> Result<Volume, String> {
    if let Some(empty) = &v.empty_dir {
        if empty.medium != "Memory" {
            return Ok(Volume::Empty);
        }
        let size = empty.size_limit.as_ref().map(Quantity::from_value).transpose().map_err(|e| e.to_string())?;
        return Ok(Volume::Memory { size: size.and_then(|s| u64::try_from(s.units()).ok()) });
    }
    if let Some(host) = &v.host_path {
        return host_volume(host);
    }
    let mut payload = Payload::default();
    if let Some(c) = &v.config_map {
        let mode = c.default_mode.unwrap_or(DEFAULT_MODE);
        data_files(false, &c.name, &c.items, c.optional, mode, lookup, &mut payload)?;
    } else if let Some(s) = &v.secret {
        let mode = s.default_mode.unwrap_or(DEFAULT_MODE);
        data_files(true, &s.secret_name, &s.items, s.optional, mode, lookup, &mut payload)?;
    } else if let Some(d) = &v.downward_api {
        downward_files(view, d, d.default_mode.unwrap_or(DEFAULT_MODE), around, &mut payload)?;
    } else if let Some(p) = &v.projected {
        let mode = p.default_mode.unwrap_or(DEFAULT_MODE);
        for source in &p.sources {
            for (secret, data) in [(false, &source.config_map), (true, &source.secret)] {
                if let Some(d) = data {
                    data_files(secret, &d.name, &d.items, d.optional, mode, lookup, &mut payload)?;
                }
            }
            if let Some(d) = &source.downward_api {
                downward_files(view, d, mode, around, &mut payload)?;
            }
        }
    } else {
        return Err(format!("volume {} is of a kind that this release does not have", v.name));
    }
    Ok(Volume::Files(payload))
}

fn host_volume(host: &HostPath) -> Result<Volume, String> {
    let kind = match host.kind.as_str() {
        "" => HostKind::Any,
        "DirectoryOrCreate" => HostKind::DirectoryOrCreate,
        "Directory" => HostKind::Directory,
        "FileOrCreate" => HostKind::FileOrCreate,
        "File" => HostKind::File,
        "Socket" => HostKind::Socket,
        "CharDevice" => HostKind::CharDevice,
        "BlockDevice" => HostKind::BlockDevice,
        other => return Err(format!("hostPath type {other:?} is not known")),
    };
    if !host.path.starts_with('/') || host.path.split('/').any(|part| part == "..") {
        return Err(format!("hostPath {:?} is not an absolute path without ..", host.path));
    }
    Ok(Volume::Host { path: PathBuf::from(&host.path), kind })
}

fn data_files(
    secret: bool,
    name: &str,
    items: &[KeyToPath],
    optional: bool,
    mode: u32,
    lookup: Lookup,
    payload: &mut Payload,
) -> Result<(), String> {
    let kind = if secret { "secret" } else { "configmap" };
    let Some(data) = lookup(secret, name) else {
        return if optional { Ok(()) } else { Err(format!("{kind} \"{name}\" not found")) };
    };
    if items.is_empty() {
        return data.data.iter().try_for_each(|(key, bytes)| payload.add(key, bytes.clone(), mode));
    }
    for item in items {
        match data.data.get(&item.key) {
            Some(bytes) => payload.add(&item.path, bytes.clone(), item.mode.unwrap_or(mode))?,
            None if optional => {}
            None => return Err(format!("{kind} \"{name}\" has no key {:?}", item.key)),
        }
    }
    Ok(())
}

fn downward_files(
    view: &PodView,
    volume: &DownwardVolume,
    mode: u32,
    around: &Surroundings,
    payload: &mut Payload,
) -> Result<(), String> {
    let nobody = ContainerView::default();
    for item in &volume.items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => pod_field(view, &field.field_path, around)?,
            (None, Some(resource)) => resource_field(view, &nobody, resource, around)?,
            (None, None) => return Err(format!("downward API file {:?} has no source", item.path)),
        };
        payload.add(&item.path, text.into_bytes(), item.mode.unwrap_or(mode))?;
    }
    Ok(())
}

/// Where the volumes of a node's pods lie. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Volumes {
    /// On disk.
    state: PathBuf,
    /// On a tmpfs.
    memory: PathBuf,
}

impl Volumes {
    /// Opens the two directories. Where `runtime` is not on a tmpfs, one is mounted in it, because
    /// Secrets never touch a disk.
    ///
    /// # Errors
    /// A directory or the mount cannot be made.
    pub fn open(state: &Path, runtime: &Path) -> io::Result<Self> {
        let volumes = Volumes { state: state.join("pods"), memory: runtime.join("volumes") };
        for dir in [&volumes.state, &volumes.memory] {
            fs::create_dir_all(dir)?;
            fs::set_permissions(dir, fs::Permissions::from_mode(0o711))?;
        }
        // tmpfs and ramfs, statfs(2).
        const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];
        // Of another width and sign on 32-bit machines.
        #[allow(clippy::useless_conversion)]
        let kind = i64::from(rustix::fs::statfs(&volumes.memory)?.f_type) & 0xffff_ffff;
        if !IN_MEMORY.contains(&kind) {
            mount_tmpfs(&volumes.memory, None, "0711")?;
        }
        Ok(volumes)
    }

    /// The directory of a pod on disk: `emptyDir`s and the upper directories of its containers.
    pub fn on_disk(&self, uid: &PodUid) -> PathBuf {
        self.state.join(&uid.0)
    }

    /// The directory of a pod in memory.
    pub fn in_memory(&self, uid: &PodUid) -> PathBuf {
        self.memory.join(&uid.0)
    }

    /// The pods that have a directory on disk.
    pub fn pods(&self) -> Vec<PodUid> {
        let entries = fs::read_dir(&self.state).into_iter().flatten().flatten();
        entries.filter_map(|e| Some(PodUid(e.file_name().to_str()?.to_owned()))).collect()
    }

    /// Where a volume is to be mounted from.
    pub fn source(&self, uid: &PodUid, name: &str, volume: &Volume) -> PathBuf {
        match volume {
            Volume::Empty => self.on_disk(uid).join("volumes").join(name),
            Volume::Memory { .. } | Volume::Files(_) => self.in_memory(uid).join("volumes").join(name),
            Volume::Host { path, .. } => path.clone(),
        }
    }

    /// Makes the volumes, or brings those there are up to date. Files change under one rename;
    /// what is right already is not touched.
    ///
    /// # Errors
    /// The sentence of a FailedMount event.
    pub fn apply(&self, uid: &PodUid, volumes: &BTreeMap<String, Volume>, group: Option<u32>) -> Result<(), String> {
        for (name, volume) in volumes {
            let path = self.source(uid, name, volume);
            let made = match volume {
                Volume::Empty => make_empty(&path, group),
                Volume::Memory { size } => make_memory(&path, *size, group),
                Volume::Host { kind, .. } => check_host(&path, *kind).map_err(io::Error::other),
                Volume::Files(payload) => publish(&path, payload, group),
            };
            made.map_err(|e| format!("volume \"{name}\": {e}"))?;
        }
        Ok(())
    }

    /// Removes every volume of a pod. Goes on after an error and reports them all.
    ///
    /// # Errors
    /// What could not be removed.
    pub fn remove(&self, uid: &PodUid) -> Result<(), String> {
        let mut errors = Vec::new();
        let memory = self.in_memory(uid);
        for entry in fs::read_dir(memory.join("volumes")).into_iter().flatten().flatten() {
            match rustix::mount::unmount(entry.path(), UnmountFlags::DETACH) {
                // Not a mount point: files.
                Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
                Err(e) => errors.push(format!("unmount {}: {e}", entry.path().display())),
            }
        }
        for dir in [memory, self.on_disk(uid)] {
            match fs::remove_dir_all(&dir) {
                Err(e) if !is_gone(&e) => errors.push(format!("{}: {e}", dir.display())),
                _ => {}
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
    }
}

/// Nothing is there, or it lies on a card that has become read-only: a pod's removal does not wait for
/// a new card, and the next start on a sound one takes the rest away.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ReadOnlyFilesystem)
}

fn make_empty(path: &Path, group: Option<u32>) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    std::os::unix::fs::chown(path, None, group)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn make_memory(path: &Path, size: Option<u64>, group: Option<u32>) -> io::Result<()> {
    if is_mount(path)? {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    mount_tmpfs(path, size, "0777")?;
    std::os::unix::fs::chown(path, None, group)
}

/// A directory on another device than its parent.
fn is_mount(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (Ok(own), Some(parent)) = (fs::metadata(path), path.parent()) else { return Ok(false) };
    Ok(own.dev() != fs::metadata(parent)?.dev())
}

fn mount_tmpfs(path: &Path, size: Option<u64>, mode: &str) -> io::Result<()> {
    let mut options = format!("mode={mode}");
    if let Some(size) = size {
        options += &format!(",size={size}");
    }
    let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", path, "tmpfs", flags, Some(options.as_c_str()))?;
    Ok(())
}

fn check_host(path: &Path, kind: HostKind) -> Result<(), String> {
    let there = |what: &str, is: fn(&fs::FileType) -> bool| {
        let fits = fs::metadata(path).is_ok_and(|m| is(&m.file_type()));
        if fits { Ok(()) } else { Err(format!("hostPath type check failed: {} is not {what}", path.display())) }
    };
    let make = |made: io::Result<()>| made.map_err(|e| format!("hostPath {}: {e}", path.display()));
    match kind {
        HostKind::Any if path.exists() => Ok(()),
        // A missing path without a type becomes a directory, as the runtimes of Kubernetes do it.
        HostKind::Any | HostKind::DirectoryOrCreate if !path.exists() => make(fs::create_dir_all(path)),
        HostKind::FileOrCreate if !path.exists() => make(fs::File::create(path).map(drop)),
        HostKind::Any => Ok(()),
        HostKind::Directory | HostKind::DirectoryOrCreate => there("a directory", fs::FileType::is_dir),
        HostKind::File | HostKind::FileOrCreate => there("a file", fs::FileType::is_file),
        HostKind::Socket => there("a socket", |t| t.is_socket()),
        HostKind::CharDevice => there("a character device", |t| t.is_char_device()),
        HostKind::BlockDevice => there("a block device", |t| t.is_block_device()),
    }
}

#[cfg(test)]
mod tests;
