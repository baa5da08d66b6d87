//! What is decided over certificate signing requests: which are a node's, who may have a node's name, when one is old.
//!
//! Rules: upstream `pkg/controller/certificates` (approver, signer, cleaner) and `pkg/apis/certificates/helpers.go`. The
//! owner of a node's name is orch's own: upstream gives any name to whoever has a join token.

use std::net::IpAddr;

use base64::Engine;
use jiff::Timestamp;
use serde_json::Value;

use crate::api::value::ValueExt;
use crate::pki::request::{self, Request};
use crate::pki::{Profile, Usage};

/// Signer of clients of the API.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Signer of nodes as clients of the API.
pub const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signer of nodes' servers.
pub const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";

const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";
/// A machine that asked for a name and did not register its node within so many seconds has lost the name.
pub const JOIN_SECONDS: i64 = 600;
/// Seconds that a request is kept after it was decided. Upstream: `approvedExpiration`, `deniedExpiration`.
const DECIDED_SECONDS: i64 = 3_600;
/// Seconds that one is kept that nobody decides. Upstream: `pendingExpiration`.
const PENDING_SECONDS: i64 = 24 * 3_600;
/// Names that clients know the API server by: no node's certificate may say them, for both have the same CA.
const API_NAMES: &[&str] = &["localhost", "kubernetes"];

/// A request as the API has it.
#[derive(Debug, Clone)]
pub struct View<'a> {
    object: &'a Value,
    /// The request itself.
    pub request: Request,
    /// PEM.
    pub pem: String,
}

impl<'a> View<'a> {
    /// Reads it; the error says what is wrong.
    pub fn of(object: &'a Value) -> Result<Self, String> {
        let text = object.str_at("/spec/request").unwrap_or_default();
        let pem = base64::engine::general_purpose::STANDARD.decode(text).map_err(|e| e.to_string())?;
        let request = request::read(&pem)?;
        Ok(Self { object, request, pem: String::from_utf8(pem).map_err(|e| e.to_string())? })
    }

    /// Who is to sign.
    pub fn signer(&self) -> &'a str {
        self.object.str_at("/spec/signerName").unwrap_or_default()
    }

    fn user(&self) -> &'a str {
        self.object.str_at("/spec/username").unwrap_or_default()
    }

    /// This usage, and no others than go with it.
    fn has_usage(&self, needed: &str) -> bool {
        let all: Vec<&str> = self.object.items_at("/spec/usages").iter().filter_map(Value::as_str).collect();
        let known = |u: &&str| [needed, "digital signature", "key encipherment"].contains(u);
        all.contains(&needed) && all.iter().all(known)
    }

    /// The same of a node, which signs.
    fn usages_are(&self, needed: &str) -> bool {
        self.has_usage(needed) && self.object.items_at("/spec/usages").iter().any(|u| u == "digital signature")
    }

    /// The node that the subject names.
    fn node(&self) -> Result<&str, &'static str> {
        if self.request.organizations != [NODES] {
            return Err("its organization is not system:nodes");
        }
        match self.request.common_name.strip_prefix(NODE_PREFIX) {
            Some(node) if !node.is_empty() => Ok(node),
            _ => Err("its common name is not that of a node"),
        }
    }

    fn node_client(&self) -> Result<&str, &'static str> {
        let r = &self.request;
        if !r.dns.is_empty() || !r.ips.is_empty() || r.other_names {
            return Err("it has alternative names");
        }
        if !self.usages_are("client auth") {
            return Err("its usages are not those of a client");
        }
        self.node()
    }

    fn node_serving(&self) -> Result<&str, &'static str> {
        let r = &self.request;
        if r.other_names || r.dns.is_empty() && r.ips.is_empty() {
            return Err("it needs DNS names and addresses, and no other names");
        }
        if !self.usages_are("server auth") {
            return Err("its usages are not those of a server");
        }
        self.node()
    }

    /// What the certificate will say; why there can be none.
    pub fn profile(&self) -> Result<Profile, String> {
        let r = &self.request;
        let usage = match self.signer() {
            NODE_CLIENT => self.node_client().map(|_| Usage::Client)?,
            NODE_SERVING => self.node_serving().map(|_| Usage::Server)?,
            CLIENT if self.has_usage("client auth") => Usage::Client,
            CLIENT => return Err("its usages are not those of a client".into()),
            other => return Err(format!("nobody signs for {other}")),
        };
        let sans = r.dns.iter().cloned().chain(r.ips.iter().map(IpAddr::to_string)).collect();
        Ok(Profile { common_name: r.common_name.clone(), organizations: r.organizations.clone(), sans, usage })
    }

    /// Seconds of life that it asks for.
    pub fn seconds(&self) -> Option<i64> {
        self.object.int_at("/spec/expirationSeconds")
    }
}

/// True when it has a condition of this type.
pub fn has(csr: &Value, condition: &str) -> bool {
    csr.items_at("/status/conditions").iter().any(|c| c.str_at("/type") == Some(condition))
}

/// A request that is approved by itself, if its sender may have what he asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The node.
    pub node: String,
    /// The key.
    pub key_hash: String,
    /// What.
    pub what: What,
}

/// What is wished for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A client certificate, for a machine that joins.
    Join,
    /// A client certificate, for a node that has one.
    Renew,
    /// A serving certificate, for a node that has a client certificate.
    Serve,
}

impl What {
    /// The subresource that the sender must be allowed to create. Upstream's; none for serving certificates, which
    /// upstream leaves to people.
    pub fn permission(self) -> Option<&'static str> {
        match self {
            Self::Join => Some("nodeclient"),
            Self::Renew => Some("selfnodeclient"),
            Self::Serve => None,
        }
    }

    /// The message of the approval.
    pub fn message(self) -> &'static str {
        match self {
            Self::Join => "Auto approving kubelet client certificate after SubjectAccessReview.",
            Self::Renew => "Auto approving self kubelet client certificate after SubjectAccessReview.",
            Self::Serve => "Auto approving kubelet serving certificate: its names and addresses are the node's.",
        }
    }
}

/// The wish in a request that nobody has decided; none in requests of others.
pub fn wish(csr: &Value) -> Option<Wish> {
    if has(csr, "Approved") || has(csr, "Denied") || has(csr, "Failed") {
        return None;
    }
    let view = View::of(csr).ok()?;
    let own = view.user() == view.request.common_name;
    let is_node = csr.items_at("/spec/groups").iter().any(|g| g.as_str() == Some(NODES));
    let (node, what) = match view.signer() {
        NODE_CLIENT if own => (view.node_client().ok()?, What::Renew),
        NODE_CLIENT => (view.node_client().ok()?, What::Join),
        NODE_SERVING if own && is_node => (view.node_serving().ok()?, What::Serve),
        _ => return None,
    };
    Some(Wish { node: node.to_owned(), key_hash: view.request.key_hash.clone(), what })
}

/// Who has a node's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The key of the machine, by its hash.
    pub key_hash: String,
    /// When it got the name.
    pub since: Timestamp,
    /// Its node was registered.
    pub registered: bool,
}

/// What becomes of a wish for a node's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// It is free: write it down.
    Claim,
    /// Another machine had it: write this one down instead.
    Replace,
    /// It is this machine's.
    Same,
    /// It is another machine's; the text is for the one that asks.
    Other(String),
}

/// Whether the machine with `wish`'s key may have the name.
pub fn owner(wish: &Wish, record: Option<&Record>, node_exists: bool, now: Timestamp) -> Owner {
    let node = &wish.node;
    match record {
        Some(r) if r.key_hash == wish.key_hash => Owner::Same,
        Some(_) if node_exists => Owner::Other(format!(
            "node {node} exists and is another machine; choose another --node-name, or delete the node first"
        )),
        Some(r) if !r.registered && now.as_second() - r.since.as_second() < JOIN_SECONDS => Owner::Other(format!(
            "another machine is about to join as node {node}; choose another --node-name, or try again in 10 minutes"
        )),
        Some(_) => Owner::Replace,
        // Nobody knows whose the node is; one that has its certificate is it.
        None if node_exists && wish.what == What::Join => Owner::Other(format!(
            "node {node} exists and did not join by itself; choose another --node-name, or delete the node first"
        )),
        None => Owner::Claim,
    }
}

/// Why a serving certificate may not say these names and addresses: they are not the node's own. `taken` are the
/// addresses of others: nodes, the API server.
pub fn foreign_name(csr: &Value, node: &str, taken: &[IpAddr]) -> Option<String> {
    let view = View::of(csr).ok()?;
    let reserved = |n: &str| API_NAMES.iter().any(|api| n == *api || n.starts_with(&format!("{api}.")));
    if let Some(name) = view.request.dns.iter().find(|n| *n != node || reserved(n)) {
        return Some(format!("the name {name} is not the node's"));
    }
    let foreign = |ip: &&IpAddr| ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || taken.contains(ip);
    let ip = view.request.ips.iter().find(foreign)?;
    Some(format!("the address {ip} is not the node's alone"))
}

/// Seconds until a request goes; 0 or less when it is time.
pub fn seconds_left(csr: &Value, now: Timestamp) -> i64 {
    let time = |text: Option<&str>| text.and_then(|t| t.parse::<Timestamp>().ok());
    let created = time(csr.str_at("/metadata/creationTimestamp")).unwrap_or(now);
    let decided = csr.items_at("/status/conditions").iter().filter_map(|c| time(c.str_at("/lastUpdateTime"))).min();
    let end = match decided {
        Some(at) => at.as_second() + DECIDED_SECONDS,
        None => created.as_second() + PENDING_SECONDS,
    };
    end - now.as_second()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    fn csr(user: &str, signer: &str, usages: &[&str], profile: &Profile) -> Value {
        let pem = request::make(&request::new_key().unwrap(), profile).unwrap();
        let encoded = base64::engine::general_purpose::STANDARD.encode(pem);
        let groups = if user.starts_with(NODE_PREFIX) { json!([NODES]) } else { json!(["system:bootstrappers"]) };
        json!({"metadata": {"name": "c", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"username": user,
            "groups": groups, "signerName": signer, "usages": usages, "request": encoded}})
    }

    const BOOT: &str = "system:bootstrap:abcdef";
    const SIGN: &str = "digital signature";

    #[test_case(BOOT, NODE_CLIENT, &[SIGN, "client auth"] => Some(What::Join))]
    #[test_case("system:node:n", NODE_CLIENT, &[SIGN, "client auth", "key encipherment"] => Some(What::Renew))]
    #[test_case(BOOT, NODE_CLIENT, &[SIGN, "client auth", "server auth"] => None; "more usages")]
    #[test_case(BOOT, NODE_CLIENT, &["client auth"] => None; "fewer usages")]
    #[test_case(BOOT, CLIENT, &[SIGN, "client auth"] => None; "another signer is for people")]
    fn wishes(user: &str, signer: &str, usages: &[&str]) -> Option<What> {
        wish(&csr(user, signer, usages, &Profile::kubelet_client("n"))).map(|w| w.what)
    }

    #[test_case(&["client auth"] => true; "as the documentation asks")]
    #[test_case(&["client auth", SIGN, "key encipherment"] => true)]
    #[test_case(&["client auth", "server auth"] => false)]
    #[test_case(&[SIGN] => false)]
    fn signs_for_people(usages: &[&str]) -> bool {
        let csr = csr("jane", CLIENT, usages, &Profile::client("jane", &["editors"]));
        View::of(&csr).unwrap().profile().is_ok()
    }

    #[test_case(Profile::client("system:node:n", &["system:nodes", "system:masters"]); "more groups")]
    #[test_case(Profile::client("admin", &["system:nodes"]); "no node")]
    #[test_case(Profile::client("system:node:", &["system:nodes"]); "no name")]
    #[test_case(Profile { sans: vec!["n".into()], ..Profile::kubelet_client("n") }; "names")]
    fn no_wishes(profile: Profile) {
        let csr = csr(BOOT, NODE_CLIENT, &[SIGN, "client auth"], &profile);
        assert_eq!(wish(&csr), None);
        assert!(View::of(&csr).unwrap().profile().is_err(), "nor is it signed");
    }

    #[test_case("system:node:n", "192.0.2.7" => None; "its own")]
    #[test_case("system:node:n", "127.0.0.1" => Some("the address 127.0.0.1 is not the node's alone".into()))]
    #[test_case("system:node:n", "192.0.2.1" => Some("the address 192.0.2.1 is not the node's alone".into()); "the server's")]
    fn serving_names(user: &str, ip: &str) -> Option<String> {
        let profile = Profile::kubelet_server("n", &[ip.parse().unwrap()]);
        let csr = csr(user, NODE_SERVING, &[SIGN, "server auth"], &profile);
        assert_eq!(wish(&csr).unwrap().what, What::Serve);
        foreign_name(&csr, "n", &["192.0.2.1".parse().unwrap()])
    }

    #[test]
    fn no_node_may_pass_for_the_api_server_or_for_another_node() {
        for name in ["kubernetes", "kubernetes.default", "localhost"] {
            let csr = csr(
                &format!("system:node:{name}"),
                NODE_SERVING,
                &[SIGN, "server auth"],
                &Profile::kubelet_server(name, &[]),
            );
            assert!(foreign_name(&csr, name, &[]).is_some(), "{name}");
        }
        let other = csr("system:node:m", NODE_SERVING, &[SIGN, "server auth"], &Profile::kubelet_server("n", &[]));
        assert_eq!(wish(&other), None);
    }

    fn record(key: &str, registered: bool) -> Record {
        Record { key_hash: key.into(), since: Timestamp::UNIX_EPOCH, registered }
    }

    #[test_case(None, false, 0, "claim"; "a new node")]
    #[test_case(None, true, 0, "other"; "a node that did not join")]
    #[test_case(Some(record("mine", true)), true, 0, "same"; "a machine that comes back")]
    #[test_case(Some(record("mine", false)), false, 0, "same"; "a join that is tried again")]
    #[test_case(Some(record("theirs", true)), true, 99_999, "other"; "a node of another machine")]
    #[test_case(Some(record("theirs", false)), false, 0, "other"; "two at one time")]
    #[test_case(Some(record("theirs", false)), false, 601, "replace"; "one that never came")]
    #[test_case(Some(record("theirs", true)), false, 0, "replace"; "a node that was deleted")]
    fn owners(record: Option<Record>, exists: bool, second: i64, want: &str) {
        let wish = Wish { node: "n".into(), key_hash: "mine".into(), what: What::Join };
        let got = match owner(&wish, record.as_ref(), exists, Timestamp::from_second(second).unwrap()) {
            Owner::Claim => "claim",
            Owner::Replace => "replace",
            Owner::Same => "same",
            Owner::Other(why) => {
                assert!(why.contains("--node-name"), "{why}");
                "other"
            }
        };
        assert_eq!(got, want);
    }

    #[test]
    fn a_node_that_has_its_certificate_gets_its_name_back() {
        let wish = Wish { node: "n".into(), key_hash: "mine".into(), what: What::Renew };
        assert_eq!(owner(&wish, None, true, Timestamp::UNIX_EPOCH), Owner::Claim);
        assert!(matches!(owner(&wish, Some(&record("theirs", true)), true, Timestamp::UNIX_EPOCH), Owner::Other(_)));
    }

    #[test]
    fn old_requests_go() {
        let mut csr = csr(BOOT, NODE_CLIENT, &[SIGN, "client auth"], &Profile::kubelet_client("n"));
        let at = |t: &str| t.parse().unwrap();
        assert_eq!(seconds_left(&csr, at("2026-01-01T01:00:00Z")), 23 * 3600);
        csr["status"] = json!({"conditions": [{"type": "Denied", "lastUpdateTime": "2026-01-01T00:10:00Z"}]});
        assert_eq!(seconds_left(&csr, at("2026-01-01T01:10:00Z")), 0);
    }
}
