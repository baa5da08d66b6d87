//! CSIDriver, CSINode and CSIStorageCapacity.
//!
//! Rules: upstream `pkg/apis/storage/validation`.

use serde_json::Value;

use crate::api::meta::names;
use crate::api::meta::quantity::Quantity;
use crate::api::value::ValueExt;
use crate::registry::strategy::HookCx;
use crate::registry::validate::Field;
use crate::registry::validate::labels::selector;
use crate::registry::validate::volume_sources::csi_driver;

/// Longest id of a node within a driver, bytes.
const NODE_ID_MAX: usize = 192;
/// Shortest and longest life of a token, seconds.
const TOKEN_SECONDS: (i64, i64) = (600, 1 << 32);
/// Shortest time between two reports of what a node can attach, seconds.
const UPDATE_SECONDS_MIN: i64 = 10;

/// Tokens that drivers get among the attributes of volumes end in logs. An update is warned of where it makes it so.
pub fn warn_driver(o: &Value, old: Option<&Value>) -> Vec<String> {
    let leaks = |o: &Value| {
        let unset = o.get_at("/spec/serviceAccountTokenInSecrets").is_none_or(Value::is_null);
        (unset, o.items_at("/spec/tokenRequests").to_vec())
    };
    let now = leaks(o);
    if !now.0 || now.1.is_empty() || old.is_some_and(|old| leaks(old) == now) {
        return Vec::new();
    }
    vec!["spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes".to_owned()]
}

/// Create and update of a CSIDriver.
pub fn check_driver(o: &Field<'_>, old: Option<&Value>, _cx: &HookCx<'_>) {
    let spec = o.at("spec");
    for field in ["attachRequired", "podInfoOnMount", "storageCapacity", "fsGroupPolicy"] {
        if !spec.has(field) {
            spec.errs.at(field).required("");
        }
    }
    spec.optional_one_of("fsGroupPolicy", &["File", "None", "ReadWriteOnceWithFSType"]);
    for mode in spec.items("volumeLifecycleModes") {
        if !matches!(mode.as_text(), "Persistent" | "Ephemeral") {
            spec.errs.at("volumeLifecycleModes").not_supported(mode.as_text(), &["Ephemeral", "Persistent"]);
        }
    }
    let mut audiences = Vec::new();
    for request in spec.items("tokenRequests") {
        let audience = request.text("audience");
        if audiences.contains(&audience) {
            request.errs.at("audience").duplicate(audience);
        }
        audiences.push(audience);
        if let Some(seconds) = request.int("expirationSeconds") {
            if seconds < TOKEN_SECONDS.0 {
                request.at("expirationSeconds").invalid("may not specify a duration less than 10 minutes");
            } else if seconds > TOKEN_SECONDS.1 {
                request.at("expirationSeconds").invalid("may not specify a duration larger than 2^32 seconds");
            }
        }
    }
    let period = spec.int("nodeAllocatableUpdatePeriodSeconds");
    if period.is_some_and(|s| s < UPDATE_SECONDS_MIN) {
        spec.at("nodeAllocatableUpdatePeriodSeconds").invalid("must be greater than or equal to 10 seconds");
    }
    if let Some(old) = old {
        // Upstream spells the first one so.
        for (field, told) in [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")]
        {
            if spec.value.get(field) != old["spec"].get(field) {
                spec.errs.at(told).invalid(spec.at(field).value.clone(), "field is immutable");
            }
        }
    }
}

/// Create and update of a CSINode.
pub fn check_node(o: &Field<'_>, old: Option<&Value>, _cx: &HookCx<'_>) {
    let spec = o.at("spec");
    let mut seen = Vec::new();
    for driver in spec.items("drivers") {
        csi_driver(&driver, "name");
        if driver.needs("nodeID") && driver.text("nodeID").len() > NODE_ID_MAX {
            driver.at("nodeID").invalid(format!("must be {NODE_ID_MAX} characters or less"));
        }
        let name = driver.text("name");
        if seen.contains(&name) {
            driver.errs.at("name").duplicate(name);
        }
        seen.push(name);
        driver.at("allocatable").not_negative("count");
        let mut keys = Vec::new();
        for key in driver.items("topologyKeys") {
            let key = key.as_text();
            if key.is_empty() {
                driver.errs.required("");
            }
            if keys.contains(&key) {
                driver.errs.duplicate(key);
            }
            keys.push(key);
            driver.errs.all_invalid(key, names::qualified_name(key));
        }
    }
    let Some(old) = old else { return };
    // Drivers come and go; what one told of the node stays, but for how much it can attach.
    let fixed = |d: &Value| {
        let mut d = d.clone();
        d.remove_at("/allocatable");
        d
    };
    for was in old.items_at("/spec/drivers") {
        let same = |d: &&Value| d.get("name") == was.get("name");
        if let Some(now) = o.value.items_at("/spec/drivers").iter().find(same)
            && fixed(now) != fixed(was)
        {
            spec.at("drivers").invalid("field is immutable");
        }
    }
}

/// Create and update of a CSIStorageCapacity.
pub fn check_capacity(o: &Field<'_>, old: Option<&Value>, _cx: &HookCx<'_>) {
    selector(&o.at("nodeTopology"));
    o.errs
        .at("storageClassName")
        .all_invalid(o.text("storageClassName"), names::dns1123_subdomain(o.text("storageClassName")));
    for amount in ["capacity", "maximumVolumeSize"] {
        if Quantity::parse(o.text(amount)).is_ok_and(|q| q.is_negative()) {
            o.at(amount).invalid("must be greater than or equal to 0");
        }
    }
    if let Some(old) = old {
        o.immutable("nodeTopology", old);
        o.immutable("storageClassName", old);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    fn driver(spec: Value) -> Value {
        json!({ "spec": spec })
    }

    #[test_case(json!({"tokenRequests": [{"audience": "a"}]}), None, 1; "created")]
    #[test_case(json!({"tokenRequests": [{"audience": "a"}], "serviceAccountTokenInSecrets": false}), None, 0; "somebody has thought of it")]
    #[test_case(json!({"tokenRequests": [{"audience": "a"}], "podInfoOnMount": true}), Some(json!({"tokenRequests": [{"audience": "a"}]})), 0; "something else changed")]
    #[test_case(json!({"tokenRequests": [{"audience": "b"}]}), Some(json!({"tokenRequests": [{"audience": "a"}]})), 1; "other tokens")]
    #[test_case(json!({}), Some(json!({"tokenRequests": [{"audience": "a"}]})), 0; "no tokens any more")]
    fn warnings(new: Value, old: Option<Value>, want: usize) {
        assert_eq!(warn_driver(&driver(new), old.map(driver).as_ref()).len(), want);
    }
}
