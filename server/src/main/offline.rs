//! What is done to the state directory while no server serves from it: restoring a backup, changing
//! the key, and saying what to do when the store does not open.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use coracle_server::bridge::last_backup;
use coracle_server::pki;
use coracle_store::embedded::OpenError;
use coracle_store::{Key, backup, embedded};

use crate::{Fault, store_options};

/// The largest key file that is read: a key is 65 bytes.
const MAX_KEY_FILE: u64 = 4096;

/// Puts a backup into an empty state directory.
pub fn restore(state: &Path, file: &Path, key: &Path) -> Result<(), Fault> {
    let named = |error: std::io::Error| format!("{}: {error}", key.display());
    if fs::metadata(key).map_err(named)?.len() > MAX_KEY_FILE {
        return Err(format!("{}: too large for a secret.key", key.display()).into());
    }
    let key = fs::read(key).map_err(named)?;
    let named = |error: backup::RestoreError| format!("{}: {error}", file.display());
    let backup = backup::read(file, &key).map_err(named)?;
    // The cluster's identity first: the store's name, which comes last, says that all is there.
    pki::restore(state, &backup.files)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let count = backup.restore(&state.join("store"), now, is_kept).map_err(named)?;
    println!("restored {count} objects into {}; start the server on it", state.display());
    println!("tokens for joining were left out: make new ones with `coracle token create`");
    Ok(())
}

/// Tokens were perhaps used up since the backup, and must not come to life again.
fn is_kept(key: &Key) -> bool {
    !(&*key.resource == "secrets" && &*key.namespace == "kube-system" && key.name.starts_with("bootstrap-token-"))
}

/// Gives the store a new secret.key.
pub fn rotate_key(state: &Path) -> Result<(), Fault> {
    let store = state.join("store");
    if !store.exists() {
        return Err(format!("{}: there is no store", store.display()).into());
    }
    let count = embedded::rotate_key(&store, &store_options(state)).map_err(|error| explain(error, state))?;
    println!("{count} objects are written anew; keep a copy of the new key: {}", store.join("secret.key").display());
    println!("backups made before open with the old key only: make a new one, and delete them if the key leaked");
    Ok(())
}

/// What went wrong, and for damage: what can be done, and with which backup.
pub fn explain(error: OpenError, state: &Path) -> Fault {
    if !matches!(error, OpenError::Damaged { .. }) {
        return error.into();
    }
    let backup = match last_backup(state) {
        Some(words) => format!("The last good backup is {words}."),
        None => "No backup of it was ever reported.".to_owned(),
    };
    let state = state.display();
    format!(
        "{error}.\n{backup}\nNothing was changed, and no server runs on a damaged store. Check the disk, then \
         move the store aside and restore:\n  mv {state}/store {state}/store.damaged\n  \
         coracle restore BACKUP --state {state} --key {state}/store.damaged/secret.key\n\
         Pods on the nodes run on meanwhile."
    )
    .into()
}
