//! The loop that keeps the node connected, and one session's I/O.

use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coracle_shared::codec::{MAX_FRAME, decode_evolving};
use coracle_shared::session::{AgentOutput, AgentSession, Ended};
use coracle_shared::wire::{Features, Hello, PROTOCOLS, ToAgent};
use futures_lite::future::or;
use quinn::{Connection, VarInt};
use ring::rand::{SecureRandom, SystemRandom};

use super::dial::{DialError, connect, delay};
use super::pipe::{Pipe, PipeError};
use super::{Desired, Reporter, Streams, streams};
use crate::identity::{Identity, IdentityError};
use crate::tls::node_config;

/// The session goes out before any log or exec stream.
const CONTROL_PRIORITY: i32 = 10;
/// A server that refuses this node will not change its mind soon.
const REFUSED_DELAY: Duration = Duration::from_secs(30);
/// Our own outgoing bytes may pile up to here before we stop reading what makes more of them.
const MAX_QUEUED: usize = 1 << 20;

/// Where the connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Dialling; with what went wrong last.
    Connecting {
        last: Option<String>,
    },
    Connected {
        server: String,
    },
    /// The server does not want this node; dialled again now and then.
    Refused {
        reason: String,
    },
}

/// Why a session ended.
#[derive(Debug)]
enum Lost {
    Dial(DialError),
    Connection(quinn::ConnectionError),
    Stream(PipeError),
    Ended(Ended),
    Identity(IdentityError),
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lost::Dial(error) => error.fmt(f),
            Lost::Connection(error) => error.fmt(f),
            Lost::Stream(error) => error.fmt(f),
            Lost::Ended(error) => error.fmt(f),
            Lost::Identity(error) => error.fmt(f),
        }
    }
}

/// The node's connection to its cluster.
pub struct Link {
    identity: Arc<Identity>,
    desired: Arc<dyn Desired>,
    streams: Arc<dyn Streams>,
    reporter: Reporter,
    state: Mutex<LinkState>,
}

enum Turn {
    Frame(Vec<u8>),
    Changed,
    Stream(quinn::SendStream, quinn::RecvStream),
}

impl Link {
    pub fn new(
        identity: Arc<Identity>,
        desired: Arc<dyn Desired>,
        streams: Arc<dyn Streams>,
        reporter: Reporter,
    ) -> Link {
        Link { identity, desired, streams, reporter, state: Mutex::new(LinkState::Connecting { last: None }) }
    }

    pub fn state(&self) -> LinkState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_state(&self, state: LinkState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Stays connected to one of the servers, for ever.
    pub async fn run(&self) -> Infallible {
        let mut attempt = 0;
        let servers = &self.identity.membership().servers;
        let mut at = 0;
        loop {
            let server = &servers[at % servers.len()];
            let was_open = match self.session(server).await {
                Ok(never) => match never {},
                Err((was_open, lost)) => {
                    eprintln!("link: {server}: {lost}");
                    self.set_state(match &lost {
                        Lost::Ended(Ended::Refused(refuse) | Ended::Foreign(refuse)) => {
                            LinkState::Refused { reason: refuse.message.clone() }
                        }
                        lost => LinkState::Connecting { last: Some(format!("{server}: {lost}")) },
                    });
                    was_open
                }
            };
            attempt = if was_open { 0 } else { attempt + 1 };
            at += 1;
            let wait = match self.state() {
                LinkState::Refused { .. } => REFUSED_DELAY,
                // The other servers of the list are tried before the delay grows.
                _ => delay(attempt / servers.len() as u32, random()),
            };
            smol::Timer::after(wait).await;
        }
    }

    /// One session; the flag says whether it was ever open.
    async fn session(&self, server: &str) -> Result<Infallible, (bool, Lost)> {
        let config = node_config(&self.identity).map_err(|e| (false, Lost::Dial(DialError::Tls(e))))?;
        let (endpoint, connection) = connect(server, config).await.map_err(|e| (false, Lost::Dial(e)))?;
        let mut session = AgentSession::new(self.hello());
        let outcome = self.serve(&connection, &mut session, server).await;
        connection.close(VarInt::from_u32(0), b"");
        endpoint.wait_idle().await;
        outcome.map_err(|lost| (session.is_welcomed(), lost))
    }

    fn hello(&self) -> Hello {
        let member = self.identity.membership();
        Hello {
            protocols: PROTOCOLS,
            features: Features::LOGS.and(Features::EXEC),
            cluster: member.cluster,
            node: member.node.clone(),
            store: self.identity.store(),
            heads: self.desired.heads(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    async fn serve(
        &self,
        connection: &Connection,
        session: &mut AgentSession,
        server: &str,
    ) -> Result<Infallible, Lost> {
        let (send, recv) = connection.open_bi().await.map_err(Lost::Connection)?;
        let mut pipe = Pipe::new(send, recv, MAX_FRAME);
        pipe.send.set_priority(CONTROL_PRIORITY).map_err(|_| Lost::Stream(PipeError::Finished))?;
        self.reporter.restart();
        let mut told_answering = true;
        loop {
            let changed = self.reporter.listen();
            // An acknowledgement makes room for the next report, so both until nothing is left.
            loop {
                self.drain(session, &mut pipe, server).await?;
                if !self.tell(session, &mut told_answering) {
                    break;
                }
            }
            let frame = async {
                if pipe.queued() > MAX_QUEUED {
                    pipe.flush().await.map_err(Lost::Stream)?;
                }
                pipe.next_frame().await.map(Turn::Frame).map_err(Lost::Stream)
            };
            let changed = async {
                changed.await;
                Ok(Turn::Changed)
            };
            let stream = async {
                let (send, recv) = connection.accept_bi().await.map_err(Lost::Connection)?;
                Ok(Turn::Stream(send, recv))
            };
            match or(frame, or(changed, stream)).await? {
                Turn::Frame(bytes) => {
                    let message = decode_evolving::<ToAgent>(&bytes).map_err(|e| Lost::Stream(PipeError::Codec(e)))?;
                    session.handle(message).map_err(Lost::Ended)?;
                }
                Turn::Changed => {}
                Turn::Stream(send, recv) => {
                    // Bounded by how many streams the transport lets the server open.
                    smol::spawn(streams::serve(send, recv, self.streams.clone())).detach();
                }
            }
        }
    }

    /// Hands the session what there is to report; false when there is nothing.
    fn tell(&self, session: &mut AgentSession, told_answering: &mut bool) -> bool {
        if !session.is_welcomed() {
            return false;
        }
        let answering = self.reporter.is_answering();
        let changed = answering != *told_answering;
        if changed {
            session.liveness(answering);
            *told_answering = answering;
        }
        match self.reporter.next_report(session.next_sequence()) {
            Some(report) => {
                session.report(report);
                true
            }
            None => changed,
        }
    }

    /// Does what the session asks for, in its order.
    async fn drain(&self, session: &mut AgentSession, pipe: &mut Pipe, server: &str) -> Result<(), Lost> {
        while let Some(output) = session.poll_output() {
            match output {
                AgentOutput::Send(message) => pipe.queue(&message),
                AgentOutput::Welcomed(welcome) => {
                    let identity = self.identity.clone();
                    smol::unblock(move || identity.adopt(welcome.store)).await.map_err(Lost::Identity)?;
                    self.set_state(LinkState::Connected { server: server.to_owned() });
                    eprintln!("link: connected to {server}");
                }
                AgentOutput::NeedIndex(set) => match self.desired.index(set).await {
                    Ok(entries) => session.index(set, entries),
                    Err(reason) => {
                        eprintln!("link: the ledger's index: {reason}");
                        return Err(Lost::Ended(Ended::Violation("the ledger can not be read")));
                    }
                },
                AgentOutput::Apply(apply) => {
                    let set = apply.set;
                    match self.desired.apply(apply).await {
                        Ok(digest) => session.applied(set, digest),
                        Err(reason) => {
                            eprintln!("link: the ledger could not be written: {reason}");
                            session.failed(set, reason);
                        }
                    }
                }
                AgentOutput::Reported(sequence) => self.reporter.acknowledged(sequence),
            }
        }
        Ok(())
    }
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    // Without randomness all nodes dial at the same moment: worse, not wrong.
    let _ = SystemRandom::new().fill(&mut bytes);
    u32::from_le_bytes(bytes)
}
