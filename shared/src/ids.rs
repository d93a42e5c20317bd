//! Newtypes for the names and numbers that travel between rooms.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The position of a set of desired items in its store's history. Ordered by epoch, then revision:
/// a restored backup raises the epoch, so that nothing it writes looks old.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation {
    pub epoch: u64,
    pub revision: u64,
}

/// A SHA-256 cut to 16 bytes: enough to tell items and sets apart, not a security boundary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 16]);

/// The identity of a store, fixed at its creation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StoreUuid(pub [u8; 16]);

/// `metadata.uid` of a pod: a new one for each pod that ever was.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodUid(pub String);

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}
