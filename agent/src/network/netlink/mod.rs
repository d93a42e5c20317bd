//! Netlink as far as the node's network needs it: messages with attributes, one request at a time,
//! and what the kernel answers.
//!
//! Written by hand because the need is small: some ten message types of route netlink and one batch
//! form of nf_tables. Layouts follow `linux/netlink.h` and `linux/rtnetlink.h`.

pub(crate) mod route;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with, sockopt,
};

/// What a request came to: the kernel's error, with the text of its extended acknowledgement.
#[derive(Debug)]
pub struct NetlinkError {
    pub errno: Errno,
    pub message: Option<String>,
}

impl std::fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.message {
            Some(message) => write!(f, "{message} ({})", self.errno),
            None => self.errno.fmt(f),
        }
    }
}

impl std::error::Error for NetlinkError {}

impl From<Errno> for NetlinkError {
    fn from(errno: Errno) -> Self {
        NetlinkError { errno, message: None }
    }
}

pub(crate) const NLM_F_REQUEST: u16 = 1;
pub(crate) const NLM_F_ACK: u16 = 4;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
const NLMSGERR_ATTR_MSG: u16 = 1;
const RTMGRP_LINK: u32 = 1;
const HEADER: usize = 16;

/// Room for one answer datagram: the kernel fills dumps in pieces of at most 32 KiB.
const RECEIVE_BUFFER: usize = 64 << 10;

/// One or more netlink messages in the making.
///
/// Lengths are filled in as parts close, so that building needs one buffer and no second pass.
#[derive(Default)]
pub(crate) struct Message {
    bytes: Vec<u8>,
    /// Where the message being written starts.
    start: usize,
}

impl Message {
    pub(crate) fn new(kind: u16, flags: u16) -> Self {
        let mut message = Message::default();
        message.begin(kind, flags, 0);
        message
    }

    /// Closes the message before and starts another in the same buffer.
    pub(crate) fn begin(&mut self, kind: u16, flags: u16, sequence: u32) {
        self.end();
        self.start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
    }

    fn end(&mut self) {
        if !self.bytes.is_empty() {
            let length = (self.bytes.len() - self.start) as u32;
            self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
        }
    }

    /// What was written without a message around it: attributes to be put into one.
    pub(crate) fn into_fragment(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.end();
        self.bytes
    }

    /// The fixed part that follows the header, padded to four bytes.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad()
    }

    fn pad(&mut self) -> &mut Self {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
        self
    }

    pub(crate) fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad()
    }

    /// A number in the machine's order, as route netlink has it.
    pub(crate) fn attr_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// A number in network order, as nf_tables has it.
    pub(crate) fn attr_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// A string with its ending NUL.
    pub(crate) fn attr_str(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// An attribute that holds attributes.
    pub(crate) fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Message)) -> &mut Self {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        inner(self);
        let length = (self.bytes.len() - at) as u16;
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }
}

/// A message as received: what follows the netlink header.
pub(crate) struct Answer {
    pub kind: u16,
    pub body: Vec<u8>,
}

impl Answer {
    /// The attributes behind a fixed part of `fixed` bytes.
    pub(crate) fn attrs(&self, fixed: usize) -> Attrs<'_> {
        Attrs { rest: self.body.get(fixed..).unwrap_or_default() }
    }
}

/// Walks attributes; ends at the first that is not whole.
#[derive(Clone)]
pub(crate) struct Attrs<'a> {
    rest: &'a [u8],
}

impl<'a> Attrs<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        Attrs { rest: bytes }
    }

    pub(crate) fn find(&self, kind: u16) -> Option<&'a [u8]> {
        Iterator::find(&mut self.clone(), |(k, _)| *k == kind).map(|(_, value)| value)
    }

    pub(crate) fn find_u32(&self, kind: u16) -> Option<u32> {
        self.find(kind).and_then(|v| v.try_into().ok()).map(u32::from_ne_bytes)
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.rest.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
        let value = self.rest.get(4..length)?;
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// Cuts a datagram into `(type, flags, sequence, body)`; ends at the first message that is not whole.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let head = datagram.get(..HEADER)?;
        let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let length = word(0) as usize;
        let body = datagram.get(HEADER..length)?;
        let kind = u16::from_ne_bytes([head[4], head[5]]);
        let flags = u16::from_ne_bytes([head[6], head[7]]);
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, flags, word(8), body))
    })
}

/// Reads an error message: `Ok` is an acknowledgement.
fn acknowledgement(flags: u16, body: &[u8]) -> Result<(), NetlinkError> {
    let code = body.get(..4).map_or(-Errno::INVAL.raw_os_error(), |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    if code == 0 {
        return Ok(());
    }
    let request = body.get(4..8).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]) as usize);
    let tlvs = if flags & NLM_F_CAPPED != 0 { 4 + HEADER } else { 4 + request.next_multiple_of(4) };
    let message = (flags & NLM_F_ACK_TLVS != 0)
        .then(|| Attrs::of(body.get(tlvs..).unwrap_or_default()).find(NLMSGERR_ATTR_MSG))
        .flatten()
        .map(|text| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned());
    Err(NetlinkError { errno: Errno::from_raw_os_error(-code), message })
}

/// A netlink socket. It belongs to the network namespace that its thread was in when it was opened.
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    pub(crate) fn route() -> Result<Self, NetlinkError> {
        Self::open(None, 0)
    }

    /// Also hears of every change of a link from now on.
    pub(crate) fn link_events() -> Result<Self, NetlinkError> {
        Self::open(None, RTMGRP_LINK)
    }

    pub(crate) fn netfilter() -> Result<Self, NetlinkError> {
        Self::open(Some(NETFILTER), 0)
    }

    fn open(protocol: Option<rustix::net::Protocol>, groups: u32) -> Result<Self, NetlinkError> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        Ok(Socket { fd, sequence: 0, buffer: Vec::new() })
    }

    /// Makes room for a batch of `size` bytes: the kernel takes it in one piece or not at all.
    fn make_room(&self, size: usize) -> Result<(), NetlinkError> {
        if size > sockopt::socket_send_buffer_size(&self.fd)? / 2 {
            sockopt::set_socket_send_buffer_size_force(&self.fd, size * 2)?;
        }
        Ok(())
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        loop {
            match sendto(&self.fd, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn receive(&mut self, flags: RecvFlags) -> Result<usize, Errno> {
        self.buffer.resize(RECEIVE_BUFFER, 0);
        loop {
            match recv(&self.fd, &mut self.buffer[..], flags) {
                Ok((length, _)) => return Ok(length),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The next events, or none when there are none before `until`.
    pub(crate) fn events(&mut self, until: Instant) -> Result<Vec<Answer>, NetlinkError> {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ };
        if poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&left))? == 0 {
            return Ok(Vec::new());
        }
        let length = self.receive(RecvFlags::empty())?;
        let events = messages(&self.buffer[..length]);
        Ok(events.map(|(kind, _, _, body)| Answer { kind, body: body.to_vec() }).collect())
    }

    /// Sends one request and waits for its acknowledgement.
    pub(crate) fn request(&mut self, message: Message) -> Result<(), NetlinkError> {
        let sequence = self.stamp(message, NLM_F_ACK)?;
        loop {
            let length = self.receive(RecvFlags::empty())?;
            for (kind, flags, seq, body) in messages(&self.buffer[..length]) {
                if seq == sequence && kind == NLMSG_ERROR {
                    return acknowledgement(flags, body);
                }
            }
        }
    }

    /// Sends one request and collects the messages that answer it.
    pub(crate) fn dump(&mut self, message: Message) -> Result<Vec<Answer>, NetlinkError> {
        let mut answers = Vec::new();
        self.dump_each(message, |answer| answers.push(answer))?;
        Ok(answers)
    }

    /// Sends one request and hands on each message that answers it.
    pub(crate) fn dump_each(&mut self, message: Message, mut each: impl FnMut(Answer)) -> Result<(), NetlinkError> {
        let sequence = self.stamp(message, NLM_F_DUMP)?;
        loop {
            let length = self.receive(RecvFlags::empty())?;
            for (kind, flags, seq, body) in messages(&self.buffer[..length]) {
                match kind {
                    _ if seq != sequence => {}
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return acknowledgement(flags, body),
                    _ => each(Answer { kind, body: body.to_vec() }),
                }
            }
        }
    }

    fn stamp(&mut self, message: Message, flags: u16) -> Result<u32, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = message.finish();
        let with = u16::from_ne_bytes([bytes[6], bytes[7]]) | flags;
        bytes[6..8].copy_from_slice(&with.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        self.send(&bytes)?;
        Ok(self.sequence)
    }

    /// Sends a batch as it is. The kernel works it off before `send` returns, so that every answer
    /// is already waiting: the first error among them is the batch's. Returns the sequence number of
    /// the message at fault with it.
    pub(crate) fn batch(&mut self, bytes: &[u8]) -> Result<(), (u32, NetlinkError)> {
        self.make_room(bytes.len()).map_err(|e| (0, e))?;
        self.send(bytes).map_err(|e| (0, e))?;
        let first = self.batch_answers();
        // A socket for batches is kept open; its buffer need not be.
        self.buffer = Vec::new();
        first
    }

    fn batch_answers(&mut self) -> Result<(), (u32, NetlinkError)> {
        let mut first = Ok(());
        loop {
            let length = match self.receive(RecvFlags::DONTWAIT) {
                Ok(length) => length,
                Err(Errno::AGAIN) => return first,
                Err(error) => return Err((0, error.into())),
            };
            for (kind, flags, seq, body) in messages(&self.buffer[..length]) {
                if kind == NLMSG_ERROR && first.is_ok() {
                    first = acknowledgement(flags, body).map_err(|e| (seq, e));
                }
            }
        }
    }
}
