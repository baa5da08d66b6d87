//! `run`: one pod of an image, perhaps with a terminal on it.

use serde_json::{Value, json};

use super::attach;
use super::builder::{Info, of_flags};
use super::create::{object, pairs, set_unless_empty};
use super::cx::{Cx, Done, say};
use super::delete::{self, Removal};
use super::fail::{Failure, fail};
use super::logs;
use super::patch::Overrides;
use super::pods::{self, RunningFlag};
use super::print::{DryRun, PrintFlags};
use super::write::{WriteFlags, with_saved_config};
use crate::api::value::ValueExt;

/// Run an image in a pod
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Name of the pod
    name: String,
    /// Image
    #[arg(long, required = true)]
    image: String,
    #[command(flatten)]
    print: PrintFlags,
    #[command(flatten)]
    write: WriteFlags,
    /// Always, OnFailure or Never
    #[arg(long, default_value = "Always")]
    restart: String,
    /// Variables, KEY=VALUE
    #[arg(long)]
    env: Vec<String>,
    /// Labels, KEY=VALUE,…
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    labels: String,
    /// Annotations, KEY=VALUE
    #[arg(long)]
    annotations: Vec<String>,
    /// Port that the container opens
    #[arg(long, default_value = "", hide_default_value = true)]
    port: String,
    /// Make a service too (with --port)
    #[arg(long)]
    expose: bool,
    /// Always, IfNotPresent or Never
    #[arg(long, default_value = "", hide_default_value = true)]
    image_pull_policy: String,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    removal: Removal,
    #[command(flatten)]
    running: RunningFlag,
    /// Keep what was created for a later apply
    #[arg(long)]
    save_config: bool,
    /// Leave standard input open when the first who attached to it leaves
    #[arg(long)]
    leave_stdin_open: bool,
    /// The words behind -- replace the image's command, not its arguments
    #[arg(long)]
    command: bool,
    /// Keep standard input open
    #[arg(short = 'i', long)]
    stdin: bool,
    /// A terminal
    #[arg(short, long)]
    tty: bool,
    /// Attach to the pod
    #[arg(long)]
    attach: bool,
    /// Delete the pod after its end
    #[arg(long)]
    rm: bool,
    /// No messages
    #[arg(short, long)]
    quiet: bool,
    /// Run with all rights of the host
    #[arg(long)]
    privileged: bool,
    /// Arguments, or the command; behind -- where they look like flags
    words: Vec<String>,
}

impl Args {
    fn attaches(&self) -> bool {
        self.attach || self.stdin || self.tty
    }
}

fn pod(args: &Args) -> Done<Value> {
    let mut container = json!({"name": args.name, "image": args.image, "resources": {}});
    let field = if args.command { "/command" } else { "/args" };
    set_unless_empty(&mut container, field, json!(args.words));
    let mut env = Vec::new();
    for text in &args.env {
        let Some((key, value)) = text.split_once('=').filter(|(k, _)| !k.is_empty()) else {
            fail!("invalid env: {text}")
        };
        env.push(json!({"name": key, "value": value}));
    }
    set_unless_empty(&mut container, "/env", env.into());
    set_unless_empty(&mut container, "/imagePullPolicy", args.image_pull_policy.clone().into());
    if let Some(port) = port_of(&args.port)? {
        container["ports"] = json!([{"containerPort": port}]);
    }
    if args.stdin {
        container["stdin"] = true.into();
        if !args.leave_stdin_open {
            container["stdinOnce"] = true.into();
        }
    }
    if args.tty {
        container["tty"] = true.into();
    }
    if args.privileged {
        container["securityContext"] = json!({"privileged": true});
    }
    let mut pod = object("v1", "Pod", &args.name);
    let labels: Vec<String> = args.labels.split(',').filter(|l| !l.is_empty()).map(str::to_owned).collect();
    if let Some(bad) = labels.iter().find(|l| !l.contains('=')) {
        fail!("unexpected label spec: {bad}");
    }
    let labels = if labels.is_empty() { json!({"run": args.name}) } else { pairs(&labels, "labels")?.into() };
    pod.set_at("/metadata/labels", labels);
    set_unless_empty(&mut pod, "/metadata/annotations", pairs(&args.annotations, "annotations")?.into());
    pod["spec"] = json!({"containers": [container], "restartPolicy": args.restart, "dnsPolicy": "ClusterFirst"});
    args.overrides.over(pod)
}

/// The number of `--port`.
fn port_of(text: &str) -> Done<Option<i64>> {
    if text.is_empty() {
        return Ok(None);
    }
    let port = text.parse().map_err(|_| Failure::Plain(format!("strconv.Atoi: parsing {text:?}: invalid syntax")))?;
    Ok(Some(port))
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    check(&args).map_err(|e| Failure::Plain(format!("{e}\nSee 'kubectl run -h' for help and examples")))?;
    if !is_reference(&args.image) {
        fail!("Invalid image name {:?}: invalid reference format", args.image);
    }
    let info = of_flags(cx, pod(&args)?, args.write.dry_run).await?;
    run_pod(cx, args, info).await
}

/// Whether a text can name an image: upstream's `distribution/reference`, without its limits of length.
pub fn is_reference(image: &str) -> bool {
    const NAME: &str = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*";
    let host = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?";
    let whole =
        format!(r"^(?:{host}/)?{NAME}(?:/{NAME})*(?::\w[\w.-]{{0,127}})?(?:@[A-Za-z][\w.+-]*:[0-9a-fA-F]{{32,}})?$");
    regex::Regex::new(&whole).is_ok_and(|r| r.is_match(image))
}

/// What is wrong with the flags together.
fn check(args: &Args) -> Result<(), String> {
    if !matches!(args.restart.as_str(), "Always" | "OnFailure" | "Never") {
        return Err(format!("invalid restart policy: {}", args.restart));
    }
    if args.rm && !args.attaches() {
        return Err("--rm should only be used for attached containers".into());
    }
    if args.attaches() && args.write.dry_run != DryRun::None {
        return Err(
            "--dry-run=[server|client] can't be used with attached containers options (--attach, --stdin, or --tty)"
                .into(),
        );
    }
    if args.tty && !args.stdin {
        return Err("-i/--stdin is required for containers with -t/--tty=true".into());
    }
    if !matches!(args.image_pull_policy.as_str(), "" | "Always" | "IfNotPresent" | "Never") {
        return Err(format!("invalid image pull policy: {}", args.image_pull_policy));
    }
    if args.expose && args.port.is_empty() {
        return Err("--port must be set when exposing a service".into());
    }
    Ok(())
}

async fn run_pod(cx: &Cx, args: Args, info: Info) -> Done {
    let writer = args.write.writer("kubectl-run");
    let save = args.save_config && !writer.dry_run.is_client();
    let object = if save { with_saved_config(&info.object) } else { info.object.clone() };
    let made = writer.create(cx, &info.resource.res, &info.ns, &object).await?;
    if args.expose {
        expose(cx, &args, &info).await?;
    }
    if !args.attaches() || !writer.dry_run.suffix().is_empty() {
        return args.print.done(&info.resource, &made, "created", writer.dry_run);
    }
    let ended = follow(cx, &args, &info).await;
    if args.rm {
        delete::and_wait(cx, &info, &args.removal).await?;
        if !args.quiet {
            say(format!("pod {:?} deleted", info.name))?;
        }
    }
    ended
}

async fn expose(cx: &Cx, args: &Args, info: &Info) -> Done {
    let port = port_of(&args.port)?;
    let mut service = object("v1", "Service", &args.name);
    service["spec"] = json!({"selector": info.object["metadata"]["labels"],
        "ports": [{"port": port, "protocol": "TCP", "targetPort": port}]});
    let service = of_flags(cx, service, args.write.dry_run).await?;
    let writer = args.write.writer("kubectl-run");
    let made = writer.create(cx, &service.resource.res, &service.ns, &service.object).await?;
    args.print.done(&service.resource, &made, "created", writer.dry_run)
}

/// Attaches to the running pod; one that ended already shows its log.
async fn follow(cx: &Cx, args: &Args, info: &Info) -> Done {
    let pod = pods::until_started(cx, info, &args.running).await?;
    if pods::is_finished(&pod) {
        logs::whole(cx, info, &args.name).await?;
    } else {
        attach::or_log(cx, info, &args.name, args.stdin, args.tty, args.quiet).await?;
    }
    if args.restart == "Always" {
        return Ok(());
    }
    let pod = pods::until_finished(cx, info).await?;
    match pods::exit_code(&pod, &args.name) {
        0 => Ok(()),
        code => {
            if !args.quiet {
                let reason = pods::end_reason(&pod, &args.name);
                eprintln!("pod {}/{} terminated ({reason})", info.ns, info.name);
            }
            Err(Failure::Exit(u8::try_from(code).unwrap_or(1)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn flags_become_a_pod() {
        let line = Line::try_parse_from(
            "run x --image=i --env=A=b --port=80 --restart=Never -l a=b --command -- sh -c".split(' '),
        )
        .unwrap();
        let pod = pod(&line.args).unwrap();
        assert_eq!(pod["spec"]["containers"][0]["command"], json!(["sh", "-c"]));
        assert_eq!(pod["spec"]["containers"][0]["env"], json!([{"name": "A", "value": "b"}]));
        assert_eq!(pod["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(pod["spec"]["restartPolicy"], "Never");
    }

    #[test]
    fn images_are_named_as_references() {
        for good in [
            "busybox",
            "reg:5000/a/b_c:v1",
            "docker.io/library/nginx",
            "a@sha256:0123456789abcdef0123456789abcdef",
            "localhost/x",
        ] {
            assert!(is_reference(good), "{good}");
        }
        for bad in ["", "Bad:Im:age", "UPPER", "a b", "a:", "/a"] {
            assert!(!is_reference(bad), "{bad}");
        }
    }
}
