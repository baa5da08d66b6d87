//! Tells when files may have changed, without looking at them again and again.
//!
//! In: paths. Out: a wake-up after each change of their directories: files that are written in place, replaced by a
//! rename, or reached through links that are swapped (as mounted Secrets are).
//!
//! **Invariant:** a wake-up is only a hint; who gets it reads the file and compares. None is lost between two waits.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

use super::sys;

/// The kernel's word of changes.
pub struct FileWatch {
    ready: AsyncFd<OwnedFd>,
    reader: Inotify,
}

impl FileWatch {
    /// Follows the directories of `files`.
    ///
    /// # Errors
    /// A directory is not there, or the machine has no watches left.
    pub fn new<'a>(files: impl IntoIterator<Item = &'a Path>) -> io::Result<Self> {
        let reader = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE;
        let dir = |file: &'a Path| file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        for dir in files.into_iter().map(dir).collect::<BTreeSet<_>>() {
            reader.add_watch(dir, flags)?;
        }
        let ready = sys::wait_readable(reader.as_fd().try_clone_to_owned()?)?;
        Ok(Self { ready, reader })
    }

    /// Waits until something happened there. Dropping the future loses nothing.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.ready.readable().await?;
            let reader = &self.reader;
            if let Ok(events) = ready.try_io(|_| reader.read_events().map_err(io::Error::from)) {
                return events.map(drop);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_replaced_or_written_wakes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let mut watch = FileWatch::new([&*file]).unwrap();
        super::super::files::write_atomic(&file, b"1", 0o600).unwrap();
        watch.changed().await.unwrap();
        std::fs::write(&file, b"2").unwrap();
        watch.changed().await.unwrap();
        assert!(FileWatch::new([Path::new("/nonexistent/dir/file")]).is_err());
    }
}
