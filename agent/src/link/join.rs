//! Joining a cluster with a line from `coracle token create`.
//!
//! The server's CA is verified by the line's fingerprint before the token is sent. The key is made
//! here and stays here. Until the answer is written down nothing but that key exists; a join that
//! breaks off is asked again with the same key, which the server takes for the same node.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use coracle_shared::codec::{self, CodecError, MAX_JOIN_FRAME};
use coracle_shared::join::JoinLine;
use coracle_shared::wire::{JoinReply, JoinRequest, Joined, PROTOCOLS, Refuse, RefuseCode};
use coracle_transport::{Pipe, PipeError};
use rustls::pki_types::CertificateDer;

use super::dial::{DialError, connect};
use crate::identity::{Identity, IdentityError, Membership, NodeKey, fingerprint};
use crate::tls::join_config;

/// How often all servers of the line are tried before the join fails.
const ROUNDS: u32 = 3;
const BETWEEN_ROUNDS: Duration = Duration::from_secs(2);
/// A server that has taken the request answers after one commit.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// The machine that joins.
#[derive(Clone, Debug)]
pub struct Newcomer {
    pub node: String,
    pub hostname: String,
    /// `amd64`, `arm64`, `arm`.
    pub architecture: String,
}

/// Why a join failed. Nothing of it is left but the node's key.
#[derive(Debug)]
pub enum JoinError {
    /// This machine is a member of another cluster already.
    Member {
        node: String,
        cluster: String,
    },
    /// The server's CA is not the one of the line.
    WrongCa {
        server: String,
    },
    Dial(DialError),
    Stream(PipeError),
    Connection(coracle_transport::Lost),
    Codec(CodecError),
    /// The server said no.
    Refused(Refuse),
    /// The server's answer does not fit what was asked.
    Answer(&'static str),
    Timeout {
        server: String,
    },
    Identity(IdentityError),
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinError::Member { node, cluster } => write!(
                f,
                "this machine is node {node} of cluster {cluster} already: empty its state directory before it joins another"
            ),
            JoinError::WrongCa { server } => write!(
                f,
                "{server} does not have the CA of the join line; the token was not sent. Make a new line with `coracle token create`"
            ),
            JoinError::Dial(error) => error.fmt(f),
            JoinError::Stream(error) => write!(f, "asking the server: {error}"),
            JoinError::Connection(error) => write!(f, "asking the server: {error}"),
            JoinError::Codec(error) => write!(f, "the server's answer: {error}"),
            JoinError::Refused(refuse) => write!(f, "the server refused: {}", refuse.message),
            JoinError::Answer(what) => write!(f, "the server's answer: {what}"),
            JoinError::Timeout { server } => write!(f, "{server} took the request and did not answer"),
            JoinError::Identity(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for JoinError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            JoinError::Dial(error) => Some(error),
            JoinError::Stream(error) => Some(error),
            JoinError::Connection(error) => Some(error),
            JoinError::Codec(error) => Some(error),
            JoinError::Identity(error) => Some(error),
            _ => None,
        }
    }
}

impl JoinError {
    /// Whether another attempt may succeed.
    fn is_passing(&self) -> bool {
        match self {
            JoinError::Dial(_) | JoinError::Stream(_) | JoinError::Connection(_) | JoinError::Timeout { .. } => true,
            JoinError::Refused(refuse) => refuse.code == RefuseCode::Unavailable,
            _ => false,
        }
    }
}

/// The identity in `state`: read when the machine is a member of the line's cluster already, otherwise
/// asked for.
pub async fn join(state: &Path, line: &JoinLine, who: &Newcomer) -> Result<Identity, JoinError> {
    if let Some(identity) = Identity::load(state).map_err(JoinError::Identity)? {
        let member = identity.membership();
        if member.cas.iter().any(|ca| fingerprint(ca) == line.ca) && member.node == who.node {
            return Ok(identity);
        }
        return Err(JoinError::Member { node: member.node, cluster: member.cluster.to_string() });
    }
    let key = NodeKey::open(state).map_err(JoinError::Identity)?;
    let csr = key.request(&who.node).map_err(JoinError::Identity)?;
    let request = JoinRequest {
        protocols: PROTOCOLS,
        node: who.node.clone(),
        token_id: line.token.id.clone(),
        token_secret: line.token.secret.clone(),
        csr,
        hostname: who.hostname.clone(),
        architecture: who.architecture.clone(),
    };
    let joined = ask_all(line, &request).await?;
    let membership = check(line, who, joined)?;
    key.joined(membership).map_err(JoinError::Identity)
}

async fn ask_all(line: &JoinLine, request: &JoinRequest) -> Result<Joined, JoinError> {
    let mut round = 1;
    loop {
        let mut last = None;
        for server in &line.servers {
            match ask(server, line, request).await {
                Ok(joined) => return Ok(joined),
                Err(error) if error.is_passing() => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        match last {
            Some(error) if round == ROUNDS => return Err(error),
            _ => smol::Timer::after(BETWEEN_ROUNDS).await,
        };
        round += 1;
    }
}

async fn ask(server: &str, line: &JoinLine, request: &JoinRequest) -> Result<Joined, JoinError> {
    let (config, verifier) = join_config(line.ca).map_err(|e| JoinError::Dial(DialError::Tls(e)))?;
    let dialled = match connect(server, config).await {
        Ok(connected) => connected,
        Err(_) if verifier.met_stranger() => return Err(JoinError::WrongCa { server: server.to_owned() }),
        Err(error) => return Err(JoinError::Dial(error)),
    };
    let answer = async {
        let (send, recv) = dialled.connection.open().await.map_err(JoinError::Connection)?;
        let mut pipe = Pipe::new(send, recv, MAX_JOIN_FRAME);
        pipe.queue(request);
        let bytes = pipe.next_frame().await.map_err(JoinError::Stream)?;
        codec::decode_evolving::<JoinReply>(&bytes).map_err(JoinError::Codec)
    };
    let timeout = async {
        smol::Timer::after(ANSWER_TIMEOUT).await;
        Err(JoinError::Timeout { server: server.to_owned() })
    };
    let reply = futures_lite::future::or(answer, timeout).await;
    dialled.close("joined").await;
    match reply? {
        JoinReply::Accepted(joined) => Ok(joined),
        JoinReply::Refused(refuse) => Err(JoinError::Refused(refuse)),
        JoinReply::Unknown(_) => Err(JoinError::Answer("of a kind that this release does not know")),
    }
}

/// The CA that was verified must be among the CAs that are to be believed from now on.
fn check(line: &JoinLine, who: &Newcomer, joined: Joined) -> Result<Membership, JoinError> {
    let cas: Vec<CertificateDer<'static>> = joined.cas.into_iter().map(CertificateDer::from).collect();
    if !cas.iter().any(|ca| fingerprint(ca) == line.ca) {
        return Err(JoinError::Answer("without the CA of the join line"));
    }
    Ok(Membership {
        node: who.node.clone(),
        cluster: joined.cluster,
        servers: line.servers.clone(),
        certificate: CertificateDer::from(joined.certificate),
        cas,
        floor: joined.now,
    })
}
