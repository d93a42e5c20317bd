//! Acting as someone else, where a role allows it.

use coracle_shared::api::status::Status;
use coracle_shared::submit::Identity;
use hyper::header::HeaderMap;

use super::Api;
use super::authz::{ANONYMOUS, AUTHENTICATED, Attributes, UNAUTHENTICATED};

/// Groups that one request may ask for.
const MAX_GROUPS: usize = 100;

/// Whom a request asks to act as.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted {
    user: String,
    groups: Vec<String>,
}

/// What the headers ask for; `None`: to act as oneself.
pub fn wanted(headers: &HeaderMap) -> Option<Wanted> {
    let all = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).take(MAX_GROUPS).map(str::to_owned).collect()
    };
    let mut users = all("impersonate-user");
    let groups = all("impersonate-group");
    let other = headers.keys().any(|k| k.as_str() == "impersonate-uid" || k.as_str().starts_with("impersonate-extra-"));
    (!users.is_empty() || !groups.is_empty() || other)
        .then(|| Wanted { user: users.drain(..).next().unwrap_or_default(), groups })
}

/// Namespace and name of a service account's user name.
fn account(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix("system:serviceaccount:")?.split_once(':')
}

impl Wanted {
    /// The identity to act as, when `who` may.
    pub fn allow(self, api: &Api, who: &Identity) -> Result<Identity, Status> {
        if self.user.is_empty() {
            return Err(Status::bad_request("requested to impersonate groups or more without a user"));
        }
        let may = |resource: &str, namespace: &str, name: &str| {
            let verb = "impersonate";
            api.authorize(
                who,
                &Attributes { verb, group: "", resource, subresource: "", namespace, name, on_node: None },
            )
        };
        let mut groups = self.groups;
        match account(&self.user) {
            Some((namespace, name)) => {
                may("serviceaccounts", namespace, name)?;
                if groups.is_empty() {
                    groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
                } else {
                    groups.iter().try_for_each(|group| may("groups", "", group))?;
                }
            }
            None => {
                may("users", "", &self.user)?;
                groups.iter().try_for_each(|group| may("groups", "", group))?;
            }
        }
        let own = if self.user == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
        if !groups.iter().any(|group| group == own) {
            groups.push(own.into());
        }
        Ok(Identity { user: self.user, groups })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_whom_to_act_as() {
        let mut headers = HeaderMap::new();
        assert_eq!(wanted(&headers), None);
        headers.append("impersonate-group", "a".parse().expect("a value"));
        headers.append("impersonate-group", "b".parse().expect("a value"));
        headers.append("impersonate-user", "jane".parse().expect("a value"));
        let groups = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(wanted(&headers), Some(Wanted { user: "jane".into(), groups }));
    }

    #[test]
    fn a_service_account_is_known_by_its_name() {
        assert_eq!(account("system:serviceaccount:a:b"), Some(("a", "b")));
        assert_eq!(account("jane"), None);
    }
}
