//! `secrets-encrypt`: encryption at rest of a running server. The verbs are k3s's.
//!
//! The server does the work; here is only what is asked and how the answer reads.

use http::Method;
use serde_json::{Value, json};

use super::cx::{Call, Cx, Done, put};
use crate::api::value::ValueExt;

/// Where the server is asked.
pub const PATH: &str = "/orch/encryption";

/// Encryption of Secrets at rest
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, Copy, clap::Subcommand)]
enum What {
    /// Show whether Secrets are encrypted, with which key, and what is still to be written again
    Status,
    /// Make a new key, write everything again with it, and forget the old ones
    #[command(alias = "rotate")]
    RotateKeys,
    /// Write again what is not stored as it should be
    Reencrypt,
    /// Encrypt again after disable
    Enable,
    /// Write everything again as plain text; the keys stay
    Disable,
}

impl What {
    /// Its name on the wire; none for what only looks.
    fn action(self) -> Option<&'static str> {
        match self {
            Self::Status => None,
            Self::RotateKeys => Some("rotate-keys"),
            Self::Reencrypt => Some("reencrypt"),
            Self::Enable => Some("enable"),
            Self::Disable => Some("disable"),
        }
    }
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    match args.what.action() {
        None => put(&told(&cx.call(Call::get(PATH)).await?)),
        Some(action) => {
            let answer = cx.call(Call::new(Method::POST, PATH).body(&json!({"action": action}))).await?;
            put(&format!("{} objects written again\n", answer.int_at("/rewritten").unwrap_or_default()))
        }
    }
}

fn told(status: &Value) -> String {
    let text = |path: &str| status.str_at(path).unwrap_or_default();
    let on = status["enabled"] == true;
    let mut out = format!("Encryption Status: {}\n", if on { "Enabled" } else { "Disabled" });
    if on {
        out += &format!("Active Key: {} {}\n", text("/provider"), text("/key"));
    }
    let keeper = if status["managed"] == true { "orch" } else { "the file of --encryption-provider-config" };
    if on || status["managed"] == true {
        out += &format!("Keys Kept By: {keeper}\n");
    }
    let count = |path: &str| status.int_at(path).unwrap_or_default();
    out + &format!("Encrypted Objects: {}\nTo Be Written Again: {}\n", count("/sealed"), count("/stale"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_reads_as_lines() {
        let on = json!({"enabled": true, "managed": true, "provider": "aesgcm", "key": "k", "sealed": 3, "stale": 1});
        let want = "Encryption Status: Enabled\nActive Key: aesgcm k\nKeys Kept By: orch\nEncrypted Objects: 3\nTo Be Written Again: 1\n";
        assert_eq!(told(&on), want);
        let off = json!({"enabled": false, "managed": false, "sealed": 0, "stale": 0});
        assert_eq!(told(&off), "Encryption Status: Disabled\nEncrypted Objects: 0\nTo Be Written Again: 0\n");
    }
}
