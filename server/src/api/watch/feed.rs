//! One watch: what its client is sent, in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_shared::api::status::Status;
use coracle_store::{HistoryError, Item, Revision, Store};
use futures_lite::FutureExt as _;
use hyper::body::Bytes;
use serde_json::{Value, json};

use super::Change;
use super::change::{Type, line};
use super::hub::{Hub, Seat};
use crate::api::WallClock;
use crate::api::accept::Form;
use crate::api::list::{self, Look, Plan};
use crate::api::object::{self, Splicer};
use crate::api::query::Query;
use crate::api::route::Target;
use crate::api::select::Selection;
use crate::api::table;
use crate::kinds::Moment;

/// How often a client that asked for bookmarks gets one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// How long a watch lives whose client does not say: between one and two of these, so that they
/// do not all come back at once.
const DEFAULT_LIFE: Duration = Duration::from_secs(1800);

/// Changes read from the store at once while catching up.
const CATCH_UP: usize = 256;

/// Bytes after which what is ready is sent rather than added to.
const PIECE: usize = 64 << 10;

/// Where a watch starts and how long it lives.
pub struct Start {
    /// `None`: with the current state.
    after: Option<Revision>,
    not_before: Revision,
    bookmarks: bool,
    /// A bookmark says when the initial state was sent.
    mark_initial: bool,
    life: Option<Duration>,
}

impl Start {
    pub fn parse(query: &Query) -> Result<Start, Status> {
        let revision = list::revision(query)?.filter(|r| r.0 != 0);
        let send_initial = query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents")).transpose()?;
        let matching = query.get("resourceVersionMatch");
        let invalid = |why: &str| Status::invalid(OPTIONS, "", &[list_options_error(why)]);
        match (send_initial, matching) {
            (Some(_), Some("NotOlderThan")) | (None, None) => {}
            (Some(_), _) => {
                return Err(invalid("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"));
            }
            (None, Some(_)) => {
                return Err(invalid(
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ));
            }
        }
        let initial = send_initial.unwrap_or(revision.is_none());
        Ok(Start {
            after: if initial { None } else { Some(revision.unwrap_or_default()) },
            not_before: revision.unwrap_or_default(),
            bookmarks: query.flag("allowWatchBookmarks")?,
            mark_initial: send_initial == Some(true),
            life: query.number("timeoutSeconds")?.filter(|s| *s > 0).map(Duration::from_secs),
        })
    }
}

const OPTIONS: coracle_shared::api::status::GroupKind<'static> =
    coracle_shared::api::status::GroupKind { group: "meta.k8s.io", kind: "ListOptions" };

fn list_options_error(why: &str) -> coracle_shared::api::field::FieldError {
    let root = coracle_shared::api::field::Path::ROOT;
    coracle_shared::api::field::FieldError::forbidden(&root.child("resourceVersionMatch"), why)
}

/// A watch under way.
pub struct Feed {
    target: Target,
    selection: Selection,
    look: Look,
    clock: WallClock,
    hub: Arc<Hub>,
    seat: Seat,
    splicer: Splicer,
    /// The state that the watch begins with.
    initial: VecDeque<Item>,
    /// Changes that were read from the store or already taken from the queue.
    backlog: VecDeque<Arc<Change>>,
    /// Queued changes up to here are known from the initial state or the backlog.
    known: Revision,
    /// A bookmark to send once everything that is there is sent, and whether it ends the initial state.
    due: Option<(Revision, bool)>,
    /// When the next bookmark is due, for those who want them.
    next_bookmark: Option<Instant>,
    ends: Instant,
    timer: smol::Timer,
    columns_sent: bool,
    over: bool,
}

enum Woken {
    Change(Arc<Change>),
    Timer,
    CutOff,
}

impl Feed {
    /// Joins the hub and reads what lies between the start and now.
    pub async fn open(
        store: &dyn Store,
        hub: &Arc<Hub>,
        clock: WallClock,
        (target, selection, look): (Target, Selection, Look),
        start: Start,
    ) -> Result<Feed, Status> {
        list::reached(store, start.not_before.max(start.after.unwrap_or_default())).await?;
        let namespace = (!target.namespace.is_empty()).then(|| Arc::from(target.namespace.as_str()));
        let seat = hub.join(target.kind.stored(), namespace, selection.name().map(Arc::from))?;
        let now = Instant::now();
        let ends = now + start.life.unwrap_or_else(|| DEFAULT_LIFE.mul_f64(1.0 + seat.spread()));
        let next_bookmark = start.bookmarks.then(|| now + BOOKMARK_EVERY);
        let mut feed = Feed {
            splicer: Splicer::new(target.kind),
            hub: hub.clone(),
            initial: VecDeque::new(),
            backlog: VecDeque::new(),
            known: seat.from,
            due: None,
            next_bookmark,
            ends,
            timer: smol::Timer::at(next_bookmark.map_or(ends, |b| b.min(ends))),
            columns_sent: false,
            over: false,
            target,
            selection,
            look,
            clock,
            seat,
        };
        match start.after {
            None => feed.begin_with_state(store, start.mark_initial).await?,
            Some(after) => feed.begin_after(store, after)?,
        }
        Ok(feed)
    }

    async fn begin_with_state(&mut self, store: &dyn Store, mark: bool) -> Result<(), Status> {
        let selected = list::select(store, &self.target, Plan::default(), &self.selection).await?;
        self.known = selected.revision;
        self.due = mark.then_some((selected.revision, true));
        self.initial = selected.items.into();
        Ok(())
    }

    fn begin_after(&mut self, store: &dyn Store, after: Revision) -> Result<(), Status> {
        let resource = self.target.kind.stored();
        let mut read = after;
        loop {
            let events = store.changes(Some(&resource), read, CATCH_UP).map_err(|error| match error {
                HistoryError::Compacted { floor } => Status::too_old(after.0, floor.0),
                HistoryError::Future { current } => Status::revision_too_large(after.0, current.0),
            })?;
            let Some(last) = events.last() else { break };
            read = last.revision;
            self.backlog.extend(events.into_iter().map(|e| Arc::new(Change::new(e))));
            if read >= self.seat.from {
                break;
            }
        }
        self.known = read.max(self.seat.from);
        Ok(())
    }

    /// The next bytes to send. `None`: the watch is over.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            let ready = self.ready();
            if ready.is_some() {
                return ready;
            }
            if self.over {
                return None;
            }
            match self.woken().await {
                Woken::Change(change) => self.take(change),
                Woken::Timer => self.timer_fired(),
                Woken::CutOff => {
                    self.over = true;
                    let status = Status::expired("the watch fell too far behind and was cut off: list again");
                    return Some(to_line("ERROR", &status.to_value()));
                }
            }
        }
    }

    async fn woken(&mut self) -> Woken {
        let (changes, timer) = (&self.seat.changes, &mut self.timer);
        let change = async { changes.recv().await.map_or(Woken::CutOff, Woken::Change) };
        let fired = async {
            timer.await;
            Woken::Timer
        };
        change.or(fired).await
    }

    /// A bookmark promises that everything up to it was sent: the hub's revision is read before the
    /// queue is emptied for the last time.
    fn timer_fired(&mut self) {
        let now = Instant::now();
        self.over = now >= self.ends;
        if self.next_bookmark.is_some_and(|next| self.over || now >= next) {
            self.due = Some((self.hub.handed().max(self.known), false));
            self.next_bookmark = Some(now + BOOKMARK_EVERY);
        }
        self.timer.set_at(self.next_bookmark.map_or(self.ends, |b| b.min(self.ends)));
    }

    fn take(&mut self, change: Arc<Change>) {
        if change.event.revision > self.known {
            self.backlog.push_back(change);
        }
    }

    /// Encodes what is there without waiting. A single shared line is handed on as it is.
    fn ready(&mut self) -> Option<Bytes> {
        let mut out = Gather::default();
        while !out.full() {
            let Some(item) = self.initial.pop_front() else { break };
            out.push(self.initial_line(&item));
        }
        while !out.full() && self.initial.is_empty() {
            while let Some(change) = self.seat.changes.try_recv().ok().filter(|_| self.backlog.len() < CATCH_UP) {
                self.take(change);
            }
            let Some(change) = self.backlog.pop_front() else { break };
            if let Some(line) = self.line_of(&change) {
                out.push(line);
            }
        }
        if !out.full()
            && let Some((revision, initial)) = self.due.take()
        {
            out.push(self.bookmark(revision, initial));
        }
        out.finish()
    }

    fn initial_line(&mut self, item: &Item) -> Bytes {
        match self.look.form {
            Form::Object => line(&self.splicer, Type::Added.name(), &item.value, item.revision),
            _ => self.shaped(Type::Added, &item.value, item.revision),
        }
    }

    fn line_of(&mut self, change: &Change) -> Option<Bytes> {
        let event = &change.event;
        if !self.target.namespace.is_empty() && *event.key.namespace != *self.target.namespace {
            return None;
        }
        let seen = change.seen(self.target.kind, &self.selection)?;
        Some(match self.look.form {
            Form::Object => change.line(self.target.kind, seen),
            _ => self.shaped(seen, change.bytes(seen), event.revision),
        })
    }

    /// A line in another form than the plain object.
    fn shaped(&mut self, seen: Type, bytes: &[u8], revision: Revision) -> Bytes {
        let kind = self.target.kind;
        let mut object = object::decode(kind, bytes, Some(revision));
        object::to_row(kind, &mut object);
        let object = match self.look.form {
            Form::Table(version) => {
                let moment = Moment { now: (self.clock)() };
                let row = table::row(kind, object, self.look.include, version, &moment);
                self.table_of(version, revision, vec![row])
            }
            Form::Metadata(version) => table::partial(&object, version),
            Form::Object => object,
        };
        to_line(seen.name(), &object)
    }

    /// Columns are said once a watch.
    fn table_of(&mut self, version: &str, revision: Revision, rows: Vec<Value>) -> Value {
        let columns = match std::mem::replace(&mut self.columns_sent, true) {
            true => Value::Null,
            false => table::columns(self.target.kind.columns),
        };
        table::table(version, json!({"resourceVersion": revision.to_string()}), columns, rows)
    }

    fn bookmark(&mut self, revision: Revision, initial: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let kind = self.target.kind;
        let object = match self.look.form {
            Form::Object => json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata}),
            Form::Metadata(version) => table::partial(&json!({"metadata": metadata}), version),
            Form::Table(version) => {
                let mut table = self.table_of(version, revision, Vec::new());
                table["metadata"] = metadata;
                table
            }
        };
        to_line("BOOKMARK", &object)
    }
}

fn to_line(name: &str, object: &Value) -> Bytes {
    format!("{{\"type\":\"{name}\",\"object\":{object}}}\n").into()
}

/// Lines on their way out. One alone is not copied.
#[derive(Default)]
struct Gather {
    alone: Option<Bytes>,
    joined: Vec<u8>,
}

impl Gather {
    fn push(&mut self, line: Bytes) {
        if self.alone.is_none() && self.joined.is_empty() {
            self.alone = Some(line);
            return;
        }
        if let Some(first) = self.alone.take() {
            self.joined.extend_from_slice(&first);
        }
        self.joined.extend_from_slice(&line);
    }

    fn full(&self) -> bool {
        self.joined.len() >= PIECE
    }

    fn finish(self) -> Option<Bytes> {
        self.alone.or_else(|| (!self.joined.is_empty()).then(|| self.joined.into()))
    }
}

#[cfg(test)]
mod tests;
