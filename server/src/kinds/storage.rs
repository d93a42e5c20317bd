//! Volumes, claims and classes.

use serde_json::{Value, json};

use super::cluster::{AGE, NAME, created, durable, name, nothing_to_update, number, plain, wide};
use super::{Column, Moment, Rules, View};

const MODES: Column = plain("Access Modes", "How nodes may use it.");
const STORAGE_CLASS: Column = plain("StorageClass", "The class it is of.");
const ATTRIBUTES: Column = plain("VolumeAttributesClass", "The class of its attributes.");
const VOLUME_MODE: Column = wide("VolumeMode", "A file system or a block device.");

pub(super) const VOLUME_COLUMNS: &[Column] = &[
    NAME,
    plain("Capacity", "How much it holds."),
    MODES,
    plain("Reclaim Policy", "What becomes of it without its claim."),
    plain("Status", "Whether it is bound."),
    plain("Claim", "What it is bound to."),
    STORAGE_CLASS,
    ATTRIBUTES,
    plain("Reason", "Why it is as it is."),
    AGE,
    VOLUME_MODE,
];

/// `RWO,ROX`.
fn modes(modes: &[Value]) -> String {
    let short = |mode: &Value| match mode.as_str() {
        Some("ReadWriteOnce") => "RWO",
        Some("ReadOnlyMany") => "ROX",
        Some("ReadWriteMany") => "RWX",
        Some("ReadWriteOncePod") => "RWOP",
        _ => "",
    };
    modes.iter().map(short).collect::<Vec<_>>().join(",")
}

fn unset(text: &str) -> Value {
    if text.is_empty() { "<unset>".into() } else { text.into() }
}

/// A phase, unless the object is on its way out.
fn phase(view: &View<'_>) -> Value {
    match view.has(&["metadata", "deletionTimestamp"]) {
        true => "Terminating".into(),
        false => view.text(&["status", "phase"]).into(),
    }
}

pub(super) fn volume_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let claim = View(view.at(&["spec", "claimRef"]));
    let claimed = match claim.has(&["name"]) {
        true => format!("{}/{}", claim.text(&["namespace"]), claim.text(&["name"])),
        false => String::new(),
    };
    vec![
        name(view),
        view.text(&["spec", "capacity", "storage"]).into(),
        modes(view.list(&["spec", "accessModes"])).into(),
        view.text(&["spec", "persistentVolumeReclaimPolicy"]).into(),
        phase(view),
        claimed.into(),
        view.text(&["spec", "storageClassName"]).into(),
        unset(view.text(&["spec", "volumeAttributesClassName"])),
        view.text(&["status", "reason"]).into(),
        created(view, moment),
        unset(view.text(&["spec", "volumeMode"])),
    ]
}

pub(super) const CLAIM_COLUMNS: &[Column] = &[
    NAME,
    plain("Status", "Whether it is bound."),
    plain("Volume", "What it is bound to."),
    plain("Capacity", "How much it holds."),
    MODES,
    STORAGE_CLASS,
    ATTRIBUTES,
    AGE,
    VOLUME_MODE,
];

pub(super) fn claim_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let volume = view.text(&["spec", "volumeName"]);
    // What it asks for is not what it has.
    let (capacity, access) = match volume {
        "" => ("", String::new()),
        _ => (view.text(&["status", "capacity", "storage"]), modes(view.list(&["status", "accessModes"]))),
    };
    vec![
        name(view),
        phase(view),
        volume.into(),
        capacity.into(),
        access.into(),
        view.text(&["spec", "storageClassName"]).into(),
        unset(view.text(&["spec", "volumeAttributesClassName"])),
        created(view, moment),
        unset(view.text(&["spec", "volumeMode"])),
    ]
}

/// New volumes and claims are bound to nothing.
pub(super) const PENDING: Rules = Rules { create: pending, update: nothing_to_update, class: durable };

fn pending(object: &mut Value, _: &Moment) {
    object["status"] = json!({"phase": "Pending"});
}

pub(super) const CLASS_COLUMNS: &[Column] = &[
    NAME,
    plain("Provisioner", "Who makes volumes."),
    plain("ReclaimPolicy", "What becomes of a volume without its claim."),
    plain("VolumeBindingMode", "When a claim is bound."),
    plain("AllowVolumeExpansion", "Whether claims may grow."),
    AGE,
];

const DEFAULT_CLASS: &[&str] =
    &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

pub(super) fn class_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let default = DEFAULT_CLASS.iter().any(|a| view.text(&["metadata", "annotations", a]) == "true");
    let mut shown = view.text(&["metadata", "name"]).to_owned();
    if default {
        shown.push_str(" (default)");
    }
    vec![
        shown.into(),
        view.text(&["provisioner"]).into(),
        view.text(&["reclaimPolicy"]).into(),
        view.text(&["volumeBindingMode"]).into(),
        view.flag(&["allowVolumeExpansion"]).into(),
        created(view, moment),
    ]
}

pub(super) const ATTACHMENT_COLUMNS: &[Column] = &[
    NAME,
    plain("Attacher", "Who attaches."),
    plain("PV", "What is attached."),
    plain("Node", "Where to."),
    plain("Attached", "Whether it is."),
    AGE,
];

pub(super) fn attachment_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    vec![
        name(view),
        view.text(&["spec", "attacher"]).into(),
        view.text(&["spec", "source", "persistentVolumeName"]).into(),
        view.text(&["spec", "nodeName"]).into(),
        view.flag(&["status", "attached"]).into(),
        created(view, moment),
    ]
}

pub(super) const DRIVER_COLUMNS: &[Column] = &[
    NAME,
    plain("AttachRequired", "Whether volumes are attached first."),
    plain("PodInfoOnMount", "Whether it is told about the pod."),
    plain("StorageCapacity", "Whether it publishes capacity."),
    plain("TokenRequests", "The tokens it is given."),
    plain("RequiresRepublish", "Whether it is called again and again."),
    plain("Modes", "How long its volumes live."),
    AGE,
];

pub(super) fn driver_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let words =
        |list: Vec<&str>, none: &str| -> Value { if list.is_empty() { none.into() } else { list.join(",").into() } };
    let audiences = view.list(&["spec", "tokenRequests"]).iter().map(|t| View(t).text(&["audience"])).collect();
    let lives = view.list(&["spec", "volumeLifecycleModes"]).iter().filter_map(Value::as_str).collect();
    vec![
        name(view),
        view.flag(&["spec", "attachRequired"]).into(),
        view.flag(&["spec", "podInfoOnMount"]).into(),
        view.flag(&["spec", "storageCapacity"]).into(),
        words(audiences, "<unset>"),
        view.flag(&["spec", "requiresRepublish"]).into(),
        words(lives, "<none>"),
        created(view, moment),
    ]
}

pub(super) const NODE_COLUMNS: &[Column] = &[NAME, number("Drivers", "The number of drivers on the node."), AGE];

pub(super) fn node_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    vec![name(view), view.list(&["spec", "drivers"]).len().into(), created(view, moment)]
}

pub(super) const CAPACITY_COLUMNS: &[Column] =
    &[NAME, plain("StorageClassName", "The class."), plain("Capacity", "How much is left.")];

pub(super) fn capacity_cells(view: &View<'_>, _: &Moment) -> Vec<Value> {
    vec![name(view), view.text(&["storageClassName"]).into(), unset(view.text(&["capacity"]))]
}

pub(super) const ATTRIBUTES_COLUMNS: &[Column] = &[NAME, plain("DriverName", "Whose attributes they are."), AGE];

pub(super) fn attributes_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    vec![name(view), view.text(&["driverName"]).into(), created(view, moment)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unbound_claim_does_not_boast() {
        let mut claim = json!({"spec": {"accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Pending"}});
        assert_eq!(claim_cells(&View(&claim), &Moment { now: 0 })[1..5], ["Pending", "", "", ""]);
        claim["spec"]["volumeName"] = "v".into();
        claim["status"] =
            json!({"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"]});
        assert_eq!(claim_cells(&View(&claim), &Moment { now: 0 })[1..5], ["Bound", "v", "1Gi", "RWO,ROX"]);
    }

    #[test]
    fn the_default_class_is_marked() {
        let class = json!({"metadata": {"name": "disk", "annotations": {DEFAULT_CLASS[0]: "true"}}});
        assert_eq!(class_cells(&View(&class), &Moment { now: 0 })[0], "disk (default)");
    }
}
