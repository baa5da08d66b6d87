//! Flags of `orch server` about who may do what, and what is kept of it; the names are upstream's, and k3s's where k3s has
//! the same thing.

use std::path::{Path, PathBuf};

use crate::store::sealed;

/// Below the server's directory: the keys that orch keeps itself. The place is k3s's.
const OWN_KEYS: &str = "cred/encryption-config.json";

/// Encryption at rest, audit, authentication and authorization.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct AccessFlags {
    /// Encrypt Secrets at rest, with keys that orch makes and keeps
    #[arg(long, conflicts_with = "encryption_provider_config")]
    pub secrets_encryption: bool,
    /// Encrypt at rest as an EncryptionConfiguration says; the file is followed while the server runs
    #[arg(long, value_name = "FILE")]
    pub encryption_provider_config: Option<PathBuf>,
}

impl AccessFlags {
    /// Encryption at rest as the flags say.
    pub fn encryption(&self, server_dir: &Path) -> sealed::Settings {
        let own = server_dir.join(OWN_KEYS);
        sealed::Settings { file: self.encryption_provider_config.clone(), managed: self.secrets_encryption, own }
    }
}
