//! The cluster's certificate authority and every certificate that it signs.
//!
//! ECDSA P-256 throughout. Below `STATE/pki` lie the CA, the cluster's id, the server's certificate
//! and the administrator's; keys are 0600. The server's certificate is made anew when its names
//! change or a third of its life is left.

pub mod files;
mod kubeconfig;
mod leaf;
pub mod revoked;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use coracle_shared::ids::{ClusterId, Fingerprint};
use rcgen::{CertificateSigningRequestParams, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, pem::PemObject};

use files::Access;
pub use leaf::Leaf;
use leaf::{Profile, Validity};

/// The CA outlives boards; it is replaced by a bundle, not by expiry.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// The server's and the administrator's certificates; renewed at each start and daily when due.
const LEAF_LIFE: Duration = Duration::from_secs(365 * 86_400);
/// A node that was away for a season still gets in with what it has.
const NODE_LIFE: Duration = Duration::from_secs(365 * 86_400);
/// notBefore lies this far back, so that a board whose clock is a little late accepts it.
const BACKDATE: Duration = Duration::from_secs(3600);

/// The name agents ask for: they verify the CA and the cluster, not addresses.
pub const SERVER_NAME: &str = "coracle-server";
/// What every server certificate is valid for, beside the host's name and `--advertise`.
const FIXED_NAMES: [&str; 8] = [
    SERVER_NAME,
    "localhost",
    "127.0.0.1",
    "10.43.0.1",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// Certificates could not be made, read or written.
#[derive(Debug)]
pub enum PkiError {
    Io {
        path: PathBuf,
        source: io::Error,
    },
    /// A file of ours does not hold what it should.
    Corrupt {
        path: PathBuf,
        reason: String,
    },
    /// A certificate signing request that is not one, or whose key has another algorithm.
    Request(String),
    /// A peer's certificate that can not be read.
    Peer(String),
    /// Signing or key generation failed.
    Crypto(rcgen::Error),
    Tls(rustls::Error),
    /// An `--advertise` that is neither an address nor a DNS name.
    Name(String),
    NoRandomness,
}

impl fmt::Display for PkiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PkiError::Io { path, source } => write!(f, "{}: {source}", path.display()),
            PkiError::Corrupt { path, reason } => write!(
                f,
                "{}: {reason}; restore the pki directory from a backup, or remove it to make a new cluster identity (nodes must then join again)",
                path.display()
            ),
            PkiError::Request(reason) => write!(f, "certificate signing request refused: {reason}"),
            PkiError::Peer(reason) => write!(f, "certificate of the peer: {reason}"),
            PkiError::Crypto(error) => write!(f, "making a certificate: {error}"),
            PkiError::Tls(error) => write!(f, "TLS: {error}"),
            PkiError::Name(name) => write!(f, "{name:?} is neither an IP address nor a DNS name"),
            PkiError::NoRandomness => f.write_str("the system has no randomness to give"),
        }
    }
}

impl std::error::Error for PkiError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            PkiError::Io { source, .. } => Some(source),
            PkiError::Crypto(error) => Some(error),
            PkiError::Tls(error) => Some(error),
            _ => None,
        }
    }
}

impl From<rcgen::Error> for PkiError {
    fn from(error: rcgen::Error) -> PkiError {
        PkiError::Crypto(error)
    }
}

impl From<rustls::Error> for PkiError {
    fn from(error: rustls::Error) -> PkiError {
        PkiError::Tls(error)
    }
}

/// Who a verified client certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The common name.
    pub user: String,
    /// The organizations.
    pub groups: Vec<String>,
    /// SHA-256 of the public key (SPKI).
    pub key: Fingerprint,
    /// The certificate's end, in milliseconds since the Unix epoch.
    pub not_after: i64,
}

impl Peer {
    /// Reads a certificate that TLS has verified already.
    pub fn from_certificate(der: &[u8]) -> Result<Peer, PkiError> {
        let (_, cert) = x509_parser::parse_x509_certificate(der).map_err(|e| PkiError::Peer(e.to_string()))?;
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().map(str::to_owned).ok();
        let subject = cert.subject();
        let user = subject.iter_common_name().find_map(text).ok_or_else(|| PkiError::Peer("no common name".into()))?;
        let groups = subject.iter_organization().filter_map(text).collect();
        let not_after = cert.validity().not_after.timestamp().saturating_mul(1000);
        Ok(Peer { user, groups, key: fingerprint(cert.public_key().raw), not_after })
    }

    /// The node that this peer is, when it is one.
    pub fn node(&self) -> Option<&str> {
        let name = self.user.strip_prefix("system:node:")?;
        self.groups.iter().any(|g| g == "system:nodes").then_some(name)
    }
}

/// A certificate for a node's key.
#[derive(Clone, Debug)]
pub struct SignedNode {
    pub certificate: Vec<u8>,
    /// SHA-256 of the key's SPKI: what the node's name is bound to.
    pub key: Fingerprint,
}

/// The CA, the server's own certificate and the administrator's.
pub struct Pki {
    dir: PathBuf,
    cluster: ClusterId,
    ca: CertificateDer<'static>,
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
    names: Vec<String>,
    server: Mutex<Arc<Leaf>>,
    admin: Mutex<Arc<Leaf>>,
}

impl fmt::Debug for Pki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pki").field("dir", &self.dir).field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl Pki {
    /// Opens `state/pki`, making what is missing and renewing what is due.
    ///
    /// `advertise` are the addresses and names under which nodes and clients reach this server.
    pub fn open(state: &Path, advertise: &[String], now: SystemTime) -> Result<Pki, PkiError> {
        let dir = state.join("pki");
        files::create_dir(&dir).map_err(|source| PkiError::Io { path: dir.clone(), source })?;
        let cluster = open_cluster_id(&dir)?;
        let (ca_pem, ca, issuer) = open_ca(&dir, cluster, now)?;
        let names = server_names(advertise)?;
        let server = leaf::open(&dir, "server", &Profile::Server(&names), &issuer, &ca, now, LEAF_LIFE)?;
        let admin = leaf::open(&dir, "admin", &Profile::ADMIN, &issuer, &ca, now, LEAF_LIFE)?;
        Ok(Pki {
            dir,
            cluster,
            ca,
            ca_pem,
            issuer,
            names,
            server: Mutex::new(Arc::new(server)),
            admin: Mutex::new(Arc::new(admin)),
        })
    }

    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The CA's certificate, DER.
    pub fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// SHA-256 of the CA's certificate: what a join line carries.
    pub fn ca_fingerprint(&self) -> Fingerprint {
        fingerprint(&self.ca)
    }

    /// The secret of the QUIC endpoint: with it a restarted server can tell nodes at once that their
    /// connections are gone, instead of leaving them to their time-out.
    pub fn quic_key(&self) -> Result<[u8; 32], PkiError> {
        let path = self.dir.join("quic.key");
        let io = |source| PkiError::Io { path: path.clone(), source };
        if let Some(key) = files::read(&path).map_err(io)?.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()) {
            return Ok(key);
        }
        let key: [u8; 32] = random()?;
        files::write(&path, &key, Access::Secret).map_err(io)?;
        Ok(key)
    }

    /// The server's certificate and key of this moment.
    pub fn server(&self) -> Arc<Leaf> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The administrator's certificate and key.
    pub fn admin(&self) -> Arc<Leaf> {
        self.admin.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Renews what is due; connections made from now on use it. Cheap when nothing is.
    pub fn renew(&self, now: SystemTime) -> Result<(), PkiError> {
        let open = |name, profile: &Profile<'_>| {
            leaf::open(&self.dir, name, profile, &self.issuer, &self.ca, now, LEAF_LIFE).map(Arc::new)
        };
        let server = open("server", &Profile::Server(&self.names))?;
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = server;
        let admin = open("admin", &Profile::ADMIN)?;
        *self.admin.lock().unwrap_or_else(PoisonError::into_inner) = admin;
        Ok(())
    }

    /// A kubeconfig of the administrator for this server, certificates inline.
    pub fn admin_kubeconfig(&self, server_url: &str) -> String {
        kubeconfig::render(server_url, &self.ca_pem, &self.admin())
    }

    /// Writes the administrator's kubeconfig, 0600, when it differs from what is there.
    pub fn write_admin_kubeconfig(&self, path: &Path, server_url: &str) -> Result<(), PkiError> {
        let text = self.admin_kubeconfig(server_url);
        files::write_if_changed(path, text.as_bytes(), Access::Secret)
            .map_err(|source| PkiError::Io { path: path.to_owned(), source })
    }

    /// Signs a node's key. Of the request only the key counts; the names are the server's to give.
    pub fn sign_node_csr(&self, csr: &[u8], node: &str, now: SystemTime) -> Result<SignedNode, PkiError> {
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))
            .map_err(|e| PkiError::Request(e.to_string()))?;
        if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(PkiError::Request("the key must be ECDSA P-256".into()));
        }
        let validity = Validity::starting(now, NODE_LIFE);
        let params = leaf::params(&Profile::Node(node), validity)?;
        let certificate = params.signed_by(&request.public_key, &self.issuer)?.der().to_vec();
        let key = Peer::from_certificate(&certificate)?.key;
        Ok(SignedNode { certificate, key })
    }
}

/// What makes a cluster this cluster, and is in every backup: by it nodes know their server again.
/// Certificates that follow from it are made anew.
const IDENTITY: [(&str, Access); 4] = [
    ("cluster-id", Access::Public),
    ("quic.key", Access::Secret),
    ("ca.key", Access::Secret),
    ("ca.crt", Access::Public),
];

/// The files of the cluster's identity, by name.
pub fn backup(state: &Path) -> Result<Vec<(String, Vec<u8>)>, PkiError> {
    let mut found = Vec::new();
    for (name, _) in IDENTITY {
        let path = state.join("pki").join(name);
        if let Some(bytes) = files::read(&path).map_err(|source| PkiError::Io { path, source })? {
            found.push((name.to_owned(), bytes));
        }
    }
    Ok(found)
}

/// Puts the files of a backup back; another cluster's are not overwritten.
pub fn restore(state: &Path, backup: &[(String, Vec<u8>)]) -> Result<(), PkiError> {
    let dir = state.join("pki");
    files::create_dir(&dir).map_err(|source| PkiError::Io { path: dir.clone(), source })?;
    let named = IDENTITY.iter().filter_map(|(name, access)| {
        let (_, bytes) = backup.iter().find(|(known, _)| known == name)?;
        Some((dir.join(name), bytes, *access))
    });
    for (path, bytes, access) in named {
        let io = |source| PkiError::Io { path: path.clone(), source };
        match files::read(&path).map_err(io)? {
            Some(present) if present != *bytes && !path.ends_with("quic.key") => {
                return Err(PkiError::Corrupt {
                    path,
                    reason: "is not the backup's: another cluster lives here".into(),
                });
            }
            _ => files::write_if_changed(&path, bytes, access).map_err(io)?,
        }
    }
    Ok(())
}

/// The fingerprint of the key in a certificate signing request.
pub fn request_key(csr: &[u8]) -> Result<Fingerprint, PkiError> {
    use x509_parser::prelude::FromDer;
    let (_, request) = x509_parser::certification_request::X509CertificationRequest::from_der(csr)
        .map_err(|e| PkiError::Request(e.to_string()))?;
    Ok(fingerprint(request.certification_request_info.subject_pki.raw))
}

/// SHA-256.
pub fn fingerprint(bytes: &[u8]) -> Fingerprint {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let mut out = [0; 32];
    out.copy_from_slice(digest.as_ref());
    Fingerprint(out)
}

/// Fills an array with the system's randomness.
pub fn random<const N: usize>() -> Result<[u8; N], PkiError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| PkiError::NoRandomness)?;
    Ok(bytes)
}

fn open_cluster_id(dir: &Path) -> Result<ClusterId, PkiError> {
    let path = dir.join("cluster-id");
    let io = |source| PkiError::Io { path: path.clone(), source };
    if let Some(bytes) = files::read(&path).map_err(io)? {
        let text = String::from_utf8_lossy(&bytes);
        return text
            .trim()
            .parse()
            .map_err(|_| PkiError::Corrupt { path: path.clone(), reason: "not 32 hexadecimal digits".into() });
    }
    let cluster = ClusterId(random()?);
    files::write(&path, format!("{cluster}\n").as_bytes(), Access::Public).map_err(io)?;
    Ok(cluster)
}

type OpenedCa = (String, CertificateDer<'static>, Issuer<'static, KeyPair>);

fn open_ca(dir: &Path, cluster: ClusterId, now: SystemTime) -> Result<OpenedCa, PkiError> {
    let (crt, key) = (dir.join("ca.crt"), dir.join("ca.key"));
    let read = |path: &PathBuf| files::read(path).map_err(|source| PkiError::Io { path: path.clone(), source });
    if let Some(pem) = read(&crt)? {
        // The certificate is written after its key: one without a key is damage, not a half-made CA.
        let key_pem = read(&key)?
            .ok_or_else(|| PkiError::Corrupt { path: key.clone(), reason: "missing beside ca.crt".into() })?;
        return load_ca(&crt, &key, &pem, &key_pem);
    }
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let params = leaf::params(&Profile::Ca(cluster), Validity::starting(now, CA_LIFE))?;
    let certificate = params.self_signed(&pair)?;
    let write = |path: &PathBuf, bytes: &str, access| {
        files::write(path, bytes.as_bytes(), access).map_err(|source| PkiError::Io { path: path.clone(), source })
    };
    write(&key, &pair.serialize_pem(), Access::Secret)?;
    write(&crt, &certificate.pem(), Access::Public)?;
    Ok((certificate.pem(), certificate.der().clone(), Issuer::new(params, pair)))
}

fn load_ca(crt: &Path, key: &Path, pem: &[u8], key_pem: &[u8]) -> Result<OpenedCa, PkiError> {
    let corrupt = |path: &Path, reason: String| PkiError::Corrupt { path: path.to_owned(), reason };
    let ca = CertificateDer::from_pem_slice(pem).map_err(|e| corrupt(crt, e.to_string()))?;
    let key_text = std::str::from_utf8(key_pem).map_err(|e| corrupt(key, e.to_string()))?;
    let pair = KeyPair::from_pem(key_text).map_err(|e| corrupt(key, e.to_string()))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&ca).map_err(|e| corrupt(crt, e.to_string()))?;
    if parsed.public_key().subject_public_key.data.as_ref() != pair.public_key_raw() {
        return Err(corrupt(key, "does not belong to ca.crt".into()));
    }
    let issuer = Issuer::from_ca_cert_der(&ca, pair).map_err(|e| corrupt(crt, e.to_string()))?;
    let text = String::from_utf8(pem.to_vec()).map_err(|e| corrupt(crt, e.to_string()))?;
    Ok((text, ca, issuer))
}

/// All names of the server's certificate, each once, in order.
fn server_names(advertise: &[String]) -> Result<Vec<String>, PkiError> {
    let mut names: Vec<String> = FIXED_NAMES.iter().map(|n| (*n).to_owned()).collect();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if is_name(&host) {
        names.push(host);
    }
    for name in advertise {
        if !is_name(name) {
            return Err(PkiError::Name(name.clone()));
        }
        names.push(name.clone());
    }
    names.sort();
    names.dedup();
    Ok(names)
}

fn is_name(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok() || rustls::pki_types::DnsName::try_from(name).is_ok()
}

#[cfg(test)]
mod tests;
