//! The protocol between the agent and a pod's pause process, shared by both ends.
//!
//! A stream of frames over a Unix socket: `len u32 | kind u8 | fds u8 | request u32 | body`, all
//! little-endian, `len` counting what follows it. File descriptors travel as `SCM_RIGHTS` with the
//! frame that names their number. Strings carry their terminating NUL, so that the receiver uses
//! them in place.
//!
//! The protocol is append-only: a message grows at its end, a receiver ignores what it does not
//! know and takes the default for what an older sender left out. Kinds are never reused. So an
//! agent drives pauses older and newer than itself.

pub mod codec;
pub mod files;
pub mod message;
pub mod mounts;

pub use codec::{Malformed, Reader, Writer};
pub use files::*;
pub use message::*;
pub use mounts::*;

/// The newest protocol that this build speaks.
pub const PROTOCOL: u16 = 1;
/// The oldest one.
pub const PROTOCOL_MIN: u16 = 1;
/// The largest frame: the kernel takes at most 2 MiB of arguments and environment together.
pub const MAX_FRAME: usize = 3 << 20;
/// Bytes of a frame before its body.
pub const HEADER: usize = 10;
/// The most descriptors in one frame: an exec's three.
pub const MAX_FDS: usize = 3;

/// The pause's descriptors at its start: 0–2 are `/dev/null`.
pub const FD_DIRECTORY: i32 = 3;
/// The listening control socket.
pub const FD_LISTENER: i32 = 4;

/// The file of the sandbox's directory that the agent writes before the pause starts.
pub const SANDBOX_FILE: &str = "sandbox";
/// The file of the sandbox's directory to which the pause appends every change.
pub const STATE_FILE: &str = "state";
/// The control socket's name in the sandbox's directory.
pub const SOCKET_FILE: &str = "pause.sock";

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the body.
    pub len: usize,
    pub kind: u8,
    pub fds: u8,
    /// Chosen by the agent, echoed by every answer; 0 for events.
    pub request: u32,
}

impl Header {
    /// # Errors
    /// A length outside of [`MAX_FRAME`] or too many descriptors.
    pub fn decode(raw: &[u8; HEADER]) -> Result<Header, Malformed> {
        let len = u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]) as usize;
        let request = u32::from_le_bytes([raw[6], raw[7], raw[8], raw[9]]);
        if !(HEADER - 4..=MAX_FRAME).contains(&len) || raw[5] as usize > MAX_FDS {
            return Err(Malformed);
        }
        Ok(Header { len: len - (HEADER - 4), kind: raw[4], fds: raw[5], request })
    }
}

/// A whole frame around `body`'s output.
pub fn frame(kind: u8, fds: u8, request: u32, body: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::default();
    w.u32(0);
    w.u8(kind);
    w.u8(fds);
    w.u32(request);
    body(&mut w);
    let mut raw = w.finish();
    let len = (raw.len() - 4) as u32;
    raw[..4].copy_from_slice(&len.to_le_bytes());
    raw
}

#[cfg(test)]
mod tests;
