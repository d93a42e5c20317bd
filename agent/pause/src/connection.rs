//! One agent's connection: whole frames in, whole frames out, nothing unbounded.

use std::os::fd::OwnedFd;

use coracle_pause::{HEADER, Header, MAX_FDS, Malformed};

use crate::sys;

const READ_SIZE: usize = 16 << 10;

pub struct Connection {
    pub key: u32,
    pub socket: OwnedFd,
    /// The version was agreed on: events are sent, requests taken.
    pub greeted: bool,
    input: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// A request with the descriptors that came with it.
pub struct Frame {
    pub header: Header,
    pub body: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

impl Connection {
    pub fn new(key: u32, socket: OwnedFd) -> Connection {
        Connection { key, socket, greeted: false, input: Vec::new(), fds: Vec::new() }
    }

    /// Reads once. False at the end of the connection.
    pub fn fill(&mut self) -> bool {
        let mut buffer = [0; READ_SIZE];
        match sys::receive(&self.socket, &mut buffer, &mut self.fds) {
            Ok(0) => false,
            Ok(n) => {
                self.input.extend_from_slice(&buffer[..n]);
                true
            }
            Err(errno) => errno == libc::EAGAIN || errno == libc::EINTR,
        }
    }

    /// The next whole frame of what was read.
    ///
    /// # Errors
    /// The peer does not speak this protocol.
    pub fn next(&mut self) -> Result<Option<Frame>, Malformed> {
        let Some(head) = self.input.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let header = Header::decode(head)?;
        let end = HEADER + header.len;
        if self.input.len() < end {
            return Ok(None);
        }
        if self.fds.len() < header.fds as usize || self.fds.len() > 16 * MAX_FDS {
            return Err(Malformed);
        }
        let rest = self.input.split_off(end);
        let mut body = std::mem::replace(&mut self.input, rest);
        body.drain(..HEADER);
        let fds = self.fds.drain(..header.fds as usize).collect();
        Ok(Some(Frame { header, body, fds }))
    }

    /// False when the peer does not read what it asked for: then the connection is given up, and
    /// the peer learns everything again when it comes back.
    pub fn send(&self, frame: &[u8]) -> bool {
        sys::send(&self.socket, frame) == Ok(frame.len())
    }
}
