//! The node's one table: services, NodePorts, masquerade and the rule against spoofed sources.
//!
//! A connection is looked up by destination, protocol and port in `services` (or `nodeports`), which
//! leads to the chain for that number of backends; the chain draws an index and looks the backend up
//! in `backends`. So a service is elements of maps only, and changing one endpoint changes a few
//! elements, however many services there are.

use std::net::Ipv4Addr;

use coracle_shared::desired::{Cidr, NodeConfig, Protocol};

use super::expr::{DESTINATION, Is, Meta, PORT, Rule, SOURCE};
use super::{Batch, Data, Hook, INET_PROTOCOL, INET_SERVICE, IPV4_ADDRESS, MARK, Type, Values, Verdict, table_exists};
use crate::network::error::NetworkError;
use crate::network::netlink::{NetlinkError, Socket};
use crate::network::plan::{Frontend, Spread, Tables, VETH_PREFIX, assignable, difference};

/// The table's name, in family `ip`.
pub(crate) const TABLE: &str = "coracle";

const SERVICES: &str = "services";
const NODE_PORTS: &str = "nodeports";
const BACKENDS: &str = "backends";
const HAIRPIN: &str = "hairpin";
const DISPATCH: &str = "dispatch";

const SERVICE_KEY: Type = Type(&[IPV4_ADDRESS, INET_PROTOCOL, INET_SERVICE]);
const NODE_PORT_KEY: Type = Type(&[INET_PROTOCOL, INET_SERVICE]);
const BACKEND_KEY: Type = Type(&[IPV4_ADDRESS, INET_PROTOCOL, INET_SERVICE, MARK]);
const BACKEND: Type = Type(&[IPV4_ADDRESS, INET_SERVICE]);
const HAIRPIN_KEY: Type = Type(&[IPV4_ADDRESS, IPV4_ADDRESS]);

/// Priorities as the `nft` program calls them: raw, dstnat, filter, srcnat.
const RAW: i32 = -300;
const DSTNAT: i32 = -100;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;

const TCP: u8 = 6;
const LOOPBACK: Cidr = Cidr { address: Ipv4Addr::new(127, 0, 0, 0), prefix: 8 };

fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn port_word(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// The key of a frontend in `backends` without the index, in `services` as it is, and in `nodeports`
/// without the address.
fn frontend_key(frontend: &Frontend) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&frontend.address.octets());
    key[4] = protocol_number(frontend.protocol);
    key[8..].copy_from_slice(&port_word(frontend.port));
    key
}

fn backend_key(frontend: &Frontend, index: u32) -> [u8; 16] {
    let mut key = [0; 16];
    key[..12].copy_from_slice(&frontend_key(frontend));
    key[12..].copy_from_slice(&index.to_ne_bytes());
    key
}

fn backend_value(address: Ipv4Addr, port: u16) -> [u8; 8] {
    let mut value = [0; 8];
    value[..4].copy_from_slice(&address.octets());
    value[4..].copy_from_slice(&port_word(port));
    value
}

fn chain_name(spread: &Spread) -> String {
    let front = if spread.node_port { "nodeport" } else { "service" };
    let affine = if spread.affine { "-affine" } else { "" };
    format!("{front}{affine}-{}", spread.backends)
}

/// The rule of a chain that spreads over a number of backends. (A mask of zeros makes the address the
/// unspecified one, which NodePorts have, in a form that the `nft` program can print.)
fn spread_rule(spread: &Spread) -> Rule {
    let rule = Rule::default();
    let rule = match spread.node_port {
        true => rule.load(DESTINATION, 0).mask(0, [0; 4]),
        false => rule.load(DESTINATION, 0),
    };
    let rule = rule.load_meta(Meta::Protocol, 1).load(PORT, 2);
    let backends = u32::from(spread.backends);
    let rule = match spread.affine {
        true => rule.load(SOURCE, 4).hash(4, backends, 3),
        false => rule.random(backends, 3),
    };
    rule.value_of(BACKENDS).destination_nat()
}

/// The chains and rules that do not depend on services.
fn skeleton(batch: &mut Batch<'_>, node: &NodeConfig) {
    batch.add_set(SERVICES, &SERVICE_KEY, &Values::Verdict);
    batch.add_set(NODE_PORTS, &NODE_PORT_KEY, &Values::Verdict);
    batch.add_set(BACKENDS, &BACKEND_KEY, &Values::Data(BACKEND));
    batch.add_set(HAIRPIN, &HAIRPIN_KEY, &Values::None);
    batch.add_base_chain("spoof", "filter", Hook::Prerouting, RAW);
    let spoofed = Rule::default().input_prefix(VETH_PREFIX).source_elsewhere();
    batch.add_rule("spoof", spoofed.verdict(Verdict::Drop));

    batch.add_chain(DISPATCH);
    let frontend = |rule: Rule, at: u32| rule.load_meta(Meta::Protocol, at).load(PORT, at + 1);
    batch.add_rule(DISPATCH, frontend(Rule::default().load(DESTINATION, 0), 1).verdict_of(SERVICES));
    let own = Rule::default().destined_here().within(DESTINATION, Is::NotEqual, LOOPBACK);
    batch.add_rule(DISPATCH, frontend(own, 0).verdict_of(NODE_PORTS));
    for (chain, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        batch.add_base_chain(chain, "nat", hook, DSTNAT);
        batch.add_rule(chain, Rule::default().verdict(Verdict::Goto(DISPATCH)));
    }

    // What goes to a service's network and was not translated has no backend.
    for (chain, hook) in [("forward", Hook::Forward), ("refuse", Hook::Output)] {
        batch.add_base_chain(chain, "filter", hook, FILTER);
        let unknown = || {
            let rule = Rule::default().within(DESTINATION, Is::Equal, node.service_cidr);
            rule.address(DESTINATION, Is::NotEqual, node.dns_ip)
        };
        batch.add_rule(chain, unknown().protocol(TCP).reset());
        batch.add_rule(chain, unknown().unreachable());
    }

    batch.add_base_chain("postrouting", "nat", Hook::Postrouting, SRCNAT);
    if let Some(pods) = node.pod_cidr {
        masquerade(batch, node.cluster_cidr, pods);
    }
}

fn masquerade(batch: &mut Batch<'_>, cluster: Cidr, pods: Cidr) {
    // A pod that reaches itself through a service would drop its own answer. The set holds every
    // address a pod here can get, so that it needs no change when one starts.
    let itself: Vec<_> = assignable(pods)
        .map(|address| {
            let mut key = [0; 8];
            key[..4].copy_from_slice(&address.octets());
            key[4..].copy_from_slice(&address.octets());
            (key, Data::None)
        })
        .collect();
    batch.elements(false, HAIRPIN, &itself);
    let hairpin = Rule::default().translated().load(SOURCE, 0).load(DESTINATION, 1).in_set(HAIRPIN);
    batch.add_rule("postrouting", hairpin.masquerade());
    // Outward: nobody outside knows the pods' addresses.
    let outward = Rule::default().within(SOURCE, Is::Equal, pods).within(DESTINATION, Is::NotEqual, cluster);
    batch.add_rule("postrouting", outward.masquerade());
    // From outside to a pod elsewhere: the answer has to come back through this node.
    let through = Rule::default().translated().within(SOURCE, Is::NotEqual, cluster);
    batch.add_rule("postrouting", through.within(DESTINATION, Is::NotEqual, pods).masquerade());
}

fn change_frontends(batch: &mut Batch<'_>, delete: bool, changes: &[(Frontend, Spread)]) {
    let chains: Vec<String> = changes.iter().map(|(_, s)| chain_name(s)).collect();
    for (map, node_port) in [(SERVICES, false), (NODE_PORTS, true)] {
        let of_map = changes.iter().zip(&chains).filter(|((_, s), _)| s.node_port == node_port);
        let elements: Vec<(Vec<u8>, Data<'_>)> = of_map
            .map(|((f, _), chain)| {
                let key = frontend_key(f);
                let key = if node_port { &key[4..] } else { &key[..] };
                (key.to_vec(), Data::Verdict(Verdict::Goto(chain)))
            })
            .collect();
        batch.elements(delete, map, &elements);
    }
}

type BackendEntry = ((Frontend, u32), (Ipv4Addr, u16));

fn change_backends(batch: &mut Batch<'_>, delete: bool, changes: &[BackendEntry]) {
    let values: Vec<_> = changes.iter().map(|(_, (address, port))| backend_value(*address, *port)).collect();
    let elements: Vec<_> =
        changes.iter().zip(&values).map(|(((f, i), _), value)| (backend_key(f, *i), Data::Value(value))).collect();
    batch.elements(delete, BACKENDS, &elements);
}

fn refused((what, source): (String, NetlinkError)) -> NetworkError {
    NetworkError::Filter { what: format!("packet filter table {TABLE}: {what}"), source }
}

/// Puts the whole table in place of what is there, in one transaction: connections under way keep
/// their translation, and no packet finds the table missing.
pub(crate) fn load(socket: &mut Socket, node: &NodeConfig, tables: &Tables) -> Result<(), NetworkError> {
    let mut batch = Batch::new(TABLE);
    batch.add_table();
    batch.delete_table();
    batch.add_table();
    skeleton(&mut batch, node);
    change(&mut batch, &Tables::default(), tables);
    batch.commit(socket).map_err(refused)
}

/// Changes the elements in which the tables differ, in one transaction.
pub(crate) fn update(socket: &mut Socket, old: &Tables, new: &Tables) -> Result<(), NetworkError> {
    if old == new {
        return Ok(());
    }
    let mut batch = Batch::new(TABLE);
    change(&mut batch, old, new);
    batch.commit(socket).map_err(refused)
}

fn change(batch: &mut Batch<'_>, old: &Tables, new: &Tables) {
    let (old_spreads, new_spreads) = (old.spreads(), new.spreads());
    let frontends = difference(&old.frontends, &new.frontends);
    let backends = difference(&old.backends, &new.backends);
    change_frontends(batch, true, &frontends.remove);
    change_backends(batch, true, &backends.remove);
    for spread in old_spreads.difference(&new_spreads) {
        batch.delete_chain(&chain_name(spread));
    }
    for spread in new_spreads.difference(&old_spreads) {
        let name = chain_name(spread);
        batch.add_chain(&name);
        batch.add_rule(&name, spread_rule(spread));
    }
    change_backends(batch, false, &backends.add);
    change_frontends(batch, false, &frontends.add);
}

/// Removes the table; one that is not there is no error.
pub(crate) fn remove(socket: &mut Socket) -> Result<(), NetworkError> {
    let mut batch = Batch::new(TABLE);
    batch.add_table();
    batch.delete_table();
    batch.commit(socket).map_err(refused)
}

/// Whether the kernel has the table.
pub(crate) fn is_loaded(socket: &mut Socket) -> Result<bool, NetworkError> {
    table_exists(socket, TABLE).map_err(|e| refused(("look".into(), e)))
}
