//! `debug`: a container to look around with, in a running pod, in a copy of a pod, or on a node.
//!
//! Flow: flags and the target → [`plan`] (pure: what to patch or create) with a row of [`profile`] → the server → attach.
//!
//! Rules: kubectl `pkg/cmd/debug`.

mod plan;
mod profile;

use http::Method;
use serde_json::Value;

use super::attach;
use super::builder::{Info, Query, of_object};
use super::cx::{Call, Cx, Done, say};
use super::fail::{Failure, fail, os};
use super::files::FileFlags;
use super::pods;
use super::run::is_reference;
use super::write::{STRATEGIC, difference};
use crate::api::codec::yaml;
use crate::api::meta::gvk;
use crate::api::value::ValueExt;
use crate::client::DeleteOptions;
use crate::client::res::PODS;
use crate::util::random;
use plan::Wish;
use profile::Profile;

/// Letters behind a name that is made up.
const SUFFIX: usize = 5;
/// Who owns what is written.
const MANAGER: &str = "kubectl-debug";

/// Look around in a pod or on a node
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// POD or TYPE/NAME…
    targets: Vec<String>,
    #[command(flatten)]
    files: FileFlags,
    /// The words behind -- are arguments, not the command
    #[arg(long)]
    arguments_only: bool,
    /// Attach to the container once it runs; so it is with -i
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    attach: Option<bool>,
    /// Name of the container
    #[arg(short, long, default_value = "", hide_default_value = true)]
    container: String,
    /// Work with a copy of the pod under this name
    #[arg(long, default_value = "", hide_default_value = true)]
    copy_to: String,
    /// Delete the pod that was copied
    #[arg(long)]
    replace: bool,
    /// Variables, KEY=VALUE,…
    #[arg(long, value_delimiter = ',', value_parser = pair)]
    env: Vec<(String, String)>,
    /// Image of the container
    #[arg(long, default_value = "", hide_default_value = true)]
    image: String,
    /// Other images for the copy's containers, NAME=IMAGE,…; * is all of them
    #[arg(long, value_delimiter = ',', value_parser = pair)]
    set_image: Vec<(String, String)>,
    /// Always, IfNotPresent or Never
    #[arg(long, default_value = "", hide_default_value = true)]
    image_pull_policy: String,
    #[command(flatten)]
    keep: Keep,
    /// The copy goes to the same node
    #[arg(long)]
    same_node: bool,
    /// Containers of the copy see each other's processes
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    share_processes: Option<bool>,
    /// See the processes of this container
    #[arg(long, default_value = "", hide_default_value = true)]
    target: String,
    /// legacy, general, baseline, netadmin, restricted or sysadmin
    #[arg(long)]
    profile: Option<String>,
    /// A file with fields of a container, put over the profile's
    #[arg(long, default_value = "", hide_default_value = true)]
    custom: String,
    /// Keep standard input open
    #[arg(short = 'i', long)]
    stdin: bool,
    /// A terminal
    #[arg(short, long)]
    tty: bool,
    /// No messages of our own
    #[arg(short, long)]
    quiet: bool,
    /// The command and its arguments
    #[arg(last = true)]
    command: Vec<String>,
}

/// What a copy keeps of its pod, where the profile does not keep all.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Keep {
    /// Keep the labels in the copy
    #[arg(long = "keep-labels")]
    labels: bool,
    /// Keep the annotations in the copy
    #[arg(long = "keep-annotations")]
    annotations: bool,
    /// Keep the liveness probes in the copy
    #[arg(long = "keep-liveness")]
    liveness: bool,
    /// Keep the readiness probes in the copy
    #[arg(long = "keep-readiness")]
    readiness: bool,
    /// Keep the startup probes in the copy
    #[arg(long = "keep-startup")]
    startup: bool,
    /// Run the init containers in the copy
    #[arg(long = "keep-init-containers", default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    init_containers: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or(format!("{text} must be formatted as key=value"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    let name = args.profile.as_deref().unwrap_or(profile::LEGACY);
    let Some(profile) = profile::find(name) else { fail!("unknown profile: {name}") };
    let custom = custom(&args.custom)?;
    check(&args, custom.as_ref())?;
    if !args.target.is_empty() && !args.quiet {
        say(format!(
            "Targeting container {:?}. If you don't see processes from this container it may be because the container runtime doesn't support this feature.",
            args.target
        ))?;
    }
    if name == profile::LEGACY {
        eprintln!(
            "--profile=legacy is deprecated and will be removed in the future. It is recommended to explicitly specify a profile, for example \"--profile=general\"."
        );
    }
    let mut infos = if args.files.is_empty() {
        Vec::new()
    } else {
        (Query { files: Some(&args.files), fetch: true, ..Query::default() }).infos(cx).await?
    };
    for target in &args.targets {
        infos.push(pods::target(cx, target).await?);
    }
    for info in infos {
        one(cx, &args, profile, custom.as_ref(), info).await?;
    }
    Ok(())
}

/// What is wrong with the flags together.
fn check(args: &Args, custom: Option<&Value>) -> Done {
    let (image, images) = (!args.image.is_empty(), !args.set_image.is_empty());
    if args.attach == Some(true) && !image && args.container.is_empty() {
        fail!("you must specify --container or create a new container using --image in order to attach.");
    }
    if args.copy_to.is_empty() {
        let of_copies = [(args.replace, "--replace"), (args.same_node, "--same-node"), (images, "--set-image")];
        if let Some((_, flag)) = of_copies.into_iter().find(|(given, _)| *given) {
            fail!("{flag} may only be used with --copy-to.");
        }
        if !image {
            fail!("you must specify --image when not using --copy-to.");
        }
    } else if !image && !images && args.command.is_empty() {
        fail!("you must specify --image, --set-image or command arguments.");
    } else if !args.command.is_empty() && args.container.is_empty() && !image {
        fail!("you must specify an existing container or a new image when specifying args.");
    }
    if image && !is_reference(&args.image) {
        fail!("invalid image name {:?}: invalid reference format", args.image);
    }
    if args.targets.is_empty() && args.files.is_empty() {
        fail!("NAME or filename is required for debug");
    }
    if !matches!(args.image_pull_policy.as_str(), "" | "Always" | "IfNotPresent" | "Never") {
        fail!("invalid image pull policy: {}", args.image_pull_policy);
    }
    if let Some((name, image)) = args.set_image.iter().find(|(_, image)| !is_reference(image)) {
        fail!("invalid image name {image:?} for container {name:?}: invalid reference format");
    }
    if !args.target.is_empty() && !args.copy_to.is_empty() {
        fail!("--target is incompatible with --copy-to. Use --share-processes instead.");
    }
    if args.tty && !args.stdin {
        fail!("-i/--stdin is required for containers with -t/--tty=true");
    }
    let fixed = ["name", "command", "image", "lifecycle", "volumeDevices"];
    if custom.is_some_and(|c| fixed.iter().any(|field| c.get(field).is_some())) {
        fail!("name, command, image, lifecycle and volume devices are not modifiable via custom profile");
    }
    Ok(())
}

/// The fields of `--custom`.
fn custom(path: &str) -> Done<Option<Value>> {
    if path.is_empty() {
        return Ok(None);
    }
    let bytes = std::fs::read(path).map_err(|e| {
        Failure::Plain(format!("must pass a container spec json file for custom profile: open {path}: {}", os(&e)))
    })?;
    match yaml::parse(&bytes) {
        Ok(value) if value.is_object() => Ok(Some(value)),
        Ok(_) => fail!("{path} does not contain a valid container spec"),
        Err(e) => fail!("{path} does not contain a valid container spec: {e}"),
    }
}

async fn one(cx: &Cx, args: &Args, profile: &Profile, custom: Option<&Value>, info: Info) -> Done {
    let wish = Wish {
        container: &args.container,
        image: &args.image,
        pull_policy: &args.image_pull_policy,
        command: &args.command,
        arguments_only: args.arguments_only,
        env: &args.env,
        stdin: args.stdin,
        tty: args.tty,
        target: &args.target,
        profile,
        custom,
    };
    let (pod, container) = match (&*info.resource.res.group, &*info.resource.res.plural) {
        ("", "nodes") => on_node(cx, args, &wish, &info).await?,
        ("", "pods") if args.copy_to.is_empty() => in_pod(cx, args, &wish, &info).await?,
        ("", "pods") => in_copy(cx, args, &wish, &info).await?,
        _ => {
            let (group, version) = gvk::split(info.object.str_at("/apiVersion").unwrap_or_default());
            let kind = info.object.str_at("/kind").unwrap_or_default();
            fail!("{:?} not supported by debug", format!("{group}/{version}, Kind={kind}"))
        }
    };
    if !args.attach.unwrap_or(args.stdin) || container.is_empty() {
        return Ok(());
    }
    let resource = cx.mapper().await?.find("pods")?.clone();
    let pod = of_object(&resource, pod);
    let ended = pods::until_container(cx, &pod, &container, args.quiet).await?;
    if ended {
        return super::logs::whole(cx, &pod, &container).await;
    }
    attach::or_log(cx, &pod, &container, args.stdin, args.tty, args.quiet).await
}

async fn create(cx: &Cx, ns: &str, pod: &Value) -> Done<Value> {
    cx.call(Call::new(Method::POST, PODS.collection(ns)).query("fieldManager", MANAGER).body(pod)).await
}

/// A pod in the node's own namespaces.
async fn on_node(cx: &Cx, args: &Args, wish: &Wish<'_>, node: &Info) -> Done<(Value, String)> {
    let name = format!("node-debugger-{}-{}", node.name, random::suffix(SUFFIX));
    let container = if args.container.is_empty() { "debugger" } else { &args.container };
    if !args.quiet {
        say(format!("Creating debugging pod {name} with container {container} on node {}.", node.name))?;
    }
    let pod = create(cx, &cx.ns, &plan::on_node(wish, &node.name, &name, container)?).await?;
    Ok((pod, container.to_owned()))
}

/// A container beside those of the pod that runs.
async fn in_pod(cx: &Cx, args: &Args, wish: &Wish<'_>, pod: &Info) -> Done<(Value, String)> {
    let name = container_name(args, &pod.object)?;
    let wanted = plan::in_pod(wish, &pod.object, &name)?;
    warn(&wanted, "ephemeralContainers", &name);
    let (_, patch) = difference(&pod.object, &wanted, &pod.object);
    let path = pod.path(Some("ephemeralcontainers"));
    let call = Call::new(Method::PATCH, path).query("fieldManager", MANAGER).media(STRATEGIC).body(&patch);
    match cx.call(call).await {
        Err(Failure::Server { status, .. })
            if status.code == 404 && status.details.str_at("/name").unwrap_or_default().is_empty() =>
        {
            fail!("ephemeral containers are disabled for this cluster (error from server: {:?})", status.message)
        }
        answer => Ok((answer?, name)),
    }
}

/// A copy of the pod, with one more container or with others.
async fn in_copy(cx: &Cx, args: &Args, wish: &Wish<'_>, pod: &Info) -> Done<(Value, String)> {
    let how = plan::Copy {
        name: &args.copy_to,
        images: &args.set_image,
        same_node: args.same_node,
        share_processes: args.share_processes,
        keep: &args.keep,
    };
    let container = match plan::container_of_copy(wish, &how, &pod.object)? {
        plan::Of::None => String::new(),
        plan::Of::Named(name) => name,
        plan::Of::New => container_name(args, &pod.object)?,
    };
    let copy = plan::copy(wish, &how, &pod.object, &container)?;
    warn(&copy, "containers", &container);
    let made = create(cx, &pod.ns, &copy).await?;
    if args.replace {
        let now = DeleteOptions { grace: Some(0), ..DeleteOptions::default() };
        cx.call(Call::new(Method::DELETE, pod.path(None)).body(&now.to_value())).await?;
    }
    Ok((made, container))
}

/// The name that was asked for, or one that the pod does not have yet, which is told.
fn container_name(args: &Args, pod: &Value) -> Done<String> {
    if !args.container.is_empty() {
        return Ok(args.container.clone());
    }
    let mut name = format!("debugger-{}", random::suffix(SUFFIX));
    while ["containers", "initContainers", "ephemeralContainers"].iter().any(|f| pods::names(pod, f).contains(&&*name))
    {
        name = format!("debugger-{}", random::suffix(SUFFIX));
    }
    if !args.quiet {
        say(format!("Defaulting debug container name to {name}."))?;
    }
    Ok(name)
}

/// Tells that the pod's user may take away what the profile gives.
fn warn(pod: &Value, field: &str, container: &str) {
    if plan::loses_rights(pod, field, container) {
        eprintln!(
            "Warning: Non-root user is configured for the entire target Pod, and some capabilities granted by debug profile may not work. Please consider using \"--custom\" with a custom profile that specifies \"securityContext.runAsUser: 0\"."
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test_case("p --image=b" => ""; "a container in a pod")]
    #[test_case("p --copy-to=q --set-image=*=b" => ""; "images of a copy")]
    #[test_case("p" => "error: you must specify --image when not using --copy-to.")]
    #[test_case("--image=b" => "error: NAME or filename is required for debug")]
    #[test_case("p --image=b -t" => "error: -i/--stdin is required for containers with -t/--tty=true")]
    #[test_case("p --image=b --replace" => "error: --replace may only be used with --copy-to.")]
    #[test_case("p --image=b --same-node" => "error: --same-node may only be used with --copy-to.")]
    #[test_case("p --set-image=a=b" => "error: --set-image may only be used with --copy-to.")]
    #[test_case("p --copy-to=q" => "error: you must specify --image, --set-image or command arguments.")]
    #[test_case("p --copy-to=q -- sh" => "error: you must specify an existing container or a new image when specifying args."; "words for nothing")]
    #[test_case("p --image=B:a:d" => "error: invalid image name \"B:a:d\": invalid reference format")]
    #[test_case("p --copy-to=q --set-image=a=B:a:d" => "error: invalid image name \"B:a:d\" for container \"a\": invalid reference format")]
    #[test_case("p --image=b --image-pull-policy=No" => "error: invalid image pull policy: No")]
    #[test_case("p --image=b --copy-to=q --target=c" => "error: --target is incompatible with --copy-to. Use --share-processes instead.")]
    #[test_case("p --copy-to=q --set-image=a=b --attach" => "error: you must specify --container or create a new container using --image in order to attach.")]
    fn flags_together(line: &str) -> String {
        use clap::Parser;
        let line = Line::try_parse_from(["debug"].into_iter().chain(line.split(' '))).unwrap();
        check(&line.args, None).err().map_or(String::new(), |e| e.to_string())
    }

    #[test]
    fn what_is_a_containers_own_is_not_for_a_profile() {
        use clap::Parser;
        let line = Line::try_parse_from(["debug", "p", "--image=b"]).unwrap();
        assert!(check(&line.args, Some(&serde_json::json!({"image": "x"}))).is_err());
        assert!(check(&line.args, Some(&serde_json::json!({"env": []}))).is_ok());
    }
}
