//! TLS of the agent: it believes the cluster's CAs and the server's role, not addresses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coracle_shared::ids::Fingerprint;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::identity::{Identity, fingerprint};

/// The name that every server's certificate has.
pub const SERVER_NAME: &str = "coracle-server";
/// The node protocol; with the node's certificate.
pub const ALPN_NODE: &[u8] = b"coracle/1";
/// Joining with a token.
pub const ALPN_JOIN: &[u8] = b"coracle-join/1";

/// For sessions: the node's certificate, any of the identity's CAs.
pub fn node_config(identity: &Identity) -> Result<ClientConfig, Error> {
    let member = identity.membership();
    let verifier = Verifier { believe: Believe::Cas(member.cas.clone()), stranger: AtomicBool::new(false) };
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem().as_bytes())
        .map_err(|e| Error::General(format!("the node's key: {e}")))?;
    let mut config = builder(Arc::new(verifier))?.with_client_auth_cert(vec![member.certificate.clone()], key)?;
    config.alpn_protocols = vec![ALPN_NODE.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// For joining: whoever shows a CA with this fingerprint. The verifier tells afterwards whether the
/// server was a stranger.
pub fn join_config(ca: Fingerprint) -> Result<(ClientConfig, Arc<Verifier>), Error> {
    let verifier = Arc::new(Verifier { believe: Believe::Fingerprint(ca), stranger: AtomicBool::new(false) });
    let mut config = builder(verifier.clone())?.with_no_client_auth();
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok((config, verifier))
}

fn builder(
    verifier: Arc<Verifier>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, Error> {
    Ok(ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier))
}

#[derive(Debug)]
enum Believe {
    Cas(Vec<CertificateDer<'static>>),
    Fingerprint(Fingerprint),
}

/// Verifies a server by its CA.
#[derive(Debug)]
pub struct Verifier {
    believe: Believe,
    stranger: AtomicBool,
}

impl Verifier {
    /// Whether a server showed another CA than the expected one.
    pub fn met_stranger(&self) -> bool {
        self.stranger.load(Ordering::Relaxed)
    }

    fn roots(&self, chain: &[CertificateDer<'_>]) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        match &self.believe {
            Believe::Cas(cas) => cas.iter().try_for_each(|ca| roots.add(ca.clone()))?,
            Believe::Fingerprint(wanted) => match chain.iter().find(|ca| fingerprint(ca) == *wanted) {
                Some(ca) => roots.add(ca.clone().into_owned())?,
                None => return Err(self.unknown()),
            },
        }
        Ok(roots)
    }

    fn unknown(&self) -> Error {
        self.stranger.store(true, Ordering::Relaxed);
        Error::InvalidCertificate(CertificateError::UnknownIssuer)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = self.roots(intermediates)?;
        let provider = Arc::new(default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|e| Error::General(e.to_string()))?;
        let now = now.max(not_before(end_entity)?);
        match verifier.verify_server_cert(end_entity, &[], server_name, ocsp, now) {
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
                Err(self.unknown())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn provider() -> CryptoProvider {
    default_provider()
}

/// A board without a clock believes it is 1970: the certificate's own start is a floor, and a safe
/// one, because it only counts when a CA that we believe has signed it.
fn not_before(certificate: &CertificateDer<'_>) -> Result<UnixTime, Error> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let seconds = u64::try_from(parsed.validity().not_before.timestamp()).unwrap_or(0);
    Ok(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
}
