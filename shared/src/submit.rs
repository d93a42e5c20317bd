//! How rooms other than the API write: through the same pipeline as any client.

use std::future::Future;
use std::pin::Pin;

use serde_json::Value;

/// Who asks. Controllers use service-account names (`system:serviceaccount:kube-system:deployment-controller`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    pub groups: Vec<String>,
}

/// What is asked of one object. `resource` is `plural` or `plural.group`; `subresource` is empty for
/// the object itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    Create {
        resource: &'static str,
        namespace: String,
        object: Value,
    },
    /// Replaces; conflicts when `object.metadata.resourceVersion` is set and not current.
    Update {
        resource: &'static str,
        namespace: String,
        name: String,
        subresource: &'static str,
        object: Value,
    },
    /// A JSON merge patch (RFC 7396).
    Merge {
        resource: &'static str,
        namespace: String,
        name: String,
        subresource: &'static str,
        patch: Value,
    },
    Delete {
        resource: &'static str,
        namespace: String,
        name: String,
        options: Delete,
    },
    /// Creates the Binding of a pod: the short path of the scheduler.
    Bind {
        namespace: String,
        name: String,
        uid: String,
        node: String,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delete {
    pub uid: Option<String>,
    pub grace_seconds: Option<u32>,
    /// Background when `None`.
    pub propagation: Option<&'static str>,
}

/// Why the pipeline said no: the parts of a `v1.Status` that decide what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status: 404 gone, 409 conflict or exists, 403 forbidden or over quota, 422 invalid, 5xx retry.
    pub code: u16,
    pub reason: String,
    pub message: String,
}

/// The pipeline, as controllers and the scheduler see it. The leader's fencing term is added by
/// whoever wires it.
pub trait Submit: Send + Sync + 'static {
    /// Resolves once the write is acknowledged; the value is the object as stored, with its
    /// `metadata.resourceVersion`.
    fn submit<'a>(
        &'a self,
        who: &'a Identity,
        write: Write,
    ) -> Pin<Box<dyn Future<Output = Result<Value, Refusal>> + Send + 'a>>;
}
