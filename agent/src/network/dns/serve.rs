//! The DNS process's one loop: wait for any of its sockets, do what is ready, wait again.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::answer::{Outcome, Transport, respond};
use super::feed::{HELLO, MAX_FEED, Order};
use super::flight::{Flight, Landing};
use super::resolv;
use super::stream::Framed;
use super::wire::UDP_LIMIT;
use super::zone::Zone;

/// Questions on their way to other servers at once; more are refused until some come back. Each holds
/// a socket.
const MAX_FLIGHTS: usize = 256;

/// TCP connections of clients at once; more wait in the kernel's queue.
const MAX_CLIENTS: usize = 64;

/// How long a client's connection may be silent.
const IDLE: Duration = Duration::from_secs(10);

/// Datagrams answered before looking at other sockets again.
const AT_ONCE: usize = 64;

/// How old what was read of the node's `resolv.conf` may be when a question is forwarded.
const RESOLVERS_FRESH: Duration = Duration::from_secs(5);

/// Who gets an answer.
#[derive(Clone, Copy)]
pub(super) enum Client {
    Udp(SocketAddr),
    Tcp(u64),
}

struct Connection {
    framed: Framed<TcpStream>,
    /// A question of this connection is on its way; the next is read after its answer.
    waiting: bool,
    until: Instant,
}

pub(super) struct Server {
    pub udp: UdpSocket,
    pub tcp: TcpListener,
    pub feed: UnixListener,
    pub resolv_conf: PathBuf,
    own: IpAddr,
    /// Nothing is answered before the agent has said what there is.
    zone: Option<Zone>,
    agent: Option<(UnixStream, Vec<u8>)>,
    connections: BTreeMap<u64, Connection>,
    flights: BTreeMap<u64, Flight<Client>>,
    next: u64,
    servers: Vec<SocketAddr>,
    servers_read: Option<Instant>,
}

/// What a ready socket belongs to.
#[derive(Clone, Copy)]
enum Token {
    Udp,
    Tcp,
    Feed,
    Agent,
    Connection(u64),
    Flight(u64),
}

impl Server {
    /// A server on these sockets, all bound and not blocking.
    pub(super) fn new(udp: UdpSocket, tcp: TcpListener, feed: UnixListener, resolv_conf: PathBuf) -> io::Result<Self> {
        let own = udp.local_addr()?.ip();
        Ok(Server {
            udp,
            tcp,
            feed,
            resolv_conf,
            own,
            zone: None,
            agent: None,
            connections: BTreeMap::new(),
            flights: BTreeMap::new(),
            next: 0,
            servers: Vec::new(),
            servers_read: None,
        })
    }

    /// Serves until the agent orders the end.
    pub(super) fn run(mut self) -> io::Result<()> {
        loop {
            let ready = self.wait()?;
            let now = Instant::now();
            for token in ready {
                match token {
                    Token::Udp => self.datagrams(now),
                    Token::Tcp => self.accept(now),
                    Token::Feed => self.greet(),
                    Token::Agent => {
                        if self.orders() {
                            return Ok(());
                        }
                    }
                    Token::Connection(key) => self.connection(key, now),
                    Token::Flight(key) => self.flight(key, now),
                }
            }
            self.expire(now);
        }
    }

    fn wait(&self) -> io::Result<Vec<Token>> {
        let mut tokens: Vec<(Token, BorrowedFd<'_>, PollFlags)> = vec![(Token::Feed, self.feed.as_fd(), PollFlags::IN)];
        if self.zone.is_some() {
            tokens.push((Token::Udp, self.udp.as_fd(), PollFlags::IN));
            if self.connections.len() < MAX_CLIENTS {
                tokens.push((Token::Tcp, self.tcp.as_fd(), PollFlags::IN));
            }
        }
        tokens.extend(self.agent.iter().map(|(agent, _)| (Token::Agent, agent.as_fd(), PollFlags::IN)));
        for (key, connection) in &self.connections {
            let input = if connection.waiting { PollFlags::empty() } else { PollFlags::IN };
            let output = if connection.framed.has_output() { PollFlags::OUT } else { PollFlags::empty() };
            tokens.push((Token::Connection(*key), connection.framed.stream.as_fd(), input | output));
        }
        for (key, flight) in &self.flights {
            let output = if flight.wants_to_send() { PollFlags::OUT } else { PollFlags::empty() };
            tokens.push((Token::Flight(*key), flight.fd(), PollFlags::IN | output));
        }
        let mut fds: Vec<PollFd<'_>> =
            tokens.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        match poll(&mut fds, self.patience().as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let ready = tokens.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|((token, ..), _)| *token).collect())
    }

    /// Until something runs out.
    fn patience(&self) -> Option<Timespec> {
        let connections = self.connections.values().map(|c| c.until);
        let next = self.flights.values().map(|f| f.until).chain(connections).min()?;
        let left = next.saturating_duration_since(Instant::now());
        Some(Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ })
    }

    fn datagrams(&mut self, now: Instant) {
        let mut buffer = [0; UDP_LIMIT];
        for _ in 0..AT_ONCE {
            match self.udp.recv_from(&mut buffer) {
                Ok((length, from)) => self.question(&buffer[..length], Client::Udp(from), now),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                // An answer to a client that is gone comes back as an error of the next call.
                Err(_) => {}
            }
        }
    }

    fn question(&mut self, message: &[u8], client: Client, now: Instant) {
        let Some(zone) = &self.zone else { return };
        let transport = match client {
            Client::Udp(_) => Transport::Udp,
            Client::Tcp(_) => Transport::Tcp,
        };
        let forward = match respond(zone, message, transport) {
            Outcome::Ignore => return,
            Outcome::Reply(answer) => return self.answer(client, &answer, now),
            Outcome::Forward(forward) => *forward,
        };
        if self.flights.len() >= MAX_FLIGHTS {
            return self.answer(client, &forward.fail(), now);
        }
        self.refresh_servers(now);
        match Flight::start(client, forward, &self.servers, now) {
            Ok(flight) => {
                if let Client::Tcp(key) = client {
                    self.connections.entry(key).and_modify(|c| c.waiting = true);
                }
                self.next += 1;
                self.flights.insert(self.next, flight);
            }
            Err((client, failure)) => self.answer(client, &failure, now),
        }
    }

    fn refresh_servers(&mut self, now: Instant) {
        if self.servers_read.is_none_or(|read| now.duration_since(read) > RESOLVERS_FRESH) {
            // An unreadable file leaves the servers as they were.
            if let Ok(text) = std::fs::read_to_string(&self.resolv_conf) {
                self.servers = resolv::servers(&text, self.own);
            }
            self.servers_read = Some(now);
        }
    }

    fn answer(&mut self, client: Client, message: &[u8], now: Instant) {
        match client {
            // A client that does not take its answer asks again.
            Client::Udp(to) => _ = self.udp.send_to(message, to),
            Client::Tcp(key) => {
                if let Some(connection) = self.connections.get_mut(&key) {
                    connection.waiting = false;
                    connection.until = now + IDLE;
                    if connection.framed.send(message).is_err() {
                        self.connections.remove(&key);
                    }
                }
            }
        }
    }

    fn accept(&mut self, now: Instant) {
        while self.connections.len() < MAX_CLIENTS {
            let Ok((stream, _)) = self.tcp.accept() else { return };
            if stream.set_nonblocking(true).is_ok() {
                self.next += 1;
                let connection = Connection { framed: Framed::new(stream), waiting: false, until: now + IDLE };
                self.connections.insert(self.next, connection);
            }
        }
    }

    fn connection(&mut self, key: u64, now: Instant) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let open = connection.framed.flush().and_then(|()| connection.framed.fill());
        loop {
            let Some(connection) = self.connections.get_mut(&key) else { return };
            // One question at a time, and none while an answer waits for the client to take it.
            if connection.waiting || connection.framed.has_output() {
                break;
            }
            match connection.framed.next() {
                Some(message) => {
                    connection.until = now + IDLE;
                    self.question(&message, Client::Tcp(key), now);
                }
                None => break,
            }
        }
        if open.is_err() {
            self.connections.remove(&key);
        }
    }

    fn flight(&mut self, key: u64, now: Instant) {
        let Some(flight) = self.flights.get_mut(&key) else { return };
        if let Landing::Answer(answer) = flight.ready(&self.servers, now) {
            self.land(key, &answer, now);
        }
    }

    fn land(&mut self, key: u64, answer: &[u8], now: Instant) {
        if let Some(flight) = self.flights.remove(&key) {
            self.answer(flight.client, answer, now);
            if let Client::Tcp(connection) = flight.client {
                // The next question may have been waiting behind this one.
                self.connection(connection, now);
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        let late: Vec<u64> = self.flights.iter().filter(|(_, f)| f.until <= now).map(|(key, _)| *key).collect();
        for key in late {
            let landing = self.flights.get_mut(&key).map(|flight| flight.again(&self.servers, now));
            if let Some(Landing::Answer(failure)) = landing {
                self.land(key, &failure, now);
            }
        }
        self.connections.retain(|_, c| c.waiting || c.until > now);
    }

    /// A new connection of the agent takes the place of the last.
    fn greet(&mut self) {
        let Ok((mut agent, _)) = self.feed.accept() else { return };
        if agent.write_all(HELLO.as_bytes()).is_ok() && agent.set_nonblocking(true).is_ok() {
            self.agent = Some((agent, Vec::new()));
        }
    }

    /// Takes the agent's orders; true when one is to end.
    fn orders(&mut self) -> bool {
        let Some((agent, input)) = &mut self.agent else { return false };
        let mut buffer = vec![0; 64 << 10];
        let open = loop {
            match agent.read(&mut buffer) {
                Ok(0) => break false,
                Ok(length) if input.len() + length <= MAX_FEED + 4 => input.extend_from_slice(&buffer[..length]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break true,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => break false,
            }
        };
        while let Some(length) = input.first_chunk().map(|l| u32::from_le_bytes(*l) as usize) {
            let Some(body) = input.get(4..4 + length) else { break };
            match serde_json::from_slice(body) {
                Ok(Order::Names(source)) => {
                    if let Some(zone) = Zone::new(&source) {
                        self.zone = Some(zone);
                    }
                    // Small enough for any socket's buffer; an agent that is gone does not mind.
                    let _ = agent.write_all(b"ok\n");
                }
                Ok(Order::Quit) => return true,
                // An order of a later agent; that agent replaces this process when it cares.
                Err(_) => {}
            }
            input.drain(..4 + length);
        }
        input.shrink_to_fit();
        if !open {
            self.agent = None;
        }
        false
    }
}
