//! Logs and commands of the node's containers, for the link.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use async_channel::{Receiver, Sender};
use coracle_shared::ids::PodUid;
use coracle_shared::report::{ContainerState, PodReport};
use coracle_shared::wire::{ExecIn, ExecOpen, ExecOut, LogsOpen, MAX_EXEC_CHUNK, Target};
use futures_lite::{AsyncRead, AsyncReadExt, AsyncWriteExt, future};

use super::{Node, logged_runs};
use crate::link::{BoxFuture, ExecStream, LogReader, OpenError, Streams};
use crate::reconcile::driver::Board;
use crate::runtime::{self, ContainerId, Exec, ExecSpec, LogQuery};

/// Pieces of an exec stream under way in each direction.
const EXEC_PIECES: usize = 4;

/// Opens logs and commands once the node is there.
#[derive(Clone)]
pub struct NodeStreams {
    pub node: Arc<OnceLock<Arc<Node>>>,
    pub board: Board,
}

impl NodeStreams {
    fn node(&self) -> Result<&Arc<Node>, OpenError> {
        self.node.get().ok_or_else(|| OpenError::Refused("the node is starting".into()))
    }

    fn pod(&self, target: &Target) -> Result<PodReport, OpenError> {
        let board = self.board.read();
        let fits = |r: &&PodReport| {
            r.namespace == target.namespace && r.name == target.pod && (target.uid.is_empty() || r.uid.0 == target.uid)
        };
        // Of two pods of one name the one that is not gone.
        let found = board.values().filter(fits).min_by_key(|r| r.gone).cloned();
        found.ok_or_else(|| OpenError::NotFound(format!("pod {:?} is not on this node", target.pod)))
    }

    fn logs(&self, request: LogsOpen) -> Result<LogReader, OpenError> {
        let node = self.node()?;
        let report = self.pod(&request.target)?;
        let name = &request.target.container;
        let known = report.init_containers.iter().chain(&report.containers).find(|c| c.name == *name);
        let Some(container) = known else {
            let message = format!("container {name} is not valid for pod {}", request.target.pod);
            return Err(OpenError::NotFound(message));
        };
        let dir = node.log_dir(&report.uid, name);
        let mut runs = logged_runs(&dir);
        let Some(current) = runs.pop() else {
            let why = match &container.state {
                ContainerState::Waiting { reason, .. } => format!("is waiting to start: {reason}"),
                _ => "has no log".into(),
            };
            let pod = &request.target.pod;
            return Err(OpenError::Refused(format!("container \"{name}\" in pod \"{pod}\" {why}")));
        };
        let run = if request.previous {
            let none =
                || format!("previous terminated container \"{name}\" in pod \"{}\" not found", request.target.pod);
            runs.pop().ok_or_else(|| OpenError::NotFound(none()))?
        } else {
            current
        };
        let query = LogQuery {
            follow: request.follow && !request.previous,
            tail: request.tail_lines,
            since: request.since,
            timestamps: request.timestamps,
            limit_bytes: request.limit_bytes,
        };
        let ended = node.ended(&report.uid, name, run);
        let reader = runtime::LogReader::new(&dir.join(format!("{run}.log")), query, ended);
        Ok(Box::pin(LogText { state: Reading::Idle(Box::new(reader)), chunk: Vec::new(), at: 0 }))
    }

    async fn exec(&self, request: ExecOpen) -> Result<ExecStream, OpenError> {
        let node = Arc::clone(self.node()?);
        if request.tty {
            return Err(OpenError::Refused("a terminal is not supported by this release; run it without -t".into()));
        }
        let report = self.pod(&request.target)?;
        let name = &request.target.container;
        let Some(container) = report.init_containers.iter().chain(&report.containers).find(|c| c.name == *name) else {
            let message = format!("container {name} is not valid for pod {}", request.target.pod);
            return Err(OpenError::NotFound(message));
        };
        if !matches!(container.state, ContainerState::Running { .. }) {
            return Err(OpenError::Refused(format!("container {name} is not running")));
        }
        let Some(sandbox) = node.sandbox(&report.uid) else {
            return Err(OpenError::Refused("the pod has no sandbox".into()));
        };
        let id = ContainerId { name: name.clone(), attempt: container.restart_count };
        let spec = ExecSpec { container: id, argv: request.command, env: None, stdin: request.stdin };
        let exec = sandbox.exec(&spec).await.map_err(|e| OpenError::Refused(e.to_string()))?;
        let (input, from_client) = async_channel::bounded(EXEC_PIECES);
        let (to_client, output) = async_channel::bounded(EXEC_PIECES);
        node.executor.spawn(bridge(exec, from_client, to_client)).detach();
        Ok(ExecStream { input, output })
    }
}

impl Streams for NodeStreams {
    fn open_logs(&self, request: LogsOpen) -> BoxFuture<'_, Result<LogReader, OpenError>> {
        Box::pin(async move { self.logs(request) })
    }

    fn open_exec(&self, request: ExecOpen) -> BoxFuture<'_, Result<ExecStream, OpenError>> {
        Box::pin(self.exec(request))
    }
}

impl Node {
    /// Closes when that run of the container ends; closed already if it has.
    fn ended(&self, uid: &PodUid, container: &str, attempt: u32) -> Receiver<()> {
        let held = self.pods().get(uid).and_then(|live| live.runs.get(&(container.to_owned(), attempt)).cloned());
        // A channel without a sender is closed.
        held.map_or_else(|| async_channel::bounded(1).1, |run| run.1)
    }
}

/// A log as bytes, a chunk at a time.
struct LogText {
    state: Reading,
    chunk: Vec<u8>,
    at: usize,
}

type NextChunk = Pin<Box<dyn Future<Output = (Box<runtime::LogReader>, Option<io::Result<Vec<u8>>>)> + Send>>;

enum Reading {
    Idle(Box<runtime::LogReader>),
    Waiting(NextChunk),
    End,
}

impl AsyncRead for LogText {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let left = &self.chunk[self.at..];
            if !left.is_empty() {
                let n = left.len().min(out.len());
                out[..n].copy_from_slice(&left[..n]);
                self.at += n;
                return Poll::Ready(Ok(n));
            }
            match std::mem::replace(&mut self.state, Reading::End) {
                Reading::End => return Poll::Ready(Ok(0)),
                Reading::Idle(mut reader) => {
                    self.state = Reading::Waiting(Box::pin(async move {
                        let chunk = reader.next().await;
                        (reader, chunk)
                    }));
                }
                Reading::Waiting(mut next) => {
                    let Poll::Ready((reader, chunk)) = next.as_mut().poll(cx) else {
                        self.state = Reading::Waiting(next);
                        return Poll::Pending;
                    };
                    match chunk.transpose()? {
                        Some(chunk) => (self.chunk, self.at, self.state) = (chunk, 0, Reading::Idle(reader)),
                        None => return Poll::Ready(Ok(0)),
                    }
                }
            }
        }
    }
}

/// Moves bytes between a command and its client until the command has ended.
async fn bridge(mut exec: Exec, from_client: Receiver<ExecIn>, to_client: Sender<ExecOut>) {
    let stdin = exec.stdin.take();
    let input = async move {
        let Some(mut stdin) = stdin else { return };
        while let Ok(ExecIn::Stdin(bytes)) = from_client.recv().await {
            // A command that closed its input reads no more of it.
            if stdin.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    let output = async {
        let out = pump(&mut exec.stdout, &to_client, ExecOut::Stdout);
        let err = pump(&mut exec.stderr, &to_client, ExecOut::Stderr);
        future::zip(out, err).await;
    };
    // Input that never ends does not keep a command alive that has.
    future::or(output, async {
        input.await;
        future::pending().await
    })
    .await;
    let last = match exec.wait().await {
        Ok(status) => ExecOut::Exit(status.code),
        Err(e) => ExecOut::Failed(e.to_string()),
    };
    let _ = to_client.send(last).await;
}

async fn pump(from: &mut (impl AsyncRead + Unpin), to: &Sender<ExecOut>, make: fn(Vec<u8>) -> ExecOut) {
    let mut chunk = vec![0; MAX_EXEC_CHUNK];
    while let Ok(n @ 1..) = from.read(&mut chunk).await {
        if to.send(make(chunk[..n].to_vec())).await.is_err() {
            return;
        }
    }
}
