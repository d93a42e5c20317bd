//! Server-side apply: what a client says an object should be, against what others say.

use coracle_shared::api::json::Parsed;
use coracle_shared::api::managed::{self, Conflict, Writer};
use coracle_shared::api::status::{Cause, Status};
use coracle_shared::api::{canonical, validate};
use hyper::StatusCode;
use hyper::body::Bytes;
use serde_json::Value;

use super::list::{self, resource};
use super::reply::Reply;
use super::route::Target;
use super::verbs::{Ask, type_of};
use super::write::{Call, timestamp};
use super::{Api, body};
use crate::kinds::{SubKind, View};

impl Api {
    /// Applies what was sent: changes the object, or makes it.
    pub async fn apply(&self, ask: &Ask<'_>, bytes: &Bytes) -> Result<Reply, Status> {
        let (look, call, kind) = (ask.look(self)?, ask.call()?, ask.target.kind);
        let Some(manager) = ask.query.get("fieldManager") else {
            return Err(Status::bad_request("fieldManager is required for apply patch"));
        };
        let force = ask.query.flag("force")?;
        let id = type_of(&ask.target);
        let Parsed { value: mut applied, duplicates } = body::object("application/yaml", bytes)?;
        let warnings = validate::fields(id, &mut applied, &duplicates, call.mode)
            .map_err(|e| e.status(kind.kind, kind.version))?;
        canonical::object(id, &mut applied);
        admissible(&ask.target, &mut applied)?;
        let (api_version, time) = (kind.api_version(), timestamp((self.writer.clock)()));
        let subresource = ask.target.sub.map_or("", |sub| sub.name);
        let by = Writer { manager, api_version: &api_version, subresource, time: &time };
        let whole = |value| Parsed { value, duplicates: Vec::new() };
        let call = Call { manager: None, ..call };
        let missing = list::find(&*self.store, &ask.target).is_err_and(|status| status.code == 404);
        let (mut written, code) = if missing && ask.target.sub.is_none() {
            let target = Target { name: String::new(), ..ask.target.clone() };
            let new = managed::applied_first(id, &applied, &by);
            self.authorize(ask.who, &ask.attributes("create", &super::select::Selection::everything()))?;
            (self.writer.create(&Call { target: &target, ..call }, whole(new)).await?, StatusCode::CREATED)
        } else {
            let intent = |old: &Value| {
                let merged = managed::apply(id, old, &applied, &by, force);
                merged.map(whole).map_err(|conflicts| refused(&ask.target, &conflicts))
            };
            (self.writer.modify(&call, &intent).await?, StatusCode::OK)
        };
        written.warnings.extend(warnings);
        Ok(self.written(ask, &written, code, &look))
    }
}

/// What may be applied: an object of this name that says nothing of managers. A status is applied at
/// its own address.
fn admissible(target: &Target, applied: &mut Value) -> Result<(), Status> {
    let view = View(applied);
    if !view.list(&["metadata", "managedFields"]).is_empty() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let expected = target.kind.api_version();
    if view.text(&["apiVersion"]) != expected || view.text(&["kind"]) != target.kind.kind {
        let why = format!("the applied object must be of apiVersion {expected:?} and kind {:?}", target.kind.kind);
        return Err(Status::bad_request(why));
    }
    let name = view.text(&["metadata", "name"]).to_owned();
    if !name.is_empty() && name != target.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    applied["metadata"]["name"] = target.name.as_str().into();
    if target.sub.is_none()
        && target.kind.has(SubKind::Status)
        && let Some(fields) = applied.as_object_mut()
    {
        fields.remove("status");
    }
    Ok(())
}

/// The 409 that names every field and its manager.
fn refused(target: &Target, conflicts: &[Conflict]) -> Status {
    let count = match conflicts.len() {
        1 => "1 conflict".to_owned(),
        many => format!("{many} conflicts"),
    };
    let lines: Vec<String> = conflicts.iter().map(|c| format!("{}: {}", c.words(), c.path)).collect();
    let mut status = Status::conflict(resource(target.kind), &target.name, "");
    status.message = format!("Apply failed with {count}: {}", lines.join("\n"));
    if let Some(details) = &mut status.details {
        details.causes = conflicts
            .iter()
            .map(|c| Cause { reason: "FieldManagerConflict", message: c.words(), field: c.path.clone() })
            .collect();
    }
    status
}
