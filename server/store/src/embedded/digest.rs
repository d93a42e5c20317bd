//! What all rows of a checkpoint add up to, so that a row that changed, vanished or appeared on the
//! disk is noticed, whatever the database below believes of its pages.

use super::xxh64::xxh64;

/// The number of rows and the sum of their checksums. Order does not matter, so that a batch
/// changes it by what it changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digest {
    pub rows: u64,
    pub sum: u64,
}

impl Digest {
    pub(crate) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.rows = self.rows.wrapping_add(1);
        self.sum = self.sum.wrapping_add(checksum(key, value));
    }

    pub(crate) fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.rows = self.rows.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(checksum(key, value));
    }
}

fn checksum(key: &[u8], value: &[u8]) -> u64 {
    xxh64(xxh64(0, key), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_by_what_changes() {
        let mut whole = Digest::default();
        whole.add(b"a", b"1");
        whole.add(b"b", b"2");
        let mut other = Digest::default();
        other.add(b"b", b"2");
        other.add(b"c", b"3");
        other.remove(b"c", b"3");
        assert_ne!(whole, other);
        other.add(b"a", b"1");
        assert_eq!(whole, other);
        let mut swapped = Digest::default();
        swapped.add(b"a", b"2");
        swapped.add(b"b", b"1");
        assert_ne!(whole, swapped, "a value belongs to its key");
    }
}
