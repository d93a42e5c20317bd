//! `/etc/hosts` and `/etc/resolv.conf` of a pod. Pure.

use std::net::Ipv4Addr;

use coracle_shared::desired::NodeConfig;

use crate::reconcile::view::PodView;

/// What `/etc/hosts` is made of.
#[derive(Clone, Debug, Default)]
pub struct HostNames {
    pub pod_ip: Option<Ipv4Addr>,
    pub domain: String,
    /// The node's own file, for pods on the node's network.
    pub node_file: String,
}

/// The pod's `/etc/hosts`.
pub fn hosts(view: &PodView, names: &HostNames) -> String {
    let mut text = if view.spec.host_network {
        names.node_file.clone()
    } else {
        let mut text = String::from(
            "# Written by Coracle.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        if let Some(ip) = names.pod_ip {
            let host = view.hostname();
            let sub = &view.spec.subdomain;
            let full = format!("{host}.{sub}.{}.svc.{}", view.metadata.namespace, names.domain);
            text += &if sub.is_empty() { format!("{ip}\t{host}\n") } else { format!("{ip}\t{full}\t{host}\n") };
        }
        text
    };
    for alias in view.spec.host_aliases.iter().filter(|a| !a.ip.contains(char::is_whitespace)) {
        text += &format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t"));
    }
    text
}

/// The pod's `/etc/resolv.conf`; `node_file` is the node's own.
pub fn resolv_conf(view: &PodView, config: Option<&NodeConfig>, node_file: &str) -> String {
    let policy = match view.spec.dns_policy.as_str() {
        // On the node's network, the cluster's names are asked for only when the pod says so.
        "ClusterFirst" | "" if view.spec.host_network => "Default",
        "" => "ClusterFirst",
        other => other,
    };
    let (mut servers, mut searches, mut options) = (Vec::new(), Vec::new(), Vec::<(String, Option<String>)>::new());
    match (policy, config) {
        ("None", _) => {}
        ("ClusterFirst" | "ClusterFirstWithHostNet", Some(config)) => {
            servers.push(config.dns_ip.to_string());
            let (namespace, domain) = (&view.metadata.namespace, &config.domain);
            searches.extend([format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()]);
            searches.extend(words(node_file, "search"));
            options.push(("ndots".into(), Some("5".into())));
        }
        _ => {
            servers.extend(node_file.lines().filter_map(|l| l.strip_prefix("nameserver")).map(|l| l.trim().to_owned()));
            searches = words(node_file, "search");
        }
    }
    let own = &view.spec.dns_config;
    servers.extend(own.nameservers.iter().cloned());
    searches.extend(own.searches.iter().cloned());
    for option in &own.options {
        options.retain(|(name, _)| *name != option.name);
        options.push((option.name.clone(), option.value.clone()));
    }
    let mut seen = std::collections::BTreeSet::new();
    searches.retain(|s| seen.insert(s.clone()));
    let mut text: String = servers.iter().map(|s| format!("nameserver {s}\n")).collect();
    if !searches.is_empty() {
        text += &format!("search {}\n", searches.join(" "));
    }
    if !options.is_empty() {
        let word = |(n, v): &(String, Option<String>)| v.as_ref().map_or(n.clone(), |v| format!("{n}:{v}"));
        text += &format!("options {}\n", options.iter().map(word).collect::<Vec<_>>().join(" "));
    }
    text
}

/// The words of the last line that begins with `key`.
fn words(file: &str, key: &str) -> Vec<String> {
    let line = file.lines().rev().find_map(|l| l.strip_prefix(key));
    line.map(|l| l.split_whitespace().map(str::to_owned).collect()).unwrap_or_default()
}
