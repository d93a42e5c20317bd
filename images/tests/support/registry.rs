//! A registry for tests: OCI Distribution's pulls over plain HTTP, with faults on request.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use base64::Engine;
use coracle_images::{Platform, Sha256};
use serde_json::json;

use super::{Layer, image_json};

/// What the registry asks of clients. User and password are always `user` and `secret`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    None,
    Basic,
    /// Tokens, for anonymous clients too.
    Token,
    /// Tokens, for the user only.
    PrivateToken,
}

/// What goes wrong with a blob or manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection breaks after so many bytes of an answer's body, so many times.
    Cut { after: usize, times: usize },
    /// One byte in the middle is another one.
    Corrupt,
    /// Ranges are ignored.
    NoRange,
    /// Elsewhere.
    Redirect(String),
    /// An error with a registry's words, so many times.
    Status(u16, usize),
}

/// A request as it came: method and path, and its `Authorization` and `Range`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub line: String,
    pub authorization: String,
    pub range: String,
}

struct State {
    address: String,
    auth: Auth,
    blobs: Mutex<HashMap<String, Vec<u8>>>,
    manifests: Mutex<HashMap<String, (String, Vec<u8>)>>,
    faults: Mutex<HashMap<String, Fault>>,
    requests: Mutex<Vec<Request>>,
}

/// Runs until the test's process ends.
pub struct Registry {
    state: Arc<State>,
}

const TOKEN: &str = "a-token";

impl Registry {
    pub fn start(auth: Auth) -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State {
            address,
            auth,
            blobs: Mutex::default(),
            manifests: Mutex::default(),
            faults: Mutex::default(),
            requests: Mutex::default(),
        });
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let state = shared.clone();
                std::thread::spawn(move || state.serve(stream.unwrap()));
            }
        });
        Registry { state }
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> &str {
        &self.state.address
    }

    pub fn put_blob(&self, bytes: &[u8]) -> Sha256 {
        let digest = Sha256::of(bytes);
        self.state.blobs.lock().unwrap().insert(digest.to_string(), bytes.to_vec());
        digest
    }

    /// Stores under the tag and under its digest.
    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) -> Sha256 {
        let digest = Sha256::of(bytes);
        let mut manifests = self.state.manifests.lock().unwrap();
        for key in [tag, &digest.to_string()] {
            manifests.insert(format!("{repository}/{key}"), (media_type.to_owned(), bytes.to_vec()));
        }
        digest
    }

    /// An image for this machine; answers its full name and its manifest's digest.
    pub fn put_image(&self, repository: &str, tag: &str, layers: &[Layer]) -> (String, Sha256) {
        let digest = self.put_platform_image(repository, tag, layers, &Platform::host());
        (format!("{}/{repository}:{tag}", self.address()), digest)
    }

    pub fn put_platform_image(&self, repository: &str, tag: &str, layers: &[Layer], platform: &Platform) -> Sha256 {
        let (config, manifest) = image_json(layers, platform);
        self.put_blob(&config);
        for layer in layers {
            self.put_blob(&layer.blob);
        }
        self.put_manifest(repository, tag, "application/vnd.oci.image.manifest.v1+json", &manifest)
    }

    /// `key` is a blob's digest, or `REPOSITORY/TAG`.
    pub fn fault(&self, key: &str, fault: Fault) {
        self.state.faults.lock().unwrap().insert(key.to_owned(), fault);
    }

    pub fn mend(&self) {
        self.state.faults.lock().unwrap().clear();
    }

    /// Requests whose line contains `part`.
    pub fn requests(&self, part: &str) -> Vec<Request> {
        self.state.requests.lock().unwrap().iter().filter(|r| r.line.contains(part)).cloned().collect()
    }
}

impl State {
    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut writer = stream;
        while let Some(request) = read_request(&mut reader) {
            self.requests.lock().unwrap().push(request.clone());
            if self.answer(&request, &mut writer).is_none() {
                return;
            }
        }
    }

    /// `None` closes the connection.
    fn answer(&self, request: &Request, out: &mut TcpStream) -> Option<()> {
        let target = request.line.split(' ').nth(1)?.to_owned();
        if target.starts_with("/token") {
            return self.token(request, &target, out);
        }
        if !self.is_allowed(request) {
            return self.challenge(&target, out);
        }
        let (repository, kind, key) = split_target(&target)?;
        let fault_key = if kind == "blobs" { key.clone() } else { format!("{repository}/{key}") };
        let found = match kind {
            "blobs" => self.blobs.lock().unwrap().get(&key).map(|b| ("application/octet-stream".to_owned(), b.clone())),
            _ => self.manifests.lock().unwrap().get(&format!("{repository}/{key}")).cloned(),
        };
        let Some((media_type, body)) = found else {
            return error(out, 404, "MANIFEST_UNKNOWN", "manifest unknown");
        };
        let fault = self.take_fault(&fault_key);
        send(out, request, &media_type, body, fault)
    }

    fn take_fault(&self, key: &str) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let fault = faults.get(key).cloned();
        if let Some(Fault::Cut { times, .. } | Fault::Status(_, times)) = faults.get_mut(key) {
            *times -= 1;
            if *times == 0 {
                faults.remove(key);
            }
        }
        fault
    }

    fn is_allowed(&self, request: &Request) -> bool {
        match self.auth {
            Auth::None => true,
            Auth::Basic => request.authorization == basic(),
            Auth::Token | Auth::PrivateToken => request.authorization == format!("Bearer {TOKEN}"),
        }
    }

    fn challenge(&self, target: &str, out: &mut TcpStream) -> Option<()> {
        let repository = split_target(target).map(|(r, _, _)| r).unwrap_or_default();
        let challenge = match self.auth {
            Auth::Basic => "Basic realm=\"test\"".to_owned(),
            _ => format!(
                "Bearer realm=\"http://{}/token\",service=\"test\",scope=\"repository:{repository}:pull\"",
                self.address
            ),
        };
        let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
        respond(out, "401 Unauthorized", &format!("WWW-Authenticate: {challenge}\r\n"), body.as_bytes())
    }

    fn token(&self, request: &Request, target: &str, out: &mut TcpStream) -> Option<()> {
        assert!(target.contains("scope=repository:"), "{target}");
        if self.auth == Auth::PrivateToken && request.authorization != basic() {
            return error(out, 401, "DENIED", "wrong user or password");
        }
        let body = json!({"token": TOKEN, "expires_in": 300}).to_string();
        respond(out, "200 OK", "Content-Type: application/json\r\n", body.as_bytes())
    }
}

fn basic() -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode("user:secret"))
}

/// `/v2/REPOSITORY/KIND/KEY`
fn split_target(target: &str) -> Option<(String, &'static str, String)> {
    let rest = target.strip_prefix("/v2/")?;
    ["blobs", "manifests"].into_iter().find_map(|kind| {
        let (repository, key) = rest.split_once(&format!("/{kind}/"))?;
        Some((repository.to_owned(), kind, key.to_owned()))
    })
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut request = Request { line: String::new(), authorization: String::new(), range: String::new() };
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let text = line.trim_end();
        if text.is_empty() {
            return Some(request);
        }
        match text.split_once(": ") {
            None => request.line = text.to_owned(),
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => request.authorization = value.into(),
            Some((name, value)) if name.eq_ignore_ascii_case("range") => request.range = value.into(),
            Some(_) => {}
        }
    }
}

fn send(
    out: &mut TcpStream,
    request: &Request,
    media_type: &str,
    mut body: Vec<u8>,
    fault: Option<Fault>,
) -> Option<()> {
    match &fault {
        Some(Fault::Redirect(to)) => {
            return respond(out, "307 Temporary Redirect", &format!("Location: {to}\r\n"), b"");
        }
        Some(Fault::Status(code, _)) => return error(out, *code, "UNAVAILABLE", "come back later"),
        Some(Fault::Corrupt) => {
            let middle = body.len() / 2;
            body[middle] ^= 0x55;
        }
        _ => {}
    }
    let offset: usize = match request.range.strip_prefix("bytes=").and_then(|r| r.strip_suffix('-')) {
        Some(start) if fault != Some(Fault::NoRange) => start.parse().unwrap(),
        _ => 0,
    };
    let (status, range) = match offset {
        0 => ("200 OK", String::new()),
        _ => ("206 Partial Content", format!("Content-Range: bytes {offset}-{}/{}\r\n", body.len() - 1, body.len())),
    };
    let headers = format!("Content-Type: {media_type}\r\n{range}");
    let part = &body[offset..];
    let Some(Fault::Cut { after, .. }) = fault else { return respond(out, status, &headers, part) };
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", part.len());
    out.write_all(head.as_bytes()).ok()?;
    out.write_all(&part[..after.min(part.len())]).ok()?;
    out.shutdown(std::net::Shutdown::Both).ok();
    None
}

fn error(out: &mut TcpStream, status: u16, code: &str, message: &str) -> Option<()> {
    let body = json!({"errors": [{"code": code, "message": message}]}).to_string();
    respond(out, &format!("{status} Error"), "Content-Type: application/json\r\n", body.as_bytes())
}

fn respond(out: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> Option<()> {
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    out.write_all(head.as_bytes()).ok()?;
    out.write_all(body).ok()
}

/// One plain GET, for servers that are not ours.
pub fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}
