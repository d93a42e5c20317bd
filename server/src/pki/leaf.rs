//! Certificates below the CA: what each kind of holder gets, and when one is made anew.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coracle_shared::ids::ClusterId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::extensions::GeneralName;

use super::files::{self, Access};
use super::{BACKDATE, PkiError, random};

/// A certificate with its key.
#[derive(Debug)]
pub struct Leaf {
    pub certificate: CertificateDer<'static>,
    pub certificate_pem: String,
    pub key_pem: String,
}

impl Leaf {
    pub fn key(&self) -> Result<PrivateKeyDer<'static>, PkiError> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|e| PkiError::Peer(e.to_string()))
    }
}

/// Whom a certificate is for.
pub enum Profile<'a> {
    Ca(ClusterId),
    Server(&'a [String]),
    Client { user: &'a str, group: &'a str },
    Node(&'a str),
}

impl Profile<'_> {
    pub const ADMIN: Profile<'static> = Profile::Client { user: "admin", group: "system:masters" };
}

#[derive(Clone, Copy)]
pub struct Validity {
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Validity {
    pub fn starting(now: SystemTime, life: Duration) -> Validity {
        Validity { not_before: now.checked_sub(BACKDATE).unwrap_or(UNIX_EPOCH), not_after: now + life }
    }
}

/// The parameters of a certificate, with a random serial number.
pub fn params(profile: &Profile<'_>, validity: Validity) -> Result<CertificateParams, PkiError> {
    let names = match profile {
        Profile::Server(names) => names.to_vec(),
        _ => Vec::new(),
    };
    let mut params = CertificateParams::new(names)?;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(validity.not_before);
    params.not_after = epoch + since_epoch(validity.not_after);
    let mut serial: [u8; 16] = random()?;
    serial[0] = serial[0] & 0x7f | 0x40; // positive, and always 16 bytes long
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.use_authority_key_identifier_extension = !matches!(profile, Profile::Ca(_));
    let name = &mut params.distinguished_name;
    match profile {
        Profile::Ca(cluster) => {
            name.push(DnType::CommonName, format!("coracle-ca-{cluster}"));
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            return Ok(params);
        }
        Profile::Server(_) => {
            name.push(DnType::CommonName, super::SERVER_NAME);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }
        Profile::Client { user, group } => {
            name.push(DnType::OrganizationName, *group);
            name.push(DnType::CommonName, *user);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }
        Profile::Node(node) => {
            name.push(DnType::OrganizationName, "system:nodes");
            name.push(DnType::CommonName, format!("system:node:{node}"));
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

/// Reads `NAME.crt` and `NAME.key`; makes them when missing, damaged, due, or of other names.
pub fn open(
    dir: &Path,
    name: &str,
    profile: &Profile<'_>,
    issuer: &Issuer<'static, KeyPair>,
    ca: &CertificateDer<'static>,
    now: SystemTime,
    life: Duration,
) -> Result<Leaf, PkiError> {
    let pair = dir.join(format!("{name}.pem"));
    let io = |source| PkiError::Io { path: pair.clone(), source };
    if let Some(leaf) = files::read(&pair).map_err(io)?.and_then(|bytes| parse(&bytes))
        && is_current(&leaf, profile, ca, now, life)
    {
        return Ok(leaf);
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = params(profile, Validity::starting(now, life))?.signed_by(&key, issuer)?;
    let leaf = Leaf {
        certificate: certificate.der().clone(),
        certificate_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
    };
    // One file for both, so that no crash leaves a certificate beside another's key.
    let text = format!("{}{}", leaf.certificate_pem, leaf.key_pem);
    files::write(&pair, text.as_bytes(), Access::Secret).map_err(io)?;
    Ok(leaf)
}

fn parse(bytes: &[u8]) -> Option<Leaf> {
    let text = std::str::from_utf8(bytes).ok()?;
    let at = text.find("-----BEGIN PRIVATE KEY-----")?;
    let (certificate_pem, key_pem) = text.split_at(at);
    let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).ok()?;
    PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).ok()?;
    Some(Leaf { certificate, certificate_pem: certificate_pem.to_owned(), key_pem: key_pem.to_owned() })
}

/// Signed by this CA, for these names, valid by now and with more than a third of its life left.
fn is_current(leaf: &Leaf, profile: &Profile<'_>, ca: &CertificateDer<'_>, now: SystemTime, life: Duration) -> bool {
    let Ok((_, cert)) = x509_parser::parse_x509_certificate(&leaf.certificate) else { return false };
    let Ok((_, ca)) = x509_parser::parse_x509_certificate(ca) else { return false };
    let now = seconds(now);
    let left = cert.validity().not_after.timestamp() - now;
    cert.issuer() == ca.subject()
        && cert.verify_signature(Some(ca.public_key())).is_ok()
        && cert.validity().not_before.timestamp() <= now
        && left > life.as_secs() as i64 / 3
        && has_names(&cert, profile)
}

fn has_names(cert: &x509_parser::certificate::X509Certificate<'_>, profile: &Profile<'_>) -> bool {
    let Profile::Server(wanted) = profile else { return true };
    let Ok(Some(extension)) = cert.subject_alternative_name() else { return false };
    let mut names: Vec<String> = extension.value.general_names.iter().filter_map(name_text).collect();
    names.sort();
    names == **wanted
}

fn name_text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| std::net::Ipv4Addr::from(b).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|b| std::net::Ipv6Addr::from(b).to_string()),
        },
        _ => None,
    }
}

fn seconds(time: SystemTime) -> i64 {
    since_epoch(time).as_secs() as i64
}

/// Whole seconds since 1970.
fn since_epoch(time: SystemTime) -> Duration {
    Duration::from_secs(time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}
