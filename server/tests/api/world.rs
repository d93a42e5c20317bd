//! A server in this process on a free port, over the in-memory store, and a client that sends
//! exactly the bytes it is given.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use coracle_server::api::http::{Offer, Times, serve};
use coracle_server::api::stream::{
    BoxFuture, ExecInput, ExecOutput, ExecRequest, ExecStream, LogReader, LogRequest, NodeStreams, RevokeError,
    Revoked, StreamError,
};
use coracle_server::api::{Api, Config, seed};
use coracle_server::pki::{Pki, random};
use coracle_server::tls;
use coracle_shared::desired::Cidr;
use coracle_store::{Memory, monotonic};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;
use smol::Executor;

pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// How long a test waits for bytes before it fails.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct World {
    pub address: SocketAddr,
    admin: Arc<ClientConfig>,
    nobody: Arc<ClientConfig>,
    /// Ends the server's thread when dropped.
    _stop: async_channel::Sender<()>,
    _state: tempfile::TempDir,
}

/// A node `n1` that echoes.
struct Echo;

impl NodeStreams for Echo {
    fn open_logs<'a>(&'a self, node: &'a str, request: LogRequest) -> BoxFuture<'a, Result<LogReader, StreamError>> {
        Box::pin(async move {
            if node != "n1" {
                return Err(StreamError::NodeAway { node: node.to_owned() });
            }
            let text = format!("log of {} tail {:?}\n", request.container.container, request.tail_lines);
            let reader: LogReader = Pin::from(Box::new(smol::io::Cursor::new(text.into_bytes())));
            Ok(reader)
        })
    }

    fn revoke<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<Revoked, RevokeError>> {
        Box::pin(async move { if node == "n1" { Ok(Revoked::Now) } else { Err(RevokeError::NoSuchNode) } })
    }

    fn open_exec<'a>(&'a self, node: &'a str, request: ExecRequest) -> BoxFuture<'a, Result<ExecStream, StreamError>> {
        Box::pin(async move {
            if node != "n1" {
                return Err(StreamError::NodeAway { node: node.to_owned() });
            }
            let (input, from_client) = async_channel::bounded(4);
            let (to_client, output) = async_channel::bounded(4);
            let echo = async move {
                let command = request.command.join(" ").into_bytes();
                to_client.send(ExecOutput::Stderr(command)).await?;
                while let Ok(ExecInput::Stdin(bytes)) = from_client.recv().await {
                    to_client.send(ExecOutput::Stdout(bytes)).await?;
                }
                to_client.send(ExecOutput::Exit(5)).await
            };
            smol::spawn(async { drop(echo.await) }).detach();
            Ok(ExecStream { input, output })
        })
    }
}

impl World {
    pub fn start() -> World {
        World::with_times(Times::default())
    }

    pub fn with_times(times: Times) -> World {
        let state = tempfile::tempdir().expect("a temporary directory");
        let pki = Arc::new(Pki::open(state.path(), &[], SystemTime::now()).expect("certificates"));
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let (ready, started) = std::sync::mpsc::channel();
        let server_pki = pki.clone();
        std::thread::spawn(move || {
            let executor = Arc::new(Executor::new());
            let config = Config {
                address: "127.0.0.1:6443".into(),
                service_cidr: Cidr { address: [10, 43, 0, 0].into(), prefix: 16 },
                clock: Arc::new(|| 0),
                random: Arc::new(|| random().expect("random numbers")),
                executor: executor.clone(),
            };
            let store = Arc::new(Memory::new([7; 16], monotonic()));
            let api = Arc::new(Api::new(store, Arc::new(Echo), config));
            smol::block_on(executor.clone().run(async {
                seed::seed(&api, 6443).await.expect("seeded");
                let tls = Arc::new(tls::api_config(&server_pki).expect("TLS"));
                let listener = async_net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
                ready.send(listener.local_addr().expect("an address")).expect("the test waits");
                let changes = api.clone();
                let _changes = executor.spawn(async move { changes.run().await });
                let _serve =
                    executor.spawn(serve(api, listener, Offer { api: tls, door: None }, times, executor.clone()));
                // An error: the sender was dropped, which is what ends a test.
                let _ = stopped.recv().await;
            }));
        });
        let address = started.recv().expect("the server starts");
        let (admin, nobody) = (client(&pki, true), client(&pki, false));
        World { address, admin, nobody, _stop: stop, _state: state }
    }

    pub fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).expect("connected");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket
    }

    fn tls(&self, config: &Arc<ClientConfig>) -> Tls {
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        StreamOwned::new(ClientConnection::new(config.clone(), name).expect("TLS"), self.connect())
    }

    pub fn admin(&self) -> Tls {
        self.tls(&self.admin)
    }

    pub fn nobody(&self) -> Tls {
        self.tls(&self.nobody)
    }

    /// A request of the administrator and its whole answer.
    pub fn ask(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> Answer {
        exchange(self.admin(), &request(method, path, content_type, body))
    }

    /// What is at a path, in the form that `Accept` asks for.
    pub fn get_as(&self, path: &str, accept: &str) -> Answer {
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept: {accept}\r\n\r\n");
        exchange(self.admin(), head.as_bytes())
    }

    /// Creates an object that a test needs.
    pub fn make(&self, path: &str, object: &Value) {
        let answer = self.ask("POST", path, "application/json", object.to_string().as_bytes());
        assert_eq!(answer.code, 201, "{}", answer.text());
    }
}

fn client(pki: &Pki, admin: bool) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(pki.ca().clone()).expect("the CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let leaf = pki.admin();
    Arc::new(match admin {
        true => builder
            .with_client_auth_cert(vec![leaf.certificate.clone()], leaf.key().expect("a key"))
            .expect("a certificate"),
        false => builder.with_no_client_auth(),
    })
}

/// A request that closes its connection.
pub fn request(method: &str, path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Sends bytes and reads until the other side closes.
pub fn exchange(mut stream: Tls, bytes: &[u8]) -> Answer {
    // The server may answer and close before it has everything; what it says still counts.
    let _ = stream.write_all(bytes);
    let mut all = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut piece) {
        all.extend_from_slice(&piece[..length]);
    }
    Answer::parse(&all)
}

/// An HTTP/1.1 answer.
pub struct Answer {
    pub code: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn parse(bytes: &[u8]) -> Answer {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let code = head.split(' ').nth(1).and_then(|c| c.parse().ok()).expect("a code");
        let raw = &bytes[end + 4..];
        let body = if head.contains("transfer-encoding: chunked") { dechunk(raw) } else { raw.to_vec() };
        Answer { code, head, body }
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The message of a Status with the same code.
    #[track_caller]
    pub fn refusal(&self, code: u16) -> String {
        let status = self.json();
        assert_eq!((self.code, &status["kind"], &status["code"]), (code, &"Status".into(), &code.into()), "{status}");
        status["message"].as_str().expect("a message").to_owned()
    }
}

fn dechunk(mut raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(line) = raw.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&raw[..line]).expect("a size"), 16).expect("a size");
        let start = line + 2;
        if size == 0 {
            break;
        }
        out.extend_from_slice(&raw[start..start + size]);
        raw = &raw[start + size + 2..];
    }
    out
}
