//! `orch ctl`: kubectl's verbs over orch's client.
//!
//! Flow: arguments → [`builder`] (which objects) with [`mapper`] (which resources) → a verb, one file each → [`print`].
//! Tables come from the server. Messages, flags and exit codes are kubectl's.
//!
//! **Invariant:** nothing here knows the server's insides: whatever works here works against any Kubernetes.

mod age;
mod annotate;
mod api_resources;
mod apply;
mod attach;
mod auth;
mod autoscale;
mod builder;
mod certificate;
mod cluster_info;
mod completion;
mod config;
mod cordon;
mod cp;
mod create;
mod cx;
mod debug;
mod delete;
mod describe;
mod diff;
mod drain;
mod edit;
pub mod encrypt;
mod events;
mod examples;
mod exec;
mod explain;
mod expose;
mod fail;
mod files;
mod get;
mod globals;
pub mod image;
mod kubeconfig;
mod kustomize;
mod logs;
mod mapper;
mod patch;
mod plugin;
mod pods;
mod port_forward;
mod print;
mod proxy;
mod raw;
mod reconcile;
mod replace;
mod rollout;
mod run;
mod scale;
mod set;
mod streams;
mod taint;
mod terminal;
pub mod token;
mod top;
mod usage;
mod version;
mod wait;
mod write;

use std::process::ExitCode;

use clap::{ArgAction, ArgMatches, Command, FromArgMatches, Subcommand};

use cx::{Cx, Done};
use fail::Failure;
pub use globals::Globals;

/// What to do.
#[derive(Debug, Clone, Subcommand)]
enum Verb {
    Annotate(annotate::Annotate),
    ApiResources(api_resources::Resources),
    ApiVersions(api_resources::Versions),
    Apply(apply::Args),
    Attach(attach::Args),
    Auth(auth::Args),
    Autoscale(autoscale::Args),
    Certificate(certificate::Args),
    ClusterInfo(cluster_info::Args),
    Completion(completion::Args),
    Config(config::Args),
    Cordon(cordon::Cordon),
    Cp(cp::Args),
    Create(Box<create::Args>),
    Debug(Box<debug::Args>),
    Delete(delete::Args),
    Describe(describe::Args),
    Diff(diff::Args),
    Drain(drain::Args),
    Edit(edit::Args),
    Events(events::Args),
    Exec(exec::Args),
    Explain(explain::Args),
    Expose(expose::Args),
    Get(get::Args),
    Image(image::Args),
    Kustomize(kustomize::Args),
    Label(annotate::Label),
    Logs(logs::Args),
    /// Flags of all commands
    Options,
    Patch(patch::Args),
    Plugin(plugin::Args),
    PortForward(port_forward::Args),
    Proxy(proxy::Args),
    Replace(replace::Args),
    Rollout(rollout::Args),
    Run(run::Args),
    Scale(scale::Args),
    Set(set::Args),
    Taint(taint::Args),
    Token(token::Args),
    /// See to the encryption of Secrets at rest
    SecretsEncrypt(encrypt::Args),
    Top(top::Args),
    Uncordon(cordon::Uncordon),
    Version(version::Args),
    Wait(wait::Args),
}

#[derive(Debug, Clone, clap::Args)]
struct Raw {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    verb: Verb,
}

/// The command line of `orch ctl`.
#[derive(Debug, Clone)]
pub struct Args(Raw);

/// kubectl's boolean flags take `=true` and `=false`; clap's do not, so they are made to here, all at once.
fn with_boolean_values(command: Command) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    let command = command.mut_args(|arg| match arg.get_action() {
        ArgAction::SetTrue => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_value("false")
            .default_missing_value("true")
            .value_parser(clap::value_parser!(bool))
            .hide_default_value(true)
            .hide_possible_values(true),
        _ => arg,
    });
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, with_boolean_values))
}

impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Raw::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl clap::Args for Args {
    fn augment_args(command: Command) -> Command {
        examples::with_examples(with_boolean_values(<Raw as clap::Args>::augment_args(command)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// The command, for completion scripts and manual pages.
pub fn command() -> Command {
    <Args as clap::Args>::augment_args(Command::new("ctl").about("Manages the cluster, as kubectl does"))
}

/// Runs a verb. Errors are told on stderr as kubectl words them; the exit code is kubectl's (that of the remote command
/// for `exec`). `images` reaches the node's container runtime, for `orch ctl image`.
pub async fn main(args: Args, images: &dyn image::Images) -> anyhow::Result<ExitCode> {
    let Raw { mut globals, verb } = args.0;
    let code = match run_verb(&mut globals, verb, images).await {
        Ok(code) => code,
        Err(failure) => {
            if !matches!(failure, Failure::Exit(_)) {
                eprintln!("{failure}");
            }
            failure.code()
        }
    };
    Ok(ExitCode::from(code))
}

/// `orch token`: the verb of the same name, without `ctl` in front.
#[derive(Debug, Clone, clap::Args)]
pub struct TokenArgs {
    #[command(flatten)]
    globals: Globals,
    #[command(flatten)]
    args: token::Args,
}

impl From<TokenArgs> for Args {
    fn from(TokenArgs { globals, args }: TokenArgs) -> Self {
        Self(Raw { globals, verb: Verb::Token(args) })
    }
}

/// `orch secrets-encrypt`: the verb of the same name, and flags of every verb.
#[derive(Debug, Clone, clap::Args)]
pub struct EncryptArgs {
    #[command(flatten)]
    globals: Globals,
    #[command(flatten)]
    args: encrypt::Args,
}

impl From<EncryptArgs> for Args {
    fn from(EncryptArgs { globals, args }: EncryptArgs) -> Self {
        Self(Raw { globals, verb: Verb::SecretsEncrypt(args) })
    }
}

/// Tells why the words behind `orch ctl` cannot be read, as kubectl tells it.
pub fn refuse(error: &clap::Error, words: &[String]) -> ExitCode {
    // A verb that nobody here knows may be a plugin's.
    let known = |word: &String| {
        command().get_subcommands().any(|c| c.get_name() == word || c.get_all_aliases().any(|a| a == word))
    };
    if error.kind() == clap::error::ErrorKind::InvalidSubcommand
        && words.first().is_some_and(|word| !known(word))
        && let Some(failure) = plugin::become_one(words)
    {
        eprintln!("{failure}");
        return ExitCode::FAILURE;
    }
    match usage::tell(error, words) {
        Some(usage::Told::Error(text)) => eprintln!("{text}"),
        Some(usage::Told::Help { text, wrong: false }) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Some(usage::Told::Help { text, wrong: true }) => eprint!("{text}"),
        None => error.exit(),
    }
    ExitCode::FAILURE
}

async fn run_verb(globals: &mut Globals, verb: Verb, images: &dyn image::Images) -> Done<u8> {
    let names_users = match &verb {
        Verb::Create(args) => args.names_users(),
        Verb::Set(args) => args.names_users(),
        _ => false,
    };
    if names_users {
        globals.user = None;
    }
    // These work without a server.
    match verb {
        Verb::Completion(args) => return completion::run(&args).map(|()| 0),
        Verb::Config(args) => return config::run(globals, args).map(|()| 0),
        Verb::Kustomize(args) => return kustomize::run(&args).map(|()| 0),
        Verb::Plugin(args) => return plugin::run(&args).map(|()| 0),
        Verb::Options => return cx::put(&usage::options()).map(|()| 0),
        Verb::Image(args) => return image::run(images, args).await.map(|()| 0),
        Verb::Version(args) if args.client => return version::client(&args).map(|()| 0),
        _ => {}
    }
    let globals = &*globals;
    let cx = kubeconfig::connect(globals).await?;
    // The limit is for requests: streams go on as long as they are wanted.
    let streams = matches!(
        verb,
        Verb::Attach(_)
            | Verb::Cp(_)
            | Verb::Debug(_)
            | Verb::Edit(_)
            | Verb::Exec(_)
            | Verb::PortForward(_)
            | Verb::Proxy(_)
            | Verb::Run(_)
    );
    // A watch ends with its time, and that is no failure.
    let watches = matches!(&verb, Verb::Get(args) if args.watches());
    let work = dispatch(&cx, verb);
    let ended = match write::duration(&globals.request_timeout).map_err(|_| Failure::Plain(BAD_TIMEOUT.into()))? {
        Some(limit) if !limit.is_zero() && !streams => tokio::time::timeout(limit, work)
            .await
            .unwrap_or_else(|_| if watches { Ok(()) } else { Err(too_slow(limit)) }),
        _ => work.await,
    };
    if let Err(failure) = &ended {
        cx.report(failure);
    }
    cx.tell();
    match cx.warnings() {
        n if n > 0 && ended.is_ok() && globals.warnings_as_errors => {
            Err(Failure::Plain(format!("{n} warning{} received", if n == 1 { "" } else { "s" })))
        }
        _ => Ok(cx.code()),
    }
}

const BAD_TIMEOUT: &str = "Invalid timeout value. Timeout must be a single integer in seconds, or an integer followed by a \
                           corresponding time unit (e.g. 1s | 2m | 3h)";

fn too_slow(limit: std::time::Duration) -> Failure {
    Failure::Plain(format!("the command took longer than --request-timeout={limit:?}"))
}

async fn dispatch(cx: &Cx, verb: Verb) -> Done {
    match verb {
        Verb::Annotate(args) => annotate::annotate(cx, args).await,
        Verb::ApiResources(args) => api_resources::resources(cx, args).await,
        Verb::ApiVersions(_) => api_resources::versions(cx).await,
        Verb::Apply(args) => apply::run(cx, args).await,
        Verb::Attach(args) => attach::run(cx, args).await,
        Verb::Auth(args) => auth::run(cx, args).await,
        Verb::Autoscale(args) => autoscale::run(cx, args).await,
        Verb::Certificate(args) => certificate::run(cx, args).await,
        Verb::ClusterInfo(args) => cluster_info::run(cx, args).await,
        Verb::Completion(_)
        | Verb::Config(_)
        | Verb::Image(_)
        | Verb::Kustomize(_)
        | Verb::Options
        | Verb::Plugin(_) => Ok(()),
        Verb::Cordon(args) => cordon::cordon(cx, args).await,
        Verb::Cp(args) => cp::run(cx, args).await,
        Verb::Create(args) => create::run(cx, *args).await,
        Verb::Debug(args) => debug::run(cx, *args).await,
        Verb::Delete(args) => delete::run(cx, args).await,
        Verb::Describe(args) => describe::run(cx, args).await,
        Verb::Diff(args) => diff::run(cx, args).await,
        Verb::Drain(args) => drain::run(cx, args).await,
        Verb::Edit(args) => edit::run(cx, args).await,
        Verb::Events(args) => events::run(cx, args).await,
        Verb::Exec(args) => exec::run(cx, args).await,
        Verb::Explain(args) => explain::run(cx, args).await,
        Verb::Expose(args) => expose::run(cx, args).await,
        Verb::Get(args) => get::run(cx, args).await,
        Verb::Label(args) => annotate::label(cx, args).await,
        Verb::Logs(args) => logs::run(cx, args).await,
        Verb::Patch(args) => patch::run(cx, args).await,
        Verb::PortForward(args) => port_forward::run(cx, args).await,
        Verb::Proxy(args) => proxy::run(cx, args).await,
        Verb::Replace(args) => replace::run(cx, args).await,
        Verb::Rollout(args) => rollout::run(cx, args).await,
        Verb::Run(args) => run::run(cx, args).await,
        Verb::Scale(args) => scale::run(cx, args).await,
        Verb::Set(args) => set::run(cx, args).await,
        Verb::Taint(args) => taint::run(cx, args).await,
        Verb::Token(args) => token::run(cx, args).await,
        Verb::SecretsEncrypt(args) => encrypt::run(cx, args).await,
        Verb::Top(args) => top::run(cx, args).await,
        Verb::Uncordon(args) => cordon::uncordon(cx, args).await,
        Verb::Version(args) => version::run(cx, &args).await,
        Verb::Wait(args) => wait::run(cx, args).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn booleans_take_values_and_join() {
        let parse = |line: &str| {
            let matches = command().no_binary_name(true).try_get_matches_from(line.split(' ')).unwrap();
            Args::from_arg_matches(&matches).unwrap().0
        };
        let Verb::Exec(_) = parse("exec -it pod -- sh -c ls").verb else { panic!("not exec") };
        let raw = parse("get pods --watch=false -A -n x --insecure-skip-tls-verify=true");
        assert!(raw.globals.insecure_skip_tls_verify);
        assert_eq!(raw.globals.namespace.as_deref(), Some("x"));
        for line in [
            "apply -f a.yaml --server-side --force-conflicts",
            "apply -f a,b --dry-run=server -o yaml",
            "apply -f - --dry-run",
            "delete pod x --wait=false --grace-period=0 --force --cascade",
            "delete pod x --grace-period=-1",
            "create deployment web --image=a --replicas=3 -- cmd --flag",
            "create secret generic s --from-literal=a=b",
            "create -f x.yaml",
            "run x --image=i --rm -it --restart=Never --command -- sh",
            "label pods x a=b c- --overwrite",
            "taint nodes n a=b:NoSchedule a-",
            "rollout undo deployment/web --to-revision=2",
            "set image deployment/web c=img",
            "set env deployment/web A=b C-",
            "wait --for=condition=Ready pod/x --timeout=30s",
            "logs -f deploy/web --tail=10 -c c",
            "logs x -p --all-containers",
            "port-forward svc/web 8080:80",
            "get pods -o wide --sort-by=.metadata.name -l a=b",
            "auth can-i create pods",
            "version --client",
            "image import FILE",
            "token create",
            "expose deployment web --port=80",
            "scale --replicas=3 deployment/web",
            "patch pod x -p {} --type merge",
            "drain n --ignore-daemonsets",
        ] {
            parse(line);
        }
    }
}
