//! systemd units, from the files in `systemd/`: those are for `/usr/local/bin/orch` without flags; an installer asks for
//! others.
//!
//! In: role, program, file of settings, flags. Out: the unit's text.

use std::path::PathBuf;

use super::check::Role;

const SERVER: &str = include_str!("../../systemd/orch.service");
const AGENT: &str = include_str!("../../systemd/orch-agent.service");

/// Flags of `orch unit`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// server or agent
    role: Role,
    /// The program
    #[arg(long, value_name = "FILE", default_value = "/usr/local/bin/orch")]
    binary: PathBuf,
    /// File of environment variables
    #[arg(long, value_name = "FILE")]
    environment: Option<PathBuf>,
    /// Flags of the role
    #[arg(last = true)]
    flags: Vec<String>,
}

/// The unit that was asked for.
pub fn render(args: &Args) -> String {
    let (template, verb) = match args.role {
        Role::Server => (SERVER, "server"),
        Role::Agent => (AGENT, "agent"),
    };
    let line = |line: &str| match line.split_once('=') {
        Some(("ExecStart", _)) => {
            let words =
                [args.binary.display().to_string(), verb.to_owned()].into_iter().chain(args.flags.iter().cloned());
            format!("ExecStart={}", words.map(|w| quoted(&w)).collect::<Vec<_>>().join(" "))
        }
        Some(("EnvironmentFile", _)) if args.environment.is_some() => {
            let file = args.environment.as_deref().unwrap_or(std::path::Path::new("")).display().to_string();
            // A path here is the rest of the line; only specifiers are expanded.
            format!("EnvironmentFile=-{}", file.replace('%', "%%"))
        }
        _ => line.to_owned(),
    };
    template.lines().map(line).map(|l| l + "\n").collect()
}

/// A word of a command line, as systemd splits it: `%` and `$` are expanded even within quotes.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:,@+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let mut out = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '%' | '$' => out.extend([c, c]),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    fn args(role: Role, flags: &[&str]) -> Args {
        let flags = flags.iter().map(|&f| f.to_owned()).collect();
        Args { role, binary: "/usr/local/bin/orch".into(), environment: None, flags }
    }

    #[test]
    fn without_wishes_it_is_the_file() {
        assert_eq!(render(&args(Role::Server, &[])), SERVER);
        assert_eq!(render(&args(Role::Agent, &[])), AGENT);
    }

    #[test]
    fn program_settings_and_flags_take_their_places() {
        let mut wanted = args(Role::Agent, &["--node-label=a=b c", "--debug"]);
        wanted.binary = "/opt/bin/orch".into();
        wanted.environment = Some("/etc/orch/orch-edge.env".into());
        let text = render(&wanted);
        let has = |line: &str| text.lines().any(|l| l == line);
        assert!(has(r#"ExecStart=/opt/bin/orch agent "--node-label=a=b c" --debug"#), "{text}");
        assert!(has("EnvironmentFile=-/etc/orch/orch-edge.env"), "{text}");
        assert_eq!(text.lines().count(), AGENT.lines().count());
    }

    #[test_case("a" => "a")]
    #[test_case("" => r#""""#; "empty")]
    #[test_case("50% of $HOME" => r#""50%% of $$HOME""#; "nothing is expanded")]
    #[test_case(r#"say "\""# => r#""say \"\\\"""#; "quotes")]
    fn words(word: &str) -> String {
        quoted(word)
    }

    #[test]
    fn units_promise_what_orch_keeps() {
        for unit in [SERVER, AGENT] {
            for line in ["Type=notify", "KillMode=process", "Delegate=yes", "Restart=always", "OOMPolicy=continue"] {
                assert!(unit.lines().any(|l| l == line), "{line}");
            }
            assert!(unit.contains("\nWatchdogSec="));
        }
    }
}
