//! Conversion by a webhook: what it is asked, and what its answer makes of the objects. Nothing here does IO.
//!
//! **Invariant:** a webhook changes labels, annotations and what is not metadata; the rest of metadata stays as it was.
//! **Invariant:** an answer that does not fit the question converts nothing.
//!
//! Rules: upstream `apiextensions-apiserver/pkg/apiserver/conversion/webhook_converter.go`.

use serde_json::{Value, json};

use crate::api::value::ValueExt;
use crate::registry::errors::FieldErrors;
use crate::registry::meta;
use crate::registry::outward::ClientConfig;

/// The forms of reviews that are spoken.
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];
const GROUP: &str = "apiextensions.k8s.io";

/// Where a definition's versions are converted.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// Where it is.
    pub client: ClientConfig,
    /// The form of reviews it is asked in; none when it names only unknown ones.
    review: Option<&'static str>,
}

impl Webhook {
    /// Of a definition; none where versions are converted by name only.
    pub fn of(crd: &Value) -> Option<Self> {
        let conversion = crd.get_at("/spec/conversion")?;
        if conversion.str_at("/strategy") != Some("Webhook") {
            return None;
        }
        let wanted = conversion.items_at("/webhook/conversionReviewVersions").iter().filter_map(Value::as_str);
        let review = wanted.filter_map(|v| REVIEWS.iter().copied().find(|known| *known == v)).next();
        let client = ClientConfig::of(conversion.get_at("/webhook/clientConfig").unwrap_or(&Value::Null));
        Some(Self { client, review })
    }

    /// What it is asked.
    ///
    /// # Errors
    /// It understands no form of reviews that is known here.
    pub fn review(&self, uid: &str, desired: &str, objects: &[Value]) -> Result<Value, String> {
        let version = self.review.ok_or("no supported conversion review versions")?;
        Ok(json!({"kind": "ConversionReview", "apiVersion": format!("{GROUP}/{version}"),
            "request": {"uid": uid, "desiredAPIVersion": desired, "objects": objects}}))
    }

    /// What its answer makes of `originals`.
    ///
    /// # Errors
    /// Why it cannot be taken, in upstream's words.
    pub fn read(&self, answer: &[u8], uid: &str, desired: &str, originals: &[Value]) -> Result<Vec<Value>, String> {
        let what = originals.first().map(described).unwrap_or_default();
        let failed = |why: String| format!("conversion webhook for {what} failed: {why}");
        let answer: Value = serde_json::from_slice(answer).map_err(|e| failed(e.to_string()))?;
        let objects = self.accepted(answer, uid).map_err(failed)?;
        if objects.len() != originals.len() {
            let (got, expected) = (objects.len(), originals.len());
            return Err(format!("conversion webhook for {what} returned {got} objects, expected {expected}"));
        }
        let fit = |(at, (object, original)): (usize, (Value, &Value))| {
            fitted(object, original, desired).map_err(|misfit| match misfit {
                Misfit::Type(why) => {
                    format!("conversion webhook for {what} returned invalid object at index {at}: {why}")
                }
                Misfit::Object(why) => format!("conversion webhook for {what} returned invalid object: {why}"),
                Misfit::Metadata(why) => format!("conversion webhook for {what} returned invalid metadata: {why}"),
            })
        };
        objects.into_iter().zip(originals).enumerate().map(fit).collect()
    }

    /// The objects of an answer that says it succeeded.
    fn accepted(&self, mut answer: Value, uid: &str) -> Result<Vec<Value>, String> {
        let v1 = self.review == Some("v1");
        let (api_version, kind) =
            (answer.str_at("/apiVersion").unwrap_or_default(), answer.str_at("/kind").unwrap_or_default());
        if v1 && (api_version, kind) != ("apiextensions.k8s.io/v1", "ConversionReview") {
            return Err(format!(
                "expected webhook response of {GROUP}/v1, Kind=ConversionReview, got {api_version}, Kind={kind}"
            ));
        }
        let Some(response) = answer.get_mut("response").filter(|r| r.is_object()) else {
            return Err("no response provided".into());
        };
        let got = response.str_at("/uid").unwrap_or_default();
        if v1 && got != uid {
            return Err(format!("expected response.uid={uid:?}, got {got:?}"));
        }
        match response.str_at("/result/status").unwrap_or_default() {
            "Success" => {}
            status => {
                return Err(match response.str_at("/result/message").unwrap_or_default() {
                    "" => format!("response.result.status was '{status}', not 'Success'"),
                    message => message.to_owned(),
                });
            }
        }
        match response.get_mut("convertedObjects").map(Value::take) {
            Some(Value::Array(objects)) => Ok(objects),
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(_) => Err("response.convertedObjects is no list".into()),
        }
    }
}

/// What does not fit, which upstream tells apart.
enum Misfit {
    Type(String),
    Object(String),
    Metadata(String),
}

/// `group/version, Kind=Kind`.
fn described(object: &Value) -> String {
    let (api_version, kind) =
        (object.str_at("/apiVersion").unwrap_or_default(), object.str_at("/kind").unwrap_or_default());
    format!("{api_version}, Kind={kind}")
}

/// A converted object with the metadata that is not the webhook's to change.
fn fitted(mut object: Value, original: &Value, desired: &str) -> Result<Value, Misfit> {
    let text = |v: &Value, at: &str| v.str_at(at).unwrap_or_default().to_owned();
    let found = text(&object, "/apiVersion");
    if found != desired {
        return Err(Misfit::Type(format!("invalid groupVersion (expected {desired}, received {found})")));
    }
    let (was, is) = (text(original, "/kind"), text(&object, "/kind"));
    if was != is {
        return Err(Misfit::Type(format!("invalid kind (expected {was}, received {is})")));
    }
    for (what, at) in [("name", "/metadata/name"), ("namespace", "/metadata/namespace"), ("UID", "/metadata/uid")] {
        let (was, is) = (text(original, at), text(&object, at));
        if was != is {
            return Err(Misfit::Object(format!("must have the same {what}: {was} != {is}")));
        }
    }
    let Some(Value::Object(theirs)) = object.get("metadata") else {
        return Err(Misfit::Metadata("missing metadata in converted object".into()));
    };
    let mut metadata = original["metadata"].clone();
    for field in ["labels", "annotations"] {
        let pairs = theirs.get(field).filter(|v| !v.is_null());
        let Some(pairs) = pairs else {
            metadata.as_object_mut().map(|m| m.shift_remove(field));
            continue;
        };
        check_pairs(field, pairs, &original["metadata"][field]).map_err(Misfit::Metadata)?;
        metadata[field] = pairs.clone();
    }
    if let Some(map) = metadata.as_object_mut() {
        meta::order(map);
    }
    object["metadata"] = metadata;
    Ok(object)
}

fn check_pairs(field: &str, pairs: &Value, before: &Value) -> Result<(), String> {
    let Some(map) = pairs.as_object() else {
        return Err(format!("invalid metadata.{field} in converted object: it is no map"));
    };
    if let Some((key, _)) = map.iter().find(|(_, v)| !v.is_string()) {
        return Err(format!("metadata.{field}[{key}] must be a string in converted object"));
    }
    if pairs == before {
        return Ok(());
    }
    let errs = FieldErrors::new();
    let at = errs.at("metadata").at(field);
    if field == "labels" {
        meta::validate_labels(pairs, &at)
    } else {
        meta::validate_annotations(pairs, &at)
    }
    match errs.take().first() {
        Some(cause) => Err(format!("{}: {}", cause.field, cause.message)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn webhook(reviews: Value) -> Webhook {
        Webhook::of(&json!({"spec": {"conversion": {"strategy": "Webhook", "webhook": {
            "conversionReviewVersions": reviews, "clientConfig": {"url": "https://h/c"}}}}}))
        .unwrap()
    }

    fn original() -> Value {
        json!({"apiVersion": "x.io/v1", "kind": "W", "spec": {"a": 1},
            "metadata": {"name": "w", "namespace": "n", "uid": "u", "generation": 3, "labels": {"a": "b"}}})
    }

    fn answered(change: Value, response: Value) -> Result<Value, String> {
        let mut object = json!({"apiVersion": "x.io/v2", "kind": "W", "spec": {"b": 1},
            "metadata": {"name": "w", "namespace": "n", "uid": "u"}});
        crate::api::patch::merge::apply(object.clone(), change).map(|o| object = o).unwrap();
        let mut review = json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1",
            "response": {"uid": "1", "result": {"status": "Success"}, "convertedObjects": [object]}});
        crate::api::patch::merge::apply(review.clone(), response).map(|r| review = r).unwrap();
        let w = webhook(json!(["v9", "v1", "v1beta1"]));
        let made = w.read(review.to_string().as_bytes(), "1", "x.io/v2", &[original()]);
        made.map(|mut all| all.remove(0))
            .map_err(|e| e.trim_start_matches("conversion webhook for x.io/v1, Kind=W ").to_owned())
    }

    #[test]
    fn metadata_stays_but_for_labels_and_annotations() {
        let change = json!({"metadata": {"generation": 9, "finalizers": ["x"], "annotations": {"k": "v"}}});
        let made = answered(change, json!({})).unwrap();
        let wanted = json!({"name": "w", "namespace": "n", "uid": "u", "generation": 3, "annotations": {"k": "v"}});
        assert_eq!((&made["metadata"], &made["spec"]), (&wanted, &json!({"b": 1})));
    }

    #[test_case(json!({"apiVersion": "x.io/v3"}), json!({}) => "returned invalid object at index 0: invalid groupVersion (expected x.io/v2, received x.io/v3)"; "version")]
    #[test_case(json!({"kind": "V"}), json!({}) => "returned invalid object at index 0: invalid kind (expected W, received V)"; "kind")]
    #[test_case(json!({"metadata": {"name": "x"}}), json!({}) => "returned invalid object: must have the same name: w != x"; "name")]
    #[test_case(json!({"metadata": {"uid": null}}), json!({}) => "returned invalid object: must have the same UID: u != "; "uid")]
    #[test_case(json!({"metadata": {"labels": {"a": 1}}}), json!({}) => "returned invalid metadata: metadata.labels[a] must be a string in converted object"; "label")]
    #[test_case(json!({}), json!({"response": {"uid": "2"}}) => "failed: expected response.uid=\"1\", got \"2\""; "other question")]
    #[test_case(json!({}), json!({"response": {"result": {"status": "Failure", "message": "no"}}}) => "failed: no"; "refused")]
    #[test_case(json!({}), json!({"response": {"result": {"status": "Failure"}}}) => "failed: response.result.status was 'Failure', not 'Success'"; "no reason")]
    #[test_case(json!({}), json!({"response": {"convertedObjects": []}}) => "returned 0 objects, expected 1"; "too few")]
    #[test_case(json!({}), json!({"response": null}) => "failed: no response provided"; "nothing")]
    #[test_case(json!({}), json!({"kind": "Pod"}) => "failed: expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got apiextensions.k8s.io/v1, Kind=Pod"; "another kind")]
    fn lies(change: Value, response: Value) -> String {
        answered(change, response).unwrap_err()
    }

    #[test]
    fn bad_labels_are_found() {
        let why = answered(json!({"metadata": {"labels": {"a": "-"}}}), json!({})).unwrap_err();
        assert!(why.starts_with("returned invalid metadata: metadata.labels: "), "{why}");
    }

    #[test]
    fn the_first_known_form_is_asked() {
        let version = |reviews| webhook(reviews).review("u", "x.io/v2", &[]).map(|r| r["apiVersion"].clone());
        assert_eq!(version(json!(["v9", "v1beta1", "v1"])), Ok(json!("apiextensions.k8s.io/v1beta1")));
        assert!(version(json!(["v9"])).is_err());
    }
}
