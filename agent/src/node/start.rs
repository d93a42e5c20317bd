//! What a container is to be, out of its pod, its image and its volumes. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;

use coracle_images::{Image, ImageConfig};
use coracle_shared::api::quantity::Quantity;

use crate::reconcile::env::expand;
use crate::reconcile::state::StartFault;
use crate::reconcile::view::{ContainerView, PodView};
use crate::runtime::{
    ContainerId, ContainerSpec, LogSpec, Mount, MountSource, Propagation, Resources, Rootfs, Seccomp, Security, User,
};
use crate::volumes::Volume;

/// Processes and threads of one container: a fork bomb stays its own problem.
const PIDS_LIMIT: u64 = 4096;
/// A log file is rotated at this size, and so many are kept: logs lie in memory by default.
const LOG_MAX_BYTES: u64 = 1 << 20;
const LOG_MAX_FILES: u32 = 3;
/// Where the termination message is unless the pod says otherwise.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// What a start is made from.
pub struct Start<'a> {
    pub view: &'a PodView,
    pub container: &'a ContainerView,
    pub attempt: u32,
    pub image: &'a Image,
    pub env: Vec<(String, String)>,
    pub user: User,
    /// Each volume and where it lies.
    pub volumes: &'a BTreeMap<String, (Volume, PathBuf)>,
    /// The directory with `hosts`, `hostname` and `resolv.conf`.
    pub etc: PathBuf,
    pub upper: PathBuf,
    pub log: PathBuf,
    /// The node's memory, for the OOM score.
    pub node_memory: u64,
}

impl Start<'_> {
    /// # Errors
    /// The pod asks for what cannot be.
    pub fn spec(self) -> Result<ContainerSpec, StartFault> {
        let argv = argv(self.container, &self.image.config, &self.env);
        if argv.is_empty() {
            return Err(StartFault::Create("no command specified".into()));
        }
        let cwd = match (&*self.container.working_dir, &*self.image.config.workdir) {
            ("", image) => image,
            (own, _) => own,
        };
        let path = self.container.termination_message_path.as_deref().filter(|p| !p.is_empty());
        Ok(ContainerSpec {
            id: ContainerId { name: self.container.name.clone(), attempt: self.attempt },
            rootfs: Rootfs::Overlay { lowers: self.image.layers.clone(), upper: self.upper.clone() },
            argv,
            cwd: cwd.to_owned(),
            mounts: self.mounts()?,
            security: security(self.view, self.container, self.node_memory),
            resources: resources(self.container).map_err(StartFault::Config)?,
            log: LogSpec { path: self.log.clone(), max_bytes: LOG_MAX_BYTES, max_files: LOG_MAX_FILES },
            stdin: self.container.stdin,
            termination_message_path: Some(path.unwrap_or(TERMINATION_LOG).to_owned()),
            env: self.env,
            user: self.user,
        })
    }

    fn mounts(&self) -> Result<Vec<Mount>, StartFault> {
        let mut mounts = Vec::new();
        for file in ["hosts", "hostname", "resolv.conf"] {
            let target = format!("/etc/{file}");
            if !self.container.volume_mounts.iter().any(|m| m.mount_path == target) {
                mounts.push(bind(target, self.etc.join(file), None, false, Propagation::None));
            }
        }
        for mount in &self.container.volume_mounts {
            let (volume, path) = self
                .volumes
                .get(&mount.name)
                .ok_or_else(|| StartFault::Config(format!("volume mount {:?} has no volume", mount.name)))?;
            let sub = if mount.sub_path_expr.is_empty() {
                mount.sub_path.clone()
            } else {
                expand(&mount.sub_path_expr, &|name| lookup(&self.env, name))
            };
            if sub.starts_with('/') || sub.split('/').any(|part| part == "..") {
                return Err(StartFault::Config(format!("subPath {sub:?} does not stay in its volume")));
            }
            let propagation = match mount.mount_propagation.as_str() {
                "HostToContainer" => Propagation::HostToContainer,
                "Bidirectional" => Propagation::Bidirectional,
                _ => Propagation::None,
            };
            // What the agent writes it alone writes.
            let read_only = mount.read_only || matches!(volume, Volume::Files(_));
            let sub = (!sub.is_empty()).then_some(sub);
            mounts.push(bind(mount.mount_path.clone(), path.clone(), sub, read_only, propagation));
        }
        // A mount below another one comes after it.
        mounts.sort_by_key(|m| m.target.split('/').filter(|part| !part.is_empty()).count());
        Ok(mounts)
    }
}

fn bind(target: String, path: PathBuf, sub_path: Option<String>, read_only: bool, propagation: Propagation) -> Mount {
    Mount { target, source: MountSource::Bind { path, sub_path, propagation }, read_only }
}

fn lookup(env: &[(String, String)], name: &str) -> Option<String> {
    env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone())
}

/// `command` replaces the image's entry point and its arguments, `args` its arguments.
fn argv(container: &ContainerView, image: &ImageConfig, env: &[(String, String)]) -> Vec<String> {
    let expanded = |words: &[String]| -> Vec<String> {
        words.iter().map(|word| expand(word, &|name| lookup(env, name))).collect()
    };
    let mut argv = if container.command.is_empty() { image.entrypoint.clone() } else { expanded(&container.command) };
    if !container.args.is_empty() {
        argv.extend(expanded(&container.args));
    } else if container.command.is_empty() {
        argv.extend(image.cmd.iter().cloned());
    }
    argv
}

/// The image's environment as pairs.
pub fn image_env(image: &ImageConfig) -> Vec<(String, String)> {
    let pair = |word: &String| word.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
    let mut env: Vec<(String, String)> = image.env.iter().filter_map(pair).collect();
    if !env.iter().any(|(k, _)| k == "PATH") {
        env.push(("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()));
    }
    env
}

/// The `USER[:GROUP]` that the container runs as, by the pod or else the image.
pub fn user_words(view: &PodView, container: &ContainerView, image: &ImageConfig) -> String {
    let (own, pod) = (&container.security_context, &view.spec.security_context);
    let user = own.run_as_user.or(pod.run_as_user);
    let group = own.run_as_group.or(pod.run_as_group);
    match (user, group) {
        (Some(user), Some(group)) => format!("{user}:{group}"),
        (Some(user), None) => user.to_string(),
        (None, Some(group)) => format!("{}:{group}", image.user.split(':').next().unwrap_or_default()),
        (None, None) => image.user.clone(),
    }
}

/// Adds the pod's groups, and holds the user against `runAsNonRoot`.
///
/// # Errors
/// The container would run as root although it must not.
pub fn check_user(view: &PodView, container: &ContainerView, mut user: User) -> Result<User, StartFault> {
    let (own, pod) = (&container.security_context, &view.spec.security_context);
    if own.run_as_non_root.or(pod.run_as_non_root) == Some(true) && user.uid == 0 {
        let message = "container has runAsNonRoot and image will run as root";
        return Err(StartFault::Config(message.to_owned()));
    }
    user.groups.extend(pod.supplemental_groups.iter().chain(&pod.fs_group));
    user.groups.sort_unstable();
    user.groups.dedup();
    Ok(user)
}

fn security(view: &PodView, container: &ContainerView, node_memory: u64) -> Security {
    let (own, pod) = (&container.security_context, &view.spec.security_context);
    let profile = if own.seccomp_profile.kind.is_empty() { &pod.seccomp_profile } else { &own.seccomp_profile };
    Security {
        privileged: own.privileged,
        add_capabilities: own.capabilities.add.clone(),
        drop_capabilities: own.capabilities.drop.clone(),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        seccomp: if profile.kind == "Unconfined" { Seccomp::Unconfined } else { Seccomp::Default },
        unmasked: false,
        read_only_root: own.read_only_root_filesystem,
        oom_score_adj: Some(oom_score(view, container, node_memory)),
    }
}

/// As the kubelet sets it: whoever asked for nothing goes first, whoever reserved all goes last.
fn oom_score(view: &PodView, container: &ContainerView, node_memory: u64) -> i32 {
    let empty = |c: &ContainerView| c.resources.limits.is_empty() && c.resources.requests.is_empty();
    if view.containers().all(empty) {
        return 1000;
    }
    let guaranteed = |c: &ContainerView| {
        ["cpu", "memory"].iter().all(|r| {
            let limit = c.resources.limits.get(*r);
            limit.is_some() && c.resources.requests.get(*r).is_none_or(|q| Some(q) == limit)
        })
    };
    if view.containers().all(guaranteed) {
        return -997;
    }
    let asked = amount(container, false, "memory").ok().flatten().unwrap_or(0).max(0);
    let share = 1000 - 1000 * i128::from(asked) / i128::from(node_memory.max(1));
    i32::try_from(share.clamp(2, 999)).unwrap_or(999)
}

/// A container's limits and requests.
///
/// # Errors
/// A quantity that is none.
pub fn resources(container: &ContainerView) -> Result<Resources, String> {
    let positive = |v: Option<i64>| v.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0);
    Ok(Resources {
        cpu_request_millis: positive(amount(container, false, "cpu")?),
        cpu_limit_millis: positive(amount(container, true, "cpu")?),
        memory_limit_bytes: positive(amount(container, true, "memory")?),
        pids_limit: Some(PIDS_LIMIT),
    })
}

/// What the pod's own group may use, as the kubelet has it: the sum over its containers where each has
/// that limit, or what the largest init container needs; sidecars count with both. No number of
/// processes: each container has its own.
pub fn pod_resources(view: &PodView) -> Resources {
    let own: Vec<Resources> = view.containers().map(|c| resources(c).unwrap_or_default()).collect();
    let total = |of: fn(&Resources) -> Option<u64>| {
        let (mut sum, mut sidecars, mut largest_init) = (0_u64, 0_u64, 0_u64);
        for (i, resources) in own.iter().enumerate() {
            let one = of(resources)?;
            if view.is_sidecar(i) {
                sidecars += one;
                largest_init = largest_init.max(sidecars);
            } else if view.is_init(i) {
                largest_init = largest_init.max(sidecars + one);
            } else {
                sum += one;
            }
        }
        Some(largest_init.max(sidecars + sum))
    };
    Resources {
        cpu_request_millis: own.iter().map(|r| r.cpu_request_millis).sum::<Option<u64>>(),
        cpu_limit_millis: total(|r| r.cpu_limit_millis),
        memory_limit_bytes: total(|r| r.memory_limit_bytes),
        pids_limit: None,
    }
}

/// CPU in thousandths, anything else in units. A request that is not there is as high as its limit.
fn amount(container: &ContainerView, limit: bool, resource: &str) -> Result<Option<i64>, String> {
    let of = &container.resources;
    let value = if limit { of.limits.get(resource) } else { of.requests.get(resource).or(of.limits.get(resource)) };
    let Some(value) = value else { return Ok(None) };
    let quantity = Quantity::from_value(value).map_err(|e| format!("{resource}: {e}"))?;
    Ok(Some(if resource == "cpu" { quantity.milli() } else { quantity.units() }))
}

/// The number of `SIGTERM`, `TERM` or `15`; SIGTERM for what is none.
pub fn signal_number(name: &str) -> i32 {
    const TERM: i32 = 15;
    const NAMES: [(&str, i32); 14] = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ABRT", 6),
        ("KILL", 9),
        ("USR1", 10),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", TERM),
        ("CONT", 18),
        ("STOP", 19),
        ("WINCH", 28),
        ("PWR", 30),
    ];
    // The first real-time signal that programs may use, signal(7).
    const RTMIN: i32 = 34;
    if let Ok(number @ 1..=64) = name.parse() {
        return number;
    }
    let short = name.to_uppercase();
    let short = short.strip_prefix("SIG").unwrap_or(&short);
    if let Some(offset) = short.strip_prefix("RTMIN+").and_then(|n| n.parse::<i32>().ok()) {
        return (RTMIN + offset).clamp(RTMIN, 64);
    }
    NAMES.iter().find(|(n, _)| *n == short).map_or(TERM, |(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(container: Value) -> PodView {
        let mut container = container;
        container["name"] = "c".into();
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [container]}})).expect("a pod")
    }

    fn image() -> ImageConfig {
        let words = |w: &[&str]| w.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        ImageConfig {
            entrypoint: words(&["/e"]),
            cmd: words(&["c1", "c2"]),
            user: "www:web".into(),
            ..Default::default()
        }
    }

    #[test]
    fn commands_and_arguments() {
        let check = |container: Value, want: &[&str]| {
            let view = pod(container);
            assert_eq!(argv(&view.spec.containers[0], &image(), &[("A".into(), "1".into())]), want);
        };
        check(json!({}), &["/e", "c1", "c2"]);
        check(json!({"args": ["$(A)", "$(B)"]}), &["/e", "1", "$(B)"]);
        check(json!({"command": ["/x"]}), &["/x"]);
        check(json!({"command": ["/x"], "args": ["y"]}), &["/x", "y"]);
    }

    #[test]
    fn users() {
        let check = |context: Value, words: &str, uid: u32, ok: bool| {
            let view = pod(json!({"securityContext": context}));
            let container = &view.spec.containers[0];
            assert_eq!(user_words(&view, container, &image()), words);
            assert_eq!(check_user(&view, container, User { uid, ..User::default() }).is_ok(), ok);
        };
        check(json!({}), "www:web", 0, true);
        check(json!({"runAsUser": 7}), "7", 7, true);
        check(json!({"runAsUser": 7, "runAsGroup": 8, "runAsNonRoot": true}), "7:8", 7, true);
        check(json!({"runAsGroup": 8, "runAsNonRoot": true}), "www:8", 0, false);
    }

    #[test]
    fn who_dies_first() {
        let check = |resources: Value, want: i32| {
            let view = pod(json!({"resources": resources}));
            assert_eq!(oom_score(&view, &view.spec.containers[0], 1 << 30), want);
        };
        check(json!({}), 1000);
        check(json!({"limits": {"cpu": "1", "memory": "1Gi"}}), -997);
        check(json!({"requests": {"memory": "512Mi"}}), 500);
        check(json!({"requests": {"cpu": "1m"}}), 999);
    }

    #[test]
    fn limits() {
        let view = pod(json!({"resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": 0.5}}}));
        let got = resources(&view.spec.containers[0]).expect("quantities");
        assert_eq!((got.cpu_limit_millis, got.cpu_request_millis), (Some(1500), Some(500)));
        assert_eq!(got.memory_limit_bytes, Some(64 << 20));
        let view = pod(json!({"resources": {"limits": {"cpu": "lots"}}}));
        assert!(resources(&view.spec.containers[0]).is_err());
    }

    #[test]
    fn a_pod_has_what_its_containers_have_together() {
        let container = |name: &str, memory: &str, sidecar: bool| {
            let mut c = json!({"name": name, "resources": {"limits": {"memory": memory}}});
            if sidecar {
                c["restartPolicy"] = "Always".into();
            }
            c
        };
        let check = |inits: Value, containers: Value, want: Option<u64>| {
            let spec = json!({"metadata": {"name": "p"}, "spec": {"initContainers": inits, "containers": containers}});
            let view: PodView = serde_json::from_value(spec).expect("a pod");
            assert_eq!(pod_resources(&view).memory_limit_bytes.map(|b| b >> 20), want);
        };
        let two = json!([container("a", "10Mi", false), container("b", "20Mi", false)]);
        check(json!([]), two.clone(), Some(30));
        check(json!([container("i", "50Mi", false)]), two.clone(), Some(50));
        check(json!([container("s", "5Mi", true), container("i", "50Mi", false)]), two.clone(), Some(55));
        check(json!([]), json!([container("a", "10Mi", false), {"name": "b"}]), None);
    }

    #[test]
    fn signals() {
        for (name, number) in
            [("", 15), ("SIGINT", 2), ("quit", 3), ("9", 9), ("SIGRTMIN+3", 37), ("what", 15), ("999", 15)]
        {
            assert_eq!(signal_number(name), number, "{name}");
        }
    }
}
