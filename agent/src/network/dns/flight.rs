//! One question on its way to other servers: a socket of its own with a port of its own, a random id,
//! bounded tries.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::answer::{Forward, Transport};
use super::stream::Framed;

/// How long one server is waited for. Below the five seconds after which clients ask again.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often each server is asked.
const ROUNDS: usize = 2;

pub(crate) struct Flight<C> {
    pub client: C,
    forward: Forward,
    id: u16,
    tries: usize,
    socket: Socket,
    /// When this try is given up.
    pub until: Instant,
}

enum Socket {
    Udp(UdpSocket),
    Tcp(Framed<TcpStream>),
}

/// What has come of a flight.
pub(crate) enum Landing {
    /// Nothing yet.
    Airborne,
    /// The client's answer.
    Answer(Vec<u8>),
}

impl<C> Flight<C> {
    /// Sends the question to the first server that takes it.
    ///
    /// # Errors
    /// The client's answer, when there is no server.
    pub(crate) fn start(
        client: C,
        forward: Forward,
        servers: &[SocketAddr],
        now: Instant,
    ) -> Result<Flight<C>, (C, Vec<u8>)> {
        let mut tries = 0;
        match launch(&forward, servers, &mut tries) {
            Some((socket, id)) => Ok(Flight { client, forward, id, tries, socket, until: now + PATIENCE }),
            None => {
                let failure = forward.fail();
                Err((client, failure))
            }
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Udp(socket) => socket.as_fd(),
            Socket::Tcp(framed) => framed.stream.as_fd(),
        }
    }

    /// Whether to wait until more can be sent.
    pub(crate) fn wants_to_send(&self) -> bool {
        matches!(&self.socket, Socket::Tcp(framed) if framed.has_output())
    }

    /// Takes what has come. What is no answer to this question is passed over.
    pub(crate) fn ready(&mut self, servers: &[SocketAddr], now: Instant) -> Landing {
        let received = match &mut self.socket {
            Socket::Udp(socket) => receive(socket, &self.forward, self.id),
            Socket::Tcp(framed) => {
                let open = framed.flush().and_then(|()| framed.fill());
                // The answer may be whole although the server has closed.
                match framed.next().and_then(|message| self.forward.finish(self.id, &message)) {
                    Some(answer) => Ok(Some(answer)),
                    None => open.map(|()| None),
                }
            }
        };
        match received {
            Ok(Some(answer)) => Landing::Answer(answer),
            Ok(None) => Landing::Airborne,
            Err(_) => self.again(servers, now),
        }
    }

    /// Goes on to the next server.
    pub(crate) fn again(&mut self, servers: &[SocketAddr], now: Instant) -> Landing {
        match launch(&self.forward, servers, &mut self.tries) {
            Some((socket, id)) => {
                (self.socket, self.id, self.until) = (socket, id, now + PATIENCE);
                Landing::Airborne
            }
            None => Landing::Answer(self.forward.fail()),
        }
    }
}

fn receive(socket: &UdpSocket, forward: &Forward, id: u16) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = [0; 4096];
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                if let Some(answer) = forward.finish(id, &buffer[..length]) {
                    return Ok(Some(answer));
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Sends to the next server that takes it; counts tries.
fn launch(forward: &Forward, servers: &[SocketAddr], tries: &mut usize) -> Option<(Socket, u16)> {
    while *tries < servers.len() * ROUNDS {
        let server = servers[*tries % servers.len()];
        *tries += 1;
        if let Ok(launched) = send(forward, server) {
            return Some(launched);
        }
    }
    None
}

fn send(forward: &Forward, server: SocketAddr) -> io::Result<(Socket, u16)> {
    let id = random_id()?;
    let message = forward.request(id);
    match forward.transport {
        Transport::Udp => {
            // Port 0: the kernel draws one for each question, and takes answers from this server only.
            let any = match server {
                SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
                SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
            };
            let socket = UdpSocket::bind(any)?;
            socket.set_nonblocking(true)?;
            socket.connect(server)?;
            socket.send(&message)?;
            Ok((Socket::Udp(socket), id))
        }
        Transport::Tcp => {
            let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let fd = socket_with(family, SocketType::STREAM, flags, None)?;
            match connect(&fd, &server) {
                Ok(()) | Err(Errno::INPROGRESS) => {}
                Err(error) => return Err(error.into()),
            }
            let mut framed = Framed::new(TcpStream::from(fd));
            framed.send(&message)?;
            Ok((Socket::Tcp(framed), id))
        }
    }
}

fn random_id() -> io::Result<u16> {
    let mut id = [0; 2];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
    Ok(u16::from_be_bytes(id))
}
