//! The command line: the only module that knows every other.

use std::process::ExitCode;

/// Parses, runs, and maps an error to an exit code.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
