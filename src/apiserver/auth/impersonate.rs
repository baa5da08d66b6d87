//! Impersonation: who a request wants to be, and what has to be allowed for that. Pure.
//!
//! There are several ways to be allowed. Those that are constrained ask for two things: that the user may be who they want
//! to be in this way (`impersonate:<way>`), and that they may do in this way what the request does
//! (`impersonate-on:<way>:<verb>`). The last way, upstream's first, asks for the former alone, and whoever has it may do all
//! that the other may.
//!
//! Rules: upstream `apiserver/pkg/endpoints/filters/impersonation` (`ConstrainedImpersonation`, on since 1.36).

use std::collections::BTreeMap;

use http::HeaderMap;

use super::authn::percent_decoded;
use super::rbac::rules::quoted;
use crate::api::meta::names::dns1123_subdomain;
use crate::api::status::{ApiResult, Status};
use crate::api::user::{Attributes, UserInfo};

const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";
const NODE: &str = "system:node:";
const NODES: &str = "system:nodes";
/// Where a service account's token says on which node it is used.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// What is told of the rest of such a token.
const NODE_KEYS: &str = "authentication.kubernetes.io/associated-node-keys";
/// From so many groups, or extra values, on it is first asked whether all are allowed.
const MANY: usize = 4;

/// A way to be somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The verb that allows it, for the audit log; empty for the way that is not constrained.
    pub constraint: String,
    /// Who has to be allowed, where that is not the user as they are.
    pub asking: Option<UserInfo>,
    /// What they must be allowed, in this order; the first that is not ends in a 403 with its own text.
    pub steps: Vec<Step>,
    /// Who the request runs as then.
    pub target: UserInfo,
}

/// What somebody must be allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// This.
    One(Box<Attributes>),
    /// Either this, or each of those.
    AllOr(Box<Attributes>, Vec<Attributes>),
    /// Nobody is.
    Never(Box<Attributes>, String),
}

/// Reads the headers; `None` when nobody is to be impersonated.
pub fn requested(headers: &HeaderMap) -> ApiResult<Option<UserInfo>> {
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
    let wish = UserInfo { name, uid, groups, extra };
    if !wish.name.is_empty() {
        return Ok(Some(wish));
    }
    if wish.uid.is_empty() && wish.groups.is_empty() && wish.extra.is_empty() {
        return Ok(None);
    }
    Err(Status::bad_request(format!("requested {} without impersonating a user name", as_go(&wish))))
}

/// The ways in which `user` could be who they wish to be for a request, in the order in which they are tried.
pub fn ways(user: &UserInfo, wish: &UserInfo, request: &Attributes) -> Vec<Way> {
    let name_alone = wish.uid.is_empty() && wish.groups.is_empty() && wish.extra.is_empty();
    let (node, account) = (node(&wish.name), service_account(&wish.name));
    let mut ways = Vec::new();
    let mut constrained = |mode: &str, asking: Option<UserInfo>| {
        let verb = format!("impersonate:{mode}");
        let mut on = request.clone();
        on.verb = format!("impersonate-on:{mode}:{}", request.verb);
        let mut steps = vec![Step::One(Box::new(on))];
        steps.extend(to_be(wish, &verb, mode == ASSOCIATED));
        ways.push(Way { constraint: verb, asking, steps, target: target(wish, true) });
    };
    if name_alone && let Some(node) = node {
        let from = |key: &str| user.extra.get(key).filter(|v| v.len() == 1).map(|v| v[0].as_str());
        if service_account(&user.name).is_some() && from(NODE_NAME) == Some(node) {
            // The same for all pods of the account: which node it is, was looked at.
            let keys = user.extra.keys().cloned().collect();
            let asking = UserInfo { extra: [(NODE_KEYS.to_owned(), keys)].into(), ..user.clone() };
            constrained(ASSOCIATED, Some(asking));
        }
        constrained("arbitrary-node", None);
    }
    if name_alone && account.is_some() {
        constrained("serviceaccount", None);
    }
    if node.is_none() && account.is_none() {
        constrained("user-info", None);
    }
    let steps = to_be(wish, "impersonate", false);
    ways.push(Way { constraint: String::new(), asking: None, steps, target: target(wish, false) });
    ways
}

const ASSOCIATED: &str = "associated-node";

/// What has to be allowed to be somebody, by `verb`.
fn to_be(wish: &UserInfo, verb: &str, any_node: bool) -> Vec<Step> {
    let constrained = verb != "impersonate";
    // Users and groups were resources of the core group first.
    let people = if constrained { AUTHENTICATION } else { "" };
    let check = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| Attributes {
        verb: verb.into(),
        group: group.into(),
        version: "v1".into(),
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: namespace.into(),
        name: name.into(),
        ..Attributes::default()
    };
    let one = |attributes| Step::One(Box::new(attributes));
    let mut out = vec![one(match (service_account(&wish.name), node(&wish.name).filter(|_| constrained)) {
        (Some((namespace, account)), _) => check(people, "serviceaccounts", "", namespace, account),
        (None, Some(node)) => check(people, "nodes", "", "", if any_node { "*" } else { node }),
        (None, None) => check(people, "users", "", "", &wish.name),
    })];
    if !wish.uid.is_empty() {
        out.push(one(check(AUTHENTICATION, "uids", "", "", &wish.uid)));
    }
    let group = |name: &str| check(people, "groups", "", "", name);
    let never = |attributes, why: &str| Step::Never(Box::new(attributes), why.to_owned());
    if constrained && wish.groups.iter().any(String::is_empty) {
        out.push(never(group(""), "impersonating the empty string group is not allowed"));
    } else if constrained && wish.groups.iter().any(|g| g == UserInfo::MASTERS) {
        out.push(never(group(UserInfo::MASTERS), "impersonating the system:masters group is not allowed"));
    } else {
        let each = wish.groups.iter().map(|g| group(g)).collect();
        out.extend(some_or_all(each, constrained, group("*")));
    }
    let extra = |key: &str, value: &str| check(AUTHENTICATION, "userextras", key, "", value);
    let each = wish.extra.iter().flat_map(|(key, values)| values.iter().map(move |v| extra(key, v)));
    match wish.extra.iter().find_map(|(key, values)| wrong_extra(key, values)).filter(|_| constrained) {
        Some(why) => out.push(never(extra("", ""), &why)),
        None => out.extend(some_or_all(each.collect(), constrained, extra("*", "*"))),
    }
    out
}

fn some_or_all(each: Vec<Attributes>, constrained: bool, all: Attributes) -> Vec<Step> {
    match constrained && each.len() >= MANY {
        true => vec![Step::AllOr(Box::new(all), each)],
        false => each.into_iter().map(|one| Step::One(Box::new(one))).collect(),
    }
}

/// What is wrong with extra values for the ways that are constrained.
fn wrong_extra(key: &str, values: &[String]) -> Option<String> {
    const PATH: &str = "-._~%!$&'()*+,;=:/";
    let is_path = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || PATH.contains(c));
    let named = |(domain, path): (&str, &str)| dns1123_subdomain(domain).is_empty() && is_path(path);
    match key {
        "" => Some("impersonating the empty string key in extra is not allowed".into()),
        _ if !key.split_once('/').is_some_and(named) => {
            Some(format!("impersonating an invalid key in extra is not allowed: {key:?} is no path in a domain"))
        }
        _ if key.chars().any(char::is_uppercase) => {
            Some(format!("impersonating a non-lowercase key in extra is not allowed: {key:?}"))
        }
        _ if values.is_empty() => Some("impersonating empty values in extra is not allowed".into()),
        _ if values.iter().any(String::is_empty) => {
            Some("impersonating the empty string value in extra is not allowed".into())
        }
        _ => None,
    }
}

/// Who a request runs as that is allowed to.
fn target(wish: &UserInfo, constrained: bool) -> UserInfo {
    let mut target = wish.clone();
    if target.groups.is_empty() {
        target.groups = match (service_account(&wish.name), node(&wish.name)) {
            (Some((namespace, _)), _) => service_account_groups(namespace),
            (None, Some(_)) if constrained => vec![NODES.to_owned()],
            _ => Vec::new(),
        };
    }
    let has = |group: &str| target.groups.iter().any(|g| g == group);
    let (anonymous, nobody) = (target.name == UserInfo::ANONYMOUS, has(UserInfo::UNAUTHENTICATED));
    match (anonymous, nobody, has(UserInfo::AUTHENTICATED)) {
        (true, false, _) => target.groups.push(UserInfo::UNAUTHENTICATED.to_owned()),
        (false, false, false) => target.groups.push(UserInfo::AUTHENTICATED.to_owned()),
        _ => {}
    }
    target
}

/// The node of a node's user name.
fn node(user: &str) -> Option<&str> {
    user.strip_prefix(NODE).filter(|name| dns1123_subdomain(name).is_empty())
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

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    fn user(name: &str) -> UserInfo {
        UserInfo { name: name.into(), ..UserInfo::default() }
    }

    /// `verb resource[/subresource] name` of each step.
    fn told(way: &Way) -> Vec<String> {
        let one = |a: &Attributes| {
            let sub = if a.subresource.is_empty() { String::new() } else { format!("/{}", a.subresource) };
            format!("{} {}{sub} {}", a.verb, a.resource, a.name)
        };
        let step = |step: &Step| match step {
            Step::One(a) => one(a),
            Step::AllOr(all, each) => format!("{} or {}", one(all), each.len()),
            Step::Never(a, _) => format!("never {}", one(a)),
        };
        way.steps.iter().map(step).collect()
    }

    fn list_pods() -> Attributes {
        Attributes { verb: "list".into(), resource: "pods".into(), ..Attributes::default() }
    }

    #[test_case("jane", &["impersonate:user-info", ""])]
    #[test_case("system:node:n1", &["impersonate:arbitrary-node", ""])]
    #[test_case("system:node:Not A Node", &["impersonate:user-info", ""]; "no name of a node")]
    #[test_case("system:serviceaccount:a:b", &["impersonate:serviceaccount", ""])]
    fn there_is_one_constrained_way_for_a_kind_of_user(wish: &str, want: &[&str]) {
        let ways = ways(&user("boss"), &user(wish), &list_pods());
        assert_eq!(ways.iter().map(|w| &*w.constraint).collect::<Vec<_>>(), want);
        let group = UserInfo { groups: vec!["g".into()], ..user(wish) };
        let with_group = super::ways(&user("boss"), &group, &list_pods());
        let others = wish == "jane" || wish.contains(' ');
        assert_eq!(with_group.len(), if others { 2 } else { 1 }, "nodes and accounts have their groups");
    }

    #[test]
    fn constrained_ways_ask_for_the_deed_and_for_the_person() {
        let ways = ways(&user("boss"), &user("jane"), &list_pods());
        assert_eq!(told(&ways[0]), ["impersonate-on:user-info:list pods ", "impersonate:user-info users jane"]);
        assert_eq!(told(&ways[1]), ["impersonate users jane"]);
        let person = |way: &Way| match way.steps.last() {
            Some(Step::One(a)) => a.group.clone(),
            _ => String::new(),
        };
        assert_eq!((person(&ways[0]), person(&ways[1])), (AUTHENTICATION.into(), String::new()));
    }

    #[test]
    fn a_service_account_may_be_the_node_it_is_on() {
        let extra = |node: &str| [(NODE_NAME.to_owned(), vec![node.to_owned()]), ("a/b".to_owned(), vec![])].into();
        let agent = |node: &str| UserInfo { extra: extra(node), ..user("system:serviceaccount:kube-system:agent") };
        let here = ways(&agent("n1"), &user("system:node:n1"), &list_pods());
        assert_eq!(here[0].constraint, "impersonate:associated-node");
        assert_eq!(told(&here[0])[1], "impersonate:associated-node nodes *");
        let keys = &here[0].asking.as_ref().unwrap().extra[NODE_KEYS];
        assert_eq!(*keys, ["a/b", NODE_NAME], "which node it is makes no difference to who decides");
        assert_eq!(here[0].target.groups, [NODES, UserInfo::AUTHENTICATED]);
        assert_eq!(
            ways(&agent("n2"), &user("system:node:n1"), &list_pods())[0].constraint,
            "impersonate:arbitrary-node"
        );
        let person = UserInfo { extra: extra("n1"), ..user("jane") };
        assert_eq!(ways(&person, &user("system:node:n1"), &list_pods()).len(), 2, "a person is on no node");
    }

    #[test_case(&["a", "b"], &[], "impersonate:user-info groups b")]
    #[test_case(&["a", "b", "c", "d"], &[], "impersonate:user-info groups * or 4"; "many groups")]
    #[test_case(&["a", "system:masters"], &[], "never impersonate:user-info groups system:masters")]
    #[test_case(&["a", ""], &[], "never impersonate:user-info groups "; "a group without a name")]
    #[test_case(&[], &[("a.io/k", "v")], "impersonate:user-info userextras/a.io/k v"; "extra")]
    #[test_case(&[], &[("scopes", "v")], "never impersonate:user-info userextras "; "a key without a domain")]
    #[test_case(&[], &[("a.io/K", "v")], "never impersonate:user-info userextras "; "a key with capitals")]
    #[test_case(&[], &[("a.io/k", "")], "never impersonate:user-info userextras "; "a value that is empty")]
    #[test_case(&[], &[("a.io/1", "v"), ("a.io/2", "v"), ("a.io/3", "v"), ("a.io/4", "v")],
        "impersonate:user-info userextras/* * or 4"; "much extra")]
    fn groups_and_extra_values_are_bounded_in_constrained_ways(groups: &[&str], extra: &[(&str, &str)], last: &str) {
        let extra = extra.iter().map(|(k, v)| ((*k).to_owned(), vec![(*v).to_owned()])).collect();
        let wish = UserInfo { groups: groups.iter().map(|g| (*g).to_owned()).collect(), extra, ..user("jane") };
        let ways = ways(&user("boss"), &wish, &list_pods());
        assert_eq!(told(&ways[0]).last().unwrap(), last);
        // The other way is as it always was.
        assert!(ways[1].steps.iter().all(|s| matches!(s, Step::One(_))));
    }

    #[test]
    fn everybody_is_known_or_not() {
        let groups = |name: &str, groups: &[&str]| {
            let groups = groups.iter().map(|g| (*g).to_owned()).collect();
            target(&UserInfo { groups, ..user(name) }, false).groups
        };
        assert_eq!(groups("jane", &["g"]), ["g", UserInfo::AUTHENTICATED]);
        assert_eq!(groups("jane", &[UserInfo::UNAUTHENTICATED]), [UserInfo::UNAUTHENTICATED]);
        assert_eq!(groups(UserInfo::ANONYMOUS, &[]), [UserInfo::UNAUTHENTICATED]);
        let both = [UserInfo::AUTHENTICATED, UserInfo::UNAUTHENTICATED];
        assert_eq!(groups(UserInfo::ANONYMOUS, &[UserInfo::AUTHENTICATED]), both);
        assert_eq!(groups("system:node:n1", &[]), [UserInfo::AUTHENTICATED], "no node without its constraint");
    }
}
