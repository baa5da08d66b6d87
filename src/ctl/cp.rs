//! `cp`: files between here and a container, through `tar` in the container.
//!
//! **Invariant:** nothing is written outside the directory that the user named, whatever the container's archive says.

use std::path::{Component, Path, PathBuf};

use tokio::io::AsyncReadExt;

use super::builder::Info;
use super::cx::{Cx, Done};
use super::exec::command_path;
use super::fail::{Failure, fail};
use super::pods;
use super::streams::{self, Ends};

/// Bytes of an archive that may wait between the network and the disk.
const BUFFER: usize = 256 * 1024;
/// Bytes that are copied in one command at most, as the archive is held in memory.
const MAX_BYTES: usize = 1 << 30;

/// Copy files to and from containers
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// PATH or [NAMESPACE/]POD:PATH
    from: String,
    /// PATH or [NAMESPACE/]POD:PATH
    to: String,
    /// The container
    #[arg(short, long)]
    container: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Place {
    Here(PathBuf),
    There { ns: Option<String>, pod: String, path: String },
}

fn place(text: &str) -> Done<Place> {
    let Some((head, path)) = text.split_once(':').filter(|(h, _)| !h.starts_with(['/', '.'])) else {
        return Ok(Place::Here(text.into()));
    };
    if path.is_empty() {
        fail!("filepath can not be empty");
    }
    let (ns, pod) = head.split_once('/').map_or((None, head), |(ns, pod)| (Some(ns.to_owned()), pod));
    if pod.is_empty() || pod.contains('/') {
        fail!("filespec must match the canonical format: [[namespace/]pod:]file/path");
    }
    Ok(Place::There { ns, pod: pod.to_owned(), path: path.to_owned() })
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    match (place(&args.from)?, place(&args.to)?) {
        (Place::Here(from), Place::There { ns, pod, path }) => {
            if !from.exists() {
                fail!("{} doesn't exist in local filesystem", from.display());
            }
            let (pod, container) = find(cx, ns, &pod, &args).await?;
            upload(cx, &pod, &container, &from, &path).await
        }
        (Place::There { ns, pod, path }, Place::Here(to)) => {
            let (pod, container) = find(cx, ns, &pod, &args).await?;
            download(cx, &pod, &container, &path, &to).await
        }
        (Place::Here(_), Place::Here(_)) => fail!("one of src or dest must be a remote file specification"),
        _ => fail!("one of src or dest must be a local file specification"),
    }
}

async fn find(cx: &Cx, ns: Option<String>, pod: &str, args: &Args) -> Done<(Info, String)> {
    let resource = cx.mapper().await?.find("pods")?.clone();
    let ns = ns.unwrap_or_else(|| cx.ns.clone());
    let object = cx.get(&resource.res, &ns, pod).await?;
    let container = pods::container(&object, args.container.as_deref(), false)?;
    Ok((Info { resource, ns, name: pod.to_owned(), object, source: None }, container))
}

/// The last part of a path, and the directory before it.
fn split(path: &str) -> (&str, &str) {
    let path = path.trim_end_matches('/');
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((dir, name)) => (dir, name),
        None => (".", path),
    }
}

async fn upload(cx: &Cx, pod: &Info, container: &str, from: &Path, to: &str) -> Done {
    let (mut dir, mut name) = split(to);
    let base = from.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    if to.ends_with('/') || name.is_empty() {
        (dir, name) = (to, &base);
    }
    let mut archive = tar::Builder::new(Vec::new());
    archive.follow_symlinks(false);
    let meta = std::fs::metadata(from)
        .map_err(|_| Failure::Plain(format!("{} doesn't exist in local filesystem", from.display())))?;
    if meta.is_dir() {
        archive.append_dir_all(name, from)?;
    } else {
        archive.append_path_with_name(from, name)?;
    }
    let bytes = archive.into_inner()?;
    let path = command_path(pod, container, &["tar", "-xmf", "-", "-C", dir], true);
    let ends = Ends {
        stdin: Some(std::io::Cursor::new(bytes)),
        stdout: tokio::io::stdout(),
        stderr: tokio::io::stderr(),
        sizes: None,
    };
    ended(streams::join(cx, &path, ends).await?)
}

async fn download(cx: &Cx, pod: &Info, container: &str, from: &str, to: &Path) -> Done {
    let (dir, name) = split(from);
    let path = command_path(pod, container, &["tar", "cf", "-", "-C", dir, name], false);
    let (near, far) = tokio::io::duplex(BUFFER);
    let ends = Ends { stdin: None::<tokio::io::Empty>, stdout: far, stderr: tokio::io::stderr(), sizes: None };
    let mut archive = Vec::new();
    let mut limited = near.take(MAX_BYTES as u64 + 1);
    let (code, read) = tokio::join!(streams::join(cx, &path, ends), limited.read_to_end(&mut archive));
    read?;
    ended(code?)?;
    if archive.len() > MAX_BYTES {
        fail!("{from}: more than {MAX_BYTES} bytes; copy it in parts");
    }
    let target = if to.is_dir() { to.join(name) } else { to.to_owned() };
    unpack(&archive, name, &target)
}

fn ended(code: u8) -> Done {
    match code {
        0 => Ok(()),
        code => fail!("command terminated with exit code {code}"),
    }
}

/// Unpacks what stands below `name` to `target`. Links and paths that lead elsewhere are left out.
fn unpack(archive: &[u8], name: &str, target: &Path) -> Done {
    let mut any = false;
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let Ok(below) = path.strip_prefix(name) else { continue };
        let safe = below.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        let kind = entry.header().entry_type();
        if !safe || !(kind.is_file() || kind.is_dir()) {
            eprintln!("warning: skipping {}: only files and directories are copied", path.display());
            continue;
        }
        let to = if below.as_os_str().is_empty() { target.to_owned() } else { target.join(below) };
        if kind.is_dir() {
            std::fs::create_dir_all(&to)?;
        } else {
            if let Some(parent) = to.parent().filter(|p| !p.as_os_str().is_empty()) {
                std::fs::create_dir_all(parent)?;
            }
            std::io::copy(&mut entry, &mut std::fs::File::create(&to)?)?;
        }
        any = true;
    }
    if any { Ok(()) } else { fail!("{name:?} was not in what the container sent") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        assert_eq!(place("/a:b").unwrap(), Place::Here("/a:b".into()));
        assert_eq!(place("a").unwrap(), Place::Here("a".into()));
        let there = |ns: Option<&str>| Place::There { ns: ns.map(str::to_owned), pod: "p".into(), path: "/x".into() };
        assert_eq!(place("p:/x").unwrap(), there(None));
        assert_eq!(place("n/p:/x").unwrap(), there(Some("n")));
        assert_eq!((split("/a/b/"), split("/a"), split("a")), (("/a", "b"), ("/", "a"), (".", "a")));
    }

    #[test]
    fn nothing_is_written_outside() {
        let mut archive = tar::Builder::new(Vec::new());
        let mut add = |name: &str, data: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            archive.append(&header, data).unwrap();
        };
        add("d/ok", b"1");
        add("d/../../evil", b"2");
        let bytes = archive.into_inner().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("in/out");
        unpack(&bytes, "d", &target).unwrap();
        assert_eq!(std::fs::read(target.join("ok")).unwrap(), b"1");
        assert!(!dir.path().join("evil").exists() && !dir.path().join("in/evil").exists());
    }
}
