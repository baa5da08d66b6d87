//! kubeconfig files with embedded certificates.
//!
//! **Invariant:** a file is replaced whole, and only when its contents or mode would change, so that a tool that watches
//! it is not woken for nothing.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{Pair, PkiError, create_dir, read, write};
use crate::util::files::SECRET_MODE;

/// The context, cluster and user of every file written here.
pub const NAME: &str = "default";

/// The text of a kubeconfig for `server` (a URL).
pub fn render(server: &str, ca_pem: &str, identity: &Pair) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": NAME, "cluster": {
            "certificate-authority-data": STANDARD.encode(ca_pem), "server": server}}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME}}],
        "current-context": NAME,
        "users": [{"name": NAME, "user": {
            "client-certificate-data": STANDARD.encode(&identity.cert_pem),
            "client-key-data": STANDARD.encode(&identity.key_pem)}}],
    });
    serde_yaml::to_string(&config).expect("strings and maps have a YAML form")
}

/// Writes `text` to `path` with `mode` (default 0600); true when something was written.
pub fn write_if_changed(path: &Path, text: &str, mode: Option<u32>) -> Result<bool, PkiError> {
    let mode = mode.unwrap_or(SECRET_MODE);
    let same_mode = std::fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o777 == mode);
    if same_mode && matches!(read(path), Ok(Some(old)) if old == text) {
        return Ok(false);
    }
    if let Some(dir) = path.parent().filter(|d| !d.exists()) {
        create_dir(dir)?;
    }
    // Mode bits that the umask takes away at creation are put back.
    write(path, text, SECRET_MODE)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(|source| PkiError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    })?;
    Ok(true)
}
