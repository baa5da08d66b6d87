//! `top`: what nodes and pods use, as a metrics server of the cluster says (`metrics.k8s.io`, an aggregated API).
//!
//! Flow: lists of the metrics API → [`Row`]s → columns. The rows are pure.
//!
//! Rules: kubectl `pkg/cmd/top`, `pkg/metricsutil`.

use std::cmp::Reverse;
use std::time::Duration;

use serde_json::Value;

use super::cx::{Call, Cx, Done, put};
use super::fail::{Failure, fail};
use super::print::tab;
use crate::api::meta::quantity::Quantity;
use crate::api::value::ValueExt;
use crate::client::Res;
use crate::client::res::{NODES, PODS};
use crate::util::order::Arrange;

const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";
static POD_METRICS: Res = Res::new(GROUP, VERSION, "pods", "PodMetrics", true);
static NODE_METRICS: Res = Res::new(GROUP, VERSION, "nodes", "NodeMetrics", false);
/// A pod that is older and has no metrics is worth a word.
const FIRST_METRICS: Duration = Duration::from_secs(120);

/// Show what nodes and pods use
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum What {
    /// CPU and memory of nodes
    #[command(visible_aliases = ["nodes", "no"])]
    Node(Node),
    /// CPU and memory of pods
    #[command(visible_aliases = ["pods", "po"])]
    Pod(Pod),
}

/// Flags of both.
#[derive(Debug, Clone, Default, clap::Args)]
struct Common {
    /// Only this one
    names: Vec<String>,
    /// Label selector
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: String,
    /// cpu or memory, the most first
    #[arg(long, default_value = "", hide_default_value = true)]
    sort_by: String,
    /// No line of headers
    #[arg(long)]
    no_headers: bool,
    /// No effect: JSON is asked for
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    use_protocol_buffers: Option<bool>,
}

#[derive(Debug, Clone, clap::Args)]
struct Node {
    #[command(flatten)]
    common: Common,
    /// Per cent of all that the node has, not of what pods may have
    #[arg(long)]
    show_capacity: bool,
}

#[derive(Debug, Clone, clap::Args)]
struct Pod {
    #[command(flatten)]
    common: Common,
    /// Field selector
    #[arg(long, default_value = "", hide_default_value = true)]
    field_selector: String,
    /// Each container
    #[arg(long)]
    containers: bool,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// The sum too
    #[arg(long)]
    sum: bool,
}

impl Common {
    fn check(&self, usage: &str, selects: bool, selectors: &str) -> Done {
        if self.names.len() > 1 {
            let verb = usage.split(' ').next().unwrap_or_default();
            fail!("{usage}\nSee 'kubectl top {verb} -h' for help and examples");
        }
        if !matches!(self.sort_by.as_str(), "" | "cpu" | "memory") {
            fail!("--sort-by accepts only cpu or memory");
        }
        if !self.names.is_empty() && selects {
            fail!("only one of NAME or {selectors} can be provided");
        }
        Ok(())
    }
}

/// What is used, or can be.
#[derive(Debug, Clone, Copy)]
struct Usage {
    cpu: Quantity,
    memory: Quantity,
}

impl Usage {
    fn none() -> Self {
        Self { cpu: Quantity::units(0), memory: Quantity::units(0) }
    }

    /// Of a `ResourceList`.
    fn of(list: &Value) -> Self {
        let amount =
            |name: &str| list[name].as_str().and_then(|text| Quantity::parse(text).ok()).unwrap_or(Quantity::units(0));
        Self { cpu: amount("cpu"), memory: amount("memory") }
    }

    fn plus(self, other: Self) -> Self {
        Self { cpu: self.cpu.plus(other.cpu), memory: self.memory.plus(other.memory) }
    }

    fn cells(&self) -> [String; 2] {
        [format!("{}m", self.cpu.milli_value()), format!("{}Mi", self.memory.value() / (1 << 20))]
    }

    /// What comes first where the most comes first.
    fn rank(&self, by: &str) -> Reverse<i128> {
        Reverse(match by {
            "cpu" => self.cpu.nanos(),
            "memory" => self.memory.nanos(),
            _ => 0,
        })
    }
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    match args.what {
        What::Node(args) => nodes(cx, &args).await,
        What::Pod(args) => pods(cx, &args).await,
    }
}

/// Fails where no metrics are served.
async fn available(cx: &Cx) -> Done {
    let groups = cx.call(Call::get("/apis")).await?;
    let served = groups.items_at("/groups").iter().filter(|g| g["name"] == GROUP);
    if !served.flat_map(|g| g.items_at("/versions")).any(|v| v["version"] == VERSION) {
        fail!("Metrics API not available");
    }
    Ok(())
}

/// One object, or those of a list, at once: a metrics server has no pages.
async fn read(cx: &Cx, res: &Res, ns: &str, name: Option<&String>, labels: &str, fields: &str) -> Done<Vec<Value>> {
    if let Some(name) = name {
        return Ok(vec![cx.get(res, ns, name).await?]);
    }
    let call = Call::get(res.collection(ns)).query("labelSelector", labels).query("fieldSelector", fields);
    let mut list = cx.call(call).await?;
    Ok(super::builder::items_of(&mut list))
}

async fn nodes(cx: &Cx, args: &Node) -> Done {
    let common = &args.common;
    common.check("node [NAME | -l label]", !common.selector.is_empty(), "--selector")?;
    available(cx).await?;
    let name = common.names.first();
    let metrics = read(cx, &NODE_METRICS, "", name, &common.selector, "").await?;
    if metrics.is_empty() {
        fail!("metrics not available yet");
    }
    let nodes = read(cx, &NODES, "", name, &common.selector, "").await?;
    put(&tab::align(&node_rows(&metrics, &nodes, args), tab::GET))
}

fn name_of(object: &Value) -> &str {
    object.str_at("/metadata/name").unwrap_or_default()
}

fn node_rows(metrics: &[Value], nodes: &[Value], args: &Node) -> String {
    let field = if args.show_capacity { "capacity" } else { "allocatable" };
    let mut rows: Vec<(&str, Usage)> = metrics.iter().map(|m| (name_of(m), Usage::of(&m["usage"]))).collect();
    rows.arrange_by_key(|(name, usage)| (usage.rank(&args.common.sort_by), *name));
    let mut out = String::new();
    if !args.common.no_headers {
        line(&mut out, ["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"]);
    }
    for (name, usage) in &rows {
        let [cpu, memory] = usage.cells();
        let node = nodes.iter().find(|n| name_of(n) == *name).map(|n| &n["status"][field]);
        // Without the node there is nothing to compare with, and kubectl leaves the columns out.
        match node {
            None => line(&mut out, [*name, &cpu, &memory]),
            Some(has) => {
                let all = Usage::of(has);
                line(
                    &mut out,
                    [*name, &cpu, &percent(usage.cpu, all.cpu), &memory, &percent(usage.memory, all.memory)],
                );
            }
        }
    }
    let mut silent: Vec<&str> = nodes.iter().map(name_of).filter(|n| rows.iter().all(|(name, _)| name != n)).collect();
    silent.sort_unstable();
    for name in silent {
        line(&mut out, [name, "<unknown>", "<unknown>", "<unknown>", "<unknown>"]);
    }
    out
}

fn percent(part: Quantity, whole: Quantity) -> String {
    let whole = whole.nanos();
    format!("{}%", if whole == 0 { 0 } else { part.nanos() * 100 / whole })
}

/// Cells, each with a tab behind it.
fn line<const N: usize>(out: &mut String, cells: [&str; N]) {
    for cell in cells {
        out.push_str(cell);
        out.push('\t');
    }
    out.push('\n');
}

async fn pods(cx: &Cx, args: &Pod) -> Done {
    let common = &args.common;
    let selects = !common.selector.is_empty() || !args.field_selector.is_empty();
    common.check("pod [NAME | -l label]", selects, "selector")?;
    available(cx).await?;
    let ns = if args.all_namespaces { "" } else { &cx.ns };
    let metrics = read(cx, &POD_METRICS, ns, common.names.first(), &common.selector, &args.field_selector).await?;
    if metrics.is_empty() {
        return none_yet(cx, args, ns).await;
    }
    put(&tab::align(&pod_rows(&metrics, args), tab::GET))
}

/// Says why there are no metrics of pods.
async fn none_yet(cx: &Cx, args: &Pod, ns: &str) -> Done {
    let pods = read(cx, &PODS, ns, None, &args.common.selector, &args.field_selector).await?;
    let now = jiff::Timestamp::now();
    for pod in &pods {
        let made = pod.str_at("/metadata/creationTimestamp").and_then(|t| t.parse::<jiff::Timestamp>().ok());
        let age = made.map(|made| now.duration_since(made)).filter(|age| age.unsigned_abs() > FIRST_METRICS);
        if let Some(age) = age {
            let ns = pod.str_at("/metadata/namespace").unwrap_or_default();
            fail!("Metrics not available for pod {ns}/{}, age: {:?}", name_of(pod), age.unsigned_abs());
        }
    }
    if !pods.is_empty() {
        return Err(Failure::Plain("metrics not available yet".into()));
    }
    match ns {
        "" => eprintln!("No resources found"),
        ns => eprintln!("No resources found in {ns} namespace."),
    }
    Ok(())
}

/// What each container uses, by name.
type Parts = Vec<(String, Usage)>;

fn pod_rows(metrics: &[Value], args: &Pod) -> String {
    let by = args.common.sort_by.as_str();
    let containers = |pod: &Value| -> Parts {
        let all = pod.items_at("/containers").iter();
        all.map(|c| (c.str_at("/name").unwrap_or_default().to_owned(), Usage::of(&c["usage"]))).collect()
    };
    let sum = |parts: &[(String, Usage)]| parts.iter().fold(Usage::none(), |sum, (_, usage)| sum.plus(*usage));
    let mut pods: Vec<(&str, &str, Parts, Usage)> = Vec::with_capacity(metrics.len());
    for pod in metrics {
        let parts = containers(pod);
        let all = sum(&parts);
        pods.push((pod.str_at("/metadata/namespace").unwrap_or_default(), name_of(pod), parts, all));
    }
    pods.arrange_by_key(|(ns, name, _, usage)| {
        (usage.rank(by), if args.all_namespaces { (*ns).to_owned() } else { String::new() }, (*name).to_owned())
    });
    let mut out = String::new();
    // Without headers kubectl counts the columns as if there were but three.
    let mut columns = 3;
    let namespace = |ns: &str| if args.all_namespaces { format!("{ns}\t") } else { String::new() };
    if !args.common.no_headers {
        columns += usize::from(args.all_namespaces) + usize::from(args.containers);
        out += &namespace("NAMESPACE");
        out += if args.containers { "POD\t" } else { "" };
        line(&mut out, ["NAME", "CPU(cores)", "MEMORY(bytes)"]);
    }
    for (ns, name, parts, usage) in &mut pods {
        if !args.containers {
            let [cpu, memory] = usage.cells();
            out += &namespace(ns);
            line(&mut out, [*name, &cpu, &memory]);
            continue;
        }
        parts.arrange_by_key(|(name, usage)| (usage.rank(by), name.clone()));
        for (container, usage) in parts {
            let [cpu, memory] = usage.cells();
            out += &namespace(ns);
            line(&mut out, [*name, container, &cpu, &memory]);
        }
    }
    if args.sum {
        let total = pods.iter().fold(Usage::none(), |sum, (.., usage)| sum.plus(*usage));
        let [cpu, memory] = total.cells();
        out += &"\t".repeat(columns - 2);
        line(&mut out, ["________", "________"]);
        out += &"\t".repeat(columns - 3);
        line(&mut out, ["", &cpu, &memory]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serde_json::json;
    use test_case::test_case;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn what(line: &str) -> What {
        Line::try_parse_from(["top"].into_iter().chain(line.split(' '))).unwrap().args.what
    }

    // What the stock kubectl printed for the same metrics.
    #[test_case("node", "NAME   CPU(cores)   CPU(%)      MEMORY(bytes)   MEMORY(%)   \n\
                         a      34m          1%          1Mi             0%          \n\
                         b      1250m        62%         1024Mi          25%         \n\
                         c      <unknown>    <unknown>   <unknown>       <unknown>   \n"; "nodes")]
    #[test_case("node --show-capacity --sort-by=memory --no-headers", "b     1250m       31%         1024Mi      12%         \n\
                         a     34m         0%          1Mi         0%          \n\
                         c     <unknown>   <unknown>   <unknown>   <unknown>   \n"; "of all that nodes have")]
    #[test_case("pod --sum", "NAME   CPU(cores)   MEMORY(bytes)   \n\
                         p      1000m        100Mi           \n\
                         q      12m          4Mi             \n\
                         \u{20}      ________     ________        \n\
                         \u{20}      1012m        104Mi           \n"; "pods and their sum")]
    #[test_case("pod -A --sum --no-headers", "default   p          1000m      100Mi   \n\
                         default   q          12m        4Mi     \n\
                         \u{20}         ________   ________   \n\
                         \u{20}         1012m      104Mi      \n"; "a sum without headers")]
    #[test_case("pod -A --containers --sort-by=cpu", "NAMESPACE   POD   NAME   CPU(cores)   MEMORY(bytes)   \n\
                         default     p     c      1000m        100Mi           \n\
                         default     q     x      7m           3Mi             \n\
                         default     q     y      5m           1Mi             \n"; "containers")]
    fn columns(line: &str, want: &str) {
        let usage = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
        let node = |name: &str| json!({"metadata": {"name": name}, "status": {"allocatable": usage("2", "4Gi"), "capacity": usage("4", "8Gi")}});
        let nodes = [
            json!({"metadata": {"name": "b"}, "usage": usage("1250m", "1Gi")}),
            json!({"metadata": {"name": "a"}, "usage": usage("33333333n", "2000Ki")}),
        ];
        let pods = [
            json!({"metadata": {"name": "q", "namespace": "default"}, "containers": [
                {"name": "y", "usage": usage("5m", "1Mi")}, {"name": "x", "usage": usage("7m", "3Mi")}]}),
            json!({"metadata": {"name": "p", "namespace": "default"}, "containers": [{"name": "c", "usage": usage("1", "100Mi")}]}),
        ];
        let text = match what(line) {
            What::Node(args) => node_rows(&nodes, &[node("a"), node("b"), node("c")], &args),
            What::Pod(args) => pod_rows(&pods, &args),
        };
        assert_eq!(tab::align(&text, tab::GET), want);
    }

    #[test_case("node a b" => "error: node [NAME | -l label]\nSee 'kubectl top node -h' for help and examples")]
    #[test_case("node --sort-by=x" => "error: --sort-by accepts only cpu or memory")]
    #[test_case("node a -l a=b" => "error: only one of NAME or --selector can be provided")]
    fn flags_together(line: &str) -> String {
        let What::Node(args) = what(line) else { panic!("not node") };
        let selects = !args.common.selector.is_empty();
        args.common.check("node [NAME | -l label]", selects, "--selector").unwrap_err().to_string()
    }
}
