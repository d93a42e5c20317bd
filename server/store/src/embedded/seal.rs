//! Encryption of Secrets at the disk's boundary: memory holds plaintext, no disk ever does.
//!
//! Each sealing derives a key of its own, HMAC-SHA-256(secret key, 16 random bytes), for
//! ChaCha20-Poly1305 (fast on boards without AES instructions) with 12 random bytes as nonce:
//! 28 fresh random bytes a value, so that key and nonce never repeat, also not between two stores
//! restored from one backup. The additional authenticated data are the object's resource,
//! namespace, name and uid, so that a sealed value cannot be moved to another object.
//!
//! Sealed: salt (16), nonce (12), ciphertext, tag (16).

use std::fmt;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use super::codec::string;
use crate::Key;

const SALT: usize = 16;
const NONCE: usize = 12;

/// Bytes of the secret key.
pub(crate) const KEY_BYTES: usize = 32;

/// Why a value could not be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SealError {
    /// The system gives no randomness.
    Random,
    /// Too short, changed, of another object, or sealed with another key.
    Refused,
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SealError::Random => write!(f, "the system gives no randomness"),
            SealError::Refused => write!(f, "the encrypted value does not open with secret.key"),
        }
    }
}

/// Seals and opens with one secret key.
pub(crate) struct Sealer {
    master: hmac::Key,
    random: SystemRandom,
}

impl Sealer {
    pub(crate) fn new(key: &[u8; KEY_BYTES]) -> Sealer {
        Sealer { master: hmac::Key::new(hmac::HMAC_SHA256, key), random: SystemRandom::new() }
    }

    /// Names the key without telling it: a store remembers which key it was written with.
    pub(crate) fn id(&self) -> [u8; 8] {
        let tag = hmac::sign(&self.master, b"coracle: id of a secret key");
        let (id, _) = tag.as_ref().split_first_chunk().expect("an HMAC-SHA-256 tag has 32 bytes");
        *id
    }

    /// Appends the sealed value to `bytes`.
    pub(crate) fn seal(&self, key: &Key, uid: &str, value: &[u8], bytes: &mut Vec<u8>) -> Result<(), SealError> {
        let mut fresh = [0; SALT + NONCE];
        self.random.fill(&mut fresh).map_err(|_| SealError::Random)?;
        bytes.extend(fresh);
        let start = bytes.len();
        bytes.extend_from_slice(value);
        let (aead, nonce) = self.derive(&fresh)?;
        let tag = aead.seal_in_place_separate_tag(nonce, aad(key, uid), &mut bytes[start..]);
        bytes.extend_from_slice(tag.map_err(|_| SealError::Refused)?.as_ref());
        Ok(())
    }

    pub(crate) fn open(&self, key: &Key, uid: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (fresh, rest) = sealed.split_first_chunk().ok_or(SealError::Refused)?;
        let (aead, nonce) = self.derive(fresh)?;
        let mut plain = rest.to_vec();
        let length = aead.open_in_place(nonce, aad(key, uid), &mut plain).map_err(|_| SealError::Refused)?.len();
        plain.truncate(length);
        Ok(plain)
    }

    fn derive(&self, fresh: &[u8; SALT + NONCE]) -> Result<(LessSafeKey, Nonce), SealError> {
        let (salt, nonce) = fresh.split_at(SALT);
        let derived = hmac::sign(&self.master, salt);
        let key = UnboundKey::new(&CHACHA20_POLY1305, derived.as_ref()).map_err(|_| SealError::Refused)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Refused)?;
        Ok((LessSafeKey::new(key), nonce))
    }
}

fn aad(key: &Key, uid: &str) -> Aad<Vec<u8>> {
    let mut bytes = Vec::new();
    for part in [&key.resource, &key.namespace, &key.name] {
        string(&mut bytes, part);
    }
    string(&mut bytes, uid);
    Aad::from(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_for_its_object_and_key() {
        let (sealer, other) = (Sealer::new(&[1; 32]), Sealer::new(&[2; 32]));
        assert_ne!(sealer.id(), other.id());
        let key = Key::new("secrets", "default", "token");
        let mut sealed = Vec::new();
        sealer.seal(&key, "uid", b"hidden value", &mut sealed).expect("randomness");
        assert!(!sealed.windows(6).any(|window| window == b"hidden"));
        assert_eq!(sealer.open(&key, "uid", &sealed), Ok(b"hidden value".to_vec()));

        assert_eq!(sealer.open(&key, "other", &sealed), Err(SealError::Refused));
        assert_eq!(sealer.open(&Key::new("secrets", "default", "t"), "uid", &sealed), Err(SealError::Refused));
        assert_eq!(other.open(&key, "uid", &sealed), Err(SealError::Refused));
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            assert_eq!(sealer.open(&key, "uid", &changed), Err(SealError::Refused), "byte {index}");
            assert_eq!(sealer.open(&key, "uid", &sealed[..index]), Err(SealError::Refused));
        }
        let mut again = Vec::new();
        sealer.seal(&key, "uid", b"hidden value", &mut again).expect("randomness");
        assert_ne!(sealed, again);
    }
}
