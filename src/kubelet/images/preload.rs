//! Images that a node has from the start: archives and lists in `<data-dir>/agent/images`, as k3s has them.
//!
//! In: the directory, and what was imported from it before. Out: images in containerd, and [`Pins`]: they are never removed,
//! not even when nothing uses them. containerd 1.6 knows no pins, so orch keeps its own.
//!
//! **Invariant:** an archive that did not change and whose images are there is not read again.
//! **Invariant:** a file that cannot be imported holds up no other.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Imported, import, normalize};
use crate::kubelet::runtime::{Image, Runtime};
use crate::util::files::write_atomic;
use crate::util::order::Arrange;

/// Between two lines in the log about one archive.
const TELL: Duration = Duration::from_secs(5);
/// What an archive's name ends with. What is in it is told by its first bytes.
const ARCHIVES: [&str; 6] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.zstd", ".tzst"];
/// What the name of a list of images ends with.
const LIST: &str = ".txt";
/// Longest list, bytes.
const LIST_LIMIT_BYTES: u64 = 1 << 20;

/// How far the directory has been gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Archives are being imported.
    Importing,
    /// What lists name is being pulled.
    Pulling,
    /// All done.
    Done,
}

/// Images that are never removed.
pub struct Pins {
    names: Vec<String>,
    ids: RwLock<HashSet<String>>,
    stage: watch::Sender<Stage>,
}

impl Pins {
    /// Pins images by name: that of sandboxes.
    pub fn new(names: Vec<String>) -> Self {
        Self { names, ids: RwLock::default(), stage: watch::Sender::new(Stage::Importing) }
    }

    /// Whether an image has to stay: by our own list, or by the runtime's.
    pub fn hold(&self, image: &Image) -> bool {
        image.pinned
            || self.ids.read().contains(&image.id)
            || image.tags.iter().chain(&image.digests).any(|n| self.names.contains(n))
    }

    /// Completes when all archives are imported: what is not there then has to come from a registry.
    pub async fn imported(&self) {
        self.wait_for(Stage::Pulling).await;
    }

    /// Completes when all pins are known.
    pub async fn complete(&self) {
        self.wait_for(Stage::Done).await;
    }

    /// True when all pins are known.
    pub fn are_complete(&self) -> bool {
        *self.stage.borrow() == Stage::Done
    }

    /// There is nothing to import.
    pub fn finish(&self) {
        self.stage.send_replace(Stage::Done);
    }

    async fn wait_for(&self, stage: Stage) {
        // The sender lives in `self`, which is borrowed here.
        let _ = self.stage.subscribe().wait_for(|s| *s >= stage).await;
    }

    fn add<'a>(&self, ids: impl IntoIterator<Item = &'a String>) {
        self.ids.write().extend(ids.into_iter().cloned());
    }
}

/// A file as the directory shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    /// Name in the directory.
    file: String,
    size: u64,
    /// Nanoseconds since the epoch.
    modified: u128,
}

/// An archive that was imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    #[serde(flatten)]
    seen: Seen,
    images: Vec<Named>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Named {
    id: String,
    names: Vec<String>,
}

impl Held {
    fn ids(&self) -> impl Iterator<Item = &String> {
        self.images.iter().map(|i| &i.id)
    }
}

/// What to do with an archive.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It is imported.
    Keep(Held),
    /// It is new, or changed, or its images are gone.
    Import(Seen),
}

/// A step for each archive, in the order of their names. Pure.
fn plan(files: &[Seen], held: &[Held], there: &[Image]) -> Vec<Step> {
    let has = |i: &Named| there.iter().any(|t| t.id == i.id && i.names.iter().all(|n| t.tags.contains(n)));
    let step = |seen: &Seen| match held.iter().find(|h| h.seen == *seen) {
        Some(held) if held.images.iter().all(has) => Step::Keep(held.clone()),
        _ => Step::Import(seen.clone()),
    };
    files.iter().map(step).collect()
}

/// The names in a list: one a line, with comments after `#`.
fn listed(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|l| l.split('#').next().unwrap_or_default().trim()).filter(|l| !l.is_empty())
}

/// Where images come from and go to.
pub struct Preload<'a> {
    /// The directory.
    pub dir: PathBuf,
    /// Where it is remembered what was imported.
    pub record: PathBuf,
    /// containerd.
    pub socket: &'a Path,
    /// The same through CRI.
    pub runtime: &'a dyn Runtime,
    /// What is to stay.
    pub pins: &'a Pins,
}

impl Preload<'_> {
    /// Goes through the directory once.
    pub async fn run(&self) {
        let (archives, lists) = match scan(&self.dir) {
            Ok(found) => found,
            Err(e) => {
                tracing::warn!("cannot read {}: {e}", self.dir.display());
                Default::default()
            }
        };
        self.import_all(&archives).await;
        self.pins.stage.send_replace(Stage::Pulling);
        for list in lists {
            self.pull_all(&list).await;
        }
        self.pins.finish();
    }

    async fn import_all(&self, archives: &[Seen]) {
        let before: Vec<Held> =
            std::fs::read(&self.record).ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
        if archives.is_empty() && before.is_empty() {
            return;
        }
        // Without knowing what is there everything is imported anew, which changes nothing that is there.
        let there = self.runtime.images().await.unwrap_or_default();
        let mut held = Vec::new();
        for step in plan(archives, &before, &there) {
            let entry = match step {
                Step::Keep(entry) => entry,
                Step::Import(seen) => match self.import(&seen).await {
                    Some(entry) => entry,
                    None => continue,
                },
            };
            self.pins.add(entry.ids());
            held.push(entry);
        }
        if held == before {
            return;
        }
        let written = serde_json::to_vec_pretty(&held).map_err(io::Error::other);
        if let Err(e) = written.and_then(|bytes| write_atomic(&self.record, &bytes, 0o600)) {
            tracing::warn!("cannot write {}: {e}; the archives will be imported again", self.record.display());
        }
    }

    async fn import(&self, seen: &Seen) -> Option<Held> {
        let path = self.dir.join(&seen.file);
        tracing::info!(file = seen.file, bytes = seen.size, "importing images");
        let (began, mut told) = (Instant::now(), Instant::now());
        let progress = |p: super::Progress| {
            if told.elapsed() >= TELL {
                told = Instant::now();
                tracing::info!(file = seen.file, "imported {} of {} MB", p.done >> 20, p.total >> 20);
            }
        };
        match import(self.socket, &path, None, progress).await {
            Ok(imported) => {
                let names: Vec<&String> = imported.iter().flat_map(|i| &i.names).collect();
                let took = began.elapsed();
                tracing::info!(file = seen.file, ?names, "imported images in {} ms", took.as_millis());
                let named = |i: Imported| Named { id: i.id, names: i.names };
                Some(Held { seen: seen.clone(), images: imported.into_iter().map(named).collect() })
            }
            Err(e) => {
                tracing::warn!("cannot import {}: {e}", path.display());
                None
            }
        }
    }

    async fn pull_all(&self, list: &str) {
        let path = self.dir.join(list);
        let text = match path.metadata() {
            Ok(meta) if meta.len() > LIST_LIMIT_BYTES => Err(io::Error::other("it is too long for a list of images")),
            _ => std::fs::read_to_string(&path),
        };
        let text = match text {
            Ok(text) => text,
            Err(e) => return tracing::warn!("cannot read {}: {e}", path.display()),
        };
        for name in listed(&text) {
            let done = match normalize(name) {
                Ok(whole) => self.pull(&whole).await,
                Err(why) => Err(why),
            };
            match done {
                Ok(id) => self.pins.add([&id]),
                Err(why) => tracing::warn!(list, "cannot pull {name}: {why}"),
            }
        }
    }

    async fn pull(&self, name: &str) -> Result<String, String> {
        if let Some(there) = self.runtime.image(name).await.map_err(|e| e.to_string())? {
            return Ok(there.id);
        }
        tracing::info!(image = name, "pulling");
        self.runtime.pull_image(name, None).await.map_err(|e| e.to_string())?;
        let image = self.runtime.image(name).await.map_err(|e| e.to_string())?;
        image.map(|i| i.id).ok_or_else(|| "it is not there after its pull".to_owned())
    }
}

/// Archives and lists in the directory, sorted; nothing where there is no directory.
fn scan(dir: &Path) -> io::Result<(Vec<Seen>, Vec<String>)> {
    let (mut archives, mut lists) = (Vec::new(), Vec::new());
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((archives, lists)),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let file = entry.file_name().to_string_lossy().into_owned();
        // Through links: archives often lie elsewhere.
        let Ok(meta) = entry.path().metadata() else { continue };
        if file.starts_with('.') || !meta.is_file() {
            continue;
        }
        if ARCHIVES.iter().any(|end| file.ends_with(end)) {
            let modified = meta.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
            archives.push(Seen { file, size: meta.len(), modified });
        } else if file.ends_with(LIST) {
            lists.push(file);
        } else {
            tracing::info!("{} is neither an image archive nor a list of images", entry.path().display());
        }
    }
    archives.arrange_by(|a, b| a.file.cmp(&b.file));
    lists.arrange();
    Ok((archives, lists))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::fake::FakeRuntime;
    use test_case::test_case;

    fn seen(modified: u128) -> Seen {
        Seen { file: "a.tar".into(), size: 1, modified }
    }

    #[test_case(1, Some("sha256:a"), "web:v1" => true; "nothing changed")]
    #[test_case(2, Some("sha256:a"), "web:v1" => false; "another file")]
    #[test_case(1, None, "web:v1" => false; "the image was removed")]
    #[test_case(1, Some("sha256:b"), "web:v1" => false; "the name means another image")]
    #[test_case(1, Some("sha256:a"), "web:v2" => false; "its name was taken away")]
    fn what_did_not_change_is_kept(modified: u128, id: Option<&str>, tag: &str) -> bool {
        let held = Held { seen: seen(1), images: vec![Named { id: "sha256:a".into(), names: vec!["web:v1".into()] }] };
        let image = |id: &str| Image { id: id.into(), tags: vec![tag.into()], ..Image::default() };
        let there: Vec<Image> = id.map(image).into_iter().collect();
        plan(&[seen(modified)], &[held], &there).iter().all(|s| matches!(s, Step::Keep(_)))
    }

    #[test]
    fn a_list_has_a_name_a_line() {
        let names: Vec<&str> = listed("# all of them\nweb:v1\n\n  db:v2  # the old one\n").collect();
        assert_eq!(names, ["web:v1", "db:v2"]);
    }

    #[tokio::test]
    async fn lists_are_pulled_and_pinned_and_a_bad_archive_holds_up_nobody() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("bad.tar"), "no archive").unwrap();
        std::fs::write(dir.path().join("list.txt"), "web:v1\nmissing:v1\nNo Name\n").unwrap();
        std::fs::write(dir.path().join("readme.md"), "not this").unwrap();
        let web = "docker.io/library/web:v1";
        let (runtime, pins) = (FakeRuntime::default().with_registry(web), Pins::new(vec!["pause:1".into()]));
        let socket = dir.path().join("none.sock");
        let (images, record) = (dir.path().to_owned(), dir.path().join(".record"));
        Preload { dir: images, record, socket: &socket, runtime: &runtime, pins: &pins }.run().await;
        pins.complete().await;
        let all = runtime.images().await.unwrap();
        assert!(all.len() == 1 && pins.hold(&all[0]), "{all:?}");
        assert!(pins.hold(&Image { tags: vec!["pause:1".into()], ..Image::default() }));
        assert!(pins.hold(&Image { pinned: true, ..Image::default() }), "the runtime may pin, too");
        assert!(!pins.hold(&Image::default()));
    }
}
