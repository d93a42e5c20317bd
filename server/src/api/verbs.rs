//! What a request asks of an object or a collection, and the answer.

use coracle_shared::api::json::Parsed;
use coracle_shared::api::status::Status;
use coracle_shared::api::table::{TypeId, schema};
use coracle_shared::api::validate::Mode;
use coracle_shared::submit::Identity;
use futures_lite::stream;
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use serde_json::Value;

use super::accept::{self, Form};
use super::authz::Attributes;
use super::list::{self, Look, Plan, resource};
use super::patch::{APPLY, Patch};
use super::query::Query;
use super::reply::{self, JSON, Payload, Reply, respond};
use super::route::Target;
use super::select::Selection;
use super::table::Include;
use super::watch::{Feed, Start};
use super::write::{self, Call, Deleted, Options, Written};
use super::{Api, body, review};
use crate::kinds::{Moment, SubKind, View};

/// A request about an object or a collection, its body still to come.
pub struct Ask<'a> {
    pub who: &'a Identity,
    pub method: &'a Method,
    pub target: Target,
    pub query: Query,
    pub accept: Option<&'a str>,
    pub content_type: &'a str,
    pub user_agent: &'a str,
}

/// The verb of a request in the words of authorization.
pub fn verb(method: &Method, target: &Target, query: &Query) -> Result<&'static str, Status> {
    let whole = target.name.is_empty();
    let watch = whole && query.flag("watch")?;
    let refused = || Status::method_not_allowed(resource(target.kind), method.as_str());
    let verb = match *method {
        Method::GET | Method::HEAD if watch => "watch",
        Method::GET | Method::HEAD if whole => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT if !whole => "update",
        Method::PATCH if !whole => "patch",
        Method::DELETE if whole => "deletecollection",
        Method::DELETE => "delete",
        _ => return Err(refused()),
    };
    let fits = match target.sub {
        Some(sub) => sub.verbs.contains(&verb),
        None if !target.kind.verbs.contains(&verb) => false,
        // A collection over all namespaces has no place for a new object, and objects are made in collections.
        None if verb == "create" => whole && (target.namespace.is_empty() != target.kind.namespaced),
        None => true,
    };
    if fits { Ok(verb) } else { Err(refused()) }
}

impl Ask<'_> {
    /// What authorization decides about.
    pub fn attributes<'s>(&'s self, verb: &'s str, selection: &'s Selection) -> Attributes<'s> {
        Attributes {
            verb,
            group: self.target.kind.group,
            resource: self.target.kind.plural,
            subresource: self.target.sub.map_or("", |s| s.name),
            namespace: &self.target.namespace,
            name: selection.name().filter(|_| self.target.name.is_empty()).unwrap_or(&self.target.name),
            on_node: selection.exact("spec.nodeName"),
        }
    }

    /// Who manages what is written: as said, or the program that writes.
    pub fn manager(&self) -> &str {
        let program = self.user_agent.split('/').next().unwrap_or_default();
        self.query.get("fieldManager").unwrap_or(if program.is_empty() { "unknown" } else { program })
    }

    pub fn look(&self, api: &Api) -> Result<Look, Status> {
        Ok(Look {
            form: accept::form(self.accept)?,
            include: Include::parse(self.query.get("includeObject"))?,
            moment: Moment { now: (api.writer.clock)() },
        })
    }

    /// How strictly unknown fields are taken.
    pub fn mode(&self) -> Result<Mode, Status> {
        let mode = self.query.get("fieldValidation");
        let unknown = || {
            let given = mode.unwrap_or_default();
            Status::bad_request(format!(
                "fieldValidation: Unsupported value: {given:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))
        };
        Mode::parse(mode).ok_or_else(unknown)
    }

    pub fn call(&self) -> Result<Call<'_>, Status> {
        Ok(Call {
            who: self.who,
            target: &self.target,
            dry_run: write::dry_run(&self.query)?,
            mode: self.mode()?,
            manager: Some(self.manager()),
        })
    }
}

impl Api {
    /// Answers a request that was authorized; `bytes` is its body.
    pub async fn act(&self, ask: Ask<'_>, verb: &str, selection: Selection, bytes: &Bytes) -> Result<Reply, Status> {
        match (verb, ask.target.sub.map(|s| s.sub)) {
            ("list", _) => {
                let look = ask.look(self)?;
                let selected = list::select(&*self.store, &ask.target, Plan::parse(&ask.query)?, &selection).await?;
                Ok(list::many(ask.target.kind, selected, &look))
            }
            ("watch", _) => self.watch(ask, selection).await,
            ("get", Some(SubKind::Scale)) => {
                let item = list::find(&*self.store, &ask.target)?;
                let object = super::object::of_item(ask.target.kind, &item);
                Ok(reply::value(StatusCode::OK, &write::scale_of(&object)))
            }
            ("get", _) => {
                let look = ask.look(self)?;
                let item = list::find(&*self.store, &ask.target)?;
                Ok(list::one(&ask.target, &item, StatusCode::OK, &look))
            }
            ("create", Some(sub)) => self.create_part(&ask, sub, bytes).await,
            ("create", None) if review::is_review(ask.target.kind) => self.review(&ask, bytes),
            ("create", None) => self.create(&ask, bytes).await,
            ("update" | "patch", Some(SubKind::Scale)) => self.scale(&ask, verb, bytes).await,
            ("update", _) => {
                let parsed = body::object(ask.content_type, bytes)?;
                self.modify(&ask, &|_| Ok(parsed.clone())).await
            }
            ("patch", _) if body::media(ask.content_type) == APPLY => self.apply(&ask, bytes).await,
            ("patch", _) => {
                let (patch, id) = (Patch::read(ask.content_type, bytes)?, type_of(&ask.target));
                self.modify(&ask, &|old| patch.apply(id, old)).await
            }
            ("delete", _) => self.delete(&ask, bytes).await,
            ("deletecollection", _) => self.delete_collection(&ask, &selection, bytes).await,
            _ => Err(Status::method_not_allowed(resource(ask.target.kind), verb)),
        }
    }

    async fn create(&self, ask: &Ask<'_>, bytes: &Bytes) -> Result<Reply, Status> {
        let look = ask.look(self)?;
        let mut parsed = body::object(ask.content_type, bytes)?;
        // What managers a copy had says nothing of the new object.
        if let Some(metadata) = parsed.value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        let written = self.writer.create(&ask.call()?, parsed).await?;
        Ok(self.written(ask, &written, StatusCode::CREATED, &look))
    }

    async fn modify(&self, ask: &Ask<'_>, intent: write::Intent<'_>) -> Result<Reply, Status> {
        let look = ask.look(self)?;
        let written = self.writer.modify(&ask.call()?, intent).await?;
        Ok(self.written(ask, &written, StatusCode::OK, &look))
    }

    pub fn written(&self, ask: &Ask<'_>, written: &Written, code: StatusCode, look: &Look) -> Reply {
        let mut reply = list::one(&ask.target, &written.item, code, look);
        reply::warn(&mut reply, &written.warnings);
        reply
    }

    async fn scale(&self, ask: &Ask<'_>, verb: &str, bytes: &Bytes) -> Result<Reply, Status> {
        let parsed = |scale: &Value| -> Result<Parsed, Status> {
            if verb == "update" {
                return body::object(ask.content_type, bytes);
            }
            let id = schema().kind("autoscaling", "v1", "Scale").expect("Scale is in the field table");
            Patch::read(ask.content_type, bytes)?.apply(id, scale)
        };
        let target = Target { sub: None, ..ask.target.clone() };
        let call = Call { target: &target, ..ask.call()? };
        let intent = |old: &Value| write::scaled(old, parsed(&write::scale_of(old))?, call.mode);
        let written = self.writer.modify(&call, &intent).await?;
        Ok(reply::value(StatusCode::OK, &write::scale_of(&written.value(target.kind))))
    }

    async fn create_part(&self, ask: &Ask<'_>, sub: SubKind, bytes: &Bytes) -> Result<Reply, Status> {
        let call = ask.call()?;
        let object = body::object(ask.content_type, bytes)?.value;
        let view = View(&object);
        match sub {
            SubKind::Binding => {
                self.writer.bind(&call, view.text(&["metadata", "uid"]), view.text(&["target", "name"])).await?;
            }
            SubKind::Eviction => {
                self.writer.evict(&call, &object, &ask.query).await?;
            }
            _ => return Err(Status::method_not_allowed(resource(ask.target.kind), "create")),
        }
        let mut success = coracle_shared::api::status::success(None);
        success["code"] = 201.into();
        Ok(reply::value(StatusCode::CREATED, &success))
    }

    async fn delete(&self, ask: &Ask<'_>, bytes: &Bytes) -> Result<Reply, Status> {
        let look = ask.look(self)?;
        let options = Options::parse(&delete_body(ask, bytes)?, &ask.query)?;
        Ok(match self.writer.delete(&ask.call()?, &options).await? {
            Deleted::Gone(item) => reply::value(StatusCode::OK, &Deleted::status(ask.target.kind, &item)),
            Deleted::Lingers(item) => list::one(&ask.target, &item, StatusCode::OK, &look),
        })
    }

    async fn delete_collection(&self, ask: &Ask<'_>, selection: &Selection, bytes: &Bytes) -> Result<Reply, Status> {
        let options = Options::parse(&delete_body(ask, bytes)?, &ask.query)?;
        let selected = list::select(&*self.store, &ask.target, Plan::parse(&ask.query)?, selection).await?;
        for item in &selected.items {
            let (namespace, name) = (item.key.namespace.to_string(), item.key.name.to_string());
            let target = Target { namespace, name, ..ask.target.clone() };
            let call = Call { target: &target, ..ask.call()? };
            match self.writer.delete(&call, &options).await {
                Ok(_) => {}
                // Someone else was faster: it is what was wanted.
                Err(status) if status.code == 404 => {}
                Err(status) => return Err(status),
            }
        }
        let look = Look { form: Form::Object, ..ask.look(self)? };
        Ok(list::many(ask.target.kind, selected, &look))
    }

    async fn watch(&self, ask: Ask<'_>, selection: Selection) -> Result<Reply, Status> {
        let look = ask.look(self)?;
        let start = Start::parse(&ask.query)?;
        let clock = self.writer.clock.clone();
        let feed = Feed::open(&*self.store, &self.hub, clock, (ask.target, selection, look), start).await?;
        let lines = stream::unfold(feed, |mut feed| async move { feed.next().await.map(|bytes| (Ok(bytes), feed)) });
        Ok(respond(StatusCode::OK, JSON, Payload::Stream(Box::pin(lines))))
    }
}

/// The type whose merge rules hold for a patch.
pub fn type_of(target: &Target) -> TypeId {
    let kind = target.kind;
    schema().kind(kind.group, kind.version, kind.kind).expect("every row is in the field table")
}

/// `DeleteOptions`, which a client may leave out.
fn delete_body(ask: &Ask<'_>, bytes: &Bytes) -> Result<Value, Status> {
    match bytes.is_empty() {
        true => Ok(Value::Null),
        false => Ok(body::object(ask.content_type, bytes)?.value),
    }
}
