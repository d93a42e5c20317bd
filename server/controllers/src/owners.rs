//! Which kinds own and are owned, and where their objects lie.

use coracle_store::Key;

/// A kind by its group, and the resource that its objects are stored as.
struct Known {
    group: &'static str,
    kind: &'static str,
    resource: &'static str,
    namespaced: bool,
}

const fn spaced(group: &'static str, kind: &'static str, resource: &'static str) -> Known {
    Known { group, kind, resource, namespaced: true }
}

const fn cluster(group: &'static str, kind: &'static str, resource: &'static str) -> Known {
    Known { group, kind, resource, namespaced: false }
}

/// Every kind that can own or be owned.
const KNOWN: &[Known] = &[
    spaced("", "ConfigMap", "configmaps"),
    spaced("", "Endpoints", "endpoints"),
    spaced("", "Event", "events"),
    spaced("events.k8s.io", "Event", "events"),
    spaced("", "LimitRange", "limitranges"),
    cluster("", "Namespace", "namespaces"),
    cluster("", "Node", "nodes"),
    cluster("", "PersistentVolume", "persistentvolumes"),
    spaced("", "PersistentVolumeClaim", "persistentvolumeclaims"),
    spaced("", "Pod", "pods"),
    spaced("", "PodTemplate", "podtemplates"),
    spaced("", "ReplicationController", "replicationcontrollers"),
    spaced("", "ResourceQuota", "resourcequotas"),
    spaced("", "Secret", "secrets"),
    spaced("", "Service", "services"),
    spaced("", "ServiceAccount", "serviceaccounts"),
    cluster(
        "admissionregistration.k8s.io",
        "MutatingAdmissionPolicy",
        "mutatingadmissionpolicies.admissionregistration.k8s.io",
    ),
    cluster(
        "admissionregistration.k8s.io",
        "MutatingAdmissionPolicyBinding",
        "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
    ),
    cluster(
        "admissionregistration.k8s.io",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    ),
    cluster(
        "admissionregistration.k8s.io",
        "ValidatingAdmissionPolicy",
        "validatingadmissionpolicies.admissionregistration.k8s.io",
    ),
    cluster(
        "admissionregistration.k8s.io",
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings.admissionregistration.k8s.io",
    ),
    cluster(
        "admissionregistration.k8s.io",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations.admissionregistration.k8s.io",
    ),
    spaced("apps", "ControllerRevision", "controllerrevisions.apps"),
    spaced("apps", "DaemonSet", "daemonsets.apps"),
    spaced("apps", "Deployment", "deployments.apps"),
    spaced("apps", "ReplicaSet", "replicasets.apps"),
    spaced("apps", "StatefulSet", "statefulsets.apps"),
    spaced("autoscaling", "HorizontalPodAutoscaler", "horizontalpodautoscalers.autoscaling"),
    spaced("batch", "CronJob", "cronjobs.batch"),
    spaced("batch", "Job", "jobs.batch"),
    cluster("certificates.k8s.io", "CertificateSigningRequest", "certificatesigningrequests.certificates.k8s.io"),
    spaced("coordination.k8s.io", "Lease", "leases.coordination.k8s.io"),
    spaced("discovery.k8s.io", "EndpointSlice", "endpointslices.discovery.k8s.io"),
    cluster("networking.k8s.io", "IPAddress", "ipaddresses.networking.k8s.io"),
    spaced("networking.k8s.io", "Ingress", "ingresses.networking.k8s.io"),
    cluster("networking.k8s.io", "IngressClass", "ingressclasses.networking.k8s.io"),
    spaced("networking.k8s.io", "NetworkPolicy", "networkpolicies.networking.k8s.io"),
    cluster("networking.k8s.io", "ServiceCIDR", "servicecidrs.networking.k8s.io"),
    cluster("node.k8s.io", "RuntimeClass", "runtimeclasses.node.k8s.io"),
    spaced("policy", "PodDisruptionBudget", "poddisruptionbudgets.policy"),
    cluster("rbac.authorization.k8s.io", "ClusterRole", "clusterroles.rbac.authorization.k8s.io"),
    cluster("rbac.authorization.k8s.io", "ClusterRoleBinding", "clusterrolebindings.rbac.authorization.k8s.io"),
    spaced("rbac.authorization.k8s.io", "Role", "roles.rbac.authorization.k8s.io"),
    spaced("rbac.authorization.k8s.io", "RoleBinding", "rolebindings.rbac.authorization.k8s.io"),
    cluster("resource.k8s.io", "DeviceClass", "deviceclasses.resource.k8s.io"),
    spaced("resource.k8s.io", "ResourceClaim", "resourceclaims.resource.k8s.io"),
    spaced("resource.k8s.io", "ResourceClaimTemplate", "resourceclaimtemplates.resource.k8s.io"),
    cluster("resource.k8s.io", "ResourceSlice", "resourceslices.resource.k8s.io"),
    cluster("scheduling.k8s.io", "PriorityClass", "priorityclasses.scheduling.k8s.io"),
    cluster("storage.k8s.io", "CSIDriver", "csidrivers.storage.k8s.io"),
    cluster("storage.k8s.io", "CSINode", "csinodes.storage.k8s.io"),
    spaced("storage.k8s.io", "CSIStorageCapacity", "csistoragecapacities.storage.k8s.io"),
    cluster("storage.k8s.io", "StorageClass", "storageclasses.storage.k8s.io"),
    cluster("storage.k8s.io", "VolumeAttachment", "volumeattachments.storage.k8s.io"),
    cluster("storage.k8s.io", "VolumeAttributesClass", "volumeattributesclasses.storage.k8s.io"),
];

/// The key of the object that an owner reference names; `None` for kinds that are not stored here.
pub fn key(api_version: &str, kind: &str, name: &str, dependent_namespace: &str) -> Option<Key> {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let known = KNOWN.iter().find(|known| known.group == group && known.kind == kind)?;
    Some(Key::new(known.resource, if known.namespaced { dependent_namespace } else { "" }, name))
}

/// The name of a key's resource, as writes have it.
pub fn resource(key: &Key) -> Option<&'static str> {
    KNOWN.iter().find(|known| known.resource == &*key.resource).map(|known| known.resource)
}
