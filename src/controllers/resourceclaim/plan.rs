//! What becomes of claims of devices. Pure.
//!
//! Upstream: `pkg/controller/resourceclaim`.

use serde_json::{Map, Value, json};

use crate::api::value::ValueExt;

/// Says for which of a pod's claims a claim was made.
pub const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";
/// What keeps a claim with devices from going before it gave them back.
pub const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Longest beginning of a generated name; the API adds five characters.
const GENERATED_MAX: usize = 58;

/// True for a pod that will not use its claims any more: it ended, or goes without ever having had a node.
pub fn is_done(pod: &Value) -> bool {
    let phase = pod.str_at("/status/phase").unwrap_or_default();
    let unplaced = pod.str_at("/spec/nodeName").unwrap_or_default().is_empty();
    matches!(phase, "Succeeded" | "Failed") || pod.get_at("/metadata/deletionTimestamp").is_some() && unplaced
}

/// A claim of a pod that is made from a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Templated {
    /// The pod's name for it.
    pub name: String,
    /// The template.
    pub template: String,
}

/// What a pod's claims still need.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// To be made.
    pub make: Vec<Templated>,
    /// Made but not noted in the pod's status: the pod's name, and the claim's.
    pub note: Vec<(String, String)>,
}

/// What is missing. `made` are the claims that the pod owns: for which of its claims, and their names.
pub fn needs(pod: &Value, made: &[(String, String)]) -> Needs {
    let mut out = Needs::default();
    let noted = |name: &str| {
        let all = pod.items_at("/status/resourceClaimStatuses").iter();
        all.clone().find(|s| s.str_at("/name") == Some(name))
    };
    for claim in pod.items_at("/spec/resourceClaims") {
        let (Some(name), Some(template)) = (claim.str_at("/name"), claim.str_at("/resourceClaimTemplateName")) else {
            continue;
        };
        let known = noted(name).map(|s| s.str_at("/resourceClaimName"));
        match (known, made.iter().find(|(of, _)| of == name)) {
            // Noted as not needed, or noted and there.
            (Some(None), _) => {}
            (Some(Some(known)), _) if made.iter().any(|(_, is)| is == known) => {}
            (_, Some((_, is))) => out.note.push((name.to_owned(), is.clone())),
            (_, None) => out.make.push(Templated { name: name.to_owned(), template: template.to_owned() }),
        }
    }
    out
}

/// The claim to be made for a pod from a template.
pub fn claim(pod: &Value, name: &str, template: &Value) -> Value {
    let text = |at: &str| pod.str_at(at).unwrap_or_default();
    let copied = |at: &str| template.get_at(at).and_then(Value::as_object).cloned().unwrap_or_default();
    let mut annotations: Map<String, Value> = copied("/spec/metadata/annotations");
    annotations.insert(POD_CLAIM.to_owned(), name.into());
    json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"generateName": generated(text("/metadata/name"), name), "namespace": text("/metadata/namespace"),
            "annotations": annotations, "labels": copied("/spec/metadata/labels"),
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": text("/metadata/name"),
                "uid": text("/metadata/uid"), "controller": true, "blockOwnerDeletion": true}]},
        "spec": template.get_at("/spec/spec").cloned().unwrap_or_default()})
}

/// `pod-claim-`, both shortened alike where they are too long together.
fn generated(pod: &str, name: &str) -> String {
    let room = GENERATED_MAX - 2;
    let (mut a, mut b) = (pod.len(), name.len());
    if a + b > room {
        let half = room / 2;
        (a, b) = match (a > half, b > half) {
            (true, true) => (half, half),
            (true, false) => (room - b, b),
            _ => (a, room - a),
        };
    }
    format!("{}-{}-", &pod[..a], &name[..b])
}

/// The pod's status with all claims that were made for it.
pub fn noted(pod: &Value, new: &[(String, String)]) -> Value {
    let old = pod.items_at("/status/resourceClaimStatuses").iter();
    let mut all: Vec<Value> =
        old.filter(|s| !new.iter().any(|(name, _)| s.str_at("/name") == Some(name))).cloned().collect();
    all.extend(new.iter().map(|(name, claim)| json!({"name": name, "resourceClaimName": claim})));
    json!({"status": {"resourceClaimStatuses": all}})
}

/// Users that a claim can have at once. Upstream: `ResourceClaimReservedForMaxSize`.
const USERS_MAX: usize = 256;

/// The claims of a pod that have a name: theirs, and whether they were made for it.
pub fn named(pod: &Value) -> impl Iterator<Item = (&str, bool)> {
    let of = |at: &str, made: bool| {
        let all = pod.items_at(at).iter();
        all.filter_map(|c| c.str_at("/resourceClaimName")).map(move |name| (name, made))
    };
    of("/spec/resourceClaims", false).chain(of("/status/resourceClaimStatuses", true))
}

/// For whom a claim is reserved from now on, so that a pod which has a node already can use it; none when that is said, or
/// cannot be. `made` says that it has to be this pod's own.
/// Rule: upstream `syncPod`.
pub fn reserved_for(pod: &Value, claim: &Value, made: bool) -> Option<Vec<Value>> {
    let (name, uid) = (pod.str_at("/metadata/name")?, pod.str_at("/metadata/uid")?);
    let allocated = claim.get_at("/status/allocation").is_some_and(|a| !a.is_null());
    let owned = claim
        .items_at("/metadata/ownerReferences")
        .iter()
        .any(|o| o.bool_at("/controller") == Some(true) && o.str_at("/uid") == Some(uid));
    let users = claim.items_at("/status/reservedFor");
    let known = users.iter().any(|u| u.str_at("/uid") == Some(uid));
    if !allocated || known || users.len() >= USERS_MAX || made && !owned {
        return None;
    }
    let user = json!({"resource": "pods", "name": name, "uid": uid});
    Some(users.iter().cloned().chain([user]).collect())
}

/// What a claim needs to be.
#[derive(Debug, Default, PartialEq)]
pub struct Review {
    /// Who uses it from now on, where that changes.
    pub reserved: Option<Vec<Value>>,
    /// Its devices are given back.
    pub free: bool,
    /// Nothing keeps it any more.
    pub release: bool,
    /// The pod it was made for does not need it.
    pub delete: bool,
}

impl Review {
    /// True where the status has to be written.
    pub fn writes_status(&self) -> bool {
        self.free || self.reserved.is_some()
    }
}

/// A pod that exists: its uid, and whether it is done.
pub type Known = (String, bool);

/// Looks at a claim. `pod` gives a pod of its namespace by name.
pub fn review(claim: &Value, pod: impl Fn(&str) -> Option<Known>) -> Review {
    let uses = |r: &&Value| {
        let pods = r.str_at("/resource") == Some("pods") && r.str_at("/apiGroup").unwrap_or_default().is_empty();
        let known = r.str_at("/name").and_then(&pod);
        // Users that this version does not know are left alone.
        !pods || known.is_some_and(|(uid, done)| r.str_at("/uid") == Some(&uid) && !done)
    };
    let before = claim.items_at("/status/reservedFor");
    let valid: Vec<Value> = before.iter().filter(uses).cloned().collect();
    let unused = valid.is_empty();
    let fewer = valid.len() < before.len();
    let deleting = claim.get_at("/metadata/deletionTimestamp").is_some();
    let held = claim.items_at("/metadata/finalizers").iter().any(|f| f == FINALIZER);
    let allocated = claim.get_at("/status/allocation").is_some_and(|a| !a.is_null());
    // Only what the scheduler gave may be taken back, once the last who used it is gone, or the claim is to go.
    let over = unused && held && (fewer || deleting);
    let owner = claim.items_at("/metadata/ownerReferences").iter().find(|o| {
        o.bool_at("/controller") == Some(true)
            && o.str_at("/kind") == Some("Pod")
            && o.str_at("/apiVersion") == Some("v1")
    });
    // An owner that is not there is left to the garbage collector.
    let known = owner.and_then(|o| Some((o, pod(o.str_at("/name")?)?)));
    let delete = known.is_some_and(|(o, (uid, done))| done || o.str_at("/uid") != Some(&uid));
    Review {
        reserved: fewer.then_some(valid),
        free: over && allocated,
        release: over,
        delete: unused && !deleting && delete,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("web-0", "gpu", "web-0-gpu-"; "short")]
    #[test_case(&"p".repeat(70), "gpu", &format!("{}-gpu-", "p".repeat(53)); "a long pod")]
    #[test_case("p", &"c".repeat(70), &format!("p-{}-", "c".repeat(55)); "a long claim")]
    #[test_case(&"p".repeat(40), &"c".repeat(40), &format!("{}-{}-", "p".repeat(28), "c".repeat(28)); "both")]
    fn names_begin_with_pod_and_claim(pod: &str, name: &str, want: &str) {
        assert_eq!(generated(pod, name), want);
    }

    #[test_case(json!([]), &[], &["a"], &[]; "to be made")]
    #[test_case(json!([]), &[("a", "p-a-1")], &[], &["a=p-a-1"]; "made, not noted")]
    #[test_case(json!([{"name": "a", "resourceClaimName": "p-a-1"}]), &[("a", "p-a-1")], &[], &[]; "made and noted")]
    #[test_case(json!([{"name": "a", "resourceClaimName": "p-a-1"}]), &[], &["a"], &[]; "gone")]
    #[test_case(json!([{"name": "a"}]), &[], &[], &[]; "not needed")]
    fn a_pod_needs_its_claims(statuses: Value, made: &[(&str, &str)], make: &[&str], note: &[&str]) {
        let pod = json!({"spec": {"resourceClaims": [{"name": "a", "resourceClaimTemplateName": "t"},
            {"name": "b", "resourceClaimName": "shared"}]}, "status": {"resourceClaimStatuses": statuses}});
        let made: Vec<_> = made.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let got = needs(&pod, &made);
        assert_eq!(got.make.iter().map(|t| &*t.name).collect::<Vec<_>>(), make);
        assert_eq!(got.note.iter().map(|(a, b)| format!("{a}={b}")).collect::<Vec<_>>(), note);
    }

    #[test_case(json!({"status": {"allocation": {}}}), false, Some(1); "the first")]
    #[test_case(json!({"status": {"allocation": {}, "reservedFor": [{"uid": "v"}]}}), false, Some(2); "one more")]
    #[test_case(json!({"status": {"allocation": {}, "reservedFor": [{"uid": "u"}]}}), false, None; "known")]
    #[test_case(json!({"status": {}}), false, None; "without devices")]
    #[test_case(json!({"status": {"allocation": {}, "reservedFor": vec![json!({}); 256]}}), false, None; "full")]
    #[test_case(json!({"status": {"allocation": {}}}), true, None; "made for somebody else")]
    #[test_case(json!({"metadata": {"ownerReferences": [{"uid": "u", "controller": true}]}, "status": {"allocation": {}}}), true, Some(1); "made for it")]
    fn a_pod_with_a_node_reserves(claim: Value, made: bool, users: Option<usize>) {
        let pod = json!({"metadata": {"name": "p", "uid": "u"}});
        assert_eq!(reserved_for(&pod, &claim, made).map(|all| all.len()), users);
    }

    fn reserved(names: &[&str]) -> Value {
        names.iter().map(|n| json!({"resource": "pods", "name": n, "uid": format!("u-{n}")})).collect()
    }

    #[test_case(&["runs"], false, json!({"reserved": null, "free": false, "release": false}); "in use")]
    #[test_case(&["runs", "ended"], false, json!({"reserved": ["runs"], "free": false, "release": false}); "by one less")]
    #[test_case(&["ended", "gone"], false, json!({"reserved": [], "free": true, "release": true}); "by nobody any more")]
    #[test_case(&["replaced"], false, json!({"reserved": [], "free": true, "release": true}); "another of that name")]
    #[test_case(&[], false, json!({"reserved": null, "free": false, "release": false}); "not yet")]
    #[test_case(&[], true, json!({"reserved": null, "free": true, "release": true}); "to go")]
    #[test_case(&["runs"], true, json!({"reserved": null, "free": false, "release": false}); "to go but in use")]
    fn claims_give_their_devices_back(names: &[&str], deleting: bool, want: Value) {
        let mut claim = json!({"metadata": {"finalizers": [FINALIZER]},
            "status": {"allocation": {}, "reservedFor": reserved(names)}});
        if deleting {
            claim["metadata"]["deletionTimestamp"] = "now".into();
        }
        let pod = |name: &str| match name {
            "gone" => None,
            "replaced" => Some(("other".to_owned(), false)),
            name => Some((format!("u-{name}"), name == "ended")),
        };
        let got = review(&claim, pod);
        let names = got.reserved.map(|all| all.iter().map(|r| r["name"].clone()).collect::<Vec<_>>());
        assert_eq!(json!({"reserved": names, "free": got.free, "release": got.release}), want);
    }

    #[test_case("u", false, false; "its pod runs")]
    #[test_case("u", true, true; "its pod is done")]
    #[test_case("v", false, true; "its pod is another now")]
    fn a_claim_goes_with_its_pod(uid: &str, done: bool, want: bool) {
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true});
        let claim = json!({"metadata": {"ownerReferences": [owner]}});
        assert_eq!(review(&claim, |_| Some((uid.to_owned(), done))).delete, want);
        assert!(!review(&claim, |_| None).delete, "the garbage collector's");
    }
}
