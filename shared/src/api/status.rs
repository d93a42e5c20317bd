//! `v1.Status`: how every refusal reaches a client. kubectl prints
//! `Error from server (REASON): MESSAGE`, and people search for these words.

use std::fmt;

use serde_json::{Map, Value, json};

use super::field::FieldError;

/// Causes listed in one Status: more would not help anybody and a hostile object can have millions.
pub const MAX_CAUSES: usize = 256;

/// A resource as messages name it: `pods`, `deployments.apps`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource<'a> {
    /// Empty for the core group.
    pub group: &'a str,
    pub plural: &'a str,
}

impl fmt::Display for Resource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        qualified(f, self.plural, self.group)
    }
}

/// A kind as messages name it: `Pod`, `Deployment.apps`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupKind<'a> {
    /// Empty for the core group.
    pub group: &'a str,
    pub kind: &'a str,
}

impl fmt::Display for GroupKind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        qualified(f, self.kind, self.group)
    }
}

fn qualified(f: &mut fmt::Formatter<'_>, name: &str, group: &str) -> fmt::Result {
    match group.is_empty() {
        true => f.write_str(name),
        false => write!(f, "{name}.{group}"),
    }
}

/// One of `details.causes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    pub reason: &'static str,
    pub message: String,
    pub field: String,
}

/// `details`. Empty parts are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    pub name: String,
    pub group: String,
    /// The resource's plural, or the kind for `Invalid`, as upstream does.
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    pub retry_after_seconds: u32,
}

/// A failure, on its way to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The HTTP status too.
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    pub details: Option<Box<Details>>,
    /// `metadata.continue`: only with an expired list (see [`Status::expired_continue`]).
    pub continue_token: Option<String>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} {})", self.message, self.code, self.reason)
    }
}

impl std::error::Error for Status {}

impl Status {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Status {
        Status { code, reason, message: message.into(), details: None, continue_token: None }
    }

    fn about(mut self, resource: Resource<'_>, name: &str) -> Status {
        self.details = Some(Box::new(Details {
            name: name.into(),
            group: resource.group.into(),
            kind: resource.plural.into(),
            ..Details::default()
        }));
        self
    }

    fn caused_by(mut self, cause: Cause) -> Status {
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// Asks the client to come back after `seconds` (also the `Retry-After` header).
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Status {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// 404 for an object.
    pub fn not_found(resource: Resource<'_>, name: &str) -> Status {
        Status::new(404, "NotFound", format!("{resource} {name:?} not found")).about(resource, name)
    }

    /// 404 for a path that the server does not have.
    pub fn no_such_path() -> Status {
        let words = "the server could not find the requested resource";
        let mut status = Status::new(404, "NotFound", words);
        status.details = Some(Box::default());
        status
    }

    /// 409: the name is taken.
    pub fn already_exists(resource: Resource<'_>, name: &str) -> Status {
        let message = format!("{resource} {name:?} already exists");
        Status::new(409, "AlreadyExists", message).about(resource, name)
    }

    /// 409: `generateName` found no free name.
    pub fn generate_name_conflict(resource: Resource<'_>, name: &str) -> Status {
        let message = format!(
            "{resource} {name:?} already exists, the server was not able to generate a unique name for the object"
        );
        let status = Status::new(409, "AlreadyExists", message).about(resource, name);
        status.retry_after(1)
    }

    /// 409 for a reason of the caller's.
    pub fn conflict(resource: Resource<'_>, name: &str, why: impl fmt::Display) -> Status {
        let message = format!("Operation cannot be fulfilled on {resource} {name:?}: {why}");
        Status::new(409, "Conflict", message).about(resource, name)
    }

    /// 409: the `resourceVersion` given is not the current one.
    pub fn modified(resource: Resource<'_>, name: &str) -> Status {
        Status::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 409: a precondition of a delete does not hold. `what` is `UID` or `ResourceVersion`.
    pub fn precondition(resource: Resource<'_>, name: &str, what: &str, given: &str, found: &str) -> Status {
        let why = format!("Precondition failed: {what} in precondition: {given}, {what} in object meta: {found}");
        Status::conflict(resource, name, why)
    }

    /// 422 with one cause a field.
    pub fn invalid(kind: GroupKind<'_>, name: &str, errors: &[FieldError]) -> Status {
        let mut words: Vec<String> = Vec::new();
        for error in errors.iter().take(MAX_CAUSES) {
            let text = error.to_string();
            if !words.contains(&text) {
                words.push(text);
            }
        }
        let list = match words.as_slice() {
            [] => String::new(),
            [one] => format!(": {one}"),
            many => format!(": [{}]", many.join(", ")),
        };
        let mut status = Status::new(422, "Invalid", format!("{kind} {name:?} is invalid{list}"));
        let causes = errors.iter().take(MAX_CAUSES).map(|error| Cause {
            reason: error.kind.reason(),
            message: error.body(),
            field: error.field.clone(),
        });
        status.details = Some(Box::new(Details {
            name: name.into(),
            group: kind.group.into(),
            kind: kind.kind.into(),
            causes: causes.collect(),
            ..Details::default()
        }));
        status
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::new(400, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> Status {
        Status::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403: `why` says who may not do what.
    pub fn forbidden(resource: Resource<'_>, name: &str, why: impl fmt::Display) -> Status {
        let message = match (resource.plural, name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{resource} is forbidden: {why}"),
            _ => format!("{resource} {name:?} is forbidden: {why}"),
        };
        Status::new(403, "Forbidden", message).about(resource, name)
    }

    /// 403 of authorization, in the words kubectl's users know. `namespace` is empty for cluster scope.
    pub fn denied(
        user: &str,
        verb: &str,
        resource: Resource<'_>,
        subresource: &str,
        namespace: &str,
        name: &str,
    ) -> Status {
        let plural = match subresource {
            "" => resource.plural.to_string(),
            sub => format!("{}/{sub}", resource.plural),
        };
        let place = match namespace {
            "" => "at the cluster scope".to_string(),
            ns => format!("in the namespace {ns:?}"),
        };
        let why = format!("User {user:?} cannot {verb} resource {plural:?} in API group {:?} {place}", resource.group);
        Status::forbidden(resource, name, why)
    }

    /// 403 for a path that is not a resource.
    pub fn denied_path(user: &str, verb: &str, path: &str) -> Status {
        let nothing = Resource { group: "", plural: "" };
        let mut status = Status::forbidden(nothing, "", format!("User {user:?} cannot {verb} path {path:?}"));
        status.details = Some(Box::default());
        status
    }

    /// 405: `action` is a verb of HTTP or of the API.
    pub fn method_not_allowed(resource: Resource<'_>, action: &str) -> Status {
        let message = format!("{action} is not supported on resources of kind \"{resource}\"");
        Status::new(405, "MethodNotAllowed", message).about(resource, "")
    }

    /// 406.
    pub fn not_acceptable(supported: &[&str]) -> Status {
        let message = format!("only the following media types are accepted: {}", supported.join(", "));
        Status::new(406, "NotAcceptable", message)
    }

    /// 415.
    pub fn unsupported_media_type(supported: &[&str]) -> Status {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            supported.join(", ")
        );
        Status::new(415, "UnsupportedMediaType", message)
    }

    /// 410 for a watch: the revision is older than what is kept.
    pub fn expired(message: impl Into<String>) -> Status {
        Status::new(410, "Expired", message)
    }

    /// 410 for a watch from `asked` when the oldest kept change is `oldest`.
    pub fn too_old(asked: u64, oldest: u64) -> Status {
        Status::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    /// 410 for a list whose continue token is too old, with a token to go on inconsistently.
    pub fn expired_continue(token: Option<String>) -> Status {
        let words = match token {
            Some(_) => {
                "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list."
            }
            None => {
                "The provided continue parameter is too old to display a consistent list result. You must start a new list without the continue parameter."
            }
        };
        let mut status = Status::expired(words);
        status.continue_token = token;
        status
    }

    /// 504.
    pub fn timeout(message: impl fmt::Display, retry_after_seconds: u32) -> Status {
        Status::new(504, "Timeout", format!("Timeout: {message}")).retry_after(retry_after_seconds)
    }

    /// 504: the revision asked for lies in the future.
    pub fn revision_too_large(asked: u64, current: u64) -> Status {
        let message = format!("Too large resource version: {asked}, current: {current}");
        Status::timeout(message, 1).caused_by(Cause {
            reason: "ResourceVersionTooLarge",
            message: "Too large resource version".into(),
            field: String::new(),
        })
    }

    /// 500 with `reason` ServerTimeout: `operation` could not be done now and may be retried.
    pub fn server_timeout(resource: Resource<'_>, operation: &str, retry_after_seconds: u32) -> Status {
        let message = format!(
            "The {operation} operation against {resource} could not be completed at this time, please try again."
        );
        let status = Status::new(500, "ServerTimeout", message).about(resource, operation);
        status.retry_after(retry_after_seconds)
    }

    /// 429.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Status {
        Status::new(429, "TooManyRequests", message).retry_after(retry_after_seconds)
    }

    /// 413; `limit` in bytes.
    pub fn too_large(limit: usize) -> Status {
        let message = format!("Request entity too large: limit is {limit}");
        Status::new(413, "RequestEntityTooLarge", message)
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Status {
        Status::new(503, "ServiceUnavailable", message)
    }

    /// 507: there is no room for what the request would store. Kubernetes has no word of its own for it
    /// and answers 500, which says nothing of whose fault it is.
    pub fn insufficient_storage(message: impl Into<String>) -> Status {
        Status::new(507, "InsufficientStorage", message)
    }

    /// 500.
    pub fn internal(error: impl fmt::Display) -> Status {
        Status::new(500, "InternalError", format!("Internal error occurred: {error}")).caused_by(Cause {
            reason: "",
            message: error.to_string(),
            field: String::new(),
        })
    }

    /// The object for the response's body, or for a watch's ERROR event.
    pub fn to_value(&self) -> Value {
        let mut metadata = Map::new();
        if let Some(token) = &self.continue_token {
            metadata.insert("continue".into(), token.as_str().into());
        }
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Status",
            "metadata": metadata,
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if let Some(details) = &self.details {
            object["details"] = details.to_value();
        }
        object
    }
}

impl Details {
    /// The JSON object, without its empty parts.
    pub fn to_value(&self) -> Value {
        let mut object = Map::new();
        let texts = [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)];
        for (name, text) in texts {
            if !text.is_empty() {
                object.insert(name.into(), text.as_str().into());
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(Cause::to_value).collect();
            object.insert("causes".into(), Value::Array(causes));
        }
        if self.retry_after_seconds > 0 {
            object.insert("retryAfterSeconds".into(), self.retry_after_seconds.into());
        }
        Value::Object(object)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut object = Map::new();
        let texts = [("reason", self.reason), ("message", self.message.as_str()), ("field", self.field.as_str())];
        for (name, text) in texts {
            if !text.is_empty() {
                object.insert(name.into(), text.into());
            }
        }
        Value::Object(object)
    }
}

/// The `Success` Status: the answer to a delete (with `details.uid`) and to an eviction.
pub fn success(details: Option<&Details>) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success"});
    if let Some(details) = details {
        object["details"] = details.to_value();
    }
    object
}

#[cfg(test)]
mod tests {
    use super::super::field::Path;
    use super::*;

    const PODS: Resource<'_> = Resource { group: "", plural: "pods" };
    const DEPLOYMENTS: Resource<'_> = Resource { group: "apps", plural: "deployments" };

    #[track_caller]
    fn check(status: &Status, code: u16, reason: &str, message: &str) {
        let value = status.to_value();
        assert_eq!(value["code"], code);
        assert_eq!(value["reason"], reason);
        assert_eq!(value["message"], message);
        assert_eq!((&value["kind"], &value["status"]), (&json!("Status"), &json!("Failure")));
    }

    #[test]
    fn words_are_upstreams() {
        check(&Status::not_found(PODS, "a"), 404, "NotFound", "pods \"a\" not found");
        let exists = Status::already_exists(DEPLOYMENTS, "a");
        check(&exists, 409, "AlreadyExists", "deployments.apps \"a\" already exists");
        assert_eq!(exists.to_value()["details"], json!({"name": "a", "group": "apps", "kind": "deployments"}));
        check(
            &Status::modified(PODS, "a"),
            409,
            "Conflict",
            "Operation cannot be fulfilled on pods \"a\": the object has been modified; please apply your changes to the latest version and try again",
        );
        check(
            &Status::denied("u", "list", PODS, "", "ns", ""),
            403,
            "Forbidden",
            "pods is forbidden: User \"u\" cannot list resource \"pods\" in API group \"\" in the namespace \"ns\"",
        );
        check(
            &Status::denied("u", "get", DEPLOYMENTS, "scale", "", "d"),
            403,
            "Forbidden",
            "deployments.apps \"d\" is forbidden: User \"u\" cannot get resource \"deployments/scale\" in API group \"apps\" at the cluster scope",
        );
        check(&Status::too_old(5, 9), 410, "Expired", "too old resource version: 5 (9)");
        check(
            &Status::method_not_allowed(PODS, "PUT"),
            405,
            "MethodNotAllowed",
            "PUT is not supported on resources of kind \"pods\"",
        );
    }

    #[test]
    fn invalid_lists_its_causes() {
        let spec = Path::ROOT.child("spec");
        let kind = GroupKind { group: "", kind: "Pod" };
        let image = FieldError::required(&spec.child("image"), "");
        let one = Status::invalid(kind, "x", std::slice::from_ref(&image));
        check(&one, 422, "Invalid", "Pod \"x\" is invalid: spec.image: Required value");
        let two = Status::invalid(kind, "x", &[image.clone(), FieldError::forbidden(&spec, "no"), image]);
        check(&two, 422, "Invalid", "Pod \"x\" is invalid: [spec.image: Required value, spec: Forbidden: no]");
        assert_eq!(
            one.to_value()["details"],
            json!({"name": "x", "kind": "Pod", "causes": [
                {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.image"}
            ]})
        );
    }

    #[test]
    fn retries_and_tokens_reach_the_body() {
        let busy = Status::too_many_requests("slow down", 3).to_value();
        assert_eq!(busy["details"], json!({"retryAfterSeconds": 3}));
        let expired = Status::expired_continue(Some("t".into())).to_value();
        assert_eq!(expired["metadata"], json!({"continue": "t"}));
        let large = Status::revision_too_large(9, 5).to_value();
        assert_eq!(large["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    }
}
