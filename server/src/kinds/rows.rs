//! The rows, one file a family; the core group's first ones here.

mod admission;
mod apps;
mod network;
mod policy;
mod rbac;
mod resource;
mod storage;

use std::sync::LazyLock;

use super::cluster::PLAIN;
use super::{Conversion, Kind, Storage, SubKind, Subresource, VERBS, cluster, event, node, pod, service};

const STATUS_VERBS: &[&str] = &["get", "patch", "update"];

const fn status(group: &'static str, version: &'static str, kind: &'static str) -> Subresource {
    Subresource { name: "status", sub: SubKind::Status, group, version, kind, verbs: STATUS_VERBS }
}

const SCALE: Subresource = Subresource {
    name: "scale",
    sub: SubKind::Scale,
    group: "autoscaling",
    version: "v1",
    kind: "Scale",
    verbs: STATUS_VERBS,
};

const fn pod_sub(name: &'static str, sub: SubKind, kind: &'static str, verbs: &'static [&'static str]) -> Subresource {
    Subresource { name, sub, group: "", version: "v1", kind, verbs }
}

const EVICTION: Subresource = Subresource {
    name: "eviction",
    sub: SubKind::Eviction,
    group: "policy",
    version: "v1",
    kind: "Eviction",
    verbs: &["create"],
};

/// A namespaced core kind without anything special, to be changed by `..`.
const CORE: Kind = Kind {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short: &[],
    categories: &[],
    namespaced: true,
    generation: false,
    sealed: false,
    grace: None,
    subresources: &[],
    verbs: VERBS,
    storage: Storage { resource: "", group: "", version: "v1", convert: None },
    columns: &[cluster::NAME, cluster::AGE],
    cells: |view, moment| vec![cluster::name(view), cluster::created(view, moment)],
    selectable: &[],
    rules: PLAIN,
};

const fn own(resource: &'static str, group: &'static str, version: &'static str) -> Storage {
    Storage { resource, group, version, convert: None }
}

/// An older version of a kind whose `v1` has the same fields.
const fn faced(resource: &'static str, group: &'static str) -> Storage {
    Storage { resource, group, version: "v1", convert: Some(SAME) }
}

/// Only `apiVersion` differs.
const SAME: Conversion = Conversion { to_stored: |_| {}, from_stored: |_| {} };

/// Fields by which events can be selected, in the words of core/v1.
const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

const EVENT: Kind = Kind {
    kind: "Event",
    plural: "events",
    singular: "event",
    short: &["ev"],
    storage: own("events", "", "v1"),
    columns: event::COLUMNS,
    cells: event::cells,
    selectable: EVENT_FIELDS,
    rules: event::RULES,
    ..CORE
};

/// Every row, in the order in which discovery lists them: the core group first, each group together.
pub(super) static ROWS: LazyLock<Vec<Kind>> = LazyLock::new(|| {
    let families = [CORE_ROWS, storage::CORE_ROWS, policy::CORE_ROWS, apps::ROWS, OTHER_ROWS, network::ROWS];
    let more = [policy::ROWS, rbac::QUESTIONS, rbac::ROWS, storage::ROWS, admission::ROWS, resource::ROWS];
    families.into_iter().chain(more).flatten().cloned().collect()
});

const CORE_ROWS: &[Kind] = &[
    Kind {
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short: &["cm"],
        storage: own("configmaps", "", "v1"),
        columns: cluster::CONFIG_MAP_COLUMNS,
        cells: cluster::config_map_cells,
        ..CORE
    },
    Kind {
        kind: "Endpoints",
        plural: "endpoints",
        singular: "endpoints",
        short: &["ep"],
        storage: own("endpoints", "", "v1"),
        columns: service::ENDPOINTS_COLUMNS,
        cells: service::endpoints_cells,
        ..CORE
    },
    EVENT,
    Kind {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short: &["ns"],
        namespaced: false,
        subresources: &[
            Subresource {
                name: "finalize",
                sub: SubKind::Finalize,
                group: "",
                version: "v1",
                kind: "Namespace",
                verbs: &["update"],
            },
            status("", "v1", "Namespace"),
        ],
        storage: own("namespaces", "", "v1"),
        columns: cluster::NAMESPACE_COLUMNS,
        cells: cluster::namespace_cells,
        selectable: &["status.phase"],
        rules: cluster::NAMESPACE,
        ..CORE
    },
    Kind {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short: &["no"],
        namespaced: false,
        subresources: &[
            Subresource {
                name: "revoke",
                sub: SubKind::Revoke,
                group: "",
                version: "v1",
                kind: "Status",
                verbs: &["create"],
            },
            status("", "v1", "Node"),
        ],
        storage: own("nodes", "", "v1"),
        columns: node::COLUMNS,
        cells: node::cells,
        selectable: &["spec.unschedulable"],
        rules: node::RULES,
        ..CORE
    },
    Kind {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short: &["po"],
        categories: &["all"],
        generation: true,
        grace: Some(30),
        subresources: &[
            pod_sub("binding", SubKind::Binding, "Binding", &["create"]),
            EVICTION,
            pod_sub("exec", SubKind::Exec, "PodExecOptions", &["create", "get"]),
            pod_sub("log", SubKind::Log, "Pod", &["get"]),
            status("", "v1", "Pod"),
        ],
        storage: own("pods", "", "v1"),
        columns: pod::COLUMNS,
        cells: pod::cells,
        selectable: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        rules: pod::RULES,
        ..CORE
    },
    Kind {
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        sealed: true,
        storage: own("secrets", "", "v1"),
        columns: cluster::SECRET_COLUMNS,
        cells: cluster::secret_cells,
        selectable: &["type"],
        rules: cluster::SECRET,
        ..CORE
    },
    Kind {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short: &["sa"],
        storage: own("serviceaccounts", "", "v1"),
        columns: cluster::SERVICE_ACCOUNT_COLUMNS,
        cells: cluster::service_account_cells,
        ..CORE
    },
    Kind {
        kind: "Service",
        plural: "services",
        singular: "service",
        short: &["svc"],
        categories: &["all"],
        subresources: &[status("", "v1", "Service")],
        storage: own("services", "", "v1"),
        columns: service::COLUMNS,
        cells: service::cells,
        selectable: &["spec.clusterIP", "spec.type"],
        rules: service::RULES,
        ..CORE
    },
];

const OTHER_ROWS: &[Kind] = &[
    Kind {
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        storage: own("leases.coordination.k8s.io", "coordination.k8s.io", "v1"),
        columns: cluster::LEASE_COLUMNS,
        cells: cluster::lease_cells,
        rules: cluster::LEASE,
        ..CORE
    },
    Kind {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        generation: true,
        storage: own("endpointslices.discovery.k8s.io", "discovery.k8s.io", "v1"),
        columns: service::SLICE_COLUMNS,
        cells: service::slice_cells,
        ..CORE
    },
    Kind {
        group: "events.k8s.io",
        storage: Storage { resource: "events", group: "", version: "v1", convert: Some(event::NEW_FACE) },
        cells: event::new_cells,
        selectable: &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "reason",
            "reportingController",
            "type",
        ],
        ..EVENT
    },
];
