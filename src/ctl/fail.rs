//! Errors, worded and coded as kubectl's.
//!
//! Rules: kubectl `cmd/util/helpers.go`: what the server said keeps its reason, what is wrong here begins with `error:`.

use std::fmt;

use serde_json::Value;

use crate::api::status::{Reason, Status};
use crate::api::value::ValueExt;
use crate::client;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The server refused, or could not be reached. `doing` is what was attempted, as `error when creating "x.yaml"`.
    Server {
        /// What it said.
        status: Box<Status>,
        /// Put before its message.
        doing: String,
    },
    /// Something on this side.
    Plain(String),
    /// A text that stands for itself, without `error:` before it.
    Verbatim(String),
    /// Nothing more to say; the process ends with this code.
    Exit(u8),
}

impl Failure {
    /// Adds what was attempted to what the server said.
    pub fn doing(self, verb: &str, source: &str) -> Self {
        match self {
            Self::Server { status, .. } => Self::Server { status, doing: format!("error when {verb} {source:?}: ") },
            Self::Plain(text) => Self::Plain(format!("error when {verb} {source:?}: {text}")),
            other => other,
        }
    }

    /// Without `error:` in front, as kubectl tells some.
    pub fn verbatim(self) -> Self {
        match self {
            Self::Plain(text) => Self::Verbatim(text),
            other => other,
        }
    }

    /// Its text where it is one of several.
    pub fn among_others(&self) -> String {
        match self {
            Self::Plain(text) => text.clone(),
            other => other.to_string(),
        }
    }

    /// The reason the server gave.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Server { status, .. } => Some(status.reason),
            _ => None,
        }
    }

    /// True when the object is not there.
    pub fn is_not_found(&self) -> bool {
        self.reason() == Some(Reason::NotFound)
    }

    /// The code of the process.
    pub fn code(&self) -> u8 {
        match self {
            Self::Exit(code) => *code,
            _ => 1,
        }
    }
}

impl From<Box<Status>> for Failure {
    fn from(status: Box<Status>) -> Self {
        Self::Server { status, doing: String::new() }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<Failure>() {
            Ok(failure) => failure,
            Err(error) => Self::Plain(format!("{error:#}")),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Plain(error.to_string())
    }
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server { status, .. } if status.reason == Reason::Invalid => invalid(f, status),
            Self::Server { status, .. } if client::is_unreachable(status) => unreachable(f, status),
            Self::Server { status, doing } => match status.reason {
                Reason::Unauthorized => {
                    write!(f, "error: You must be logged in to the server ({doing}{})", status.message)
                }
                Reason::Unknown => write!(f, "Error from server: {doing}{}", status.message),
                reason => write!(f, "Error from server ({}): {doing}{}", reason.as_str(), status.message),
            },
            Self::Plain(text) if text.starts_with("error: ") => f.write_str(text),
            Self::Plain(text) => write!(f, "error: {text}"),
            Self::Verbatim(text) => f.write_str(text),
            Self::Exit(code) => write!(f, "exit code {code}"),
        }
    }
}

fn unreachable(f: &mut fmt::Formatter<'_>, status: &Status) -> fmt::Result {
    let text = status.message.strip_prefix("cannot talk to the API server: ").unwrap_or(&status.message);
    if text.contains("onnection refused") {
        return write!(
            f,
            "The connection to the server was refused - did you specify the right host or port? ({text})"
        );
    }
    write!(f, "Unable to connect to the server: {text}")
}

fn invalid(f: &mut fmt::Formatter<'_>, status: &Status) -> fmt::Result {
    let details = &status.details;
    let kind = details.str_at("/kind").unwrap_or_default();
    let name = details.str_at("/name").unwrap_or_default();
    let causes: Vec<String> = details.items_at("/causes").iter().map(cause).collect();
    match (kind.is_empty() && name.is_empty(), causes.is_empty()) {
        (true, true) => write!(f, "The request is invalid: {}", status.message)?,
        (true, false) => f.write_str("The request is invalid")?,
        (false, _) => write!(f, "The {kind} {name:?} is invalid")?,
    }
    match &causes[..] {
        [] => Ok(()),
        [one] => write!(f, ": {one}"),
        many => {
            f.write_str(": ")?;
            many.iter().try_for_each(|cause| write!(f, "\n* {cause}"))
        }
    }
}

fn cause(cause: &Value) -> String {
    let message = cause.str_at("/message").unwrap_or_default();
    match cause.str_at("/field") {
        None | Some("") => message.to_owned(),
        Some(field) => format!("{field}: {message}"),
    }
}

/// An operating system's error in Go's words: `no such file or directory`.
pub fn os(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

/// What verbs say that were given nothing to work on.
pub const NOTHING_NAMED: &str = "You must provide one or more resources by argument or filename.\n\
     Example resource specifications include:\n   '-f rsrc.yaml'\n   '--filename=rsrc.json'\n   '<resource> <name>'\n   '<resource>'";

/// A failure of this side: `bail!`, with kubectl's wording.
macro_rules! fail {
    ($($arg:tt)*) => { return Err(crate::ctl::fail::Failure::Plain(format!($($arg)*))) };
}
pub(super) use fail;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::Cause;

    fn server(status: Box<Status>) -> Failure {
        status.into()
    }

    #[test]
    fn reads_as_kubectls() {
        let missing = server(Status::not_found("", "pods", "x"));
        assert_eq!(missing.to_string(), "Error from server (NotFound): pods \"x\" not found");
        let made = server(Status::not_found("", "namespaces", "n")).doing("creating", "a.yaml");
        assert_eq!(
            made.to_string(),
            "Error from server (NotFound): error when creating \"a.yaml\": namespaces \"n\" not found"
        );
        assert_eq!(Failure::Plain("no".into()).to_string(), "error: no");
        assert_eq!(Failure::Plain("no".into()).among_others(), "no");
        let who = server(Status::new(Reason::Unauthorized, "Unauthorized"));
        assert_eq!(who.to_string(), "error: You must be logged in to the server (Unauthorized)");
        assert_eq!(
            who.doing("creating", "a.yaml").to_string(),
            "error: You must be logged in to the server (error when creating \"a.yaml\": Unauthorized)"
        );
    }

    #[test]
    fn one_cause_stands_behind_many_stand_below() {
        let cause = |f: &str| Cause { reason: "FieldValueRequired", message: "Required value".into(), field: f.into() };
        let one = server(Status::invalid("apps", "Deployment", "d", vec![cause("spec.selector")]));
        assert_eq!(one.to_string(), "The Deployment \"d\" is invalid: spec.selector: Required value");
        let two = server(Status::invalid("", "Pod", "p", vec![cause("a"), cause("b")]));
        assert_eq!(two.to_string(), "The Pod \"p\" is invalid: \n* a: Required value\n* b: Required value");
    }
}
