//! The log of audit events: a line of JSON each, in a file that is rotated, or on standard output.
//!
//! Requests hand their lines to one thread, which writes what there is at once. A disk that is slower than the requests
//! makes them wait: nothing is dropped while it can be written.
//!
//! **Invariant:** lines in memory take at most [`QUEUE_KIB`]; the file is readable by its owner alone.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::util::files;
use crate::util::order::Arrange;

/// KiB of lines that wait for the disk.
const QUEUE_KIB: usize = 8 << 10;
/// MiB of a file before the next one, when nothing is said. Upstream's.
const FILE_MIB_DEFAULT: u64 = 100;
/// How the time stands in the name of a file that was rotated. Upstream's.
const ROTATED: &str = "%Y-%m-%dT%H-%M-%S.%3f";

/// Where the lines go, and how long they are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The file; `-` is standard output.
    pub path: PathBuf,
    /// MiB of a file before it is rotated; 0 is the default.
    pub max_mib: u64,
    /// Rotated files that are kept; 0 keeps all.
    pub max_files: usize,
    /// Days that rotated files are kept; 0 keeps them for ever.
    pub max_days: u64,
}

struct Line {
    bytes: Bytes,
    /// Given back once it is written.
    _room: OwnedSemaphorePermit,
}

/// The log.
pub struct Log {
    /// None once it is closed.
    queue: Mutex<Option<UnboundedSender<Line>>>,
    room: Arc<Semaphore>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Log {
    /// Opens the file, and begins to write.
    pub fn open(settings: Settings) -> io::Result<Self> {
        let out = match settings.path.as_os_str() == "-" {
            true => Output::Standard,
            false => Output::File(Rotated::open(settings)?),
        };
        let (queue, lines) = unbounded_channel();
        let thread = std::thread::Builder::new().name("audit-log".into()).spawn(move || write_all(out, lines))?;
        let room = Arc::new(Semaphore::new(QUEUE_KIB));
        Ok(Self { queue: Mutex::new(Some(queue)), room, thread: Mutex::new(Some(thread)) })
    }

    /// Hands over an event, a line without its end; waits while too much is still to be written.
    pub async fn take(&self, event: &Bytes) {
        let kib = event.len().div_ceil(1 << 10).clamp(1, QUEUE_KIB) as u32;
        let Ok(room) = self.room.clone().acquire_many_owned(kib).await else { return };
        if let Some(queue) = &*self.queue.lock() {
            // The thread lives until the queue is closed.
            let _ = queue.send(Line { bytes: event.clone(), _room: room });
        }
    }

    /// Writes what was handed over, and ends.
    pub async fn close(&self) {
        self.queue.lock().take();
        let Some(thread) = self.thread.lock().take() else { return };
        // Only a panic of the thread fails this, and it has told of itself.
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }
}

enum Output {
    Standard,
    File(Rotated),
}

fn write_all(mut out: Output, mut lines: UnboundedReceiver<Line>) {
    let mut failing = false;
    while let Some(line) = lines.blocking_recv() {
        let written = match &mut out {
            Output::Standard => {
                let mut out = io::stdout().lock();
                out.write_all(&line.bytes).and_then(|()| out.write_all(b"\n"))
            }
            Output::File(file) => file.write(&line.bytes, Timestamp::now()),
        };
        match written {
            Ok(()) => failing = false,
            // Told once for each time that it begins, not for each event.
            Err(error) if !failing => {
                failing = true;
                tracing::error!("cannot write audit events, they are lost: {error}");
            }
            Err(_) => {}
        }
    }
}

/// A file that is moved away when it is full.
struct Rotated {
    settings: Settings,
    file: File,
    size: u64,
}

impl Rotated {
    fn open(settings: Settings) -> io::Result<Self> {
        if let Some(dir) = settings.path.parent().filter(|d| !d.as_os_str().is_empty()) {
            std::fs::create_dir_all(dir)?;
        }
        let (file, size) = append_to(&settings.path)?;
        Ok(Self { settings, file, size })
    }

    fn write(&mut self, line: &[u8], now: Timestamp) -> io::Result<()> {
        let limit = match self.settings.max_mib {
            0 => FILE_MIB_DEFAULT,
            mib => mib,
        } << 20;
        if self.size > 0 && self.size + line.len() as u64 + 1 > limit {
            self.rotate(now)?;
        }
        let mut whole = Vec::with_capacity(line.len() + 1);
        whole.extend_from_slice(line);
        whole.push(b'\n');
        self.file.write_all(&whole)?;
        self.size += whole.len() as u64;
        Ok(())
    }

    fn rotate(&mut self, now: Timestamp) -> io::Result<()> {
        let (dir, stem, extension) = self.names();
        let target = dir.join(format!("{stem}-{}{extension}", now.strftime(ROTATED)));
        std::fs::rename(&self.settings.path, target)?;
        (self.file, self.size) = append_to(&self.settings.path)?;
        self.forget(now)
    }

    /// Directory, name and extension (with its dot) of the file.
    fn names(&self) -> (PathBuf, String, String) {
        let path = &self.settings.path;
        let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let extension = path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
        let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        (dir.to_owned(), text(path.file_stem()), extension)
    }

    /// Removes rotated files that are too many or too old.
    fn forget(&self, now: Timestamp) -> io::Result<()> {
        let (dir, stem, extension) = self.names();
        let mut old: Vec<(PathBuf, Timestamp)> = Vec::new();
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let time = name.strip_prefix(&format!("{stem}-")).and_then(|n| n.strip_suffix(&extension));
            if let Some(at) = time.and_then(time_of) {
                old.push((path, at));
            }
        }
        old.arrange_by_key(|(_, at)| std::cmp::Reverse(*at));
        let Settings { max_files, max_days, .. } = self.settings;
        for (i, (path, at)) in old.iter().enumerate() {
            let age = Duration::try_from(now.duration_since(*at)).unwrap_or_default();
            if max_files > 0 && i >= max_files || max_days > 0 && age > Duration::from_secs(max_days * 86_400) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// The time in a rotated file's name.
fn time_of(text: &str) -> Option<Timestamp> {
    let time = jiff::civil::DateTime::strptime("%Y-%m-%dT%H-%M-%S.%f", text).ok()?;
    Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
}

fn append_to(path: &Path) -> io::Result<(File, u64)> {
    let file = File::options().append(true).create(true).mode(files::SECRET_MODE).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut all: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        all.sort();
        all
    }

    #[test]
    fn full_files_are_rotated_and_old_ones_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/audit.log");
        let settings = Settings { path: path.clone(), max_mib: 1, max_files: 2, max_days: 3 };
        let mut log = Rotated::open(settings).unwrap();
        let line = vec![b'x'; 600 << 10];
        let at = |day: i64| {
            "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_hours(24 * day)
        };
        for day in 0..4 {
            log.write(&line, at(day)).unwrap();
        }
        let logs = path.parent().unwrap();
        assert_eq!(
            names(logs),
            ["audit-2026-01-03T00-00-00.000.log", "audit-2026-01-04T00-00-00.000.log", "audit.log"]
        );
        log.write(&line, at(9)).unwrap();
        assert_eq!(names(logs), ["audit-2026-01-10T00-00-00.000.log", "audit.log"]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), line.len() as u64 + 1);
    }

    #[tokio::test]
    async fn all_that_was_taken_is_written_before_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        std::fs::write(&path, "before\n").unwrap();
        let log = Log::open(Settings { path: path.clone(), ..Settings::default() }).unwrap();
        let large = Bytes::from(vec![b'y'; 12 << 20]);
        log.take(&Bytes::from_static(b"one")).await;
        log.take(&large).await;
        log.take(&Bytes::from_static(b"two")).await;
        log.close().await;
        log.take(&Bytes::from_static(b"late")).await;
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines[0], lines[1], lines[2].len(), lines[3], lines.len()), ("before", "one", 12 << 20, "two", 4));
    }
}
