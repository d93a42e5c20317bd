//! Connections between agents and the server: two ordered streams of bytes that are late, held up
//! or cut, each end learning of its end in its own time.

use std::collections::{BTreeMap, VecDeque};

/// How long an end bears silence before it takes the connection for lost (as QUIC is set up).
pub const IDLE: u64 = 55_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Server,
    Agent,
}

/// One connection, as the network sees it.
#[derive(Debug)]
pub struct Connection {
    pub node: usize,
    /// Which ends still hold it: server, agent.
    pub open: [bool; 2],
    /// Bytes on their way to: server, agent.
    pub flight: [VecDeque<Vec<u8>>; 2],
    /// When the last of them arrives.
    pub last: [u64; 2],
    /// Nothing arrives any more.
    pub cut: bool,
}

impl Connection {
    pub fn is_open(&self, side: Side) -> bool {
        self.open[side as usize]
    }
}

/// All connections that some end still holds.
#[derive(Debug, Default)]
pub struct Links {
    pub all: BTreeMap<u64, Connection>,
    next: u64,
    /// What was sent since the last look: silence is measured by it.
    pub sent: u64,
}

impl Links {
    pub fn dial(&mut self, node: usize) -> u64 {
        self.next += 1;
        let flight = [VecDeque::new(), VecDeque::new()];
        let connection = Connection { node, open: [true; 2], flight, last: [0; 2], cut: false };
        self.all.insert(self.next, connection);
        self.next
    }

    /// One end gives up; the connection is forgotten when both have.
    pub fn close(&mut self, id: u64, side: Side) {
        if let Some(connection) = self.all.get_mut(&id) {
            connection.open[side as usize] = false;
            if connection.open == [false; 2] {
                self.all.remove(&id);
            }
        }
    }
}
