//! Devices that pods claim.

use super::{CORE, own, status};
use crate::kinds::{Kind, resource, workload};

pub(super) const ROWS: &[Kind] = &[
    Kind {
        group: "resource.k8s.io",
        kind: "DeviceClass",
        plural: "deviceclasses",
        singular: "deviceclass",
        namespaced: false,
        generation: true,
        storage: own("deviceclasses.resource.k8s.io", "resource.k8s.io", "v1"),
        columns: resource::PLAIN_COLUMNS,
        cells: resource::plain_cells,
        ..CORE
    },
    Kind {
        group: "resource.k8s.io",
        kind: "ResourceClaim",
        plural: "resourceclaims",
        singular: "resourceclaim",
        subresources: &[status("resource.k8s.io", "v1", "ResourceClaim")],
        storage: own("resourceclaims.resource.k8s.io", "resource.k8s.io", "v1"),
        columns: resource::CLAIM_COLUMNS,
        cells: resource::claim_cells,
        rules: workload::RULES,
        ..CORE
    },
    Kind {
        group: "resource.k8s.io",
        kind: "ResourceClaimTemplate",
        plural: "resourceclaimtemplates",
        singular: "resourceclaimtemplate",
        storage: own("resourceclaimtemplates.resource.k8s.io", "resource.k8s.io", "v1"),
        columns: resource::PLAIN_COLUMNS,
        cells: resource::plain_cells,
        ..CORE
    },
    Kind {
        group: "resource.k8s.io",
        kind: "ResourceSlice",
        plural: "resourceslices",
        singular: "resourceslice",
        namespaced: false,
        generation: true,
        storage: own("resourceslices.resource.k8s.io", "resource.k8s.io", "v1"),
        columns: resource::SLICE_COLUMNS,
        cells: resource::slice_cells,
        selectable: &["spec.nodeName", "spec.driver"],
        ..CORE
    },
];
