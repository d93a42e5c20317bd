//! Sealing records with the node's own key: ChaCha20-Poly1305, the record's key as associated
//! data, so that no record can stand in for another.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

/// Bytes of the key file.
const KEY_BYTES: usize = 32;

/// Bytes of the tag at the end of each sealed record: it depends on everything in it and its name.
pub(super) const TAG_LEN: usize = 16;

/// A record that is not this node's, or was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealError;

/// The node's key.
pub struct Seal {
    key: LessSafeKey,
    random: SystemRandom,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal")
    }
}

impl Seal {
    pub fn new(key: &[u8; KEY_BYTES]) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("the key has the algorithm's length");
        Self { key: LessSafeKey::new(key), random: SystemRandom::new() }
    }

    /// Reads the key file (0600), or makes it.
    ///
    /// # Errors
    /// The file cannot be read or made, or is not a key.
    pub fn load(path: &Path) -> io::Result<Self> {
        match fs::read(path) {
            Ok(bytes) => {
                let key = bytes.try_into().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not a key"))?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
                Ok(Self::new(&key))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Self::make(path),
            Err(e) => Err(e),
        }
    }

    fn make(path: &Path) -> io::Result<Self> {
        let mut key = [0; KEY_BYTES];
        SystemRandom::new().fill(&mut key).map_err(|_| io::Error::other("no randomness"))?;
        let temp = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temp)?;
        file.write_all(&key)?;
        file.sync_all()?;
        fs::rename(&temp, path)?;
        if let Some(dir) = path.parent() {
            fs::File::open(dir)?.sync_all()?;
        }
        Ok(Self::new(&key))
    }

    /// Nonce, then ciphertext with its tag.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn close(&self, name: &[u8], mut plain: Vec<u8>) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| SealError)?;
        let sealing = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(sealing, Aad::from(name), &mut plain).map_err(|_| SealError)?;
        let mut sealed = nonce.to_vec();
        sealed.append(&mut plain);
        Ok(sealed)
    }

    /// # Errors
    /// The record was not sealed under this name with this key.
    pub fn open(&self, name: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(SealError)?;
        let mut rest = rest.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = self.key.open_in_place(nonce, Aad::from(name), &mut rest).map_err(|_| SealError)?.len();
        rest.truncate(plain);
        Ok(rest)
    }
}
