//! Parameters of requests, and their query form.

use serde_json::{Map, Value, json};

use super::res;

/// What to list or watch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListOptions {
    /// Label selector in query form; empty means all.
    pub label_selector: String,
    /// Field selector in query form; empty means all.
    pub field_selector: String,
    /// Most items of one answer; 0 means all.
    pub limit: u32,
    /// Where the previous answer ended.
    pub continue_token: String,
    /// Revision to list at, or to watch from; empty means the newest.
    pub resource_version: String,
    /// `NotOlderThan` or `Exact`; empty means unset.
    pub resource_version_match: &'static str,
    /// Ask for bookmarks (watch).
    pub allow_bookmarks: bool,
    /// Begin a watch with the present objects and a bookmark after them.
    pub send_initial_events: bool,
    /// Seconds after which the server ends the answer; 0 means its default.
    pub timeout_seconds: u32,
}

impl ListOptions {
    /// Those that a label selector matches.
    pub fn labels(selector: impl Into<String>) -> Self {
        Self { label_selector: selector.into(), ..Self::default() }
    }

    /// Those that a field selector matches.
    pub fn fields(selector: impl Into<String>) -> Self {
        Self { field_selector: selector.into(), ..Self::default() }
    }

    pub(super) fn query(&self, watch: bool) -> Query {
        let mut q = Query::default();
        q.text("labelSelector", &self.label_selector);
        q.text("fieldSelector", &self.field_selector);
        q.number("limit", self.limit);
        q.text("continue", &self.continue_token);
        q.text("resourceVersion", &self.resource_version);
        q.text("resourceVersionMatch", self.resource_version_match);
        q.number("timeoutSeconds", self.timeout_seconds);
        q.flag("allowWatchBookmarks", self.allow_bookmarks);
        q.flag("sendInitialEvents", self.send_initial_events);
        q.flag("watch", watch);
        q
    }
}

/// What happens to dependents of a deleted object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They stay, without this owner.
    Orphan,
    /// They go after it.
    Background,
    /// They go before it.
    Foreground,
}

impl Propagation {
    /// Upstream's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Orphan => "Orphan",
            Self::Background => "Background",
            Self::Foreground => "Foreground",
        }
    }
}

/// How to delete.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeleteOptions {
    /// Seconds of grace; `None` for the kind's (or the pod's) own.
    pub grace: Option<i64>,
    /// Only when the object has this uid.
    pub uid: Option<String>,
    /// Only when the object is at this revision.
    pub resource_version: Option<String>,
    /// What happens to dependents; `None` for the kind's default.
    pub propagation: Option<Propagation>,
    /// Check everything, delete nothing.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Only the object with this uid.
    pub fn of_uid(uid: impl Into<String>) -> Self {
        Self { uid: Some(uid.into()), ..Self::default() }
    }

    /// The `metav1.DeleteOptions` to send.
    pub fn to_value(&self) -> Value {
        let mut body = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        let mut preconditions = Map::new();
        for (key, value) in [("uid", &self.uid), ("resourceVersion", &self.resource_version)] {
            if let Some(v) = value {
                preconditions.insert(key.into(), v.as_str().into());
            }
        }
        if let Some(seconds) = self.grace {
            body["gracePeriodSeconds"] = seconds.into();
        }
        if !preconditions.is_empty() {
            body["preconditions"] = preconditions.into();
        }
        if let Some(p) = self.propagation {
            body["propagationPolicy"] = p.as_str().into();
        }
        if self.dry_run {
            body["dryRun"] = json!(["All"]);
        }
        body
    }
}

/// How writes of a client are made; a property of the client, not of each call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WriteOptions {
    /// Who owns the fields written; empty leaves it to the server, which takes the user agent.
    pub field_manager: String,
    /// `Ignore`, `Warn` or `Strict`; empty leaves it to the server.
    pub field_validation: String,
    /// Check everything, write nothing.
    pub dry_run: bool,
}

impl WriteOptions {
    pub(super) fn query(&self) -> Query {
        let mut q = Query::default();
        q.text("fieldManager", &self.field_manager);
        q.text("fieldValidation", &self.field_validation);
        q.text("dryRun", if self.dry_run { "All" } else { "" });
        q
    }
}

/// A patch and its media type.
#[derive(Debug, Clone, Copy)]
pub enum Patch<'a> {
    /// RFC 6902.
    Json(&'a Value),
    /// RFC 7386.
    Merge(&'a Value),
    /// Strategic merge; built-in kinds only.
    Strategic(&'a Value),
    /// Server-side apply.
    Apply {
        /// The intent: the fields the manager wants, with apiVersion, kind and name.
        body: &'a Value,
        /// Who wants it.
        manager: &'a str,
        /// Take fields over from others.
        force: bool,
    },
}

impl<'a> Patch<'a> {
    pub(super) fn media_type(&self) -> &'static str {
        match self {
            Self::Json(_) => "application/json-patch+json",
            Self::Merge(_) => "application/merge-patch+json",
            Self::Strategic(_) => "application/strategic-merge-patch+json",
            Self::Apply { .. } => "application/apply-patch+yaml",
        }
    }

    pub(super) fn body(&self) -> &'a Value {
        match self {
            Self::Json(body) | Self::Merge(body) | Self::Strategic(body) | Self::Apply { body, .. } => body,
        }
    }
}

/// A query string under construction; empty values are left out.
#[derive(Debug, Default)]
pub(super) struct Query(String);

impl Query {
    pub(super) fn text(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            self.0.push(if self.0.is_empty() { '?' } else { '&' });
            self.0.push_str(key);
            self.0.push('=');
            res::encode(&mut self.0, value);
        }
    }

    fn number(&mut self, key: &str, value: u32) {
        if value != 0 {
            self.text(key, &value.to_string());
        }
    }

    pub(super) fn flag(&mut self, key: &str, value: bool) {
        if value {
            self.text(key, "true");
        }
    }

    pub(super) fn after(&self, path: String) -> String {
        path + &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_set_is_sent() {
        let options =
            ListOptions { resource_version: "7".into(), allow_bookmarks: true, ..ListOptions::labels("a in (b, c)") };
        assert_eq!(
            options.query(true).after("/x".into()),
            "/x?labelSelector=a%20in%20%28b%2C%20c%29&resourceVersion=7&allowWatchBookmarks=true&watch=true"
        );
        assert_eq!(ListOptions::default().query(false).after("/x".into()), "/x");
    }

    #[test]
    fn preconditions_and_policy_are_told() {
        let options =
            DeleteOptions { propagation: Some(Propagation::Background), grace: Some(0), ..DeleteOptions::of_uid("u") };
        assert_eq!(
            options.to_value(),
            json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0,
                "preconditions": {"uid": "u"}, "propagationPolicy": "Background"})
        );
    }
}
