//! From stored objects to what a node should be: pure, and the same bytes for the same objects.

mod pod;
mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_shared::codec;
use coracle_shared::desired::{Body, Cidr, CredentialItem, DataItem, Item, ItemId, NodeConfig, RouteItem};
use coracle_shared::session::Compiled;
use coracle_store::Key;
use serde_json::Value;

pub use pod::{CompiledPod, pod};
pub use service::{Slice, service};

/// What all nodes are told alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterNetwork {
    pub cluster_cidr: Cidr,
    pub service_cidr: Cidr,
    pub dns_ip: Ipv4Addr,
    pub domain: String,
}

/// An object beside the pod that its containers need.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    pub kind: ReferenceKind,
    pub namespace: String,
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReferenceKind {
    ConfigMap,
    Secret,
    /// A pull secret: the same stored object as a Secret, but another item.
    Credential,
}

impl Reference {
    /// Where the object is stored.
    pub fn key(&self) -> Key {
        let resource = match self.kind {
            ReferenceKind::ConfigMap => "configmaps",
            ReferenceKind::Secret | ReferenceKind::Credential => "secrets",
        };
        Key::new(resource, self.namespace.as_str(), self.name.as_str())
    }

    /// The item that it becomes; see [`Body::id`].
    pub fn item_id(&self) -> ItemId {
        let kind = match self.kind {
            ReferenceKind::ConfigMap => "configmap",
            ReferenceKind::Secret => "secret",
            ReferenceKind::Credential => "credential",
        };
        ItemId(format!("{kind}/{}/{}", self.namespace, self.name))
    }
}

/// A referenced object as an item; `None` when its bytes are not what they should be (a pull secret
/// without credentials).
pub fn reference(reference: &Reference, bytes: &[u8]) -> Option<Item> {
    let object: Value = serde_json::from_slice(bytes).ok()?;
    let (namespace, name) = (reference.namespace.clone(), reference.name.clone());
    let body = match reference.kind {
        ReferenceKind::ConfigMap => {
            let mut data = decoded(&object["binaryData"]);
            data.extend(plain(&object["data"]));
            Body::Data(DataItem { secret: false, namespace, name, data })
        }
        ReferenceKind::Secret => Body::Data(DataItem { secret: true, namespace, name, data: decoded(&object["data"]) }),
        ReferenceKind::Credential => {
            let data = decoded(&object["data"]);
            let docker_config = match (data.get(".dockerconfigjson"), data.get(".dockercfg")) {
                (Some(config), _) => config.clone(),
                // The older form is the inner map of the newer one.
                (None, Some(old)) => [b"{\"auths\":".as_slice(), old, b"}"].concat(),
                (None, None) => return None,
            };
            Body::Credential(CredentialItem { namespace, name, docker_config })
        }
    };
    Some(codec::item(&body))
}

fn plain(map: &Value) -> BTreeMap<String, Vec<u8>> {
    let entries = map.as_object().into_iter().flatten();
    entries.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.as_bytes().to_vec()))).collect()
}

fn decoded(map: &Value) -> BTreeMap<String, Vec<u8>> {
    let entries = map.as_object().into_iter().flatten();
    entries.filter_map(|(k, v)| Some((k.clone(), STANDARD.decode(v.as_str()?).ok()?))).collect()
}

/// What a node is told about itself.
pub fn config(network: &ClusterNetwork, node: Option<&[u8]>) -> Item {
    let object: Value = node.and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or_default();
    codec::item(&Body::Node(NodeConfig {
        pod_cidr: object["spec"]["podCIDR"].as_str().and_then(parse_cidr),
        cluster_cidr: network.cluster_cidr,
        service_cidr: network.service_cidr,
        dns_ip: network.dns_ip,
        domain: network.domain.clone(),
    }))
}

/// Where a node's pods are, once it has a network and an address.
pub fn route(node: &str, bytes: &[u8]) -> Option<Item> {
    let object: Value = serde_json::from_slice(bytes).ok()?;
    let pod_cidr = parse_cidr(object["spec"]["podCIDR"].as_str()?)?;
    let addresses = object["status"]["addresses"].as_array()?;
    let internal = addresses.iter().find(|a| a["type"] == "InternalIP")?;
    let via = internal["address"].as_str()?.parse().ok()?;
    Some(codec::item(&Body::Route(RouteItem { node: node.to_owned(), pod_cidr, via })))
}

/// All of one node: its configuration, its pods, and what they refer to. `object` gives the item of
/// a reference, or nothing when there is no such object.
pub fn node<'a>(
    config: Arc<Item>,
    pods: impl Iterator<Item = &'a CompiledPod>,
    object: impl Fn(&Reference) -> Option<Arc<Item>>,
) -> Compiled {
    let mut compiled = Compiled::default();
    compiled.items.insert(config.id.clone(), config);
    let mut references: BTreeSet<&Reference> = BTreeSet::new();
    for pod in pods {
        compiled.items.insert(pod.item.id.clone(), pod.item.clone());
        references.extend(&pod.references);
    }
    for reference in references {
        match object(reference) {
            Some(item) => {
                compiled.items.insert(item.id.clone(), item);
            }
            None => {
                compiled.missing.insert(reference.item_id());
            }
        }
    }
    compiled
}

/// `10.42.3.0/24`.
pub fn parse_cidr(text: &str) -> Option<Cidr> {
    let (address, prefix) = text.split_once('/')?;
    let prefix: u8 = prefix.parse().ok().filter(|p| *p <= 32)?;
    Some(Cidr { address: address.parse().ok()?, prefix })
}

#[cfg(test)]
mod tests;
