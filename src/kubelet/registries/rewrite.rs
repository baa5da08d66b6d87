//! Under what other names an image may be had: mirrors that keep it in another repository. Pure.
//!
//! k3s carries a containerd that rewrites names on their way to a mirror. With the distribution's containerd the image is
//! pulled from the mirror by the mirror's own name for it, and then gets the name that was asked for.

use super::{ANY, Endpoint, Mirror, Registries};

/// Mirrors by registry; those without rewrites are containerd's own matter.
#[derive(Debug, Clone, Default)]
pub struct Rewrites(Vec<(String, Mirror)>);

impl Rewrites {
    /// Those of a file.
    pub fn of(registries: &Registries) -> Self {
        Self(registries.mirrors.iter().map(|(name, m)| (name.clone(), m.clone())).collect())
    }

    /// The names at mirrors of an image whose name is whole (`host/repository:tag`), in the order to be tried.
    pub fn candidates(&self, image: &str) -> Vec<String> {
        let Some((host, rest)) = image.split_once('/') else { return Vec::new() };
        let find = |name: &str| self.0.iter().find(|(n, _)| n == name).map(|(_, m)| m);
        let mirror = find(host).or_else(|| find(ANY)).filter(|m| !m.rewrites.is_empty());
        let Some(mirror) = mirror else { return Vec::new() };
        let end = rest.find('@').or_else(|| rest.rfind(':')).unwrap_or(rest.len());
        let (repository, version) = rest.split_at(end);
        let rewritten = mirror.rewrites.iter().find(|r| r.pattern.is_match(repository));
        let repository = rewritten.map_or(repository.into(), |r| r.pattern.replace_all(repository, &*r.replacement));
        let named = |e: &Endpoint| {
            let below = e.path.strip_prefix("/v2").unwrap_or_default();
            format!("{}{below}/{repository}{version}", e.host)
        };
        mirror.endpoints.iter().map(named).filter(|name| name != image).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::read::registries;
    use super::*;
    use test_case::test_case;

    const FILE: &str = r#"
mirrors:
  docker.io:
    endpoint: ["https://m.example:5000", "https://n.example/v2/proxy"]
    rewrite: {"^library/(.*)": "mirrored/$1", "^library": "never"}
  plain.example:
    endpoint: ["https://m.example:5000"]
  "*":
    endpoint: ["https://any.example"]
    rewrite: {"^": "all/"}
"#;

    #[test_case("docker.io/library/web:v1" => "m.example:5000/mirrored/web:v1 n.example/proxy/mirrored/web:v1"; "the first pattern")]
    #[test_case("docker.io/team/web@sha256:00" => "m.example:5000/team/web@sha256:00 n.example/proxy/team/web@sha256:00"; "no pattern")]
    #[test_case("plain.example/a:1" => ""; "a mirror without rewrites is containerd's")]
    #[test_case("localhost:5000/a/b:1" => "any.example/all/a/b:1"; "a port is no tag")]
    #[test_case("any.example/a:1" => "any.example/all/a:1"; "the mirror's own")]
    fn names(image: &str) -> String {
        Rewrites::of(&registries(FILE).unwrap()).candidates(image).join(" ")
    }

    #[test]
    fn nothing_to_rewrite_gives_no_other_name() {
        assert!(Rewrites::default().candidates("docker.io/library/web:v1").is_empty());
    }
}
