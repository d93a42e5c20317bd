//! TLS towards registries: rustls with ring, and the CAs of the system or of the registry.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::error::ImageError;

/// Where distributions keep the bundle of CAs: Debian and Alpine, Fedora, openSUSE.
const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// TLS for one registry. `ca` is PEM text or a file's path and replaces the system's CAs.
pub fn config(registry: &str, ca: Option<&str>) -> Result<TlsConfig, ImageError> {
    let bad = |problem: String| ImageError::Configuration { what: format!("CA for {registry}"), problem };
    let (source, pem) = match ca {
        Some(text) if text.contains("-----BEGIN") => ("registries.json".to_owned(), text.as_bytes().to_vec()),
        Some(path) => (path.to_owned(), fs::read(path).map_err(ImageError::io("read the CA", path))?),
        None => system_bundle().map_err(bad)?,
    };
    let certificates: Vec<Certificate<'static>> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(bad(format!("{source} holds no PEM certificate")));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::from(certificates))
        .unversioned_rustls_crypto_provider(provider)
        .build())
}

fn system_bundle() -> Result<(String, Vec<u8>), String> {
    let found = BUNDLES.iter().find(|path| Path::new(path).exists());
    let path = found.ok_or("this system has no CA bundle: install ca-certificates, or name a CA in registries.json")?;
    fs::read(path).map(|pem| ((*path).to_owned(), pem)).map_err(|e| format!("read {path}: {e}"))
}
