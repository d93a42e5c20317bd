//! TLS of the server: the HTTPS API and the nodes, both with certificates of the cluster's CA.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};

use crate::pki::{Pki, PkiError};

/// The node protocol; needs a node's certificate.
pub const ALPN_NODE: &[u8] = b"coracle/1";
/// Joining with a token; needs none.
pub const ALPN_JOIN: &[u8] = b"coracle-join/1";

/// HTTPS for the API: client certificates are optional, and verified by the CA when given.
pub fn api_config(pki: &Arc<Pki>) -> Result<ServerConfig, PkiError> {
    let mut config = base(pki, rustls::ALL_VERSIONS, client_verifier(pki)?)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// For nodes, over QUIC or TCP: TLS 1.3. Whether a connection may do without a certificate is for whoever
/// accepts it to decide by its ALPN.
pub fn nodes_config(pki: &Arc<Pki>) -> Result<ServerConfig, PkiError> {
    let verifier = Arc::new(AnyTime(client_verifier(pki)?));
    let mut config = base(pki, &[&rustls::version::TLS13], verifier)?;
    config.alpn_protocols = vec![ALPN_NODE.to_vec(), ALPN_JOIN.to_vec()];
    // A node's connection lives for days: no cache of tickets for a resumption that hardly happens.
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client_verifier(pki: &Pki) -> Result<Arc<dyn ClientCertVerifier>, PkiError> {
    let mut roots = RootCertStore::empty();
    roots.add(pki.ca().clone())?;
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()))
        .allow_unauthenticated()
        .build()
        .map_err(|e| PkiError::Tls(rustls::Error::General(e.to_string())))
}

fn base(
    pki: &Arc<Pki>,
    versions: &[&'static rustls::SupportedProtocolVersion],
    verifier: Arc<dyn ClientCertVerifier>,
) -> Result<ServerConfig, PkiError> {
    let provider = Arc::new(default_provider());
    let resolver = CurrentCertificate::new(pki.clone())?;
    Ok(ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(resolver)))
}

/// Verifies a node's certificate at a moment of its own life: a clock that jumped must not shut nodes
/// out, and one whose certificate has run out may still come and renew it. Whether it has is the
/// session's to judge.
#[derive(Debug)]
struct AnyTime(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AnyTime {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let (_, parsed) = x509_parser::parse_x509_certificate(end_entity)
            .map_err(|_| rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding))?;
        let start = u64::try_from(parsed.validity().not_before.timestamp()).unwrap_or(0);
        let within = UnixTime::since_unix_epoch(Duration::from_secs(start));
        self.0.verify_client_cert(end_entity, intermediates, within)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
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
