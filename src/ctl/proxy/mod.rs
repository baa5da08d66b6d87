//! `proxy`: the API on a local port, with the user's credentials put in, and perhaps a directory of files beside it.
//!
//! In: plain HTTP of this machine's programs and browsers. Out: the same requests to the server, or files ([`www`]). What
//! goes where, and what is refused, is [`route`]'s to say.
//!
//! **Invariant:** unless the filter is turned off, a request reaches the server only under a host name of this machine, so
//! that no page from elsewhere can use the credentials by a name of its own.
//!
//! Rules: kubectl `pkg/proxy/proxy_server.go`.

mod forward;
mod route;
mod www;

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use nix::sys::stat::{Mode, umask};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use super::cx::{Cx, Done, say};
use super::fail::{Failure, fail, os};
use super::write;
use route::{Filter, Routes};

/// Connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 512;
/// The port where none is named.
const PORT: u16 = 8001;

/// Serve the API on a local port, with your credentials
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// A directory of files to serve too
    #[arg(short, long, default_value = "", hide_default_value = true)]
    www: String,
    /// Where the files are served
    #[arg(short = 'P', long, default_value = "/static/")]
    www_prefix: String,
    /// Where the API is served
    #[arg(long, default_value = "/")]
    api_prefix: String,
    /// Regular expressions of paths to pass on
    #[arg(long, default_value = "^.*")]
    accept_paths: String,
    /// Regular expressions of paths to refuse all the same
    #[arg(long, default_value = "^/api/.*/pods/.*/exec,^/api/.*/pods/.*/attach")]
    reject_paths: String,
    /// Regular expressions of hosts that a request may name
    #[arg(long, default_value = r"^localhost$,^127\.0\.0\.1$,^\[::1\]$")]
    accept_hosts: String,
    /// Regular expressions of methods to refuse
    #[arg(long, default_value = "^$")]
    reject_methods: String,
    /// The port; 0 takes any free one
    #[arg(short, long, default_value_t = PORT)]
    port: u16,
    /// The address
    #[arg(long, default_value = "127.0.0.1")]
    address: String,
    /// Pass everything on: pages of other sites can then use your credentials
    #[arg(long)]
    disable_filter: bool,
    /// A socket in place of the port
    #[arg(short, long, default_value = "", hide_default_value = true)]
    unix_socket: String,
    /// No effect: connections to the server are always kept alive
    #[arg(long, default_value = "0s", hide = true, value_parser = write::duration_text)]
    keepalive: String,
    /// No effect: a path in the server's address always stands before the request's
    #[arg(long, hide = true)]
    append_server_path: bool,
    /// Further words have no effect
    #[arg(hide = true)]
    rest: Vec<String>,
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    let filter = if args.disable_filter {
        if args.unix_socket.is_empty() {
            eprintln!("Warning: the request filter is disabled: pages of other sites can use your credentials");
        }
        None
    } else {
        Some(Filter::parse(&args.accept_paths, &args.reject_paths, &args.accept_hosts, &args.reject_methods)?)
    };
    if args.port != PORT && !args.unix_socket.is_empty() {
        fail!("cannot set --unix-socket and --port at the same time");
    }
    let www = (!args.www.is_empty()).then(|| PathBuf::from(&args.www));
    match www.as_deref().map(std::fs::metadata) {
        Some(Err(e)) => eprintln!("Warning: cannot read the directory of files {}: {}", args.www, os(&e)),
        Some(Ok(found)) if !found.is_dir() => eprintln!("Warning: {} is not a directory", args.www),
        _ => {}
    }
    let routes = Routes::new(&args.api_prefix, www.is_some().then_some(&args.www_prefix), filter);
    let server = Server { cx, routes, www };
    if args.unix_socket.is_empty() {
        let at = format!("{}:{}", args.address, args.port);
        let listener = TcpListener::bind(&at).await.map_err(|e| cannot_listen("tcp", &at, &e))?;
        say(format!("Starting to serve on {}", listener.local_addr()?))?;
        return server.serve(|| async { listener.accept().await.map(|(stream, _)| stream) }).await;
    }
    let listener = socket(Path::new(&args.unix_socket))?;
    say(format!("Starting to serve on {}", args.unix_socket))?;
    server.serve(|| async { listener.accept().await.map(|(stream, _)| stream) }).await
}

fn cannot_listen(network: &str, at: &str, error: &std::io::Error) -> Failure {
    Failure::Plain(format!("listen {network} {at}: bind: {}", os(error)))
}

/// A socket for this user alone. One that is left there is taken away, another file is not.
fn socket(path: &Path) -> Done<UnixListener> {
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let before = umask(Mode::from_bits_truncate(0o077));
    let listener = UnixListener::bind(path);
    umask(before);
    listener.map_err(|e| cannot_listen("unix", &path.display().to_string(), &e))
}

struct Server<'a> {
    cx: &'a Cx,
    routes: Routes,
    www: Option<PathBuf>,
}

impl Server<'_> {
    /// Serves what `accept` gives, until the command is stopped.
    async fn serve<S, F>(&self, accept: impl Fn() -> F) -> Done
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = std::io::Result<S>>,
    {
        let mut connections = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = accept(), if connections.len() < MAX_CONNECTIONS => {
                    connections.push(forward::connection(self, accepted?));
                }
                Some(()) = connections.next(), if !connections.is_empty() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn a_socket_is_its_users_alone_and_replaces_only_a_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(socket(&path).unwrap());
        let again = socket(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0);
        drop(again);
        let file = dir.path().join("f");
        std::fs::write(&file, "kept").unwrap();
        assert!(socket(&file).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
    }
}
