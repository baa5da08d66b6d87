//! `create`: of files, or of flags by a generator per kind.
//!
//! A generator is pure: flags in, an object out. This module does the rest for all of them.

mod rbac;
mod secret;
mod simple;
mod workload;

pub use rbac::Subjects;
pub use secret::{data_of, env_lines, hashed_name, is_key};

use http::Method;
use serde_json::{Map, Value, json};

use super::builder::{Info, Query, of_flags, selected};
use super::cx::{Cx, Done};
use super::edit::{self, Edited};
use super::fail::{Failure, fail};
use super::files::FileFlags;
use super::print::PrintFlags;
use super::raw::{self, Beside};
use super::write::{ValidateFlag, WriteFlags, Writer, with_saved_config};
use crate::api::codec::yaml;
use crate::api::value::ValueExt;

/// The owner of what is created, as kubectl names it.
const MANAGER: &str = "kubectl-create";

/// Create a resource from a file or from flags
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(flatten)]
    files: FileFlags,
    /// Edit what is created first
    #[arg(long)]
    edit: bool,
    /// End the lines of what is edited as Windows does
    #[arg(long)]
    windows_line_endings: bool,
    /// Only objects with these labels
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: String,
    /// Send the file to any path of the server instead
    #[arg(long)]
    raw: Option<String>,
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    generator: Option<Generator>,
}

impl Args {
    /// True for the generators whose `--user` is no user of the kubeconfig.
    pub fn names_users(&self) -> bool {
        matches!(self.generator, Some(Generator::Rolebinding(_) | Generator::Clusterrolebinding(_)))
    }
}

/// Flags of every form of `create`.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    #[command(flatten)]
    print: PrintFlags,
    #[command(flatten)]
    write: WriteFlags,
    #[command(flatten)]
    validate: ValidateFlag,
    /// Keep what was created for a later apply
    #[arg(long)]
    save_config: bool,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Generator {
    /// A namespace
    #[command(alias = "ns")]
    Namespace(With<simple::Namespace>),
    /// A config map of files, directories and values
    #[command(alias = "cm")]
    Configmap(With<simple::ConfigMap>),
    /// A service account
    #[command(alias = "sa")]
    Serviceaccount(With<simple::ServiceAccount>),
    Token(simple::Token),
    #[command(subcommand)]
    Secret(SecretKind),
    #[command(alias = "svc", subcommand)]
    Service(ServiceKind),
    /// A deployment of one or more images
    #[command(aliases = ["dep", "deploy"])]
    Deployment(With<workload::Deployment>),
    /// A job, or one of a cron job's
    Job(With<workload::Job>),
    /// A cron job
    #[command(alias = "cj")]
    Cronjob(With<workload::CronJob>),
    /// A role with one rule
    Role(With<rbac::Role>),
    /// A cluster role with one rule
    Clusterrole(With<rbac::ClusterRole>),
    /// Give a role, or a cluster role in one namespace
    Rolebinding(With<rbac::RoleBinding>),
    /// Give a cluster role everywhere
    Clusterrolebinding(With<rbac::ClusterRoleBinding>),
    /// A resource quota
    #[command(alias = "resourcequota")]
    Quota(With<simple::Quota>),
    /// A priority class
    #[command(alias = "pc")]
    Priorityclass(With<simple::PriorityClass>),
    /// A pod disruption budget
    #[command(alias = "pdb")]
    Poddisruptionbudget(With<simple::Budget>),
    /// An ingress with rules
    #[command(alias = "ing")]
    Ingress(With<simple::Ingress>),
}

/// A secret of a type
#[derive(Debug, Clone, clap::Subcommand)]
enum SecretKind {
    /// Of files, directories and values
    Generic(With<secret::Generic>),
    /// A certificate and its key
    Tls(With<secret::Tls>),
    /// For pulling images from a registry
    DockerRegistry(With<secret::DockerRegistry>),
}

/// A service of a type
#[derive(Debug, Clone, clap::Subcommand)]
enum ServiceKind {
    /// With an address in the cluster
    Clusterip(With<workload::ClusterIp>),
    /// With a port on every node
    Nodeport(With<workload::NodePort>),
    /// With an address outside
    Loadbalancer(With<workload::LoadBalancer>),
    /// Another name for a name
    Externalname(With<workload::ExternalName>),
}

// A generator's flags and the common ones. (A doc comment would stand in the help of every generator.)
#[allow(missing_docs)]
#[derive(Debug, Clone, clap::Args)]
pub struct With<G: clap::Args> {
    #[command(flatten)]
    generate: G,
    #[command(flatten)]
    common: Common,
}

/// Makes an object of flags.
pub trait Generate {
    /// The object. Its namespace is filled in afterwards.
    fn generate(&self) -> Done<Value>;
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    let Some(generator) = args.generator else { return of_files(cx, &args).await };
    if let Generator::Token(token) = &generator {
        return token.run(cx).await;
    }
    let (object, common) = match &generator {
        Generator::Namespace(w) => w.make(),
        Generator::Configmap(w) => w.make(),
        Generator::Serviceaccount(w) => w.make(),
        Generator::Secret(SecretKind::Generic(w)) => w.make(),
        Generator::Secret(SecretKind::Tls(w)) => w.make(),
        Generator::Secret(SecretKind::DockerRegistry(w)) => w.make(),
        Generator::Service(ServiceKind::Clusterip(w)) => w.make(),
        Generator::Service(ServiceKind::Nodeport(w)) => w.make(),
        Generator::Service(ServiceKind::Loadbalancer(w)) => w.make(),
        Generator::Service(ServiceKind::Externalname(w)) => w.make(),
        Generator::Deployment(w) => w.make(),
        Generator::Job(w) => {
            let mut job = w.make()?;
            w.generate.take_template(cx, &mut job.0).await?;
            Ok(job)
        }
        Generator::Cronjob(w) => w.make(),
        Generator::Role(w) => w.make(),
        Generator::Clusterrole(w) => w.make(),
        Generator::Rolebinding(w) => w.make(),
        Generator::Clusterrolebinding(w) => w.make(),
        Generator::Quota(w) => w.make(),
        Generator::Priorityclass(w) => w.make(),
        Generator::Poddisruptionbudget(w) => w.make(),
        Generator::Ingress(w) => w.make(),
        Generator::Token(_) => fail!("a token is asked for, not created"),
    }?;
    let mut object = object;
    if rbac::has_rules(&object) {
        rbac::fill_groups(cx, &mut object).await?;
    }
    let info = of_flags(cx, object, common.write.dry_run).await?;
    one(cx, &info, common).await.map_err(|e| match e {
        Failure::Server { status, .. } => Failure::Server { status, doing: String::new() }.creating(&info),
        other => other,
    })
}

impl Failure {
    /// Generators name the kind that could not be created.
    fn creating(self, info: &Info) -> Self {
        match self {
            Self::Server { status, .. } => {
                let kind = info.resource.res.kind.to_lowercase();
                let what = match kind.as_str() {
                    "namespace" | "pod" | "clusterrole" => return Self::Server { status, doing: String::new() },
                    "secret" => "secret".to_owned(),
                    "resourcequota" => "quota:".to_owned(),
                    "service" => format!("{} service:", info.object.str_at("/spec/type").unwrap_or_default()),
                    kind => format!("{kind}:"),
                };
                Self::Verbatim(format!("error: failed to create {what} {}", status.message))
            }
            other => other,
        }
    }
}

impl<G: Generate + clap::Args> With<G> {
    fn make(&self) -> Done<(Value, &Common)> {
        Ok((self.generate.generate()?, &self.common))
    }
}

async fn of_files(cx: &Cx, args: &Args) -> Done {
    if args.files.is_empty() {
        fail!("must specify one of -f and -k");
    }
    if let Some(path) = &args.raw {
        if args.edit || !args.selector.is_empty() {
            fail!("--raw cannot be combined with --edit or --selector");
        }
        let beside = Beside { args: &[], output: args.common.print.output.as_deref() };
        return raw::call(cx, Method::POST, path, Some(&args.files), &beside).await;
    }
    let infos = (Query { files: Some(&args.files), verb: "create", ..Query::default() }).infos(cx).await?;
    let infos = selected(infos, &args.selector)?;
    if infos.is_empty() && cx.code() == 0 {
        fail!("no objects passed to create");
    }
    for info in infos {
        let made = match edited(&info, args) {
            Ok(Some(info)) => one(cx, &info, &args.common).await,
            Ok(None) => Ok(()),
            Err(failure) => Err(failure),
        };
        if let Err(failure) = made {
            cx.report(&info.failed("creating", failure));
        }
    }
    Ok(())
}

/// What the user makes of an object, with `--edit`; none where it was not changed.
fn edited(info: &Info, args: &Args) -> Done<Option<Info>> {
    if !args.edit {
        return Ok(Some(info.clone()));
    }
    match edit::once(&yaml::to_string(&info.object), "")? {
        Edited::Changed(text) => {
            let object = yaml::parse(text.as_bytes()).map_err(|e| Failure::Plain(e.to_string()))?;
            Ok(Some(Info { object, ..info.clone() }))
        }
        Edited::Same | Edited::Empty => {
            eprintln!("Edit cancelled, no changes made.");
            Ok(None)
        }
    }
}

async fn one(cx: &Cx, info: &Info, common: &Common) -> Done {
    let writer = Writer { validation: common.validate.validate, ..common.write.writer(MANAGER) };
    let object = if common.save_config { with_saved_config(&info.object) } else { info.object.clone() };
    let made = writer.create(cx, &info.resource.res, &info.ns, &object).await?;
    common.print.done(&info.resource, &made, "created", writer.dry_run)
}

/// The frame of an object.
pub fn object(api_version: &str, kind: &str, name: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}})
}

/// `key=value` pairs.
pub fn pairs(list: &[String], what: &str) -> Done<Map<String, Value>> {
    let mut map = Map::new();
    for text in list {
        let Some((key, value)) = text.split_once('=').filter(|(k, _)| !k.is_empty()) else {
            fail!("invalid {what} {text:?}, expected key=value")
        };
        if map.insert(key.to_owned(), value.into()).is_some() {
            fail!("cannot add key {key}, another key by that name already exists in {what}");
        }
    }
    Ok(map)
}

/// A copy of `object` with `path` set, where there is something to set.
pub fn set_unless_empty(object: &mut Value, path: &str, value: Value) {
    let empty = match &value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    if !empty {
        object.set_at(path, value);
    }
}
