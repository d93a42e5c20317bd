//! Who may do what, and who is whom.

use super::{CORE, STATUS_VERBS, own, status};
use crate::kinds::{Kind, SubKind, Subresource, rbac, workload};

const APPROVAL: Subresource = Subresource {
    name: "approval",
    sub: SubKind::Approval,
    group: "certificates.k8s.io",
    version: "v1",
    kind: "CertificateSigningRequest",
    verbs: STATUS_VERBS,
};

pub(super) const ROWS: &[Kind] = &[
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "ClusterRole",
        plural: "clusterroles",
        singular: "clusterrole",
        namespaced: false,
        storage: own("clusterroles.rbac.authorization.k8s.io", "rbac.authorization.k8s.io", "v1"),
        columns: rbac::ROLE_COLUMNS,
        cells: rbac::role_cells,
        ..CORE
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "ClusterRoleBinding",
        plural: "clusterrolebindings",
        singular: "clusterrolebinding",
        namespaced: false,
        storage: own("clusterrolebindings.rbac.authorization.k8s.io", "rbac.authorization.k8s.io", "v1"),
        columns: rbac::BINDING_COLUMNS,
        cells: rbac::binding_cells,
        ..CORE
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "Role",
        plural: "roles",
        singular: "role",
        storage: own("roles.rbac.authorization.k8s.io", "rbac.authorization.k8s.io", "v1"),
        columns: rbac::ROLE_COLUMNS,
        cells: rbac::role_cells,
        ..CORE
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "RoleBinding",
        plural: "rolebindings",
        singular: "rolebinding",
        storage: own("rolebindings.rbac.authorization.k8s.io", "rbac.authorization.k8s.io", "v1"),
        columns: rbac::BINDING_COLUMNS,
        cells: rbac::binding_cells,
        ..CORE
    },
    Kind {
        group: "certificates.k8s.io",
        kind: "CertificateSigningRequest",
        plural: "certificatesigningrequests",
        singular: "certificatesigningrequest",
        short: &["csr"],
        namespaced: false,
        subresources: &[APPROVAL, status("certificates.k8s.io", "v1", "CertificateSigningRequest")],
        storage: own("certificatesigningrequests.certificates.k8s.io", "certificates.k8s.io", "v1"),
        columns: rbac::REQUEST_COLUMNS,
        cells: rbac::request_cells,
        selectable: &["spec.signerName"],
        rules: workload::RULES,
        ..CORE
    },
];

/// A question: it is answered and not stored.
const fn question(group: &'static str, kind: &'static str, plural: &'static str, singular: &'static str) -> Kind {
    Kind { group, kind, plural, singular, namespaced: false, verbs: &["create"], storage: own("", group, "v1"), ..CORE }
}

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

pub(super) const QUESTIONS: &[Kind] = &[
    question(AUTHENTICATION, "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview"),
    Kind {
        namespaced: true,
        ..question(AUTHORIZATION, "LocalSubjectAccessReview", "localsubjectaccessreviews", "localsubjectaccessreview")
    },
    question(AUTHORIZATION, "SelfSubjectAccessReview", "selfsubjectaccessreviews", "selfsubjectaccessreview"),
    question(AUTHORIZATION, "SelfSubjectRulesReview", "selfsubjectrulesreviews", "selfsubjectrulesreview"),
    question(AUTHORIZATION, "SubjectAccessReview", "subjectaccessreviews", "subjectaccessreview"),
];
