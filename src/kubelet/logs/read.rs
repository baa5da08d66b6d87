//! `kubectl logs`: selects lines and copies them, once or for as long as the container runs.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use jiff::Timestamp;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::line::{Line, Stream, parse};
use crate::util::sys;
use crate::util::tasks::Shutdown;

/// Piece in which a log is searched backwards, bytes.
const BLOCK_BYTES: u64 = 64 << 10;
/// Longest line that is read whole, bytes: the runtime's 16 KiB and much room. A longer one cannot be its, and is dropped.
const LINE_LIMIT_BYTES: u64 = 1 << 20;
/// Room for events read at once, bytes; one is at most 16 and a file name.
const EVENTS_BYTES: usize = 4096;

/// What of a log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Go on with what is written later, until the container has ended.
    pub follow: bool,
    /// Only so many lines from the end.
    pub tail: Option<u64>,
    /// Only lines from this moment on (`sinceTime`, or now less `sinceSeconds`).
    pub since: Option<Timestamp>,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// At most so many bytes in all.
    pub limit_bytes: Option<u64>,
    /// One stream only.
    pub stream: Option<Stream>,
}

/// Copies the selected part of the log at `path` to `out`. Following ends when `ended` is triggered, after what was
/// written until then; or when `out` fails, as it does when the reader went away.
///
/// Errors: the log cannot be read; `NotFound` when there is none. An error of `out` while following is no error.
pub async fn copy(
    path: &Path,
    options: &Options,
    ended: &Shutdown,
    out: &mut (impl AsyncWrite + Unpin + Send),
) -> io::Result<()> {
    // Watched before the first byte is read, so that nothing falls between.
    let changes = if options.follow { Some(Changes::of(path)?) } else { None };
    let mut selection = Selection::new(options);
    let mut tail = Tail::open(path, options.tail)?;
    loop {
        // Asked before reading: what the container wrote before its end is in the file by then.
        let is_last = changes.is_none() || ended.is_triggered();
        while let Some(line) = tail.next_line()? {
            let Some(line) = parse(line) else { continue };
            let wrote = selection.write(&line, out).await;
            if wrote.is_err() && options.follow {
                return Ok(());
            }
            if wrote? == Written::All {
                return out.flush().await;
            }
        }
        if out.flush().await.is_err() && options.follow {
            return Ok(());
        }
        if tail.follow_rotation(path)? {
            continue;
        }
        match &changes {
            Some(changes) if !is_last => {
                if let Some(changed) = ended.or(changes.next()).await {
                    changed?;
                }
            }
            _ => return Ok(()),
        }
    }
}

#[derive(PartialEq, Eq)]
enum Written {
    More,
    All,
}

/// Which lines go out, and in what form.
struct Selection<'a> {
    options: &'a Options,
    left: u64,
    /// The next text begins a line, so a time goes before it.
    at_line_start: bool,
    started: bool,
}

impl<'a> Selection<'a> {
    fn new(options: &'a Options) -> Self {
        Self { options, left: options.limit_bytes.unwrap_or(u64::MAX), at_line_start: true, started: false }
    }

    async fn write(&mut self, line: &Line<'_>, out: &mut (impl AsyncWrite + Unpin)) -> io::Result<Written> {
        if self.options.stream.is_some_and(|s| s != line.stream) {
            return Ok(Written::More);
        }
        // Logs are in order: after the first line that is late enough, times need no reading.
        if let Some(since) = self.options.since.filter(|_| !self.started) {
            if line.timestamp().is_none_or(|t| t < since) {
                return Ok(Written::More);
            }
            self.started = true;
        }
        let prefix = if self.options.timestamps && self.at_line_start { line.time } else { "" };
        let space = if prefix.is_empty() { "" } else { " " };
        let end: &[u8] = if line.partial { b"" } else { b"\n" };
        self.at_line_start = !line.partial;
        for part in [prefix.as_bytes(), space.as_bytes(), line.text, end] {
            let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(part.len());
            out.write_all(&part[..n]).await?;
            self.left -= n as u64;
        }
        Ok(if self.left == 0 { Written::All } else { Written::More })
    }
}

/// A log file read to its end, again and again.
struct Tail {
    reader: BufReader<File>,
    line: Vec<u8>,
    /// What is left of a line that is too long.
    skipping: bool,
}

impl Tail {
    fn open(path: &Path, tail: Option<u64>) -> io::Result<Self> {
        let mut file = File::open(path)?;
        if let Some(lines) = tail {
            let start = start_of_last_lines(&file, lines)?;
            file.seek(SeekFrom::Start(start))?;
        }
        Ok(Self { reader: BufReader::new(file), line: Vec::new(), skipping: false })
    }

    /// The next whole line; none at the end, where a half-written line waits for its rest.
    fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        if self.line.ends_with(b"\n") {
            self.line.clear();
        }
        loop {
            let room = LINE_LIMIT_BYTES - self.line.len() as u64;
            self.reader.by_ref().take(room).read_until(b'\n', &mut self.line)?;
            let is_whole = self.line.ends_with(b"\n");
            if !is_whole && (self.line.len() as u64) < LINE_LIMIT_BYTES {
                // A container that was killed may have left half a line for ever; it stays unread.
                return Ok(None);
            }
            let was_skipping = std::mem::replace(&mut self.skipping, !is_whole);
            if is_whole && !was_skipping {
                return Ok(Some(&self.line));
            }
            self.line.clear();
        }
    }

    /// After the end of a file: takes the one that lies at `path` now, if that is another. A file that was cut is read
    /// from its start. True when there may be more to read.
    fn follow_rotation(&mut self, path: &Path) -> io::Result<bool> {
        let here = self.reader.get_ref().metadata()?;
        let there = match path.metadata() {
            Ok(there) => there,
            // Between the two steps of a rotation; the creation of the file will be told.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if (here.dev(), here.ino()) != (there.dev(), there.ino()) {
            // More may have been written to the old file since its end was seen.
            if self.reader.fill_buf()?.is_empty() {
                *self = Self::open(path, None)?;
            }
            return Ok(true);
        }
        if self.reader.stream_position()? > here.len() {
            self.reader.seek(SeekFrom::Start(0))?;
            self.line.clear();
            return Ok(true);
        }
        Ok(false)
    }
}

/// Where the last `lines` whole lines begin.
fn start_of_last_lines(file: &File, lines: u64) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let length = end;
    // The line feed of the last line ends it and begins none; a half-written line behind it does not count.
    let mut wanted = lines.saturating_add(1);
    let mut block = Vec::new();
    while end > 0 {
        let n = BLOCK_BYTES.min(end);
        block.resize(usize::try_from(n).map_err(io::Error::other)?, 0);
        file.read_exact_at(&mut block, end - n)?;
        for (i, _) in block.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            wanted -= 1;
            if wanted == 0 {
                return Ok(end - n + i as u64 + 1);
            }
        }
        end -= n;
    }
    Ok(if lines == 0 { length } else { 0 })
}

/// The kernel's word that something happened in a log's directory.
struct Changes {
    inotify: AsyncFd<OwnedFd>,
}

impl Changes {
    /// Watches the directory, not the file: a rotation puts another file in its place.
    fn of(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        let dir = path.parent().unwrap_or(Path::new("."));
        inotify.add_watch(dir, flags | AddWatchFlags::IN_DELETE)?;
        Ok(Self { inotify: sys::wait_readable(inotify.into())? })
    }

    async fn next(&self) -> io::Result<()> {
        // What happened does not matter: the caller looks for itself.
        let mut events = [0; EVENTS_BYTES];
        loop {
            let mut ready = self.inotify.readable().await?;
            // An error here means: woken for nothing.
            if let Ok(read) = ready.try_io(|fd| nix::unistd::read(fd.get_ref(), &mut events).map_err(io::Error::from)) {
                return read.map(drop);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use test_case::test_case;

    const LOG: &str = "2026-01-01T00:00:01.000000000Z stdout F one\n\
                       2026-01-01T00:00:02.000000000Z stderr F two\n\
                       2026-01-01T00:00:03.000000000Z stdout P thr\n\
                       2026-01-01T00:00:03.500000000Z stdout F ee\n\
                       torn line\n\
                       2026-01-01T00:00:04.000000000Z stdout F four\n\
                       2026-01-01T00:00:05.000000000Z stdout F half";

    fn since(text: &str) -> Options {
        Options { since: Some(text.parse().unwrap()), ..Options::default() }
    }

    #[test_case(Options::default() => "one\ntwo\nthree\nfour\n"; "all")]
    #[test_case(Options { tail: Some(1), ..Options::default() } => "four\n"; "tail")]
    #[test_case(Options { tail: Some(0), ..Options::default() } => ""; "tail of nothing")]
    #[test_case(Options { tail: Some(99), ..Options::default() } => "one\ntwo\nthree\nfour\n"; "tail longer than the log")]
    #[test_case(since("2026-01-01T00:00:03Z") => "three\nfour\n"; "since")]
    #[test_case(Options { limit_bytes: Some(6), ..Options::default() } => "one\ntw"; "limit")]
    #[test_case(Options { stream: Some(Stream::Stderr), ..Options::default() } => "two\n"; "one stream")]
    #[test_case(Options { timestamps: true, tail: Some(4), ..Options::default() } =>
        "2026-01-01T00:00:03.000000000Z three\n2026-01-01T00:00:04.000000000Z four\n"; "times stand before whole lines")]
    #[tokio::test]
    async fn selects(options: Options) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        let mut out = Vec::new();
        copy(&path, &options, &Shutdown::new(), &mut out).await.unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn tails_across_blocks() {
        let mut file = tempfile::tempfile().unwrap();
        let line = format!("{}\n", "x".repeat(9_999));
        (0..30).for_each(|_| file.write_all(line.as_bytes()).unwrap());
        assert_eq!(start_of_last_lines(&file, 20).unwrap(), 100_000);
        assert_eq!(start_of_last_lines(&file, 30).unwrap(), 0);
        assert_eq!(start_of_last_lines(&file, 0).unwrap(), 300_000);
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut text = vec![b'x'; 3 << 20];
        text.extend(b"\nnext\n");
        std::fs::write(&path, text).unwrap();
        let mut tail = Tail::open(&path, None).unwrap();
        assert_eq!(tail.next_line().unwrap().unwrap(), b"next\n");
        assert!(tail.next_line().unwrap().is_none());
        assert!(tail.line.capacity() <= 4 << 20);
    }

    #[tokio::test]
    async fn follows_through_half_lines_and_rotation_to_the_end_of_the_container() {
        use tokio::io::{AsyncBufReadExt, BufReader};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let append = |text: &str| {
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        let line = |text: &str| format!("2026-01-01T00:00:01.000000000Z stdout F {text}\n");
        append(&line("one"));
        let (mut theirs, ours) = tokio::io::duplex(1024);
        let ended = Shutdown::new();
        let follower = tokio::spawn({
            let (path, ended) = (path.clone(), ended.clone());
            let options = Options { follow: true, ..Options::default() };
            async move { copy(&path, &options, &ended, &mut theirs).await }
        });
        let mut lines = BufReader::new(ours).lines();
        assert_eq!(lines.next_line().await.unwrap().unwrap(), "one");
        let two = line("two");
        append(&two[..20]);
        append(&two[20..]);
        assert_eq!(lines.next_line().await.unwrap().unwrap(), "two");
        append(&line("three"));
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        append(&line("four"));
        assert_eq!(lines.next_line().await.unwrap().unwrap(), "three");
        assert_eq!(lines.next_line().await.unwrap().unwrap(), "four");
        append(&line("five"));
        ended.trigger();
        assert_eq!(lines.next_line().await.unwrap().unwrap(), "five");
        assert_eq!(lines.next_line().await.unwrap(), None);
        follower.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_reader_that_goes_away_ends_the_following() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        let (mut theirs, ours) = tokio::io::duplex(1024);
        drop(ours);
        let options = Options { follow: true, ..Options::default() };
        copy(&path, &options, &Shutdown::new(), &mut theirs).await.unwrap();
    }
}
