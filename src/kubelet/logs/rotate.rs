//! Rotation: a log that grew too long is renamed, the runtime opens a new one, older ones are compressed, the oldest go.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;

use crate::kubelet::runtime::Runtime;
use crate::util::files;
use crate::util::order::Arrange;

/// When to rotate and how much to keep; upstream's `containerLogMaxSize` and `containerLogMaxFiles`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// Bytes of the current file.
    pub max_bytes: u64,
    /// Files in all, the current one among them.
    pub max_files: usize,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { max_bytes: 10 << 20, max_files: 5 }
    }
}

/// What becomes of the rotated files of a log.
#[derive(Debug, PartialEq, Eq, Default)]
struct Plan {
    remove: Vec<String>,
    compress: Vec<String>,
}

/// `rotated` are the names of rotated files beside the log; their times sort as text. One more is about to join them; it
/// stays as it is, because somebody may still be reading it.
fn plan(max_files: usize, mut rotated: Vec<String>) -> Plan {
    rotated.arrange();
    // Besides the current file and the one about to be rotated.
    let keep = max_files.saturating_sub(2);
    let kept = rotated.split_off(rotated.len().saturating_sub(keep));
    Plan { remove: rotated, compress: kept.into_iter().filter(|n| !n.ends_with(".gz")).collect() }
}

/// Rotates the log of container `id` if it is too long. True when it did.
///
/// Errors: the old state is restored where the runtime would not open a new file, so that no line is lost.
pub async fn rotate(
    runtime: &dyn Runtime,
    id: &str,
    log: &Path,
    rotation: Rotation,
    now: Timestamp,
) -> io::Result<bool> {
    if log.metadata()?.len() < rotation.max_bytes {
        return Ok(false);
    }
    let plan = plan(rotation.max_files, rotated_beside(log)?);
    for name in &plan.remove {
        std::fs::remove_file(log.with_file_name(name))?;
    }
    for name in plan.compress {
        let path = log.with_file_name(name);
        tokio::task::spawn_blocking(move || compress(&path)).await.map_err(io::Error::other)??;
    }
    let aside = PathBuf::from(format!("{}.{}", log.display(), now.strftime("%Y%m%d-%H%M%S")));
    std::fs::rename(log, &aside)?;
    if let Err(error) = runtime.reopen_log(id).await {
        std::fs::rename(&aside, log)?;
        return Err(io::Error::other(format!("cannot rotate {}: {error}", log.display())));
    }
    Ok(true)
}

/// Removes a log and its rotated files: nobody can ask for them any more.
pub fn remove(log: &Path) -> io::Result<()> {
    let absent = |r: io::Result<()>| match r {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    let rotated = match rotated_beside(log) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for name in rotated {
        absent(std::fs::remove_file(log.with_file_name(name)))?;
    }
    absent(std::fs::remove_file(log))
}

/// Names of the rotated files of `log`. Half-compressed files of a crash carry another prefix and are left to the kubelet's
/// removal of the whole directory.
fn rotated_beside(log: &Path) -> io::Result<Vec<String>> {
    let prefix = format!("{}.", log.file_name().unwrap_or_default().to_string_lossy());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(log.parent().unwrap_or(Path::new(".")))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.strip_prefix(&prefix).is_some_and(is_rotation_time) {
            names.push(name);
        }
    }
    Ok(names)
}

/// `20260102-030405`, compressed or not.
fn is_rotation_time(suffix: &str) -> bool {
    let time = suffix.strip_suffix(".gz").unwrap_or(suffix);
    time.len() == 15 && time.bytes().enumerate().all(|(i, b)| if i == 8 { b == b'-' } else { b.is_ascii_digit() })
}

fn compress(path: &Path) -> io::Result<()> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    io::copy(&mut File::open(path)?, &mut gzip)?;
    let bytes = gzip.finish()?;
    files::write_atomic(&PathBuf::from(format!("{}.gz", path.display())), &bytes, 0o640)?;
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case(5, &[] => (vec![], vec![]); "first")]
    #[test_case(5, &["l.2", "l.1.gz"] => (vec![], vec!["l.2".into()]); "compress what is plain")]
    #[test_case(3, &["l.3", "l.2.gz", "l.1.gz"] => (vec!["l.1.gz".into(), "l.2.gz".into()], vec!["l.3".into()]); "oldest go")]
    #[test_case(2, &["l.1"] => (vec!["l.1".into()], vec![]); "two files")]
    fn plans(max_files: usize, rotated: &[&str]) -> (Vec<String>, Vec<String>) {
        let plan = plan(max_files, rotated.iter().map(|s| (*s).to_owned()).collect());
        (plan.remove, plan.compress)
    }

    #[test_case("20260102-030405" => true)]
    #[test_case("20260102-030405.gz" => true)]
    #[test_case("gz" => false)]
    #[test_case("20260102-03040x" => false)]
    fn rotated_names(suffix: &str) -> bool {
        is_rotation_time(suffix)
    }

    #[test]
    fn a_log_is_removed_with_what_was_rotated() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0.log", "0.log.20260102-030405", "0.log.20260102-030405.gz", "1.log", "10.log"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        remove(&dir.path().join("0.log")).unwrap();
        remove(&dir.path().join("0.log")).unwrap();
        remove(&dir.path().join("none/0.log")).unwrap();
        let mut left: Vec<_> = dir.path().read_dir().unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["1.log", "10.log"]);
    }

    #[test]
    fn compression_leaves_one_file_with_the_same_text() {
        use std::io::Read;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log.20260102-030405");
        std::fs::write(&path, "text").unwrap();
        compress(&path).unwrap();
        assert_eq!(rotated_beside(&dir.path().join("0.log")).unwrap(), ["0.log.20260102-030405.gz"]);
        let mut text = String::new();
        let gzip = File::open(dir.path().join("0.log.20260102-030405.gz")).unwrap();
        flate2::read::GzDecoder::new(gzip).read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
    }
}
