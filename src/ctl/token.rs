//! `token`: join tokens, kept as Secrets `kube-system/bootstrap-token-<id>`.
//!
//! **Invariant:** the secret is printed once, when it is made; the cluster keeps its hash only.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use jiff::Timestamp;
use rand::RngCore;
use serde_json::{Map, Value, json};

use super::age;
use super::cx::{Call, Cx, Done, put, say};
use super::fail::{Failure, fail};
use super::print::tab;
use super::write;
use crate::api::value::ValueExt;
use crate::client::res::{CONFIG_MAPS, SECRETS};
use crate::pki::token;
use crate::util::clock;

const NAMESPACE: &str = "kube-system";
const PREFIX: &str = "bootstrap-token-";
const TYPE: &str = "bootstrap.kubernetes.io/token";
/// The group of those who join with a token, which may ask for certificates.
pub const GROUP: &str = "system:bootstrappers:orch:default-node-token";
/// Bytes of a generated id; its hexadecimal form has six characters, as upstream's.
const ID_BYTES: usize = 3;

/// Join tokens
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum What {
    /// Make a token and print it
    Create {
        /// How long it is good, as 24h; 0 for ever
        #[arg(long, default_value = "24h")]
        ttl: String,
        /// What it is for
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
        /// Groups of those who join with it
        #[arg(long, value_delimiter = ',', default_value = GROUP)]
        groups: Vec<String>,
    },
    /// List tokens, without their secrets
    #[command(alias = "ls")]
    List,
    /// Revoke tokens
    #[command(alias = "rm")]
    Delete {
        /// Ids, or whole tokens
        #[arg(required = true)]
        tokens: Vec<String>,
    },
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    match args.what {
        What::Create { ttl, description, groups } => {
            let ttl = write::duration(&ttl)?.filter(|d| !d.is_zero());
            let expires = match ttl {
                None => None,
                Some(ttl) => {
                    let at = Timestamp::now().checked_add(ttl);
                    Some(at.map_err(|e| Failure::Plain(format!("--ttl is too long: {e}")))?)
                }
            };
            create(cx, expires, &description, &groups).await
        }
        What::List => {
            let secrets = cx.items(&SECRETS, NAMESPACE, "", &format!("type={TYPE}")).await?;
            put(&table(&secrets, Timestamp::now()))
        }
        What::Delete { tokens } => {
            for text in &tokens {
                let id = id_of(text);
                let path = SECRETS.object(NAMESPACE, &format!("{PREFIX}{id}"), None);
                cx.call(Call::new(Method::DELETE, path)).await?;
                say(format!("bootstrap token {id:?} deleted"))?;
            }
            Ok(())
        }
    }
}

/// The id in a whole token, or the id itself.
fn id_of(text: &str) -> String {
    match token::parse(text) {
        Ok(token) => token.id,
        Err(_) => text.split(['.', ':']).next().unwrap_or(text).to_owned(),
    }
}

async fn create(cx: &Cx, expires: Option<Timestamp>, description: &str, groups: &[String]) -> Done {
    if let Some(bad) = groups.iter().find(|g| !g.starts_with("system:bootstrappers:")) {
        fail!("group {bad:?} must begin with system:bootstrappers:");
    }
    let mut id = [0; ID_BYTES];
    rand::rng().fill_bytes(&mut id);
    let id: String = id.iter().map(|b| format!("{b:02x}")).collect();
    let made = token::generate(&ca_hash(cx).await?, &id);
    let secret = secret(&id, &token::hash(&made.secret), expires, description, groups);
    cx.call(Call::new(Method::POST, SECRETS.collection(NAMESPACE)).body(&secret)).await?;
    say(made.to_string())
}

/// The Secret of a token; `hash` is `pki::token::hash` of its secret.
pub fn secret(id: &str, hash: &str, expires: Option<Timestamp>, description: &str, groups: &[String]) -> Value {
    let mut data = Map::new();
    let mut put = |key: &str, text: &str| drop(data.insert(key.into(), STANDARD.encode(text).into()));
    put("token-id", id);
    put("token-secret-hash", hash);
    put("usage-bootstrap-authentication", "true");
    put("auth-extra-groups", &groups.join(","));
    if !description.is_empty() {
        put("description", description);
    }
    if let Some(at) = expires {
        put("expiration", &clock::rfc3339(at));
    }
    json!({"apiVersion": "v1", "kind": "Secret", "type": TYPE, "data": data,
        "metadata": {"name": format!("{PREFIX}{id}"), "namespace": NAMESPACE}})
}

/// The hash of the server's CA, from the CA that the cluster publishes.
async fn ca_hash(cx: &Cx) -> Done<String> {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    let published = cx.get(&CONFIG_MAPS, NAMESPACE, "kube-root-ca.crt").await?;
    let pem = published.str_at("/data/ca.crt").unwrap_or_default();
    let Some(Ok(der)) = CertificateDer::pem_slice_iter(pem.as_bytes()).next() else {
        fail!("the cluster publishes no CA in {NAMESPACE}/kube-root-ca.crt")
    };
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
    Ok(digest.as_ref().iter().map(|b| format!("{b:02x}")).collect())
}

fn table(secrets: &[Value], now: Timestamp) -> String {
    let mut out = "ID\tTTL\tEXPIRES\tGROUPS\tDESCRIPTION\n".to_owned();
    for secret in secrets {
        let data = |key: &str| {
            let bytes = secret.str_at(&format!("/data/{key}")).and_then(|t| STANDARD.decode(t).ok());
            bytes.and_then(|b| String::from_utf8(b).ok()).filter(|t| !t.is_empty())
        };
        let expires = data("expiration");
        let left = match expires.as_deref().map(str::parse::<Timestamp>) {
            None => "<forever>".to_owned(),
            Some(Ok(at)) if at > now => age::human(at.as_second() - now.as_second()),
            Some(_) => "<expired>".to_owned(),
        };
        let none = || "<none>".to_owned();
        out += &format!(
            "{}\t{left}\t{}\t{}\t{}\n",
            data("token-id").unwrap_or_default(),
            expires.unwrap_or_else(|| "<never>".into()),
            data("auth-extra-groups").unwrap_or_else(none),
            data("description").unwrap_or_else(none)
        );
    }
    tab::align(&out, tab::GET)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_kept_as_a_hash() {
        let at: Timestamp = "2030-01-02T03:04:05Z".parse().unwrap();
        let made = token::generate(&"0".repeat(64), "abcdef");
        let stored = secret("abcdef", &token::hash(&made.secret), Some(at), "edge", &[GROUP.into()]);
        assert!(!stored.to_string().contains(&STANDARD.encode(&made.secret)));
        let now: Timestamp = "2030-01-02T02:04:05Z".parse().unwrap();
        let rows = table(&[stored], now);
        assert!(rows.contains("abcdef") && rows.contains("60m") && rows.contains("edge"), "{rows}");
        assert_eq!(id_of(&made.to_string()), "abcdef");
        assert_eq!(id_of("abcdef"), "abcdef");
    }
}
