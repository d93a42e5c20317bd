//! Roles, bindings, and requests for certificates: columns.

use serde_json::Value;

use super::cluster::{AGE, NAME, created, name, plain, wide};
use super::human::duration;
use super::policy::{CREATED_AT, created_at};
use super::{Column, Moment, View};

pub(super) const ROLE_COLUMNS: &[Column] = &[NAME, CREATED_AT];

pub(super) fn role_cells(view: &View<'_>, _: &Moment) -> Vec<Value> {
    vec![name(view), created_at(view)]
}

pub(super) const BINDING_COLUMNS: &[Column] = &[
    NAME,
    plain("Role", "What is granted."),
    AGE,
    wide("Users", "The users it is granted to."),
    wide("Groups", "The groups it is granted to."),
    wide("ServiceAccounts", "The service accounts it is granted to."),
];

pub(super) fn binding_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let role = format!("{}/{}", view.text(&["roleRef", "kind"]), view.text(&["roleRef", "name"]));
    let subjects = |kind: &str| -> Value {
        let of_kind = view.list(&["subjects"]).iter().map(View).filter(|s| s.text(&["kind"]) == kind);
        let words = of_kind.map(|s| match kind {
            "ServiceAccount" => format!("{}/{}", s.text(&["namespace"]), s.text(&["name"])),
            _ => s.text(&["name"]).to_owned(),
        });
        words.collect::<Vec<_>>().join(", ").into()
    };
    vec![
        name(view),
        role.into(),
        created(view, moment),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

pub(super) const REQUEST_COLUMNS: &[Column] = &[
    NAME,
    AGE,
    plain("SignerName", "Who shall sign."),
    plain("Requestor", "Who asked."),
    plain("RequestedDuration", "For how long."),
    plain("Condition", "How the request stands."),
];

pub(super) fn request_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let wanted = view.at(&["spec", "expirationSeconds"]).as_i64();
    vec![
        name(view),
        created(view, moment),
        view.text(&["spec", "signerName"]).into(),
        view.text(&["spec", "username"]).into(),
        wanted.map_or("<none>".into(), |seconds| duration(seconds.saturating_mul(1000))).into(),
        standing(view).into(),
    ]
}

fn standing(view: &View<'_>) -> String {
    let mut words: Vec<&str> =
        ["Approved", "Denied", "Failed"].into_iter().filter(|condition| view.condition(condition).is_some()).collect();
    if words.is_empty() {
        words.push("Pending");
    }
    if !view.text(&["status", "certificate"]).is_empty() {
        words.push("Issued");
    }
    words.join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_binding_shows_its_subjects_by_kind() {
        let binding = json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "jane"},
            {"kind": "ServiceAccount", "namespace": "a", "name": "b"}]});
        let cells = binding_cells(&View(&binding), &Moment { now: 0 });
        assert_eq!((&cells[1], &cells[3], &cells[5]), (&"Role/r".into(), &"jane".into(), &"a/b".into()));
    }

    #[test]
    fn a_request_is_pending_until_someone_decides() {
        assert_eq!(standing(&View(&json!({}))), "Pending");
        let done = json!({"status": {"conditions": [{"type": "Approved", "status": "True"}], "certificate": "x"}});
        assert_eq!(standing(&View(&done)), "Approved,Issued");
    }
}
