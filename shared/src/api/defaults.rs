//! Static defaults: most are rows of (type, field, value); the few that depend on other fields are
//! functions beside them. Both reach into templates, because they hang on types.
//!
//! Comes after [`super::canonical::object`], so that an empty optional field is absent. Applying
//! defaults twice changes nothing, which is what makes a second `kubectl apply` a no-op.

use std::sync::OnceLock;

use serde_json::{Map, Value};

use super::table::{Type, TypeId, schema};

mod conditional;

/// Fields that get a value when absent: type, field, JSON.
const ROWS: &[(&str, &str, &str)] = &[
    ("core/v1.PodSpec", "restartPolicy", r#""Always""#),
    ("core/v1.PodSpec", "dnsPolicy", r#""ClusterFirst""#),
    ("core/v1.PodSpec", "schedulerName", r#""default-scheduler""#),
    ("core/v1.PodSpec", "securityContext", "{}"),
    ("core/v1.PodSpec", "terminationGracePeriodSeconds", "30"),
    ("core/v1.Container", "terminationMessagePath", r#""/dev/termination-log""#),
    ("core/v1.Container", "terminationMessagePolicy", r#""File""#),
    ("core/v1.Container", "resources", "{}"),
    ("core/v1.EphemeralContainerCommon", "terminationMessagePath", r#""/dev/termination-log""#),
    ("core/v1.EphemeralContainerCommon", "terminationMessagePolicy", r#""File""#),
    ("core/v1.EphemeralContainerCommon", "resources", "{}"),
    ("core/v1.Probe", "timeoutSeconds", "1"),
    ("core/v1.Probe", "periodSeconds", "10"),
    ("core/v1.Probe", "successThreshold", "1"),
    ("core/v1.Probe", "failureThreshold", "3"),
    ("core/v1.GRPCAction", "service", r#""""#),
    ("core/v1.HTTPGetAction", "path", r#""/""#),
    ("core/v1.HTTPGetAction", "scheme", r#""HTTP""#),
    ("core/v1.ObjectFieldSelector", "apiVersion", r#""v1""#),
    ("core/v1.ResourceFieldSelector", "divisor", r#""0""#),
    ("core/v1.SecretVolumeSource", "defaultMode", "420"),
    ("core/v1.ConfigMapVolumeSource", "defaultMode", "420"),
    ("core/v1.DownwardAPIVolumeSource", "defaultMode", "420"),
    ("core/v1.ProjectedVolumeSource", "defaultMode", "420"),
    ("core/v1.ServiceAccountTokenProjection", "expirationSeconds", "3600"),
    ("core/v1.HostPathVolumeSource", "type", r#""""#),
    ("core/v1.EndpointPort", "protocol", r#""TCP""#),
    ("core/v1.ServiceSpec", "type", r#""ClusterIP""#),
    ("core/v1.ServiceSpec", "sessionAffinity", r#""None""#),
    ("core/v1.Service", "status", r#"{"loadBalancer":{}}"#),
    ("core/v1.Secret", "type", r#""Opaque""#),
    ("core/v1.NamespaceStatus", "phase", r#""Active""#),
    ("core/v1.Namespace", "status", "{}"),
    ("core/v1.PersistentVolumeSpec", "persistentVolumeReclaimPolicy", r#""Retain""#),
    ("core/v1.PersistentVolumeSpec", "volumeMode", r#""Filesystem""#),
    ("core/v1.PersistentVolumeClaimSpec", "volumeMode", r#""Filesystem""#),
    ("apps/v1.DeploymentSpec", "replicas", "1"),
    ("apps/v1.DeploymentSpec", "strategy", "{}"),
    ("apps/v1.DeploymentSpec", "revisionHistoryLimit", "10"),
    ("apps/v1.DeploymentSpec", "progressDeadlineSeconds", "600"),
    ("apps/v1.DeploymentStrategy", "type", r#""RollingUpdate""#),
    ("apps/v1.RollingUpdateDeployment", "maxUnavailable", r#""25%""#),
    ("apps/v1.RollingUpdateDeployment", "maxSurge", r#""25%""#),
    ("apps/v1.ReplicaSetSpec", "replicas", "1"),
    ("apps/v1.StatefulSetSpec", "replicas", "1"),
    ("apps/v1.StatefulSetSpec", "revisionHistoryLimit", "10"),
    ("apps/v1.StatefulSetSpec", "podManagementPolicy", r#""OrderedReady""#),
    ("apps/v1.StatefulSetSpec", "updateStrategy", "{}"),
    ("apps/v1.StatefulSetUpdateStrategy", "type", r#""RollingUpdate""#),
    ("apps/v1.RollingUpdateStatefulSetStrategy", "partition", "0"),
    ("apps/v1.StatefulSetSpec", "persistentVolumeClaimRetentionPolicy", "{}"),
    ("apps/v1.StatefulSetPersistentVolumeClaimRetentionPolicy", "whenDeleted", r#""Retain""#),
    ("apps/v1.StatefulSetPersistentVolumeClaimRetentionPolicy", "whenScaled", r#""Retain""#),
    ("apps/v1.DaemonSetSpec", "revisionHistoryLimit", "10"),
    ("apps/v1.DaemonSetSpec", "updateStrategy", "{}"),
    ("apps/v1.DaemonSetUpdateStrategy", "type", r#""RollingUpdate""#),
    ("apps/v1.RollingUpdateDaemonSet", "maxUnavailable", "1"),
    ("apps/v1.RollingUpdateDaemonSet", "maxSurge", "0"),
    ("batch/v1.JobSpec", "completionMode", r#""NonIndexed""#),
    ("batch/v1.JobSpec", "suspend", "false"),
    ("batch/v1.CronJobSpec", "concurrencyPolicy", r#""Allow""#),
    ("batch/v1.CronJobSpec", "suspend", "false"),
    ("batch/v1.CronJobSpec", "successfulJobsHistoryLimit", "3"),
    ("batch/v1.CronJobSpec", "failedJobsHistoryLimit", "1"),
    ("discovery/v1.EndpointPort", "name", r#""""#),
    ("discovery/v1.EndpointPort", "protocol", r#""TCP""#),
    ("networking/v1.NetworkPolicyPort", "protocol", r#""TCP""#),
    ("networking/v1.IngressClassParametersReference", "scope", r#""Cluster""#),
    ("autoscaling/v1.HorizontalPodAutoscalerSpec", "minReplicas", "1"),
    ("autoscaling/v2.HorizontalPodAutoscalerSpec", "minReplicas", "1"),
    ("core/v1.PersistentVolume", "status", "{}"),
    ("core/v1.PersistentVolumeStatus", "phase", r#""Pending""#),
    ("core/v1.PersistentVolumeClaim", "status", "{}"),
    ("core/v1.PersistentVolumeClaimStatus", "phase", r#""Pending""#),
    ("storage/v1.StorageClass", "reclaimPolicy", r#""Delete""#),
    ("storage/v1.StorageClass", "volumeBindingMode", r#""Immediate""#),
    ("storage/v1.CSIDriverSpec", "attachRequired", "true"),
    ("storage/v1.CSIDriverSpec", "podInfoOnMount", "false"),
    ("storage/v1.CSIDriverSpec", "storageCapacity", "false"),
    ("storage/v1.CSIDriverSpec", "fsGroupPolicy", r#""ReadWriteOnceWithFSType""#),
    ("storage/v1.CSIDriverSpec", "volumeLifecycleModes", r#"["Persistent"]"#),
    ("storage/v1.CSIDriverSpec", "requiresRepublish", "false"),
    ("storage/v1.CSIDriverSpec", "seLinuxMount", "false"),
    ("scheduling/v1.PriorityClass", "preemptionPolicy", r#""PreemptLowerPriority""#),
    ("admissionregistration/v1.MutatingWebhook", "failurePolicy", r#""Fail""#),
    ("admissionregistration/v1.MutatingWebhook", "matchPolicy", r#""Equivalent""#),
    ("admissionregistration/v1.MutatingWebhook", "namespaceSelector", "{}"),
    ("admissionregistration/v1.MutatingWebhook", "objectSelector", "{}"),
    ("admissionregistration/v1.MutatingWebhook", "timeoutSeconds", "10"),
    ("admissionregistration/v1.MutatingWebhook", "reinvocationPolicy", r#""Never""#),
    ("admissionregistration/v1.ValidatingWebhook", "failurePolicy", r#""Fail""#),
    ("admissionregistration/v1.ValidatingWebhook", "matchPolicy", r#""Equivalent""#),
    ("admissionregistration/v1.ValidatingWebhook", "namespaceSelector", "{}"),
    ("admissionregistration/v1.ValidatingWebhook", "objectSelector", "{}"),
    ("admissionregistration/v1.ValidatingWebhook", "timeoutSeconds", "10"),
    ("admissionregistration/v1.Rule", "scope", r#""*""#),
    ("admissionregistration/v1.ServiceReference", "port", "443"),
    ("admissionregistration/v1.ValidatingAdmissionPolicySpec", "failurePolicy", r#""Fail""#),
    ("admissionregistration/v1.MutatingAdmissionPolicySpec", "failurePolicy", r#""Fail""#),
    ("admissionregistration/v1.MatchResources", "matchPolicy", r#""Equivalent""#),
    ("admissionregistration/v1.MatchResources", "namespaceSelector", "{}"),
    ("admissionregistration/v1.MatchResources", "objectSelector", "{}"),
    ("rbac/v1.RoleRef", "apiGroup", r#""rbac.authorization.k8s.io""#),
];

/// A default that depends on other fields of the same object.
type Conditional = fn(&mut Map<String, Value>);

/// What one type does to an absent or dependent field.
struct Row {
    id: TypeId,
    fixed: Vec<(&'static str, &'static str)>,
    /// Before the children are visited.
    conditional: Option<Conditional>,
}

/// The rows by type, sorted.
fn rows() -> &'static [Row] {
    static RESOLVED: OnceLock<Vec<Row>> = OnceLock::new();
    RESOLVED.get_or_init(|| {
        let mut rows: Vec<Row> = Vec::new();
        for (path, field, json) in ROWS {
            row_of(&mut rows, path).fixed.push((field, json));
        }
        for (path, conditional) in conditional::ROWS {
            row_of(&mut rows, path).conditional = Some(*conditional);
        }
        rows.sort_by_key(|row| row.id);
        rows
    })
}

fn row_of<'r>(rows: &'r mut Vec<Row>, path: &str) -> &'r mut Row {
    let (package, name) = path.split_once('.').expect("a row names package and type");
    let id = schema().named_type(package, name).unwrap_or_else(|| panic!("no type {path} in the field table"));
    let at = rows.iter().position(|row| row.id == id).unwrap_or_else(|| {
        rows.push(Row { id, fixed: Vec::new(), conditional: None });
        rows.len() - 1
    });
    &mut rows[at]
}

/// Fills the absent fields of an object of type `kind`.
pub fn apply(kind: TypeId, value: &mut Value) {
    let Value::Object(map) = value else { return };
    fill(kind, map);
    for (name, value) in map.iter_mut() {
        if let Some(field) = kind.field(name) {
            descend(field.ty(), value);
        }
    }
}

fn descend(ty: Type, value: &mut Value) {
    match (ty, value) {
        (Type::Struct(id), value) => apply(id, value),
        (Type::List(elem), Value::Array(list)) if nests(elem.ty()) => {
            list.iter_mut().for_each(|item| descend(elem.ty(), item));
        }
        (Type::Map(elem), Value::Object(map)) if nests(elem.ty()) => {
            map.values_mut().for_each(|item| descend(elem.ty(), item));
        }
        _ => {}
    }
}

fn nests(ty: Type) -> bool {
    matches!(ty, Type::Struct(_) | Type::List(_) | Type::Map(_))
}

/// Fills the fields of `id` and of the structs inlined in it.
fn fill(id: TypeId, map: &mut Map<String, Value>) {
    if let Ok(at) = rows().binary_search_by_key(&id, |row| row.id) {
        let row = &rows()[at];
        for (field, json) in &row.fixed {
            set(map, field, json);
        }
        if let Some(conditional) = row.conditional {
            conditional(map);
        }
    }
    for field in id.rows() {
        match (field.inline(), field.ty(), field.default()) {
            (true, Type::Struct(inner), _) => fill(inner, map),
            // A zero default of a field that drops zeros says nothing.
            (false, _, Some(json)) if field.pointer() || !matches!(json, "0" | "false" | "\"\"") => {
                set(map, field.name(), json);
            }
            _ => {}
        }
    }
}

/// Sets an absent field to JSON text; a table's reference to Go's constants is no JSON and is left
/// out.
fn set(map: &mut Map<String, Value>, field: &str, json: &str) {
    if !map.contains_key(field)
        && let Ok(value) = serde_json::from_str(json)
    {
        map.insert(field.to_string(), value);
    }
}

#[cfg(test)]
mod tests;
