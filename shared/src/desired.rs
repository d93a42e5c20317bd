//! What a node should be: the items that the server compiles, the wire carries and the ledger keeps.
//!
//! Compiling is a pure, byte-deterministic function of stored objects. An item has an id and a hash
//! of its encoded body; a set has a digest over both and a [`Generation`].

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, Generation, PodUid};

/// Which of the two sets of a node an item belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SetKind {
    /// This node's own: its pods, their ConfigMaps, Secrets and pull credentials, its configuration.
    Node,
    /// The same for all nodes, compiled and encoded once: services with endpoints, node routes.
    Shared,
}

/// Names an item inside its set, stable over its life: see [`Body::id`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ItemId(pub String);

/// An item as it travels and as the ledger stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub id: ItemId,
    /// SHA-256 of `body`, cut.
    pub hash: Digest,
    /// An encoded [`Body`].
    #[serde(with = "crate::codec::block")]
    pub body: Vec<u8>,
}

/// The head of a set: what its content is and where in history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetHead {
    pub generation: Generation,
    /// Over the (id, hash) pairs in id order.
    pub digest: Digest,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Body {
    Pod(PodItem),
    Data(DataItem),
    Credential(CredentialItem),
    Node(NodeConfig),
    Service(ServiceItem),
    Route(RouteItem),
}

impl Body {
    /// `pod/UID`, `configmap/NS/NAME`, `secret/NS/NAME`, `credential/NS/NAME`, `node`,
    /// `service/NS/NAME`, `route/NODE`.
    pub fn id(&self) -> ItemId {
        ItemId(match self {
            Body::Pod(p) => format!("pod/{}", p.uid),
            Body::Data(d) => d.id(),
            Body::Credential(c) => format!("credential/{}/{}", c.namespace, c.name),
            Body::Node(_) => "node".into(),
            Body::Service(s) => format!("service/{}/{}", s.namespace, s.name),
            Body::Route(r) => format!("route/{}", r.node),
        })
    }
}

/// One pod bound to the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodItem {
    pub uid: PodUid,
    pub namespace: String,
    pub name: String,
    /// The pod as v1 API JSON, `metadata` (name, namespace, uid, labels, annotations,
    /// deletionTimestamp) and `spec` only: status is the agent's to say.
    #[serde(with = "crate::codec::block")]
    pub object: Vec<u8>,
    /// Set when the pod is to stop: the grace in seconds from when the agent first sees it.
    pub stop: Option<u32>,
}

/// A ConfigMap or Secret that a pod of this node uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataItem {
    pub secret: bool,
    pub namespace: String,
    pub name: String,
    pub data: BTreeMap<String, Vec<u8>>,
}

impl DataItem {
    fn id(&self) -> String {
        let kind = if self.secret { "secret" } else { "configmap" };
        format!("{kind}/{}/{}", self.namespace, self.name)
    }
}

/// A pull secret that a pod of this node names, as the bytes of its `.dockerconfigjson`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialItem {
    pub namespace: String,
    pub name: String,
    pub docker_config: Vec<u8>,
}

/// What the node is told about itself and the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeConfig {
    /// The node's own /24, as `10.42.3.0/24`; `None` until one is assigned.
    pub pod_cidr: Option<Cidr>,
    pub cluster_cidr: Cidr,
    pub service_cidr: Cidr,
    /// Where pods find DNS: answered on the node itself.
    pub dns_ip: Ipv4Addr,
    /// `cluster.local`.
    pub domain: String,
}

/// An IPv4 network: address and prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cidr {
    pub address: Ipv4Addr,
    pub prefix: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// A Service with the addresses behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceItem {
    pub namespace: String,
    pub name: String,
    /// `None` for headless and ExternalName services.
    pub cluster_ip: Option<Ipv4Addr>,
    /// The CNAME of an ExternalName service.
    pub external_name: Option<String>,
    /// `sessionAffinity: ClientIP`, in seconds.
    pub affinity: Option<u32>,
    pub ports: Vec<ServicePort>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<u16>,
    /// Ready ones, and serving terminating ones when nothing else is ready; in address order.
    pub backends: Vec<Backend>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Backend {
    pub address: Ipv4Addr,
    pub port: u16,
    /// For DNS names of pods behind a headless service.
    pub hostname: Option<String>,
    /// False only for headless services that publish addresses that are not ready.
    pub ready: bool,
}

/// Where the pods of another node are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteItem {
    pub node: String,
    pub pod_cidr: Cidr,
    /// The node's own address.
    pub via: Ipv4Addr,
}
