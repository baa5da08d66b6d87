//! `cp`: files between here and a container, through `tar` in the container.
//!
//! **Invariant:** nothing is written outside the directory that the user named, whatever the container's archive says.

use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use tokio::net::UnixStream;

use super::builder::Info;
use super::cx::{Cx, Done, say};
use super::exec::command_path;
use super::fail::{Failure, fail};
use super::pods;
use super::streams::{self, Ends};
use crate::util::backoff::Backoff;

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
    /// In the container, files get the owner and the mode that tar gives new ones
    #[arg(long)]
    no_preserve: bool,
    /// How often a copy from a container goes on after the connection broke; below 0 for ever
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    retries: i64,
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
            upload(cx, &pod, &container, &from, &path, !args.no_preserve).await
        }
        (Place::There { ns, pod, path }, Place::Here(to)) => {
            let (pod, container) = find(cx, ns, &pod, &args).await?;
            download(cx, &pod, &container, &path, &to, args.retries).await
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

async fn upload(cx: &Cx, pod: &Info, container: &str, from: &Path, to: &str, preserve: bool) -> Done {
    let base = from.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let within = to.ends_with('/') || is_dir(cx, pod, container, to).await?;
    let (dir, name) = if within { (to, base.as_str()) } else { split(to) };
    let mut command = vec!["tar"];
    if !preserve {
        command.extend(["--no-same-permissions", "--no-same-owner"]);
    }
    command.extend(["-xmf", "-", "-C", dir]);
    let path = command_path(pod, container, &command, true);
    let (near, far) = pipe()?;
    let (from, name) = (from.to_owned(), name.to_owned());
    let packing = tokio::task::spawn_blocking(move || pack(&from, &name, near));
    let ends = Ends { stdin: Some(far), stdout: tokio::io::stdout(), stderr: tokio::io::stderr(), sizes: None };
    let code = streams::join(cx, &path, ends).await;
    match packing.await.map_err(std::io::Error::from)? {
        // What could not be read here is why the archive ended early; a pipe that broke is none: the far side says why.
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => ended(code?),
    }
}

/// True when the container says that a path is a directory.
async fn is_dir(cx: &Cx, pod: &Info, container: &str, path: &str) -> Done<bool> {
    let path = command_path(pod, container, &["test", "-d", path], false);
    let ends =
        Ends { stdin: None::<tokio::io::Empty>, stdout: tokio::io::sink(), stderr: tokio::io::sink(), sizes: None };
    match streams::join(cx, &path, ends).await {
        Ok(code) => Ok(code == 0),
        // A container without `test` may have tar.
        Err(Failure::Plain(_) | Failure::Exit(_)) => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// A pipe between what blocks (the disk) and what does not (the network): no more of an archive is held than it takes.
fn pipe() -> std::io::Result<(std::os::unix::net::UnixStream, UnixStream)> {
    let (near, far) = std::os::unix::net::UnixStream::pair()?;
    far.set_nonblocking(true)?;
    Ok((near, UnixStream::from_std(far)?))
}

/// Writes an archive of what stands at `from`, under the name `name`.
fn pack(from: &Path, name: &str, to: impl Write) -> std::io::Result<()> {
    let mut archive = tar::Builder::new(to);
    archive.follow_symlinks(false);
    if std::fs::metadata(from)?.is_dir() {
        archive.append_dir_all(name, from)?;
    } else {
        archive.append_path_with_name(from, name)?;
    }
    archive.into_inner()?.flush()
}

async fn download(cx: &Cx, pod: &Info, container: &str, from: &str, to: &Path, retries: i64) -> Done {
    let name = split(from).1.to_owned();
    let (mut archive, far) = pipe()?;
    let hint =
        format!(" (consider using \"kubectl exec -n {:?} {:?} -- tar cf - {from:?} | tar xf -\")", pod.ns, pod.name);
    let (target, below) = (to.to_owned(), name.clone());
    let unpacking = tokio::task::spawn_blocking(move || {
        unpack(&mut archive, &below, &target, &hint)?;
        // What pads the archive is taken, so that the far side ends well.
        Ok(std::io::copy(&mut archive, &mut std::io::sink()).map(drop)?)
    });
    let mut far = Counted { inner: far, bytes: 0, refused: false };
    let sent = send(cx, pod, container, from, &mut far, retries).await;
    // Where nothing more was taken here, that is the reason, and not what it did to the connection.
    let refused = far.refused;
    drop(far);
    let unpacked = unpacking.await.map_err(std::io::Error::from)?;
    if !refused {
        sent?;
    }
    unpacked
}

/// Has the container send its archive to `far`; where the connection breaks, from where it broke, as often as asked for.
async fn send(cx: &Cx, pod: &Info, container: &str, from: &str, far: &mut Counted<UnixStream>, retries: i64) -> Done {
    let (dir, name) = split(from);
    let mut tried = 0;
    loop {
        let skipping = format!("tar cf - -C {} {} | tail -c+{}", quoted(dir), quoted(name), far.bytes + 1);
        let command: &[&str] =
            if retries == 0 { &["tar", "cf", "-", "-C", dir, name] } else { &["sh", "-c", &skipping] };
        let path = command_path(pod, container, command, false);
        let ends =
            Ends { stdin: None::<tokio::io::Empty>, stdout: &mut *far, stderr: tokio::io::stderr(), sizes: None };
        match streams::join(cx, &path, ends).await {
            Ok(code) => return ended(code),
            // A connection that broke; what the server refused it refuses again.
            Err(Failure::Plain(_)) if !far.refused && (retries < 0 || tried < retries) => {
                tried = tried.saturating_add(1);
                say(format!("Resuming copy at {} bytes, retry {tried}/{retries}", far.bytes))?;
                tokio::time::sleep(Backoff::RESTART.delay(u32::try_from(tried).unwrap_or(u32::MAX))).await;
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Counts what was written, and knows when no more is taken.
struct Counted<W> {
    inner: W,
    bytes: u64,
    refused: bool,
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Counted<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.inner).poll_write(cx, data));
        match &written {
            Ok(written) => self.bytes += *written as u64,
            Err(_) => self.refused = true,
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

fn ended(code: u8) -> Done {
    match code {
        0 => Ok(()),
        code => fail!("command terminated with exit code {code}"),
    }
}

/// Unpacks what stands below `name` to `target`; a file goes into a target that is a directory. Links and paths that lead
/// elsewhere are left out; the first link comes with the hint.
fn unpack(archive: impl Read, name: &str, target: &Path, hint: &str) -> Done {
    let (mut any, mut hint) = (false, Some(hint));
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let Ok(below) = path.strip_prefix(name) else { continue };
        let safe = below.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        let kind = entry.header().entry_type();
        if !safe || !(kind.is_file() || kind.is_dir() || kind.is_symlink()) {
            eprintln!("warning: file {:?} is outside target destination, skipping", path.display().to_string());
            continue;
        }
        let to = match below.as_os_str().is_empty() {
            true if kind.is_file() && target.is_dir() => target.join(name),
            true => target.to_owned(),
            false => target.join(below),
        };
        if kind.is_symlink() {
            let link = entry.link_name()?.unwrap_or_default();
            eprintln!("warning: skipping symlink: {to:?} -> {link:?}{}", hint.take().unwrap_or_default());
        } else if kind.is_dir() {
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
        unpack(&bytes[..], "d", &target, "").unwrap();
        assert_eq!(std::fs::read(target.join("ok")).unwrap(), b"1");
        assert!(!dir.path().join("evil").exists() && !dir.path().join("in/evil").exists());
    }

    #[tokio::test]
    async fn who_takes_no_more_is_known() {
        use tokio::io::AsyncWriteExt;
        let (near, far) = pipe().unwrap();
        let mut far = Counted { inner: far, bytes: 0, refused: false };
        far.write_all(b"abc").await.unwrap();
        assert_eq!((far.bytes, far.refused), (3, false));
        drop(near);
        assert!(far.write_all(b"d").await.is_err() && far.refused && far.bytes == 3);
    }

    #[test]
    fn what_is_packed_lies_where_kubectl_puts_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        std::fs::create_dir_all(at("from/below")).unwrap();
        std::fs::write(at("from/below/f"), "1").unwrap();
        std::fs::create_dir(at("there")).unwrap();
        let packed = |path: &str, name: &str| {
            let mut archive = Vec::new();
            pack(&at(path), name, &mut archive).unwrap();
            archive
        };
        // A directory's content goes into the target, there or not; a file into a directory, or under the name given.
        unpack(&packed("from", "d")[..], "d", &at("there"), "").unwrap();
        unpack(&packed("from", "d")[..], "d", &at("new"), "").unwrap();
        unpack(&packed("from/below/f", "g")[..], "g", &at("there"), "").unwrap();
        unpack(&packed("from/below/f", "g")[..], "g", &at("h"), "").unwrap();
        for file in ["there/below/f", "new/below/f", "there/g", "h"] {
            assert_eq!(std::fs::read(at(file)).unwrap(), b"1", "{file}");
        }
        assert!(unpack(&packed("from", "d")[..], "other", &at("x"), "").is_err());
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
