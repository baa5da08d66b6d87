//! Flags of every verb.

use std::path::PathBuf;

/// Flags of every verb.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Flags of all commands")]
pub struct Globals {
    /// Namespace to work in
    #[arg(short, long, global = true, value_name = "NAMESPACE")]
    pub(super) namespace: Option<String>,
    /// Context of the kubeconfig
    #[arg(long, global = true)]
    pub(super) context: Option<String>,
    /// Cluster of the kubeconfig
    #[arg(long, global = true)]
    pub(super) cluster: Option<String>,
    /// Kubeconfig file [default: $KUBECONFIG, ~/.kube/config, /etc/orch/orch.yaml]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// Address of the server
    #[arg(short, long, global = true, value_name = "URL")]
    pub(super) server: Option<String>,
    /// Bearer token
    #[arg(long, global = true, hide_env_values = true)]
    pub(super) token: Option<String>,
    /// User of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) user: Option<String>,
    /// Name for basic authentication
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) username: Option<String>,
    /// Password for basic authentication
    #[arg(long, global = true, value_name = "PASSWORD")]
    pub(super) password: Option<String>,
    /// Certificate to show to the server
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) client_certificate: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) client_key: Option<PathBuf>,
    /// User to impersonate
    #[arg(long = "as", global = true, value_name = "USER")]
    pub(super) as_user: Option<String>,
    /// Groups to impersonate
    #[arg(long, global = true, value_name = "GROUP")]
    pub(super) as_group: Vec<String>,
    /// UID to impersonate
    #[arg(long, global = true, value_name = "UID")]
    pub(super) as_uid: Option<String>,
    /// What else to say of the impersonated user, as KEY=VALUE
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub(super) as_user_extra: Vec<String>,
    /// CA of the server
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) certificate_authority: Option<PathBuf>,
    /// Name in the server's certificate
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) tls_server_name: Option<String>,
    /// Do not check the server's certificate
    #[arg(long, global = true)]
    pub(super) insecure_skip_tls_verify: bool,
    /// Most time of one request, as 10s; 0 is no limit
    #[arg(long, global = true, default_value = "0", hide_default_value = true)]
    pub(super) request_timeout: String,
    /// End with a failure when the server warns
    #[arg(long, global = true)]
    pub(super) warnings_as_errors: bool,
    #[command(flatten)]
    pub(super) ignored: Ignored,
    /// Log level; 6 and above show requests
    #[arg(short, long, global = true, value_name = "LEVEL", default_value = "0", hide_default_value = true)]
    pub(super) v: u8,
}

/// Flags of kubectl that have nothing to do here: nothing is cached, compressed or profiled. Taken for the sake of scripts.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Ignored {
    /// No effect: nothing is cached
    #[arg(long, global = true, value_name = "DIR", hide = true)]
    pub(super) cache_dir: Option<PathBuf>,
    /// No effect: answers are not compressed
    #[arg(long, global = true, hide = true)]
    pub(super) disable_compression: bool,
    /// No effect: versions need not match
    #[arg(long, global = true, hide = true)]
    pub(super) match_server_version: bool,
    /// No effect
    #[arg(long, global = true, hide = true)]
    pub(super) log_flush_frequency: Option<String>,
    /// No effect
    #[arg(long, global = true, hide = true)]
    pub(super) vmodule: Option<String>,
    /// No effect
    #[arg(long, global = true, hide = true)]
    pub(super) profile: Option<String>,
    /// No effect
    #[arg(long, global = true, hide = true)]
    pub(super) profile_output: Option<PathBuf>,
}
