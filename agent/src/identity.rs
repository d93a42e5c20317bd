//! Who this node is: key, certificate, CAs, servers, cluster and store, each a small file of its own.
//!
//! Every file exists twice below `STATE/identity`, as `NAME.1` and `NAME.2`, each ending in a line
//! with its own checksum, each written beside, synced and renamed, one after the other: a power cut
//! or a flipped byte leaves at least one whole. The certificate is written last and makes the node
//! a member; before it there is only a key.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_shared::ids::{ClusterId, Fingerprint, StoreUuid};
use coracle_shared::join::is_server;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::digest::{SHA256, digest};
use rustls::pki_types::{CertificateDer, pem::PemObject};

const COPIES: [&str; 2] = ["1", "2"];
const CHECKSUM: &str = "\n# sha256 ";
/// Certificates and keys are a few kilobytes; anything larger is not one of ours.
const MAX_FILE: u64 = 256 << 10;

/// The floor is written once it has moved this far, in milliseconds: a day more or less decides nothing
/// about certificates of a year, and a node that only reconnects writes nothing.
const FLOOR_STEP: u64 = 86_400_000;

/// The life of a certificate, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before: i64,
    pub not_after: i64,
}

impl Validity {
    /// When a third of the life is left.
    pub fn renewal(self) -> i64 {
        self.not_after - (self.not_after - self.not_before) / 3
    }
}

/// The life of a certificate (DER); `None` when it is none.
pub fn validity(certificate: &[u8]) -> Option<Validity> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let millis = |time: x509_parser::time::ASN1Time| time.timestamp().saturating_mul(1000);
    let validity = parsed.validity();
    Some(Validity { not_before: millis(validity.not_before), not_after: millis(validity.not_after) })
}

/// A node's identity could not be read or written.
#[derive(Debug)]
pub enum IdentityError {
    Io {
        path: PathBuf,
        source: io::Error,
    },
    /// Both copies are damaged, or do not hold what they should.
    Corrupt {
        path: PathBuf,
        reason: String,
    },
    /// A key could not be made.
    Key(rcgen::Error),
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdentityError::Io { path, source } => write!(f, "{}: {source}", path.display()),
            IdentityError::Corrupt { path, reason } => {
                write!(f, "{}: {reason}; remove the identity directory and join the node anew", path.display())
            }
            IdentityError::Key(error) => write!(f, "making the node's key: {error}"),
        }
    }
}

impl std::error::Error for IdentityError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            IdentityError::Io { source, .. } => Some(source),
            IdentityError::Key(error) => Some(error),
            IdentityError::Corrupt { .. } => None,
        }
    }
}

/// The node's key before it has a certificate.
#[derive(Debug)]
pub struct NodeKey {
    dir: PathBuf,
    pair: KeyPair,
}

impl NodeKey {
    /// The key in `state/identity`, made when there is none: the same machine asks with the same key
    /// again when a join broke off.
    pub fn open(state: &Path) -> Result<NodeKey, IdentityError> {
        let dir = identity_dir(state)?;
        if let Some(bytes) = read(&dir, "key")? {
            let corrupt = |reason: String| IdentityError::Corrupt { path: dir.join("key"), reason };
            let text = String::from_utf8(bytes).map_err(|e| corrupt(e.to_string()))?;
            let pair = KeyPair::from_pem(&text).map_err(|e| corrupt(e.to_string()))?;
            return Ok(NodeKey { dir, pair });
        }
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IdentityError::Key)?;
        write(&dir, "key", pair.serialize_pem().as_bytes())?;
        Ok(NodeKey { dir, pair })
    }

    /// A certificate signing request, PKCS #10, DER.
    pub fn request(&self, node: &str) -> Result<Vec<u8>, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("system:node:{node}"));
        let request = params.serialize_request(&self.pair).map_err(IdentityError::Key)?;
        Ok(request.der().to_vec())
    }

    /// Writes down what the cluster gave: from here on the node is a member.
    pub fn joined(self, membership: Membership) -> Result<Identity, IdentityError> {
        let dir = &self.dir;
        let cas: String = membership.cas.iter().map(|ca| pem("CERTIFICATE", ca)).collect();
        write(dir, "cas", cas.as_bytes())?;
        write(dir, "servers", membership.servers.join("\n").as_bytes())?;
        write(dir, "cluster", membership.cluster.to_string().as_bytes())?;
        write(dir, "node", membership.node.as_bytes())?;
        write(dir, "floor", membership.floor.to_string().as_bytes())?;
        write(dir, "certificate", pem("CERTIFICATE", &membership.certificate).as_bytes())?;
        let node = membership.node.clone();
        let membership = Mutex::new(membership);
        Ok(Identity { dir: self.dir, node, key_pem: self.pair.serialize_pem(), membership, store: Mutex::new(None) })
    }
}

/// What a cluster gives a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    pub node: String,
    pub cluster: ClusterId,
    /// `HOST:PORT`.
    pub servers: Vec<String>,
    pub certificate: CertificateDer<'static>,
    pub cas: Vec<CertificateDer<'static>>,
    /// The clock's floor: authenticated time, in milliseconds since the Unix epoch.
    pub floor: i64,
}

/// A member of a cluster.
pub struct Identity {
    dir: PathBuf,
    node: String,
    key_pem: String,
    membership: Mutex<Membership>,
    store: Mutex<Option<StoreUuid>>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads `state/identity`; `None` when the node has not joined.
    pub fn load(state: &Path) -> Result<Option<Identity>, IdentityError> {
        let dir = state.join("identity");
        let Some(certificate) = read(&dir, "certificate")? else { return Ok(None) };
        let certificate = certificates(&dir, "certificate", &certificate)?.swap_remove(0);
        let cas = certificates(&dir, "cas", required(&dir, "cas")?.as_bytes())?;
        let servers: Vec<String> = required(&dir, "servers")?.lines().map(str::to_owned).collect();
        if servers.is_empty() || !servers.iter().all(|s| is_server(s)) {
            return Err(corrupt(&dir, "servers", "not a list of HOST:PORT"));
        }
        let cluster = parse(&dir, "cluster")?;
        let store = match read(&dir, "store")? {
            None => None,
            Some(_) => Some(parse::<ClusterId>(&dir, "store").map(|id| StoreUuid(id.0))?),
        };
        let node = required(&dir, "node")?;
        let key_pem = required(&dir, "key")?;
        let floor = match read(&dir, "floor")? {
            Some(_) => parse(&dir, "floor")?,
            // Joined under a release that kept none.
            None => validity(&certificate).map_or(0, |v| v.not_before),
        };
        let membership = Mutex::new(Membership { node: node.clone(), cluster, servers, certificate, cas, floor });
        Ok(Some(Identity { dir, node, key_pem, membership, store: Mutex::new(store) }))
    }

    pub fn node(&self) -> &str {
        &self.node
    }

    pub fn membership(&self) -> Membership {
        self.member().clone()
    }

    fn member(&self) -> MutexGuard<'_, Membership> {
        self.membership.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request for a new certificate for the same key, PKCS #10, DER.
    pub fn request(&self) -> Result<Vec<u8>, IdentityError> {
        let pair = KeyPair::from_pem(&self.key_pem).map_err(IdentityError::Key)?;
        NodeKey { dir: self.dir.clone(), pair }.request(&self.node)
    }

    /// Puts a renewed certificate in the place of the old one, durably; what the old one gave is kept
    /// when the new one is not a certificate, or not believable by the CAs that came with it.
    pub fn renew(&self, certificate: Vec<u8>, cas: Vec<Vec<u8>>) -> Result<(), IdentityError> {
        let certificate = CertificateDer::from(certificate);
        let wrong = |reason: &str| corrupt(&self.dir, "certificate", reason);
        let life = validity(&certificate).ok_or_else(|| wrong("what the server sent is not a certificate"))?;
        let mut member = self.member();
        let cas: Vec<CertificateDer<'static>> = cas.into_iter().map(CertificateDer::from).collect();
        if !cas.iter().any(|ca| member.cas.contains(ca)) {
            return Err(wrong("the server's CAs have none in common with those of this node"));
        }
        if cas != member.cas {
            let text: String = cas.iter().map(|ca| pem("CERTIFICATE", ca)).collect();
            write(&self.dir, "cas", text.as_bytes())?;
        }
        write(&self.dir, "certificate", pem("CERTIFICATE", &certificate).as_bytes())?;
        member.certificate = certificate;
        member.cas = cas;
        let floor = member.floor.max(life.not_before);
        drop(member);
        self.keep_floor(floor)
    }

    /// Writes the clock's floor down when it has moved by [`FLOOR_STEP`] or more.
    pub fn keep_floor(&self, floor: i64) -> Result<(), IdentityError> {
        let mut member = self.member();
        if floor.abs_diff(member.floor) >= FLOOR_STEP {
            write(&self.dir, "floor", floor.to_string().as_bytes())?;
            member.floor = floor;
        }
        Ok(())
    }

    /// PKCS #8, PEM.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// The store whose state the ledger holds.
    pub fn store(&self) -> Option<StoreUuid> {
        *self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Binds the node to the first store that it meets; durable when it returns.
    pub fn adopt(&self, uuid: StoreUuid) -> Result<(), IdentityError> {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        if *store != Some(uuid) {
            write(&self.dir, "store", uuid.to_string().as_bytes())?;
            *store = Some(uuid);
        }
        Ok(())
    }
}

/// SHA-256 of a certificate (DER).
pub fn fingerprint(der: &[u8]) -> Fingerprint {
    let mut out = Fingerprint::default();
    out.0.copy_from_slice(digest(&SHA256, der).as_ref());
    out
}

fn corrupt(dir: &Path, name: &str, reason: &str) -> IdentityError {
    IdentityError::Corrupt { path: dir.join(name), reason: reason.to_owned() }
}

fn required(dir: &Path, name: &str) -> Result<String, IdentityError> {
    let bytes = read(dir, name)?.ok_or_else(|| corrupt(dir, name, "missing"))?;
    String::from_utf8(bytes).map_err(|_| corrupt(dir, name, "not text"))
}

fn parse<T: std::str::FromStr>(dir: &Path, name: &str) -> Result<T, IdentityError> {
    required(dir, name)?.trim().parse().map_err(|_| corrupt(dir, name, "not an id"))
}

fn certificates(dir: &Path, name: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| corrupt(dir, name, &e.to_string()))?;
    if all.is_empty() { Err(corrupt(dir, name, "no certificate")) } else { Ok(all) }
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

fn identity_dir(state: &Path) -> Result<PathBuf, IdentityError> {
    let dir = state.join("identity");
    let io = |source| IdentityError::Io { path: dir.clone(), source };
    if !dir.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io)?;
        sync_dir(state).map_err(io)?;
    }
    Ok(dir)
}

/// Writes both copies, the second only once the first is durable.
fn write(dir: &Path, name: &str, content: &[u8]) -> Result<(), IdentityError> {
    let mut bytes = content.to_vec();
    bytes.extend_from_slice(format!("{CHECKSUM}{}\n", fingerprint(content)).as_bytes());
    for copy in COPIES {
        let path = dir.join(format!("{name}.{copy}"));
        replace(dir, &path, &bytes).map_err(|source| IdentityError::Io { path, source })?;
    }
    Ok(())
}

fn replace(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The content of the first copy that is whole. `None` when no copy exists.
fn read(dir: &Path, name: &str) -> Result<Option<Vec<u8>>, IdentityError> {
    let mut exists = false;
    for copy in COPIES {
        let path = dir.join(format!("{name}.{copy}"));
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(IdentityError::Io { path, source }),
            Ok(file) => file,
        };
        exists = true;
        let mut bytes = Vec::new();
        // A sector that can not be read is a damaged copy like any other.
        if file.take(MAX_FILE).read_to_end(&mut bytes).is_ok()
            && let Some(content) = checked(&bytes)
        {
            return Ok(Some(content.to_vec()));
        }
    }
    if exists { Err(corrupt(dir, name, "both copies are damaged")) } else { Ok(None) }
}

fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let tail = CHECKSUM.len() + 65;
    let (content, line) = bytes.split_at_checked(bytes.len().checked_sub(tail)?)?;
    let line = std::str::from_utf8(line).ok()?;
    let sum: Fingerprint = line.strip_prefix(CHECKSUM)?.strip_suffix('\n')?.parse().ok()?;
    (sum == fingerprint(content)).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(state: &Path) -> Identity {
        let key = NodeKey::open(state).unwrap();
        let pair = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![]).unwrap().self_signed(&pair).unwrap().der().clone();
        let membership = Membership {
            node: "n1".into(),
            cluster: ClusterId([3; 16]),
            servers: vec!["192.0.2.1:6443".into(), "[::1]:1".into()],
            cas: vec![certificate.clone(), certificate.clone()],
            certificate,
            floor: 1_800_000_000_000,
        };
        key.joined(membership).unwrap()
    }

    #[test]
    fn an_identity_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Identity::load(dir.path()).unwrap().is_none());
        let made = member(dir.path());
        made.adopt(StoreUuid([5; 16])).unwrap();
        let read = Identity::load(dir.path()).unwrap().unwrap();
        assert_eq!(read.membership(), made.membership());
        assert_eq!(read.key_pem(), made.key_pem());
        assert_eq!(read.store(), Some(StoreUuid([5; 16])));
    }

    #[test]
    fn a_key_alone_is_no_membership_and_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = NodeKey::open(dir.path()).unwrap().pair.serialize_pem();
        assert!(Identity::load(dir.path()).unwrap().is_none());
        assert_eq!(NodeKey::open(dir.path()).unwrap().pair.serialize_pem(), first);
    }

    #[test]
    fn a_renewed_certificate_takes_the_place_of_the_old_and_nonsense_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let made = member(dir.path());
        let cas: Vec<Vec<u8>> = made.membership().cas.iter().map(|ca| ca.to_vec()).collect();
        let pair = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.not_before = rcgen::date_time_ymd(2030, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 31);
        let next = params.self_signed(&pair).unwrap().der().to_vec();
        assert!(made.renew(b"nonsense".to_vec(), cas.clone()).is_err());
        assert!(made.renew(next.clone(), vec![b"a stranger's CA".to_vec()]).is_err());
        assert_ne!(made.membership().certificate.to_vec(), next);
        made.renew(next.clone(), cas).unwrap();
        let read = Identity::load(dir.path()).unwrap().unwrap().membership();
        assert_eq!((read.certificate.to_vec(), read.clone()), (next, made.membership()));
        let life = validity(&read.certificate).unwrap();
        assert_eq!(read.floor, life.not_before, "time that the CA has signed");
        assert_eq!(life.renewal() - life.not_before, 20 * 86_400_000);
    }

    #[test]
    fn the_floor_is_written_when_it_matters_and_may_be_lowered() {
        let dir = tempfile::tempdir().unwrap();
        let made = member(dir.path());
        let floor = made.membership().floor;
        let stored = || Identity::load(dir.path()).unwrap().unwrap().membership().floor;
        for (given, expect) in [(floor + 1000, floor), (floor - 90_000_000, floor - 90_000_000), (floor, floor)] {
            made.keep_floor(given).unwrap();
            assert_eq!(stored(), expect);
        }
    }

    #[test]
    fn one_copy_of_each_file_may_be_lost_or_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let made = member(dir.path());
        made.adopt(StoreUuid([5; 16])).unwrap();
        for (at, name) in
            ["key", "certificate", "cas", "servers", "cluster", "node", "store", "floor"].into_iter().enumerate()
        {
            let path = dir.path().join(format!("identity/{name}.{}", at % 2 + 1));
            match at % 3 {
                0 => fs::remove_file(path).unwrap(),
                1 => fs::write(path, b"\0\0\0\0").unwrap(),
                _ => {
                    let mut bytes = fs::read(&path).unwrap();
                    bytes[0] ^= 1;
                    fs::write(path, bytes).unwrap();
                }
            }
        }
        let read = Identity::load(dir.path()).unwrap().unwrap();
        assert_eq!(read.membership(), made.membership());
        fs::write(dir.path().join("identity/cas.1"), b"").unwrap();
        fs::write(dir.path().join("identity/cas.2"), b"").unwrap();
        assert!(matches!(Identity::load(dir.path()), Err(IdentityError::Corrupt { .. })));
    }
}
