//! A container's environment, and the fields of a pod that may stand in it or in files. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::sync::Arc;

use coracle_shared::api::quantity::Quantity;
use coracle_shared::desired::{DataItem, Protocol, ServiceItem};
use serde_json::Value;

use super::view::{ContainerView, EnvFrom, EnvSource, EnvVar, KeyRef, PodView, ResourceFieldRef};

/// Where ConfigMaps (`false`) and Secrets (`true`) of the pod's namespace are looked up by name.
pub type Lookup<'a> = &'a dyn Fn(bool, &str) -> Option<Arc<DataItem>>;

/// What a pod can say of itself and of where it runs.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    pub node: String,
    pub host_ip: Option<Ipv4Addr>,
    pub pod_ip: Option<Ipv4Addr>,
    /// What a container without limits may use: the node's allocatable.
    pub cpu_millis: u64,
    pub memory_bytes: u64,
}

/// The environment: services, `envFrom`, `env`, later ones over earlier ones. `base` is the
/// image's, to which references may point.
///
/// # Errors
/// The sentence of a CreateContainerConfigError: what is missing.
pub fn environment(
    view: &PodView,
    container: &ContainerView,
    base: &[(String, String)],
    services: &[Arc<ServiceItem>],
    around: &Surroundings,
    lookup: Lookup,
) -> Result<Vec<(String, String)>, String> {
    let mut env = Ordered::default();
    base.iter().for_each(|(k, v)| env.set(k, v.clone()));
    service_variables(view, services, &mut env);
    for from in &container.env_from {
        env_from(from, lookup, &mut env)?;
    }
    for var in &container.env {
        if let Some(value) = value_of(view, container, var, around, lookup, &env)? {
            env.set(&var.name, value);
        }
    }
    Ok(env.list)
}

/// Insertion-ordered, last value wins.
#[derive(Default)]
struct Ordered {
    list: Vec<(String, String)>,
    at: BTreeMap<String, usize>,
}

impl Ordered {
    fn set(&mut self, name: &str, value: String) {
        match self.at.get(name) {
            Some(&at) => self.list[at].1 = value,
            None => {
                self.at.insert(name.to_owned(), self.list.len());
                self.list.push((name.to_owned(), value));
            }
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.at.get(name).map(|&at| self.list[at].1.as_str())
    }
}

fn env_from(from: &EnvFrom, lookup: Lookup, env: &mut Ordered) -> Result<(), String> {
    for (secret, source) in [(false, &from.config_map_ref), (true, &from.secret_ref)] {
        let Some(source) = source else { continue };
        let Some(data) = lookup(secret, &source.name) else {
            if source.optional {
                continue;
            }
            return Err(missing(secret, &source.name));
        };
        for (key, value) in &data.data {
            let name = format!("{}{key}", from.prefix);
            // Keys that cannot be names are left out, as the kubelet does it.
            if is_env_name(&name) {
                env.set(&name, String::from_utf8_lossy(value).into_owned());
            }
        }
    }
    Ok(())
}

fn missing(secret: bool, name: &str) -> String {
    format!("{} \"{name}\" not found", if secret { "secret" } else { "configmap" })
}

fn is_env_name(name: &str) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    !name.is_empty() && name.bytes().all(ok) && !name.as_bytes()[0].is_ascii_digit()
}

fn value_of(
    view: &PodView,
    container: &ContainerView,
    var: &EnvVar,
    around: &Surroundings,
    lookup: Lookup,
    env: &Ordered,
) -> Result<Option<String>, String> {
    let Some(source) = &var.value_from else {
        return Ok(Some(expand(&var.value, &|name| env.get(name).map(str::to_owned))));
    };
    match source {
        EnvSource { config_map_key_ref: Some(key), .. } => key_of(view, false, key, lookup),
        EnvSource { secret_key_ref: Some(key), .. } => key_of(view, true, key, lookup),
        EnvSource { field_ref: Some(field), .. } => pod_field(view, &field.field_path, around).map(Some),
        EnvSource { resource_field_ref: Some(field), .. } => resource_field(view, container, field, around).map(Some),
        _ => Err(format!("environment variable {} has no source", var.name)),
    }
}

fn key_of(view: &PodView, secret: bool, key: &KeyRef, lookup: Lookup) -> Result<Option<String>, String> {
    let Some(data) = lookup(secret, &key.name) else {
        return if key.optional { Ok(None) } else { Err(missing(secret, &key.name)) };
    };
    match data.data.get(&key.key) {
        Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
        None if key.optional => Ok(None),
        None => {
            let kind = if secret { "Secret" } else { "ConfigMap" };
            Err(format!("couldn't find key {} in {kind} {}/{}", key.key, view.metadata.namespace, key.name))
        }
    }
}

/// A field of the pod: `metadata.name`, `metadata.labels['app']`, `status.podIP`, …
///
/// # Errors
/// The path is not one that a pod can be asked for.
pub fn pod_field(view: &PodView, path: &str, around: &Surroundings) -> Result<String, String> {
    let m = &view.metadata;
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let map = match map {
            "metadata.labels" => &m.labels,
            "metadata.annotations" => &m.annotations,
            _ => return Err(format!("field {path} is not known")),
        };
        return Ok(map.get(key).cloned().unwrap_or_default());
    }
    let pod_ip = if view.spec.host_network { around.host_ip } else { around.pod_ip };
    let ip = |ip: Option<Ipv4Addr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
    Ok(match path {
        "metadata.name" => m.name.clone(),
        "metadata.namespace" => m.namespace.clone(),
        "metadata.uid" => m.uid.0.clone(),
        "metadata.labels" => lines(&m.labels),
        "metadata.annotations" => lines(&m.annotations),
        "spec.nodeName" => around.node.clone(),
        "spec.serviceAccountName" => view.spec.service_account_name.clone(),
        "status.hostIP" | "status.hostIPs" => ip(around.host_ip),
        "status.podIP" | "status.podIPs" => ip(pod_ip),
        _ => return Err(format!("field {path} is not known")),
    })
}

/// `key="value"` lines, as the downward API writes maps.
fn lines(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(k, v)| format!("{k}={v:?}")).collect::<Vec<_>>().join("\n")
}

/// `limits.cpu` and the like, divided and rounded up.
///
/// # Errors
/// Not a resource that a container can be asked for.
pub fn resource_field(
    view: &PodView,
    container: &ContainerView,
    field: &ResourceFieldRef,
    around: &Surroundings,
) -> Result<String, String> {
    let of = if field.container_name.is_empty() {
        container
    } else {
        let found = view.containers().find(|c| c.name == field.container_name);
        found.ok_or_else(|| format!("container {} not found", field.container_name))?
    };
    let (list, resource) = field.resource.split_once('.').ok_or_else(|| format!("resource {}", field.resource))?;
    let given = match list {
        "limits" => of.resources.limits.get(resource),
        "requests" => of.resources.requests.get(resource),
        _ => return Err(format!("resource {} is not known", field.resource)),
    };
    let quantity = |v: &Value| Quantity::from_value(v).map_err(|e| e.to_string());
    let nanos = match (given, list, resource) {
        (Some(value), _, _) => quantity(value)?.nanos(),
        (None, "limits", "cpu") => i128::from(around.cpu_millis) * 1_000_000,
        (None, "limits", "memory") => i128::from(around.memory_bytes) * 1_000_000_000,
        (None, _, "cpu" | "memory" | "ephemeral-storage") => 0,
        _ => return Err(format!("resource {} is not known", field.resource)),
    };
    let divisor = match &field.divisor {
        Some(value) => quantity(value)?.nanos(),
        None => 0,
    };
    let divisor = if divisor > 0 { divisor } else { 1_000_000_000 };
    Ok(nanos.div_euclid(divisor).saturating_add(i128::from(nanos.rem_euclid(divisor) > 0)).to_string())
}

/// `$(NAME)` by its value; `$$` is `$`; what is not known stays as it is.
pub fn expand(text: &str, value: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|a| a.split_once(')')) {
            match value(name) {
                Some(v) => out.push_str(&v),
                None => _ = write!(out, "$({name})"),
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// The variables by which containers found services before DNS (`KUBERNETES_SERVICE_HOST`, …).
fn service_variables(view: &PodView, services: &[Arc<ServiceItem>], env: &mut Ordered) {
    let links = view.spec.enable_service_links != Some(false);
    for service in services {
        let api = service.namespace == "default" && service.name == "kubernetes";
        let (Some(ip), true) = (service.cluster_ip, api || (links && service.namespace == view.metadata.namespace))
        else {
            continue;
        };
        let Some(first) = service.ports.first() else { continue };
        let prefix = upper(&service.name);
        env.set(&format!("{prefix}_SERVICE_HOST"), ip.to_string());
        env.set(&format!("{prefix}_SERVICE_PORT"), first.port.to_string());
        for port in service.ports.iter().filter(|p| !p.name.is_empty()) {
            env.set(&format!("{prefix}_SERVICE_PORT_{}", upper(&port.name)), port.port.to_string());
        }
        for (i, port) in service.ports.iter().enumerate() {
            let protocol = match port.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Sctp => "sctp",
            };
            let url = format!("{protocol}://{ip}:{}", port.port);
            if i == 0 {
                env.set(&format!("{prefix}_PORT"), url.clone());
            }
            let stem = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
            env.set(&stem, url);
            env.set(&format!("{stem}_PROTO"), protocol.to_owned());
            env.set(&format!("{stem}_PORT"), port.port.to_string());
            env.set(&format!("{stem}_ADDR"), ip.to_string());
        }
    }
}

fn upper(name: &str) -> String {
    name.to_uppercase().replace(['-', '.'], "_")
}

#[cfg(test)]
mod tests {
    use coracle_shared::desired::ServicePort;
    use serde_json::json;

    use super::*;

    fn data(secret: bool, name: &str) -> Option<Arc<DataItem>> {
        let values: &[(&str, &str)] = match (secret, name) {
            (false, "conf") => &[("A", "1"), ("bad name", "x")],
            (true, "sec") => &[("pw", "s3")],
            _ => return None,
        };
        let data = values.iter().map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec())).collect();
        Some(Arc::new(DataItem { secret, namespace: "default".into(), name: name.into(), data }))
    }

    /// The environment of a container given as JSON, as `K=V` words, without the image's.
    fn check(container: Value, want: Result<&str, &str>) {
        let mut view: PodView = serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "default",
            "labels": {"app": "w"}}, "spec": {"containers": [container], "serviceAccountName": "sa"}}))
        .expect("a pod");
        view.metadata.uid.0 = "u".into();
        let ip = |d| Some(Ipv4Addr::new(10, 0, 0, d));
        let around =
            Surroundings { node: "n1".into(), host_ip: ip(1), pod_ip: ip(2), cpu_millis: 4000, memory_bytes: 1 << 30 };
        let got = environment(&view, &view.spec.containers[0], &[("HOME".into(), "/".into())], &[], &around, &data);
        let words = |env: Vec<(String, String)>| {
            env.into_iter().skip(1).map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(got.map(words), want.map(str::to_owned).map_err(str::to_owned));
    }

    #[test]
    fn values_come_from_everywhere() {
        let from = |kind: &str, name: &str, key: &str| json!({kind: {"name": name, "key": key}});
        check(
            json!({"env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "$(X)$(HOME)$(NO)$$(X)"}]}),
            Ok("X=1 Y=1/$(NO)$(X)"),
        );
        check(json!({"env": [{"name": "X", "valueFrom": from("configMapKeyRef", "conf", "A")}]}), Ok("X=1"));
        check(json!({"env": [{"name": "X", "valueFrom": from("secretKeyRef", "sec", "pw")}]}), Ok("X=s3"));
        check(
            json!({"env": [{"name": "X", "valueFrom": from("secretKeyRef", "gone", "pw")}]}),
            Err("secret \"gone\" not found"),
        );
        check(
            json!({"env": [{"name": "X", "valueFrom": from("configMapKeyRef", "conf", "B")}]}),
            Err("couldn't find key B in ConfigMap default/conf"),
        );
        check(
            json!({"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "gone", "key": "k", "optional": true}}}]}),
            Ok(""),
        );
        check(
            json!({"envFrom": [{"prefix": "P_", "configMapRef": {"name": "conf"}}], "env": [{"name": "P_A", "value": "2"}]}),
            Ok("P_A=2"),
        );
        check(json!({"envFrom": [{"configMapRef": {"name": "gone"}}]}), Err("configmap \"gone\" not found"));
        check(json!({"envFrom": [{"configMapRef": {"name": "gone", "optional": true}}]}), Ok(""));
    }

    #[test]
    fn fields_of_the_pod() {
        let field = |path: &str| json!({"env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": path}}}]});
        for (path, want) in [
            ("metadata.name", "web"),
            ("metadata.uid", "u"),
            ("metadata.labels['app']", "w"),
            ("metadata.annotations['none']", ""),
            ("spec.nodeName", "n1"),
            ("spec.serviceAccountName", "sa"),
            ("status.hostIP", "10.0.0.1"),
            ("status.podIP", "10.0.0.2"),
        ] {
            check(field(path), Ok(&format!("X={want}")));
        }
        check(field("status.phase"), Err("field status.phase is not known"));
    }

    #[test]
    fn resources_round_up() {
        let of = |resource: &str, divisor: &str| {
            json!({"resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "64Mi"}}, "env": [{"name": "X",
                "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": divisor}}}]})
        };
        check(of("limits.cpu", "0"), Ok("X=2"));
        check(of("limits.cpu", "1m"), Ok("X=1500"));
        check(of("requests.memory", "1Mi"), Ok("X=64"));
        check(of("limits.memory", "1Gi"), Ok("X=1"));
        check(of("limits.gpu", "1"), Err("resource limits.gpu is not known"));
    }

    #[test]
    fn services_of_the_namespace_and_the_api() {
        let service = |namespace: &str, name: &str, ip| {
            let port = ServicePort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: 80,
                node_port: None,
                backends: Vec::new(),
            };
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            Arc::new(ServiceItem {
                namespace,
                name,
                cluster_ip: ip,
                external_name: None,
                affinity: None,
                ports: vec![port],
            })
        };
        let ip = Some(Ipv4Addr::new(10, 43, 0, 1));
        let services = [
            service("default", "kubernetes", ip),
            service("shop", "my-db", ip),
            service("other", "x", ip),
            service("shop", "headless", None),
        ];
        let mut view = PodView::default();
        view.metadata.namespace = "shop".into();
        let names = |view: &PodView| {
            let env = environment(view, &ContainerView::default(), &[], &services, &Surroundings::default(), &data);
            env.expect("an environment")
                .into_iter()
                .map(|(k, _)| k)
                .filter(|k| k.ends_with("_HOST"))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&view), ["KUBERNETES_SERVICE_HOST", "MY_DB_SERVICE_HOST"]);
        view.spec.enable_service_links = Some(false);
        assert_eq!(names(&view), ["KUBERNETES_SERVICE_HOST"]);
    }
}
