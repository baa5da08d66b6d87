//! `version`: of this program and of the server.

use serde_json::{Value, json};

use super::cx::{Call, Cx, Done, put};
use super::fail::fail;
use super::print::json_text;
use crate::api::codec::yaml;
use crate::api::value::ValueExt;

/// The Kubernetes whose kubectl this one is like.
const KUBERNETES: &str = "v1.36.0+orch";

/// Versions of the client and the server
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Only this program
    #[arg(long)]
    pub client: bool,
    /// json or yaml
    #[arg(short, long, default_value = "", hide_default_value = true)]
    output: String,
}

fn own() -> Value {
    let (major, minor) = ("1", "36");
    json!({"clientVersion": {"major": major, "minor": minor, "gitVersion": KUBERNETES, "compiler": "rustc",
        "platform": format!("linux/{}", arch()), "orchVersion": env!("CARGO_PKG_VERSION")}})
}

/// Go's name of the architecture.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn show(versions: &Value, args: &Args) -> Done {
    match args.output.as_str() {
        "yaml" => put(&yaml::to_string(versions)),
        // kubectl indents this one by two.
        "json" => put(&json_text(versions).replace("    ", "  ")),
        "" => {
            let mut out = format!("Client Version: {KUBERNETES}\n");
            if let Some(server) = versions.str_at("/serverVersion/gitVersion") {
                out += &format!("Server Version: {server}\n");
            }
            put(&out)
        }
        _ => fail!("--output must be 'yaml' or 'json'"),
    }
}

/// Shows the version of this program.
pub fn client(args: &Args) -> Done {
    show(&own(), args)
}

/// Shows both.
pub async fn run(cx: &Cx, args: &Args) -> Done {
    let mut versions = own();
    match cx.call(Call::get("/version")).await {
        Ok(server) => versions["serverVersion"] = server,
        Err(failure) => {
            show(&versions, args)?;
            return Err(failure);
        }
    }
    show(&versions, args)
}
