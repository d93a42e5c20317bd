//! HTTP/1.1 over TLS with keep-alive, blocking, one request at a time: cheap enough to share a small
//! machine with what it measures.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::{Fault, Outcome};

/// How long an answer may take before the measurement counts as failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the API is, and how to be let in.
#[derive(Clone)]
pub struct Target {
    address: String,
    config: Arc<ClientConfig>,
}

impl Target {
    /// From a kubeconfig as the server writes it, with everything inline.
    pub fn read(kubeconfig: &Path) -> Outcome<Target> {
        let text = std::fs::read_to_string(kubeconfig).map_err(|e| format!("{}: {e}", kubeconfig.display()))?;
        let field = |name: &str| -> Outcome<String> {
            let prefix = format!("{name}: ");
            let line = text.lines().find_map(|line| line.trim_start_matches([' ', '-']).strip_prefix(&prefix));
            Ok(line.ok_or_else(|| format!("{}: no {name}", kubeconfig.display()))?.trim().trim_matches('"').into())
        };
        let data =
            |name: &str| -> Outcome<Vec<u8>> { Ok(base64::engine::general_purpose::STANDARD.decode(field(name)?)?) };
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&data("certificate-authority-data")?)?)?;
        let chain: Vec<CertificateDer> =
            CertificateDer::pem_slice_iter(&data("client-certificate-data")?).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&data("client-key-data")?)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let server = field("server")?;
        let address = server.strip_prefix("https://").ok_or("the kubeconfig's server is not https://HOST:PORT")?;
        Ok(Target { address: address.trim_end_matches('/').into(), config: Arc::new(config) })
    }

    pub fn connect(&self) -> Outcome<Client> {
        let tcp = TcpStream::connect(&self.address).map_err(|e| format!("{}: {e}", self.address))?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
        let connection = ClientConnection::new(self.config.clone(), ServerName::try_from(host.to_owned())?)?;
        let stream = BufReader::with_capacity(16 << 10, StreamOwned::new(connection, tcp));
        Ok(Client { host: self.address.clone(), stream })
    }
}

/// One connection.
pub struct Client {
    host: String,
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
}

/// How long an answer's body is.
enum Length {
    Bytes(usize),
    Chunked,
}

impl Client {
    /// Status and body.
    pub fn request(&mut self, method: &str, path: &str, accept: &str, body: &[u8]) -> Outcome<(u16, Vec<u8>)> {
        self.send(method, path, accept, body)?;
        let (status, length) = self.head()?;
        let body = match length {
            Length::Bytes(count) => {
                let mut body = vec![0; count];
                self.stream.read_exact(&mut body)?;
                body
            }
            Length::Chunked => {
                let mut body = Vec::new();
                while let Some(chunk) = self.chunk()? {
                    body.extend(chunk);
                }
                body
            }
        };
        Ok((status, body))
    }

    /// A request in JSON that has to succeed.
    pub fn good(&mut self, method: &str, path: &str, body: &[u8]) -> Outcome<Vec<u8>> {
        let (status, answer) = self.request(method, path, "application/json", body)?;
        if !(200..300).contains(&status) {
            return Err(format!("{method} {path}: {status} {}", String::from_utf8_lossy(&answer)).into());
        }
        Ok(answer)
    }

    /// Starts a watch; its lines come by [`Watch::next`].
    pub fn watch(mut self, path: &str) -> Outcome<Watch> {
        self.send("GET", path, "application/json", b"")?;
        match self.head()? {
            (200, Length::Chunked) => Ok(Watch { client: self, buffer: Vec::new() }),
            (status, _) => Err(format!("watch {path}: {status}, or an answer that is no stream").into()),
        }
    }

    fn send(&mut self, method: &str, path: &str, accept: &str, body: &[u8]) -> Outcome<()> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nAccept: {accept}\r\n", self.host);
        if !body.is_empty() {
            request += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        request += "\r\n";
        let mut request = request.into_bytes();
        request.extend_from_slice(body);
        let stream = self.stream.get_mut();
        stream.write_all(&request)?;
        Ok(stream.flush()?)
    }

    fn head(&mut self) -> Outcome<(u16, Length)> {
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status = status.ok_or_else(|| Fault::from(format!("not an HTTP answer: {line:?}")))?;
        let mut length = Length::Bytes(0);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            match line.split_once(':') {
                Some(("content-length", value)) => length = Length::Bytes(value.trim().parse()?),
                Some(("transfer-encoding", value)) if value.trim() == "chunked" => length = Length::Chunked,
                Some(_) => {}
                None => return Ok((status, length)),
            }
        }
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err("the server closed the connection".into());
        }
        Ok(line.trim_end().into())
    }

    /// The next chunk, or None behind the last.
    fn chunk(&mut self) -> Outcome<Option<Vec<u8>>> {
        let size = usize::from_str_radix(&self.line()?, 16)?;
        let mut chunk = vec![0; size];
        self.stream.read_exact(&mut chunk)?;
        self.line()?;
        Ok((size > 0).then_some(chunk))
    }
}

/// A stream of events.
pub struct Watch {
    client: Client,
    buffer: Vec<u8>,
}

impl Watch {
    /// The next event.
    pub fn next(&mut self) -> Outcome<serde_json::Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(serde_json::from_slice(&line)?);
            }
            let chunk = self.client.chunk()?.ok_or("the watch ended")?;
            self.buffer.extend(chunk);
        }
    }
}
