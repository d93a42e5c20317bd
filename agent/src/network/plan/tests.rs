use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use coracle_shared::desired::{Backend, Cidr, Protocol, RouteItem, ServiceItem, ServicePort};
use proptest::prelude::*;

use super::*;

fn cidr(text: &str) -> Cidr {
    let (address, prefix) = text.split_once('/').expect("a slash");
    Cidr { address: address.parse().expect("an address"), prefix: prefix.parse().expect("a length") }
}

fn ip(text: &str) -> Ipv4Addr {
    text.parse().expect("an address")
}

#[test]
fn addresses_are_given_from_the_lowest() {
    let check = |network: &str, used: &[&str], expected: Option<&str>| {
        let used: BTreeSet<_> = used.iter().map(|a| ip(a)).collect();
        assert_eq!(lowest_free(cidr(network), &used), expected.map(ip), "{network} {used:?}");
    };
    check("10.42.3.0/24", &[], Some("10.42.3.2"));
    check("10.42.3.0/24", &["10.42.3.2", "10.42.3.4"], Some("10.42.3.3"));
    check("10.42.3.0/29", &["10.42.3.2", "10.42.3.3", "10.42.3.4", "10.42.3.5"], Some("10.42.3.6"));
    check("10.42.3.0/29", &["10.42.3.2", "10.42.3.3", "10.42.3.4", "10.42.3.5", "10.42.3.6"], None);
    assert_eq!(assignable(cidr("10.42.3.0/24")).count(), 253);
    assert_eq!(assignable(cidr("10.42.3.0/24")).last(), Some(ip("10.42.3.254")));
}

#[test]
fn a_pod_network_is_aligned_and_of_a_sensible_size() {
    for (network, expected) in [
        ("10.42.3.0/24", true),
        ("10.42.0.0/16", true),
        ("10.42.3.8/29", true),
        ("10.42.3.1/24", false),
        ("10.42.3.0/30", false),
        ("10.0.0.0/8", false),
        ("0.0.0.0/0", false),
        ("10.42.3.0/33", false),
    ] {
        assert_eq!(usable(cidr(network)), expected, "{network}");
    }
}

#[test]
fn names_and_link_addresses_follow_from_the_address() {
    assert_eq!(veth_name(ip("10.42.3.7")), "cv0a2a0307");
    assert!(veth_name(ip("255.255.255.255")).len() <= 15);
    assert_eq!(pod_mac(ip("10.42.3.7")), Mac([0x0a, 0x58, 10, 42, 3, 7]));
    assert!(contains(cidr("10.42.0.0/16"), ip("10.42.255.255")) && !contains(cidr("10.42.0.0/16"), ip("10.43.0.0")));
    assert!(contains(cidr("0.0.0.0/0"), ip("8.8.8.8")));
}

#[test]
fn routes_follow_the_nodes() {
    let item = |network: &str, via: &str| RouteItem { node: via.into(), pod_cidr: cidr(network), via: ip(via) };
    let route = |network: &str, via: &str| NodeRoute { to: cidr(network), via: ip(via) };
    let check = |items: &[RouteItem], have: &[NodeRoute], set: &[NodeRoute], remove: &[NodeRoute]| {
        let have = have.iter().copied().collect();
        assert_eq!(route_changes(Some(cidr("10.42.1.0/24")), items, &have), (set.to_vec(), remove.to_vec()));
    };
    let [own, two, three] =
        [("10.42.1.0/24", "172.30.0.1"), ("10.42.2.0/24", "172.30.0.2"), ("10.42.3.0/24", "172.30.0.3")];
    check(&[], &[], &[], &[]);
    check(&[item(own.0, own.1), item(two.0, two.1)], &[], &[route(two.0, two.1)], &[]);
    check(&[item(two.0, two.1)], &[route(two.0, two.1), route(three.0, three.1)], &[], &[route(three.0, three.1)]);
    // A node that moved: its route is replaced where it is, so that there is never none.
    check(&[item(two.0, three.1)], &[route(two.0, two.1)], &[route(two.0, three.1)], &[]);
}

fn service(address: Option<&str>, node_port: Option<u16>, backends: &[(&str, bool)]) -> ServiceItem {
    let backends =
        backends.iter().map(|(a, ready)| Backend { address: ip(a), port: 8080, hostname: None, ready: *ready });
    ServiceItem {
        namespace: "ns".into(),
        name: "web".into(),
        cluster_ip: address.map(ip),
        external_name: None,
        affinity: None,
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port,
            backends: backends.collect(),
        }],
    }
}

#[test]
fn services_become_frontends_and_backends() {
    let dns = Some(ip("10.43.0.10"));
    let check = |services: &[ServiceItem], frontends: &[(&str, u16, Spread)], backends: usize| {
        let tables = Tables::of(services, dns);
        let expected: BTreeMap<_, _> = frontends
            .iter()
            .map(|(a, port, s)| (Frontend { address: ip(a), protocol: Protocol::Tcp, port: *port }, *s))
            .collect();
        assert_eq!((tables.frontends, tables.backends.len()), (expected, backends));
    };
    let spread = |backends| Spread { backends, affine: false, node_port: false };
    let two = [("10.42.1.2", true), ("10.42.1.3", true)];
    check(&[service(Some("10.43.0.80"), None, &two)], &[("10.43.0.80", 80, spread(2))], 2);
    let at_node = Spread { node_port: true, ..spread(2) };
    check(
        &[service(Some("10.43.0.80"), Some(30080), &two)],
        &[("10.43.0.80", 80, spread(2)), ("0.0.0.0", 30080, at_node)],
        4,
    );
    check(&[service(Some("10.43.0.80"), Some(30080), &[])], &[], 0);
    check(&[service(Some("10.43.0.80"), None, &[("10.42.1.2", false)])], &[], 0);
    check(&[service(None, None, &two)], &[], 0);
    check(&[service(dns.map(|_| "10.43.0.10"), None, &two)], &[], 0);
    let mut affine = service(Some("10.43.0.80"), None, &two);
    affine.affinity = Some(10800);
    check(&[affine], &[("10.43.0.80", 80, Spread { affine: true, ..spread(2) })], 2);
    // Two services of the same address cannot be; if so, the first stands whole.
    let twice = [service(Some("10.43.0.80"), None, &two), service(Some("10.43.0.80"), None, &two[..1])];
    check(&twice, &[("10.43.0.80", 80, spread(2))], 2);
}

proptest! {
    /// What is removed and added turns the old map into the new one, and touches nothing else.
    #[test]
    fn a_difference_leads_from_one_to_the_other(
        old in proptest::collection::btree_map(0_u8..20, 0_u8..3, 0..20),
        new in proptest::collection::btree_map(0_u8..20, 0_u8..3, 0..20),
    ) {
        let Difference { remove, add } = difference(&old, &new);
        let mut map = old.clone();
        for (key, value) in &remove {
            prop_assert_eq!(map.remove(key), Some(*value));
        }
        for (key, value) in &add {
            prop_assert_eq!(map.insert(*key, *value), None);
            prop_assert!(old.get(key) != Some(value));
        }
        prop_assert_eq!(map, new);
    }
}
