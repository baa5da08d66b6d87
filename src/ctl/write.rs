//! What all writing verbs share: the flags of a write, and the requests.

use std::time::Duration;

use http::Method;
use serde_json::Value;

use super::builder::Info;
use super::cx::{Call, Cx, Done};
use super::fail::Failure;
use super::print::DryRun;
use crate::api::patch::{three_way, three_way_merge};
use crate::api::schema::{self, View, table};
use crate::api::value::ValueExt;
use crate::client::Res;

/// Media type of a strategic merge patch.
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
/// Media type of a merge patch.
pub const MERGE: &str = "application/merge-patch+json";
/// Media type of a JSON patch.
pub const JSON: &str = "application/json-patch+json";
/// Media type of an apply.
pub const APPLY: &str = "application/apply-patch+yaml";

/// Where `apply` keeps what it applied last.
pub const LAST_APPLIED: &str = "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration";

/// The flag of what can be tried.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DryRunFlag {
    /// none, client (send nothing) or server (store nothing)
    #[arg(long, value_parser = DryRun::parse, num_args = 0..=1, require_equals = true, default_value = "none", default_missing_value = "unchanged", hide_default_value = true)]
    pub dry_run: DryRun,
}

/// Flags of a write.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct WriteFlags {
    /// none, client (send nothing) or server (store nothing)
    #[arg(long, value_parser = DryRun::parse, num_args = 0..=1, require_equals = true, default_value = "none", default_missing_value = "unchanged", hide_default_value = true)]
    pub dry_run: DryRun,
    /// Name of the owner of the fields that are written
    #[arg(long, default_value = "", hide_default_value = true)]
    pub field_manager: String,
}

/// The flag of verbs that send whole objects.
#[derive(Debug, Clone, clap::Args)]
pub struct ValidateFlag {
    /// strict, warn or ignore unknown and duplicate fields
    #[arg(long, value_parser = validation, num_args = 0..=1, require_equals = true, default_value = "strict", default_missing_value = "strict")]
    pub validate: &'static str,
}

/// A write's flags with the verb's own name as the default owner.
#[derive(Debug, Clone)]
pub struct Writer {
    /// Whether it is only tried.
    pub dry_run: DryRun,
    /// Who owns what is written.
    pub manager: String,
    /// `Strict`, `Warn` or `Ignore`; empty leaves it to the server.
    pub validation: &'static str,
}

impl WriteFlags {
    /// With the default owner of the verb.
    pub fn writer(&self, manager: &str) -> Writer {
        let manager = if self.field_manager.is_empty() { manager } else { &self.field_manager };
        Writer { dry_run: self.dry_run, manager: manager.to_owned(), validation: "" }
    }
}

/// `--validate`: strict, warn, ignore, and the old true and false.
fn validation(text: &str) -> Result<&'static str, String> {
    match text {
        "" | "strict" | "true" => Ok("Strict"),
        "warn" => Ok("Warn"),
        "ignore" | "false" => Ok("Ignore"),
        other => Err(format!(
            "invalid - validate option {other:?}; must be one of: strict (or true), warn, ignore (or false)"
        )),
    }
}

impl Writer {
    fn call<'a>(&self, method: Method, path: String) -> Call<'a> {
        Call::new(method, path)
            .query("dryRun", self.dry_run.query())
            .query("fieldManager", &self.manager)
            .query("fieldValidation", self.validation)
    }

    /// Creates.
    pub async fn create(&self, cx: &Cx, res: &Res, ns: &str, object: &Value) -> Done<Value> {
        if self.dry_run.is_client() {
            return Ok(object.clone());
        }
        cx.call(self.call(Method::POST, res.collection(ns)).body(object)).await
    }

    /// Replaces the object, or a subresource.
    pub async fn update(&self, cx: &Cx, info: &Info, sub: Option<&str>, object: &Value) -> Done<Value> {
        if self.dry_run.is_client() {
            return Ok(object.clone());
        }
        cx.call(self.call(Method::PUT, info.path(sub)).body(object)).await
    }

    /// Patches; gives `info.object` back when nothing is sent.
    pub async fn patch(&self, cx: &Cx, info: &Info, sub: Option<&str>, media: &str, patch: &Value) -> Done<Value> {
        if self.dry_run.is_client() {
            return Ok(info.object.clone());
        }
        cx.call(self.call(Method::PATCH, info.path(sub)).media(media).body(patch)).await
    }

    /// Brings the object on the server from `info.object` to `wanted`, with a patch of what differs.
    /// `None` when nothing does.
    pub async fn bring(&self, cx: &Cx, info: &Info, wanted: &Value) -> Done<Option<Value>> {
        let (media, patch) = difference(&info.object, wanted, &info.object);
        if patch.as_object().is_none_or(serde_json::Map::is_empty) {
            return Ok(None);
        }
        if self.dry_run.is_client() {
            return Ok(Some(wanted.clone()));
        }
        self.patch(cx, info, None, media, &patch).await.map(Some)
    }

    /// Server-side apply, to the object or a subresource.
    pub async fn apply(&self, cx: &Cx, info: &Info, sub: Option<&str>, force: bool) -> Done<Value> {
        let call = self.call(Method::PATCH, info.path(sub)).media(APPLY).body(&info.object);
        cx.call(call.query("force", if force { "true" } else { "false" })).await
    }
}

/// The object as Go's typed clients would write it: with the structs and zero values that their types always have
/// (`status: {}`, `resources: {}`), which shows where nothing is sent and the object itself is printed.
pub fn as_typed(object: Value) -> Value {
    let (group, version) = crate::api::meta::gvk::split(object.str_at("/apiVersion").unwrap_or_default());
    let Some(def) = table().kind(group, version, object.str_at("/kind").unwrap_or_default()) else { return object };
    // What the server would refuse, it shall refuse itself.
    schema::canonicalize(object.clone(), def).map_or(object, |canonical| canonical.value)
}

/// The patch from `original` to `modified` for what the server has: strategic for kinds whose types are known.
pub fn difference(original: &Value, modified: &Value, current: &Value) -> (&'static str, Value) {
    let api_version = modified.str_at("/apiVersion").unwrap_or_default();
    let (group, version) = crate::api::meta::gvk::split(api_version);
    match table().kind(group, version, modified.str_at("/kind").unwrap_or_default()) {
        Some(def) => (STRATEGIC, three_way(original, modified, current, View::of(def))),
        None => (MERGE, three_way_merge(original, modified, current)),
    }
}

/// The JSON that is kept for a later `apply`: the object without the annotation itself.
pub fn last_applied(object: &Value) -> String {
    let mut object = object.clone();
    object.remove_at(LAST_APPLIED);
    super::print::escape_html(&super::print::sorted(&object).to_string()) + "\n"
}

/// The object with the annotation of what was applied. `apply` keeps a map of annotations, empty or not.
pub fn with_last_applied(object: &Value) -> Value {
    let mut object = object.clone();
    object.set_if_absent("/metadata/annotations", Value::Object(serde_json::Map::new()));
    with_saved_config(&object)
}

/// The object with the annotation that `--save-config` asks for.
pub fn with_saved_config(object: &Value) -> Value {
    let mut annotated = object.clone();
    annotated.set_at(LAST_APPLIED, last_applied(object));
    annotated
}

/// Checks a flag's duration while the command line is read.
pub fn duration_text(text: &str) -> Result<String, String> {
    duration(text).map(|_| text.to_owned()).map_err(|_| format!("time: invalid duration {text:?}"))
}

/// Parses Go's durations (`1h30m`, `10s`, `500ms`) and plain seconds; `None` for negative ones.
pub fn duration(text: &str) -> Done<Option<Duration>> {
    let bad = || Failure::Plain(format!("invalid duration {text:?}: give it as 10s, 2m or 1h30m"));
    if let Ok(seconds) = text.parse::<i64>() {
        return Ok(u64::try_from(seconds).ok().map(Duration::from_secs));
    }
    let nanos = crate::api::schema::time::parse_duration(text).ok_or_else(bad)?;
    Ok(u64::try_from(nanos).ok().map(Duration::from_nanos))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    #[test]
    fn typed_objects_have_what_types_always_have() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
        let typed = as_typed(pod);
        assert_eq!((&typed["status"], &typed["spec"]["containers"][0]["resources"]), (&json!({}), &json!({})));
        let own = json!({"apiVersion": "x.io/v1", "kind": "X", "spec": {"l": [1]}});
        assert_eq!(as_typed(own.clone()), own);
    }

    #[test]
    fn the_kept_json_is_sorted_and_without_itself() {
        let object = json!({"kind": "X", "apiVersion": "v1", "metadata": {"name": "a"}});
        let annotated = with_last_applied(&object);
        let want = "{\"apiVersion\":\"v1\",\"kind\":\"X\",\"metadata\":{\"annotations\":{},\"name\":\"a\"}}\n";
        assert_eq!(annotated.str_at(LAST_APPLIED), Some(want));
        assert_eq!(last_applied(&annotated), want);
        assert!(!last_applied(&object).contains("annotations"));
    }

    #[test]
    fn strategic_for_what_is_known_merge_for_the_rest() {
        let pod = |image: &str| json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "c", "image": image}]}});
        let (media, patch) = difference(&pod("a"), &pod("b"), &pod("a"));
        assert_eq!(media, STRATEGIC);
        assert_eq!(patch["spec"]["containers"], json!([{"name": "c", "image": "b"}]));
        let own = |n: i64| json!({"apiVersion": "x.io/v1", "kind": "X", "spec": {"l": [n]}});
        assert_eq!(difference(&own(1), &own(2), &own(1)), (MERGE, json!({"spec": {"l": [2]}})));
        let gone = json!({"apiVersion": "x.io/v1", "kind": "X"});
        assert_eq!(difference(&own(1), &gone, &own(1)).1, json!({"spec": null}));
    }

    #[test_case("10s", Some(10_000))]
    #[test_case("1m30s", Some(90_000))]
    #[test_case("500ms", Some(500))]
    #[test_case("7", Some(7000); "plain seconds")]
    #[test_case("-1s", None; "negative is for ever")]
    fn durations(text: &str, millis: Option<u64>) {
        assert_eq!(duration(text).unwrap(), millis.map(Duration::from_millis));
    }
}
