//! `registries.yaml`: mirrors, credentials and private CAs of registries, in k3s's form.
//!
//! In: the file's text. Out: [`Registries`], which [`hosts`] turns into what containerd reads, and [`Rewrites`], which say
//! under what other names an image may be had (containerd itself knows no rewriting).
//!
//! **Invariant:** an unknown key is refused, with the nearest known one; a file that is named is there.
//! **Invariant:** passwords are in no error and no log.

mod hosts;
mod read;
mod rewrite;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

pub use self::hosts::{HostsFile, credentials, hosts_files};
pub use self::rewrite::Rewrites;

/// Where the file is when nobody says otherwise.
pub const DEFAULT_FILE: &str = "/etc/orch/registries.yaml";
/// The mirror for whatever registry has none of its own.
pub const ANY: &str = "*";

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistriesError {
    /// It cannot be read.
    #[error("cannot read the registries file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not say what it should.
    #[error("registries file {path}: {why}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        why: String,
    },
}

/// What the file says.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    /// Where else the images of a registry may be had, by the registry's name or [`ANY`].
    pub mirrors: BTreeMap<String, Mirror>,
    /// How to talk to a registry, by its host.
    pub configs: BTreeMap<String, Access>,
}

/// Where else images may be had.
#[derive(Debug, Clone, Default)]
pub struct Mirror {
    /// Tried in this order, before the registry itself.
    pub endpoints: Vec<Endpoint>,
    /// The first that matches changes a repository's name at the endpoints.
    pub rewrites: Vec<Rewrite>,
}

/// `https://host:port/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// With the port, if one is given.
    pub host: String,
    /// `/v2`, or where else the API begins.
    pub path: String,
}

/// A pattern over repository names and what takes its place.
#[derive(Debug, Clone)]
pub struct Rewrite {
    /// What matches.
    pub pattern: regex::Regex,
    /// With `$1` for the first group.
    pub replacement: String,
}

/// How to talk to a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Who we are.
    pub auth: Option<Auth>,
    /// How to know who they are.
    pub tls: Option<Tls>,
}

/// Credentials; the fields that containerd knows.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Auth {
    /// User.
    pub username: String,
    /// Password.
    pub password: String,
    /// Both in base64, as Docker keeps them.
    pub auth: String,
    /// A token instead.
    pub identity_token: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("username", &self.username).finish_non_exhaustive()
    }
}

/// TLS towards a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Who may have signed its certificate.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// Believe anybody.
    pub insecure_skip_verify: bool,
}

impl Registries {
    /// Reads the file. `named` is what the user asked for; without it [`DEFAULT_FILE`] is read, and need not be there.
    pub fn load(named: Option<&Path>) -> Result<Self, RegistriesError> {
        let path = named.unwrap_or(Path::new(DEFAULT_FILE));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound && named.is_none() => return Ok(Self::default()),
            Err(source) => return Err(RegistriesError::Read { path: path.to_owned(), source }),
        };
        let invalid = |why| RegistriesError::Invalid { path: path.to_owned(), why };
        let registries = read::registries(&text).map_err(invalid)?;
        registries.check_files().map_err(invalid)?;
        Ok(registries)
    }

    /// Files that are named but cannot be read would show themselves in the middle of a pull, to the wrong person.
    fn check_files(&self) -> Result<(), String> {
        for (host, tls) in self.configs.iter().filter_map(|(host, c)| Some((host, c.tls.as_ref()?))) {
            let files = [("ca_file", &tls.ca_file), ("cert_file", &tls.cert_file), ("key_file", &tls.key_file)];
            for (key, file) in files {
                let Some(file) = file else { continue };
                std::fs::File::open(file)
                    .map_err(|e| format!("configs.{host}.tls.{key}: cannot read {}: {e}", file.display()))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_named_has_to_be_there_and_so_have_the_files_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registries.yaml");
        let error = Registries::load(Some(&path)).unwrap_err().to_string();
        assert!(error.starts_with("cannot read the registries file ") && error.contains("registries.yaml"), "{error}");
        std::fs::write(&path, "configs:\n  r.example:\n    tls: {ca_file: /nonexistent/ca.crt}\n").unwrap();
        let error = Registries::load(Some(&path)).unwrap_err().to_string();
        assert!(error.contains("configs.r.example.tls.ca_file: cannot read /nonexistent/ca.crt"), "{error}");
    }

    #[test]
    fn a_password_is_not_printed() {
        let auth = Auth { username: "me".into(), password: "pass:word".into(), ..Auth::default() };
        assert!(!format!("{auth:?}").contains("pass:word"));
    }
}
