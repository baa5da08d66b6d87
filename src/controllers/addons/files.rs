//! The directory of manifests: what is in it, and the kernel's word that something changed. Nothing here polls.
//!
//! **Invariant:** a file that somebody is writing is not read: one that is open for writing since the last change, or that
//! changed within [`SETTLE`], is left as it is until it has come to rest.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::unix::AsyncFd;

use super::plan::{self, Content, File};
use crate::util::order::Arrange;
use crate::util::sys;

/// A file is taken when it has not changed for so long.
pub const SETTLE: Duration = Duration::from_secs(1);
/// Largest manifest, bytes.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Directories below each other that are looked into.
const MAX_DEPTH: usize = 16;
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];
/// `NAME.yaml.skip` leaves `NAME.yaml` alone, as k3s has it.
const SKIP: &str = ".skip";

/// What a look into the directory found.
#[derive(Debug, Default)]
pub struct Look {
    /// Files, sorted by path.
    pub files: Vec<File>,
    /// When a file that is being written may have come to rest.
    pub again_in: Option<Duration>,
}

/// Looks through the directory. `open` are files known to be open for writing; `disabled` are add-ons treated as not there.
pub fn look(dir: &Path, open: &HashSet<PathBuf>, disabled: &[String], now: SystemTime) -> io::Result<Look> {
    let mut paths = Vec::new();
    walk(dir, 0, &mut paths)?;
    paths.arrange();
    let skipped: HashSet<PathBuf> = paths.iter().filter_map(|p| without_skip(p)).collect();
    let mut out = Look::default();
    for path in paths {
        let wanted = path.extension().and_then(OsStr::to_str).is_some_and(|e| EXTENSIONS.contains(&e));
        let Some(source) = path.strip_prefix(dir).ok().and_then(Path::to_str).filter(|_| wanted) else { continue };
        if disabled.iter().any(|name| is_of(source, name)) {
            continue;
        }
        let named = |checksum, content| File { name: plan::name(source), source: source.to_owned(), checksum, content };
        let untouched = || named(String::new(), Content::Untouched);
        // It may be gone by now; then an event is on its way.
        let Ok(meta) = path.metadata() else { continue };
        if skipped.contains(&path) || open.contains(&path) {
            out.files.push(untouched());
            continue;
        }
        // A time of the future says nothing.
        let age = meta.modified().ok().and_then(|m| now.duration_since(m).ok());
        if let Some(rest) = age.and_then(|age| SETTLE.checked_sub(age)).filter(|r| !r.is_zero()) {
            out.again_in = Some(out.again_in.map_or(rest, |r| r.min(rest)));
            out.files.push(untouched());
            continue;
        }
        let (checksum, content) = read(&path, meta.len());
        out.files.push(named(checksum, content));
    }
    Ok(out)
}

/// Whether a file is of the add-on `name`: by its own name up to the first dot, or by that of its directory.
fn is_of(source: &str, name: &str) -> bool {
    let mut parts: Vec<&str> = source.split('/').collect();
    let file = parts.pop().unwrap_or_default();
    file.split('.').next() == Some(name) || parts.contains(&name)
}

fn without_skip(path: &Path) -> Option<PathBuf> {
    path.to_str()?.strip_suffix(SKIP).map(PathBuf::from)
}

fn read(path: &Path, size: u64) -> (String, Content) {
    if size > MAX_FILE_BYTES {
        let why = format!("{size} bytes; a manifest has at most {MAX_FILE_BYTES}");
        return (String::new(), Content::Broken(why));
    }
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) => return (String::new(), Content::Broken(e.to_string())),
    };
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
    let checksum = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let text = String::from_utf8(bytes).map_err(|e| e.to_string());
    let content = text.and_then(|t| plan::objects(&t)).map_or_else(Content::Broken, Content::Objects);
    (checksum, content)
}

/// Everything but what is hidden or lies deeper than [`MAX_DEPTH`]; links are followed.
fn walk(dir: &Path, depth: usize, out: &mut Vec<PathBuf>) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        // Gone between two looks; an event is on its way.
        Err(e) if e.kind() == io::ErrorKind::NotFound && depth > 0 => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        match entry.path().is_dir() {
            true if depth == MAX_DEPTH => {}
            true => walk(&entry.path(), depth + 1, out)?,
            false => out.push(entry.path()),
        }
    }
    Ok(())
}

/// The kernel's word of changes in a directory and those below it.
pub struct Watch {
    inotify: AsyncFd<OwnedFd>,
    reader: Inotify,
    dirs: HashMap<WatchDescriptor, PathBuf>,
    /// Files that were written to and have not been closed.
    pub open: HashSet<PathBuf>,
}

impl Watch {
    /// Watches nothing yet.
    pub fn new() -> io::Result<Self> {
        let reader = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let inotify = sys::wait_readable(reader.as_fd().try_clone_to_owned()?)?;
        Ok(Self { inotify, reader, dirs: HashMap::new(), open: HashSet::new() })
    }

    /// Watches a directory and those below; those that are watched already stay so.
    pub fn follow(&mut self, dir: &Path) -> io::Result<()> {
        let flags = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE;
        let mut pending = vec![(dir.to_owned(), 0)];
        while let Some((dir, depth)) = pending.pop() {
            match self.reader.add_watch(&dir, flags) {
                Ok(descriptor) => drop(self.dirs.insert(descriptor, dir.clone())),
                // Gone between two looks.
                Err(nix::Error::ENOENT) => continue,
                Err(e) => return Err(e.into()),
            }
            if depth < MAX_DEPTH {
                let below = std::fs::read_dir(&dir).into_iter().flatten().flatten().map(|e| e.path());
                pending.extend(below.filter(|p| p.is_dir()).map(|p| (p, depth + 1)));
            }
        }
        Ok(())
    }

    /// Waits until something happened.
    pub async fn next(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            let reader = &self.reader;
            let Ok(events) = ready.try_io(|_| reader.read_events().map_err(io::Error::from)) else { continue };
            for event in events? {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    // Too much happened: what is open is no longer known; that it is young is.
                    self.open.clear();
                }
                if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    self.dirs.remove(&event.wd);
                }
                let (Some(dir), Some(name)) = (self.dirs.get(&event.wd), &event.name) else { continue };
                let path = dir.join(name);
                if event.mask.contains(AddWatchFlags::IN_MODIFY) {
                    self.open.insert(path);
                } else {
                    self.open.remove(&path);
                }
            }
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n";

    fn write(dir: &Path, name: &str, text: &str) {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn told(look: &Look) -> Vec<(String, char)> {
        let sign = |c: &Content| match c {
            Content::Objects(_) => '+',
            Content::Broken(_) => '!',
            Content::Untouched => '=',
        };
        look.files.iter().map(|f| (f.source.clone(), sign(&f.content))).collect()
    }

    #[test]
    fn manifests_are_found_and_what_is_young_or_skipped_or_off_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        for name in
            ["a.yaml", "b.yml", "b.yml.skip", "off.yaml", "off/x.yaml", "sub/c.json", ".hidden.yaml", "readme.md"]
        {
            write(dir.path(), name, POD);
        }
        write(dir.path(), "bad.yaml", "a: [");
        let later = SystemTime::now() + SETTLE;
        let want = [("a.yaml", '+'), ("b.yml", '='), ("bad.yaml", '!'), ("sub/c.json", '!')];
        let want: Vec<(String, char)> = want.iter().map(|(n, s)| ((*n).to_owned(), *s)).collect();
        std::fs::write(dir.path().join("sub/c.json"), "{").unwrap();
        let found = look(dir.path(), &HashSet::new(), &["off".into()], later + SETTLE).unwrap();
        assert_eq!(told(&found), want);
        assert_eq!(found.again_in, None);
        let young = look(dir.path(), &HashSet::new(), &[], SystemTime::now()).unwrap();
        assert!(young.files.iter().all(|f| f.content == Content::Untouched));
        assert!(young.again_in.is_some_and(|d| d <= SETTLE));
    }

    #[tokio::test]
    async fn a_file_that_is_being_written_is_known_until_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("sub");
        std::fs::create_dir(&sub).unwrap();
        let mut watch = Watch::new().unwrap();
        watch.follow(dir.path()).unwrap();
        let path = sub.join("a.yaml");
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(POD.as_bytes()).unwrap();
        while !watch.open.contains(&path) {
            watch.next().await.unwrap();
        }
        let much_later = SystemTime::now() + 100 * SETTLE;
        let found = look(dir.path(), &watch.open, &[], much_later).unwrap();
        assert_eq!(found.files[0].content, Content::Untouched, "however slowly it is written");
        drop(file);
        while watch.open.contains(&path) {
            watch.next().await.unwrap();
        }
        let found = look(dir.path(), &watch.open, &[], much_later).unwrap();
        assert!(matches!(found.files[0].content, Content::Objects(_)));
    }
}
