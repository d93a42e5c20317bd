//! What a node is: the agent's word on its pods and on itself.
//!
//! Times are milliseconds since the Unix epoch by the node's clock floor.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::ids::PodUid;

/// The state of one pod, whole: a later report of the same uid replaces it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodReport {
    pub uid: PodUid,
    pub namespace: String,
    pub name: String,
    pub phase: Phase,
    pub reason: String,
    pub message: String,
    pub host_ip: Option<Ipv4Addr>,
    pub pod_ip: Option<Ipv4Addr>,
    pub started_at: Option<i64>,
    /// All init containers have completed.
    pub initialized: bool,
    /// All containers are ready and the pod is not stopping.
    pub ready: bool,
    pub init_containers: Vec<ContainerReport>,
    pub containers: Vec<ContainerReport>,
    /// Nothing of the pod runs and nothing of it is left on the node: the server may remove a pod
    /// that is being deleted, and the agent forgets it once the server did.
    pub gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerReport {
    pub name: String,
    /// As the pod's spec names it.
    pub image: String,
    /// `REPOSITORY@sha256:…` of the manifest that runs; empty until known.
    pub image_id: String,
    /// `coracle://ID`; empty until the container was made.
    pub container_id: String,
    pub state: ContainerState,
    pub last: Option<Exit>,
    pub ready: bool,
    pub started: bool,
    pub restart_count: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// `reason` as Kubernetes users know it: ContainerCreating, PodInitializing, ErrImagePull,
    /// ImagePullBackOff, CrashLoopBackOff, CreateContainerConfigError, RunContainerError, …
    Waiting {
        reason: String,
        message: String,
    },
    Running {
        started_at: i64,
    },
    Terminated(Exit),
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 128 + signal when a signal ended it.
    pub code: i32,
    pub signal: Option<i32>,
    /// Completed, Error, OOMKilled, ContainerCannotRun, …
    pub reason: String,
    pub message: String,
    pub started_at: i64,
    pub finished_at: i64,
    pub container_id: String,
}

/// The node itself. Sent whole on connecting and when anything of it changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    pub addresses: Vec<Ipv4Addr>,
    pub hostname: String,
    pub capacity: Resources,
    pub allocatable: Resources,
    /// `amd64`, `arm64`, `arm`.
    pub architecture: String,
    pub os_image: String,
    pub kernel: String,
    pub machine_id: String,
    pub boot_id: String,
    pub agent_version: String,
    /// MemoryPressure, DiskPressure, PIDPressure and Coracle's own; Ready is the server's to say.
    pub conditions: Vec<Condition>,
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub storage_bytes: u64,
    pub pods: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    pub kind: String,
    pub status: bool,
    pub reason: String,
    pub message: String,
}

/// Something worth an Event object: what happened to a pod or to the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventReport {
    /// `None`: the node itself.
    pub pod: Option<(String, String, PodUid)>,
    /// `spec.containers{web}`, or empty.
    pub field_path: String,
    pub warning: bool,
    /// Pulling, Pulled, Created, Started, Killing, BackOff, Failed, Unhealthy, …
    pub reason: String,
    pub message: String,
    pub at: i64,
}
