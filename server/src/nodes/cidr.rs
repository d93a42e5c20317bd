//! A /24 of the pods' network for each node, taken in the store: a table whose keys are networks.

use std::net::Ipv4Addr;

use coracle_shared::desired::Cidr;
use coracle_store::{Commit, Item, Key, Precondition, Range, Store};

use super::stored::SCHEMA;

/// The table of networks in use: the key is the network's address, the value the node's name.
const TABLE: &str = "-podcidr";
/// The prefix length of a node's network: 254 pods are more than a small machine runs.
pub const NODE_PREFIX: u8 = 24;

/// Takes a network for a node as a part of `commit`; the one that it had before, if any. `None`: all
/// are taken.
pub fn assign(commit: &mut Commit, store: &dyn Store, cluster: Cidr, node: &str) -> Option<String> {
    let range = Range { resource: TABLE.into(), namespace: None, after: None, limit: 0, at: None };
    let taken: Vec<Item> = store.list(&range).map(|page| page.items).unwrap_or_default();
    if let Some(own) = taken.iter().find(|item| *item.value == *node.as_bytes()) {
        commit.preconditions.push(Precondition::At(own.key.clone(), own.revision));
        return Some(format!("{}/{NODE_PREFIX}", own.key.name));
    }
    let is_free = |address: &Ipv4Addr| !taken.iter().any(|item| *item.key.name == *address.to_string());
    if let Some(free) = networks(cluster).find(is_free) {
        let key = Key::new(TABLE, "", free.to_string());
        *commit = std::mem::take(commit).create(key, SCHEMA, node.as_bytes().to_vec());
        return Some(format!("{free}/{NODE_PREFIX}"));
    }
    // All are taken: one of a node that is no more will do.
    let is_gone = |item: &&Item| {
        let owner = String::from_utf8_lossy(&item.value);
        store.get(&Key::new("nodes", "", &*owner)).is_none()
    };
    let old = taken.iter().find(is_gone)?;
    *commit = std::mem::take(commit).replace(old.key.clone(), old.revision, SCHEMA, node.as_bytes().to_vec());
    Some(format!("{}/{NODE_PREFIX}", old.key.name))
}

/// Every /24 of the cluster's network, in order.
fn networks(cluster: Cidr) -> impl Iterator<Item = Ipv4Addr> {
    let count = 1u32 << NODE_PREFIX.saturating_sub(cluster.prefix).min(24);
    let mask = u32::MAX.checked_shl(32 - u32::from(cluster.prefix)).unwrap_or(0);
    let base = u32::from(cluster.address) & mask;
    (0..count).map(move |i| Ipv4Addr::from(base + (i << (32 - NODE_PREFIX))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_store::{Memory, monotonic};

    fn cluster(text: &str) -> Cidr {
        super::super::compile::parse_cidr(text).unwrap()
    }

    fn take(store: &Memory, network: &str, node: &str) -> Option<String> {
        let mut commit = Commit::new();
        let cidr = assign(&mut commit, store, cluster(network), node);
        store.commit_now(commit.put(Key::new("nodes", "", node), 1, *b"{}")).unwrap();
        cidr
    }

    #[test]
    fn each_node_has_its_own_and_keeps_it() {
        let store = Memory::new([1; 16], monotonic());
        let network = "10.42.0.0/23";
        assert_eq!(take(&store, network, "a").as_deref(), Some("10.42.0.0/24"));
        assert_eq!(take(&store, network, "b").as_deref(), Some("10.42.1.0/24"));
        assert_eq!(take(&store, network, "a").as_deref(), Some("10.42.0.0/24"));
        assert_eq!(take(&store, network, "c"), None, "used up");
        store.commit_now(Commit::new().delete(Key::new("nodes", "", "b"))).unwrap();
        assert_eq!(take(&store, network, "c").as_deref(), Some("10.42.1.0/24"));
    }

    #[test]
    fn a_race_for_a_network_has_one_winner() {
        let store = Memory::new([1; 16], monotonic());
        let (mut first, mut second) = (Commit::new(), Commit::new());
        assign(&mut first, &store, cluster("10.42.0.0/16"), "a");
        assign(&mut second, &store, cluster("10.42.0.0/16"), "b");
        store.commit_now(first).unwrap();
        assert!(store.commit_now(second).is_err());
    }
}
