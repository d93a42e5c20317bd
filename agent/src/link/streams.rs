//! Streams that the server opens: logs and exec.

use std::sync::Arc;

use coracle_shared::codec::decode_evolving;
use coracle_shared::wire::{ExecIn, ExecOpen, ExecOut, LogsOpen, MAX_EXEC_CHUNK, Open, Opened};
use coracle_transport::{Pipe, PipeError, RecvStream, SendStream};
use futures_lite::future::or;
use futures_lite::io::AsyncReadExt;

use super::{ExecStream, LogReader, OpenError, Streams};

/// A command line of a megabyte is the kernel's bound; requests of a person are far below this.
const MAX_OPEN_FRAME: usize = 256 << 10;
/// Logs are copied in pieces of this size.
const LOG_CHUNK: usize = 16 << 10;
/// Exec output goes out before further logs do.
const EXEC_PRIORITY: i32 = 5;

/// Serves one stream to its end. What goes wrong ends the stream and nothing else.
pub async fn serve(send: SendStream, recv: RecvStream, streams: Arc<dyn Streams>) {
    let mut pipe = Pipe::new(send, recv, MAX_OPEN_FRAME);
    let Ok(bytes) = pipe.next_frame().await else { return };
    let outcome = match decode_evolving::<Open>(&bytes) {
        Ok(Open::Logs(request)) => logs(&mut pipe, request, &*streams).await,
        Ok(Open::Exec(request)) => exec(pipe, request, &*streams).await,
        Ok(Open::Unknown(_)) => refuse(&mut pipe, "the agent is older than this kind of request").await,
        Err(error) => refuse(&mut pipe, &format!("the request can not be read: {error}")).await,
    };
    // The server sees the reset; the link itself is not concerned.
    drop(outcome);
}

async fn refuse(pipe: &mut Pipe, reason: &str) -> Result<(), PipeError> {
    answer(pipe, Err(OpenError::Refused(reason.to_owned()))).await
}

async fn answer(pipe: &mut Pipe, opened: Result<(), OpenError>) -> Result<(), PipeError> {
    let is_open = opened.is_ok();
    pipe.queue(&match opened {
        Ok(()) => Opened::Ok,
        Err(OpenError::NotFound(text)) => Opened::NotFound(text),
        Err(OpenError::Refused(text)) => Opened::Refused(text),
    });
    pipe.flush().await?;
    if !is_open {
        pipe.send.finish();
    }
    Ok(())
}

async fn logs(pipe: &mut Pipe, request: LogsOpen, streams: &dyn Streams) -> Result<(), PipeError> {
    let reader = match streams.open_logs(request).await {
        Err(error) => return answer(pipe, Err(error)).await,
        Ok(reader) => reader,
    };
    answer(pipe, Ok(())).await?;
    copy(reader, &mut pipe.send).await
}

/// Copies until the log ends or the server loses interest, which a silent log would not show.
async fn copy(mut reader: LogReader, send: &mut SendStream) -> Result<(), PipeError> {
    let mut chunk = vec![0; LOG_CHUNK];
    loop {
        let stopped = send.stopped();
        let read = async { Some(reader.read(&mut chunk).await) };
        let gone = async {
            stopped.await;
            None
        };
        match or(read, gone).await {
            None | Some(Err(_)) => {
                send.reset();
                return Ok(());
            }
            Some(Ok(0)) => {
                send.finish();
                return Ok(());
            }
            Some(Ok(bytes)) => send.write_all(&chunk[..bytes]).await.map_err(PipeError::Stream)?,
        }
    }
}

async fn exec(mut pipe: Pipe, request: ExecOpen, streams: &dyn Streams) -> Result<(), PipeError> {
    let stream = match streams.open_exec(request).await {
        Err(error) => return answer(&mut pipe, Err(error)).await,
        Ok(stream) => stream,
    };
    answer(&mut pipe, Ok(())).await?;
    pipe.send.set_priority(EXEC_PRIORITY);
    let ExecStream { input, output } = stream;
    loop {
        let from_command = async { Turn::Output(output.recv().await.ok()) };
        let from_client = async { Turn::Input(pipe.next_frame().await) };
        match or(from_command, from_client).await {
            Turn::Output(None) => break,
            Turn::Output(Some(out)) => {
                let is_last = matches!(out, ExecOut::Exit(_) | ExecOut::Failed(_));
                split(out).iter().for_each(|part| pipe.queue(part));
                pipe.flush().await?;
                if is_last {
                    break;
                }
            }
            // A client that is gone ends the command: both channels are dropped.
            Turn::Input(bytes) => match decode_evolving::<ExecIn>(&bytes?).map_err(PipeError::Codec)? {
                ExecIn::Unknown(_) => {}
                // A command that reads nothing must not keep its output from flowing.
                message => forward(&input, message, &output, &mut pipe).await?,
            },
        }
    }
    pipe.send.finish();
    Ok(())
}

enum Turn {
    Output(Option<ExecOut>),
    Input(Result<Vec<u8>, PipeError>),
}

/// Hands input to the command; its output goes on flowing while it does not take it.
async fn forward(
    input: &async_channel::Sender<ExecIn>,
    message: ExecIn,
    output: &async_channel::Receiver<ExecOut>,
    pipe: &mut Pipe,
) -> Result<(), PipeError> {
    let mut send = std::pin::pin!(input.send(message));
    loop {
        let sent = async {
            // A command that closed its input takes no more; that is not the stream's end.
            let _ = send.as_mut().await;
            None
        };
        let out = async { output.recv().await.ok() };
        match or(sent, out).await {
            None => return Ok(()),
            Some(out) => {
                split(out).iter().for_each(|part| pipe.queue(part));
                pipe.flush().await?;
            }
        }
    }
}

/// Output in pieces that fit a frame.
fn split(out: ExecOut) -> Vec<ExecOut> {
    let parts = |bytes: Vec<u8>, make: fn(Vec<u8>) -> ExecOut| {
        bytes.chunks(MAX_EXEC_CHUNK).map(|part| make(part.to_vec())).collect()
    };
    match out {
        ExecOut::Stdout(bytes) if bytes.len() > MAX_EXEC_CHUNK => parts(bytes, ExecOut::Stdout),
        ExecOut::Stderr(bytes) if bytes.len() > MAX_EXEC_CHUNK => parts(bytes, ExecOut::Stderr),
        other => vec![other],
    }
}
