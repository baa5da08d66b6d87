//! Why a pull failed; and how far the pulls of our own containerd have come.

use std::path::Path;
use std::time::Duration;

use super::import::namespaced;
use crate::kubelet::cri::proto::content as pb;
use crate::kubelet::cri::proto::content::content_client::ContentClient;
use crate::kubelet::cri::{call, channel};
use crate::kubelet::runtime::{Result, RuntimeError};

/// A failed pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullFailure {
    /// The name cannot be one of an image.
    InvalidName(String),
    /// The registry has no such image, or none for this platform.
    NotFound(String),
    /// The registry wants other credentials.
    Denied(String),
    /// The registry cannot be reached.
    Unreachable(String),
    /// Anything else.
    Other(String),
}

impl PullFailure {
    /// Sorts a runtime's error; its words are all there is to go by.
    pub fn of(error: &RuntimeError) -> Self {
        let text = error.to_string();
        let has = |words: &[&str]| words.iter().any(|w| text.contains(w));
        if has(&["invalid reference format", "repository name must be"]) {
            Self::InvalidName(text)
        } else if has(&[
            "401",
            "403",
            "unauthorized",
            "authorization failed",
            "Forbidden",
            "denied",
            "basic credentials",
        ]) {
            Self::Denied(text)
        } else if matches!(error, RuntimeError::NotFound(_))
            || has(&["not found", "manifest unknown", "no match for platform"])
        {
            Self::NotFound(text)
        } else if has(&[
            "dial tcp",
            "no such host",
            "i/o timeout",
            "connection refused",
            "TLS handshake",
            "unexpected EOF",
        ]) {
            Self::Unreachable(text)
        } else {
            Self::Other(text)
        }
    }

    /// For people: what it means, then the runtime's words.
    pub fn told(&self) -> String {
        match self {
            Self::NotFound(text) => format!("the registry has no such image, or none for this machine ({text})"),
            Self::Denied(text) => format!("the registry wants other credentials, see --creds ({text})"),
            Self::Unreachable(text) => format!("the registry cannot be reached ({text})"),
            Self::InvalidName(text) | Self::Other(text) => text.clone(),
        }
    }
}

/// Bytes fetched and bytes in all of the downloads under way in a containerd, all pulls together; CRI itself tells
/// nothing of a pull before its end.
pub async fn progress(socket: &Path) -> Result<(u64, u64)> {
    let mut client = ContentClient::new(channel(socket));
    let asked = namespaced(pb::ListStatusesRequest { filters: Vec::new() }, None);
    let answer = call("list downloads", Duration::from_secs(5), client.list_statuses(asked)).await?;
    let sum = |of: fn(&pb::Status) -> i64| answer.statuses.iter().map(|s| u64::try_from(of(s)).unwrap_or(0)).sum();
    Ok((sum(|s| s.offset), sum(|s| s.total)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("failed to resolve reference \"r.test/a:1\": r.test/a:1: not found" => "NotFound"; "no such tag")]
    #[test_case("pull access denied, repository does not exist or may require authorization: authorization failed" => "Denied"; "no such repository")]
    #[test_case("unexpected status code [manifests 1]: 401 Unauthorized" => "Denied"; "credentials")]
    #[test_case("dial tcp: lookup r.test: no such host" => "Unreachable"; "name")]
    #[test_case("dial tcp 127.0.0.1:1: connect: connection refused" => "Unreachable"; "port")]
    #[test_case("failed to parse image reference: invalid reference format" => "InvalidName"; "reference")]
    #[test_case("no space left on device" => "Other"; "disk")]
    fn failures(text: &str) -> &'static str {
        match PullFailure::of(&RuntimeError::Failed(text.into())) {
            PullFailure::InvalidName(_) => "InvalidName",
            PullFailure::NotFound(_) => "NotFound",
            PullFailure::Denied(_) => "Denied",
            PullFailure::Unreachable(_) => "Unreachable",
            PullFailure::Other(_) => "Other",
        }
    }
}
