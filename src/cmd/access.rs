//! Flags of `orch server` about who may do what, and what is kept of it; the names are upstream's, and k3s's where k3s has
//! the same thing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ArgAction;

use crate::admission::Choice;
use crate::apiserver::access::{self, WebhookFlags};
use crate::apiserver::audit;
use crate::apiserver::auth::oidc;
use crate::apiserver::auth::token_webhook;
use crate::store::sealed;

/// Below the server's directory: the keys that orch keeps itself. The place is k3s's.
const OWN_KEYS: &str = "cred/encryption-config.json";

/// Encryption at rest, audit, authentication and authorization.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Access")]
pub struct AccessFlags {
    /// Encrypt Secrets at rest, with keys that orch makes and keeps
    #[arg(long, conflicts_with = "encryption_provider_config")]
    pub secrets_encryption: bool,
    /// Encrypt at rest as an EncryptionConfiguration says; the file is followed while the server runs
    #[arg(long, value_name = "FILE")]
    pub encryption_provider_config: Option<PathBuf>,
    /// Admission plugins to run beside those that run anyway
    #[arg(long, value_name = "PLUGIN", value_delimiter = ',', action = ArgAction::Append)]
    pub enable_admission_plugins: Vec<String>,
    /// Admission plugins not to run
    #[arg(long, value_name = "PLUGIN", value_delimiter = ',', action = ArgAction::Append)]
    pub disable_admission_plugins: Vec<String>,
    #[command(flatten)]
    pub audit: AuditFlags,
    #[command(flatten)]
    pub authentication: AuthenticationFlags,
    #[command(flatten)]
    pub authorization: AuthorizationFlags,
}

/// What is kept of requests.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Access")]
pub struct AuditFlags {
    /// Keep of requests what an audit Policy says
    #[arg(long, value_name = "FILE")]
    pub audit_policy_file: Option<PathBuf>,
    /// File that audit events are written to; - is standard output
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    pub audit_log_path: Option<PathBuf>,
    /// MiB of that file before it is rotated [default: 100]
    #[arg(long, value_name = "MIB", default_value_t = 0, hide_default_value = true)]
    pub audit_log_maxsize: u64,
    /// Rotated files that are kept; all when not given
    #[arg(long, value_name = "FILES", default_value_t = 0, hide_default_value = true)]
    pub audit_log_maxbackup: usize,
    /// Days that rotated files are kept; for ever when not given
    #[arg(long, value_name = "DAYS", default_value_t = 0, hide_default_value = true)]
    pub audit_log_maxage: u64,
    /// Kubeconfig of a webhook that audit events are sent to
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// Events that wait for that webhook; more are dropped
    #[arg(long, value_name = "EVENTS", default_value_t = 10_000)]
    pub audit_webhook_batch_buffer_size: usize,
    /// Events that are sent at once
    #[arg(long, value_name = "EVENTS", default_value_t = 400)]
    pub audit_webhook_batch_max_size: usize,
    /// How long an event waits for others
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub audit_webhook_batch_max_wait: Duration,
    /// Pause after the webhook did not take events
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub audit_webhook_initial_backoff: Duration,
}

/// Whose credentials are believed, beside the cluster's own.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Access")]
pub struct AuthenticationFlags {
    /// AuthenticationConfiguration: OpenID issuers, and who may come without credentials; the file is followed
    #[arg(long, value_name = "FILE", conflicts_with_all = ["oidc_issuer_url", "anonymous_auth"])]
    pub authentication_config: Option<PathBuf>,
    /// Let requests without credentials come as far as authorization
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    pub anonymous_auth: Option<bool>,
    /// URL of an OpenID issuer
    #[arg(long, value_name = "URL", requires = "oidc_client_id")]
    pub oidc_issuer_url: Option<String>,
    /// Audience of its tokens
    #[arg(long, value_name = "ID")]
    pub oidc_client_id: Option<String>,
    /// Claim with the user's name
    #[arg(long, value_name = "CLAIM", default_value = "sub")]
    pub oidc_username_claim: String,
    /// What stands before names; the issuer's URL and # when not given, nothing when -
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub oidc_username_prefix: Option<String>,
    /// Claim with the groups
    #[arg(long, value_name = "CLAIM", default_value = "", hide_default_value = true)]
    pub oidc_groups_claim: String,
    /// What stands before groups
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub oidc_groups_prefix: String,
    /// A claim that has to have a value
    #[arg(long, value_name = "CLAIM=VALUE", value_delimiter = ',', action = ArgAction::Append)]
    pub oidc_required_claim: Vec<String>,
    /// CAs of the issuer's certificate; the machine's own when not given
    #[arg(long, value_name = "FILE")]
    pub oidc_ca_file: Option<PathBuf>,
    /// Algorithms of its signatures
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "RS256", action = ArgAction::Append)]
    pub oidc_signing_algs: Vec<String>,
    /// Kubeconfig of a webhook that knows bearer tokens
    #[arg(long, value_name = "FILE")]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// Version of the TokenReviews that it gets: v1 or v1beta1
    #[arg(long, value_name = "VERSION", default_value = "v1beta1", value_parser = ["v1", "v1beta1"])]
    pub authentication_token_webhook_version: String,
    /// How long its answers are kept
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = duration)]
    pub authentication_token_webhook_cache_ttl: Duration,
}

/// Who is asked whether a request may be done.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Access")]
pub struct AuthorizationFlags {
    /// AuthorizationConfiguration: who is asked, in order; the file is followed
    #[arg(long, value_name = "FILE", conflicts_with_all = ["authorization_mode", "authorization_webhook_config_file"])]
    pub authorization_config: Option<PathBuf>,
    /// Who is asked, in order: Node, RBAC, Webhook, AlwaysDeny [default: Node,RBAC]
    #[arg(long, value_name = "MODE", value_delimiter = ',', action = ArgAction::Append)]
    pub authorization_mode: Vec<String>,
    /// Kubeconfig of the webhook of --authorization-mode
    #[arg(long, value_name = "FILE")]
    pub authorization_webhook_config_file: Option<PathBuf>,
    /// Version of the SubjectAccessReviews that it gets: v1 or v1beta1
    #[arg(long, value_name = "VERSION", default_value = "v1beta1", value_parser = ["v1", "v1beta1"])]
    pub authorization_webhook_version: String,
    /// How long a yes of it is kept
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub authorization_webhook_cache_authorized_ttl: Duration,
    /// How long a no of it is kept
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub authorization_webhook_cache_unauthorized_ttl: Duration,
}

/// A time as Go writes it: `30s`, `5m`, `1h30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let time = text.parse::<jiff::SignedDuration>().map_err(|e| e.to_string())?;
    Duration::try_from(time).map_err(|_| "must not be below zero".to_owned())
}

impl AccessFlags {
    /// Encryption at rest as the flags say.
    pub fn encryption(&self, server_dir: &Path) -> sealed::Settings {
        let own = server_dir.join(OWN_KEYS);
        sealed::Settings { file: self.encryption_provider_config.clone(), managed: self.secrets_encryption, own }
    }

    /// The admission plugins that run.
    pub fn admission(&self) -> anyhow::Result<Choice> {
        Choice::of(&self.enable_admission_plugins, &self.disable_admission_plugins).map_err(anyhow::Error::msg)
    }

    /// Audit as the flags say; none without a policy.
    pub fn audit(&self) -> Option<audit::Settings> {
        let flags = &self.audit;
        let policy = flags.audit_policy_file.clone()?;
        let log = flags.audit_log_path.clone().map(|path| audit::log::Settings {
            path,
            max_mib: flags.audit_log_maxsize,
            max_files: flags.audit_log_maxbackup,
            max_days: flags.audit_log_maxage,
        });
        let webhook = flags.audit_webhook_config_file.clone().map(|file| audit::webhook::Settings {
            file,
            buffer: flags.audit_webhook_batch_buffer_size,
            batch: flags.audit_webhook_batch_max_size,
            wait: flags.audit_webhook_batch_max_wait,
            backoff: flags.audit_webhook_initial_backoff,
        });
        Some(audit::Settings { policy, log, webhook })
    }

    /// Issuers, webhooks and modes as the flags say.
    pub fn settings(&self) -> anyhow::Result<access::Settings> {
        let (authn, authz) = (&self.authentication, &self.authorization);
        let token_webhook =
            authn.authentication_token_webhook_config_file.clone().map(|file| token_webhook::Settings {
                file,
                version: authn.authentication_token_webhook_version.clone(),
                ttl: authn.authentication_token_webhook_cache_ttl,
            });
        let authorization_webhook = authz.authorization_webhook_config_file.clone().map(|file| WebhookFlags {
            file,
            version: authz.authorization_webhook_version.clone(),
            allowed_ttl: authz.authorization_webhook_cache_authorized_ttl,
            denied_ttl: authz.authorization_webhook_cache_unauthorized_ttl,
        });
        Ok(access::Settings {
            authentication: authn.authentication_config.clone(),
            issuer: authn.issuer()?,
            no_anonymous: authn.anonymous_auth == Some(false),
            token_webhook,
            authorization: authz.authorization_config.clone(),
            modes: authz.authorization_mode.clone(),
            authorization_webhook,
        })
    }
}

impl AuthenticationFlags {
    fn issuer(&self) -> anyhow::Result<Option<oidc::config::Flags>> {
        let Some(issuer_url) = self.oidc_issuer_url.clone() else { return Ok(None) };
        let ca = match &self.oidc_ca_file {
            Some(file) => std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?,
            None => String::new(),
        };
        let mut required_claims = Vec::new();
        for claim in &self.oidc_required_claim {
            match claim.split_once('=') {
                Some((name, value)) => required_claims.push((name.to_owned(), value.to_owned())),
                None => bail!("--oidc-required-claim {claim:?} is not of the form CLAIM=VALUE"),
            }
        }
        Ok(Some(oidc::config::Flags {
            issuer_url,
            client_id: self.oidc_client_id.clone().unwrap_or_default(),
            username_claim: self.oidc_username_claim.clone(),
            username_prefix: self.oidc_username_prefix.clone(),
            groups_claim: self.oidc_groups_claim.clone(),
            groups_prefix: self.oidc_groups_prefix.clone(),
            required_claims,
            ca,
            algorithms: self.oidc_signing_algs.clone(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: AccessFlags,
    }

    fn flags(line: &[&str]) -> Result<AccessFlags, String> {
        Line::try_parse_from(["orch"].iter().chain(line)).map(|l| l.flags).map_err(|e| e.to_string())
    }

    #[test]
    fn nothing_is_nothing() {
        let flags = flags(&[]).unwrap();
        assert_eq!(flags.audit(), None);
        let settings = flags.settings().unwrap();
        assert!(settings.issuer.is_none() && settings.modes.is_empty() && !settings.no_anonymous);
        let encryption = flags.encryption(Path::new("/s"));
        assert_eq!((encryption.managed, encryption.own), (false, PathBuf::from("/s/cred/encryption-config.json")));
    }

    #[test]
    fn flags_say_what_upstreams_say() {
        let all = flags(&[
            "--audit-policy-file=p",
            "--audit-log-path=-",
            "--audit-log-maxage=3",
            "--audit-webhook-config-file=k",
            "--audit-webhook-batch-max-wait=5s",
            "--oidc-issuer-url=https://i",
            "--oidc-client-id=me",
            "--oidc-username-prefix=-",
            "--oidc-required-claim=a=b",
            "--anonymous-auth=false",
            "--authorization-mode=Node,RBAC,Webhook",
            "--authorization-webhook-config-file=w",
            "--authorization-webhook-cache-authorized-ttl=1m30s",
        ])
        .unwrap();
        let audit = all.audit().unwrap();
        assert_eq!(audit.log.unwrap().max_days, 3);
        let webhook = audit.webhook.unwrap();
        assert_eq!((webhook.buffer, webhook.batch, webhook.wait), (10_000, 400, Duration::from_secs(5)));
        let settings = all.settings().unwrap();
        let issuer = settings.issuer.unwrap();
        assert_eq!((issuer.algorithms, issuer.username_prefix), (vec!["RS256".to_owned()], Some("-".to_owned())));
        assert_eq!(issuer.required_claims, [("a".to_owned(), "b".to_owned())]);
        assert!(settings.no_anonymous && settings.modes.len() == 3);
        assert_eq!(settings.authorization_webhook.unwrap().allowed_ttl, Duration::from_secs(90));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for line in [
            &["--secrets-encryption", "--encryption-provider-config=f"][..],
            &["--audit-log-path=x"],
            &["--oidc-issuer-url=https://i"],
            &["--authentication-config=f", "--oidc-issuer-url=https://i", "--oidc-client-id=me"],
            &["--authorization-config=f", "--authorization-mode=RBAC"],
            &["--authorization-webhook-version=v2"],
            &["--audit-webhook-initial-backoff=soon"],
        ] {
            assert!(flags(line).is_err(), "{line:?}");
        }
    }
}
