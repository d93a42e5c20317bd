//! Who is asked before a write.

use super::{CORE, own, status};
use crate::kinds::{Kind, admission, workload};

pub(super) const ROWS: &[Kind] = &[
    Kind {
        group: "admissionregistration.k8s.io",
        kind: "MutatingAdmissionPolicy",
        plural: "mutatingadmissionpolicies",
        singular: "mutatingadmissionpolicy",
        categories: &["api-extensions"],
        namespaced: false,
        generation: true,
        storage: own("mutatingadmissionpolicies.admissionregistration.k8s.io", "admissionregistration.k8s.io", "v1"),
        columns: admission::MUTATING_POLICY_COLUMNS,
        cells: admission::mutating_policy_cells,
        ..CORE
    },
    Kind {
        group: "admissionregistration.k8s.io",
        kind: "MutatingAdmissionPolicyBinding",
        plural: "mutatingadmissionpolicybindings",
        singular: "mutatingadmissionpolicybinding",
        categories: &["api-extensions"],
        namespaced: false,
        generation: true,
        storage: own(
            "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
            "admissionregistration.k8s.io",
            "v1",
        ),
        columns: admission::BINDING_COLUMNS,
        cells: admission::binding_cells,
        ..CORE
    },
    Kind {
        group: "admissionregistration.k8s.io",
        kind: "MutatingWebhookConfiguration",
        plural: "mutatingwebhookconfigurations",
        singular: "mutatingwebhookconfiguration",
        categories: &["api-extensions"],
        namespaced: false,
        generation: true,
        storage: own(
            "mutatingwebhookconfigurations.admissionregistration.k8s.io",
            "admissionregistration.k8s.io",
            "v1",
        ),
        columns: admission::WEBHOOKS_COLUMNS,
        cells: admission::webhooks_cells,
        ..CORE
    },
    Kind {
        group: "admissionregistration.k8s.io",
        kind: "ValidatingAdmissionPolicy",
        plural: "validatingadmissionpolicies",
        singular: "validatingadmissionpolicy",
        categories: &["api-extensions"],
        namespaced: false,
        generation: true,
        subresources: &[status("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicy")],
        storage: own("validatingadmissionpolicies.admissionregistration.k8s.io", "admissionregistration.k8s.io", "v1"),
        columns: admission::VALIDATING_POLICY_COLUMNS,
        cells: admission::validating_policy_cells,
        rules: workload::RULES,
        ..CORE
    },
    Kind {
        group: "admissionregistration.k8s.io",
        kind: "ValidatingAdmissionPolicyBinding",
        plural: "validatingadmissionpolicybindings",
        singular: "validatingadmissionpolicybinding",
        categories: &["api-extensions"],
        namespaced: false,
        generation: true,
        storage: own(
            "validatingadmissionpolicybindings.admissionregistration.k8s.io",
            "admissionregistration.k8s.io",
            "v1",
        ),
        columns: admission::BINDING_COLUMNS,
        cells: admission::binding_cells,
        ..CORE
    },
    Kind {
        group: "admissionregistration.k8s.io",
        kind: "ValidatingWebhookConfiguration",
        plural: "validatingwebhookconfigurations",
        singular: "validatingwebhookconfiguration",
        categories: &["api-extensions"],
        namespaced: false,
        generation: true,
        storage: own(
            "validatingwebhookconfigurations.admissionregistration.k8s.io",
            "admissionregistration.k8s.io",
            "v1",
        ),
        columns: admission::WEBHOOKS_COLUMNS,
        cells: admission::webhooks_cells,
        ..CORE
    },
];
