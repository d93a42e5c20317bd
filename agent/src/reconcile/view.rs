//! A pod as the agent sees it: parsed once from the item's JSON, then only read.
//!
//! Only the fields that the agent acts on. The server has validated the object; what is still
//! wrong here makes an [`InvalidPod`], which fails that pod alone.

use std::collections::BTreeSet;
use std::fmt;

use coracle_shared::desired::PodItem;
use coracle_shared::ids::PodUid;
use serde_json::Value;

pub use super::spec::*;

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
