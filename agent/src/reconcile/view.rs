//! A pod as the agent sees it: parsed once from the item's JSON, then only read.
//!
//! Only the fields that the agent acts on. The server has validated the object; what is still
//! wrong here makes an [`InvalidPod`], which fails that pod alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use coracle_shared::desired::PodItem;
use coracle_shared::ids::PodUid;
use serde::Deserialize;
use serde_json::Value;

/// What a pod gets to stop when its spec does not say, in seconds (the API's default).
pub const DEFAULT_GRACE: u32 = 30;

/// A pod that cannot be read. It is reported as failed with this message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidPod(pub String);

impl fmt::Display for InvalidPod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the pod's definition cannot be read: {}", self.0)
    }
}

impl std::error::Error for InvalidPod {}

/// One pod, as desired.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodView {
    pub metadata: Metadata,
    pub spec: Spec,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    pub name: String,
    pub namespace: String,
    pub uid: PodUid,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum RestartPolicy {
    #[default]
    Always,
    OnFailure,
    Never,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    pub restart_policy: RestartPolicy,
    /// Seconds.
    pub termination_grace_period_seconds: Option<u32>,
    /// Seconds from the pod's start.
    pub active_deadline_seconds: Option<u64>,
    pub dns_policy: String,
    pub dns_config: DnsConfig,
    pub host_network: bool,
    #[serde(rename = "hostPID")]
    pub host_pid: bool,
    #[serde(rename = "hostIPC")]
    pub host_ipc: bool,
    pub share_process_namespace: bool,
    pub hostname: String,
    pub subdomain: String,
    pub host_aliases: Vec<HostAlias>,
    pub node_name: String,
    pub service_account_name: String,
    pub image_pull_secrets: Vec<Named>,
    pub security_context: PodSecurity,
    pub enable_service_links: Option<bool>,
    pub init_containers: Vec<ContainerView>,
    pub containers: Vec<ContainerView>,
    pub volumes: Vec<VolumeView>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Named {
    pub name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HostAlias {
    pub ip: String,
    pub hostnames: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DnsConfig {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<DnsOption>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DnsOption {
    pub name: String,
    pub value: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSecurity {
    pub run_as_user: Option<u32>,
    pub run_as_group: Option<u32>,
    pub run_as_non_root: Option<bool>,
    pub fs_group: Option<u32>,
    pub supplemental_groups: Vec<u32>,
    pub seccomp_profile: SeccompProfile,
    pub sysctls: Vec<EnvPair>,
}

/// `name` and `value`, as sysctls have them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct EnvPair {
    pub name: String,
    pub value: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeccompProfile {
    #[serde(rename = "type")]
    pub kind: String,
    pub localhost_profile: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum PullPolicy {
    Always,
    #[default]
    IfNotPresent,
    Never,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerView {
    pub name: String,
    pub image: String,
    pub image_pull_policy: PullPolicy,
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub working_dir: String,
    pub env: Vec<EnvVar>,
    pub env_from: Vec<EnvFrom>,
    pub ports: Vec<Port>,
    pub resources: ResourceLists,
    pub volume_mounts: Vec<Mount>,
    pub liveness_probe: Option<Probe>,
    pub readiness_probe: Option<Probe>,
    pub startup_probe: Option<Probe>,
    pub security_context: ContainerSecurity,
    pub termination_message_path: Option<String>,
    pub termination_message_policy: String,
    /// Of init containers: `Always` makes it a sidecar.
    pub restart_policy: Option<RestartPolicy>,
    pub stdin: bool,
    pub tty: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Port {
    pub name: String,
    pub container_port: u16,
    pub host_port: Option<u16>,
    pub protocol: String,
}

/// Quantities as written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ResourceLists {
    pub limits: BTreeMap<String, Value>,
    pub requests: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mount {
    pub name: String,
    pub mount_path: String,
    pub read_only: bool,
    pub sub_path: String,
    pub sub_path_expr: String,
    pub mount_propagation: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerSecurity {
    pub run_as_user: Option<u32>,
    pub run_as_group: Option<u32>,
    pub run_as_non_root: Option<bool>,
    pub privileged: bool,
    pub read_only_root_filesystem: bool,
    pub allow_privilege_escalation: Option<bool>,
    pub capabilities: Capabilities,
    pub seccomp_profile: SeccompProfile,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    pub add: Vec<String>,
    pub drop: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvVar {
    pub name: String,
    pub value: String,
    pub value_from: Option<EnvSource>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvSource {
    pub config_map_key_ref: Option<KeyRef>,
    pub secret_key_ref: Option<KeyRef>,
    pub field_ref: Option<FieldRef>,
    pub resource_field_ref: Option<ResourceFieldRef>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct KeyRef {
    pub name: String,
    pub key: String,
    pub optional: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FieldRef {
    pub field_path: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceFieldRef {
    pub container_name: String,
    pub resource: String,
    pub divisor: Option<Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvFrom {
    pub prefix: String,
    pub config_map_ref: Option<ObjectRef>,
    pub secret_ref: Option<ObjectRef>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ObjectRef {
    pub name: String,
    pub optional: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Probe {
    pub http_get: Option<HttpGet>,
    pub tcp_socket: Option<TcpSocket>,
    pub exec: Option<ExecAction>,
    /// Seconds, as all periods here.
    pub initial_delay_seconds: u32,
    pub timeout_seconds: u32,
    pub period_seconds: u32,
    pub success_threshold: u32,
    pub failure_threshold: u32,
    pub termination_grace_period_seconds: Option<u32>,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            http_get: None,
            tcp_socket: None,
            exec: None,
            initial_delay_seconds: 0,
            timeout_seconds: 1,
            period_seconds: 10,
            success_threshold: 1,
            failure_threshold: 3,
            termination_grace_period_seconds: None,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpGet {
    pub host: String,
    pub path: String,
    /// A number or the name of a container port.
    pub port: Value,
    pub scheme: String,
    pub http_headers: Vec<EnvPair>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TcpSocket {
    pub host: String,
    pub port: Value,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ExecAction {
    pub command: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeView {
    pub name: String,
    pub empty_dir: Option<EmptyDir>,
    pub host_path: Option<HostPath>,
    pub config_map: Option<ConfigMapVolume>,
    pub secret: Option<SecretVolume>,
    #[serde(rename = "downwardAPI")]
    pub downward_api: Option<DownwardVolume>,
    pub projected: Option<ProjectedVolume>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EmptyDir {
    /// Empty, or `Memory`.
    pub medium: String,
    pub size_limit: Option<Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HostPath {
    pub path: String,
    #[serde(rename = "type")]
    pub kind: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct KeyToPath {
    pub key: String,
    pub path: String,
    pub mode: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigMapVolume {
    pub name: String,
    pub items: Vec<KeyToPath>,
    pub default_mode: Option<u32>,
    pub optional: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecretVolume {
    pub secret_name: String,
    pub items: Vec<KeyToPath>,
    pub default_mode: Option<u32>,
    pub optional: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DownwardVolume {
    pub items: Vec<DownwardItem>,
    pub default_mode: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DownwardItem {
    pub path: String,
    pub field_ref: Option<FieldRef>,
    pub resource_field_ref: Option<ResourceFieldRef>,
    pub mode: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProjectedVolume {
    pub sources: Vec<ProjectedSource>,
    pub default_mode: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProjectedSource {
    pub config_map: Option<ProjectedData>,
    pub secret: Option<ProjectedData>,
    #[serde(rename = "downwardAPI")]
    pub downward_api: Option<DownwardVolume>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ProjectedData {
    pub name: String,
    pub items: Vec<KeyToPath>,
    pub optional: bool,
}

/// A ConfigMap or Secret that a pod names, in the pod's own namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DataRef {
    pub secret: bool,
    pub name: String,
}

impl PodView {
    /// Reads the item's JSON.
    ///
    /// # Errors
    /// The object is no JSON, or a field that the agent uses has another type.
    pub fn parse(item: &PodItem) -> Result<Self, InvalidPod> {
        let mut value: Value = serde_json::from_slice(&item.object).map_err(|e| InvalidPod(e.to_string()))?;
        drop_nulls(&mut value);
        let mut view: PodView = serde_json::from_value(value).map_err(|e| InvalidPod(e.to_string()))?;
        view.metadata.uid = item.uid.clone();
        view.metadata.namespace.clone_from(&item.namespace);
        view.metadata.name.clone_from(&item.name);
        if view.spec.containers.is_empty() {
            return Err(InvalidPod("it has no containers".into()));
        }
        let mut names = BTreeSet::new();
        for container in view.containers() {
            // Names become file names: this is the last door before paths.
            if !is_label(&container.name) || !names.insert(&container.name) {
                return Err(InvalidPod(format!("bad or repeated container name {:?}", container.name)));
            }
        }
        if let Some(volume) = view.spec.volumes.iter().find(|v| !is_label(&v.name)) {
            return Err(InvalidPod(format!("bad volume name {:?}", volume.name)));
        }
        if !is_label(&view.metadata.uid.0) {
            return Err(InvalidPod(format!("bad uid {:?}", view.metadata.uid.0)));
        }
        Ok(view)
    }

    pub fn uid(&self) -> &PodUid {
        &self.metadata.uid
    }

    /// Init containers in order, then the others: the order of every index in this room.
    pub fn containers(&self) -> impl Iterator<Item = &ContainerView> {
        self.spec.init_containers.iter().chain(&self.spec.containers)
    }

    pub fn container(&self, index: usize) -> Option<&ContainerView> {
        self.containers().nth(index)
    }

    pub fn is_init(&self, index: usize) -> bool {
        index < self.spec.init_containers.len()
    }

    /// An init container that goes on running beside the others.
    pub fn is_sidecar(&self, index: usize) -> bool {
        self.is_init(index) && self.spec.init_containers[index].restart_policy == Some(RestartPolicy::Always)
    }

    /// How container `index` restarts. An init container of an `Always` pod runs again only when it failed.
    pub fn restart_policy(&self, index: usize) -> RestartPolicy {
        match (self.is_init(index), self.spec.restart_policy) {
            (true, _) if self.is_sidecar(index) => RestartPolicy::Always,
            (true, RestartPolicy::Always) => RestartPolicy::OnFailure,
            (_, policy) => policy,
        }
    }

    /// Seconds.
    pub fn grace(&self) -> u32 {
        self.spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE)
    }

    /// `spec.containers{web}`: how events name a container.
    pub fn field_path(&self, index: usize) -> String {
        let list = if self.is_init(index) { "initContainers" } else { "containers" };
        format!("spec.{list}{{{}}}", self.container(index).map_or("", |c| &c.name))
    }

    pub fn hostname(&self) -> &str {
        // 63 bytes: the kernel's and DNS's limit of a label.
        const MAX: usize = 63;
        let name = if self.spec.hostname.is_empty() { &self.metadata.name } else { &self.spec.hostname };
        name.get(..MAX).unwrap_or(name).trim_end_matches(['-', '.'])
    }

    /// Every ConfigMap and Secret that volumes or environment name.
    pub fn data_refs(&self) -> BTreeSet<DataRef> {
        let mut refs = BTreeSet::new();
        let mut add = |secret: bool, name: &str| {
            refs.insert(DataRef { secret, name: name.to_owned() });
        };
        for container in self.containers() {
            for from in &container.env_from {
                from.config_map_ref.iter().for_each(|r| add(false, &r.name));
                from.secret_ref.iter().for_each(|r| add(true, &r.name));
            }
            for source in container.env.iter().filter_map(|e| e.value_from.as_ref()) {
                source.config_map_key_ref.iter().for_each(|r| add(false, &r.name));
                source.secret_key_ref.iter().for_each(|r| add(true, &r.name));
            }
        }
        for volume in &self.spec.volumes {
            volume.config_map.iter().for_each(|v| add(false, &v.name));
            volume.secret.iter().for_each(|v| add(true, &v.secret_name));
            for source in volume.projected.iter().flat_map(|p| &p.sources) {
                source.config_map.iter().for_each(|v| add(false, &v.name));
                source.secret.iter().for_each(|v| add(true, &v.name));
            }
        }
        refs
    }
}

/// The API treats an explicit null like an absent field; serde does not.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// A DNS label (or a UID): what may become one component of a path.
pub fn is_label(s: &str) -> bool {
    // 253: the longest name of the API.
    !s.is_empty()
        && s.len() <= 253
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        && !s.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, want: Result<&str, &str>) {
        let item = PodItem {
            uid: PodUid("u-1".into()),
            namespace: "default".into(),
            name: "web".into(),
            object: json.as_bytes().to_vec(),
            stop: None,
        };
        match (PodView::parse(&item), want) {
            (Ok(view), Ok(name)) => assert_eq!(view.spec.containers[0].name, name),
            (Err(e), Err(part)) => assert!(e.to_string().contains(part), "{e}"),
            (got, want) => panic!("{got:?} for {want:?}"),
        }
    }

    #[test]
    fn parses_what_it_uses_and_refuses_what_would_harm() {
        check(r#"{"spec":{"containers":[{"name":"a","image":"x","ports":null}],"dnsConfig":null}}"#, Ok("a"));
        check(r#"{"spec":{"containers":[]}}"#, Err("no containers"));
        check(r#"{"spec":{"containers":[{"name":"../a"}]}}"#, Err("container name"));
        check(r#"{"spec":{"containers":[{"name":"a"},{"name":"a"}]}}"#, Err("repeated"));
        check(r#"{"spec":{"containers":[{"name":"a"}],"volumes":[{"name":"a/b"}]}}"#, Err("volume name"));
        check(r#"{"spec":{"containers":[{"name":7}]}}"#, Err("cannot be read"));
        check("nonsense", Err("cannot be read"));
    }

    #[test]
    fn names_all_data_a_pod_needs() {
        let view: PodView = serde_json::from_value(serde_json::json!({"spec": {
            "containers": [{"name": "a", "env": [
                {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c1", "key": "k"}}},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s1", "key": "k"}}}],
                "envFrom": [{"secretRef": {"name": "s2"}}]}],
            "volumes": [{"name": "v", "configMap": {"name": "c2"}},
                {"name": "p", "projected": {"sources": [{"secret": {"name": "s3"}}]}}]}}))
        .expect("a pod");
        let refs: Vec<_> = view.data_refs().into_iter().map(|r| (r.secret, r.name)).collect();
        let want = [(false, "c1"), (false, "c2"), (true, "s1"), (true, "s2"), (true, "s3")];
        assert_eq!(refs, want.map(|(s, n)| (s, n.to_owned())));
    }
}
