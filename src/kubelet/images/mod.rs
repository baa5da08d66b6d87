//! Images on a node: names, archives in and out, what is there from the start, pull failures, garbage.
//!
//! **Invariant:** what is imported is checked against its digests by the content store before it gets a name.

mod archive;
mod cleaner;
mod gc;
mod import;
mod layout;
mod names;
mod preload;
mod pull;

pub use self::archive::{Archive, Entry};
pub use self::cleaner::Cleaner;
pub use self::gc::{GcPolicy, ImageUse, Plan, plan};
pub use self::import::{ImportError, Imported, Progress, import};
pub(crate) use self::names::rename;
pub use self::preload::{Pins, Preload};
pub use self::pull::{PullFailure, progress};

use std::borrow::Cow;

/// Domain of names that have none, and the path of official images there: the rule by which containerd, Docker and
/// kubelet expand `busybox` (distribution's `ParseNormalizedNamed`).
const DEFAULT_DOMAIN: &str = "docker.io";
const OFFICIAL: &str = "library";
/// Longest name, characters.
const NAME_LIMIT: usize = 255;

/// This machine's architecture as Go and OCI call it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The full form of an image reference: with domain, and with a tag or a digest.
///
/// Errors: what is wrong with it, in upstream's words.
pub fn normalize(reference: &str) -> Result<String, String> {
    let invalid = || format!("couldn't parse image name {reference:?}: invalid reference format");
    let (name, digest) = match reference.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (reference, None),
    };
    if let Some(digest) = digest {
        let hex = digest.strip_prefix("sha256:").ok_or_else(invalid)?;
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(invalid());
        }
    }
    // A colon after the last slash separates the tag; one before it belongs to a port.
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    };
    if tag.is_some_and(|t| !is_tag(t)) {
        return Err(invalid());
    }
    let (domain, rest): (&str, Cow<'_, str>) = match path.split_once('/') {
        Some((first, rest)) if is_domain(first) => (first, rest.into()),
        Some(_) => (DEFAULT_DOMAIN, path.into()),
        None => (DEFAULT_DOMAIN, format!("{OFFICIAL}/{path}").into()),
    };
    if rest.chars().any(|c| c.is_ascii_uppercase()) {
        return Err(format!(
            "couldn't parse image name {reference:?}: invalid reference format: repository name ({rest}) must be lowercase"
        ));
    }
    if !rest.split('/').all(is_component) || domain.len() + rest.len() > NAME_LIMIT {
        return Err(invalid());
    }
    Ok(match (tag, digest) {
        // A tag beside a digest says nothing.
        (_, Some(digest)) => format!("{domain}/{rest}@{digest}"),
        (tag, None) => format!("{domain}/{rest}:{}", tag.unwrap_or("latest")),
    })
}

fn is_domain(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.chars().any(|c| c.is_ascii_uppercase())
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut bytes = tag.bytes();
    bytes.next().is_some_and(word) && tag.len() <= 128 && bytes.all(|b| word(b) || b == b'.' || b == b'-')
}

/// Lowercase letters and digits, joined by one dot, one or two underscores, or dashes.
fn is_component(component: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = component.split(alphanumeric).filter(|s| !s.is_empty());
    component.starts_with(alphanumeric)
        && component.ends_with(alphanumeric)
        && separators.into_iter().all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

/// `sha256:…` of some bytes.
fn digest(bytes: &[u8]) -> String {
    named_digest(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
}

fn named_digest(sha256: &[u8]) -> String {
    use std::fmt::Write;
    sha256.iter().fold(String::from("sha256:"), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("busybox" => "docker.io/library/busybox:latest")]
    #[test_case("busybox:1.36" => "docker.io/library/busybox:1.36")]
    #[test_case("team/web" => "docker.io/team/web:latest")]
    #[test_case("localhost/web:v1" => "localhost/web:v1")]
    #[test_case("registry.example:5000/a/b" => "registry.example:5000/a/b:latest")]
    #[test_case("example.org/a__b/c-d.e:T_1.x" => "example.org/a__b/c-d.e:T_1.x")]
    #[test_case("a:1@sha256:0000000000000000000000000000000000000000000000000000000000000000"
        => "docker.io/library/a@sha256:0000000000000000000000000000000000000000000000000000000000000000")]
    fn full_names(reference: &str) -> String {
        normalize(reference).unwrap()
    }

    #[test_case("" ; "empty")]
    #[test_case("a b" ; "space")]
    #[test_case("a//b" ; "empty component")]
    #[test_case("a:" ; "empty tag")]
    #[test_case("a._b" ; "mixed separators")]
    #[test_case("a@sha256:12" ; "short digest")]
    #[test_case("team/Web" ; "upper case")]
    fn refused_names(reference: &str) {
        assert!(normalize(reference).unwrap_err().contains("invalid reference format"));
    }

    #[test]
    fn digests_are_hexadecimal() {
        assert_eq!(digest(b""), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
