//! The cluster's names, by the specification "Kubernetes DNS-Based Service Discovery" 1.1.0.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use coracle_shared::desired::{Cidr, Protocol, ServiceItem};
use serde::{Deserialize, Serialize};

use super::wire::{Data, Name, Record};
use crate::network::plan::contains;

/// How long an answer may be kept, in seconds: pods come and go.
pub(crate) const TTL: u32 = 5;

/// What the names are made of, as the agent hands it to the DNS process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Source {
    /// `cluster.local`.
    pub domain: String,
    /// The networks of the cluster: who asks for the name of an address in them is answered here.
    pub networks: Vec<Cidr>,
    pub services: Vec<ServiceItem>,
}

impl Source {
    /// The names of these services, without what names do not depend on: where a service with an
    /// address leads may change without a word to DNS.
    pub(crate) fn new(domain: &str, networks: Vec<Cidr>, services: &[ServiceItem]) -> Source {
        let services = services.iter().cloned().map(|mut service| {
            if service.cluster_ip.is_some() {
                service.ports.iter_mut().for_each(|p| p.backends.clear());
            }
            service
        });
        Source { domain: domain.to_owned(), networks, services: services.collect() }
    }
}

/// What there is under a name. All empty: names below exist, but nothing is known of this one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub addresses: Vec<Ipv4Addr>,
    pub alias: Option<Name>,
    pub services: Vec<(u16, Name)>,
    pub text: Option<&'static str>,
}

/// The names in the form that questions are looked up in.
#[derive(Debug)]
pub(crate) struct Zone {
    pub domain: Name,
    networks: Vec<Cidr>,
    entries: BTreeMap<Name, Entry>,
    pointers: BTreeMap<Ipv4Addr, Vec<Name>>,
}

impl Zone {
    /// The zone; `None` when the domain is no name. What cannot be a name inside is left out: the API
    /// refuses such services.
    pub(crate) fn new(source: &Source) -> Option<Zone> {
        let domain = Name::parse(&source.domain)?;
        let networks = source.networks.clone();
        let mut zone = Zone { domain, networks, entries: BTreeMap::new(), pointers: BTreeMap::new() };
        zone.entry(&zone.domain.clone());
        if let Some(version) = zone.domain.child("dns-version") {
            zone.entry(&version).text = Some("1.1.0");
        }
        for service in &source.services {
            zone.add_service(service);
        }
        Some(zone)
    }

    /// The entry of a name, with all the names above it.
    fn entry(&mut self, name: &Name) -> &mut Entry {
        if !self.entries.contains_key(name)
            && let Some(parent) = name.parent().filter(|p| p.is_within(&self.domain))
        {
            self.entry(&parent);
        }
        self.entries.entry(name.clone()).or_default()
    }

    fn add_service(&mut self, service: &ServiceItem) -> Option<()> {
        let name = self.domain.child("svc")?.child(&service.namespace)?.child(&service.name)?;
        self.entry(&name);
        if let Some(external) = &service.external_name {
            self.entry(&name).alias = Name::parse(external);
            return Some(());
        }
        if let Some(address) = service.cluster_ip {
            self.entry(&name).addresses = vec![address];
            self.pointers.entry(address).or_default().push(name.clone());
        }
        for port in &service.ports {
            let frontend = (!port.name.is_empty()).then(|| {
                let protocol = match port.protocol {
                    Protocol::Tcp => "_tcp",
                    Protocol::Udp => "_udp",
                    Protocol::Sctp => "_sctp",
                };
                name.child(protocol)?.child(&format!("_{}", port.name))
            });
            let frontend = frontend.flatten();
            if service.cluster_ip.is_some() {
                if let Some(frontend) = frontend {
                    self.entry(&frontend).services.push((port.port, name.clone()));
                }
                continue;
            }
            for backend in &port.backends {
                self.add_backend(&name, frontend.as_ref(), backend.address, backend.port, backend.hostname.as_deref());
            }
        }
        Some(())
    }

    /// A pod behind a headless service: by its hostname, or by its address with dashes.
    fn add_backend(
        &mut self,
        service: &Name,
        frontend: Option<&Name>,
        address: Ipv4Addr,
        port: u16,
        hostname: Option<&str>,
    ) -> Option<()> {
        let dashed = || address.to_string().replace('.', "-");
        let name = service.child(&hostname.map_or_else(dashed, str::to_owned))?;
        for owner in [service, &name] {
            let addresses = &mut self.entry(owner).addresses;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let pointers = self.pointers.entry(address).or_default();
        if hostname.is_some() && !pointers.contains(&name) {
            pointers.push(name.clone());
        }
        if let Some(frontend) = frontend {
            self.entry(frontend).services.push((port, name));
        }
        Some(())
    }

    pub(crate) fn get(&self, name: &Name) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// The names of an address; `None` when it is none of the cluster's.
    pub(crate) fn names_of(&self, address: Ipv4Addr) -> Option<&[Name]> {
        let known = self.pointers.get(&address).map(Vec::as_slice).filter(|n| !n.is_empty());
        let ours = || self.networks.iter().any(|n| contains(*n, address));
        known.or_else(|| ours().then_some(&[]))
    }

    /// What says how long a "no" may be kept.
    pub(crate) fn authority(&self) -> Record {
        let zone = self.domain.clone();
        Record { name: zone.clone(), ttl: TTL, data: Data::Soa { zone, minimum: TTL } }
    }
}
