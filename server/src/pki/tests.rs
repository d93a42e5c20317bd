use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};

use super::*;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn csr(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
    let key = KeyPair::generate_for(algorithm).unwrap();
    CertificateParams::new(vec!["evil.example".into()]).unwrap().serialize_request(&key).unwrap().der().to_vec()
}

#[test]
fn a_second_start_finds_everything_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let first = Pki::open(dir.path(), &["192.0.2.7".into()], now()).unwrap();
    let again = Pki::open(dir.path(), &["192.0.2.7".into()], now() + Duration::from_secs(86_400)).unwrap();
    assert_eq!(first.cluster(), again.cluster());
    assert_eq!(first.ca(), again.ca());
    assert_eq!(first.server().certificate, again.server().certificate);
    assert_eq!(first.admin_kubeconfig("https://127.0.0.1:6443"), again.admin_kubeconfig("https://127.0.0.1:6443"));
}

#[test]
fn other_names_or_old_age_make_a_new_server_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let first = Pki::open(dir.path(), &[], now()).unwrap().server().certificate.clone();
    let named = Pki::open(dir.path(), &["box.example".into()], now()).unwrap();
    assert_ne!(first, named.server().certificate);
    let (_, parsed) = x509_parser::parse_x509_certificate(&named.server().certificate)
        .map(|(r, c)| (r.len(), c.validity().not_after.timestamp()))
        .unwrap();
    let before = named.server().certificate.clone();
    let late = SystemTime::UNIX_EPOCH + Duration::from_secs(parsed as u64) - Duration::from_secs(100 * 86_400);
    named.renew(late).unwrap();
    assert_ne!(before, named.server().certificate);
}

#[test]
fn a_node_gets_its_own_name_whatever_it_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), &[], now()).unwrap();
    let request = csr(&PKCS_ECDSA_P256_SHA256);
    let signed = pki.sign_node_csr(&request, "n1", now()).unwrap();
    let peer = Peer::from_certificate(&signed.certificate).unwrap();
    assert_eq!(peer.node(), Some("n1"));
    assert_eq!(peer.key, request_key(&request).unwrap());
    let (_, cert) = x509_parser::parse_x509_certificate(&signed.certificate).unwrap();
    assert!(cert.subject_alternative_name().unwrap().is_none());
    assert!(!cert.is_ca());
}

#[test]
fn foreign_requests_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), &[], now()).unwrap();
    for bytes in [vec![], vec![0x30, 0x82, 0xff, 0xff], csr(&PKCS_ED25519)] {
        assert!(matches!(pki.sign_node_csr(&bytes, "n1", now()), Err(PkiError::Request(_))));
    }
    let mut forged = csr(&PKCS_ECDSA_P256_SHA256);
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert!(pki.sign_node_csr(&forged, "n1", now()).is_err());
}

#[test]
fn a_damaged_ca_is_named_and_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    drop(Pki::open(dir.path(), &[], now()).unwrap());
    std::fs::remove_file(dir.path().join("pki/ca.key")).unwrap();
    let error = Pki::open(dir.path(), &[], now()).unwrap_err();
    assert!(matches!(&error, PkiError::Corrupt { path, .. } if path.ends_with("ca.key")), "{error}");
}

#[test]
fn a_leaf_that_a_crash_left_damaged_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    drop(Pki::open(dir.path(), &[], now()).unwrap());
    std::fs::write(dir.path().join("pki/server.pem"), b"\0\0\0").unwrap();
    let pki = Pki::open(dir.path(), &[], now()).unwrap();
    assert!(crate::tls::api_config(&std::sync::Arc::new(pki)).is_ok());
}

#[test]
fn the_administrator_is_a_master() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), &[], now()).unwrap();
    let peer = Peer::from_certificate(&pki.admin().certificate).unwrap();
    assert_eq!((peer.user.as_str(), peer.groups.as_slice()), ("admin", &["system:masters".to_owned()][..]));
    assert_eq!(peer.node(), None);
}
