//! The nodes: joining, sessions, what each node should be, and what it reports.
//!
//! Agents dial in over QUIC. A connection is a machine that joins with a token, or a node with its
//! certificate, whose session runs `coracle_shared::session`. Desired sets are compiled from the
//! store's change log; reports have a path of their own into the store.

mod cidr;
pub mod commit;
pub mod compile;
pub mod desired;
mod endpoint;
mod hold;
mod join;
pub mod merge;
mod pipe;
pub mod registry;
mod session;
mod stored;
mod streams;
pub mod token;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use coracle_shared::contact::Contacts;
use coracle_store::{Clock, Commit, CommitError, Key, Store};
use quinn::{Endpoint, VarInt};
use serde_json::json;

pub use compile::{ClusterNetwork, parse_cidr};
use endpoint::Shared;

use crate::pki::{Pki, PkiError};

/// Where a join line's parts are published for `coracle token create`: a ConfigMap with `servers`
/// (`HOST:PORT`, separated by commas), `ca` (the fingerprint) and `cluster`.
pub const JOIN_INFO: (&str, &str) = ("kube-system", "coracle-join");

/// The nodes' room could not start or write.
#[derive(Debug)]
pub enum NodesError {
    Listen { address: SocketAddr, source: io::Error },
    Pki(PkiError),
    Quic(String),
    Store(CommitError),
}

impl fmt::Display for NodesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NodesError::Listen { address, source } => write!(f, "listening for nodes on UDP {address}: {source}"),
            NodesError::Pki(error) => error.fmt(f),
            NodesError::Quic(error) => write!(f, "QUIC: {error}"),
            NodesError::Store(error) => write!(f, "writing to the store: {error:?}"),
        }
    }
}

impl std::error::Error for NodesError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            NodesError::Listen { source, .. } => Some(source),
            NodesError::Pki(error) => Some(error),
            _ => None,
        }
    }
}

/// All that has to do with nodes, in one server.
pub struct Nodes {
    shared: Arc<Shared>,
    endpoint: Endpoint,
}

impl Nodes {
    /// Opens the UDP port. `clock` is the process's monotonic clock; silence counts from now on.
    pub fn open(
        listen: SocketAddr,
        network: ClusterNetwork,
        pki: Arc<Pki>,
        store: Arc<dyn Store>,
        clock: Clock,
    ) -> Result<Nodes, NodesError> {
        let endpoint = endpoint::open(&pki, listen)?;
        Ok(Nodes { shared: Arc::new(Shared::new(pki, store, clock, network)), endpoint })
    }

    /// The port that was opened, where the system chose it.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Serves nodes until [`Self::close`].
    pub async fn run(&self) {
        let follow = async {
            self.shared.desired.follow().await;
        };
        futures_lite::future::or(endpoint::accept(&self.endpoint, &self.shared), follow).await;
    }

    /// Tells every node that this server goes, and waits until they know.
    pub async fn close(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"the server stops");
        self.endpoint.wait_idle().await;
    }

    /// Which nodes are connected, for the node lifecycle.
    pub fn contacts(&self) -> Arc<dyn Contacts> {
        self.shared.registry.clone()
    }

    /// Publishes where machines join, when it is not what is published already.
    pub async fn publish(&self, servers: &[String]) -> Result<(), NodesError> {
        let key = Key::new("configmaps", JOIN_INFO.0, JOIN_INFO.1);
        let data = json!({
            "servers": servers.join(","),
            "ca": self.shared.pki.ca_fingerprint().to_string(),
            "cluster": self.shared.pki.cluster().to_string(),
        });
        let stored = self.shared.store.get(&key);
        let mut object = match &stored {
            Some(item) => stored::decode(item),
            None => json!({"metadata": {
                "name": JOIN_INFO.1,
                "namespace": JOIN_INFO.0,
                "uid": stored::new_uid().map_err(NodesError::Pki)?,
                "creationTimestamp": stored::time(stored::wall(SystemTime::now())),
            }}),
        };
        if object["data"] == data {
            return Ok(());
        }
        object["data"] = data;
        let commit = Commit::new().put(key, stored::SCHEMA, stored::encode("ConfigMap", &object));
        self.shared.store.commit(commit).await.map(|_| ()).map_err(NodesError::Store)
    }
}

/// One line of the server's log.
fn log(line: &str) {
    eprintln!("nodes: {line}");
}
