//! A Service with the addresses behind it.

use std::net::Ipv4Addr;

use coracle_shared::codec;
use coracle_shared::desired::{Backend, Body, Item, Protocol, ServiceItem, ServicePort};
use serde_json::Value;

/// `sessionAffinity: ClientIP` without a time lasts three hours.
const DEFAULT_AFFINITY: u64 = 10_800;

/// The parts of an EndpointSlice that matter to a node.
#[derive(Clone, Debug, Default)]
pub struct Slice(Value);

impl Slice {
    pub fn parse(bytes: &[u8]) -> Option<Slice> {
        serde_json::from_slice(bytes).ok().map(Slice)
    }

    /// The Service that the slice belongs to.
    pub fn service(&self) -> Option<&str> {
        self.0["metadata"]["labels"]["kubernetes.io/service-name"].as_str()
    }

    /// Whether traffic is balanced to this address.
    pub fn balances_to(&self, address: Ipv4Addr) -> bool {
        endpoints(&self.0).any(|endpoint| endpoint.ready && endpoint.address == address)
    }
}

/// One address behind a service.
struct Endpoint<'a> {
    address: Ipv4Addr,
    hostname: Option<&'a str>,
    ready: bool,
    serving: bool,
    terminating: bool,
}

/// `None` for bytes that are no service.
pub fn service<'a>(bytes: &[u8], slices: impl Iterator<Item = &'a Slice> + Clone) -> Option<Item> {
    let object: Value = serde_json::from_slice(bytes).ok()?;
    let (metadata, spec) = (object.get("metadata")?, &object["spec"]);
    let cluster_ip = spec["clusterIP"].as_str().and_then(|ip| ip.parse().ok());
    let is_external = spec["type"] == "ExternalName";
    let is_headless = cluster_ip.is_none() && !is_external;
    let mut ports: Vec<ServicePort> =
        list(&spec["ports"]).iter().filter_map(|port| service_port(port, slices.clone(), is_headless)).collect();
    if is_headless && ports.is_empty() {
        // Names of a headless service without ports still have addresses.
        let endpoints: Vec<Endpoint<'_>> = slices.flat_map(|slice| endpoints(&slice.0)).collect();
        let backends = choose(&endpoints, 0, is_headless);
        ports.push(ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 0, node_port: None, backends });
    }
    let timeout = spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].as_u64().unwrap_or(DEFAULT_AFFINITY);
    Some(codec::item(&Body::Service(ServiceItem {
        namespace: metadata["namespace"].as_str()?.to_owned(),
        name: metadata["name"].as_str()?.to_owned(),
        cluster_ip: cluster_ip.filter(|_| !is_external),
        external_name: spec["externalName"].as_str().filter(|_| is_external).map(str::to_owned),
        affinity: (spec["sessionAffinity"] == "ClientIP").then_some(timeout.min(u64::from(u32::MAX)) as u32),
        ports,
    })))
}

fn service_port<'a>(port: &Value, slices: impl Iterator<Item = &'a Slice>, is_headless: bool) -> Option<ServicePort> {
    let name = port["name"].as_str().unwrap_or_default();
    let protocol = protocol(&port["protocol"])?;
    let mut backends = Vec::new();
    // Slices of one service may number the same port differently.
    for slice in slices {
        let is_same = |p: &&Value| {
            p["name"].as_str().unwrap_or_default() == name && self::protocol(&p["protocol"]) == Some(protocol)
        };
        let found = list(&slice.0["ports"]).iter().find(is_same);
        let Some(target) = found.and_then(|p| u16::try_from(p["port"].as_u64()?).ok()) else { continue };
        backends.extend(endpoints(&slice.0).map(|endpoint| (target, endpoint)));
    }
    let any_ready = backends.iter().any(|(_, e)| e.ready);
    let mut backends: Vec<Backend> =
        backends.iter().filter(|(_, e)| counts(e, any_ready, is_headless)).map(|(port, e)| backend(e, *port)).collect();
    backends.sort();
    backends.dedup();
    Some(ServicePort {
        name: name.to_owned(),
        protocol,
        port: u16::try_from(port["port"].as_u64()?).ok()?,
        node_port: port["nodePort"].as_u64().and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0),
        backends,
    })
}

fn choose(endpoints: &[Endpoint<'_>], port: u16, is_headless: bool) -> Vec<Backend> {
    let any_ready = endpoints.iter().any(|e| e.ready);
    let counted = endpoints.iter().filter(|e| counts(e, any_ready, is_headless));
    let mut backends: Vec<Backend> = counted.map(|e| backend(e, port)).collect();
    backends.sort();
    backends.dedup();
    backends
}

/// Ready ones; while there are none, those that terminate and still serve.
fn counts(endpoint: &Endpoint<'_>, any_ready: bool, is_headless: bool) -> bool {
    endpoint.ready || (!any_ready && !is_headless && endpoint.serving && endpoint.terminating)
}

fn backend(endpoint: &Endpoint<'_>, port: u16) -> Backend {
    Backend {
        address: endpoint.address,
        port,
        hostname: endpoint.hostname.map(str::to_owned),
        ready: endpoint.ready || endpoint.serving,
    }
}

fn endpoints(slice: &Value) -> impl Iterator<Item = Endpoint<'_>> {
    list(&slice["endpoints"]).iter().flat_map(|endpoint| {
        let conditions = &endpoint["conditions"];
        // A condition that is not set counts as good (EndpointConditions of discovery/v1).
        let ready = conditions["ready"].as_bool().unwrap_or(true);
        let serving = conditions["serving"].as_bool().unwrap_or(ready);
        let terminating = conditions["terminating"].as_bool().unwrap_or(false);
        let addresses = list(&endpoint["addresses"]).iter().filter_map(|a| a.as_str()?.parse().ok());
        let hostname = endpoint["hostname"].as_str();
        addresses.map(move |address| Endpoint { address, hostname, ready, serving, terminating })
    })
}

fn protocol(value: &Value) -> Option<Protocol> {
    match value.as_str() {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}
