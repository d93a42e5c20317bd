//! Asking a container: HTTP and TCP from the node to the pod's address. (Exec goes to the runtime.)

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_net::TcpStream;
use futures_lite::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use futures_lite::{FutureExt, future};
use futures_rustls::TlsConnector;
use serde_json::Value;

use crate::reconcile::view::{ContainerView, Handler, HttpGet, Probe, TcpSocket};

/// How much of an answer's head is read: a status line is short, and a body means nothing.
const HEAD_LIMIT: usize = 4 << 10;

/// A question that goes over the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    Tcp(SocketAddr),
    /// The whole request.
    Http(SocketAddr, String),
    /// The same over TLS; whose certificate it is does not matter.
    Https(SocketAddr, String),
    /// A health check of this service, or of the whole server.
    Grpc(SocketAddr, String),
    /// An exec probe's command.
    Exec(Vec<String>),
    /// The probe cannot be asked, with the reason.
    Invalid(String),
}

/// What `probe` asks of a container whose pod has this address.
pub fn question(probe: &Probe, container: &ContainerView, pod_ip: Option<Ipv4Addr>) -> Question {
    if let Some(exec) = &probe.exec {
        return Question::Exec(exec.command.clone());
    }
    let made = if let Some(http) = &probe.http_get {
        http_question(http, container, pod_ip)
    } else if let Some(TcpSocket { host, port }) = &probe.tcp_socket {
        address(host, port, container, pod_ip).map(Question::Tcp)
    } else if let Some(grpc) = &probe.grpc {
        address("", &grpc.port, container, pod_ip).map(|at| Question::Grpc(at, grpc.service.clone()))
    } else {
        Err("this kind of probe is not supported".to_owned())
    };
    made.unwrap_or_else(Question::Invalid)
}

/// What a lifecycle handler asks of its container; `sleep` asks nothing and is not for here.
pub fn handler_question(handler: &Handler, container: &ContainerView, pod_ip: Option<Ipv4Addr>) -> Question {
    let Handler { exec, http_get, tcp_socket, .. } = handler.clone();
    question(&Probe { exec, http_get, tcp_socket, ..Probe::default() }, container, pod_ip)
}

fn http_question(http: &HttpGet, container: &ContainerView, pod_ip: Option<Ipv4Addr>) -> Result<Question, String> {
    let address = address(&http.host, &http.port, container, pod_ip)?;
    let path = if http.path.is_empty() { "/" } else { &http.path };
    let slash = if path.starts_with('/') { "" } else { "/" };
    let has = |name: &str| http.http_headers.iter().any(|h| h.name.eq_ignore_ascii_case(name));
    let mut request = format!("GET {slash}{path} HTTP/1.1\r\nConnection: close\r\n");
    if !has("host") {
        request += &format!("Host: {address}\r\n");
    }
    if !has("user-agent") {
        request += "User-Agent: kube-probe/coracle\r\n";
    }
    if !has("accept") {
        request += "Accept: */*\r\n";
    }
    for header in &http.http_headers {
        request += &format!("{}: {}\r\n", header.name, header.value);
    }
    request += "\r\n";
    let words = http.http_headers.iter().flat_map(|h| [&h.name, &h.value]);
    if path.contains(char::is_whitespace) || words.into_iter().any(|w| w.contains(['\r', '\n'])) {
        return Err("a line break or a space in the request".into());
    }
    let secure = http.scheme.eq_ignore_ascii_case("https");
    Ok(if secure { Question::Https(address, request) } else { Question::Http(address, request) })
}

fn address(
    host: &str,
    port: &Value,
    container: &ContainerView,
    pod_ip: Option<Ipv4Addr>,
) -> Result<SocketAddr, String> {
    let ip = if host.is_empty() {
        IpAddr::V4(pod_ip.ok_or("the pod has no address")?)
    } else {
        host.parse().map_err(|_| format!("host {host:?} is no address"))?
    };
    let named = |name: &str| container.ports.iter().find(|p| p.name == name).map(|p| p.container_port);
    let port = match port {
        Value::Number(n) => n.as_u64().and_then(|n| u16::try_from(n).ok()),
        Value::String(s) => named(s).or_else(|| s.parse().ok()),
        _ => None,
    };
    Ok(SocketAddr::new(ip, port.filter(|p| *p > 0).ok_or("no such port")?))
}

/// Asks over TCP or HTTP and waits at most `timeout`.
///
/// # Errors
/// The sentence that the event says, as the kubelet words it.
pub async fn ask(question: &Question, timeout: Duration) -> Result<(), String> {
    let asking = async {
        match question {
            Question::Tcp(address) => tcp(*address).await,
            Question::Http(address, request) => {
                let mut stream = connect(*address, "http").await?;
                http(&mut stream, &format!("http://{address}"), request).await
            }
            Question::Https(address, request) => https(*address, request).await,
            Question::Grpc(address, service) => {
                let mut stream = connect(*address, "grpc").await?;
                super::grpc::check(&mut stream, &address.to_string(), service).await
            }
            Question::Exec(_) => Err("an exec probe does not go over the network".into()),
            Question::Invalid(reason) => Err(reason.clone()),
        }
    };
    asking.or(expire(timeout)).await
}

async fn expire(timeout: Duration) -> Result<(), String> {
    smol::Timer::after(timeout).await;
    Err(format!("no answer within {} s", timeout.as_secs_f32()))
}

async fn tcp(address: SocketAddr) -> Result<(), String> {
    TcpStream::connect(address).await.map(drop).map_err(|e| format!("dial tcp {address}: {e}"))
}

async fn connect(address: SocketAddr, scheme: &str) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|e| format!("Get \"{scheme}://{address}\": {e}"))
}

async fn https(address: SocketAddr, request: &str) -> Result<(), String> {
    let url = format!("https://{address}");
    let fail = |e: &dyn std::fmt::Display| format!("Get \"{url}\": {e}");
    let connector = TlsConnector::from(Arc::new(crate::tls::anyone().map_err(|e| fail(&e))?));
    let stream = connect(address, "https").await?;
    let mut stream = connector.connect(address.ip().into(), stream).await.map_err(|e| fail(&e))?;
    http(&mut stream, &url, request).await
}

async fn http<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, url: &str, request: &str) -> Result<(), String> {
    let fail = |e: std::io::Error| format!("Get \"{url}\": {e}");
    stream.write_all(request.as_bytes()).await.map_err(fail)?;
    let mut head = Vec::new();
    let mut chunk = [0; 512];
    while !head.contains(&b'\n') && head.len() < HEAD_LIMIT {
        let n = stream.read(&mut chunk).await.map_err(fail)?;
        if n == 0 {
            break;
        }
        head.extend_from_slice(&chunk[..n]);
        future::yield_now().await;
    }
    match status(&head) {
        Some(200..=399) => Ok(()),
        Some(code) => Err(format!("HTTP probe failed with statuscode: {code}")),
        None => Err(format!("Get \"{url}\": malformed HTTP response")),
    }
}

/// The status of `HTTP/1.1 200 OK`.
fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|b| *b == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?.strip_prefix("HTTP/1.")?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::view::{EnvPair, ExecAction, Port};

    fn container() -> ContainerView {
        let port = Port { name: "web".into(), container_port: 8080, ..Port::default() };
        ContainerView { ports: vec![port], ..ContainerView::default() }
    }

    fn http_probe(port: Value, path: &str, headers: Vec<EnvPair>) -> Probe {
        let get = HttpGet { port, path: path.into(), http_headers: headers, ..HttpGet::default() };
        Probe { http_get: Some(get), ..Probe::default() }
    }

    #[test]
    fn questions_name_port_and_host() {
        let ip = Some(Ipv4Addr::new(10, 42, 0, 2));
        let at: SocketAddr = "10.42.0.2:8080".parse().expect("an address");
        let request = "GET /x HTTP/1.1\r\nConnection: close\r\nHost: 10.42.0.2:8080\r\n\
                       User-Agent: kube-probe/coracle\r\nAccept: */*\r\n\r\n";
        let probe = http_probe("web".into(), "/x", Vec::new());
        assert_eq!(question(&probe, &container(), ip), Question::Http(at, request.into()));
        let tcp =
            Probe { tcp_socket: Some(TcpSocket { port: 8080.into(), ..TcpSocket::default() }), ..Probe::default() };
        assert_eq!(question(&tcp, &container(), ip), Question::Tcp(at));
        assert!(matches!(question(&tcp, &container(), None), Question::Invalid(_)));
        let exec = Probe { exec: Some(ExecAction { command: vec!["true".into()] }), ..Probe::default() };
        assert_eq!(question(&exec, &container(), None), Question::Exec(vec!["true".into()]));
    }

    #[test]
    fn a_header_cannot_smuggle_a_request() {
        let header = EnvPair { name: "A".into(), value: "b\nGET /".into() };
        let probe = http_probe(80.into(), "/", vec![header]);
        assert!(matches!(question(&probe, &container(), Some(Ipv4Addr::LOCALHOST)), Question::Invalid(_)));
        let probe = http_probe(80.into(), "/a b", Vec::new());
        assert!(matches!(question(&probe, &container(), Some(Ipv4Addr::LOCALHOST)), Question::Invalid(_)));
    }

    #[test]
    fn statuses() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\n"), Some(204));
        assert_eq!(status(b"HTTP/1.0 500\r\n"), Some(500));
        assert_eq!(status(b"SSH-2.0\r\n"), None);
        assert_eq!(status(b""), None);
    }

    /// Answers one connection with `reply`, and gives what the probe made of it.
    fn probe_of(reply: &'static [u8]) -> Result<(), String> {
        smol::block_on(async {
            let listener = async_net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
            let port = listener.local_addr().expect("address").port();
            let server = async {
                let (mut stream, _) = listener.accept().await.expect("accept");
                let mut request = [0; 1024];
                let n = stream.read(&mut request).await.expect("read");
                assert!(request[..n].starts_with(b"GET /healthz HTTP/1.1\r\n"));
                stream.write_all(reply).await.expect("write");
            };
            let probe = http_probe(port.into(), "healthz", Vec::new());
            let question = question(&probe, &container(), Some(Ipv4Addr::LOCALHOST));
            let (answer, ()) = future::zip(ask(&question, Duration::from_secs(30)), server).await;
            answer
        })
    }

    #[test]
    fn asks_over_http() {
        assert_eq!(probe_of(b"HTTP/1.1 200 OK\r\n\r\n"), Ok(()));
        assert_eq!(probe_of(b"HTTP/1.1 503 Busy\r\n\r\n"), Err("HTTP probe failed with statuscode: 503".into()));
        assert!(probe_of(b"220 smtp\r\n").is_err_and(|e| e.contains("malformed")));
    }

    #[test]
    fn https_takes_any_certificate() {
        use std::sync::Arc;
        let own = rcgen::generate_simple_self_signed(vec!["nobody".to_owned()]).expect("a certificate");
        let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|b| b.with_no_client_auth().with_single_cert(vec![own.cert.der().clone()], key))
            .expect("a configuration");
        let acceptor = futures_rustls::TlsAcceptor::from(Arc::new(config));
        smol::block_on(async {
            let listener = async_net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
            let port = listener.local_addr().expect("address").port();
            let server = async {
                let (stream, _) = listener.accept().await.expect("accept");
                let mut stream = acceptor.accept(stream).await.expect("a handshake");
                let mut request = [0; 1024];
                let n = stream.read(&mut request).await.expect("read");
                assert!(request[..n].starts_with(b"GET / HTTP/1.1\r\n"));
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("write");
                stream.flush().await.expect("flush");
            };
            let mut probe = http_probe(port.into(), "/", Vec::new());
            probe.http_get.as_mut().expect("it is one").scheme = "HTTPS".into();
            let question = question(&probe, &container(), Some(Ipv4Addr::LOCALHOST));
            let (answer, ()) = future::zip(ask(&question, Duration::from_secs(30)), server).await;
            assert_eq!(answer, Ok(()));
        });
    }

    #[test]
    fn a_closed_port_fails() {
        smol::block_on(async {
            let listener = async_net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
            let address = listener.local_addr().expect("address");
            assert_eq!(ask(&Question::Tcp(address), Duration::from_secs(30)).await, Ok(()));
            drop(listener);
            assert!(ask(&Question::Tcp(address), Duration::from_secs(30)).await.is_err());
        });
    }
}
