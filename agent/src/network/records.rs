//! What the network keeps in the runtime directory: which pod has which address, and the settings of
//! the node that were changed. It lies in `/run`: after a reboot there is nothing to remember.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use coracle_shared::ids::PodUid;

use super::error::NetworkError;

/// Longest UID taken as a file name; Kubernetes' own have 36 characters.
const MAX_UID: usize = 128;

pub(crate) struct Records {
    root: PathBuf,
}

impl Records {
    /// Opens the records below `runtime_dir`, making what directories are missing.
    pub(crate) fn open(runtime_dir: &Path) -> Result<Records, NetworkError> {
        let records = Records { root: runtime_dir.to_owned() };
        for directory in [records.pods(), records.pins()] {
            fs::create_dir_all(&directory).map_err(NetworkError::path(&directory))?;
        }
        Ok(records)
    }

    fn pods(&self) -> PathBuf {
        self.root.join("network/pods")
    }

    fn pins(&self) -> PathBuf {
        self.root.join("netns")
    }

    /// Where the namespace of the pod is pinned.
    pub(crate) fn pin(&self, uid: &PodUid) -> PathBuf {
        self.pins().join(&uid.0)
    }

    /// Where a namespace in stock is pinned. No UID starts with a dot.
    pub(crate) fn stock_pin(&self, address: Ipv4Addr) -> PathBuf {
        self.pins().join(format!(".stock-{address}"))
    }

    pub(crate) fn write(&self, uid: &PodUid, address: Ipv4Addr) -> Result<(), NetworkError> {
        replace(&self.pods().join(&uid.0), &address.to_string())
    }

    pub(crate) fn remove(&self, uid: &PodUid) -> Result<(), NetworkError> {
        let path = self.pods().join(&uid.0);
        absent(fs::remove_file(&path)).map_err(NetworkError::path(&path))
    }

    /// The recorded pods. A file that is none of ours is left alone.
    pub(crate) fn attached(&self) -> Result<BTreeMap<PodUid, Ipv4Addr>, NetworkError> {
        let read = |name: &String| fs::read_to_string(self.pods().join(name)).ok()?.trim().parse().ok();
        let names = names(&self.pods())?;
        let recorded = names.into_iter().filter_map(|n| Some((PodUid(n.clone()), read(&n)?)));
        Ok(recorded.filter(|(uid, _)| check_uid(uid).is_ok()).collect())
    }

    /// The addresses of the namespaces in stock.
    pub(crate) fn stock(&self) -> Result<Vec<Ipv4Addr>, NetworkError> {
        let address = |name: &String| name.strip_prefix(".stock-")?.parse().ok();
        Ok(names(&self.pins())?.iter().filter_map(address).collect())
    }

    fn sysctls(&self) -> PathBuf {
        self.root.join("network/sysctls")
    }

    /// Sets a kernel setting of this network namespace, `key` as in `net/ipv4/ip_forward`, and records
    /// what it was before the first change. One that already is as wanted is left alone.
    pub(crate) fn set_sysctl(&self, key: &str, value: &str) -> Result<(), NetworkError> {
        let path = Path::new("/proc/sys").join(key);
        let before = fs::read_to_string(&path).map_err(NetworkError::path(&path))?;
        if before.trim() == value {
            return Ok(());
        }
        let mut recorded = self.changed_sysctls()?;
        recorded.entry(key.to_owned()).or_insert_with(|| before.trim().to_owned());
        let text: String = recorded.iter().map(|(k, v)| format!("{k}={v}\n")).collect();
        replace(&self.sysctls(), &text)?;
        fs::write(&path, value).map_err(NetworkError::path(&path))
    }

    /// The settings changed so far with what they were before.
    pub(crate) fn changed_sysctls(&self) -> Result<BTreeMap<String, String>, NetworkError> {
        let path = self.sysctls();
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(e) => Err(NetworkError::path(&path)(e)),
        }
    }

    /// Sets everything back and forgets it.
    pub(crate) fn restore_sysctls(&self) -> Result<(), NetworkError> {
        let restored = self.changed_sysctls()?.into_iter().map(|(key, value)| {
            let path = Path::new("/proc/sys").join(key);
            fs::write(&path, value).map_err(NetworkError::path(&path))
        });
        NetworkError::collect(restored)?;
        let path = self.sysctls();
        absent(fs::remove_file(&path)).map_err(NetworkError::path(&path))
    }

    /// Removes the directories, once they are empty.
    pub(crate) fn clear(&self) -> Result<(), NetworkError> {
        NetworkError::collect(
            [self.pods(), self.root.join("network"), self.pins()]
                .map(|directory| absent(fs::remove_dir(&directory)).map_err(NetworkError::path(&directory))),
        )
    }
}

/// A UID that is safe as a file name and is no stock name.
pub(crate) fn check_uid(uid: &PodUid) -> Result<(), NetworkError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let whole = !uid.0.is_empty() && uid.0.len() <= MAX_UID && !uid.0.starts_with('.') && uid.0.bytes().all(allowed);
    if whole { Ok(()) } else { Err(NetworkError::BadUid(uid.clone())) }
}

fn names(directory: &Path) -> Result<Vec<String>, NetworkError> {
    let read = || -> io::Result<Vec<String>> {
        let names = fs::read_dir(directory)?.map(|e| Ok(e?.file_name().into_string().ok()));
        Ok(names.collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect())
    };
    read().map_err(NetworkError::path(directory))
}

/// Writes the file whole or not at all.
fn replace(path: &Path, text: &str) -> Result<(), NetworkError> {
    let mut temporary = path.file_name().unwrap_or_default().to_owned();
    temporary.push("~");
    let temporary = path.with_file_name(format!(".{}", temporary.display()));
    fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, path)).map_err(NetworkError::path(path))
}

fn absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
