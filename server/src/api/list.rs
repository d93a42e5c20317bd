//! Reading: one object, and lists with their paging.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coracle_shared::api::status::{Resource, Status};
use coracle_store::{HistoryError, Item, Key, Range, Revision, Store};
use futures_lite::FutureExt as _;
use hyper::StatusCode;
use hyper::body::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::accept::Form;
use super::object::{self, Splicer};
use super::query::Query;
use super::reply::{JSON, Payload, Reply, json, respond};
use super::route::Target;
use super::select::Selection;
use super::table::{self, Include};
use crate::kinds::{Kind, Moment};

/// A resource in the words of a Status.
pub fn resource(kind: &'static Kind) -> Resource<'static> {
    Resource { group: kind.group, plural: kind.plural }
}

/// The store's key of a target that names an object.
pub fn key(target: &Target) -> Key {
    Key::new(target.kind.stored(), target.namespace.as_str(), target.name.as_str())
}

/// How an answer is to look.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub form: Form,
    pub include: Include,
    pub moment: Moment,
}

/// The stored object of a target.
pub fn find(store: &dyn Store, target: &Target) -> Result<Item, Status> {
    store.get(&key(target)).ok_or_else(|| Status::not_found(resource(target.kind), &target.name))
}

/// The answer that holds one object.
pub fn one(target: &Target, item: &Item, code: StatusCode, look: &Look) -> Reply {
    let mut out = Vec::new();
    match look.form {
        Form::Object => Splicer::new(target.kind).write(&mut out, &item.value, item.revision),
        Form::Metadata(version) => {
            let partial = table::partial(&object::of_item(target.kind, item), version);
            serde_json::to_writer(&mut out, &partial).expect("a value is JSON");
        }
        Form::Table(version) => {
            let row = table::row(target.kind, object::of_item(target.kind, item), look.include, version, &look.moment);
            let metadata = serde_json::json!({"resourceVersion": item.revision.to_string()});
            let table = table::table(version, metadata, table::columns(target.kind.columns), vec![row]);
            serde_json::to_writer(&mut out, &table).expect("a value is JSON");
        }
    }
    json(code, out)
}

/// Where a list goes on: opaque to clients.
#[derive(Serialize, Deserialize)]
struct Continue {
    /// The revision of the first page; 0: whatever is current.
    r: u64,
    /// Namespace and name of the last object of the page before.
    a: (String, String),
}

impl Continue {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).expect("a token is JSON"))
    }

    fn decode(text: &str) -> Result<Continue, Status> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok();
        let token = bytes.and_then(|b| serde_json::from_slice(&b).ok());
        token.ok_or_else(|| Status::bad_request("continue key is not valid: it was not made by this server"))
    }
}

/// What a list covers and at which revision; by default all that there is now.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    limit: usize,
    at: Option<Revision>,
    /// The store must have come so far.
    not_before: Revision,
    after: Option<(Arc<str>, Arc<str>)>,
}

/// How long a list or watch waits for a revision of the future: another server may be ahead by a moment.
const FUTURE_WAIT: Duration = Duration::from_secs(3);

impl Plan {
    pub fn parse(query: &Query) -> Result<Plan, Status> {
        let mut plan = Plan { limit: query.number("limit")?.unwrap_or_default(), ..Plan::default() };
        let revision = revision(query)?;
        let matching = query.get("resourceVersionMatch");
        if let Some(text) = query.get("continue") {
            if revision.is_some_and(|r| r.0 != 0) || matching.is_some() {
                return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
            }
            let token = Continue::decode(text)?;
            plan.at = (token.r != 0).then_some(Revision(token.r));
            plan.after = Some((token.a.0.into(), token.a.1.into()));
            return Ok(plan);
        }
        match (matching, revision) {
            (None | Some("NotOlderThan"), Some(revision)) => plan.not_before = revision,
            (None, None) => {}
            (Some("Exact"), Some(revision)) if revision.0 != 0 => plan.at = Some(revision),
            (Some("Exact"), Some(_)) => {
                return Err(Status::bad_request(
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
            (Some(known @ ("Exact" | "NotOlderThan")), None) => {
                return Err(Status::bad_request(format!(
                    "resourceVersionMatch {known:?} is forbidden unless resourceVersion is provided"
                )));
            }
            (Some(other), _) => {
                return Err(Status::bad_request(format!(
                    "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
                )));
            }
        }
        Ok(plan)
    }
}

/// `resourceVersion`, a number; `None` when it is not given.
pub fn revision(query: &Query) -> Result<Option<Revision>, Status> {
    let Some(text) = query.get("resourceVersion") else { return Ok(None) };
    let wrong = || Status::bad_request(format!("invalid resource version {text:?}: it must be a number"));
    text.parse().map(|n| Some(Revision(n))).map_err(|_| wrong())
}

/// Resolves once the store has come to `revision`; a refusal when it does not in time.
pub async fn reached(store: &dyn Store, revision: Revision) -> Result<(), Status> {
    let now = store.revision();
    if now >= revision {
        return Ok(());
    }
    let arrived = async { store.wait(Revision(revision.0 - 1)).await >= revision };
    let late = async {
        smol::Timer::after(FUTURE_WAIT).await;
        false
    };
    match arrived.or(late).await {
        true => Ok(()),
        false => Err(Status::revision_too_large(revision.0, store.revision().0)),
    }
}

/// A page of selected items.
pub struct Selected {
    pub items: Vec<Item>,
    pub revision: Revision,
    token: Option<String>,
    remaining: Option<usize>,
}

/// Pages that are read from the store at once while a selector sifts them.
const SIFT: usize = 1000;

/// Reads a list. Waits for a revision that is not there yet.
pub async fn select(store: &dyn Store, target: &Target, plan: Plan, selection: &Selection) -> Result<Selected, Status> {
    reached(store, plan.not_before.max(plan.at.unwrap_or_default())).await?;
    let namespace = (!target.namespace.is_empty()).then(|| Arc::from(target.namespace.as_str()));
    let everything = selection.is_everything();
    let mut range = Range {
        resource: target.kind.stored(),
        namespace,
        after: plan.after,
        limit: if everything || plan.limit == 0 { plan.limit } else { SIFT.max(plan.limit) },
        at: plan.at,
    };
    let mut items = Vec::new();
    loop {
        let page = store.list(&range).map_err(|e| expired(e, &range))?;
        let mut rest = page.items.into_iter();
        let full = |items: &Vec<Item>| plan.limit != 0 && items.len() == plan.limit;
        while !full(&items) {
            let Some(item) = rest.next() else { break };
            if everything || selection.matches(target.kind, &item.key, &item.value) {
                items.push(item);
            } else {
                range.after = Some((item.key.namespace.clone(), item.key.name.clone()));
            }
        }
        let left = rest.len() + page.remaining;
        range.at = Some(page.revision);
        if left == 0 || full(&items) {
            return Ok(selected(items, page.revision, left, everything));
        }
        if let Some(last) = items.last() {
            let last = (last.key.namespace.clone(), last.key.name.clone());
            range.after = range.after.max(Some(last));
        }
    }
}

fn selected(items: Vec<Item>, revision: Revision, left: usize, everything: bool) -> Selected {
    let token = items.last().filter(|_| left > 0).map(|last| {
        Continue { r: revision.0, a: (last.key.namespace.to_string(), last.key.name.to_string()) }.encode()
    });
    let remaining = (everything && token.is_some()).then_some(left);
    Selected { items, revision, token, remaining }
}

fn expired(error: HistoryError, range: &Range) -> Status {
    match (error, &range.after) {
        (HistoryError::Future { current }, _) => Status::revision_too_large(range.at.unwrap_or_default().0, current.0),
        (HistoryError::Compacted { .. }, Some((namespace, name))) => {
            let token = Continue { r: 0, a: (namespace.to_string(), name.to_string()) };
            Status::expired_continue(Some(token.encode()))
        }
        (HistoryError::Compacted { floor }, None) => Status::too_old(range.at.unwrap_or_default().0, floor.0),
    }
}

/// The answer that holds a list.
pub fn many(kind: &'static Kind, selected: Selected, look: &Look) -> Reply {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".into(), selected.revision.to_string().into());
    if let Some(token) = selected.token {
        metadata.insert("continue".into(), token.into());
    }
    if let Some(remaining) = selected.remaining {
        metadata.insert("remainingItemCount".into(), remaining.into());
    }
    let mut pieces = Pieces::new(kind, selected.items, Value::Object(metadata), *look);
    // What fits one piece is sent whole, with its length.
    let first = pieces.next().unwrap_or_default();
    let payload = match pieces.state {
        State::Done => Payload::Whole(first),
        _ => Payload::Pieces(Box::new(std::iter::once(first).chain(pieces))),
    };
    respond(StatusCode::OK, JSON, payload)
}

/// A list on its way out: about this many bytes are made at a time.
const PIECE: usize = 64 << 10;

#[derive(PartialEq)]
enum State {
    Head,
    Items,
    Done,
}

/// Makes the text of a list a piece at a time.
struct Pieces {
    kind: &'static Kind,
    splicer: Splicer,
    look: Look,
    metadata: Value,
    items: std::vec::IntoIter<Item>,
    state: State,
}

impl Pieces {
    fn new(kind: &'static Kind, items: Vec<Item>, metadata: Value, look: Look) -> Pieces {
        let splicer = Splicer::new(kind);
        Pieces { kind, splicer, look, metadata, items: items.into_iter(), state: State::Head }
    }

    fn head(&self, out: &mut Vec<u8>) {
        let (kind, version, field) = match self.look.form {
            Form::Object => (format!("{}List", self.kind.kind), self.kind.api_version(), "items"),
            Form::Metadata(v) => ("PartialObjectMetadataList".into(), format!("meta.k8s.io/{v}"), "items"),
            Form::Table(v) => ("Table".into(), format!("meta.k8s.io/{v}"), "rows"),
        };
        let head = format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",\"metadata\":{},", self.metadata);
        out.extend_from_slice(head.as_bytes());
        if let Form::Table(_) = self.look.form {
            out.extend_from_slice(b"\"columnDefinitions\":");
            out.extend_from_slice(table::columns(self.kind.columns).to_string().as_bytes());
            out.push(b',');
        }
        out.extend_from_slice(format!("\"{field}\":[").as_bytes());
    }

    fn item(&self, out: &mut Vec<u8>, item: &Item) {
        let value = match self.look.form {
            Form::Object => return self.splicer.write(out, &item.value, item.revision),
            Form::Metadata(version) => table::partial(&object::of_item(self.kind, item), version),
            Form::Table(version) => {
                let object = object::of_item(self.kind, item);
                table::row(self.kind, object, self.look.include, version, &self.look.moment)
            }
        };
        serde_json::to_writer(out, &value).expect("a value is JSON");
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        match self.state {
            State::Done => return None,
            State::Head => self.head(&mut out),
            State::Items => {}
        }
        let mut first = std::mem::replace(&mut self.state, State::Items) == State::Head;
        while out.len() < PIECE {
            let Some(item) = self.items.next() else {
                out.extend_from_slice(b"]}");
                self.state = State::Done;
                break;
            };
            if !std::mem::replace(&mut first, false) {
                out.push(b',');
            }
            self.item(&mut out, &item);
        }
        Some(out.into())
    }
}

#[cfg(test)]
mod tests;
