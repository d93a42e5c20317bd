//! Rules of the kinds: what an object must be beyond fitting its type. Pure: a new object, the old
//! one on an update, and a list of what is wrong, in upstream's words.
//!
//! One file a kind or family. Objects come here canonical and defaulted.

use serde_json::{Map, Value};

use super::field::{FieldError, Path};
use super::names;
use super::status::MAX_CAUSES;
use super::table::{Scope, TypeId};
use super::validate;

mod batch;
mod config;
mod container;
mod endpoints;
mod meta;
mod network;
mod node;
pub mod pod;
mod policy;
mod rbac;
mod security;
mod selector;
mod service;
mod storage;
mod volume;
mod webhook;
mod workload;

/// What upstream says of a number below zero.
const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

/// What upstream says of a field that may not change.
const IMMUTABLE: &str = "field is immutable";

/// Checks an object of type `kind`: its metadata, what the table says of its values, and its kind's
/// own rules. With `old`, an update: what may not change has not. `metadata.name` is already
/// generated and `metadata.namespace` already set.
pub fn validate(kind: TypeId, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(kind, new, old, &mut errors);
    errors.extend(validate::values(kind, new));
    let rule = rule(kind);
    if let Some(rule) = rule {
        rule(new, old, &mut errors);
    }
    errors.0
}

/// A kind's own rule: the new object, the old one, and where to say what is wrong.
type Rule = fn(&Value, Option<&Value>, &mut Errors);

fn rule(kind: TypeId) -> Option<Rule> {
    Some(match (kind.group(), kind.name()) {
        ("", "Pod") => pod::validate,
        ("", "PodTemplate") => workload::pod_template,
        ("", "ReplicationController") => workload::replication_controller,
        ("", "Service") => service::validate,
        ("", "ConfigMap") => config::config_map,
        ("", "Secret") => config::secret,
        ("", "Node") => node::validate,
        ("", "Event") => meta::event,
        ("", "Endpoints") => endpoints::endpoints,
        ("", "LimitRange") => policy::limit_range,
        ("", "ResourceQuota") => policy::quota,
        ("", "PersistentVolume") => storage::volume,
        ("", "PersistentVolumeClaim") => storage::claim,
        ("apps", "Deployment") => workload::deployment,
        ("apps", "ReplicaSet") => workload::replica_set,
        ("apps", "StatefulSet") => workload::stateful_set,
        ("apps", "DaemonSet") => workload::daemon_set,
        ("apps", "ControllerRevision") => workload::revision,
        ("batch", "Job") => batch::job,
        ("batch", "CronJob") => batch::cron_job,
        ("autoscaling", "HorizontalPodAutoscaler") => policy::autoscaler,
        ("discovery.k8s.io", "EndpointSlice") => endpoints::slice,
        ("coordination.k8s.io", "Lease") => node::lease,
        ("networking.k8s.io", "Ingress") => network::ingress,
        ("networking.k8s.io", "IngressClass") => network::class,
        ("networking.k8s.io", "NetworkPolicy") => network::policy,
        ("networking.k8s.io", "ServiceCIDR") => network::service_cidr,
        ("policy", "PodDisruptionBudget") => policy::budget,
        ("scheduling.k8s.io", "PriorityClass") => policy::priority_class,
        ("node.k8s.io", "RuntimeClass") => policy::runtime_class,
        ("storage.k8s.io", "StorageClass") => storage::class,
        ("storage.k8s.io", "VolumeAttachment") => storage::attachment,
        ("rbac.authorization.k8s.io", "Role") => rbac::role,
        ("rbac.authorization.k8s.io", "ClusterRole") => rbac::cluster_role,
        ("rbac.authorization.k8s.io", "RoleBinding") => rbac::binding,
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => rbac::cluster_binding,
        ("certificates.k8s.io", "CertificateSigningRequest") => rbac::request,
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration") => {
            webhook::configuration
        }
        _ => return None,
    })
}

/// Kinds that only the field table checks, and the rules of upstream's that they lack.
const LACKING: &[(&str, &str, &str)] = &[
    ("", "Namespace", "none: finalizers' names are checked with the metadata"),
    ("", "ServiceAccount", "none: upstream checks metadata alone"),
    ("networking.k8s.io", "IPAddress", "the name is a canonical address; parentRef is required and immutable"),
    (
        "storage.k8s.io",
        "CSIDriver",
        "attachRequired, podInfoOnMount, volumeLifecycleModes are immutable; token audiences differ",
    ),
    ("storage.k8s.io", "CSINode", "drivers' names are unique and their ids stay"),
    (
        "storage.k8s.io",
        "CSIStorageCapacity",
        "nodeTopology and storageClassName are immutable; capacity is not negative",
    ),
    ("storage.k8s.io", "VolumeAttributesClass", "driverName and parameters are immutable; parameters are required"),
    (
        "admissionregistration.k8s.io",
        "ValidatingAdmissionPolicy",
        "expressions compile; validations or annotations are required",
    ),
    (
        "admissionregistration.k8s.io",
        "ValidatingAdmissionPolicyBinding",
        "policyName and validationActions are required",
    ),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicy", "expressions compile; mutations are required"),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding", "policyName is required"),
    ("resource.k8s.io", "DeviceClass", "selectors' expressions compile; at most 32 of them"),
    (
        "resource.k8s.io",
        "ResourceClaim",
        "requests' names are unique and their classes named; spec is immutable; allocation fits",
    ),
    ("resource.k8s.io", "ResourceClaimTemplate", "as of claims; spec is immutable"),
    (
        "resource.k8s.io",
        "ResourceSlice",
        "one of nodeName, nodeSelector, allNodes; at most 128 devices; driver and pool are immutable",
    ),
];

/// The rules of upstream's that a kind without rules of its own lacks. `None`: it has its rules.
pub fn lacking(kind: TypeId) -> Option<&'static str> {
    LACKING.iter().find(|(group, name, _)| (*group, *name) == (kind.group(), kind.name())).map(|(_, _, words)| *words)
}

/// Whether a kind has rules of its own.
pub fn has_rules(kind: TypeId) -> bool {
    rule(kind).is_some()
}

/// Checks a write to the `status` subresource: the spec is the stored one, so only metadata counts.
pub fn validate_status(kind: TypeId, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(kind, new, Some(old), &mut errors);
    if kind.name() == "CertificateSigningRequest" {
        rbac::decision(new, old, &mut errors);
    }
    errors.0
}

fn metadata(kind: TypeId, new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let namespaced = kind.scope() == Scope::Namespaced;
    meta::validate(new, namespaced, name_shape(kind), errors);
    if let Some(old) = old {
        meta::update(new, old, errors);
    }
}

/// The shape of a kind's names.
fn name_shape(kind: TypeId) -> fn(&str) -> Vec<String> {
    match (kind.group(), kind.name()) {
        ("", "Namespace") => names::dns1123_label,
        ("", "Service") => names::dns1035_label,
        ("rbac.authorization.k8s.io", _) => names::path_segment,
        _ => names::dns1123_subdomain,
    }
}

/// What is wrong so far; bounded, because a hostile object can have millions of faults.
#[derive(Debug, Default)]
struct Errors(Vec<FieldError>);

impl Errors {
    fn push(&mut self, error: FieldError) {
        if self.0.len() < MAX_CAUSES {
            self.0.push(error);
        }
    }

    fn extend(&mut self, errors: impl IntoIterator<Item = FieldError>) {
        errors.into_iter().for_each(|error| self.push(error));
    }

    /// One error a reason.
    fn invalid_all(&mut self, path: &Path<'_>, value: &str, reasons: Vec<String>) {
        for reason in reasons {
            self.push(FieldError::invalid(path, value, reason));
        }
    }

    /// A number that may not be below zero.
    fn not_negative(&mut self, value: &Value, name: &str, path: &Path<'_>) {
        if let Some(number) = int(value, name)
            && number < 0
        {
            self.push(FieldError::invalid(&path.child(name), number, NOT_NEGATIVE));
        }
    }

    fn immutable(&mut self, new: Option<&Value>, old: Option<&Value>, path: &Path<'_>) {
        if new != old {
            let shown = new.cloned().unwrap_or(Value::Null);
            self.push(FieldError::invalid(path, shown, IMMUTABLE));
        }
    }
}

/// A string member; empty when absent.
fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn int(value: &Value, name: &str) -> Option<i64> {
    value.get(name).and_then(Value::as_i64)
}

fn flag(value: &Value, name: &str) -> bool {
    value.get(name).and_then(Value::as_bool).unwrap_or_default()
}

/// A list member; empty when absent.
fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A map member.
fn map<'v>(value: &'v Value, name: &str) -> Option<&'v Map<String, Value>> {
    value.get(name).and_then(Value::as_object)
}

#[cfg(test)]
mod tests;
