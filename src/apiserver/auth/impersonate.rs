//! Impersonation: who a request wants to be, and what has to be allowed for that. Pure.
//!
//! Rules: upstream `apiserver/pkg/endpoints/filters/impersonation`.

use std::collections::BTreeMap;

use http::HeaderMap;

use super::authn::percent_decoded;
use super::rbac::rules::quoted;
use crate::api::status::{ApiResult, Status};
use crate::api::user::{Attributes, UserInfo};

const EXTRA: &str = "impersonate-extra-";

/// A wish to be somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Impersonation {
    /// Who the request runs as when all of `checks` are allowed.
    pub target: UserInfo,
    /// What the asking user must be allowed; the first that is not ends in a 403 with its own text.
    pub checks: Vec<Attributes>,
}

/// Reads the headers; `None` when nobody is to be impersonated.
pub fn requested(headers: &HeaderMap) -> ApiResult<Option<Impersonation>> {
    let texts = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok().map(str::to_owned)).collect()
    };
    let one = |name: &str| texts(name).into_iter().next().unwrap_or_default();
    let (name, uid, groups) = (one("impersonate-user"), one("impersonate-uid"), texts("impersonate-group"));
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (header, value) in headers {
        if let (Some(key), Ok(value)) = (header.as_str().strip_prefix(EXTRA), value.to_str()) {
            extra.entry(percent_decoded(key)).or_default().push(value.to_owned());
        }
    }
    if name.is_empty() {
        if uid.is_empty() && groups.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        let wish = UserInfo { name, uid, groups, extra };
        return Err(Status::bad_request(format!("requested {} without impersonating a user name", as_go(&wish))));
    }
    let checks = checks(&name, &uid, &groups, &extra);
    Ok(Some(Impersonation { target: target(name, uid, groups, extra), checks }))
}

fn checks(name: &str, uid: &str, groups: &[String], extra: &BTreeMap<String, Vec<String>>) -> Vec<Attributes> {
    const AUTHENTICATION: &str = "authentication.k8s.io";
    let check = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| Attributes {
        verb: "impersonate".into(),
        group: group.into(),
        version: "v1".into(),
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: namespace.into(),
        name: name.into(),
        ..Attributes::default()
    };
    let mut out = vec![match service_account(name) {
        Some((namespace, account)) => check("", "serviceaccounts", "", namespace, account),
        None => check("", "users", "", "", name),
    }];
    out.extend(groups.iter().map(|g| check("", "groups", "", "", g)));
    for (key, values) in extra {
        out.extend(values.iter().map(|v| check(AUTHENTICATION, "userextras", key, "", v)));
    }
    if !uid.is_empty() {
        out.push(check(AUTHENTICATION, "uids", "", "", uid));
    }
    out
}

fn target(name: String, uid: String, mut groups: Vec<String>, extra: BTreeMap<String, Vec<String>>) -> UserInfo {
    if groups.is_empty()
        && let Some((namespace, _)) = service_account(&name)
    {
        groups = service_account_groups(namespace);
    }
    let anonymous = name == UserInfo::ANONYMOUS;
    let own = if anonymous { UserInfo::UNAUTHENTICATED } else { UserInfo::AUTHENTICATED };
    let known = groups.iter().any(|g| g == UserInfo::AUTHENTICATED || g == UserInfo::UNAUTHENTICATED);
    if !known {
        groups.push(own.to_owned());
    }
    UserInfo { name, uid, groups, extra }
}

/// The groups of every service account of a namespace.
pub fn service_account_groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")]
}

/// Namespace and name of a service account's user name.
pub fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// The wish as upstream's error prints it.
fn as_go(wish: &UserInfo) -> String {
    let list =
        |texts: &[String]| quoted(texts.iter().map(String::as_str)).replace("\" \"", "\", \"").replace(['[', ']'], "");
    let groups = match &wish.groups[..] {
        [] => "[]string(nil)".to_owned(),
        texts => format!("[]string{{{}}}", list(texts)),
    };
    let extra = match wish.extra.is_empty() {
        true => "map[string][]string(nil)".to_owned(),
        false => {
            let entries: Vec<String> =
                wish.extra.iter().map(|(k, v)| format!("{k:?}:[]string{{{}}}", list(v))).collect();
            format!("map[string][]string{{{}}}", entries.join(", "))
        }
    };
    format!("&user.DefaultInfo{{Name:{:?}, UID:{:?}, Groups:{groups}, Extra:{extra}}}", wish.name, wish.uid)
}
