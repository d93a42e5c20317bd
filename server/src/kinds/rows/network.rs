//! Networking beyond Services.

use super::{CORE, own, status};
use crate::kinds::{Kind, network, workload};

pub(super) const ROWS: &[Kind] = &[
    Kind {
        group: "networking.k8s.io",
        kind: "Ingress",
        plural: "ingresses",
        singular: "ingress",
        short: &["ing"],
        generation: true,
        subresources: &[status("networking.k8s.io", "v1", "Ingress")],
        storage: own("ingresses.networking.k8s.io", "networking.k8s.io", "v1"),
        columns: network::INGRESS_COLUMNS,
        cells: network::ingress_cells,
        rules: workload::RULES,
        ..CORE
    },
    Kind {
        group: "networking.k8s.io",
        kind: "IngressClass",
        plural: "ingressclasses",
        singular: "ingressclass",
        namespaced: false,
        generation: true,
        storage: own("ingressclasses.networking.k8s.io", "networking.k8s.io", "v1"),
        columns: network::CLASS_COLUMNS,
        cells: network::class_cells,
        ..CORE
    },
    Kind {
        group: "networking.k8s.io",
        kind: "IPAddress",
        plural: "ipaddresses",
        singular: "ipaddress",
        short: &["ip"],
        namespaced: false,
        storage: own("ipaddresses.networking.k8s.io", "networking.k8s.io", "v1"),
        columns: network::ADDRESS_COLUMNS,
        cells: network::address_cells,
        selectable: &["spec.parentRef.name"],
        ..CORE
    },
    Kind {
        group: "networking.k8s.io",
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        singular: "networkpolicy",
        short: &["netpol"],
        generation: true,
        storage: own("networkpolicies.networking.k8s.io", "networking.k8s.io", "v1"),
        columns: network::POLICY_COLUMNS,
        cells: network::policy_cells,
        ..CORE
    },
    Kind {
        group: "networking.k8s.io",
        kind: "ServiceCIDR",
        plural: "servicecidrs",
        singular: "servicecidr",
        namespaced: false,
        subresources: &[status("networking.k8s.io", "v1", "ServiceCIDR")],
        storage: own("servicecidrs.networking.k8s.io", "networking.k8s.io", "v1"),
        columns: network::CIDR_COLUMNS,
        cells: network::cidr_cells,
        rules: workload::RULES,
        ..CORE
    },
];
