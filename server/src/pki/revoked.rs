//! Keys that are refused for ever.
//!
//! The table lies in the store, so that every server sees it and no restart forgets it: the key's
//! SHA-256 in hexadecimal names a small JSON object of `node` and `time`.

use coracle_shared::ids::Fingerprint;
use coracle_store::{Key, Store};
use serde_json::Value;

const TABLE: &str = "-revokedkey";

/// Where the revocation of a key is written.
pub fn key(of: Fingerprint) -> Key {
    Key::new(TABLE, "", of.to_string())
}

/// What is written there.
pub fn entry(node: &str, time: &str) -> Vec<u8> {
    serde_json::json!({"node": node, "time": time}).to_string().into_bytes()
}

/// When a key was revoked, in RFC 3339; `None` when it was not.
pub fn since(store: &dyn Store, of: Fingerprint) -> Option<String> {
    let item = store.get(&key(of))?;
    let entry: Value = serde_json::from_slice(&item.value).unwrap_or_default();
    Some(entry["time"].as_str().unwrap_or("an unknown time").to_owned())
}
