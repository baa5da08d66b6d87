//! Group, version, kind and resource.

use std::borrow::Cow;
use std::fmt;

/// A text that is static for built-in kinds and owned for those of CustomResourceDefinitions.
pub type Str = Cow<'static, str>;

/// Group, version and kind; the core group is empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvk {
    /// API group, empty for core.
    pub group: Str,
    /// Version, as `v1`.
    pub version: Str,
    /// Kind, as `Pod`.
    pub kind: Str,
}

impl Gvk {
    /// A static one.
    pub const fn new(group: &'static str, version: &'static str, kind: &'static str) -> Self {
        Self { group: Cow::Borrowed(group), version: Cow::Borrowed(version), kind: Cow::Borrowed(kind) }
    }

    /// `group/version`, or `version` for core.
    pub fn api_version(&self) -> String {
        join(&self.group, &self.version)
    }
}

impl fmt::Display for Gvk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, Kind={}", join(&self.group, &self.version), self.kind)
    }
}

/// Group and plural name: what is stored under one prefix and watched as one stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupResource {
    /// API group, empty for core.
    pub group: Str,
    /// Plural name, as `pods`.
    pub resource: Str,
}

impl GroupResource {
    /// A static one.
    pub const fn new(group: &'static str, resource: &'static str) -> Self {
        Self { group: Cow::Borrowed(group), resource: Cow::Borrowed(resource) }
    }
}

impl fmt::Display for GroupResource {
    /// `deployments.apps`, `pods`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.group {
            "" => f.write_str(&self.resource),
            group => write!(f, "{}.{group}", self.resource),
        }
    }
}

/// `group/version`, or `version` for the core group.
pub fn join(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// The reverse of [`join`]: group and version.
pub fn split(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}
