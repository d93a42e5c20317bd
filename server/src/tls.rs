//! TLS of the server: the HTTPS API and the nodes' QUIC, both with certificates of the cluster's CA.

use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

use crate::pki::{Pki, PkiError};

/// The node protocol over QUIC; needs a node's certificate.
pub const ALPN_NODE: &[u8] = b"coracle/1";
/// Joining with a token over QUIC; needs none.
pub const ALPN_JOIN: &[u8] = b"coracle-join/1";

/// HTTPS for the API: client certificates are optional, and verified by the CA when given.
pub fn api_config(pki: &Arc<Pki>) -> Result<ServerConfig, PkiError> {
    let mut config = base(pki, rustls::ALL_VERSIONS)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// QUIC for nodes, TLS 1.3. Whether a connection may do without a certificate is for whoever
/// accepts it to decide by its ALPN.
pub fn quic_config(pki: &Arc<Pki>) -> Result<ServerConfig, PkiError> {
    let mut config = base(pki, &[&rustls::version::TLS13])?;
    config.alpn_protocols = vec![ALPN_NODE.to_vec(), ALPN_JOIN.to_vec()];
    // A node's connection lives for days: no cache of tickets for a resumption that hardly happens.
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn base(pki: &Arc<Pki>, versions: &[&'static rustls::SupportedProtocolVersion]) -> Result<ServerConfig, PkiError> {
    let provider = Arc::new(default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(pki.ca().clone())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| PkiError::Tls(rustls::Error::General(e.to_string())))?;
    let resolver = CurrentCertificate::new(pki.clone())?;
    Ok(ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(resolver)))
}

/// Hands out the server's certificate of the moment, so that a renewal needs no restart.
struct CurrentCertificate {
    pki: Arc<Pki>,
    /// What was parsed last, with the leaf that it came from.
    parsed: std::sync::Mutex<(Arc<crate::pki::Leaf>, Arc<CertifiedKey>)>,
}

impl std::fmt::Debug for CurrentCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CurrentCertificate").finish_non_exhaustive()
    }
}

impl CurrentCertificate {
    fn new(pki: Arc<Pki>) -> Result<CurrentCertificate, PkiError> {
        let leaf = pki.server();
        let key = certified(&leaf, pki.ca())?;
        Ok(CurrentCertificate { pki, parsed: std::sync::Mutex::new((leaf, key)) })
    }
}

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let leaf = self.pki.server();
        let mut parsed = self.parsed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !Arc::ptr_eq(&parsed.0, &leaf) {
            let key = certified(&leaf, self.pki.ca()).ok()?;
            *parsed = (leaf, key);
        }
        Some(parsed.1.clone())
    }
}

/// The CA goes along, so that a machine that joins can check its fingerprint.
fn certified(leaf: &crate::pki::Leaf, ca: &CertificateDer<'static>) -> Result<Arc<CertifiedKey>, PkiError> {
    let key = CertifiedKey::from_der(vec![leaf.certificate.clone(), ca.clone()], leaf.key()?, &default_provider())?;
    Ok(Arc::new(key))
}
