//! Digests of items and sets.

use ring::digest::{Context, SHA256};

use crate::desired::ItemId;
use crate::ids::Digest;

/// SHA-256 of an item's body, cut to 16 bytes.
pub fn of_body(body: &[u8]) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(body);
    cut(context)
}

/// The digest of a set: over (length of id, id, hash) in id order. The caller gives the pairs in
/// that order; an empty set has a digest too.
pub fn of_set<'a>(entries: impl IntoIterator<Item = (&'a ItemId, &'a Digest)>) -> Digest {
    let mut context = Context::new(&SHA256);
    for (id, hash) in entries {
        context.update(&(id.0.len() as u32).to_le_bytes());
        context.update(id.0.as_bytes());
        context.update(&hash.0);
    }
    cut(context)
}

fn cut(context: Context) -> Digest {
    let mut digest = Digest::default();
    digest.0.copy_from_slice(&context.finish().as_ref()[..16]);
    digest
}
