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

/// For sessions: the node's certificate, any of the identity's CAs. `now` is authenticated time.
pub fn node_config(identity: &Identity, now: UnixTime) -> Result<ClientConfig, Error> {
    let member = identity.membership();
    let verifier = Verifier { believe: Believe::Cas(member.cas.clone()), now, stranger: AtomicBool::new(false) };
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
    let verifier =
        Arc::new(Verifier { believe: Believe::Fingerprint(ca), now: START, stranger: AtomicBool::new(false) });
    let mut config = builder(verifier.clone())?.with_no_client_auth();
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok((config, verifier))
}

/// For HTTPS probes: whether it answers matters, not who it is (as the kubelet has it).
///
/// # Errors
/// The library refuses its own defaults.
pub fn anyone() -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?.dangerous();
    let mut config = builder.with_custom_certificate_verifier(Arc::new(Anyone)).with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// Believes every certificate.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn builder(
    verifier: Arc<Verifier>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, Error> {
    Ok(ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier))
}

/// What a machine knows of the time before anybody has told it.
const START: UnixTime = UnixTime::since_unix_epoch(Duration::ZERO);

#[derive(Debug)]
enum Believe {
    Cas(Vec<CertificateDer<'static>>),
    Fingerprint(Fingerprint),
}

/// Verifies a server by its CA.
#[derive(Debug)]
pub struct Verifier {
    believe: Believe,
    /// Authenticated time; the machine's own clock may be decades off either way.
    now: UnixTime,
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
        machine: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = self.roots(intermediates)?;
        let provider = Arc::new(default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|e| Error::General(e.to_string()))?;
        let now = self.now.max(not_before(end_entity)?);
        let at = |time| verifier.verify_server_cert(end_entity, &[], server_name, ocsp, time);
        match at(now) {
            // A server whose clock was wrong has told us a time that is to come: what it shows after that
            // was mended is expired for us, until it may tell us anew. This machine's clock decides.
            Err(Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. })) => {
                at(machine)
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    #[test]
    fn the_machines_clock_expires_nothing_and_time_that_was_authenticated_does() {
        let ca_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).unwrap().der().clone();
        let issuer = Issuer::new(params, ca_key);
        let mut leaf = CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap();
        leaf.not_before = rcgen::date_time_ymd(2030, 1, 1);
        leaf.not_after = rcgen::date_time_ymd(2031, 1, 1);
        let leaf = leaf.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone();
        let year = |year: u64| UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_557_600));
        let name = ServerName::try_from(SERVER_NAME).unwrap();
        let check = |authenticated: u64, machine: u64, expect: bool| {
            let believe = Believe::Cas(vec![ca.clone()]);
            let verifier = Verifier { believe, now: year(authenticated), stranger: AtomicBool::new(false) };
            let verified = verifier.verify_server_cert(&leaf, &[], &name, &[], year(machine));
            assert_eq!(verified.is_ok(), expect, "authenticated {authenticated}, machine {machine}: {verified:?}");
            assert!(!verifier.met_stranger());
        };
        // The certificate lives through 2030. A machine without a clock, and one whose clock jumped ahead:
        check(1970, 1970, true);
        check(2029, 1970, true);
        check(1970, 2100, true);
        check(2029, 2100, true);
        // Expired by all that is known:
        check(2033, 2033, false);
        check(2033, 1970, false);
        // The server's clock had been wrong, and was mended:
        check(2080, 2029, false);
        let middle = UnixTime::since_unix_epoch(Duration::from_secs(1_910_000_000));
        let believe = Believe::Cas(vec![ca.clone()]);
        let verifier = Verifier { believe, now: year(2080), stranger: AtomicBool::new(false) };
        assert!(verifier.verify_server_cert(&leaf, &[], &name, &[], middle).is_ok());
    }
}
