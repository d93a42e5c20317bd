//! What lies between a node and its server: datagrams pass, vanish, get lost or come from another
//! address, while TCP goes through. Only the site's side is played; both programs are the product's.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use async_net::{TcpListener, UdpSocket};
use coracle_server::api::http::Door;
use coracle_server::nodes::Nodes;
use coracle_shared::join::JoinLine;
use futures_rustls::TlsAcceptor;
use serde_json::Value;

use crate::world::World;

/// What happens to datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    Open,
    /// None passes, and nobody says so.
    Blocked,
    /// So many of a hundred are lost, each way.
    Lossy(u64),
}

struct State {
    weather: Weather,
    /// The address that each client has outside.
    outside: BTreeMap<SocketAddr, UdpSocket>,
    random: u64,
    tasks: Vec<smol::Task<()>>,
}

pub struct Firewall {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    _tasks: [smol::Task<()>; 2],
}

impl Firewall {
    pub async fn before(world: &World, weather: Weather) -> Firewall {
        let (listener, inside) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            // The same number is free for UDP, or another one is tried.
            if let Ok(inside) = UdpSocket::bind(listener.local_addr().unwrap()).await {
                break (listener, inside);
            }
        };
        let address = inside.local_addr().unwrap();
        let state = State { weather, outside: BTreeMap::new(), random: 1, tasks: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let relay = smol::spawn(relay(inside, world.address(), state.clone()));
        let door = smol::spawn(door(listener, world.nodes()));
        Firewall { address, state, _tasks: [relay, door] }
    }

    pub fn set(&self, weather: Weather) {
        self.state.lock().unwrap().weather = weather;
    }

    /// Forgets whom it knows: what comes next comes from new addresses, and answers to the old go nowhere.
    pub fn forget(&self) {
        let mut state = self.state.lock().unwrap();
        state.outside.clear();
        state.tasks.clear();
    }

    pub fn token(&self, world: &World, id: &str, changes: Value) -> JoinLine {
        JoinLine { servers: vec![self.address.to_string()], ..world.token(id, changes) }
    }
}

impl State {
    fn passes(&mut self) -> bool {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        match self.weather {
            Weather::Open => true,
            Weather::Blocked => false,
            Weather::Lossy(percent) => (self.random >> 33) % 100 >= percent,
        }
    }
}

async fn relay(inside: UdpSocket, server: SocketAddr, state: Arc<Mutex<State>>) {
    let mut buffer = vec![0; 65_536];
    while let Ok((length, client)) = inside.recv_from(&mut buffer).await {
        let known = {
            let mut state = state.lock().unwrap();
            if !state.passes() {
                continue;
            }
            state.outside.get(&client).cloned()
        };
        let outside = match known {
            Some(outside) => outside,
            None => {
                let outside = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                let back = smol::spawn(answers(outside.clone(), inside.clone(), client, state.clone()));
                let mut state = state.lock().unwrap();
                state.outside.insert(client, outside.clone());
                state.tasks.push(back);
                outside
            }
        };
        // A server that is away answers with an error that the next datagram finds.
        let _ = outside.send_to(&buffer[..length], server).await;
    }
}

async fn answers(outside: UdpSocket, inside: UdpSocket, client: SocketAddr, state: Arc<Mutex<State>>) {
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((length, _)) = outside.recv_from(&mut buffer).await else { continue };
        if state.lock().unwrap().passes() {
            let _ = inside.send_to(&buffer[..length], client).await;
        }
    }
}

/// The API's port, as far as nodes use it.
async fn door(listener: TcpListener, nodes: Arc<Nodes>) {
    while let Ok((socket, from)) = listener.accept().await {
        let nodes = nodes.clone();
        let serve = async move {
            let acceptor = TlsAcceptor::from(nodes.tls(b"coracle/1").unwrap());
            if let Ok(stream) = acceptor.accept(socket).await {
                nodes.enter(stream, from).await;
            }
        };
        smol::spawn(serve).detach();
    }
}
