//! What limits and orders others.

use super::{CORE, SCALE, faced, own, status};
use crate::kinds::{Kind, policy, workload};

pub(super) const CORE_ROWS: &[Kind] = &[
    Kind {
        kind: "LimitRange",
        plural: "limitranges",
        singular: "limitrange",
        short: &["limits"],
        storage: own("limitranges", "", "v1"),
        columns: policy::LIMIT_RANGE_COLUMNS,
        cells: policy::limit_range_cells,
        ..CORE
    },
    Kind {
        kind: "PodTemplate",
        plural: "podtemplates",
        singular: "podtemplate",
        generation: true,
        storage: own("podtemplates", "", "v1"),
        columns: workload::POD_TEMPLATE_COLUMNS,
        cells: workload::pod_template_cells,
        ..CORE
    },
    Kind {
        kind: "ReplicationController",
        plural: "replicationcontrollers",
        singular: "replicationcontroller",
        short: &["rc"],
        categories: &["all"],
        generation: true,
        subresources: &[SCALE, status("", "v1", "ReplicationController")],
        storage: own("replicationcontrollers", "", "v1"),
        columns: workload::REPLICA_SET_COLUMNS,
        cells: workload::replica_set_cells,
        selectable: &["status.replicas"],
        rules: workload::RULES,
        ..CORE
    },
    Kind {
        kind: "ResourceQuota",
        plural: "resourcequotas",
        singular: "resourcequota",
        short: &["quota"],
        subresources: &[status("", "v1", "ResourceQuota")],
        storage: own("resourcequotas", "", "v1"),
        columns: policy::QUOTA_COLUMNS,
        cells: policy::quota_cells,
        rules: workload::RULES,
        ..CORE
    },
];

pub(super) const ROWS: &[Kind] = &[
    Kind {
        group: "policy",
        kind: "PodDisruptionBudget",
        plural: "poddisruptionbudgets",
        singular: "poddisruptionbudget",
        short: &["pdb"],
        generation: true,
        subresources: &[status("policy", "v1", "PodDisruptionBudget")],
        storage: own("poddisruptionbudgets.policy", "policy", "v1"),
        columns: policy::BUDGET_COLUMNS,
        cells: policy::budget_cells,
        rules: workload::RULES,
        ..CORE
    },
    Kind {
        group: "policy",
        version: "v1beta1",
        kind: "PodDisruptionBudget",
        plural: "poddisruptionbudgets",
        singular: "poddisruptionbudget",
        short: &["pdb"],
        generation: true,
        subresources: &[status("policy", "v1beta1", "PodDisruptionBudget")],
        storage: faced("poddisruptionbudgets.policy", "policy"),
        columns: policy::BUDGET_COLUMNS,
        cells: policy::budget_cells,
        rules: workload::RULES,
        ..CORE
    },
    Kind {
        group: "scheduling.k8s.io",
        kind: "PriorityClass",
        plural: "priorityclasses",
        singular: "priorityclass",
        short: &["pc"],
        namespaced: false,
        generation: true,
        storage: own("priorityclasses.scheduling.k8s.io", "scheduling.k8s.io", "v1"),
        columns: policy::PRIORITY_CLASS_COLUMNS,
        cells: policy::priority_class_cells,
        ..CORE
    },
    Kind {
        group: "node.k8s.io",
        kind: "RuntimeClass",
        plural: "runtimeclasses",
        singular: "runtimeclass",
        namespaced: false,
        storage: own("runtimeclasses.node.k8s.io", "node.k8s.io", "v1"),
        columns: policy::RUNTIME_CLASS_COLUMNS,
        cells: policy::runtime_class_cells,
        ..CORE
    },
];
