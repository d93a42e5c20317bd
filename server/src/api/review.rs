//! Questions about rights and identities: asked by a POST, answered at once, never stored.

use coracle_shared::api::json::Parsed;
use coracle_shared::api::status::Status;
use coracle_shared::api::table::schema;
use coracle_shared::api::validate;
use coracle_shared::submit::Identity;
use hyper::StatusCode;
use hyper::body::Bytes;
use serde_json::{Value, json};

use super::authz::{self, Attributes, MASTERS};
use super::rbac::Rule;
use super::reply::{self, Reply};
use super::verbs::Ask;
use super::{Api, body};
use crate::kinds::{Kind, View};

/// Whether objects of a kind are questions.
pub fn is_review(kind: &Kind) -> bool {
    kind.verbs == ["create"]
}

impl Api {
    /// Answers a question: the object that was sent, with its status.
    pub fn review(&self, ask: &Ask<'_>, bytes: &Bytes) -> Result<Reply, Status> {
        let kind = ask.target.kind;
        let Parsed { mut value, duplicates } = body::object(ask.content_type, bytes)?;
        let id = schema().kind(kind.group, kind.version, kind.kind).expect("every row is in the field table");
        let mode = ask.mode()?;
        let warnings =
            validate::fields(id, &mut value, &duplicates, mode).map_err(|e| e.status(kind.kind, kind.version))?;
        let status = match kind.kind {
            "SelfSubjectAccessReview" => self.access(ask.who, &value)?,
            "SubjectAccessReview" | "LocalSubjectAccessReview" => {
                let who = subject(&value)?;
                within(ask, &value)?;
                self.access(&who, &value)?
            }
            "SelfSubjectRulesReview" => self.rules(ask.who, View(&value).text(&["spec", "namespace"]))?,
            "SelfSubjectReview" => json!({"userInfo": {"username": ask.who.user, "groups": ask.who.groups}}),
            _ => return Err(Status::no_such_path()),
        };
        value["apiVersion"] = kind.api_version().into();
        value["kind"] = kind.kind.into();
        if !value["metadata"].is_object() {
            value["metadata"] = json!({});
        }
        value["metadata"]["creationTimestamp"] = Value::Null;
        value["status"] = status;
        let mut reply = reply::value(StatusCode::CREATED, &value);
        reply::warn(&mut reply, &warnings);
        Ok(reply)
    }

    fn access(&self, who: &Identity, review: &Value) -> Result<Value, Status> {
        let view = View(review);
        let (resource, path) = (view.at(&["spec", "resourceAttributes"]), view.at(&["spec", "nonResourceAttributes"]));
        let allowed = match (resource.is_object(), path.is_object()) {
            (true, false) => {
                let of = View(resource);
                let ask = Attributes {
                    verb: of.text(&["verb"]),
                    group: of.text(&["group"]),
                    resource: of.text(&["resource"]),
                    subresource: of.text(&["subresource"]),
                    namespace: of.text(&["namespace"]),
                    name: of.text(&["name"]),
                    on_node: None,
                };
                self.allowed(who, &ask)
            }
            (false, true) => {
                let of = View(path);
                authz::allowed_path(who, of.text(&["verb"]), of.text(&["path"]), &self.roles.book())
            }
            _ => {
                let why = "spec: exactly one of nonResourceAttributes or resourceAttributes must be specified";
                return Err(Status::bad_request(why));
            }
        };
        Ok(json!({"allowed": allowed}))
    }

    /// Every rule that someone holds in a namespace.
    fn rules(&self, who: &Identity, namespace: &str) -> Result<Value, Status> {
        if namespace.is_empty() {
            return Err(Status::bad_request("no namespace on request"));
        }
        let book = self.roles.book();
        let own: Vec<&Rule> = book.rules(who, namespace).collect();
        let shown = |urls: bool| -> Vec<Value> {
            own.iter().filter(|rule| rule.urls.is_empty() != urls).map(|rule| rule.shown()).collect()
        };
        // A node's rights follow from its pods and are no rules.
        let incomplete = who.groups.iter().any(|group| group == authz::NODES);
        let mut status =
            json!({"resourceRules": shown(false), "nonResourceRules": shown(true), "incomplete": incomplete});
        if who.groups.iter().any(|group| group == MASTERS) {
            let all = |field: &str| json!({"verbs": ["*"], field: ["*"]});
            let mut every = all("resources");
            every["apiGroups"] = json!(["*"]);
            status["resourceRules"] = json!([every]);
            status["nonResourceRules"] = json!([all("nonResourceURLs")]);
        }
        Ok(status)
    }
}

/// Whom a review asks about.
fn subject(review: &Value) -> Result<Identity, Status> {
    let view = View(review);
    let groups: Vec<String> =
        view.list(&["spec", "groups"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let user = view.text(&["spec", "user"]).to_owned();
    if user.is_empty() && groups.is_empty() {
        return Err(Status::bad_request("spec: at least one of user or groups must be specified"));
    }
    Ok(Identity { user, groups })
}

/// A local review asks about its own namespace.
fn within(ask: &Ask<'_>, review: &Value) -> Result<(), Status> {
    let asked = View(review).text(&["spec", "resourceAttributes", "namespace"]);
    if ask.target.kind.namespaced && asked != ask.target.namespace {
        return Err(Status::bad_request(format!(
            "spec.resourceAttributes.namespace: must match the namespace of the request: {asked:?} and {:?}",
            ask.target.namespace
        )));
    }
    Ok(())
}
