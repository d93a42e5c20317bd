//! A client for registries: OCI Distribution 1.1, anonymous, with basic or with token authentication.
//!
//! Blocking, over `ureq`. Redirects are followed here, not there, so that credentials never reach
//! another host and TLS is never left.

pub mod auth;
pub mod settings;

use std::io::Read;
use std::time::{Duration, Instant};

use ureq::Body;
use ureq::http::Response;
use ureq::http::header::{AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};

use crate::credential::Credential;
use crate::digest::Sha256;
use crate::error::ImageError;
use crate::manifest::{ACCEPT, Document, MAX_MANIFEST};
use crate::reference::Reference;
use crate::tls;
use auth::{Challenge, Grants};
use settings::{Place, Registries};

/// To resolve a name and open a connection: a mirror that is down must not hold up a pod for long.
const CONNECT: Duration = Duration::from_secs(10);
/// To the head of an answer: registries in front of cold object stores are slow.
const ANSWER: Duration = Duration::from_secs(60);
/// Between two pieces of a body; a connection that is silent longer is resumed elsewhere.
const STALL: Duration = Duration::from_secs(30);
/// Registries redirect blobs once, to a store that may redirect again.
const MAX_REDIRECTS: usize = 5;
/// Of an error's body, as much as a person wants to read.
const MAX_ERROR_BODY: u64 = 16 << 10;
/// Of a registry's words, as much as fits into a pod's status.
const MAX_MESSAGE: usize = 400;
/// A token issuer's answer; tokens are a few KiB.
const MAX_TOKEN_ANSWER: u64 = 64 << 10;
/// Read from a socket at once: large enough for the full speed of a gigabit, small in memory.
const BUFFER: usize = 64 << 10;

type Answer = Response<Body>;

/// One repository at the places where it can be had.
pub struct Session<'a> {
    reference: &'a Reference,
    endpoints: Vec<Endpoint>,
    grants: &'a Grants,
}

/// One place, with what is needed to talk to it.
struct Endpoint {
    base: String,
    agent: ureq::Agent,
    credential: Option<Credential>,
}

/// A blob's bytes as they come.
pub struct BlobBody {
    pub url: String,
    /// The offset of the first byte: less than what was asked for when the registry ignores ranges.
    pub start: u64,
    pub reader: Box<dyn Read + Send>,
}

impl<'a> Session<'a> {
    pub fn new(
        reference: &'a Reference,
        registries: &Registries,
        credentials: &[Credential],
        grants: &'a Grants,
    ) -> Result<Session<'a>, ImageError> {
        let places = registries.places(reference.registry());
        let endpoints =
            places.into_iter().map(|place| Endpoint::new(place, reference, credentials)).collect::<Result<_, _>>()?;
        Ok(Session { reference, endpoints, grants })
    }

    /// The document that `key` (a tag or digest) names, with its digest, which is checked when `key`
    /// is one.
    pub fn manifest(&self, key: &str) -> Result<(Sha256, Document), ImageError> {
        let pinned: Option<Sha256> = key.parse().ok();
        self.first(|endpoint| {
            let url = endpoint.url(self.reference, "manifests", key);
            let answer = self.get(endpoint, &url, ACCEPT, 0)?;
            let content_type = header(&answer, CONTENT_TYPE.as_str()).to_owned();
            let bytes = read_bounded(answer, &url, MAX_MANIFEST)?;
            let actual = Sha256::of(&bytes);
            check_digest(|| format!("manifest {url}"), pinned.unwrap_or(actual), actual)?;
            Ok((actual, Document::parse(&self.reference.to_string(), &bytes, &content_type)?))
        })
    }

    /// A small blob, whole, with its digest checked.
    pub fn small_blob(&self, digest: &Sha256, size: u64) -> Result<Vec<u8>, ImageError> {
        self.first(|endpoint| {
            let url = endpoint.url(self.reference, "blobs", &digest.to_string());
            let answer = self.get(endpoint, &url, "*/*", 0)?;
            let bytes = read_bounded(answer, &url, size)?;
            check_digest(|| format!("blob {url}"), *digest, Sha256::of(&bytes))?;
            Ok(bytes)
        })
    }

    /// A blob's bytes from `offset` on, where the registry can.
    pub fn blob(&self, digest: &Sha256, offset: u64) -> Result<BlobBody, ImageError> {
        self.first(|endpoint| {
            let url = endpoint.url(self.reference, "blobs", &digest.to_string());
            let answer = self.get(endpoint, &url, "*/*", offset)?;
            let start = match answer.status().as_u16() {
                206 => range_start(header(&answer, CONTENT_RANGE.as_str()))
                    .filter(|start| *start <= offset)
                    .ok_or_else(|| protocol(&url, "answered a range that was not asked for"))?,
                _ => 0,
            };
            Ok(BlobBody { url, start, reader: Box::new(answer.into_body().into_reader()) })
        })
    }

    /// Asks one place after the other until one has it. The last error is the registry's own.
    fn first<T>(&self, ask: impl Fn(&Endpoint) -> Result<T, ImageError>) -> Result<T, ImageError> {
        let (itself, mirrors) = self.endpoints.split_last().expect("the registry itself is always a place");
        for mirror in mirrors {
            if let Ok(found) = ask(mirror) {
                return Ok(found);
            }
        }
        ask(itself)
    }

    /// GET with authentication as the registry asks for it.
    fn get(&self, endpoint: &Endpoint, url: &str, accept: &str, offset: u64) -> Result<Answer, ImageError> {
        let key = endpoint.grant_key(self.reference);
        let known = self.grants.get(&key, Instant::now());
        let answer = endpoint.follow(url, accept, offset, known.as_deref())?;
        if answer.status().as_u16() != 401 {
            return endpoint.accept(answer, url);
        }
        self.grants.forget(&key);
        let headers = answer.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok());
        let Some(challenge) = Challenge::parse(headers) else { return endpoint.accept(answer, url) };
        let Some(grant) = endpoint.authorize(&challenge, self.reference)? else { return endpoint.accept(answer, url) };
        drop(answer);
        let answer = endpoint.follow(url, accept, offset, Some(&grant.header))?;
        if answer.status().as_u16() != 401 {
            self.grants.put(&key, &grant, Instant::now());
        }
        endpoint.accept(answer, url)
    }
}

impl Endpoint {
    fn new(place: Place, reference: &Reference, credentials: &[Credential]) -> Result<Endpoint, ImageError> {
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("coracle/", env!("CARGO_PKG_VERSION")))
            .input_buffer_size(BUFFER)
            .output_buffer_size(8 << 10)
            .max_idle_connections(4)
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(ANSWER))
            .timeout_per_read(Some(STALL));
        if place.base.starts_with("https://") {
            config = config.tls_config(tls::config(&place.name, place.ca.as_deref())?);
        }
        if settings::is_loopback(&place.name) {
            config = config.proxy(None);
        }
        let credential = Credential::choose(credentials, &place.name, reference.repository()).cloned();
        Ok(Endpoint { base: place.base, agent: config.build().into(), credential })
    }

    fn url(&self, reference: &Reference, kind: &str, key: &str) -> String {
        format!("{}/v2/{}/{kind}/{key}", self.base, reference.repository())
    }

    /// Tokens are for one repository, and belong to who asked with which password.
    fn grant_key(&self, reference: &Reference) -> String {
        let who = self.credential.as_ref().map(|c| Sha256::of(c.basic().as_bytes()).hex()).unwrap_or_default();
        format!("{} {} {who}", self.base, reference.repository())
    }

    /// GET, following redirects. Only the first host and those with its scheme, name and port see
    /// `authorization`.
    fn follow(&self, url: &str, accept: &str, offset: u64, authorization: Option<&str>) -> Result<Answer, ImageError> {
        let mut at = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent.get(&at).header("Accept", accept);
            if let Some(value) = authorization.filter(|_| origin(&at) == origin(url)) {
                request = request.header(AUTHORIZATION, value);
            }
            if offset > 0 {
                request = request.header("Range", format!("bytes={offset}-"));
            }
            let answer = request.call().map_err(|e| transport(&at, e))?;
            let location = header(&answer, LOCATION.as_str());
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) || location.is_empty() {
                return Ok(answer);
            }
            let next = resolve(&at, location);
            if at.starts_with("https://") && !next.starts_with("https://") {
                return Err(protocol(&at, "redirects from HTTPS to an address without it"));
            }
            at = next;
        }
        Err(protocol(url, "redirects without end"))
    }

    /// What a challenge is answered with; `None` when there is nothing to answer it with.
    fn authorize(&self, challenge: &Challenge, reference: &Reference) -> Result<Option<auth::Grant>, ImageError> {
        let basic = self.credential.as_ref().map(Credential::basic);
        let (realm, service, scope) = match challenge {
            Challenge::Basic => {
                return Ok(basic.map(|header| auth::Grant { header, lifetime: Duration::MAX }));
            }
            Challenge::Bearer { realm, service, scope } => (realm, service, scope),
        };
        let realm = resolve(&self.base, realm);
        if self.base.starts_with("https://") && !realm.starts_with("https://") {
            return Err(protocol(&self.base, "names a token issuer without HTTPS"));
        }
        let own_scope = format!("repository:{}:pull", reference.repository());
        let url = auth::token_url(&realm, service, if scope.is_empty() { &own_scope } else { scope });
        let answer = self.follow(&url, "application/json", 0, basic.as_deref())?;
        let answer = self.accept(answer, &url)?;
        let bytes = read_bounded(answer, &url, MAX_TOKEN_ANSWER)?;
        auth::parse_token(&bytes).map(Some).map_err(|problem| protocol(&url, &problem))
    }

    /// Turns an answer that is no success into an error with the registry's words.
    fn accept(&self, answer: Answer, url: &str) -> Result<Answer, ImageError> {
        let status = answer.status().as_u16();
        if status == 200 || status == 206 {
            return Ok(answer);
        }
        let message = error_message(answer);
        let url = url.to_owned();
        Err(match status {
            401 | 403 => {
                let credential = self.credential.as_ref().map(|c| c.username().to_owned());
                ImageError::Unauthorized { url, status, message, credential }
            }
            404 => ImageError::NotFound { what: message, url },
            _ => ImageError::Status { url, status, message },
        })
    }
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn protocol(url: &str, problem: &str) -> ImageError {
    ImageError::Protocol { url: url.to_owned(), problem: problem.to_owned() }
}

/// A transport error, with a hint where the cause is a setting on this node.
fn transport(url: &str, error: ureq::Error) -> ImageError {
    let text = error.to_string();
    let debug = format!("{error:?}");
    let hint = if debug.contains("UnknownIssuer") {
        Some("give its CA in registries.json")
    } else if url.starts_with("https://") && debug.contains("InvalidContentType") {
        Some("if it speaks plain HTTP, say \"plainHttp\": true in registries.json")
    } else {
        None
    };
    match hint {
        Some(hint) => ImageError::Transport { url: url.into(), source: format!("{text} ({hint})").into() },
        None => ImageError::Transport { url: url.into(), source: Box::new(error) },
    }
}

/// `{"errors":[{"code":…,"message":…}]}` as registries write it, else the beginning of the text.
fn error_message(answer: Answer) -> String {
    let fallback = answer.status().canonical_reason().unwrap_or("no reason given").to_owned();
    let mut body = Vec::new();
    if answer.into_body().into_reader().take(MAX_ERROR_BODY).read_to_end(&mut body).is_err() {
        return fallback;
    }
    let parsed: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
    let first = parsed.as_ref().and_then(|v| v.get("errors")?.get(0));
    let part = |key: &str| first.and_then(|e| e.get(key)?.as_str()).unwrap_or_default();
    let text = match (part("code"), part("message")) {
        ("", "") => String::from_utf8_lossy(&body).trim().to_owned(),
        (code, "") => code.to_owned(),
        ("", message) => message.to_owned(),
        (code, message) => format!("{code}: {message}"),
    };
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_MESSAGE).collect();
    if clean.is_empty() { fallback } else { clean }
}

fn read_bounded(answer: Answer, url: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    let read = answer.into_body().into_reader().take(limit + 1).read_to_end(&mut bytes);
    read.map_err(|e| ImageError::Transport { url: url.to_owned(), source: Box::new(e) })?;
    if bytes.len() as u64 > limit {
        return Err(protocol(url, &format!("sends more than {limit} bytes")));
    }
    Ok(bytes)
}

fn check_digest(what: impl Fn() -> String, expected: Sha256, actual: Sha256) -> Result<(), ImageError> {
    if expected == actual { Ok(()) } else { Err(ImageError::DigestMismatch { what: what(), expected, actual }) }
}

/// `bytes 5-9/10` begins at 5.
fn range_start(content_range: &str) -> Option<u64> {
    content_range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// Scheme, host and port of a URL.
fn origin(url: &str) -> &str {
    let after = url.find("://").map_or(0, |at| at + 3);
    let end = url[after..].find(['/', '?', '#']).map_or(url.len(), |at| after + at);
    &url[..end]
}

/// RFC 3986 as far as `Location` needs it: absolute, without scheme, from the root, or beside.
fn resolve(base: &str, location: &str) -> String {
    if location.starts_with("http://") || location.starts_with("https://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        let scheme = base.split("//").next().unwrap_or("https:");
        format!("{scheme}//{rest}")
    } else if location.starts_with('/') {
        format!("{}{location}", origin(base))
    } else {
        let root = origin(base).len();
        let path = base[root..].split(['?', '#']).next().unwrap_or("");
        let folder = path.rfind('/').map_or("/", |at| &path[..=at]);
        format!("{}{folder}{location}", origin(base))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(base: &str, location: &str, expect: &str) {
        assert_eq!(resolve(base, location), expect);
    }

    #[test]
    fn resolves_locations() {
        check("https://a:1/v2/x?y", "https://b/z", "https://b/z");
        check("https://a:1/v2/x?y", "//b/z", "https://b/z");
        check("https://a:1/v2/x?y", "/z", "https://a:1/z");
        check("https://a:1/v2/x?y=/", "z", "https://a:1/v2/z");
        check("https://a:1", "z", "https://a:1/z");
    }

    #[test]
    fn origins_differ_by_scheme_host_and_port() {
        assert_eq!(origin("http://a:1/b"), "http://a:1");
        assert_eq!(origin("http://a?b=/"), "http://a");
        assert_ne!(origin("http://a/"), origin("https://a/"));
        assert_ne!(origin("http://a/"), origin("http://a:80/"));
        assert_eq!(range_start("bytes 5-9/10"), Some(5));
        assert_eq!(range_start("items 5-9"), None);
    }
}
