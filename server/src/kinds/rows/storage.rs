//! Storage.

use super::{CORE, own, status};
use crate::kinds::{Kind, storage};

pub(super) const CORE_ROWS: &[Kind] = &[
    Kind {
        kind: "PersistentVolume",
        plural: "persistentvolumes",
        singular: "persistentvolume",
        short: &["pv"],
        namespaced: false,
        subresources: &[status("", "v1", "PersistentVolume")],
        storage: own("persistentvolumes", "", "v1"),
        columns: storage::VOLUME_COLUMNS,
        cells: storage::volume_cells,
        rules: storage::PENDING,
        ..CORE
    },
    Kind {
        kind: "PersistentVolumeClaim",
        plural: "persistentvolumeclaims",
        singular: "persistentvolumeclaim",
        short: &["pvc"],
        subresources: &[status("", "v1", "PersistentVolumeClaim")],
        storage: own("persistentvolumeclaims", "", "v1"),
        columns: storage::CLAIM_COLUMNS,
        cells: storage::claim_cells,
        rules: storage::PENDING,
        ..CORE
    },
];

pub(super) const ROWS: &[Kind] = &[
    Kind {
        group: "storage.k8s.io",
        kind: "CSIDriver",
        plural: "csidrivers",
        singular: "csidriver",
        namespaced: false,
        storage: own("csidrivers.storage.k8s.io", "storage.k8s.io", "v1"),
        columns: storage::DRIVER_COLUMNS,
        cells: storage::driver_cells,
        ..CORE
    },
    Kind {
        group: "storage.k8s.io",
        kind: "CSINode",
        plural: "csinodes",
        singular: "csinode",
        namespaced: false,
        storage: own("csinodes.storage.k8s.io", "storage.k8s.io", "v1"),
        columns: storage::NODE_COLUMNS,
        cells: storage::node_cells,
        ..CORE
    },
    Kind {
        group: "storage.k8s.io",
        kind: "CSIStorageCapacity",
        plural: "csistoragecapacities",
        singular: "csistoragecapacity",
        storage: own("csistoragecapacities.storage.k8s.io", "storage.k8s.io", "v1"),
        columns: storage::CAPACITY_COLUMNS,
        cells: storage::capacity_cells,
        ..CORE
    },
    Kind {
        group: "storage.k8s.io",
        kind: "StorageClass",
        plural: "storageclasses",
        singular: "storageclass",
        short: &["sc"],
        namespaced: false,
        storage: own("storageclasses.storage.k8s.io", "storage.k8s.io", "v1"),
        columns: storage::CLASS_COLUMNS,
        cells: storage::class_cells,
        ..CORE
    },
    Kind {
        group: "storage.k8s.io",
        kind: "VolumeAttachment",
        plural: "volumeattachments",
        singular: "volumeattachment",
        namespaced: false,
        subresources: &[status("storage.k8s.io", "v1", "VolumeAttachment")],
        storage: own("volumeattachments.storage.k8s.io", "storage.k8s.io", "v1"),
        columns: storage::ATTACHMENT_COLUMNS,
        cells: storage::attachment_cells,
        ..CORE
    },
    Kind {
        group: "storage.k8s.io",
        kind: "VolumeAttributesClass",
        plural: "volumeattributesclasses",
        singular: "volumeattributesclass",
        short: &["vac"],
        namespaced: false,
        storage: own("volumeattributesclasses.storage.k8s.io", "storage.k8s.io", "v1"),
        columns: storage::ATTRIBUTES_COLUMNS,
        cells: storage::attributes_cells,
        ..CORE
    },
];
