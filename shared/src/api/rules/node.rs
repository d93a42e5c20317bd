//! Nodes and leases.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Errors, int, list, names, text};
use crate::api::field::{FieldError, Path};

pub(super) fn validate(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("spec");
    let none = Value::Null;
    let spec = new.get("spec").unwrap_or(&none);
    let mut taken = BTreeSet::new();
    let taints = path.child("taints");
    for (index, taint) in list(spec, "taints").iter().enumerate() {
        let path = taints.index(index);
        let (key, value, effect) = (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
        if !key.is_empty() {
            errors.invalid_all(&path.child("key"), key, names::qualified(key));
        }
        errors.invalid_all(&path.child("value"), value, names::label_value(value));
        if !taken.insert((key, effect)) {
            errors.push(FieldError::duplicate(&path, taint.clone()));
        }
    }
    for (index, cidr) in list(spec, "podCIDRs").iter().filter_map(Value::as_str).enumerate() {
        if !is_cidr(cidr) {
            let path = path.child("podCIDRs");
            errors.push(FieldError::invalid(&path.index(index), cidr, "must be valid CIDR"));
        }
    }
    if let Some(old) = old.and_then(|o| o.get("spec")) {
        // Routes and addresses of running pods hang on it.
        let before = text(old, "podCIDR");
        if !before.is_empty() && text(spec, "podCIDR") != before {
            let words = "node updates may not change podCIDR except from \"\" to valid";
            errors.push(FieldError::forbidden(&path.child("podCIDR"), words));
        }
    }
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let (Ok(address), Ok(bits)) = (address.parse::<std::net::IpAddr>(), bits.parse::<u8>()) else { return false };
    bits <= if address.is_ipv4() { 32 } else { 128 }
}

pub(super) fn lease(new: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("spec");
    let none = Value::Null;
    let spec = new.get("spec").unwrap_or(&none);
    if let Some(seconds) = int(spec, "leaseDurationSeconds")
        && seconds <= 0
    {
        errors.push(FieldError::invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0"));
    }
    errors.not_negative(spec, "leaseTransitions", &path);
}
