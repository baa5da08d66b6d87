//! Plugins: programs of the PATH whose names begin with `orch-ctl-` or `kubectl-` are verbs.
//!
//! `orch ctl foo bar -x` runs `kubectl-foo-bar -x`, or else `kubectl-foo bar -x`: the longest name wins.
//! Upstream: `kubectl/pkg/cmd/plugin`.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cx::{Done, say};
use super::fail::{Failure, fail, os};
use crate::util::order::Arrange;

/// What plugins' names begin with; the first is looked for first.
const PREFIXES: [&str; 2] = ["orch-ctl-", "kubectl-"];

/// See what plugins there are
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum What {
    /// All programs of the PATH that are plugins
    List(List),
}

#[derive(Debug, Clone, clap::Args)]
struct List {
    /// Names without their directories
    #[arg(long)]
    name_only: bool,
}

/// Runs the verb.
pub fn run(args: &Args) -> Done {
    let What::List(list) = &args.what;
    let found = all(&path());
    if found.is_empty() {
        fail!("unable to find any kubectl plugins in your PATH");
    }
    say("The following compatible plugins are available:\n")?;
    let (mut first, mut warnings) = (HashMap::new(), 0);
    for plugin in &found {
        let name = plugin.file_name().unwrap_or_default();
        say(if list.name_only { name.to_string_lossy() } else { plugin.to_string_lossy() })?;
        let shown = plugin.display();
        if !is_executable(plugin) {
            warnings += 1;
            say(format!("  - warning: {shown} identified as a kubectl plugin, but it is not executable"))?;
        }
        if let Some(other) = first.insert(name, plugin) {
            warnings += 1;
            say(format!("  - warning: {shown} is overshadowed by a similarly named plugin: {}", other.display()))?;
            first.insert(name, other);
        }
    }
    match warnings {
        0 => Ok(()),
        1 => fail!("one plugin warning was found"),
        n => fail!("{n} plugin warnings were found"),
    }
}

/// The directories of the PATH, each once.
fn path() -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = Vec::new();
    for dir in std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()) {
        if !dir.as_os_str().is_empty() && !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    dirs
}

fn is_plugin(name: &OsStr) -> bool {
    PREFIXES.iter().any(|p| name.to_string_lossy().starts_with(p))
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// All plugins, in the order in which they are looked for.
fn all(dirs: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for dir in dirs {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
        let mut here: Vec<PathBuf> = entries.filter(|p| p.file_name().is_some_and(is_plugin) && !p.is_dir()).collect();
        here.arrange();
        found.append(&mut here);
    }
    found
}

/// The plugin that words mean, and how many of them are its name.
fn find(words: &[String], dirs: &[PathBuf]) -> Option<(PathBuf, usize)> {
    // Flags before the name are nobody's.
    let names: Vec<String> = words.iter().take_while(|w| !w.starts_with('-')).map(|w| w.replace('-', "_")).collect();
    (1..=names.len()).rev().find_map(|n| {
        let name = names[..n].join("-");
        let candidates = PREFIXES.iter().flat_map(|p| dirs.iter().map(move |dir| (p, dir)));
        let mut files = candidates.map(|(prefix, dir)| dir.join(format!("{prefix}{name}")));
        // A name with a slash would leave the directory.
        files.find(|file| !name.contains('/') && is_executable(file)).map(|file| (file, n))
    })
}

/// Becomes the plugin that words mean; gives back why it cannot, and nothing where there is none.
pub fn become_one(words: &[String]) -> Option<Failure> {
    let (program, taken) = find(words, &path())?;
    let error = Command::new(&program).args(&words[taken..]).exec();
    Some(Failure::Plain(format!("{}: {}", program.display(), os(&error))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_wins_and_dashes_become_underscores() {
        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in
            [("kubectl-foo", 0o755), ("kubectl-foo-bar", 0o755), ("orch-ctl-x_y", 0o755), ("kubectl-no", 0o644)]
        {
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let dirs = [dir.path().to_owned()];
        let found = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            find(&words, &dirs).map(|(p, n)| (p.file_name().unwrap().to_string_lossy().into_owned(), n))
        };
        assert_eq!(found("foo bar baz -x"), Some(("kubectl-foo-bar".into(), 2)));
        assert_eq!(found("foo -x bar"), Some(("kubectl-foo".into(), 1)));
        assert_eq!(found("x-y"), Some(("orch-ctl-x_y".into(), 1)));
        assert_eq!((found("no"), found("--foo"), found("nope")), (None, None, None));
        assert_eq!(all(&dirs).len(), 4);
    }
}
