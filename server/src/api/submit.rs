//! The pipeline for callers inside this process: controllers and the scheduler.

use std::pin::Pin;

use coracle_shared::api::json::Parsed;
use coracle_shared::api::status::Status;
use coracle_shared::api::table::schema;
use coracle_shared::api::validate::Mode;
use coracle_shared::submit::{Delete, Identity, Refusal, Submit, Write};
use serde_json::Value;

use super::Api;
use super::authz::Attributes;
use super::object;
use super::patch::Patch;
use super::route::Target;
use super::write::{Call, Deleted, Options, Propagation};
use crate::kinds;

fn refusal(status: Status) -> Refusal {
    Refusal { code: status.code, reason: status.reason.to_owned(), message: status.message }
}

fn target(resource: &str, namespace: &str, name: &str, sub: &str) -> Result<Target, Status> {
    let kind = kinds::by_resource(resource).ok_or_else(Status::no_such_path)?;
    let sub = match sub {
        "" => None,
        sub => Some(kind.subresource(sub).ok_or_else(Status::no_such_path)?),
    };
    Ok(Target { kind, namespace: namespace.into(), name: name.into(), sub })
}

fn options(delete: Delete) -> Result<Options, Status> {
    Ok(Options {
        grace_seconds: delete.grace_seconds,
        propagation: delete.propagation.map(Propagation::parse).transpose()?.unwrap_or_default(),
        uid: delete.uid,
        ..Options::default()
    })
}

impl Api {
    async fn take(&self, who: &Identity, write: Write) -> Result<Value, Status> {
        match write {
            Write::Create { resource, namespace, object } => {
                let target = target(resource, &namespace, "", "")?;
                self.authorize_submit(who, "create", &target)?;
                let parsed = Parsed { value: object, duplicates: Vec::new() };
                let written = self.writer.create(&call(who, &target), parsed).await?;
                Ok(written.value(target.kind))
            }
            Write::Update { resource, namespace, name, subresource, object } => {
                let target = target(resource, &namespace, &name, subresource)?;
                self.authorize_submit(who, "update", &target)?;
                let intent = |_: &Value| Ok(Parsed { value: object.clone(), duplicates: Vec::new() });
                let written = self.writer.modify(&call(who, &target), &intent).await?;
                Ok(written.value(target.kind))
            }
            Write::Merge { resource, namespace, name, subresource, patch } => {
                let target = target(resource, &namespace, &name, subresource)?;
                self.authorize_submit(who, "patch", &target)?;
                let patch = Patch::merge(patch);
                // A merge patch needs no merge rules, so that any type will do.
                let id = schema().kind("", "v1", "Pod").expect("Pod is in the field table");
                let written = self.writer.modify(&call(who, &target), &|old| patch.apply(id, old)).await?;
                Ok(written.value(target.kind))
            }
            Write::Delete { resource, namespace, name, options: delete } => {
                let target = target(resource, &namespace, &name, "")?;
                self.authorize_submit(who, "delete", &target)?;
                let (Deleted::Gone(item) | Deleted::Lingers(item)) =
                    self.writer.delete(&call(who, &target), &options(delete)?).await?;
                Ok(object::of_item(target.kind, &item))
            }
            Write::Bind { namespace, name, uid, node } => {
                let target = target("pods", &namespace, &name, "binding")?;
                self.authorize_submit(who, "create", &target)?;
                let written = self.writer.bind(&call(who, &target), &uid, &node).await?;
                Ok(written.value(target.kind))
            }
        }
    }

    fn authorize_submit(&self, who: &Identity, verb: &str, target: &Target) -> Result<(), Status> {
        let ask = Attributes {
            verb,
            group: target.kind.group,
            resource: target.kind.plural,
            subresource: target.sub.map_or("", |s| s.name),
            namespace: &target.namespace,
            name: &target.name,
            on_node: None,
        };
        self.authorize(who, &ask)
    }
}

fn call<'a>(who: &'a Identity, target: &'a Target) -> Call<'a> {
    Call { who, target, dry_run: false, mode: Mode::Strict, manager: Some("coracle") }
}

impl Submit for Api {
    fn submit<'a>(
        &'a self,
        who: &'a Identity,
        write: Write,
    ) -> Pin<Box<dyn Future<Output = Result<Value, Refusal>> + Send + 'a>> {
        Box::pin(async move { self.take(who, write).await.map_err(refusal) })
    }
}
