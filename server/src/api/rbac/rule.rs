//! One rule of a role, and what it covers: pure.

use serde_json::{Value, json};

use crate::api::authz::Attributes;
use crate::kinds::View;

/// A `PolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub groups: Vec<String>,
    pub resources: Vec<String>,
    pub names: Vec<String>,
    pub urls: Vec<String>,
}

fn any(list: &[String], value: &str) -> bool {
    list.iter().any(|one| one == "*" || one == value)
}

impl Rule {
    /// The rules of a role.
    pub fn all(role: &Value) -> Vec<Rule> {
        let words = |rule: &View<'_>, field: &str| -> Vec<String> {
            rule.list(&[field]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let rules = View(role).list(&["rules"]).iter().map(View);
        rules
            .map(|rule| Rule {
                verbs: words(&rule, "verbs"),
                groups: words(&rule, "apiGroups"),
                resources: words(&rule, "resources"),
                names: words(&rule, "resourceNames"),
                urls: words(&rule, "nonResourceURLs"),
            })
            .collect()
    }

    pub fn allows(&self, ask: &Attributes<'_>) -> bool {
        any(&self.verbs, ask.verb)
            && any(&self.groups, ask.group)
            && self.has_resource(ask.resource, ask.subresource)
            && (self.names.is_empty() || self.names.iter().any(|name| name == ask.name))
    }

    /// `pods`, `pods/log`, `*/log`, `*`.
    fn has_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|one| match one.split_once('/') {
            None => one == "*" || subresource.is_empty() && one == resource,
            Some((of, sub)) => !subresource.is_empty() && sub == subresource && (of == "*" || of == resource),
        })
    }

    pub fn allows_path(&self, verb: &str, path: &str) -> bool {
        any(&self.verbs, verb)
            && self.urls.iter().any(|url| match url.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => url == path,
            })
    }

    /// This rule as many that say one thing each: one verb on one resource (of one name), or on one path.
    pub fn pieces(&self) -> Vec<Rule> {
        let mut pieces = Vec::new();
        for verb in &self.verbs {
            let verbs = vec![verb.clone()];
            for url in &self.urls {
                pieces.push(Rule { verbs: verbs.clone(), urls: vec![url.clone()], ..Rule::default() });
            }
            for group in &self.groups {
                for resource in &self.resources {
                    let piece = Rule {
                        verbs: verbs.clone(),
                        groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Rule::default()
                    };
                    match self.names.is_empty() {
                        true => pieces.push(piece),
                        false => pieces
                            .extend(self.names.iter().map(|name| Rule { names: vec![name.clone()], ..piece.clone() })),
                    }
                }
            }
        }
        pieces
    }

    /// Whether everything that a piece (see [`Rule::pieces`]) allows, this rule allows.
    pub fn covers(&self, piece: &Rule) -> bool {
        let verbs = piece.verbs.iter().all(|verb| any(&self.verbs, verb));
        if let [url] = piece.urls.as_slice() {
            let covered = |own: &String| match own.strip_suffix('*') {
                Some(prefix) => url.starts_with(prefix),
                None => own == url,
            };
            return verbs && self.urls.iter().any(covered);
        }
        let resource = |wanted: &String| match wanted.split_once('/') {
            None if wanted == "*" => self.resources.iter().any(|own| own == "*"),
            None => self.has_resource(wanted, ""),
            Some((of, sub)) => self.resources.contains(wanted) || self.has_resource(of, sub),
        };
        verbs
            && piece.groups.iter().all(|group| any(&self.groups, group))
            && piece.resources.iter().all(resource)
            && (self.names.is_empty() || !piece.names.is_empty() && piece.names.iter().all(|n| self.names.contains(n)))
    }

    /// As access reviews show it.
    pub fn shown(&self) -> Value {
        if self.urls.is_empty() {
            let mut shown = json!({"verbs": self.verbs, "apiGroups": self.groups, "resources": self.resources});
            if !self.names.is_empty() {
                shown["resourceNames"] = json!(self.names);
            }
            return shown;
        }
        json!({"verbs": self.verbs, "nonResourceURLs": self.urls})
    }

    /// In the notation of upstream's refusals.
    pub fn words(&self) -> String {
        let parts = [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("ResourceNames", &self.names),
            ("NonResourceURLs", &self.urls),
            ("Verbs", &self.verbs),
        ];
        let said = parts.into_iter().filter(|(name, list)| !list.is_empty() || *name == "Verbs");
        let said: Vec<String> = said
            .map(|(name, list)| {
                let quoted: Vec<String> = list.iter().map(|one| format!("{one:?}")).collect();
                format!("{name}:[{}]", quoted.join(" "))
            })
            .collect();
        format!("{{{}}}", said.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> Rule {
        let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect();
        Rule {
            verbs: words(verbs),
            groups: words(groups),
            resources: words(resources),
            names: words(names),
            urls: vec![],
        }
    }

    #[track_caller]
    fn check(rule: &Rule, verb: &str, resource: &str, name: &str, expect: bool) {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let ask = Attributes { verb, group: "", resource, subresource, namespace: "", name, on_node: None };
        assert_eq!(rule.allows(&ask), expect, "{rule:?} {verb} {resource}/{subresource} {name}");
    }

    #[test]
    fn a_rule_means_what_it_says_and_no_more() {
        let pods = rule(&["get"], &[""], &["pods"], &[]);
        check(&pods, "get", "pods", "a", true);
        check(&pods, "get", "pods/log", "a", false);
        check(&pods, "list", "pods", "", false);
        let logs = rule(&["*"], &["*"], &["*/log"], &[]);
        check(&logs, "get", "pods/log", "a", true);
        check(&logs, "get", "pods", "a", false);
        let one = rule(&["get", "list"], &[""], &["secrets"], &["key"]);
        check(&one, "get", "secrets", "key", true);
        check(&one, "get", "secrets", "other", false);
        check(&one, "list", "secrets", "", false);
        check(&rule(&["*"], &["*"], &["*"], &[]), "delete", "pods/exec", "", true);
        check(&rule(&["get"], &["apps"], &["*"], &[]), "get", "pods", "a", false);
    }

    #[test]
    fn paths_match_whole_or_by_prefix() {
        let urls =
            Rule { verbs: vec!["get".into()], urls: vec!["/healthz".into(), "/apis/*".into()], ..Rule::default() };
        assert!(urls.allows_path("get", "/healthz") && urls.allows_path("get", "/apis/apps"));
        assert!(!urls.allows_path("get", "/healthz/x") && !urls.allows_path("post", "/healthz"));
    }

    #[test]
    fn a_piece_is_covered_by_what_allows_all_of_it() {
        let held = [
            rule(&["get", "list"], &["", "apps"], &["pods", "deployments"], &[]),
            rule(&["*"], &[""], &["pods/*"], &[]),
        ];
        let covered = |wanted: &Rule| wanted.pieces().iter().all(|piece| held.iter().any(|own| own.covers(piece)));
        assert!(covered(&rule(&["get"], &["apps"], &["deployments"], &["web"])));
        assert!(!covered(&rule(&["get"], &["*"], &["pods"], &[])));
        assert!(!covered(&rule(&["*"], &[""], &["pods"], &[])));
        assert!(!covered(&rule(&["get"], &[""], &["*"], &[])));
        let named = rule(&["get"], &[""], &["secrets"], &["key"]);
        assert!(named.covers(&named.pieces()[0]));
        assert!(!named.covers(&rule(&["get"], &[""], &["secrets"], &[])));
    }
}
