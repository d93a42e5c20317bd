//! Everything that is not an object: discovery, version, health.

use coracle_shared::api::status::Status;
use coracle_shared::submit::Identity;
use hyper::header::{ETAG, HeaderValue, VARY};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::authz;
use super::reply::{self, Reply, respond, text};
use super::route::Route;
use super::{Api, discovery, openapi};

/// The Kubernetes version whose API is served.
pub const KUBERNETES: &str = "1.36";

/// `gitVersion`.
pub fn release() -> String {
    format!("v{KUBERNETES}.0+coracle-{}", env!("CARGO_PKG_VERSION"))
}

/// `/version`.
pub fn version() -> Value {
    let (major, minor) = KUBERNETES.split_once('.').unwrap_or((KUBERNETES, "0"));
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({"major": major, "minor": minor, "gitVersion": release(),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "",
        "compiler": "rustc", "platform": format!("linux/{arch}")})
}

/// What a client said of the form it wants and of what it has already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish<'a> {
    pub accept: Option<&'a str>,
    pub if_none_match: Option<&'a str>,
}

impl Api {
    /// Whether `who` may read the document at a path that is no resource.
    pub fn authorize_path(&self, who: &Identity, method: &Method, path: &str) -> Result<(), Status> {
        let verb = method.as_str().to_lowercase();
        match authz::allowed_path(who, &verb, path, &self.roles.book()) {
            true => Ok(()),
            false => Err(Status::denied_path(&who.user, &verb, path)),
        }
    }

    /// Answers for a route that is not an object.
    pub fn document(&self, route: &Route, method: &Method, wish: Wish<'_>) -> Result<Reply, Status> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut status = Status::no_such_path();
            (status.code, status.reason) = (405, "MethodNotAllowed");
            status.message = "the server does not allow this method on the requested resource".into();
            return Err(status);
        }
        Ok(match route {
            Route::Core | Route::Groups => self.discover(*route == Route::Core, wish),
            Route::Group(group) => reply::value(StatusCode::OK, &discovery::group_document(group)),
            Route::Resources(group, version) => reply::value(StatusCode::OK, &discovery::resources(group, version)),
            Route::Version => reply::value(StatusCode::OK, &version()),
            Route::Health => text(StatusCode::OK, "ok"),
            Route::Root => reply::value(StatusCode::OK, &paths()),
            Route::OpenApiV2 => openapi::v2(wish)?,
            Route::OpenApiV3(of) => openapi::v3(*of, wish)?,
            Route::Backup | Route::Object(_) => return Err(Status::no_such_path()),
        })
    }

    fn discover(&self, core: bool, wish: Wish<'_>) -> Reply {
        let Some(content_type) = discovery::aggregated(wish.accept) else {
            let document = if core { discovery::core(&self.config.address) } else { discovery::group_list() };
            let mut reply = reply::value(StatusCode::OK, &document);
            reply.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
            return reply;
        };
        let bytes = discovery::aggregate(core, content_type).to_string().into_bytes();
        let etag = etag(&bytes);
        let mut reply = match wish.if_none_match == Some(&*etag) {
            true => reply::unchanged(),
            false => respond(StatusCode::OK, content_type, reply::Payload::Whole(bytes.into())),
        };
        tag(&mut reply, &etag);
        reply
    }
}

/// Names a document by its content.
pub fn etag(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let hex: String = digest.as_ref().iter().take(16).map(|b| format!("{b:02X}")).collect();
    format!("\"{hex}\"")
}

pub fn tag(reply: &mut Reply, etag: &str) {
    reply.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    if let Ok(value) = HeaderValue::from_str(etag) {
        reply.headers_mut().insert(ETAG, value);
    }
}

fn paths() -> Value {
    let mut paths = vec!["/api".to_owned(), "/api/v1".into(), "/apis".into()];
    for (group, version) in crate::kinds::group_versions().iter().copied().filter(|(g, _)| !g.is_empty()) {
        paths.extend([format!("/apis/{group}"), format!("/apis/{group}/{version}")]);
    }
    paths.extend(["/healthz", "/livez", "/readyz", "/version"].map(String::from));
    paths.dedup();
    json!({"paths": paths})
}
