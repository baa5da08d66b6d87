//! The configuration file: any flag by its name; a flag on the command line wins.
//!
//! The file's entries become arguments in front of those of the command line, so that there is one parser and one set
//! of checks. A list gives a flag several times; one that is given once gets its items with commas between.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::ArgAction;
use clap::parser::ValueSource;
use serde_yaml::Value;

use crate::util::words::nearest;

/// Where the file is when `--config` and `ORCH_CONFIG_FILE` say nothing.
pub const DEFAULT_FILE: &str = "/etc/orch/config.yaml";

/// The arguments with the file's entries put in, for commands that have `--config`.
pub fn with_file(command: clap::Command, args: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
    let Some(name) = args.get(1).and_then(|a| a.to_str()) else { return Ok(args) };
    let Some(sub) = command.get_subcommands().find(|c| c.get_name() == name).cloned() else { return Ok(args) };
    if !sub.get_arguments().any(|a| a.get_long() == Some("config")) {
        return Ok(args);
    }
    // Whatever is wrong on the command line is told by the parser that comes after; help and version are not for here.
    let Ok(matches) = command.ignore_errors(true).try_get_matches_from(&args) else { return Ok(args) };
    let Some((_, given)) = matches.subcommand() else { return Ok(args) };
    let named = given.get_one::<PathBuf>("config").cloned();
    let path = named.clone().unwrap_or_else(|| DEFAULT_FILE.into());
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && named.is_none() => return Ok(args),
        Err(e) => bail!("cannot read the configuration file {}: {e}", path.display()),
    };
    let flags: Vec<Flag> = sub.get_arguments().flat_map(|a| Flag::of(a, given)).collect();
    let entries = entries(&text, &flags).with_context(|| format!("configuration file {}", path.display()))?;
    let mut all = args[..2].to_vec();
    all.extend(entries.into_iter().map(OsString::from));
    all.extend_from_slice(&args[2..]);
    Ok(all)
}

/// The data directory that the file names, if it does: for commands that have no other use of the file.
pub fn data_dir() -> Option<PathBuf> {
    let path = std::env::var_os("ORCH_CONFIG_FILE").map_or_else(|| DEFAULT_FILE.into(), PathBuf::from);
    let value: Value = serde_yaml::from_str(&std::fs::read_to_string(path).ok()?).ok()?;
    value.get("data-dir")?.as_str().map(PathBuf::from)
}

/// A flag by one of its long names.
struct Flag {
    name: String,
    takes_value: bool,
    /// It may be given several times.
    repeats: bool,
    /// It stands on the command line, in whatever spelling.
    given: bool,
}

impl Flag {
    fn of(arg: &clap::Arg, matches: &clap::ArgMatches) -> Vec<Self> {
        let takes_value = arg.get_action().takes_values();
        let repeats = matches!(arg.get_action(), ArgAction::Append);
        let known = matches.ids().any(|id| id == arg.get_id());
        let given = known && matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
        let aliases = arg.get_all_aliases().into_iter().flatten();
        let names = arg.get_long().into_iter().chain(aliases);
        names.map(|n| Self { name: n.to_owned(), takes_value, repeats, given }).collect()
    }
}

/// Arguments from the file's text, without those that are given already.
fn entries(text: &str, flags: &[Flag]) -> anyhow::Result<Vec<String>> {
    let map = match serde_yaml::from_str(text)? {
        Value::Mapping(map) => map,
        Value::Null => return Ok(Vec::new()),
        _ => bail!("must be a map from flag to value"),
    };
    let mut out = Vec::new();
    for (key, value) in map {
        let Value::String(key) = key else { bail!("a key must be a flag's name") };
        let Some(Flag { takes_value, repeats, given, .. }) = flags.iter().find(|f| f.name == key) else {
            bail!("unknown key {key:?}; did you mean {:?}?", nearest(flags.iter().map(|f| f.name.as_str()), &key));
        };
        if *given {
            continue;
        }
        match value {
            Value::Sequence(list) => {
                let items: Vec<String> = list.iter().map(|v| scalar(&key, v)).collect::<anyhow::Result<_>>()?;
                match repeats {
                    true => out.extend(items.iter().map(|v| format!("--{key}={v}"))),
                    false => out.push(format!("--{key}={}", items.join(","))),
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
    use test_case::test_case;

    use super::*;

    fn command() -> clap::Command {
        let arg = |name| clap::Arg::new(name).long(name);
        let set = arg("disable-agent").action(clap::ArgAction::SetTrue);
        let server = clap::Command::new("server")
            .arg(arg("config").short('c').value_parser(clap::value_parser!(PathBuf)))
            .arg(arg("https-listen-port").short('p').alias("port"))
            .arg(arg("tls-san").action(clap::ArgAction::Append))
            .arg(set);
        clap::Command::new("orch").subcommand(server)
    }

    /// What the parser gets for a file and a command line.
    fn parsed(text: &str, line: &[&str]) -> anyhow::Result<Vec<String>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let path = file.path().to_str().unwrap();
        let args = ["orch", "server", "-c", path].iter().chain(line).map(OsString::from).collect();
        let all = with_file(command(), args)?;
        Ok(all
            .into_iter()
            .map(|a| a.into_string().unwrap())
            .filter(|a| !["orch", "server", "-c", path].contains(&&**a))
            .collect())
    }

    #[test_case(&[], &["--https-listen-port=7443", "--disable-agent", "--tls-san=a", "--tls-san=b"]; "the file alone")]
    #[test_case(&["--tls-san", "c"], &["--https-listen-port=7443", "--disable-agent", "--tls-san", "c"]; "a list given")]
    #[test_case(&["-p", "1"], &["--disable-agent", "--tls-san=a", "--tls-san=b", "-p", "1"]; "by its short name")]
    #[test_case(&["--port=1"], &["--disable-agent", "--tls-san=a", "--tls-san=b", "--port=1"]; "by an alias")]
    #[test_case(&["--bad"], &["--https-listen-port=7443", "--disable-agent", "--tls-san=a", "--tls-san=b", "--bad"]; "left to the parser")]
    fn entries_become_flags_and_the_command_line_wins(line: &[&str], want: &[&str]) {
        let text = "https-listen-port: 7443\ndisable-agent: true\ntls-san: [a, b]\n";
        assert_eq!(parsed(text, line).unwrap(), want);
    }

    #[test]
    fn a_flag_of_one_value_gets_a_list_as_one() {
        let got = parsed("https-listen-port: [10.42.0.0/16, 'fd42::/56']\ntls-san: [a]\n", &[]).unwrap();
        assert_eq!(got, ["--https-listen-port=10.42.0.0/16,fd42::/56", "--tls-san=a"]);
    }

    #[test_case("https-listen-prt: 1\n", "unknown key \"https-listen-prt\"; did you mean \"https-listen-port\"?")]
    #[test_case("disable-agent: 3\n", "disable-agent: must be true or false, not 3")]
    #[test_case("- a\n", "must be a map from flag to value")]
    fn what_is_no_configuration_is_told(text: &str, why: &str) {
        let error = format!("{:#}", parsed(text, &[]).unwrap_err());
        assert!(error.starts_with("configuration file ") && error.ends_with(why), "{error}");
    }

    #[test]
    fn an_empty_file_says_nothing_and_an_absent_one_is_missed() {
        assert_eq!(parsed("", &[]).unwrap(), [] as [String; 0]);
        let args = ["orch", "server", "-c", "/nonexistent/config.yaml"].map(OsString::from).to_vec();
        assert!(with_file(command(), args).unwrap_err().to_string().contains("/nonexistent/config.yaml"));
    }
}
