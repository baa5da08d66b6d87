//! The configuration file: any flag by its name; a flag on the command line wins.
//!
//! The file's entries become arguments in front of those of the command line, so that there is one parser and one set
//! of checks. A list gives a flag several times.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_yaml::Value;

/// Where the file is when `--config` and `ORCH_CONFIG_FILE` say nothing.
pub const DEFAULT_FILE: &str = "/etc/orch/config.yaml";

/// The arguments with the file's entries put in, for commands that have `--config`.
pub fn with_file(command: clap::Command, args: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
    let Some(name) = args.get(1).and_then(|a| a.to_str()) else { return Ok(args) };
    let Some(sub) = command.get_subcommands().find(|c| c.get_name() == name) else { return Ok(args) };
    let flags: Vec<(String, bool)> = sub
        .get_arguments()
        .flat_map(|a| {
            let takes_value = a.get_action().takes_values();
            let names = a
                .get_long()
                .into_iter()
                .map(str::to_owned)
                .chain(a.get_all_aliases().into_iter().flatten().map(str::to_owned));
            names.map(move |n| (n, takes_value)).collect::<Vec<_>>()
        })
        .collect();
    if !flags.iter().any(|(f, _)| f == "config") {
        return Ok(args);
    }
    let (path, named) = file_of(&args);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !named => return Ok(args),
        Err(e) => bail!("cannot read the configuration file {}: {e}", path.display()),
    };
    let given: Vec<String> = args.iter().filter_map(|a| a.to_str()).filter_map(long_name).collect();
    let entries = entries(&text, &flags, &given).with_context(|| format!("configuration file {}", path.display()))?;
    let mut all = args[..2].to_vec();
    all.extend(entries.into_iter().map(OsString::from));
    all.extend_from_slice(&args[2..]);
    Ok(all)
}

fn long_name(arg: &str) -> Option<String> {
    let name = arg.strip_prefix("--")?;
    Some(name.split('=').next().unwrap_or(name).to_owned())
}

fn file_of(args: &[OsString]) -> (PathBuf, bool) {
    let mut args = args.iter().filter_map(|a| a.to_str());
    while let Some(arg) = args.next() {
        let path = match arg {
            "--config" | "-c" => args.next(),
            _ => arg.strip_prefix("--config=").or_else(|| {
                let rest = arg.strip_prefix("-c").filter(|_| !arg.starts_with("--"))?;
                Some(rest.strip_prefix('=').unwrap_or(rest))
            }),
        };
        if let Some(path) = path {
            return (path.into(), true);
        }
    }
    match std::env::var_os("ORCH_CONFIG_FILE") {
        Some(path) => (Path::new(&path).to_owned(), true),
        None => (DEFAULT_FILE.into(), false),
    }
}

/// Arguments from the file's text. `flags` are the known ones with whether they take a value; `given` win.
fn entries(text: &str, flags: &[(String, bool)], given: &[String]) -> anyhow::Result<Vec<String>> {
    let map = match serde_yaml::from_str(text)? {
        Value::Mapping(map) => map,
        Value::Null => return Ok(Vec::new()),
        _ => bail!("must be a map from flag to value"),
    };
    let mut out = Vec::new();
    for (key, value) in map {
        let Value::String(key) = key else { bail!("a key must be a flag's name") };
        let Some((_, takes_value)) = flags.iter().find(|(f, _)| *f == key) else {
            let nearest = flags.iter().min_by_key(|(f, _)| strsim::damerau_levenshtein(f, &key)).map_or("", |(f, _)| f);
            bail!("unknown key {key:?}; did you mean {nearest:?}?");
        };
        if given.contains(&key) {
            continue;
        }
        match value {
            Value::Sequence(list) => {
                for v in list {
                    out.push(format!("--{key}={}", scalar(&key, &v)?));
                }
            }
            Value::Bool(on) if !takes_value => {
                if on {
                    out.push(format!("--{key}"));
                }
            }
            v if !takes_value => bail!("{key}: must be true or false, not {}", scalar(&key, &v)?),
            v => out.push(format!("--{key}={}", scalar(&key, &v)?)),
        }
    }
    Ok(out)
}

fn scalar(key: &str, value: &Value) -> anyhow::Result<String> {
    match value {
        Value::String(s) => Ok(s.clone()),
        Value::Number(n) => Ok(n.to_string()),
        Value::Bool(b) => Ok(b.to_string()),
        _ => bail!("{key}: must be a text, a number, or a list of them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> Vec<(String, bool)> {
        [("https-listen-port", true), ("disable-agent", false), ("tls-san", true)]
            .map(|(f, v)| (f.to_owned(), v))
            .into()
    }

    #[test]
    fn entries_become_flags_and_the_command_line_wins() {
        let text = "https-listen-port: 7443\ndisable-agent: true\ntls-san: [a, b]\n";
        assert_eq!(
            entries(text, &flags(), &[]).unwrap(),
            ["--https-listen-port=7443", "--disable-agent", "--tls-san=a", "--tls-san=b"]
        );
        assert_eq!(
            entries(text, &flags(), &["tls-san".into(), "disable-agent".into()]).unwrap(),
            ["--https-listen-port=7443"]
        );
        assert_eq!(entries("", &flags(), &[]).unwrap(), [] as [String; 0]);
    }

    #[test]
    fn the_file_is_named_in_every_way_that_flags_are() {
        for args in [&["--config", "x"][..], &["--config=x"], &["-c", "x"], &["-cx"], &["-c=x"]] {
            let args: Vec<OsString> = ["orch", "server"].iter().chain(args).map(OsString::from).collect();
            assert_eq!(file_of(&args), ("x".into(), true), "{args:?}");
        }
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let error = entries("https-listen-prt: 1\n", &flags(), &[]).unwrap_err().to_string();
        assert_eq!(error, "unknown key \"https-listen-prt\"; did you mean \"https-listen-port\"?");
        assert!(entries("disable-agent: 3\n", &flags(), &[]).is_err());
        assert!(entries("- a\n", &flags(), &[]).is_err());
    }
}
