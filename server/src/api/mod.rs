//! The Kubernetes API over HTTPS: one pipeline `authn → authz → mutate → schema → validate → store`
//! for HTTP clients and, through `Submit`, for controllers alike.
//!
//! A request comes in through [`http`], is told apart by [`route`], decided on by [`authz`], and
//! answered by [`verbs`] (objects), [`documents`] (discovery, health) or [`stream`] (logs, exec).

mod accept;
mod apply;
pub mod authz;
pub mod backup;
mod body;
mod discovery;
mod documents;
mod expire;
mod handle;
pub mod http;
mod impersonate;
mod list;
pub mod object;
mod openapi;
mod patch;
mod patient;
mod query;
pub mod rbac;
mod reply;
mod review;
mod route;
pub mod seed;
mod select;
pub mod stream;
mod submit;
mod table;
mod verbs;
mod watch;
mod write;

use std::sync::Arc;

use coracle_shared::api::status::{Resource, Status};
use coracle_shared::desired::Cidr;
use coracle_shared::submit::Identity;
use coracle_store::{Key, Range, Store};
use futures_lite::FutureExt as _;
use serde_json::Value;

use crate::kinds::View;
use authz::{Attributes, Bindings};
use backup::Backups;
use rbac::Roles;
use stream::NodeStreams;
use watch::Hub;
use write::Writer;

/// Milliseconds since the Unix epoch.
pub type WallClock = Arc<dyn Fn() -> i64 + Send + Sync>;

pub use write::Random;

/// What the API is told when it starts.
#[derive(Clone)]
pub struct Config {
    /// `HOST:PORT` under which clients reach the server; discovery tells it.
    pub address: String,
    pub service_cidr: Cidr,
    pub clock: WallClock,
    pub random: Random,
    /// Where streams that outlive their request run.
    pub executor: Arc<smol::Executor<'static>>,
}

/// The API over a store.
pub struct Api {
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
    writer: Writer,
    roles: Arc<Roles>,
    nodes: Arc<dyn NodeStreams>,
    config: Config,
    backups: Option<Arc<dyn Backups>>,
}

impl Api {
    pub fn new(store: Arc<dyn Store>, nodes: Arc<dyn NodeStreams>, config: Config) -> Api {
        let roles = Arc::new(Roles::new(store.clone()));
        let writer = Writer {
            roles: roles.clone(),
            store: store.clone(),
            clock: config.clock.clone(),
            random: config.random.clone(),
            service_cidr: config.service_cidr,
        };
        Api { hub: Hub::new(&*store), store, writer, roles, nodes, config, backups: None }
    }

    /// With backups to be had.
    pub fn with_backups(mut self, backups: Arc<dyn Backups>) -> Api {
        self.backups = Some(backups);
        self
    }

    /// Hands changes to watchers and removes old Events, for ever. Runs once.
    pub async fn run(&self) {
        let expiry = expire::run(self.store.clone(), self.config.clock.clone());
        self.hub.run(&*self.store).or(expiry).await;
    }

    fn allowed(&self, who: &Identity, ask: &Attributes<'_>) -> bool {
        // Administrators need no roles, and the most common of them is asked most often.
        authz::allowed(who, ask, &StoreBindings(&*self.store), &self.roles.book())
    }

    fn authorize(&self, who: &Identity, ask: &Attributes<'_>) -> Result<(), Status> {
        if self.allowed(who, ask) {
            return Ok(());
        }
        let resource = Resource { group: ask.group, plural: ask.resource };
        Err(Status::denied(&who.user, ask.verb, resource, ask.subresource, ask.namespace, ask.name))
    }
}

/// What nodes' pods use, read from the store.
struct StoreBindings<'a>(&'a dyn Store);

impl StoreBindings<'_> {
    fn pod_on(&self, node: &str, bytes: &[u8]) -> Option<Value> {
        let pod: Value = serde_json::from_slice(bytes).ok()?;
        (View(&pod).text(&["spec", "nodeName"]) == node).then_some(pod)
    }
}

impl Bindings for StoreBindings<'_> {
    fn bound(&self, node: &str, namespace: &str, pod: &str) -> bool {
        let item = self.0.get(&Key::new("pods", namespace, pod));
        item.is_some_and(|item| self.pod_on(node, &item.value).is_some())
    }

    fn uses(&self, node: &str, namespace: &str, secret: bool, name: &str) -> bool {
        let (resource, namespace) = ("pods".into(), Some(namespace.into()));
        let range = Range { resource, namespace, after: None, limit: 0, at: None };
        let Ok(page) = self.0.list(&range) else { return false };
        let mut pods = page.items.iter().filter_map(|item| self.pod_on(node, &item.value));
        pods.any(|pod| mentions(&pod["spec"], secret, name))
    }
}

/// Whether a pod's spec names a ConfigMap or Secret, wherever such a reference may stand.
fn mentions(spec: &Value, secret: bool, name: &str) -> bool {
    let (references, volume, field): (&[&str], _, _) = match secret {
        true => (&["secretRef", "secretKeyRef"], "secret", "secretName"),
        false => (&["configMapRef", "configMapKeyRef"], "configMap", "name"),
    };
    match spec {
        Value::Object(fields) => fields.iter().any(|(key, value)| {
            let named = |field: &str| value.get(field).and_then(Value::as_str) == Some(name);
            references.contains(&key.as_str()) && named("name")
                || key == volume && (named(field) || named("name"))
                || secret
                    && key == "imagePullSecrets"
                    && View(value)
                        .0
                        .as_array()
                        .is_some_and(|l| l.iter().any(|s| s.get("name").and_then(Value::as_str) == Some(name)))
                || mentions(value, secret, name)
        }),
        Value::Array(values) => values.iter().any(|value| mentions(value, secret, name)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_are_found_wherever_they_stand() {
        let spec = json!({"imagePullSecrets": [{"name": "pull"}],
            "volumes": [{"secret": {"secretName": "vol"}}, {"configMap": {"name": "conf"}},
                {"projected": {"sources": [{"secret": {"name": "proj"}}]}}],
            "containers": [{"envFrom": [{"configMapRef": {"name": "env"}}],
                "env": [{"valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}}]}]});
        for name in ["pull", "vol", "proj", "key"] {
            assert!(mentions(&spec, true, name), "{name}");
            assert!(!mentions(&spec, false, name), "{name}");
        }
        for name in ["conf", "env"] {
            assert!(mentions(&spec, false, name), "{name}");
            assert!(!mentions(&spec, true, name), "{name}");
        }
    }
}
