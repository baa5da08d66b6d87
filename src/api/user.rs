//! Who asks, and what for: the words that authentication, authorization, admission and audit share.

use std::collections::BTreeMap;

/// An authenticated identity, as `user.Info` upstream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserInfo {
    /// Name, as `system:node:n1`.
    pub name: String,
    /// Unique id; empty where the authenticator has none.
    pub uid: String,
    /// Groups, `system:authenticated` or `system:unauthenticated` among them.
    pub groups: Vec<String>,
    /// What else the authenticator knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// Name of those who gave no credentials.
    pub const ANONYMOUS: &'static str = "system:anonymous";
    /// The group that may do everything.
    pub const MASTERS: &'static str = "system:masters";
    /// The group of all who were authenticated.
    pub const AUTHENTICATED: &'static str = "system:authenticated";
    /// The group of all who were not.
    pub const UNAUTHENTICATED: &'static str = "system:unauthenticated";

    /// A user who gave no credentials.
    pub fn anonymous() -> Self {
        Self { name: Self::ANONYMOUS.into(), groups: vec![Self::UNAUTHENTICATED.into()], ..Self::default() }
    }

    /// An authenticated user in `groups`; the group of the authenticated is added.
    pub fn authenticated(name: impl Into<String>, groups: &[&str]) -> Self {
        let groups = groups.iter().copied().chain([Self::AUTHENTICATED]).map(str::to_owned).collect();
        Self { name: name.into(), groups, ..Self::default() }
    }

    /// True when in `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// What a request wants to do, for authorizers. Resource requests have a `resource`; others have only a path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, `impersonate`, …
    pub verb: String,
    /// API group, empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural name; empty for a request that is for no resource.
    pub resource: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Object name, or empty.
    pub name: String,
    /// The URL path.
    pub path: String,
    /// The raw field selector of a list, watch or deletecollection, or empty. Only the Node authorizer and webhooks look at
    /// it.
    pub field_selector: String,
    /// The raw label selector of these, or empty. Only webhooks look at it.
    pub label_selector: String,
}

impl Attributes {
    /// True for a request for a resource.
    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
    }
}

/// An authorizer's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allow,
    /// No, and nobody else is asked.
    Deny(String),
    /// Ask the next one; the reason is shown when nobody allows.
    NoOpinion(String),
}
