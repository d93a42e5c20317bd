//! A new secret.key: everything is sealed anew in new files, and the old ones are wiped.

use std::path::Path;

use ring::rand::{SecureRandom, SystemRandom};

use super::build::{build, failed, lock, settle, take_over};
use super::open::{KEY_FILE, open};
use super::seal::KEY_BYTES;
use super::{OpenError, Options};

/// Gives the store in `store` a new key. The server must be stopped. How many objects there are.
///
/// Backups keep the key that they were made with.
pub fn rotate_key(store: &Path, options: &Options) -> Result<usize, OpenError> {
    settle(store)?;
    let opened = open(lock(store)?, options)?;
    let mut key = [0; KEY_BYTES];
    let none = |_| failed(&store.join(KEY_FILE), "drawing random bytes")(std::io::Error::other("none"));
    SystemRandom::new().fill(&mut key).map_err(none)?;
    let rows: Vec<_> = opened.image.rows().map(|(key, row)| (key, Some(row.clone()))).collect();
    let count = rows.len();
    build(store, &key, opened.meta, rows)?;
    take_over(store)?;
    Ok(count)
}
