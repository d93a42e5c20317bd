//! The loop that keeps the node connected, and one session's I/O.

use std::convert::Infallible;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use coracle_shared::codec::{MAX_FRAME, decode_evolving};
use coracle_shared::session::{AgentOutput, AgentSession, Ended};
use coracle_shared::wire::{Features, Hello, PROTOCOLS, ProtocolRange, Renewed, ToAgent};
use coracle_transport::{Carrier, Pipe, PipeError, RecvStream, SendStream};
use futures_lite::future::{or, pending};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::UnixTime;

use super::clock::Clock;
use super::dial::{DialError, Dialled, connect, connect_quic, delay};
use super::{Desired, Reporter, Streams, streams};
use crate::identity::{Identity, IdentityError, Validity, validity};
use crate::tls::node_config;

/// The session goes out before any log or exec stream.
const CONTROL_PRIORITY: i32 = 10;
/// A server that refuses this node will not change its mind soon.
const REFUSED_DELAY: Duration = Duration::from_secs(30);
/// How long after falling back to TCP QUIC is tried again; doubled up to the longest.
const FIRST_RETURN: Duration = Duration::from_secs(5);
const LONGEST_RETURN: Duration = Duration::from_secs(600);
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
        over: Carrier,
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
    Connection(coracle_transport::Lost),
    Stream(PipeError),
    Ended(Ended),
    Identity(IdentityError),
    /// QUIC goes again: this connection takes the place of the one over TCP.
    Better(Dialled),
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lost::Dial(error) => error.fmt(f),
            Lost::Connection(error) => error.fmt(f),
            Lost::Stream(error) => error.fmt(f),
            Lost::Ended(error) => error.fmt(f),
            Lost::Identity(error) => error.fmt(f),
            Lost::Better(_) => f.write_str("QUIC goes again"),
        }
    }
}

/// The node's connection to its cluster.
pub struct Link {
    protocols: ProtocolRange,
    started: Instant,
    clock: Mutex<Clock>,
    identity: Arc<Identity>,
    desired: Arc<dyn Desired>,
    streams: Arc<dyn Streams>,
    reporter: Reporter,
    state: Mutex<LinkState>,
}

enum Turn {
    Frame(Vec<u8>),
    Changed,
    Renewal,
    Stream(SendStream, RecvStream),
    Better(Dialled),
}

impl Link {
    pub fn new(
        identity: Arc<Identity>,
        desired: Arc<dyn Desired>,
        streams: Arc<dyn Streams>,
        reporter: Reporter,
    ) -> Link {
        let clock = Mutex::new(Clock::new(identity.membership().floor, Duration::ZERO));
        Link {
            protocols: PROTOCOLS,
            started: Instant::now(),
            clock,
            identity,
            desired,
            streams,
            reporter,
            state: Mutex::new(LinkState::Connecting { last: None }),
        }
    }

    /// Speaks other protocols than this release's.
    pub fn speaking(mut self, protocols: ProtocolRange) -> Link {
        self.protocols = protocols;
        self
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Authenticated time, in milliseconds since the Unix epoch.
    fn now(&self) -> i64 {
        self.clock().now(self.started.elapsed())
    }

    /// How long until the certificate is due for renewal.
    fn until_renewal(&self) -> Duration {
        let due = validity(&self.identity.membership().certificate).map_or(0, Validity::renewal);
        Duration::from_millis(u64::try_from(due.saturating_sub(self.now())).unwrap_or(0))
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
        let servers = self.identity.membership().servers;
        let mut at = 0;
        loop {
            let server = &servers[at % servers.len()];
            let was_open = match self.session(server).await {
                Ok(never) => match never {},
                Err((was_open, lost)) => {
                    eprintln!("link: {server}: {lost}");
                    if matches!(lost, Lost::Ended(Ended::Renewed)) {
                        continue;
                    }
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

    fn tls(&self) -> Result<rustls::ClientConfig, Lost> {
        let now = UnixTime::since_unix_epoch(Duration::from_millis(self.now().try_into().unwrap_or(0)));
        node_config(&self.identity, now).map_err(|e| Lost::Dial(DialError::Tls(e)))
    }

    /// One session, or several when a better connection is found meanwhile; the flag says whether the last
    /// one was ever open.
    async fn session(&self, server: &str) -> Result<Infallible, (bool, Lost)> {
        let tls = self.tls().map_err(|lost| (false, lost))?;
        let mut dialled = connect(server, tls).await.map_err(|e| (false, Lost::Dial(e)))?;
        let mut before = None;
        loop {
            let mut session = AgentSession::new(self.hello());
            let lost = match self.serve(&dialled, &mut before, &mut session, server).await {
                Ok(never) => match never {},
                Err(lost) => lost,
            };
            match lost {
                // The old one stands until the server has welcomed us on the new one.
                Lost::Better(better) => before = Some(std::mem::replace(&mut dialled, better)),
                lost => {
                    dialled.close("").await;
                    return Err((session.is_welcomed(), lost));
                }
            }
        }
    }

    /// Tries QUIC again and again while TCP carries the session.
    async fn better(&self, server: &str) -> Dialled {
        let mut wait = FIRST_RETURN;
        loop {
            smol::Timer::after(wait).await;
            if let Ok(tls) = self.tls()
                && let Ok(dialled) = connect_quic(server, tls).await
            {
                return dialled;
            }
            wait = (wait * 2).min(LONGEST_RETURN);
        }
    }

    fn hello(&self) -> Hello {
        let member = self.identity.membership();
        Hello {
            protocols: self.protocols,
            features: Features::LOGS.and(Features::EXEC).and(Features::RENEW),
            cluster: member.cluster,
            node: member.node,
            store: self.identity.store(),
            heads: self.desired.heads(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    async fn serve(
        &self,
        dialled: &Dialled,
        before: &mut Option<Dialled>,
        session: &mut AgentSession,
        server: &str,
    ) -> Result<Infallible, Lost> {
        let connection = &dialled.connection;
        let over = connection.carrier();
        let (send, recv) = connection.open().await.map_err(Lost::Connection)?;
        let mut pipe = Pipe::new(send, recv, MAX_FRAME);
        pipe.send.set_priority(CONTROL_PRIORITY);
        let mut better = pin!(async {
            match over {
                Carrier::Quic => pending().await,
                Carrier::Tcp => self.better(server).await,
            }
        });
        self.reporter.restart();
        let mut told_answering = true;
        loop {
            let changed = self.reporter.listen();
            // An acknowledgement makes room for the next report, so both until nothing is left.
            loop {
                self.drain(session, &mut pipe, (server, over)).await?;
                if !self.tell(session, &mut told_answering) {
                    break;
                }
            }
            if session.is_welcomed()
                && let Some(old) = before.take()
            {
                old.close("the session moved").await;
            }
            let better = async { Ok(Turn::Better(better.as_mut().await)) };
            let due = async {
                if !session.may_renew() {
                    pending::<()>().await;
                }
                smol::Timer::after(self.until_renewal()).await;
                Ok(Turn::Renewal)
            };
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
                let (send, recv) = connection.accept().await.map_err(Lost::Connection)?;
                Ok(Turn::Stream(send, recv))
            };
            match or(or(frame, due), or(changed, or(stream, better))).await? {
                Turn::Better(dialled) => return Err(Lost::Better(dialled)),
                Turn::Frame(bytes) => {
                    let message = decode_evolving::<ToAgent>(&bytes).map_err(|e| Lost::Stream(PipeError::Codec(e)))?;
                    session.handle(message).map_err(Lost::Ended)?;
                }
                Turn::Changed => {}
                Turn::Renewal => session.renew(self.identity.request().map_err(Lost::Identity)?),
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
    async fn drain(
        &self,
        session: &mut AgentSession,
        pipe: &mut Pipe,
        (server, over): (&str, Carrier),
    ) -> Result<(), Lost> {
        while let Some(output) = session.poll_output() {
            match output {
                AgentOutput::Send(message) => pipe.queue(&message),
                AgentOutput::Welcomed(welcome) => {
                    self.clock().told(welcome.now, self.started.elapsed());
                    let identity = self.identity.clone();
                    let write = move || identity.adopt(welcome.store).and_then(|()| identity.keep_floor(welcome.now));
                    smol::unblock(write).await.map_err(Lost::Identity)?;
                    self.set_state(LinkState::Connected { server: server.to_owned(), over });
                    let by = if over == Carrier::Quic { "QUIC" } else { "TCP" };
                    eprintln!("link: connected to {server} over {by}");
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
                AgentOutput::RenewFirst => session.renew(self.identity.request().map_err(Lost::Identity)?),
                AgentOutput::Renewed(renewed) => self.take_certificate(session, renewed).await?,
            }
        }
        Ok(())
    }
}

impl Link {
    /// Writes a new certificate down; connections made from now on show it.
    async fn take_certificate(&self, session: &mut AgentSession, renewed: Renewed) -> Result<(), Lost> {
        let life = validity(&renewed.certificate);
        let identity = self.identity.clone();
        let write = move || identity.renew(renewed.certificate, renewed.cas);
        smol::unblock(write).await.map_err(Lost::Identity)?;
        if let Some(life) = life {
            self.clock().at_least(life.not_before, self.started.elapsed());
        }
        eprintln!("link: this node has a new certificate");
        session.renewed().map_err(Lost::Ended)
    }
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    // Without randomness all nodes dial at the same moment: worse, not wrong.
    let _ = SystemRandom::new().fill(&mut bytes);
    u32::from_le_bytes(bytes)
}
