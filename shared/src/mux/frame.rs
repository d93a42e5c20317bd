//! Frames as they travel.

/// Kind, stream and length.
const HEAD: usize = 9;
/// Larger than anything that this release sends; bounds what waits for its end.
const MAX_PAYLOAD: usize = 64 << 10;
/// The longest text of a close.
pub const MAX_REASON: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Open,
    Data,
    Fin,
    Reset,
    Stop,
    Credit,
    Ping,
    Pong,
    Close,
    /// Of a newer peer; ignored.
    Other,
}

const KINDS: [Kind; 9] =
    [Kind::Open, Kind::Data, Kind::Fin, Kind::Reset, Kind::Stop, Kind::Credit, Kind::Ping, Kind::Pong, Kind::Close];

#[derive(Debug)]
pub struct Frame<'a> {
    pub kind: Kind,
    pub stream: u32,
    pub payload: &'a [u8],
}

impl Frame<'_> {
    pub fn bytes(kind: Kind, stream: u32, payload: &[u8]) -> Vec<u8> {
        let number = KINDS.iter().position(|k| *k == kind).unwrap_or(KINDS.len()) as u8;
        let mut bytes = Vec::with_capacity(HEAD + payload.len());
        bytes.push(number);
        bytes.extend(stream.to_le_bytes());
        bytes.extend((payload.len() as u32).to_le_bytes());
        bytes.extend(payload);
        bytes
    }

    /// The first frame and how long it is, once it is whole.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, &'static str> {
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else { return Ok(None) };
        let [kind, a, b, c, d, e, f, g, h] = *head;
        let length = u32::from_le_bytes([e, f, g, h]) as usize;
        if length > MAX_PAYLOAD {
            return Err("a frame that is too long");
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let kind = KINDS.get(usize::from(kind)).copied().unwrap_or(Kind::Other);
        Ok(Some((Frame { kind, stream: u32::from_le_bytes([a, b, c, d]), payload }, HEAD + length)))
    }
}
