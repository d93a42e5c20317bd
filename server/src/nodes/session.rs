//! One node's session: I/O around the pure state machine.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use coracle_shared::codec::{MAX_FRAME, decode_evolving};
use coracle_shared::session::{Ended, Millis, ServerIdentity, ServerOutput, ServerSession, Standing};
use coracle_shared::wire::{Features, Refuse, RefuseCode, Rejection, Renewed, Report, ToAgent, ToServer};
use coracle_store::Commit;
use coracle_transport::{Carrier, Connection, IDLE_TIMEOUT, Pipe, PipeError, Turn};
use futures_lite::future::{or, pending};

use super::commit::{self, Reporter};
use super::desired::Subscription;
use super::endpoint::Shared;
use super::{join, log, revoke};
use crate::pki::{Peer, request_key};
use coracle_shared::desired::SetKind;

/// The session goes out before any log or exec stream.
const CONTROL_PRIORITY: i32 = 10;
/// Closing code for a session whose node has opened a newer one.
const REPLACED: u32 = 1;
/// Closing code for a node whose key was revoked.
const REVOKED: u32 = 2;
/// Messages are made while fewer bytes than this wait to be written.
const MAX_QUEUED: usize = 256 << 10;

/// Why a session ended.
#[derive(Debug)]
pub enum Lost {
    Connection(coracle_transport::Lost),
    Stream(PipeError),
    Ended(Ended),
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Lost::Connection(error) => error.fmt(f),
            Lost::Stream(error) => error.fmt(f),
            Lost::Ended(error) => error.fmt(f),
        }
    }
}

enum Next {
    Pipe(Turn),
    Changed,
    Written(Option<u64>),
}

type Writing = Pin<Box<dyn Future<Output = Option<u64>> + Send>>;

/// A session and what belongs to it.
struct Session<'a> {
    shared: &'a Arc<Shared>,
    node: &'a str,
    peer: &'a Peer,
    connection: &'a Connection,
    core: ServerSession,
    pipe: Pipe,
    subscription: Option<Subscription>,
    /// Its number in the registry, once it has begun.
    number: Option<u64>,
    answering: bool,
    /// A report on its way into the store; nothing more is read meanwhile.
    writing: Option<Writing>,
}

/// Serves a node's connection to its end.
pub async fn serve(shared: &Arc<Shared>, connection: &Connection, peer: &Peer) -> Lost {
    let Some(node) = peer.node() else {
        return Lost::Ended(Ended::Violation("the certificate is not a node's"));
    };
    let opened = async { connection.accept().await.map_err(Lost::Connection) };
    let timeout = async {
        smol::Timer::after(Duration::from_millis(coracle_shared::session::HELLO_TIMEOUT)).await;
        Err(Lost::Ended(Ended::Silent))
    };
    let (send, recv) = match or(opened, timeout).await {
        Ok(streams) => streams,
        Err(lost) => return lost,
    };
    let mut pipe = Pipe::new(send, recv, MAX_FRAME);
    if let Err(refuse) = admit(shared, node, peer).await {
        pipe.queue(&ToAgent::Refuse(refuse.clone()));
        say_and_end(&mut pipe).await;
        return Lost::Ended(Ended::Foreign(refuse));
    }
    let identity = ServerIdentity {
        cluster: shared.pki.cluster(),
        store: coracle_shared::ids::StoreUuid(shared.store.id().uuid),
        protocols: shared.protocols,
        features: Features::LOGS.and(Features::EXEC).and(Features::RENEW),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let standing = if peer.not_after <= shared.wall_millis() { Standing::Expired } else { Standing::Valid };
    let core = ServerSession::new(identity, node.to_owned(), standing, now(shared));
    let mut session = Session {
        shared,
        node,
        peer,
        connection,
        core,
        pipe,
        subscription: None,
        number: None,
        answering: true,
        writing: None,
    };
    let lost = session.run().await;
    if let Some(number) = session.number {
        shared.registry.lost(node, number, silence(connection));
    }
    lost
}

/// How long nothing had come by the time a connection was found lost.
fn silence(connection: &Connection) -> Duration {
    match connection.lost() {
        Some(lost) if lost.was_silent() => IDLE_TIMEOUT,
        _ => Duration::ZERO,
    }
}

/// Ends the session of a node whose key was revoked.
pub fn close_revoked(connection: &Connection) {
    connection.close(REVOKED, "this node's key was revoked");
}

/// A node's name belongs to one key, and that must not be revoked.
async fn admit(shared: &Shared, node: &str, peer: &Peer) -> Result<(), Refuse> {
    if let Some(refused) = revoke::check(&*shared.store, peer.key, node) {
        return Err(refused);
    }
    let mut commit = Commit::new();
    if join::bind(&mut commit, node, peer.key, &*shared.store).map_err(|bound| bound.refuse)? {
        return Ok(());
    }
    // Fails when somebody else bound it meanwhile: the agent dials again and is told.
    shared.store.commit(commit).await.map(|_| ()).map_err(|error| {
        let code = RefuseCode::Unavailable;
        Refuse { code, message: format!("the store could not write: {error:?}") }
    })
}

/// Writes a last word, and gives the peer a moment to read it before the connection closes.
async fn say_and_end(pipe: &mut Pipe) {
    let said = async {
        if pipe.flush().await.is_ok() {
            pipe.send.finish();
            pipe.send.stopped().await;
        }
    };
    let enough = async {
        let _ = smol::Timer::after(Duration::from_secs(2)).await;
    };
    or(said, enough).await;
}

fn now(shared: &Shared) -> Millis {
    Millis((shared.clock)().as_millis() as u64)
}

impl Session<'_> {
    async fn run(&mut self) -> Lost {
        self.pipe.send.set_priority(CONTROL_PRIORITY);
        loop {
            // Before looking, so that a change in between is not missed.
            let changed = self.subscription.as_ref().map(Subscription::listen);
            if let Err(ended) = self.core.handle_timeout(now(self.shared)) {
                return Lost::Ended(ended);
            }
            self.fill();
            let step = self.step(changed).await;
            let outcome = match step {
                Err(error) => Err(Lost::Stream(error)),
                Ok(Next::Pipe(Turn::Frame(bytes))) => self.take(&bytes),
                Ok(Next::Pipe(Turn::Drained) | Next::Changed) => Ok(()),
                Ok(Next::Written(sequence)) => {
                    self.writing = None;
                    if let Some(sequence) = sequence {
                        self.core.reported(sequence);
                    }
                    Ok(())
                }
            };
            if let Err(lost) = outcome {
                // A refusal is still to be said.
                self.fill();
                say_and_end(&mut self.pipe).await;
                return lost;
            }
        }
    }

    /// Makes messages while there is room for them.
    fn fill(&mut self) {
        while self.pipe.queued() < MAX_QUEUED {
            let now = now(self.shared);
            let message = match &self.subscription {
                Some(subscription) => subscription.with(|sets| self.core.poll_transmit(sets, now)),
                None => self.core.poll_transmit([None, None], now),
            };
            match message {
                Some(message) => self.pipe.queue(&message),
                None => break,
            }
        }
        if let (Some(subscription), Some(head)) = (&self.subscription, self.core.held(SetKind::Shared)) {
            subscription.shared_held(head.generation);
        }
    }

    /// Waits for whatever comes first.
    async fn step(
        &mut self,
        changed: Option<(event_listener::EventListener, event_listener::EventListener)>,
    ) -> Result<Next, PipeError> {
        let wait = self.core.poll_timeout().map(|at| at.0.saturating_sub(now(self.shared).0));
        let timeout = async {
            match wait {
                Some(millis) => {
                    let _ = smol::Timer::after(Duration::from_millis(millis)).await;
                }
                None => pending().await,
            }
            Ok(Next::Changed)
        };
        let changed = async {
            match changed {
                Some((own, shared)) => or(own, shared).await,
                None => pending().await,
            }
            Ok(Next::Changed)
        };
        let reading = self.writing.is_none();
        let writing = async {
            match &mut self.writing {
                Some(writing) => Ok(Next::Written(writing.await)),
                None => pending().await,
            }
        };
        let moved = async { self.pipe.turn(reading).await.map(Next::Pipe) };
        or(writing, or(moved, or(changed, timeout))).await
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Lost> {
        let message = decode_evolving::<ToServer>(bytes).map_err(|e| Lost::Stream(PipeError::Codec(e)))?;
        let outcome = self.core.handle(message, now(self.shared), self.shared.wall_millis());
        while let Some(output) = self.core.poll_output() {
            match output {
                ServerOutput::Started(hello) => {
                    self.subscription = Some(self.shared.desired.subscribe(self.node));
                    let (number, old) = self.shared.registry.connected(self.node, self.connection.clone());
                    self.number = Some(number);
                    if let Some(old) = old {
                        old.close(REPLACED, "the node has a newer session");
                    }
                    // A revocation that came before this line saw no session to end.
                    if let Some(refused) = revoke::check(&*self.shared.store, self.peer.key, self.node) {
                        return Err(Lost::Ended(Ended::Foreign(refused)));
                    }
                    let over = match self.connection.carrier() {
                        Carrier::Quic => "QUIC",
                        Carrier::Tcp => "TCP",
                    };
                    log(&format!("node {} connected over {over}, agent {}", self.node, hello.agent_version));
                }
                ServerOutput::Synced { .. } => {}
                ServerOutput::Rejected { set, why } => {
                    let why = match why {
                        Rejection::Older { held } => format!("it holds the newer generation {:?}", held.generation),
                        Rejection::Digest => "what it holds has another digest; it gets everything anew".to_owned(),
                        Rejection::Storage(reason) => format!("its ledger can not be written: {reason}"),
                    };
                    log(&format!("node {} did not take its {set:?} set: {why}", self.node));
                }
                ServerOutput::Report(report) => {
                    let sequence = report.sequence;
                    self.write(Some(sequence), *report);
                }
                ServerOutput::Renew { csr } => self.renew(&csr)?,
                ServerOutput::Liveness(answering) => {
                    self.answering = answering;
                    if let Some(number) = self.number {
                        self.shared.registry.liveness(self.node, number, answering);
                    }
                    self.write(None, Report::default());
                }
            }
        }
        outcome.map_err(Lost::Ended)
    }

    /// Signs a new certificate for the key that this connection proved to have, and for no other.
    fn renew(&mut self, csr: &[u8]) -> Result<(), Lost> {
        if request_key(csr).ok() != Some(self.peer.key) {
            return Err(Lost::Ended(Ended::Violation("a renewal for another key")));
        }
        let pki = &self.shared.pki;
        match pki.sign_node_csr(csr, self.node, (self.shared.wall)()) {
            Ok(signed) => {
                let cas = vec![pki.ca().to_vec()];
                self.core.renewed(Renewed { certificate: signed.certificate, cas });
                log(&format!("node {} got a new certificate", self.node));
                Ok(())
            }
            Err(error) => {
                log(&format!("renewing the certificate of node {}: {error}", self.node));
                Err(Lost::Ended(Ended::Violation("a certificate request that can not be signed")))
            }
        }
    }

    fn write(&mut self, sequence: Option<u64>, report: Report) {
        let who = Reporter {
            node: self.node.to_owned(),
            answering: self.answering,
            pod_network: self.shared.network.cluster_cidr,
        };
        let store = self.shared.store.clone();
        self.writing = Some(Box::pin(async move {
            commit::report(store, who, report).await;
            sequence
        }));
    }
}
