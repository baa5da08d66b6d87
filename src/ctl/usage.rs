//! A command line that cannot be read, told as kubectl tells it: one line that says what is wrong, one where to look.
//!
//! In: clap's error and the words behind `orch ctl`. Out: text for stderr (or help for stdout) and the exit code, 1.
//! Upstream: cobra's messages, and `UsageErrorf` of kubectl's `cmd/util/helpers.go`.

use crate::util::order::Arrange;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Command};

/// What to print, and where.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// Something is wrong.
    Error(String),
    /// A verb that only has verbs below it was given none: its help, as an answer or for what is wrong.
    Help {
        /// What to print.
        text: String,
        /// True where kubectl takes it for a mistake.
        wrong: bool,
    },
}

/// Words a clap error as kubectl would. `words` are those behind `orch ctl`. None for what is no error of `ctl`'s (help
/// that was asked for).
pub fn tell(error: &clap::Error, words: &[String]) -> Option<Told> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(" "),
        _ => String::new(),
    };
    let place = Place::find(words);
    let subject = text(ContextKind::InvalidArg);
    Some(Told::Error(match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => return None,
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // To ask for the commands themselves is no mistake, nor for what can be done with certificates and metrics.
            let wrong = !matches!(
                place.path.iter().map(String::as_str).collect::<Vec<_>>()[..],
                [] | ["certificate"] | ["top"]
            );
            return Some(Told::Help { text: place.help(), wrong });
        }
        // Words beside the flags of a verb that has verbs below it.
        ErrorKind::ArgumentConflict if !place.rest.is_empty() => place.unknown(""),
        ErrorKind::UnknownArgument => place.unknown(&subject),
        ErrorKind::InvalidSubcommand => place.unknown_verb(&text(ContextKind::InvalidSubcommand)),
        ErrorKind::MissingRequiredArgument => {
            let missing: Vec<String> = match error.get(ContextKind::InvalidArg) {
                Some(ContextValue::Strings(texts)) => texts.clone(),
                _ => Vec::new(),
            };
            place.missing(&missing)
        }
        ErrorKind::InvalidValue if text(ContextKind::InvalidValue).is_empty() => {
            let given = match words.last().filter(|w| w.len() == 2 && w.starts_with('-') && *w != "--") {
                Some(short) => format!("'{}' in {short}", &short[1..]),
                None => flag(&subject).to_owned(),
            };
            format!("error: flag needs an argument: {given}\n{}", place.see("--help", "usage"))
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let source = std::error::Error::source(error).map(|e| e.to_string()).unwrap_or_default();
            place.invalid(&subject, &text(ContextKind::InvalidValue), &source)
        }
        _ => format!("error: {}", error.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ")),
    }))
}

/// The flag of `--tail <TAIL>`.
fn flag(subject: &str) -> &str {
    subject.split([' ', '[', '=']).next().unwrap_or(subject)
}

/// The verb that was being read.
struct Place {
    /// `create namespace`.
    path: Vec<String>,
    /// Words that name no verb and are no flags.
    rest: Vec<String>,
    command: Command,
}

impl Place {
    fn find(words: &[String]) -> Self {
        let (mut path, mut rest) = (Vec::new(), Vec::new());
        let mut command = super::command();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if word == "--" {
                break;
            }
            if word.starts_with('-') && word.len() > 1 {
                if takes_next(&command, word) {
                    words.next();
                }
            } else if let (true, Some(found)) = (rest.is_empty(), command.find_subcommand(word).cloned()) {
                path.push(found.get_name().to_owned());
                // Flags for all verbs are those of the verb too.
                let inherited: Vec<clap::Arg> =
                    command.get_arguments().filter(|a| a.is_global_set()).cloned().collect();
                let known = |a: &clap::Arg| found.get_arguments().any(|b| b.get_id() == a.get_id());
                let new: Vec<clap::Arg> = inherited.into_iter().filter(|a| !known(a)).collect();
                command = found.args(new);
            } else {
                rest.push(word.clone());
            }
        }
        Self { path, rest, command }
    }

    fn name(&self) -> String {
        ["kubectl"].into_iter().chain(self.path.iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
    }

    fn see(&self, help: &str, what: &str) -> String {
        format!("See '{} {help}' for {what}.", self.name())
    }

    fn examples(&self) -> String {
        format!("See '{} -h' for help and examples", self.name())
    }

    fn help(self) -> String {
        let name = self.name();
        self.command.bin_name(name.clone()).display_name(name).render_help().to_string()
    }

    fn unknown(&self, subject: &str) -> String {
        let usage = self.see("--help", "usage");
        if subject.starts_with("--") {
            return format!("error: unknown flag: {}\n{usage}", flag(subject));
        }
        if let Some(letters) = subject.strip_prefix('-') {
            let first = letters.chars().next().unwrap_or('-');
            return format!("error: unknown shorthand flag: '{first}' in {subject}\n{usage}");
        }
        if self.path.first().is_some_and(|v| v == "create") && self.path.len() > 1 {
            return self.one_name(self.rest.len());
        }
        if self.path == ["exec"] {
            return format!(
                "error: exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead\n{}",
                self.examples()
            );
        }
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let rest = self.rest.join(" ");
        match path[..] {
            ["version"] => format!("error: extra arguments: [{rest}]"),
            ["cp"] => "error: source and destination are required".to_owned(),
            ["attach"] => format!(
                "error: expected POD, TYPE/NAME, or TYPE NAME, (at most 2 arguments) saw {}: [{rest}]",
                self.rest.len()
            ),
            ["logs"] => format!("error: {}\n{}", super::logs::EXPECTED, self.examples()),
            ["create" | "apply", ..] => format!("error: Unexpected args: [{rest}]\n{}", self.examples()),
            _ => format!("error: unexpected arguments: [{rest}]\n{}", self.examples()),
        }
    }

    fn one_name(&self, given: usize) -> String {
        format!("error: exactly one NAME is required, got {given}\n{}", self.examples())
    }

    fn unknown_verb(&self, verb: &str) -> String {
        if !self.path.is_empty() {
            let words = if self.rest.is_empty() { verb.to_owned() } else { self.rest.join(" ") };
            return match self.path[..] {
                [ref verb] if verb == "create" || verb == "apply" => {
                    format!("error: Unexpected args: [{words}]\n{}", self.examples())
                }
                _ => format!("error: unknown command {words:?}\n{}", self.examples()),
            };
        }
        if ABSENT.contains(&verb) {
            return format!("error: {verb:?} is a command of kubectl that orch ctl does not have");
        }
        let mut out = format!("error: unknown command {verb:?} for \"kubectl\"");
        let near =
            |name: &&str| distance(verb, name) <= MAX_DISTANCE || name.to_lowercase().starts_with(&verb.to_lowercase());
        let names: Vec<&str> = self.command.get_subcommands().map(Command::get_name).filter(near).collect();
        if !names.is_empty() {
            out += "\n\nDid you mean this?";
            names.iter().for_each(|n| out += &format!("\n\t{n}"));
            out.push('\n');
        }
        out
    }

    fn missing(&self, missing: &[String]) -> String {
        let flags: Vec<String> = missing
            .iter()
            .filter(|m| m.starts_with('-'))
            .map(|m| format!("{:?}", flag(m).trim_start_matches('-')))
            .collect();
        if !flags.is_empty() {
            return format!("error: required flag(s) {} not set", flags.join(", "));
        }
        match self.path.first().map(String::as_str) {
            Some("create") if self.path.len() > 1 => self.one_name(self.rest.len()),
            Some("run") => format!("error: NAME is required for run\n{}", self.examples()),
            Some("port-forward") => {
                format!("error: TYPE/NAME and list of ports are required for port-forward\n{}", self.examples())
            }
            Some("attach") => "error: at least 1 argument is required for attach".into(),
            Some("cp") => "error: source and destination are required".into(),
            Some("config") => format!("error: Unexpected args: [{}]", self.rest.join(" ")),
            Some("exec") => "error: pod, type/name or --filename must be specified".into(),
            Some("explain") => "error: You must specify the type of resource to explain. Use \"kubectl api-resources\" for a complete list of supported resources.".into(),
            _ => {
                let names: Vec<&str> = missing.iter().map(|m| m.trim_matches(['<', '>', '.'])).collect();
                format!("error: {} is required\n{}", names.join(" and "), self.examples())
            }
        }
    }

    /// A value that a flag does not take. Texts of our own parsers that name the value stand for themselves.
    fn invalid(&self, subject: &str, value: &str, source: &str) -> String {
        if source.to_lowercase().starts_with("invalid ") && source.contains('(') {
            return format!("error: {source}");
        }
        let why = match source {
            "" => "invalid value".to_owned(),
            text if text.contains("digit") || text.contains("number too") => {
                format!("strconv.ParseInt: parsing {value:?}: invalid syntax")
            }
            text => text.to_owned(),
        };
        let long = flag(subject);
        let arg = self.command.get_arguments().find(|a| a.get_long() == Some(long.trim_start_matches('-')));
        let short = arg.and_then(clap::Arg::get_short).map_or(String::new(), |s| format!("-{s}, "));
        format!("error: invalid argument {value:?} for \"{short}{long}\" flag: {why}\n{}", self.see("--help", "usage"))
    }
}

/// Commands of kubectl that are not here.
const ABSENT: [&str; 1] = ["alpha"];
/// Mistakes of typing after which a command is still meant.
const MAX_DISTANCE: usize = 2;

/// Letters to change, add or drop to make one word of another (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().flat_map(char::to_lowercase).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().flat_map(char::to_lowercase).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The flags of all commands, for `options`.
pub fn options() -> String {
    let mut out = "The following options can be passed to any command:\n\n".to_owned();
    let mut args: Vec<clap::Arg> = super::command().get_arguments().filter(|a| a.is_global_set()).cloned().collect();
    args.arrange_by_key(|a| a.get_long().unwrap_or_default().to_owned());
    for arg in args {
        let short = arg.get_short().map_or(String::new(), |s| format!("-{s}, "));
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        out += &format!("    {short}--{}:\n\t{help}\n\n", arg.get_long().unwrap_or_default());
    }
    out
}

/// Whether a flag's value is the next word.
fn takes_next(command: &Command, word: &str) -> bool {
    if word.contains('=') {
        return false;
    }
    let found = match word.strip_prefix("--") {
        Some(long) => command.get_arguments().find(|a| a.get_long() == Some(long)),
        None => {
            let mut letters = word.chars().skip(1);
            let (first, more) = (letters.next(), letters.next().is_some());
            // `-nfoo` has its value with it.
            command.get_arguments().find(|a| !more && a.get_short() == first)
        }
    };
    found.is_some_and(|a| matches!(a.get_action(), ArgAction::Set | ArgAction::Append) && !a.is_require_equals_set())
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn told(line: &str) -> Told {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let error = super::super::command().no_binary_name(true).try_get_matches_from(&words).unwrap_err();
        tell(&error, &words).unwrap()
    }

    #[test_case("get pods --bogus", "error: unknown flag: --bogus\nSee 'kubectl get --help' for usage.")]
    #[test_case("get pods -Z", "error: unknown shorthand flag: 'Z' in -Z\nSee 'kubectl get --help' for usage.")]
    #[test_case(
        "-n x create ns",
        "error: exactly one NAME is required, got 0\nSee 'kubectl create namespace -h' for help and examples"
    )]
    #[test_case(
        "create ns a b",
        "error: exactly one NAME is required, got 2\nSee 'kubectl create namespace -h' for help and examples"
    )]
    #[test_case("create deployment d", "error: required flag(s) \"image\" not set")]
    #[test_case("create bogus x", "error: Unexpected args: [bogus x]\nSee 'kubectl create -h' for help and examples")]
    #[test_case("rollout bogus", "error: unknown command \"bogus\"\nSee 'kubectl rollout -h' for help and examples")]
    #[test_case("alpha x", "error: \"alpha\" is a command of kubectl that orch ctl does not have")]
    #[test_case("gte", "error: unknown command \"gte\" for \"kubectl\"\n\nDid you mean this?\n\tget\n"; "a slip")]
    #[test_case("apply extra", "error: Unexpected args: [extra]\nSee 'kubectl apply -h' for help and examples")]
    #[test_case("apply -f", "error: flag needs an argument: 'f' in -f\nSee 'kubectl apply --help' for usage.")]
    #[test_case(
        "wait pod/x --timeout=x",
        "error: invalid argument \"x\" for \"--timeout\" flag: time: invalid duration \"x\"\nSee 'kubectl wait --help' for usage."
    )]
    #[test_case(
        "create cm x --dry-run=bogus",
        "error: Invalid dry-run value (bogus). Must be \"none\", \"server\", or \"client\"."
    )]
    #[test_case(
        "logs p --tail=bogus",
        "error: invalid argument \"bogus\" for \"--tail\" flag: strconv.ParseInt: parsing \"bogus\": invalid syntax\nSee 'kubectl logs --help' for usage."
    )]
    #[test_case(
        "exec p ls",
        "error: exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead\nSee 'kubectl exec -h' for help and examples"
    )]
    #[test_case(
        "port-forward p",
        "error: TYPE/NAME and list of ports are required for port-forward\nSee 'kubectl port-forward -h' for help and examples"
    )]
    fn as_kubectl_says_it(line: &str, want: &str) {
        assert_eq!(told(line), Told::Error(want.into()));
    }

    #[test]
    fn verbs_with_verbs_below_them_show_their_help() {
        let Told::Help { text, wrong: true } = told("rollout") else { panic!("no help") };
        assert!(text.contains("kubectl rollout") && text.contains("history"), "{text}");
    }
}
