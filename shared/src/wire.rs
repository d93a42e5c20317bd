//! What server and agent say to each other.
//!
//! One ordered stream carries the session: [`ToServer`] and [`ToAgent`], each in a frame of
//! [`crate::codec`]. Logs and exec have streams of their own that the server opens: one [`Open`],
//! one [`Opened`], then raw bytes (logs) or [`ExecIn`] and [`ExecOut`] frames. Joining is one
//! [`JoinRequest`] and one [`JoinReply`] on a connection of its own.
//!
//! New variants are appended; whoever does not know one decodes its unknown arm. What changes
//! inside a variant raises the protocol.

use serde::{Deserialize, Serialize};

use crate::codec::{Evolving, block};
use crate::desired::{Body, Item, ItemId, SetHead, SetKind};
use crate::ids::{ClusterId, Digest, StoreUuid};
use crate::report::{EventReport, NodeReport, PodReport};

/// The protocols that this release speaks.
pub const PROTOCOLS: ProtocolRange = ProtocolRange { min: 1, max: 1 };

/// From oldest to newest, inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtocolRange {
    pub min: u16,
    pub max: u16,
}

impl ProtocolRange {
    pub fn has(self, protocol: u16) -> bool {
        (self.min..=self.max).contains(&protocol)
    }

    /// The newest protocol that both speak.
    pub fn common(self, other: ProtocolRange) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

/// A bit set of optional abilities. Bits that are not known are kept and ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features(pub u64);

impl Features {
    /// Container logs over streams.
    pub const LOGS: Features = Features(1);
    /// Commands in containers over streams, without a terminal.
    pub const EXEC: Features = Features(1 << 1);
    /// Certificates renew over the session.
    pub const RENEW: Features = Features(1 << 2);

    pub fn has(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn and(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }
}

/// What an agent holds of the two sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heads {
    pub node: SetHead,
    pub shared: SetHead,
}

impl Heads {
    pub fn of(&self, set: SetKind) -> SetHead {
        match set {
            SetKind::Node => self.node,
            SetKind::Shared => self.shared,
        }
    }

    pub fn of_mut(&mut self, set: SetKind) -> &mut SetHead {
        match set {
            SetKind::Node => &mut self.node,
            SetKind::Shared => &mut self.shared,
        }
    }
}

/// The agent's first message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub protocols: ProtocolRange,
    pub features: Features,
    pub cluster: ClusterId,
    pub node: String,
    /// The store whose desired state the ledger holds; `None` before the first.
    pub store: Option<StoreUuid>,
    pub heads: Heads,
    pub agent_version: String,
}

/// The server's answer to [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The protocol that is spoken from here on.
    pub protocol: u16,
    pub features: Features,
    pub cluster: ClusterId,
    pub store: StoreUuid,
    /// Milliseconds since the Unix epoch: authenticated time for a board without a clock.
    pub now: i64,
    pub server_version: String,
}

/// Why a session or a join ends before it began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refuse {
    pub code: RefuseCode,
    /// For a person: what, on what, and what to do.
    pub message: String,
}

/// Travels as a number, so that an older peer can read a newer one's refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub enum RefuseCode {
    /// No protocol in common.
    Protocol,
    /// Another cluster's node.
    Cluster,
    /// The agent's ledger comes from another store.
    Store,
    /// The certificate names another node, or none.
    Identity,
    /// The node name is bound to another key.
    NameTaken,
    /// The token is unknown or its secret wrong.
    Token,
    /// The token has expired.
    TokenExpired,
    /// The token has no uses left.
    TokenUsed,
    /// The request makes no sense: a bad name or CSR.
    Malformed,
    /// The server can not answer now; try again.
    Unavailable,
    /// The node's key was revoked.
    Revoked,
    /// The node's certificate has expired, and this agent can not renew it over the session.
    Expired,
    /// From a newer server.
    Other(u8),
}

const REFUSE_CODES: [RefuseCode; 12] = [
    RefuseCode::Protocol,
    RefuseCode::Cluster,
    RefuseCode::Store,
    RefuseCode::Identity,
    RefuseCode::NameTaken,
    RefuseCode::Token,
    RefuseCode::TokenExpired,
    RefuseCode::TokenUsed,
    RefuseCode::Malformed,
    RefuseCode::Unavailable,
    RefuseCode::Revoked,
    RefuseCode::Expired,
];

impl From<u8> for RefuseCode {
    fn from(number: u8) -> RefuseCode {
        REFUSE_CODES.get(usize::from(number)).copied().unwrap_or(RefuseCode::Other(number))
    }
}

impl From<RefuseCode> for u8 {
    fn from(code: RefuseCode) -> u8 {
        match code {
            RefuseCode::Other(number) => number,
            known => REFUSE_CODES.iter().position(|c| *c == known).expect("every named code is listed") as u8,
        }
    }
}

/// How a set is about to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyncMode {
    /// Only what differs; what goes is named.
    Delta,
    /// All there is. What is absent goes, when the set is complete.
    Full,
}

/// From the server to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToAgent {
    Welcome(Welcome),
    Refuse(Refuse),
    /// The server can not tell what differs: send what you hold.
    SendIndex {
        set: SetKind,
    },
    /// Items of a set follow, up to `End`.
    Begin {
        set: SetKind,
        to: SetHead,
        mode: SyncMode,
        complete: bool,
    },
    Items {
        set: SetKind,
        puts: Vec<Item>,
        deletes: Vec<ItemId>,
    },
    End {
        set: SetKind,
    },
    /// The report with this number is in the store.
    Reported {
        sequence: u64,
    },
    /// The answer to a Hello under an expired certificate: it is renewed before anything else.
    RenewFirst {
        protocol: u16,
    },
    /// The node's new certificate.
    Renewed(Renewed),
    /// From a newer server; ignored.
    #[serde(skip)]
    Unknown(u32),
}

/// Why an agent did not take a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejection {
    /// Its generation is older than what the agent holds, in the same epoch.
    Older { held: SetHead },
    /// After applying, the digest was another.
    Digest,
    /// The ledger could not be written, with the reason.
    Storage(String),
}

/// From the agent to the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToServer {
    Hello(Hello),
    /// A part of what the agent holds, in id order.
    Index {
        set: SetKind,
        entries: Vec<(ItemId, Digest)>,
        last: bool,
    },
    /// The ledger holds the set as it was sent.
    Persisted {
        set: SetKind,
        to: SetHead,
    },
    Rejected {
        set: SetKind,
        to: SetHead,
        why: Rejection,
    },
    Report(Box<Report>),
    /// Whether the reconcile loop answers; sent when that changes.
    Liveness {
        answering: bool,
    },
    /// Asks for a new certificate for the key of this connection.
    Renew {
        /// PKCS #10, DER.
        csr: Vec<u8>,
    },
    /// From a newer agent; ignored.
    #[serde(skip)]
    Unknown(u32),
}

/// A certificate that takes the place of the node's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// The node's certificate, DER.
    pub certificate: Vec<u8>,
    /// The CAs to believe from now on, DER.
    pub cas: Vec<Vec<u8>>,
}

/// What changed on the node since the last report. The first ones of a session tell everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Counts up from 1 in each session; acknowledged in order.
    pub sequence: u64,
    pub node: Option<NodeReport>,
    pub pods: Vec<PodReport>,
    pub events: Vec<EventReport>,
    /// With this one everything the agent knows has been told in this session.
    pub whole: bool,
}

/// The first frame of a stream that the server opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Open {
    Logs(LogsOpen),
    Exec(ExecOpen),
    #[serde(skip)]
    Unknown(u32),
}

/// Which container of which pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub namespace: String,
    pub pod: String,
    /// Guards against a pod that was replaced under the same name; empty: any.
    pub uid: String,
    pub container: String,
}

/// What of a container's log is asked; see the API's `PodLogOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsOpen {
    pub target: Target,
    pub follow: bool,
    pub previous: bool,
    pub tail_lines: Option<u64>,
    /// Milliseconds since the Unix epoch.
    pub since: Option<i64>,
    pub timestamps: bool,
    pub limit_bytes: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecOpen {
    pub target: Target,
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// The agent's answer to [`Open`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Opened {
    Ok,
    /// No such pod, container or previous instance; the text says which.
    NotFound(String),
    /// Not now, or not here.
    Refused(String),
    #[serde(skip)]
    Unknown(u32),
}

/// From the client to a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecIn {
    Stdin(#[serde(with = "block")] Vec<u8>),
    CloseStdin,
    Resize {
        width: u16,
        height: u16,
    },
    #[serde(skip)]
    Unknown(u32),
}

/// From a command to the client. `Exit` and `Failed` are the last of their stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecOut {
    Stdout(#[serde(with = "block")] Vec<u8>),
    Stderr(#[serde(with = "block")] Vec<u8>),
    /// 0, or the exit code; 128 + signal when a signal ended it.
    Exit(i32),
    Failed(String),
    #[serde(skip)]
    Unknown(u32),
}

/// The largest piece of an exec stream in one frame: the pipes' own size.
pub const MAX_EXEC_CHUNK: usize = 64 << 10;

/// What a machine without an identity asks, over a connection whose CA it has verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    pub protocols: ProtocolRange,
    pub node: String,
    pub token_id: String,
    pub token_secret: String,
    /// PKCS #10, DER, of a key that stays on the node.
    pub csr: Vec<u8>,
    pub hostname: String,
    /// `amd64`, `arm64`, `arm`.
    pub architecture: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinReply {
    Accepted(Joined),
    Refused(Refuse),
    #[serde(skip)]
    Unknown(u32),
}

/// All that a node needs to come back without a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    pub cluster: ClusterId,
    /// The node's certificate, DER.
    pub certificate: Vec<u8>,
    /// The CAs to believe, DER.
    pub cas: Vec<Vec<u8>>,
    /// Milliseconds since the Unix epoch.
    pub now: i64,
}

macro_rules! evolving {
    ($($name:ident: $known:literal),+ $(,)?) => {$(
        impl Evolving for $name {
            const KNOWN: u32 = $known;

            fn unknown(tag: u32) -> $name {
                $name::Unknown(tag)
            }
        }
    )+};
}

evolving!(ToAgent: 9, ToServer: 7, Open: 2, Opened: 3, ExecIn: 3, ExecOut: 4, JoinReply: 2);

impl Body {
    /// How many kinds of body this release knows.
    pub const KNOWN: u32 = 6;
}
