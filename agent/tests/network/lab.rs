//! A throw-away lab: nodes, pods and an outside machine as network namespaces on one segment.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use coracle_agent::network::{Attachment, NamesState, Network, NetworkConfig, enter};
use coracle_shared::desired::{Backend, Cidr, NodeConfig, Protocol, RouteItem, ServiceItem, ServicePort};
use coracle_shared::ids::PodUid;

/// Long enough for a slow machine; only waited for by what is expected to fail.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a shell script that has to succeed; returns what it printed.
pub fn sh(script: &str) -> String {
    let out = Command::new("sh").args(["-euc", script]).output().expect("sh starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{script}\n{}{}", text(&out.stdout), text(&out.stderr));
    text(&out.stdout)
}

pub fn cidr(text: &str) -> Cidr {
    let (address, prefix) = text.split_once('/').expect("a slash");
    Cidr { address: address.parse().expect("an address"), prefix: prefix.parse().expect("a length") }
}

pub fn uid(name: &str) -> PodUid {
    PodUid(name.into())
}

pub struct Node {
    pub number: u8,
    pub pin: PathBuf,
    pub runtime: PathBuf,
    pub network: Network,
}

pub struct Lab {
    dir: tempfile::TempDir,
    /// A machine on the nodes' segment that knows nothing of pods.
    pub outside: PathBuf,
    pub nodes: Vec<Node>,
}

pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 254);
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 10);

impl Lab {
    /// `nodes` nodes, configured and with routes to each other. Needs root.
    pub fn new(nodes: u8) -> Lab {
        let dir = tempfile::tempdir().expect("a directory");
        // The DNS process is nobody and reads its resolvers here.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
        fs::write(dir.path().join("resolv.conf"), format!("nameserver {OUTSIDE}\n")).expect("resolv.conf");
        let outside = namespace(dir.path(), "outside");
        sh(&inside(&outside, "ip link add br0 type bridge; ip addr add 172.30.0.254/24 dev br0; ip link set br0 up"));
        let mut lab = Lab { dir, outside, nodes: Vec::new() };
        for number in 1..=nodes {
            lab.add_node(number);
        }
        let routes: Vec<_> = lab.nodes.iter().map(Node::route).collect();
        for node in &lab.nodes {
            node.run(|n| n.set_routes(&routes).expect("routes"));
        }
        lab
    }

    fn add_node(&mut self, number: u8) {
        let pin = namespace(self.dir.path(), &format!("node-{number}"));
        let outside = self.outside.display();
        sh(&inside(
            &pin,
            &format!(
                "ip link add eth0 type veth peer port{number}; ip link set port{number} netns {outside};
                 ip addr add 172.30.0.{number}/24 dev eth0; ip link set eth0 up
                 for conf in all default eth0; do echo 1 > /proc/sys/net/ipv4/conf/$conf/rp_filter; done"
            ),
        ));
        sh(&inside(&self.outside, &format!("ip link set port{number} master br0 up")));
        let runtime = self.dir.path().join(format!("run-{number}"));
        let network = open(&pin, &runtime);
        let node = Node { number, pin, runtime, network };
        node.run(|n| n.configure(&node.config()).expect("configured"));
        self.nodes.push(node);
    }

    /// Has all nodes balance these services.
    pub fn serve(&self, services: &[ServiceItem]) {
        for node in &self.nodes {
            node.run(|n| n.set_services(services).expect("services"));
            assert_eq!(node.network.wait_for_names(PATIENCE), NamesState::Serving);
        }
    }

    /// Takes everything down and asserts that nothing is left of it.
    pub fn finish(self) {
        for node in &self.nodes {
            node.run(|n| n.teardown().expect("teardown"));
            let links = sh(&inside(&node.pin, "ip -o link | cut -d: -f2 | cut -d@ -f1 | sort | tr -d '\n'"));
            assert_eq!(links, " eth0 lo");
            assert_eq!(sh(&inside(&node.pin, "nft list ruleset")), "");
            assert_eq!(sh(&inside(&node.pin, "ip -o addr show dev lo | grep -c inet")).trim(), "2");
            assert_eq!(sh(&inside(&node.pin, "ip route | grep -vc 'proto kernel' || true")).trim(), "0");
            assert_eq!(sh(&inside(&node.pin, "cat /proc/sys/net/ipv4/ip_forward")).trim(), "0");
            let left: Vec<_> = fs::read_dir(&node.runtime).expect("runtime").collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for node in &self.nodes {
            // After a failed assertion; otherwise there is nothing to do.
            let _ = enter(&node.pin, || node.network.teardown());
            let _ = Command::new("umount").arg("-l").arg(&node.pin).status();
        }
        let _ = Command::new("umount").arg("-l").arg(&self.outside).status();
    }
}

impl Node {
    /// Runs in the node's namespace, as the agent would.
    pub fn run<R: Send>(&self, run: impl FnOnce(&Network) -> R + Send) -> R {
        enter(&self.pin, || run(&self.network)).expect("the node's namespace")
    }

    pub fn attach(&self, name: &str) -> Attachment {
        self.run(|n| n.attach(&uid(name)).expect("attached"))
    }

    /// The agent is gone and comes back.
    pub fn restart(&mut self) {
        self.network.wait_for_stock();
        self.network = open(&self.pin, &self.runtime);
    }

    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, 0, self.number)
    }

    pub fn pods(&self) -> Cidr {
        cidr(&format!("10.42.{}.0/24", self.number))
    }

    fn route(&self) -> RouteItem {
        RouteItem { node: format!("node-{}", self.number), pod_cidr: self.pods(), via: self.address() }
    }

    pub fn config(&self) -> NodeConfig {
        NodeConfig {
            pod_cidr: Some(self.pods()),
            cluster_cidr: cidr("10.42.0.0/16"),
            service_cidr: cidr("10.43.0.0/16"),
            dns_ip: DNS,
            domain: "cluster.local".into(),
        }
    }

    pub fn table(&self) -> String {
        sh(&inside(&self.pin, "nft list table ip coracle"))
    }
}

fn open(pin: &Path, runtime: &Path) -> Network {
    let config = NetworkConfig {
        resolv_conf: runtime.with_file_name("resolv.conf"),
        ..NetworkConfig::new(runtime.to_owned(), env!("CARGO_BIN_EXE_coracle-agent").into())
    };
    enter(pin, || Network::new(config).expect("network")).expect("the node's namespace")
}

fn namespace(dir: &Path, name: &str) -> PathBuf {
    let pin = dir.join(name);
    fs::write(&pin, "").expect("a file");
    // A namespace may inherit forwarding from the machine that the tests run on.
    let script = "ip link set lo up; echo 0 >/proc/sys/net/ipv4/ip_forward";
    sh(&format!("unshare --net={} sh -euc '{script}'", pin.display()));
    pin
}

/// The script as it runs in the namespace.
pub fn inside(pin: &Path, script: &str) -> String {
    format!("nsenter --net={} sh -euc '{}'", pin.display(), script.replace('\'', "'\\''"))
}

/// A server that says its name and its client's address to each connection, then closes.
pub struct Server {
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(pin: &Path, port: u16, name: &str) -> Server {
        let listener =
            enter(pin, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))).expect("entered").expect("bound");
        let listener = Arc::new(listener);
        let (accepting, name) = (listener.clone(), name.to_owned());
        let thread = std::thread::spawn(move || {
            while let Ok((mut client, from)) = accepting.accept() {
                let _ = write!(client, "{name} {}", from.ip());
            }
        });
        Server { listener, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        self.thread.take().map(JoinHandle::join);
    }
}

/// A server that answers each datagram with its name.
pub struct UdpServer {
    socket: Arc<UdpSocket>,
    thread: Option<JoinHandle<()>>,
}

impl UdpServer {
    pub fn start(pin: &Path, port: u16, name: &str) -> UdpServer {
        let socket = enter(pin, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).expect("entered").expect("bound");
        let socket = Arc::new(socket);
        let (receiving, name) = (socket.clone(), name.to_owned());
        let thread = std::thread::spawn(move || {
            while let Ok((1.., from)) = receiving.recv_from(&mut [0; 16]) {
                let _ = receiving.send_to(name.as_bytes(), from);
            }
        });
        UdpServer { socket, thread: Some(thread) }
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        // Says that it is not connected, and wakes the receiver all the same.
        let _ = rustix::net::shutdown(&*self.socket, rustix::net::Shutdown::Both);
        self.thread.take().map(JoinHandle::join);
    }
}

pub fn connect(from: &Path, to: (Ipv4Addr, u16)) -> io::Result<TcpStream> {
    enter(from, || TcpStream::connect_timeout(&SocketAddr::from(to), PATIENCE))?
}

/// What the server at `to` says to a client in `from`: its name and the address it saw.
pub fn ask(from: &Path, to: (Ipv4Addr, u16)) -> io::Result<(String, String)> {
    let mut stream = connect(from, to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.shutdown(Shutdown::Write)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (name, seen) = text.split_once(' ').unwrap_or_default();
    Ok((name.into(), seen.into()))
}

pub fn backend(address: Ipv4Addr, port: u16) -> Backend {
    Backend { address, port, hostname: None, ready: true }
}

/// A TCP service with one port 80.
pub fn service(name: &str, ip: Ipv4Addr, node_port: Option<u16>, backends: Vec<Backend>) -> ServiceItem {
    let port = ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, node_port, backends };
    ServiceItem {
        namespace: "default".into(),
        name: name.into(),
        cluster_ip: Some(ip),
        external_name: None,
        affinity: None,
        ports: vec![port],
    }
}

/// A DNS question in wire form.
pub fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.bytes());
    }
    message.extend([0, 0, kind as u8, 0, 1]);
    message
}

/// The code of an answer and, when there is one, the last four bytes as an address.
pub fn answer(message: &[u8], asked: &[u8]) -> (u8, Option<Ipv4Addr>) {
    assert_eq!(message[..2], asked[..2], "the id");
    assert!(message[2] & 0x80 != 0, "an answer");
    let last: Option<[u8; 4]> = message.last_chunk().copied().filter(|_| message[7] > 0);
    (message[3] & 15, last.map(Ipv4Addr::from))
}

/// Asks the node's DNS from inside, over UDP.
pub fn resolve(from: &Path, name: &str) -> (u8, Option<Ipv4Addr>) {
    let socket = enter(from, || UdpSocket::bind("0.0.0.0:0")).expect("entered").expect("bound");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time");
    let asked = question(0x4321, name, 1);
    let mut buffer = [0; 1500];
    socket.send_to(&asked, (DNS, 53)).expect("sent");
    let (length, server) = socket.recv_from(&mut buffer).expect("an answer");
    assert_eq!(server.ip(), DNS);
    answer(&buffer[..length], &asked)
}

/// The same over TCP.
pub fn resolve_tcp(from: &Path, name: &str) -> (u8, Option<Ipv4Addr>) {
    let mut stream = connect(from, (DNS, 53)).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    let asked = question(0x1234, name, 1);
    let frame = [&(asked.len() as u16).to_be_bytes()[..], &asked].concat();
    stream.write_all(&frame).expect("sent");
    let mut length = [0; 2];
    stream.read_exact(&mut length).expect("a length");
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).expect("a message");
    answer(&message, &asked)
}

/// Another DNS server, on the outside machine: answers every question with 192.0.2.7, each a second
/// time with 192.0.2.8 under a wrong id before it.
pub struct Upstream {
    udp: Arc<UdpSocket>,
    tcp: Arc<TcpListener>,
    threads: Vec<JoinHandle<()>>,
}

impl Upstream {
    pub fn start(lab: &Lab) -> Upstream {
        let sockets = enter(&lab.outside, || {
            Ok::<_, io::Error>((UdpSocket::bind((OUTSIDE, 53))?, TcpListener::bind((OUTSIDE, 53))?))
        });
        let (udp, tcp) = sockets.expect("entered").expect("bound");
        let (udp, tcp) = (Arc::new(udp), Arc::new(tcp));
        let respond = |asked: &[u8], id_off: u8, last: u8| {
            let end = asked.iter().skip(12).position(|b| *b == 0).expect("a name") + 12 + 5;
            let mut message = asked[..end].to_vec();
            message[1] ^= id_off;
            message[2..4].copy_from_slice(&[0x81, 0x80]);
            message[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
            message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, last]);
            message
        };
        let of_udp = udp.clone();
        let of_tcp = tcp.clone();
        let threads = vec![
            std::thread::spawn(move || {
                let mut buffer = [0; 1500];
                while let Ok((length, from)) = of_udp.recv_from(&mut buffer) {
                    if length == 0 {
                        break;
                    }
                    for (id_off, last) in [(1, 8), (0, 7)] {
                        of_udp.send_to(&respond(&buffer[..length], id_off, last), from).ok();
                    }
                }
            }),
            std::thread::spawn(move || {
                while let Ok((mut stream, _)) = of_tcp.accept() {
                    let mut length = [0; 2];
                    if stream.read_exact(&mut length).is_err() {
                        continue;
                    }
                    let mut asked = vec![0; usize::from(u16::from_be_bytes(length))];
                    stream.read_exact(&mut asked).expect("a question");
                    let message = respond(&asked, 0, 9);
                    let frame = [&(message.len() as u16).to_be_bytes()[..], &message].concat();
                    stream.write_all(&frame).expect("sent");
                }
            }),
        ];
        Upstream { udp, tcp, threads }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // Wakes the receiver with an empty datagram.
        let _ = rustix::net::shutdown(&*self.udp, rustix::net::Shutdown::Both);
        let _ = rustix::net::shutdown(&*self.tcp, rustix::net::Shutdown::Both);
        self.threads.drain(..).for_each(|thread| _ = thread.join());
    }
}
