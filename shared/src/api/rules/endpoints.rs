//! Endpoints and EndpointSlices.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use super::{Errors, int, list, names, text};
use crate::api::field::{FieldError, Path};

/// Endpoints of one slice, as upstream allows.
const SLICE_ENDPOINTS_MAX: usize = 1000;
/// Ports of one slice, as upstream allows.
const SLICE_PORTS_MAX: usize = 20_000;
/// Addresses of one endpoint, as upstream allows.
const ENDPOINT_ADDRESSES_MAX: usize = 100;

const BAD_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

/// An address that traffic must not be sent to: whoever writes one would reach the node itself.
fn special(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Some("may not be unspecified (0.0.0.0)"),
        IpAddr::V6(ip) if ip.is_unspecified() => Some("may not be unspecified (::)"),
        ip if ip.is_loopback() => Some("may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        IpAddr::V4(ip) if ip.is_link_local() => Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => {
            Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)")
        }
        IpAddr::V4(ip) if ip.octets()[..3] == [224, 0, 0] => {
            Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
        }
        IpAddr::V6(ip) if ip.segments()[0] == 0xff02 => {
            Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
        }
        _ => None,
    }
}

pub(super) fn endpoints(new: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let subsets = root.child("subsets");
    for (index, subset) in list(new, "subsets").iter().enumerate() {
        let path = subsets.index(index);
        if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
            errors.push(FieldError::required(&path, "must specify `addresses` or `notReadyAddresses`"));
        }
        for kind in ["addresses", "notReadyAddresses"] {
            let path = path.child(kind);
            for (index, address) in list(subset, kind).iter().enumerate() {
                let path = path.index(index);
                let ip = text(address, "ip");
                if !ip.is_empty() {
                    self::address(ip, &path.child("ip"), errors);
                }
                let host = text(address, "hostname");
                if !host.is_empty() {
                    errors.invalid_all(&path.child("hostname"), host, names::dns1123_label(host));
                }
            }
        }
        ports(list(subset, "ports"), true, &path.child("ports"), errors);
    }
}

fn address(ip: &str, path: &Path<'_>, errors: &mut Errors) {
    match ip.parse::<IpAddr>() {
        Err(_) => errors.push(FieldError::invalid(path, ip, BAD_IP)),
        Ok(parsed) => {
            if let Some(words) = special(parsed) {
                errors.push(FieldError::invalid(path, ip, words));
            }
        }
    }
}

fn ports(all: &[Value], named: bool, path: &Path<'_>, errors: &mut Errors) {
    let mut taken = BTreeSet::new();
    for (index, port) in all.iter().enumerate() {
        let path = path.index(index);
        let name = text(port, "name");
        if name.is_empty() && named && all.len() > 1 {
            errors.push(FieldError::required(&path.child("name"), ""));
        } else if !name.is_empty() {
            errors.invalid_all(&path.child("name"), name, names::dns1123_label(name));
        }
        if !taken.insert(name) {
            errors.push(FieldError::duplicate(&path.child("name"), name));
        }
        if let Some(number) = int(port, "port") {
            for words in names::port_number(number) {
                errors.push(FieldError::invalid(&path.child("port"), number, words));
            }
        } else if named {
            errors.push(FieldError::invalid(&path.child("port"), 0, "must be between 1 and 65535, inclusive"));
        }
    }
}

pub(super) fn slice(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let (endpoints, path) = (list(new, "endpoints"), root.child("endpoints"));
    if endpoints.len() > SLICE_ENDPOINTS_MAX {
        errors.push(FieldError::too_many(&path, endpoints.len(), SLICE_ENDPOINTS_MAX));
        return;
    }
    let kind = text(new, "addressType");
    for (index, endpoint) in endpoints.iter().enumerate() {
        let path = path.index(index);
        let (addresses, within) = (list(endpoint, "addresses"), path.child("addresses"));
        match addresses.len() {
            0 => errors.push(FieldError::required(&within, "must contain at least 1 address")),
            n if n > ENDPOINT_ADDRESSES_MAX => {
                errors.push(FieldError::too_many(&within, n, ENDPOINT_ADDRESSES_MAX));
            }
            _ => {}
        }
        for (index, ip) in addresses.iter().filter_map(Value::as_str).enumerate() {
            slice_address(kind, ip, &within.index(index), errors);
        }
        let host = text(endpoint, "hostname");
        if !host.is_empty() {
            errors.invalid_all(&path.child("hostname"), host, names::dns1123_label(host));
        }
    }
    let (all, path) = (list(new, "ports"), root.child("ports"));
    match all.len() > SLICE_PORTS_MAX {
        true => errors.push(FieldError::too_many(&path, all.len(), SLICE_PORTS_MAX)),
        false => ports(all, false, &path, errors),
    }
    if let Some(old) = old {
        errors.immutable(new.get("addressType"), old.get("addressType"), &root.child("addressType"));
    }
}

fn slice_address(kind: &str, ip: &str, path: &Path<'_>, errors: &mut Errors) {
    let fits = match kind {
        "IPv4" => ip.parse::<Ipv4Addr>().is_ok(),
        "IPv6" => ip.parse::<Ipv6Addr>().is_ok(),
        _ => {
            errors.invalid_all(path, ip, names::dns1123_subdomain(ip));
            return;
        }
    };
    match fits {
        true => address(ip, path, errors),
        false => errors.push(FieldError::invalid(path, ip, format!("must be an {kind} address"))),
    }
}
