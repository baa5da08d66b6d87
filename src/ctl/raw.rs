//! `--raw`: any path of the server, with the bytes of a file as they are.

use bytes::Bytes;
use http::Method;

use super::cx::{Cx, Done, put};
use super::fail::fail;
use super::files::{self, FileFlags};

/// What beside `--raw` forbids it.
pub struct Beside<'a> {
    /// Positional arguments.
    pub args: &'a [String],
    /// `-o`.
    pub output: Option<&'a str>,
}

/// Sends the request and prints the answer.
pub async fn call(cx: &Cx, method: Method, path: &str, body: Option<&FileFlags>, beside: &Beside<'_>) -> Done {
    if !beside.args.is_empty() {
        fail!("arguments may not be passed when --raw is specified");
    }
    if beside.output.is_some_and(|o| !o.is_empty()) {
        fail!("--raw and --output are mutually exclusive");
    }
    let path = &path.replace(' ', "%20");
    if !path.starts_with('/') || path.parse::<http::Uri>().is_err() {
        fail!("--raw must be a valid URL path: parse {path:?}: invalid URI for request");
    }
    let bytes = match body.map(|b| (&b.filename[..], b)) {
        None | Some(([], _)) => Bytes::new(),
        Some(([one], flags)) if !flags.recursive && flags.kustomize.is_none() && !files::is_url(one) => {
            files::bytes(one)?.into()
        }
        Some(_) => fail!("--raw can only use a single local file or stdin"),
    };
    let answer = cx.raw(method, path, bytes).await?;
    put(&String::from_utf8_lossy(&answer))
}
