//! `registries.json`: what this node knows about registries.
//!
//! ```json
//! {"registries": {
//!   "docker.io":      {"mirrors": ["https://mirror.example:5000"]},
//!   "10.0.0.1:5000":  {"plainHttp": true},
//!   "mirror.example:5000": {"ca": "/etc/coracle/mirror-ca.pem"}
//! }}
//! ```
//!
//! A key is a registry as image names write it, with its port. `mirrors` are asked in order before
//! the registry itself; the scheme of a mirror's URL says whether it speaks TLS, and its own entry
//! gives its CA. `ca` is a PEM text or the absolute path of a file, and replaces the system's CAs
//! for that registry. Registries on a loopback address speak plain HTTP unless their entry says
//! `"plainHttp": false`. Unknown fields are errors, because a misspelt one would go unnoticed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;

use crate::error::ImageError;

/// The largest `registries.json`.
const MAX_FILE: u64 = 1 << 20;

/// The content of `registries.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registries {
    #[serde(default)]
    pub registries: BTreeMap<String, Entry>,
}

/// One registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Entry {
    #[serde(default)]
    pub plain_http: Option<bool>,
    #[serde(default)]
    pub ca: Option<String>,
    #[serde(default)]
    pub mirrors: Vec<String>,
}

/// One place to ask, as a base URL: `https://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub base: String,
    /// For choosing a credential and a CA: the registry's name.
    pub name: String,
    pub ca: Option<String>,
}

impl Registries {
    /// Where to ask for images of `registry`, in order, the registry itself last.
    pub fn places(&self, registry: &str) -> Vec<Place> {
        let entry = self.registries.get(registry);
        let mirrors = entry.map(|e| e.mirrors.as_slice()).unwrap_or_default().iter().map(|url| {
            let base = url.trim_end_matches('/').to_owned();
            let name = base.split_once("://").map_or(base.as_str(), |(_, host)| host).to_owned();
            let ca = self.registries.get(&name).and_then(|e| e.ca.clone());
            Place { base, name, ca }
        });
        let plain = entry.and_then(|e| e.plain_http).unwrap_or_else(|| is_loopback(registry));
        let scheme = if plain { "http" } else { "https" };
        // Docker Hub's API has another name than Docker Hub.
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let itself = Place {
            base: format!("{scheme}://{host}"),
            name: registry.to_owned(),
            ca: entry.and_then(|e| e.ca.clone()),
        };
        mirrors.chain([itself]).collect()
    }

    fn parse(json: &[u8]) -> Result<Registries, String> {
        let parsed: Registries = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        for (name, entry) in &parsed.registries {
            for url in &entry.mirrors {
                let host = url.strip_prefix("https://").or(url.strip_prefix("http://")).unwrap_or_default();
                if host.trim_end_matches('/').is_empty()
                    || host.trim_end_matches('/').contains(['/', '@', '?', '#', ' '])
                {
                    return Err(format!("mirror {url:?} of {name} must be http://HOST[:PORT] or https://HOST[:PORT]"));
                }
            }
        }
        Ok(parsed)
    }
}

pub fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => registry.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The file with what was last read of it.
pub struct SettingsFile {
    path: Option<PathBuf>,
    read: Mutex<Option<(Stamp, Arc<Registries>)>>,
}

/// Tells a changed file from an unchanged one: device, inode, size, mtime in nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

impl SettingsFile {
    pub fn new(path: Option<PathBuf>) -> SettingsFile {
        SettingsFile { path, read: Mutex::new(None) }
    }

    /// The current content; empty when there is no file. A file that is wrong is an error, not its
    /// older content: somebody has just changed it and waits to see the effect.
    pub fn current(&self) -> Result<Arc<Registries>, ImageError> {
        let Some(path) = &self.path else { return Ok(Arc::default()) };
        let stamp = match fs::metadata(path) {
            Ok(meta) => (meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Arc::default()),
            Err(error) => return Err(ImageError::io("read", path)(error)),
        };
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, settings)) = read.as_ref()
            && *known == stamp
        {
            return Ok(settings.clone());
        }
        let settings = Arc::new(load(path, stamp.2)?);
        *read = Some((stamp, settings.clone()));
        Ok(settings)
    }
}

fn load(path: &Path, size: u64) -> Result<Registries, ImageError> {
    let bad = |problem: String| ImageError::Configuration { what: path.display().to_string(), problem };
    if size > MAX_FILE {
        return Err(bad(format!("larger than {MAX_FILE} bytes")));
    }
    let bytes = fs::read(path).map_err(ImageError::io("read", path))?;
    Registries::parse(&bytes).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, registry: &str, expect: &[&str]) {
        let places = Registries::parse(json.as_bytes()).unwrap().places(registry);
        assert_eq!(places.iter().map(|p| p.base.as_str()).collect::<Vec<_>>(), expect, "{json} {registry}");
    }

    #[test]
    fn says_where_to_ask() {
        check("{}", "docker.io", &["https://registry-1.docker.io"]);
        check("{}", "127.0.0.1:5000", &["http://127.0.0.1:5000"]);
        check("{}", "[::1]:5000", &["http://[::1]:5000"]);
        check("{}", "10.0.0.1:5000", &["https://10.0.0.1:5000"]);
        check(r#"{"registries":{"10.0.0.1:5000":{"plainHttp":true}}}"#, "10.0.0.1:5000", &["http://10.0.0.1:5000"]);
        check(r#"{"registries":{"localhost:5":{"plainHttp":false}}}"#, "localhost:5", &["https://localhost:5"]);
        check(
            r#"{"registries":{"docker.io":{"mirrors":["http://m:1/","https://n"]}}}"#,
            "docker.io",
            &["http://m:1", "https://n", "https://registry-1.docker.io"],
        );
    }

    #[test]
    fn refuses_what_would_go_unnoticed() {
        for bad in [
            r#"{"registries":{"a":{"plainHTTP":true}}}"#,
            r#"{"registry":{}}"#,
            r#"{"registries":{"a":{"mirrors":["m:5000"]}}}"#,
            r#"{"registries":{"a":{"mirrors":["https://u@m"]}}}"#,
            "",
        ] {
            assert!(Registries::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registries.json");
        let file = SettingsFile::new(Some(path.clone()));
        assert_eq!(*file.current().unwrap(), Registries::default());
        for (json, plain) in [(r#"{"registries":{"a":{"plainHttp":true}}}"#, true), (r#"{"registries":{}}"#, false)] {
            let new = dir.path().join("new");
            fs::write(&new, json).unwrap();
            fs::rename(&new, &path).unwrap();
            assert_eq!(file.current().unwrap().registries.contains_key("a"), plain);
        }
        fs::write(&path, "{").unwrap();
        assert!(file.current().unwrap_err().to_string().contains("registries.json"));
    }
}
