//! Logs and exec: streams from here to a node's agent.

use std::time::Duration;

use async_channel::{Receiver, Sender};
use coracle_shared::codec::{self, CodecError, LENGTH_BYTES, decode_evolving, frame, frame_length};
use coracle_shared::wire::{ExecIn, ExecOpen, ExecOut, LogsOpen, MAX_EXEC_CHUNK, Open, Opened, Target};
use coracle_transport::{Pipe, RecvStream, SendStream, Turn};
use futures_lite::future::or;

use super::Nodes;
use crate::api::stream::{
    BoxFuture, ContainerRef, ExecInput, ExecOutput, ExecRequest, ExecStream, LogReader, LogRequest, NodeStreams,
    RevokeError, Revoked, StreamError,
};

/// An agent that has not answered by then is as good as away.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// A frame of the agent: a piece of output with its envelope, or a text.
const MAX_STREAM_FRAME: usize = MAX_EXEC_CHUNK + 1024;
/// Pieces of exec that may wait on either side: a slow client holds up the command, not memory.
const PIECES: usize = 4;
/// Exec is typed by somebody who waits; logs are not.
const EXEC_PRIORITY: i32 = 5;

impl NodeStreams for Nodes {
    fn open_logs<'a>(&'a self, node: &'a str, request: LogRequest) -> BoxFuture<'a, Result<LogReader, StreamError>> {
        Box::pin(async move {
            let open = Open::Logs(LogsOpen {
                target: target(request.container),
                follow: request.follow,
                previous: request.previous,
                tail_lines: request.tail_lines,
                since: request.since,
                timestamps: request.timestamps,
                limit_bytes: request.limit_bytes,
            });
            let (send, recv) = self.ask(node, &open).await?;
            // The agent reads nothing more; its own side ends when the reader is dropped.
            drop(send);
            Ok(Box::pin(recv) as LogReader)
        })
    }

    fn open_exec<'a>(&'a self, node: &'a str, request: ExecRequest) -> BoxFuture<'a, Result<ExecStream, StreamError>> {
        Box::pin(async move {
            let open = Open::Exec(ExecOpen {
                target: target(request.container),
                command: request.command,
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                tty: request.tty,
            });
            let (send, recv) = self.ask(node, &open).await?;
            send.set_priority(EXEC_PRIORITY);
            let (input, from_client) = async_channel::bounded(PIECES);
            let (to_client, output) = async_channel::bounded(PIECES);
            smol::spawn(exec(send, recv, from_client, to_client)).detach();
            Ok(ExecStream { input, output })
        })
    }

    fn revoke<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<Revoked, RevokeError>> {
        Box::pin(self.revoke_node(node))
    }
}

fn target(container: ContainerRef) -> Target {
    Target { namespace: container.namespace, pod: container.pod, uid: container.uid, container: container.container }
}

impl Nodes {
    /// Opens a stream, asks, and waits for the agent's word.
    async fn ask(&self, node: &str, open: &Open) -> Result<(SendStream, RecvStream), StreamError> {
        let away = || StreamError::NodeAway { node: node.to_owned() };
        let connection = self.shared.registry.connection(node).ok_or_else(away)?;
        let asked = async {
            let lost = |error: &dyn std::fmt::Display| StreamError::Lost(error.to_string());
            let (mut send, mut recv) = connection.open().await.map_err(|e| lost(&e))?;
            send.write_all(&frame(open)).await.map_err(|e| lost(&e))?;
            match answer(&mut recv).await? {
                Opened::Ok => Ok((send, recv)),
                Opened::NotFound(text) => Err(StreamError::NotFound(text)),
                Opened::Refused(text) => Err(StreamError::Refused(text)),
                Opened::Unknown(_) => Err(StreamError::Refused("the agent is newer than this server".into())),
            }
        };
        let timeout = async {
            smol::Timer::after(OPEN_TIMEOUT).await;
            Err(StreamError::Lost(format!("the agent of node {node} did not answer")))
        };
        or(asked, timeout).await
    }
}

/// Reads exactly one frame: what follows belongs to somebody else.
async fn answer(recv: &mut RecvStream) -> Result<Opened, StreamError> {
    let lost = |error: &dyn std::fmt::Display| StreamError::Lost(error.to_string());
    let mut head = [0; LENGTH_BYTES];
    recv.read_exact(&mut head).await.map_err(|e| lost(&e))?;
    let length = frame_length(head, MAX_STREAM_FRAME).map_err(|e| lost(&e))?;
    let mut bytes = vec![0; length];
    recv.read_exact(&mut bytes).await.map_err(|e| lost(&e))?;
    codec::decode_evolving(&bytes).map_err(|e: CodecError| lost(&e))
}

/// Carries both directions until the command ends or the client goes.
async fn exec(send: SendStream, recv: RecvStream, input: Receiver<ExecInput>, output: Sender<ExecOutput>) {
    let mut pipe = Pipe::new(send, recv, MAX_STREAM_FRAME);
    let mut input = Some(input);
    loop {
        match step(&mut pipe, input.as_ref(), &output).await {
            Step::Output(out) => {
                let is_last = matches!(out, ExecOutput::Exit(_) | ExecOutput::Failed(_));
                if output.send(out).await.is_err() || is_last {
                    return;
                }
            }
            Step::Input(Some(message)) => queue(&mut pipe, message),
            // No more input; output still counts.
            Step::Input(None) => input = None,
            Step::Nothing => {}
            // Dropping the stream ends the command.
            Step::ClientGone => return,
            Step::Lost(reason) => {
                let _ = output.send(ExecOutput::Failed(reason)).await;
                return;
            }
        }
    }
}

enum Step {
    Output(ExecOutput),
    Input(Option<ExecInput>),
    Nothing,
    ClientGone,
    Lost(String),
}

async fn step(pipe: &mut Pipe, input: Option<&Receiver<ExecInput>>, output: &Sender<ExecOutput>) -> Step {
    let has_room = pipe.queued() == 0;
    let from_client = async {
        match input {
            Some(input) if has_room => Step::Input(input.recv().await.ok()),
            _ => futures_lite::future::pending().await,
        }
    };
    let from_node = async {
        match pipe.turn(true).await {
            Err(error) => Step::Lost(format!("the connection to the node broke: {error}")),
            Ok(Turn::Drained) => Step::Nothing,
            Ok(Turn::Frame(bytes)) => match decode_evolving::<ExecOut>(&bytes) {
                Err(error) => Step::Lost(error.to_string()),
                Ok(ExecOut::Stdout(bytes)) => Step::Output(ExecOutput::Stdout(bytes)),
                Ok(ExecOut::Stderr(bytes)) => Step::Output(ExecOutput::Stderr(bytes)),
                Ok(ExecOut::Exit(code)) => Step::Output(ExecOutput::Exit(code)),
                Ok(ExecOut::Failed(reason)) => Step::Output(ExecOutput::Failed(reason)),
                Ok(ExecOut::Unknown(_)) => Step::Nothing,
            },
        }
    };
    let gone = async {
        output.closed().await;
        Step::ClientGone
    };
    or(gone, or(from_node, from_client)).await
}

fn queue(pipe: &mut Pipe, message: ExecInput) {
    match message {
        ExecInput::Stdin(bytes) => {
            bytes.chunks(MAX_EXEC_CHUNK).for_each(|part| pipe.queue(&ExecIn::Stdin(part.to_vec())));
        }
        ExecInput::CloseStdin => pipe.queue(&ExecIn::CloseStdin),
        ExecInput::Resize { width, height } => pipe.queue(&ExecIn::Resize { width, height }),
    }
}
