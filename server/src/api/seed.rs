//! What a cluster has from its first start: the namespaces, roles, and the `kubernetes` Service with the
//! server behind it.

mod roles;

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
    for role in roles::cluster_roles() {
        make(api, "clusterroles.rbac.authorization.k8s.io", "", role).await?;
    }
    for binding in roles::cluster_role_bindings() {
        make(api, "clusterrolebindings.rbac.authorization.k8s.io", "", binding).await?;
    }
    let ip = address(api.config.service_cidr, 1).to_string();
    let service = json!({"metadata": {"name": "kubernetes",
            "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]}});
    make(api, "services", "default", service).await
}

/// Says where the server is behind the `kubernetes` Service, for pods: its addresses and port. The
/// Service has no selector, so that no controller does.
pub async fn publish(api: &Api, addresses: &[Ipv4Addr], port: u16) -> Result<(), Status> {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let ips: Vec<Value> = texts.iter().map(|ip| json!({"ip": ip})).collect();
    let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let subsets = if ips.is_empty() { json!([]) } else { json!([{"addresses": ips, "ports": ports}]) };
    let labels = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
    let endpoints = json!({"metadata": {"name": "kubernetes", "labels": labels}, "subsets": subsets});
    put(api, "endpoints", "default", endpoints).await?;
    let backends: Vec<Value> =
        texts.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
    let labels = json!({"kubernetes.io/service-name": "kubernetes"});
    let slice = json!({"metadata": {"name": "kubernetes", "labels": labels}, "addressType": "IPv4",
        "endpoints": backends, "ports": ports});
    put(api, "endpointslices.discovery.k8s.io", "default", slice).await
}

/// Makes an object, or replaces what is there by it.
async fn put(api: &Api, resource: &str, namespace: &str, value: Value) -> Result<(), Status> {
    make(api, resource, namespace, value.clone()).await?;
    let (who, kind) = (own_identity(), kinds::by_resource(resource).ok_or_else(Status::no_such_path)?);
    let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let target = Target { kind, namespace: namespace.into(), name, sub: None };
    let call = Call { who: &who, target: &target, dry_run: false, mode: Mode::Strict, manager: Some("coracle") };
    let intent = |_: &Value| Ok(Parsed { value: value.clone(), duplicates: Vec::new() });
    api.writer.modify(&call, &intent).await.map(|_| ())
}

fn own_identity() -> Identity {
    Identity { user: "system:apiserver".into(), groups: vec![MASTERS.into()] }
}

async fn make(api: &Api, resource: &str, namespace: &str, value: Value) -> Result<(), Status> {
    let who = own_identity();
    let kind = kinds::by_resource(resource).ok_or_else(Status::no_such_path)?;
    let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let key = coracle_store::Key::new(kind.stored(), namespace, name);
    if api.store.get(&key).is_some() {
        return Ok(());
    }
    let target = Target { kind, namespace: namespace.into(), name: String::new(), sub: None };
    let call = Call { who: &who, target: &target, dry_run: false, mode: Mode::Strict, manager: Some("coracle") };
    match api.writer.create(&call, Parsed { value, duplicates: Vec::new() }).await {
        Ok(_) => Ok(()),
        Err(status) if status.reason == "AlreadyExists" => Ok(()),
        Err(status) => Err(status),
    }
}
