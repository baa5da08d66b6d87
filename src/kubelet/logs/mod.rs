//! Container logs on disk: the CRI format, reading, following, rotation.
//!
//! In: files the runtime writes, a line each of `<RFC 3339 time> <stream> <tags> <text>`. Out: the text, as
//! `kubectl logs` shows it. Following waits for the kernel's word (inotify); nothing here polls.
//!
//! **Invariant:** memory is bounded by one line of the runtime's (16 KiB), whatever the log's size.

mod line;
mod read;
mod rotate;

pub use self::line::{Line, Stream, parse};
pub use self::read::{Options, copy};
pub use self::rotate::{Rotation, remove, rotate};

/// File name of a container's log below its directory: the attempt counts restarts. The previous container's log is the
/// file of the attempt before.
pub fn file_name(attempt: u32) -> String {
    format!("{attempt}.log")
}
