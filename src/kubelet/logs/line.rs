//! One line of the CRI log format.

use jiff::Timestamp;

/// Where a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line, borrowed from the file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// When the runtime read it, as written in the log.
    pub time: &'a str,
    /// To which stream it went.
    pub stream: Stream,
    /// The container's line goes on in the next one (tag `P`).
    pub partial: bool,
    /// The text, without a line feed.
    pub text: &'a [u8],
}

impl Line<'_> {
    /// The time, for comparisons; none when it is not RFC 3339.
    pub fn timestamp(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }
}

/// Reads a line, with or without its line feed; none for anything that is not one: a torn write, another format.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |b| *b == b' ');
    let (time, stream, tags) = (parts.next()?, parts.next()?, parts.next()?);
    let time = std::str::from_utf8(time).ok().filter(|t| t.len() >= 20)?;
    let stream = match stream {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    // Tags are separated by colons; only the first one has a meaning so far.
    let partial = match tags.split(|b| *b == b':').next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    Some(Line { time, stream, partial, text: parts.next().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("2026-01-02T03:04:05.123456789Z stdout F a b" => Some((Stream::Stdout, false, "a b".into())); "full")]
    #[test_case("2026-01-02T03:04:05.123456789Z stderr P a\n" => Some((Stream::Stderr, true, "a".into())); "partial")]
    #[test_case("2026-01-02T03:04:05.1+01:00 stdout F:x  " => Some((Stream::Stdout, false, " ".into())); "more tags")]
    #[test_case("2026-01-02T03:04:05.123456789Z stdout F" => Some((Stream::Stdout, false, String::new())); "empty")]
    #[test_case("2026-01-02T03:04:05.123456789Z stdin F a" => None; "stream")]
    #[test_case("2026-01-02T03:04:05.123456789Z stdout X a" => None; "tag")]
    #[test_case("{\"log\":\"x\"}" => None; "another format")]
    #[test_case("" => None; "nothing")]
    fn lines(text: &str) -> Option<(Stream, bool, String)> {
        parse(text.as_bytes()).map(|l| (l.stream, l.partial, String::from_utf8(l.text.to_vec()).unwrap()))
    }
}
