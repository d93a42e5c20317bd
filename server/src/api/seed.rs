//! What a cluster has from its first start: the namespaces and the `kubernetes` Service.

use std::net::Ipv4Addr;

use coracle_shared::api::json::Parsed;
use coracle_shared::api::status::Status;
use coracle_shared::api::validate::Mode;
use coracle_shared::desired::Cidr;
use coracle_shared::submit::Identity;
use serde_json::{Value, json};

use super::Api;
use super::authz::MASTERS;
use super::route::Target;
use super::write::{Call, address};
use crate::kinds;

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// Where pods find DNS: the tenth address of the range, by convention.
pub fn dns_address(service_cidr: Cidr) -> Ipv4Addr {
    address(service_cidr, 10)
}

/// Makes what is missing; what is there stays as it is. `port` is the API's own.
pub async fn seed(api: &Api, port: u16) -> Result<(), Status> {
    for name in NAMESPACES {
        make(api, "namespaces", "", json!({"metadata": {"name": name}})).await?;
    }
    let ip = address(api.config.service_cidr, 1).to_string();
    let service = json!({"metadata": {"name": "kubernetes",
            "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]}});
    make(api, "services", "default", service).await
}

async fn make(api: &Api, resource: &str, namespace: &str, value: Value) -> Result<(), Status> {
    let who = Identity { user: "system:apiserver".into(), groups: vec![MASTERS.into()] };
    let kind = kinds::by_resource(resource).ok_or_else(Status::no_such_path)?;
    let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let key = coracle_store::Key::new(kind.stored(), namespace, name);
    if api.store.get(&key).is_some() {
        return Ok(());
    }
    let target = Target { kind, namespace: namespace.into(), name: String::new(), sub: None };
    let call = Call { who: &who, target: &target, dry_run: false, mode: Mode::Strict };
    match api.writer.create(&call, Parsed { value, duplicates: Vec::new() }).await {
        Ok(_) => Ok(()),
        Err(status) if status.reason == "AlreadyExists" => Ok(()),
        Err(status) => Err(status),
    }
}
