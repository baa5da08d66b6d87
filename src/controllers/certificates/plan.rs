//! What is decided over certificate signing requests: which are a node's, who may have a node's name, when one is old.
//!
//! Rules: upstream `pkg/controller/certificates` (approver, signer, cleaner) and `pkg/apis/certificates/helpers.go`. The
//! owner of a node's name is orch's own: upstream gives any name to whoever has a join token.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use crate::api::value::ValueExt;
use crate::pki::request::{self, Request};
use crate::pki::{KeyUse, Profile, Usage, profile};

/// Signer of clients of the API.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Signer of nodes as clients of the API.
pub const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signer of nodes' servers.
pub const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";

/// Usages of a key that go with being a client or a server.
const SIGNING: &str = "digital signature";
/// See [`SIGNING`].
const ENCIPHERING: &str = "key encipherment";
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
        let pem = STANDARD.decode(text).map_err(|e| e.to_string())?;
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

    fn usages(&self) -> impl Iterator<Item = &'a str> {
        self.object.items_at("/spec/usages").iter().filter_map(Value::as_str)
    }

    fn has_usage(&self, usage: &str) -> bool {
        self.usages().any(|u| u == usage)
    }

    /// Why the usages are not `needed` and signatures, with or without [`ENCIPHERING`]. `all` is how upstream lists them.
    fn wrong_usages(&self, needed: &str, all: &str) -> Option<String> {
        let known = |u: &str| [needed, SIGNING, ENCIPHERING].contains(&u);
        let right = self.has_usage(needed) && self.has_usage(SIGNING) && self.usages().all(known);
        (!right).then(|| format!("usages did not match [{all}]"))
    }

    fn is_of_nodes(&self) -> Result<(), String> {
        match self.request.organizations == [NODES] {
            true => Ok(()),
            false => Err("subject organization is not system:nodes".into()),
        }
    }

    /// The node that the subject names.
    fn node(&self) -> Result<&str, String> {
        match self.request.common_name.strip_prefix(NODE_PREFIX) {
            Some(node) if !node.is_empty() => Ok(node),
            _ => Err("subject common name does not begin with system:node:".into()),
        }
    }

    /// Upstream: `ValidateKubeletClientCSR`, and the order of what it looks at.
    fn node_client(&self) -> Result<&str, String> {
        let r = &self.request;
        self.is_of_nodes()?;
        let names = [(!r.dns.is_empty(), "DNS"), (r.emails, "Email"), (!r.ips.is_empty(), "IP"), (r.uris, "URI")];
        if let Some((_, kind)) = names.iter().find(|(has, _)| *has) {
            return Err(format!("{kind} subjectAltNames are not allowed"));
        }
        let node = self.node()?;
        match self.wrong_usages("client auth", "client auth digital signature key encipherment") {
            Some(why) => Err(why),
            None => Ok(node),
        }
    }

    /// Upstream: `ValidateKubeletServingCSR`.
    fn node_serving(&self) -> Result<&str, String> {
        let r = &self.request;
        self.is_of_nodes()?;
        if r.dns.is_empty() && r.ips.is_empty() {
            return Err("DNS or IP subjectAltName is required".into());
        }
        if let Some((_, kind)) = [(r.emails, "Email"), (r.uris, "URI")].iter().find(|(has, _)| *has) {
            return Err(format!("{kind} subjectAltNames are not allowed"));
        }
        match self.wrong_usages("server auth", "digital signature key encipherment server auth") {
            Some(why) => Err(why),
            None => self.node(),
        }
    }

    /// Upstream: `validAPIServerClientUsages`.
    fn client(&self) -> Result<(), String> {
        let foreign = self.usages().find(|u| !["client auth", SIGNING, ENCIPHERING].contains(u));
        match foreign {
            Some(usage) => Err(format!("invalid usage for client certificate: {usage}")),
            None if !self.has_usage("client auth") => {
                Err("missing required usage for client certificate: client auth".into())
            }
            None => Ok(()),
        }
    }

    /// What the certificate will say; why there can be none.
    pub fn profile(&self) -> Result<Profile, String> {
        let r = &self.request;
        let usage = match self.signer() {
            NODE_CLIENT => self.node_client().map(|_| Usage::Client)?,
            NODE_SERVING => self.node_serving().map(|_| Usage::Server)?,
            CLIENT => self.client().map(|()| Usage::Client)?,
            other => return Err(format!("nobody signs for {other}")),
        };
        let sans = r.dns.iter().cloned().chain(r.ips.iter().map(IpAddr::to_string)).collect();
        let key_use = KeyUse { signing: self.has_usage(SIGNING), enciphering: self.has_usage(ENCIPHERING) };
        Ok(Profile { common_name: r.common_name.clone(), organizations: r.organizations.clone(), sans, usage, key_use })
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
    /// The subresources of which the sender must be allowed to create one, in this order, and what the approval says.
    /// Upstream's; none for serving certificates, which upstream leaves to people.
    pub fn permissions(self) -> &'static [(&'static str, &'static str)] {
        const ANY: (&str, &str) =
            ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.");
        const OWN: (&str, &str) =
            ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.");
        match self {
            Self::Join => &[ANY],
            Self::Renew => &[OWN, ANY],
            Self::Serve => &[],
        }
    }
}

/// What the approval of a serving certificate says.
pub const SERVING_MESSAGE: &str = "Auto approving kubelet serving certificate: its names and addresses are the node's.";

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

/// Seconds until a request goes, 0 or less when it is time; none for one that is approved and waits for its certificate.
/// Rule: upstream `certificates/cleaner`.
pub fn seconds_left(csr: &Value, now: Timestamp) -> Option<i64> {
    let time = |text: Option<&str>| text.and_then(|t| t.parse::<Timestamp>().ok()).map(Timestamp::as_second);
    let certificate = csr.str_at("/status/certificate").filter(|c| !c.is_empty());
    let conditions = csr.items_at("/status/conditions");
    let decided = conditions.iter().filter(|c| match c.str_at("/type") {
        Some("Approved") => certificate.is_some(),
        Some("Denied" | "Failed") => true,
        _ => false,
    });
    let kept = decided.filter_map(|c| time(c.str_at("/lastUpdateTime"))).min().map(|at| at + DECIDED_SECONDS);
    let pem = certificate.filter(|_| has(csr, "Approved")).and_then(|c| STANDARD.decode(c).ok());
    let ends = pem.and_then(|pem| profile::end(&pem));
    let created = time(csr.str_at("/metadata/creationTimestamp"));
    let pending = created.filter(|_| conditions.is_empty()).map(|at| at + PENDING_SECONDS);
    let end = [kept, ends, pending].into_iter().flatten().min()?;
    Some(end - now.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    fn csr(user: &str, signer: &str, usages: &[&str], profile: &Profile) -> Value {
        let pem = request::make(&request::new_key().unwrap(), profile).unwrap();
        let encoded = STANDARD.encode(pem);
        let groups = if user.starts_with(NODE_PREFIX) { json!([NODES]) } else { json!(["system:bootstrappers"]) };
        json!({"metadata": {"name": "c", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"username": user,
            "groups": groups, "signerName": signer, "usages": usages, "request": encoded}})
    }

    const BOOT: &str = "system:bootstrap:abcdef";
    const SIGN: &str = SIGNING;

    #[test_case(BOOT, NODE_CLIENT, &[SIGN, "client auth"] => Some(What::Join))]
    #[test_case("system:node:n", NODE_CLIENT, &[SIGN, "client auth", "key encipherment"] => Some(What::Renew))]
    #[test_case(BOOT, NODE_CLIENT, &[SIGN, "client auth", "server auth"] => None; "more usages")]
    #[test_case(BOOT, NODE_CLIENT, &["client auth"] => None; "fewer usages")]
    #[test_case(BOOT, CLIENT, &[SIGN, "client auth"] => None; "another signer is for people")]
    fn wishes(user: &str, signer: &str, usages: &[&str]) -> Option<What> {
        wish(&csr(user, signer, usages, &Profile::kubelet_client("n"))).map(|w| w.what)
    }

    #[test_case(What::Join, &["nodeclient"])]
    #[test_case(What::Renew, &["selfnodeclient", "nodeclient"]; "who may ask for any node may ask for its own")]
    #[test_case(What::Serve, &[])]
    fn who_may_ask(what: What, subresources: &[&str]) {
        assert_eq!(what.permissions().iter().map(|(name, _)| *name).collect::<Vec<_>>(), subresources);
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

    #[test_case(NODE_CLIENT, &[SIGN, "client auth"], Profile::client("system:node:n", &["a"]), "subject organization is not system:nodes")]
    #[test_case(NODE_CLIENT, &[], Profile { sans: vec!["n".into(), "192.0.2.7".into()], ..Profile::client("x", &["system:nodes"]) }, "DNS subjectAltNames are not allowed")]
    #[test_case(NODE_CLIENT, &[], Profile { sans: vec!["192.0.2.7".into()], ..Profile::client("x", &["system:nodes"]) }, "IP subjectAltNames are not allowed")]
    #[test_case(NODE_CLIENT, &[], Profile::client("x", &["system:nodes"]), "subject common name does not begin with system:node:")]
    #[test_case(NODE_CLIENT, &["client auth"], Profile::kubelet_client("n"), "usages did not match [client auth digital signature key encipherment]")]
    #[test_case(NODE_SERVING, &[], Profile::kubelet_client("n"), "DNS or IP subjectAltName is required")]
    #[test_case(NODE_SERVING, &[], Profile { common_name: "x".into(), ..Profile::kubelet_server("n", &[]) }, "usages did not match [digital signature key encipherment server auth]")]
    #[test_case(NODE_SERVING, &[SIGN, "server auth"], Profile { common_name: "x".into(), ..Profile::kubelet_server("n", &[]) }, "subject common name does not begin with system:node:")]
    #[test_case(CLIENT, &["client auth", "server auth"], Profile::client("jane", &[]), "invalid usage for client certificate: server auth")]
    #[test_case(CLIENT, &[SIGN], Profile::client("jane", &[]), "missing required usage for client certificate: client auth")]
    fn why_nothing_is_signed(signer: &str, usages: &[&str], profile: Profile, why: &str) {
        let csr = csr("jane", signer, usages, &profile);
        assert_eq!(View::of(&csr).unwrap().profile().unwrap_err(), why);
    }

    #[test_case(&["client auth"], false, false)]
    #[test_case(&["client auth", SIGN], true, false)]
    #[test_case(&["client auth", SIGN, ENCIPHERING], true, true)]
    fn a_key_is_for_what_was_asked(usages: &[&str], signing: bool, enciphering: bool) {
        let csr = csr("jane", CLIENT, usages, &Profile::client("jane", &[]));
        let view = View::of(&csr).unwrap();
        assert_eq!(view.profile().unwrap().key_use, KeyUse { signing, enciphering });
    }

    /// A certificate that ends at 2026-01-01T00:30:00Z.
    fn short_certificate() -> String {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let ca = crate::pki::Ca::new("ca", rcgen::KeyPair::generate().unwrap(), now).unwrap();
        let pem = request::make(&request::new_key().unwrap(), &Profile::client("jane", &[])).unwrap();
        STANDARD.encode(ca.sign_request(&pem, &Profile::client("jane", &[]), Some(1800), now).unwrap())
    }

    /// Seconds from 2026-01-01T00:20:00Z; conditions are of 00:10:00.
    #[test_case(&[], "", Some(24 * 3600 - 1200); "nobody decides")]
    #[test_case(&["Denied"], "", Some(3000))]
    #[test_case(&["Approved"], "", None; "approved, and waits for its certificate")]
    #[test_case(&["Approved"], "x", Some(3000); "signed")]
    #[test_case(&["Approved"], "short", Some(600); "signed, and ends soon")]
    #[test_case(&["Approved", "Failed"], "", Some(3000))]
    fn old_requests_go(conditions: &[&str], certificate: &str, want: Option<i64>) {
        let at = |c: &&str| json!({"type": c, "lastUpdateTime": "2026-01-01T00:10:00Z"});
        let certificate = if certificate == "short" { short_certificate() } else { certificate.to_owned() };
        let csr = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"certificate": certificate, "conditions": conditions.iter().map(at).collect::<Vec<_>>()}});
        assert_eq!(seconds_left(&csr, "2026-01-01T00:20:00Z".parse().unwrap()), want);
    }
}
