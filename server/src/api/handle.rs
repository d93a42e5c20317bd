//! From a request to its answer: route, authorize, read the body, act.

use std::time::Duration;

use coracle_shared::api::status::Status;
use coracle_shared::submit::Identity;
use futures_lite::FutureExt as _;
use http_body_util::BodyExt as _;
use hyper::Request;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{ACCEPT, AsHeaderName, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, IF_NONE_MATCH, USER_AGENT};

use super::Api;
use super::body::MAX_BODY;
use super::documents::Wish;
use super::http::Client;
use super::impersonate;
use super::query::Query;
use super::reply::{self, Reply};
use super::route::{self, Route, Target};
use super::select::Selection;
use super::verbs::{Ask, verb};
use crate::kinds::SubKind;
use crate::pki::revoked;

/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(30);

/// The longest path and query that is looked at.
const MAX_URI: usize = 64 << 10;

/// Answers a request. Every refusal is a Status.
pub async fn handle(api: &Api, client: &Client, request: Request<Incoming>) -> Reply {
    match answer(api, client, request).await {
        Ok(reply) => reply,
        Err(status) => reply::refuse(&status),
    }
}

fn header(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

async fn answer(api: &Api, client: &Client, request: Request<Incoming>) -> Result<Reply, Status> {
    // For each request anew: a connection may be older than the revocation.
    if client.key.is_some_and(|key| revoked::since(&*api.store, key).is_some()) {
        return Err(Status::unauthorized());
    }
    let uri = request.uri();
    if uri.path().len() + uri.query().map_or(0, str::len) > MAX_URI {
        return Err(Status::bad_request("the request's path and query are too long"));
    }
    let path = uri.path().to_owned();
    let impersonated =
        impersonate::wanted(request.headers()).map(|wanted| wanted.allow(api, &client.who)).transpose()?;
    let who = impersonated.as_ref().unwrap_or(&client.who);
    let Some(route) = route::parse(&path) else {
        // Strangers do not learn what is there.
        api.authorize_path(who, request.method(), &path)?;
        return Err(Status::no_such_path());
    };
    match route {
        Route::Object(target) => object(api, client, who, target, request).await,
        Route::Backup => {
            api.authorize_path(who, request.method(), &path)?;
            api.backup(client, request).await
        }
        route => {
            api.authorize_path(who, request.method(), &path)?;
            let headers = request.headers();
            let wish = Wish { accept: header(headers, ACCEPT), if_none_match: header(headers, IF_NONE_MATCH) };
            api.document(&route, request.method(), wish)
        }
    }
}

async fn object(
    api: &Api,
    client: &Client,
    who: &Identity,
    target: Target,
    mut request: Request<Incoming>,
) -> Result<Reply, Status> {
    let method = request.method().clone();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    // Exec reads the request's own headers again.
    let headers = match target.sub.map(|s| s.sub) {
        Some(SubKind::Exec) => request.headers().clone(),
        _ => std::mem::take(request.headers_mut()),
    };
    let verb = verb(&method, &target, &query)?;
    let selection = Selection::parse(target.kind, &query)?;
    let ask = Ask {
        who,
        method: &method,
        target,
        query,
        accept: header(&headers, ACCEPT),
        content_type: header(&headers, CONTENT_TYPE).unwrap_or_default(),
        user_agent: header(&headers, USER_AGENT).unwrap_or_default(),
    };
    api.authorize(who, &ask.attributes(verb, &selection))?;
    match ask.target.sub.map(|s| s.sub) {
        Some(SubKind::Log) => api.logs(&ask.target, &ask.query).await,
        Some(SubKind::Revoke) => {
            read(request).await?;
            api.revoke(&ask.target).await
        }
        Some(SubKind::Exec) => api.exec(&ask.target, &ask.query, client, &mut request).await,
        _ => {
            let announced = header(&headers, CONTENT_LENGTH).and_then(|l| l.parse().ok());
            let bytes = body(request, announced).await?;
            api.act(ask, verb, selection, &bytes).await
        }
    }
}

/// Bytes of a body that is too large that are still taken in and thrown away: a client that is cut off
/// while it sends would not read the answer.
const DRAIN: usize = 4 * MAX_BODY;

/// Reads a body within its bounds of size and time.
pub async fn read(request: Request<Incoming>) -> Result<Bytes, Status> {
    let announced = header(request.headers(), CONTENT_LENGTH).and_then(|l| l.parse().ok());
    body(request, announced).await
}

/// The same, of a request whose announced length is known.
async fn body(request: Request<Incoming>, announced: Option<usize>) -> Result<Bytes, Status> {
    if request.body().is_end_stream() {
        return Ok(Bytes::new());
    }
    let late = async {
        smol::Timer::after(BODY_TIME).await;
        let mut status = Status::bad_request("the request's body did not arrive in time");
        (status.code, status.reason) = (408, "Timeout");
        Err(status)
    };
    collect(request.into_body(), announced.unwrap_or_default()).or(late).await
}

async fn collect(mut body: Incoming, announced: usize) -> Result<Bytes, Status> {
    let mut taken = 0;
    let mut bytes = Vec::with_capacity(if announced > MAX_BODY { 0 } else { announced });
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Status::bad_request(format!("the request's body broke off: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        taken += data.len();
        if announced.max(taken) <= MAX_BODY {
            bytes.extend_from_slice(&data);
        } else if announced.max(taken) > DRAIN {
            break;
        } else {
            bytes = Vec::new();
        }
    }
    match announced.max(taken) > MAX_BODY {
        true => Err(Status::too_large(MAX_BODY)),
        false => Ok(bytes.into()),
    }
}
