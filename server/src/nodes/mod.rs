//! The nodes: joining, sessions, what each node should be, and what it reports.
//!
//! Agents dial in over QUIC, or over TLS on the API's port where UDP is blocked. A connection is a machine that joins with a token, or a node with its
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
pub mod registry;
mod revoke;
mod session;
mod stored;
mod streams;
pub mod token;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_net::TcpStream;
use coracle_shared::contact::Contacts;
use coracle_shared::wire::{PROTOCOLS, ProtocolRange};
use coracle_store::{Clock, Commit, CommitError, Key, Range, Store, monotonic};
use coracle_transport::quic::{Endpoint, VarInt};
use futures_rustls::server::TlsStream;
use rustls::ServerConfig;
use serde_json::json;

pub use compile::{ClusterNetwork, parse_cidr};
use endpoint::Shared;

use crate::api::http::Door;
use crate::api::stream::BoxFuture;
use crate::pki::{Pki, PkiError};
use crate::tls::{ALPN_JOIN, ALPN_NODE, nodes_config};

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

/// The wall clock, which may jump: it dates certificates and tokens, and nothing else.
pub type Wall = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// What the nodes' room is told when it starts.
pub struct Setup {
    pub listen: SocketAddr,
    pub network: ClusterNetwork,
    /// The process's monotonic clock.
    pub clock: Clock,
    pub wall: Wall,
    pub protocols: ProtocolRange,
}

impl Setup {
    /// With this machine's clocks and this release's protocols.
    pub fn new(listen: SocketAddr, network: ClusterNetwork) -> Setup {
        Setup { listen, network, clock: monotonic(), wall: Arc::new(SystemTime::now), protocols: PROTOCOLS }
    }
}

/// How often expired tokens are looked for.
const SWEEP: Duration = Duration::from_secs(3600);

/// All that has to do with nodes, in one server.
pub struct Nodes {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    /// For nodes that come over TCP.
    tls: Arc<ServerConfig>,
}

impl Nodes {
    /// Opens the UDP port; silence counts from now on.
    pub fn open(setup: Setup, pki: Arc<Pki>, store: Arc<dyn Store>) -> Result<Nodes, NodesError> {
        let endpoint = endpoint::open(&pki, setup.listen)?;
        let tls = Arc::new(nodes_config(&pki).map_err(NodesError::Pki)?);
        Ok(Nodes { shared: Arc::new(Shared::new(pki, store, setup)), endpoint, tls })
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
        let sweep = async {
            let mut before = BTreeSet::new();
            loop {
                self.sweep_tokens(&mut before).await;
                smol::Timer::after(SWEEP).await;
            }
        };
        futures_lite::future::or(
            endpoint::accept(&self.endpoint, &self.shared),
            futures_lite::future::or(follow, sweep),
        )
        .await;
    }

    /// Deletes the tokens that were expired at the last look, too; `before` is what that found.
    pub async fn sweep_tokens(&self, before: &mut BTreeSet<Key>) {
        let store = &self.shared.store;
        let now = self.shared.wall_millis();
        let (resource, namespace) = ("secrets".into(), Some("kube-system".into()));
        let range = Range { resource, namespace, after: None, limit: 0, at: None };
        let Ok(page) = store.list(&range) else { return };
        let expired = page.items.into_iter().filter(|item| token::is_expired(&stored::decode(item), now));
        for key in token::sweep(expired.map(|item| item.key).collect(), before) {
            match store.commit(Commit::new().delete(key.clone())).await {
                Ok(_) => log(&format!("{key} had expired and was deleted")),
                Err(error) => log(&format!("deleting the expired {key}: {error:?}")),
            }
        }
    }

    /// Tells every node that this server goes, and waits until they know.
    pub async fn close(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"the server stops");
        self.shared.registry.connections().iter().for_each(|connection| connection.close(0, "the server stops"));
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

impl Door for Nodes {
    fn tls(&self, protocol: &[u8]) -> Option<Arc<ServerConfig>> {
        [ALPN_NODE, ALPN_JOIN].contains(&protocol).then(|| self.tls.clone())
    }

    fn enter(&self, stream: TlsStream<TcpStream>, from: SocketAddr) -> BoxFuture<'static, ()> {
        Box::pin(endpoint::enter(stream, from, self.shared.clone()))
    }
}

/// One line of the server's log.
fn log(line: &str) {
    eprintln!("nodes: {line}");
}
