//! `subPath`: a part of a volume as a mount, safe against symlinks that a container planted in it.
//!
//! Every component is opened below the one before it; symlinks are resolved here, never by the kernel, and may not lead
//! out of the volume. The result is bound to a path that only orch can change, which the runtime then mounts.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

/// Symlinks followed on one path, as the kernel allows.
const MAX_LINKS: usize = 40;

fn parts(path: &Path) -> io::Result<Vec<OsString>> {
    let mut out = Vec::new();
    for c in path.components() {
        match c {
            Component::Normal(name) => out.push(name.to_owned()),
            Component::CurDir => {}
            Component::ParentDir => out.push("..".into()),
            Component::RootDir | Component::Prefix(_) => {
                return Err(io::Error::other(format!("{} leads out of the volume", path.display())));
            }
        }
    }
    Ok(out)
}

fn open_in(dir: &OwnedFd, name: &OsString) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(dir.as_fd(), name.as_os_str(), flags, Mode::empty())
}

fn kind(fd: &OwnedFd) -> io::Result<SFlag> {
    Ok(SFlag::from_bits_truncate(fstat(fd)?.st_mode & SFlag::S_IFMT.bits()))
}

/// Mode of a directory that is made, from the volume's: whoever may write there may write here. Upstream:
/// `subpath.doSafeMakeDir`.
fn made_mode(volume: &OwnedFd) -> io::Result<u32> {
    Ok(fstat(volume)?.st_mode & 0o2777)
}

/// Makes a directory and opens it. Its mode is set through the handle: the name may be another thing's by then.
fn make_in(dir: &OwnedFd, name: &OsString, mode: u32) -> io::Result<OwnedFd> {
    mkdirat(dir.as_fd(), name.as_os_str(), Mode::from_bits_truncate(0o700))?;
    let made = open_in(dir, name)?;
    if kind(&made)? == SFlag::S_IFDIR {
        let path = format!("/proc/self/fd/{}", made.as_raw_fd());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(made)
}

/// Opens `sub` inside `volume`; missing directories are made. The handle is only good as a place.
pub fn resolve(volume: &Path, sub: &Path) -> io::Result<OwnedFd> {
    let escape = || io::Error::other(format!("subPath {} leads out of the volume", sub.display()));
    let root = nix::fcntl::open(volume, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mode = made_mode(&root)?;
    let mut stack = vec![root];
    let mut left: VecDeque<OsString> = parts(sub)?.into();
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        if name == ".." {
            if stack.len() == 1 {
                return Err(escape());
            }
            stack.pop();
            continue;
        }
        let at = stack.last().expect("the root stays on the stack");
        let next = match open_in(at, &name) {
            Err(Errno::ENOENT) => make_in(at, &name, mode)?,
            other => other?,
        };
        if kind(&next)? == SFlag::S_IFLNK {
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::ELOOP.into());
            }
            let target = PathBuf::from(readlinkat(at.as_fd(), name.as_os_str())?);
            let inner = parts(&target).map_err(|_| escape())?;
            inner.into_iter().rev().for_each(|p| left.push_front(p));
            continue;
        }
        stack.push(next);
    }
    Ok(stack.pop().expect("the root stays on the stack"))
}

/// Binds what `sub` of `volume` is to `target`, which is made, and gives `target` back.
pub fn bind(volume: &Path, sub: &Path, target: &Path) -> io::Result<PathBuf> {
    let place = resolve(volume, sub)?;
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if kind(&place)? == SFlag::S_IFDIR {
        std::fs::create_dir_all(target)?;
    } else {
        std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(target)?;
    }
    // A restarted container gets what is there now: an older binding goes first.
    while nix::mount::umount2(target, nix::mount::MntFlags::MNT_DETACH).is_ok() {}
    let source = format!("/proc/self/fd/{}", place.as_raw_fd());
    mount(Some(source.as_str()), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    Ok(target.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn place(volume: &Path, sub: &str) -> io::Result<PathBuf> {
        let fd = resolve(volume, Path::new(sub))?;
        std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
    }

    #[test]
    fn finds_what_is_inside_and_makes_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        assert_eq!(place(&root, "a/b").unwrap(), root.join("a/b"));
        std::fs::write(root.join("a/file"), "x").unwrap();
        symlink("a/file", root.join("link")).unwrap();
        assert_eq!(place(&root, "link").unwrap(), root.join("a/file"));
        assert_eq!(place(&root, "a/../a/./file").unwrap(), root.join("a/file"));
    }

    #[test]
    fn what_is_made_is_as_open_as_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o777, 0o2770, 0o755] {
            let root = dir.path().join(format!("{mode:o}"));
            std::fs::create_dir(&root).unwrap();
            std::fs::set_permissions(&root, std::fs::Permissions::from_mode(mode)).unwrap();
            resolve(&root, Path::new("a/b")).unwrap();
            for made in ["a", "a/b"] {
                let got = std::fs::metadata(root.join(made)).unwrap().permissions().mode() & 0o7777;
                assert_eq!(got, mode, "{made} in a volume of mode {mode:o}");
            }
        }
    }

    #[test]
    fn refuses_every_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("volume");
        std::fs::create_dir(&root).unwrap();
        symlink("/etc", root.join("absolute")).unwrap();
        symlink("../..", root.join("relative")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        std::fs::create_dir(root.join("d")).unwrap();
        symlink("../../x", root.join("d/deep")).unwrap();
        for bad in ["absolute/passwd", "absolute", "relative/etc", "../x", "/etc", "loop", "d/deep"] {
            assert!(place(&root, bad).is_err(), "{bad}");
        }
    }
}
