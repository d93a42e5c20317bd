//! The images' directory on disk. There is no database: what is present is what has its final name.
//!
//! ```text
//! lock                      held by the one process that uses the directory
//! partial/HEX               a download that has not ended, by the blob's digest
//! tmp/N/                    unpacking in progress; swept at start
//! layers/ID/fs/             a layer as overlayfs wants it
//! layers/ID/layer.json      its [`LayerRecord`]; ID is the shortest free prefix of the diff id
//! images/HEX.json           an [`ImageRecord`], by the manifest's digest; its mtime is its last use
//! names/HEX.json            a [`NameRecord`], by the SHA-256 of the reference as text
//! ```
//!
//! Order of writing: everything below a layer's directory, one sync of the file system, rename to
//! `layers/ID`, sync of `layers`; then the image's record, then the name. So each name points at
//! something whole, at every instant of a power cut.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, Timespec, Timestamps, UTIME_OMIT};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::Sha256;
use crate::error::ImageError;
use crate::image::{Image, ImageConfig};
use crate::platform::Platform;
use crate::reference::Reference;

/// Digits of a layer's directory name: 127 of them and their separators stay far below the page that
/// a mount's options share, and 48 bits collide seldom enough that a longer name is a rarity.
const ID_DIGITS: usize = 12;
/// The largest metadata file that is read back: an image's record with its configuration.
const MAX_RECORD: u64 = 8 << 20;

/// What is known of an unpacked layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Of the uncompressed tar; for a directory overlay of an image, of the list it was made from.
    pub diff_id: Sha256,
    /// Bytes of its files.
    pub size: u64,
    pub entries: u64,
    /// Directories that the layer has no entry for but that paths in it go through, from the root,
    /// in order: their mode and owner are those of the layer below (see [`crate::unpack::implied`]).
    pub implied: Vec<String>,
}

/// What is known of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    pub id: Sha256,
    /// Bottom first, as the image lists them.
    pub diff_ids: Vec<Sha256>,
    /// A layer made on this node that gives implied directories their mode; it lies on top.
    pub overlay: Option<Sha256>,
    pub os: String,
    pub architecture: String,
    pub variant: String,
    pub config: ImageConfig,
}

/// What a name meant when it was last resolved, for one platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRecord {
    pub reference: String,
    pub image: Sha256,
}

/// Paths of the directory, and what was found there.
pub struct Store {
    root: PathBuf,
    userxattr: bool,
    next_temp: AtomicU64,
    found: Mutex<Found>,
    /// Held while the store lives, so that no second process sweeps or collects below this one.
    _lock: File,
}

#[derive(Default)]
struct Found {
    /// Layers by diff id: the directory's name and the record.
    layers: HashMap<Sha256, (String, LayerRecord)>,
    images: BTreeMap<Sha256, ImageRecord>,
    names: HashMap<String, NameRecord>,
}

impl Store {
    /// Makes the directory where needed, takes its lock, sweeps what was under way when the last
    /// user of it ended, and finds what is whole.
    pub fn open(root: &Path) -> Result<Store, ImageError> {
        for name in ["partial", "layers", "images", "names"] {
            let dir = root.join(name);
            fs::create_dir_all(&dir).map_err(ImageError::io("create", &dir))?;
        }
        let lock = lock(root)?;
        set_private(root)?;
        let temp = root.join("tmp");
        match fs::remove_dir_all(&temp) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(ImageError::io("remove leftovers in", &temp)(error));
            }
            _ => fs::create_dir_all(&temp).map_err(ImageError::io("create", &temp))?,
        }
        let userxattr = !can_set_trusted(&temp);
        let store = Store {
            root: root.to_owned(),
            userxattr,
            next_temp: AtomicU64::new(0),
            found: Mutex::new(Found::default()),
            _lock: lock,
        };
        *store.found() = store.discover()?;
        Ok(store)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Opaque directories carry `user.overlay.opaque` because this process may not set `trusted.*`.
    pub fn userxattr(&self) -> bool {
        self.userxattr
    }

    pub fn layers_dir(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub fn partial(&self, blob: &Sha256) -> PathBuf {
        self.root.join("partial").join(blob.hex())
    }

    /// A new directory below `tmp`, on the file system of the layers.
    pub fn temp_dir(&self) -> Result<PathBuf, ImageError> {
        let dir = self.root.join("tmp").join(self.next_temp.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&dir).map_err(ImageError::io("create", &dir))?;
        Ok(dir)
    }

    pub fn has_layer(&self, diff_id: &Sha256) -> bool {
        self.found().layers.contains_key(diff_id)
    }

    pub fn layer(&self, diff_id: &Sha256) -> Option<(PathBuf, LayerRecord)> {
        let found = self.found();
        let (name, record) = found.layers.get(diff_id)?;
        Some((self.layers_dir().join(name).join("fs"), record.clone()))
    }

    pub fn image_records(&self) -> Vec<ImageRecord> {
        self.found().images.values().cloned().collect()
    }

    pub fn layer_records(&self) -> Vec<LayerRecord> {
        self.found().layers.values().map(|(_, record)| record.clone()).collect()
    }

    /// The image that `reference` is known to mean on `platform`, if all of it is here.
    pub fn named(&self, reference: &Reference, platform: &Platform) -> Option<ImageRecord> {
        let found = self.found();
        let by_name = found.names.get(&name_key(reference, platform)).map(|name| name.image);
        let id = by_name.or(reference.digest())?;
        let record = found.images.get(&id)?;
        let layers_here = record.diff_ids.iter().chain(&record.overlay).all(|l| found.layers.contains_key(l));
        layers_here.then(|| record.clone())
    }

    /// The image with this manifest, if all of it is here.
    pub fn whole(&self, id: &Sha256) -> Option<ImageRecord> {
        let found = self.found();
        let record = found.images.get(id)?;
        let layers_here = record.diff_ids.iter().chain(&record.overlay).all(|l| found.layers.contains_key(l));
        layers_here.then(|| record.clone())
    }

    /// The record as callers see it.
    pub fn view(&self, record: &ImageRecord, reference: &Reference) -> Result<Image, ImageError> {
        let found = self.found();
        let mut layers = Vec::with_capacity(record.diff_ids.len() + 1);
        let mut size = 0;
        for diff_id in record.overlay.iter().chain(record.diff_ids.iter().rev()) {
            let (name, layer) = found.layers.get(diff_id).ok_or_else(|| ImageError::Manifest {
                what: format!("image {}", record.id),
                problem: format!("layer {diff_id} is gone from the disk"),
            })?;
            let path = self.layers_dir().join(name).join("fs");
            // A layer that an image repeats (often an empty one) may lie in a stack only once.
            if !layers.contains(&path) {
                layers.push(path);
                size += layer.size;
            }
        }
        Ok(Image {
            id: record.id,
            pinned: reference.pinned(&record.id),
            layers,
            layers_dir: self.layers_dir(),
            config: record.config.clone(),
            size,
            userxattr: self.userxattr,
        })
    }

    /// Notes a use, for [`Store::last_used`]. Not synced: after a power cut an image merely looks
    /// older.
    pub fn touch(&self, id: &Sha256) -> Result<(), ImageError> {
        let path = self.image_path(id);
        let file = File::open(&path).map_err(ImageError::io("open", &path))?;
        let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        rustix::fs::futimens(&file, &Timestamps { last_access: omit, last_modification: now })
            .map_err(|e| ImageError::io("set the time of", &path)(e.into()))
    }

    pub fn last_used(&self, id: &Sha256) -> SystemTime {
        fs::metadata(self.image_path(id)).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Gives unpacked and synced layers (`temp/fs`) their final names. The caller synced the file
    /// system; here each gets its record, synced with its directory, and a name.
    pub fn publish_layers(&self, layers: Vec<(PathBuf, LayerRecord)>) -> Result<(), ImageError> {
        if layers.is_empty() {
            return Ok(());
        }
        let mut found = self.found();
        for (temp, record) in layers {
            if found.layers.contains_key(&record.diff_id) {
                remove_tree(&temp)?;
                continue;
            }
            let name = free_name(&record.diff_id, &found.layers);
            let path = self.layers_dir().join(&name);
            fs::rename(&temp, &path).map_err(ImageError::io("rename to", &path))?;
            found.layers.insert(record.diff_id, (name, record));
        }
        sync_dir(&self.layers_dir())
    }

    /// Writes `layer.json` into a layer's temporary directory, before the sync.
    pub fn write_layer_record(&self, temp: &Path, record: &LayerRecord) -> Result<(), ImageError> {
        let path = temp.join("layer.json");
        fs::write(&path, to_json(record)).map_err(ImageError::io("write", &path))
    }

    /// Makes an image known, durably. Its layers have their names.
    pub fn publish_image(&self, record: ImageRecord) -> Result<(), ImageError> {
        self.write_durably(&self.image_path(&record.id), &to_json(&record))?;
        self.found().images.insert(record.id, record);
        Ok(())
    }

    /// Notes what a name means, if that is new.
    pub fn publish_name(&self, reference: &Reference, platform: &Platform, image: Sha256) -> Result<(), ImageError> {
        let key = name_key(reference, platform);
        let record = NameRecord { reference: key.clone(), image };
        if self.found().names.get(&key) == Some(&record) {
            return Ok(());
        }
        self.write_durably(&self.name_path(&key), &to_json(&record))?;
        self.found().names.insert(key, record);
        Ok(())
    }

    /// Forgets images: their names first, then their records, so that no name is left dangling.
    pub fn remove_images(&self, ids: &[Sha256]) -> Result<(), ImageError> {
        let mut found = self.found();
        let gone: Vec<String> =
            found.names.iter().filter(|(_, n)| ids.contains(&n.image)).map(|(key, _)| key.clone()).collect();
        for key in gone {
            remove_if_there(&self.name_path(&key))?;
            found.names.remove(&key);
        }
        for id in ids {
            remove_if_there(&self.image_path(id))?;
            found.images.remove(id);
        }
        sync_dir(&self.root.join("images"))
    }

    /// Takes a layer's name away; its files lie in the answered directory, to be removed.
    pub fn bury_layer(&self, diff_id: &Sha256) -> Result<Option<PathBuf>, ImageError> {
        let mut found = self.found();
        let Some((name, _)) = found.layers.get(diff_id) else { return Ok(None) };
        let path = self.layers_dir().join(name);
        let grave = self.root.join("tmp").join(format!("gone-{}", self.next_temp.fetch_add(1, Ordering::Relaxed)));
        fs::rename(&path, &grave).map_err(ImageError::io("rename", &path))?;
        found.layers.remove(diff_id);
        Ok(Some(grave))
    }

    /// Downloads that have not ended.
    pub fn partials(&self) -> Result<Vec<PathBuf>, ImageError> {
        let dir = self.root.join("partial");
        Ok(list(&dir)?.into_iter().map(|name| dir.join(name)).collect())
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        // The maps are changed by single inserts and removes: a panic elsewhere leaves them right.
        self.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn image_path(&self, id: &Sha256) -> PathBuf {
        self.root.join("images").join(format!("{}.json", id.hex()))
    }

    fn name_path(&self, key: &str) -> PathBuf {
        self.root.join("names").join(format!("{}.json", Sha256::of(key.as_bytes()).hex()))
    }

    fn discover(&self) -> Result<Found, ImageError> {
        let mut found = Found::default();
        for name in list(&self.layers_dir())? {
            let dir = self.layers_dir().join(&name);
            match read_json::<LayerRecord>(&dir.join("layer.json")) {
                Some(record) => drop(found.layers.insert(record.diff_id, (name, record))),
                // No version of this program leaves such a directory: it is not ours to use.
                None => remove_tree(&dir)?,
            }
        }
        for name in list(&self.root.join("images"))? {
            if let Some(record) = read_json::<ImageRecord>(&self.root.join("images").join(name)) {
                found.images.insert(record.id, record);
            }
        }
        for name in list(&self.root.join("names"))? {
            if let Some(record) = read_json::<NameRecord>(&self.root.join("names").join(name)) {
                found.names.insert(record.reference.clone(), record);
            }
        }
        Ok(found)
    }

    fn write_durably(&self, path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
        let temp = self.root.join("tmp").join(format!("file-{}", self.next_temp.fetch_add(1, Ordering::Relaxed)));
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&temp)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temp, path)
        };
        write().map_err(ImageError::io("write", path))?;
        sync_dir(path.parent().unwrap_or(&self.root))
    }
}

/// Removes a tree of unpacked files. Its depth is bounded when it is made.
pub fn remove_tree(path: &Path) -> Result<(), ImageError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(ImageError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Syncs a directory: the names in it.
pub fn sync_dir(path: &Path) -> Result<(), ImageError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(ImageError::io("sync", path))
}

fn name_key(reference: &Reference, platform: &Platform) -> String {
    format!("{reference} {platform}")
}

fn free_name(diff_id: &Sha256, taken: &HashMap<Sha256, (String, LayerRecord)>) -> String {
    let hex = diff_id.hex();
    let mut digits = ID_DIGITS;
    while digits < hex.len() && taken.values().any(|(name, _)| name == &hex[..digits]) {
        digits += 1;
    }
    hex[..digits].to_owned()
}

fn lock(root: &Path) -> Result<File, ImageError> {
    let path = root.join("lock");
    let file = File::create(&path).map_err(ImageError::io("create", &path))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|e| ImageError::io("lock (another agent uses this directory?)", &path)(e.into()))?;
    Ok(file)
}

/// Layers hold setuid programs and device nodes: nobody else may reach them.
fn set_private(root: &Path) -> Result<(), ImageError> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(root, fs::Permissions::from_mode(0o700)).map_err(ImageError::io("restrict access to", root))
}

fn can_set_trusted(dir: &Path) -> bool {
    let flags = rustix::fs::XattrFlags::empty();
    let set = rustix::fs::setxattr(dir, "trusted.overlay.probe", b"y", flags).is_ok();
    set && rustix::fs::removexattr(dir, "trusted.overlay.probe").is_ok()
}

fn list(dir: &Path) -> Result<Vec<String>, ImageError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(ImageError::io("list", dir))? {
        let entry = entry.map_err(ImageError::io("list", dir))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    if fs::metadata(path).ok()?.len() > MAX_RECORD {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("records hold strings and numbers only")
}

pub fn remove_if_there(path: &Path) -> Result<(), ImageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(ImageError::io("remove", path)(error)),
        _ => Ok(()),
    }
}
