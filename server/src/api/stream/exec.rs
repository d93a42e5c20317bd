//! `pods/exec` over WebSocket: the protocols v5.channel.k8s.io and v4.channel.k8s.io.
//!
//! Binary messages start with a channel: 0 in, 1 out, 2 err, 3 how it ended (a Status), 4 resize;
//! in v5 `[255, n]` closes channel n.

use async_tungstenite::tungstenite::handshake::derive_accept_key;
use async_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use async_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use async_tungstenite::tungstenite::{Message, Utf8Bytes};
use async_tungstenite::{WebSocketReceiver, WebSocketSender, WebSocketStream};
use coracle_shared::api::status::Status;
use futures_lite::FutureExt as _;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    AsHeaderName, CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    UPGRADE,
};
use hyper::upgrade::Upgraded;
use hyper::{Request, StatusCode};
use serde_json::{Value, json};

use super::log::{container_of, node_of, refusal};
use super::upgraded::UpgradedIo;
use super::{ExecInput, ExecOutput, ExecRequest, ExecStream};
use crate::api::http::Client;
use crate::api::query::Query;
use crate::api::reply::{Payload, Reply};
use crate::api::route::Target;
use crate::api::{Api, list, object};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ENDED: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Go's clients call a close without a status an error (1005).
fn ended() -> CloseFrame {
    CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() }
}

/// The largest message of a client: kubectl sends 32 KiB at a time.
const MAX_MESSAGE: usize = 1 << 20;

/// What is buffered each way on a WebSocket.
const BUFFER: usize = 16 << 10;

/// Newest first.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

type Io = UpgradedIo<Upgraded>;

impl Api {
    /// Runs a command in a container and upgrades the connection to its streams.
    pub async fn exec(
        &self,
        target: &Target,
        query: &Query,
        client: &Client,
        request: &mut Request<Incoming>,
    ) -> Result<Reply, Status> {
        let pod = object::of_item(target.kind, &list::find(&*self.store, target)?);
        let exec = exec_request(&pod, query)?;
        // Before the handshake: a client that falls back to another protocol is told the same.
        let node = node_of(&pod)?;
        let (accept, protocol) = handshake(request.headers())?;
        let upgrade = hyper::upgrade::on(request);
        let (busy, nodes) = (client.work.begin(), self.nodes.clone());
        let session = async move {
            let _busy = busy;
            if let Ok(upgraded) = upgrade.await {
                // What goes wrong on the way to the node is told on the channel for it: a refused
                // upgrade would make clients try SPDY, and tell people of that instead.
                let opened = nodes.open_exec(&node, exec).await.map_err(refusal);
                serve(UpgradedIo::new(upgraded), opened).await;
            }
        };
        self.config.executor.spawn(session).detach();
        let mut reply = Reply::new(Payload::Whole(Bytes::new()));
        *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = reply.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept).map_err(Status::internal)?);
        Ok(reply)
    }
}

fn exec_request(pod: &Value, query: &Query) -> Result<ExecRequest, Status> {
    let command: Vec<String> = query.all("command").map(String::from).collect();
    if command.is_empty() {
        return Err(Status::bad_request("you must specify at least 1 command for the container"));
    }
    let flag = |name| query.flag(name);
    let request = ExecRequest {
        container: container_of(pod, query.get("container"), true)?,
        command,
        stdin: flag("stdin")?,
        stdout: flag("stdout")?,
        stderr: flag("stderr")?,
        tty: flag("tty")?,
    };
    if !request.stdin && !request.stdout && !request.stderr {
        return Err(Status::bad_request("you must specify at least one of stdin, stdout, stderr"));
    }
    Ok(request)
}

/// The accept key and protocol for a WebSocket, or what the client should do instead.
fn handshake(headers: &HeaderMap) -> Result<(String, &'static str), Status> {
    let words = |name: &str| all(headers, name).collect::<Vec<_>>();
    let asks = |wanted: &str| words(UPGRADE.as_str()).iter().any(|w| w.eq_ignore_ascii_case(wanted));
    if asks("SPDY/3.1") {
        return Err(Status::bad_request(
            "this server runs commands over WebSocket only, not SPDY: use kubectl 1.31 or later",
        ));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| asks("websocket"));
    let Some(key) = key else {
        return Err(Status::bad_request("Upgrade request required"));
    };
    let offered = words(SEC_WEBSOCKET_PROTOCOL.as_str());
    let chosen = PROTOCOLS.into_iter().find(|p| offered.contains(p));
    let none = || {
        Status::bad_request(format!(
            "none of the WebSocket protocols is known: this server has {}",
            PROTOCOLS.join(", ")
        ))
    };
    Ok((derive_accept_key(key.as_bytes()), chosen.ok_or_else(none)?))
}

/// The words of a header that may be a list, or be there several times.
fn all(headers: &HeaderMap, name: impl AsHeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(str::trim)
}

/// Carries both directions until the command ends or the client leaves.
async fn serve(io: Io, opened: Result<ExecStream, Status>) {
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let (mut sender, mut receiver) = socket.split();
    let stream = match opened {
        Ok(stream) => stream,
        Err(status) => {
            // Whether the client still hears it is its own affair.
            let _ = message(&mut sender, ENDED, &status.to_value().to_string().into_bytes()).await;
            let _ = sender.close(Some(ended())).await;
            return;
        }
    };
    let output = async {
        while let Ok(output) = stream.output.recv().await {
            let last = matches!(output, ExecOutput::Exit(_) | ExecOutput::Failed(_));
            if send(&mut sender, output).await.is_err() || last {
                break;
            }
        }
    };
    // A client that closed its input still waits for the output; one that left does not.
    let input = async {
        while let Some(input) = next(&mut receiver).await {
            if stream.input.send(input).await.is_err() {
                break;
            }
        }
    };
    output.or(async { receive_until_gone(input, &stream).await }).await;
    // The other side may be gone already.
    let _ = sender.close(Some(ended())).await;
}

/// After the input is over only the output can end the session, unless the client is gone.
async fn receive_until_gone(input: impl Future<Output = ()>, stream: &ExecStream) {
    input.await;
    stream.input.close();
}

async fn send(sender: &mut WebSocketSender<Io>, output: ExecOutput) -> Result<(), ()> {
    let (channel, bytes) = match output {
        ExecOutput::Stdout(bytes) => (STDOUT, bytes),
        ExecOutput::Stderr(bytes) => (STDERR, bytes),
        ExecOutput::Exit(code) => (ENDED, exit_status(code).to_string().into_bytes()),
        ExecOutput::Failed(why) => (ENDED, Status::internal(why).to_value().to_string().into_bytes()),
    };
    message(sender, channel, &bytes).await
}

async fn message(sender: &mut WebSocketSender<Io>, channel: u8, bytes: &[u8]) -> Result<(), ()> {
    let message = [&[channel], bytes].concat();
    sender.send(Message::binary(message)).await.map_err(|_| ())
}

/// How a command ended, as clients read it.
fn exit_status(code: i32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}})
}

/// The client's next input. `None`: it left.
async fn next(receiver: &mut WebSocketReceiver<Io>) -> Option<ExecInput> {
    loop {
        match futures_lite::StreamExt::next(receiver).await?.ok()? {
            Message::Binary(bytes) => {
                if let Some(input) = input(&bytes) {
                    return Some(input);
                }
            }
            Message::Close(_) => return None,
            _ => {}
        }
    }
}

fn input(message: &[u8]) -> Option<ExecInput> {
    match message {
        [STDIN, rest @ ..] => Some(ExecInput::Stdin(rest.to_vec())),
        [CLOSE, STDIN] => Some(ExecInput::CloseStdin),
        [RESIZE, rest @ ..] => {
            let size: Value = serde_json::from_slice(rest).ok()?;
            let side = |name: &str| size.get(name).and_then(Value::as_u64).and_then(|s| u16::try_from(s).ok());
            Some(ExecInput::Resize { width: side("Width")?, height: side("Height")? })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (hyper::header::HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn the_newest_common_protocol_is_chosen() {
        let websocket = [("upgrade", "websocket"), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")];
        let with = |protocols: &'static str| {
            let mut headers = headers(&websocket);
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocols));
            handshake(&headers)
        };
        let (accept, protocol) = with("v4.channel.k8s.io, v5.channel.k8s.io").expect("accepted");
        assert_eq!((accept.as_str(), protocol), ("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "v5.channel.k8s.io"));
        assert_eq!(with("v4.channel.k8s.io").expect("accepted").1, "v4.channel.k8s.io");
        assert_eq!(with("channel.k8s.io").expect_err("unknown").code, 400);
    }

    #[test]
    fn spdy_and_plain_requests_are_told_what_to_do() {
        let spdy = handshake(&headers(&[("upgrade", "SPDY/3.1")])).expect_err("refused");
        assert!(spdy.message.contains("kubectl 1.31"), "{spdy}");
        assert!(handshake(&HeaderMap::new()).expect_err("refused").message.contains("Upgrade"));
    }

    #[test]
    fn messages_are_channels() {
        assert_eq!(input(&[0, b'a']), Some(ExecInput::Stdin(b"a".to_vec())));
        assert_eq!(input(&[255, 0]), Some(ExecInput::CloseStdin));
        let size = [&[4][..], br#"{"Width":80,"Height":24}"#].concat();
        assert_eq!(input(&size), Some(ExecInput::Resize { width: 80, height: 24 }));
        for nonsense in [&[][..], &[9, 1], &[4, b'{'], &[255], &[255, 1]] {
            assert_eq!(input(nonsense), None);
        }
    }

    #[test]
    fn an_exit_code_is_a_cause() {
        assert_eq!(exit_status(0)["status"], "Success");
        assert_eq!(exit_status(5)["details"]["causes"][0], json!({"reason": "ExitCode", "message": "5"}));
    }
}
