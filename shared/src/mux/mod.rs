//! Many streams over one ordered connection, with priorities and flow control: what QUIC gives, for
//! sites that block UDP. Without I/O: bytes and time go in, bytes come out.
//!
//! A frame is a kind, a stream's number and a length (one, four and four bytes, little-endian), then
//! as many bytes. The dialler's streams have odd numbers, the listener's even ones. A stream is
//! opened by its own frame; each direction ends by `Fin` or `Reset`; who no longer reads says `Stop`.
//! A sender may be [`WINDOW`] bytes ahead of what the receiver has taken, told by `Credit`.

mod frame;
mod stream;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use crate::session::Millis;
use frame::{Frame, Kind, MAX_REASON};
use stream::Stream;
pub use stream::{Broken, Read};

/// The largest piece of a stream in one frame: what is urgent waits for one of them at most.
pub const MAX_DATA: usize = 8 << 10;
/// How far a sender may be ahead of its receiver; bounds what a stream holds in memory.
pub const WINDOW: usize = 128 << 10;
/// What a stream takes before it is on its way.
pub const SEND_BUFFER: usize = 64 << 10;

/// Which end this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Keeps the connection alive.
    Dialler,
    Listener,
}

/// What bounds a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Streams that the peer may have open at once.
    pub streams: usize,
    /// Milliseconds without a word from the peer after which the dialler asks for one.
    pub keep_alive: u64,
    /// Milliseconds of silence after which the connection is lost.
    pub idle: u64,
}

/// Why a connection is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer closed it.
    Closed { code: u32, reason: String },
    /// We closed it.
    Local,
    /// The peer broke the protocol; the text says how.
    Violation(&'static str),
    /// Nothing came for too long.
    Silent,
    /// What carried it failed.
    Carrier(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Closed { reason, .. } if reason.is_empty() => f.write_str("closed by peer"),
            End::Closed { reason, .. } => write!(f, "closed by peer: {reason}"),
            End::Local => f.write_str("closed"),
            End::Violation(what) => write!(f, "the peer broke the protocol of streams: {what}"),
            End::Silent => f.write_str("timed out"),
            End::Carrier(reason) => f.write_str(reason),
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Mux {
    side: Side,
    limits: Limits,
    streams: BTreeMap<u32, Stream>,
    next_own: u32,
    next_peer: u32,
    incoming: VecDeque<u32>,
    input: Vec<u8>,
    ping: bool,
    pong: bool,
    /// Said to the peer as the last thing.
    farewell: Option<Vec<u8>>,
    end: Option<End>,
    /// Counts the frames of data that went out.
    turn: u64,
    heard: Millis,
    asked: Millis,
}

impl Mux {
    pub fn new(side: Side, limits: Limits, now: Millis) -> Mux {
        let (next_own, next_peer) = if side == Side::Dialler { (1, 2) } else { (2, 1) };
        Mux {
            side,
            limits,
            streams: BTreeMap::new(),
            next_own,
            next_peer,
            incoming: VecDeque::new(),
            input: Vec::new(),
            ping: false,
            pong: false,
            farewell: None,
            end: None,
            turn: 0,
            heard: now,
            asked: now,
        }
    }

    /// Why the connection is over, once it is.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Ends the connection; the peer is told if that is still possible.
    pub fn close(&mut self, code: u32, reason: &str) {
        let mut payload = code.to_le_bytes().to_vec();
        payload.extend(reason.bytes().take(MAX_REASON));
        self.over(End::Local, Some(Frame::bytes(Kind::Close, 0, &payload)));
    }

    /// What carried the connection failed.
    pub fn carrier_lost(&mut self, reason: String) {
        self.over(End::Carrier(reason), None);
    }

    fn over(&mut self, end: End, farewell: Option<Vec<u8>>) {
        if self.end.is_none() {
            self.end = Some(end);
            self.farewell = farewell;
            self.input = Vec::new();
            self.streams.values_mut().for_each(Stream::forget);
        }
    }

    /// Opens a stream.
    pub fn open(&mut self) -> u32 {
        let id = self.next_own;
        self.next_own += 2;
        self.streams.insert(id, Stream::opened_here());
        id
    }

    /// The next stream that the peer opened.
    pub fn accept(&mut self) -> Option<u32> {
        self.incoming.pop_front()
    }

    /// Takes bytes to be sent; how many says how much room there was.
    pub fn write(&mut self, id: u32, bytes: &[u8]) -> Result<usize, Broken> {
        match (self.end.is_some(), self.streams.get_mut(&id)) {
            (false, Some(stream)) => stream.write(bytes),
            _ => Err(Broken::Ended),
        }
    }

    /// Gives what has come.
    pub fn read(&mut self, id: u32, into: &mut [u8]) -> Result<Read, Broken> {
        match self.streams.get_mut(&id) {
            None => Ok(Read::End),
            Some(stream) => match stream.read(into)? {
                Read::Wait if self.end.is_some() => Err(Broken::Ended),
                read => Ok(read),
            },
        }
    }

    /// No more is written; what was goes out.
    pub fn finish(&mut self, id: u32) {
        self.with(id, Stream::finish);
    }

    /// Ends our direction without regard for what is still to be sent.
    pub fn reset(&mut self, id: u32) {
        self.with(id, Stream::reset);
    }

    /// No more is read.
    pub fn stop(&mut self, id: u32) {
        self.with(id, Stream::stop);
    }

    /// A stream of a higher priority goes out before all of lower ones.
    pub fn set_priority(&mut self, id: u32, priority: i32) {
        self.with(id, |stream| stream.priority = priority);
    }

    fn with(&mut self, id: u32, act: impl FnOnce(&mut Stream)) {
        if let Some(stream) = self.streams.get_mut(&id) {
            act(stream);
            self.collect(id);
        }
    }

    /// Whether our direction is over: all is sent, or nobody wants it.
    pub fn is_sent(&self, id: u32) -> bool {
        self.end.is_some() || self.streams.get(&id).is_none_or(Stream::is_sent)
    }

    fn collect(&mut self, id: u32) {
        if self.streams.get(&id).is_some_and(Stream::is_done) {
            self.streams.remove(&id);
        }
    }

    /// Takes bytes as they came.
    pub fn receive(&mut self, bytes: &[u8], now: Millis) {
        if self.end.is_some() {
            return;
        }
        self.heard = now;
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(bytes);
        let mut at = 0;
        while self.end.is_none() {
            match Frame::parse(&input[at..]) {
                Ok(None) => break,
                Ok(Some((frame, length))) => {
                    at += length;
                    if let Err(what) = self.take(frame) {
                        self.violated(what);
                    }
                }
                Err(what) => self.violated(what),
            }
        }
        if self.end.is_none() && at < input.len() {
            self.input = input.split_off(at);
        }
    }

    fn violated(&mut self, what: &'static str) {
        let mut payload = 1u32.to_le_bytes().to_vec();
        payload.extend(what.bytes().take(MAX_REASON));
        self.over(End::Violation(what), Some(Frame::bytes(Kind::Close, 0, &payload)));
    }

    fn take(&mut self, frame: Frame<'_>) -> Result<(), &'static str> {
        let Frame { kind, stream: id, payload } = frame;
        match kind {
            Kind::Ping => self.pong = true,
            Kind::Pong => {}
            Kind::Close => {
                let (code, reason) = payload.split_at_checked(4).ok_or("a close without a code")?;
                let code = code.iter().rev().fold(0, |code, byte| code << 8 | u32::from(*byte));
                self.over(End::Closed { code, reason: String::from_utf8_lossy(reason).into_owned() }, None);
            }
            Kind::Open => return self.opened(id),
            // From a newer peer.
            Kind::Other => {}
            _ => {
                let known = if id % 2 == self.next_own % 2 { id < self.next_own } else { id < self.next_peer };
                let Some(stream) = self.streams.get_mut(&id) else {
                    // It ended here, and the peer did not know yet.
                    return if known { Ok(()) } else { Err("a frame of a stream that nobody opened") };
                };
                stream.take(kind, payload)?;
                self.collect(id);
            }
        }
        Ok(())
    }

    fn opened(&mut self, id: u32) -> Result<(), &'static str> {
        if id != self.next_peer {
            return Err("streams out of order");
        }
        let peers = self.streams.keys().filter(|known| **known % 2 == id % 2).count();
        if peers >= self.limits.streams {
            return Err("too many streams");
        }
        self.next_peer = id.checked_add(2).ok_or("no more streams")?;
        self.streams.insert(id, Stream::opened_there());
        self.incoming.push_back(id);
        Ok(())
    }

    /// The next bytes for the peer: what is urgent first. After the end, its last word.
    pub fn transmit(&mut self) -> Option<Vec<u8>> {
        if self.end.is_some() {
            return self.farewell.take();
        }
        if std::mem::take(&mut self.pong) {
            return Some(Frame::bytes(Kind::Pong, 0, &[]));
        }
        if std::mem::take(&mut self.ping) {
            return Some(Frame::bytes(Kind::Ping, 0, &[]));
        }
        let signal = self.streams.iter_mut().find_map(|(id, stream)| stream.signal(*id).map(|frame| (*id, frame)));
        if let Some((id, frame)) = signal {
            self.collect(id);
            return Some(frame);
        }
        // The highest priority; among equals the one that waits longest.
        let ready = self.streams.iter().filter(|(_, stream)| stream.has_data());
        let id =
            ready.min_by_key(|(id, stream)| (-i64::from(stream.priority), stream.served, **id)).map(|(id, _)| *id)?;
        self.turn += 1;
        let turn = self.turn;
        self.with(id, |stream| stream.served = turn);
        let frame = self.streams.get_mut(&id).and_then(|stream| stream.data(id));
        self.collect(id);
        frame
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Millis {
        let lost = self.heard.after(self.limits.idle);
        match self.side {
            Side::Listener => lost,
            Side::Dialler => lost.min(self.heard.max(self.asked).after(self.limits.keep_alive)),
        }
    }

    pub fn handle_timeout(&mut self, now: Millis) {
        if now >= self.heard.after(self.limits.idle) {
            self.over(End::Silent, None);
        } else if self.side == Side::Dialler && now >= self.heard.max(self.asked).after(self.limits.keep_alive) {
            self.asked = now;
            self.ping = true;
        }
    }
}

#[cfg(test)]
mod tests;
