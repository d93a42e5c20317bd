//! Addresses and ports of Services. Each one given out is a key of its own in the store, claimed and
//! freed in the same commit as its Service: two servers can not give out the same.

use std::net::Ipv4Addr;

use coracle_shared::api::field::{FieldError, Path};
use coracle_shared::api::status::Status;
use coracle_shared::desired::Cidr;
use coracle_store::{Class, Commit, Key, MAX_CHANGES, Precondition};
use serde_json::{Value, json};

use super::{Writer, group_kind};
use crate::api::object::SCHEMA;
use crate::kinds::{Kind, View};

/// The internal table of what is given out: namespace `ip` or `port`, named by the address or number.
const TABLE: &str = "-alloc";
const IP: &str = "ip";
const PORT: &str = "port";

/// NodePorts, as Kubernetes' default range.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;

/// Addresses at the start of the range that are given only to who asks for one: `kubernetes` is the
/// first and DNS the tenth.
const KEPT: u32 = 16;

/// Ports of one Service: they and the Service itself have to fit one commit.
const MAX_PORTS: usize = MAX_CHANGES - 10;

/// What one Service holds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Held {
    ip: Option<Ipv4Addr>,
    ports: Vec<u16>,
}

impl Held {
    fn of(service: &Value) -> Held {
        let view = View(service);
        let mut ports: Vec<u16> = view
            .list(&["spec", "ports"])
            .iter()
            .filter_map(|p| u16::try_from(View(p).number(&["nodePort"])).ok())
            .filter(|p| *p != 0)
            .collect();
        ports.sort_unstable();
        ports.dedup();
        Held { ip: view.text(&["spec", "clusterIP"]).parse().ok(), ports }
    }
}

/// The address at an offset into a network.
pub fn address(network: Cidr, offset: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(network.address) + offset)
}

/// How many addresses a network has.
fn size(network: Cidr) -> u32 {
    1u32.checked_shl(32 - u32::from(network.prefix)).unwrap_or(u32::MAX)
}

/// Whether objects of a kind get something from [`claim`].
pub fn claims(kind: &Kind) -> bool {
    kind.kind == "Service"
}

/// Completes a Service with what it needs, adding the claims (and what an update no longer needs) to
/// its commit. Other kinds pass.
pub fn claim(
    writer: &Writer,
    kind: &'static Kind,
    object: &mut Value,
    old: Option<&Value>,
    commit: &mut Commit,
) -> Result<(), Status> {
    if !claims(kind) {
        return Ok(());
    }
    if View(object).list(&["spec", "ports"]).len() > MAX_PORTS {
        let root = Path::ROOT;
        let error = FieldError::too_many(
            &root.child("spec").child("ports"),
            View(object).list(&["spec", "ports"]).len(),
            MAX_PORTS,
        );
        return Err(invalid(kind, object, error));
    }
    let held = old.map(Held::of).unwrap_or_default();
    let owner = format!("{}/{}", View(object).text(&["metadata", "namespace"]), name(object));
    cluster_ip(writer, kind, object, &held, commit, &owner)?;
    node_ports(writer, kind, object, &held, commit, &owner)?;
    let now = Held::of(object);
    free(
        &Held {
            ip: held.ip.filter(|ip| now.ip != Some(*ip)),
            ports: held.ports.into_iter().filter(|p| !now.ports.contains(p)).collect(),
        },
        commit,
    );
    Ok(())
}

/// Frees what a Service holds, in the commit of its delete.
pub fn release(kind: &'static Kind, object: &Value, commit: &mut Commit) {
    if claims(kind) {
        free(&Held::of(object), commit);
    }
}

fn free(held: &Held, commit: &mut Commit) {
    let keys = held.ip.iter().map(|ip| key(IP, ip)).chain(held.ports.iter().map(|p| key(PORT, p)));
    for key in keys {
        *commit = std::mem::take(commit).delete(key);
    }
}

fn key(table: &str, name: &dyn std::fmt::Display) -> Key {
    Key::new(TABLE, table, name.to_string())
}

fn name(object: &Value) -> String {
    View(object).text(&["metadata", "name"]).to_owned()
}

fn invalid(kind: &'static Kind, object: &Value, error: FieldError) -> Status {
    Status::invalid(group_kind(kind), &name(object), &[error])
}

fn add(commit: &mut Commit, key: Key, owner: &str) {
    let value = json!({"service": owner}).to_string().into_bytes();
    let put = coracle_store::Change::Put {
        key: key.clone(),
        schema: SCHEMA,
        value: value.into(),
        class: Class::Durable,
        seal: None,
    };
    *commit = std::mem::take(commit).require(Precondition::Absent(key)).change(put);
}

fn cluster_ip(
    writer: &Writer,
    kind: &'static Kind,
    object: &mut Value,
    held: &Held,
    commit: &mut Commit,
    owner: &str,
) -> Result<(), Status> {
    let view = View(object);
    if view.text(&["spec", "type"]) == "ExternalName" {
        return Ok(());
    }
    let asked = view.text(&["spec", "clusterIP"]).to_owned();
    let ip = match asked.as_str() {
        "None" => {
            object["spec"]["clusterIPs"] = json!(["None"]);
            return Ok(());
        }
        "" => free_ip(writer)?,
        text => asked_ip(writer, text, held).map_err(|why| {
            let root = Path::ROOT;
            let error = FieldError::invalid(&root.child("spec").child("clusterIPs"), json!([text]), why);
            invalid(kind, object, error)
        })?,
    };
    if held.ip != Some(ip) {
        add(commit, key(IP, &ip), owner);
    }
    let spec = &mut object["spec"];
    spec["clusterIP"] = ip.to_string().into();
    spec["clusterIPs"] = json!([ip.to_string()]);
    for (field, default) in [("ipFamilies", json!(["IPv4"])), ("ipFamilyPolicy", json!("SingleStack"))] {
        if spec.get(field).is_none_or(Value::is_null) {
            spec[field] = default;
        }
    }
    Ok(())
}

fn asked_ip(writer: &Writer, text: &str, held: &Held) -> Result<Ipv4Addr, String> {
    let ip: Ipv4Addr = text.parse().map_err(|_| format!("failed to allocate IP {text}: it is not an IPv4 address"))?;
    let network = writer.service_cidr;
    let offset = u32::from(ip).wrapping_sub(u32::from(network.address));
    if offset == 0 || offset >= size(network) {
        let range = format!("{}/{}", network.address, network.prefix);
        return Err(format!(
            "failed to allocate IP {text}: the provided IP ({text}) is not in the valid range. The range of valid IPs is {range}"
        ));
    }
    if held.ip != Some(ip) && writer.store.get(&key(IP, &ip)).is_some() {
        return Err(format!("failed to allocate IP {text}: provided IP is already allocated"));
    }
    Ok(ip)
}

/// Four random bytes as a number.
fn random(writer: &Writer) -> u32 {
    let [a, b, c, d, ..] = (writer.random)();
    u32::from_le_bytes([a, b, c, d])
}

/// A free address: from a random place on, so that servers seldom choose the same.
fn free_ip(writer: &Writer) -> Result<Ipv4Addr, Status> {
    // Neither the network's own address nor its last one.
    let all = size(writer.service_cidr).saturating_sub(1);
    let usable = all.saturating_sub(KEPT);
    let start = random(writer) % usable.max(1);
    let offsets = (0..usable).map(|n| KEPT + (start + n) % usable);
    let mut candidates = offsets.map(|offset| address(writer.service_cidr, offset));
    candidates
        .find(|ip| writer.store.get(&key(IP, ip)).is_none())
        .ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))
}

fn node_ports(
    writer: &Writer,
    kind: &'static Kind,
    object: &mut Value,
    held: &Held,
    commit: &mut Commit,
    owner: &str,
) -> Result<(), Status> {
    let exposed = matches!(View(object).text(&["spec", "type"]), "NodePort" | "LoadBalancer");
    let mut taken = Held::of(object).ports;
    for port in taken.iter().filter(|p| !held.ports.contains(p)) {
        asked_port(writer, *port).map_err(|why| {
            let root = Path::ROOT;
            let (spec, index) = (root.child("spec"), port_index(object, *port));
            let ports = spec.child("ports");
            invalid(kind, object, FieldError::invalid(&ports.index(index).child("nodePort"), *port, why))
        })?;
        add(commit, key(PORT, port), owner);
    }
    for port in object["spec"]["ports"].as_array_mut().into_iter().flatten() {
        if !exposed || View(port).number(&["nodePort"]) != 0 {
            continue;
        }
        let free = free_port(writer, &taken)?;
        taken.push(free);
        port["nodePort"] = free.into();
        add(commit, key(PORT, &free), owner);
    }
    Ok(())
}

fn port_index(object: &Value, port: u16) -> usize {
    let ports = View(object).list(&["spec", "ports"]);
    ports.iter().position(|p| View(p).number(&["nodePort"]) == i64::from(port)).unwrap_or_default()
}

fn asked_port(writer: &Writer, port: u16) -> Result<(), String> {
    if !NODE_PORTS.contains(&port) {
        return Err(format!(
            "provided port is not in the valid range. The range of valid ports is {}-{}",
            NODE_PORTS.start(),
            NODE_PORTS.end()
        ));
    }
    match writer.store.get(&key(PORT, &port)) {
        Some(_) => Err("provided port is already allocated".into()),
        None => Ok(()),
    }
}

fn free_port(writer: &Writer, taken: &[u16]) -> Result<u16, Status> {
    let count = u32::from(NODE_PORTS.end() - NODE_PORTS.start()) + 1;
    let start = random(writer) % count;
    let offsets = (0..count).map(|n| (start + n) % count);
    let mut candidates = offsets.filter_map(|n| u16::try_from(u32::from(*NODE_PORTS.start()) + n).ok());
    candidates
        .find(|port| !taken.contains(port) && writer.store.get(&key(PORT, port)).is_none())
        .ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))
}
