//! Looking into JSON text without decoding it: where members stand, what a few fields hold.
//!
//! The watch cache and the store hold objects as text of several KiB of which the machinery needs a few hundred bytes.
//! Everything here is one forward pass over the bytes that allocates only what it gives back.
//!
//! **Invariant:** malformed text gives `None` or ends the iteration, never a panic. Text is not validated beyond what
//! finding the end of a value needs.

use std::ops::Range;

use memchr::memchr2;

/// Nesting that is followed when looking for fields; kinds do not select deeper ones.
const DEPTH_MAX: usize = 16;

/// A member of a JSON object: where its name (without quotes) and its value stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The name, between the quotes; escapes are as written.
    pub name: Range<usize>,
    /// The value, without surrounding space.
    pub value: Range<usize>,
}

/// The members of the object that starts at `at` (leading space allowed), in order of appearance.
pub fn members(json: &[u8], at: usize) -> Members<'_> {
    let start = skip_space(json, at);
    let at = if json.get(start) == Some(&b'{') { start + 1 } else { json.len() };
    Members { json, at, known: 0..0 }
}

/// Iterator of [`members`].
pub struct Members<'a> {
    json: &'a [u8],
    at: usize,
    /// A value whose end need not be looked for.
    known: Range<usize>,
}

impl Iterator for Members<'_> {
    type Item = Member;

    fn next(&mut self) -> Option<Member> {
        let found = self.step();
        if found.is_none() {
            self.at = self.json.len();
        }
        found
    }
}

impl Members<'_> {
    fn step(&mut self) -> Option<Member> {
        let (name, start) = self.head()?;
        let end = if start == self.known.start && start != 0 { self.known.end } else { value_end(self.json, start)? };
        self.at = end;
        Some(Member { name, value: start..end })
    }

    /// The name of the next member, and where its value starts.
    fn head(&self) -> Option<(Range<usize>, usize)> {
        let mut at = skip_space(self.json, self.at);
        if self.json.get(at) == Some(&b',') {
            at = skip_space(self.json, at + 1);
        }
        let name_end = (*self.json.get(at)? == b'"').then(|| string_end(self.json, at)).flatten()?;
        let name = at + 1..name_end - 1;
        let colon = skip_space(self.json, name_end);
        if self.json.get(colon) != Some(&b':') {
            return None;
        }
        Some((name, skip_space(self.json, colon + 1)))
    }
}

/// The value of a member of the object at `at`, by its name.
pub fn member(json: &[u8], at: usize, name: &str) -> Option<Range<usize>> {
    members(json, at).find(|m| &json[m.name.clone()] == name.as_bytes()).map(|m| m.value)
}

/// The value at the end of a path of members, from the value at `from` on.
pub fn below(json: &[u8], from: Range<usize>, path: &[&str]) -> Option<Range<usize>> {
    path.iter().try_fold(from, |outer, name| member(json, outer.start, name))
}

/// Where the value of a member of the object at `at` starts. Nothing behind that is looked at.
pub fn find(json: &[u8], at: usize, name: &str) -> Option<usize> {
    let mut members = members(json, at);
    loop {
        let (found, start) = members.head()?;
        if &json[found] == name.as_bytes() {
            return Some(start);
        }
        members.at = value_end(json, start)?;
    }
}

/// The text of scalar fields by JSON pointers, as field selectors compare them; "" where there is none. Pointers lead
/// through objects only. One pass for all pointers.
pub fn fields(json: &[u8], pointers: &[&str]) -> Vec<String> {
    fields_beside(json, pointers, 0..0)
}

/// As [`fields`], where it is known already from where to where one of the members' values goes.
pub fn fields_beside(json: &[u8], pointers: &[&str], known: Range<usize>) -> Vec<String> {
    let mut out = vec![String::new(); pointers.len()];
    let wanted: Vec<Wanted<'_>> =
        pointers.iter().enumerate().filter_map(|(i, p)| Some(Wanted::new(i, p.strip_prefix('/')?))).collect();
    if !wanted.is_empty() {
        collect(json, Members { known, ..members(json, 0) }, &wanted, &mut out, DEPTH_MAX);
    }
    out
}

/// What is left of a pointer on the way down.
struct Wanted<'p> {
    place: usize,
    first: &'p str,
    rest: Option<&'p str>,
}

impl<'p> Wanted<'p> {
    fn new(place: usize, path: &'p str) -> Self {
        match path.split_once('/') {
            Some((first, rest)) => Self { place, first, rest: Some(rest) },
            None => Self { place, first: path, rest: None },
        }
    }
}

fn collect(json: &[u8], among: Members<'_>, wanted: &[Wanted<'_>], out: &mut [String], depth: usize) {
    for m in among {
        let name = &json[m.name];
        let mut below = Vec::new();
        for w in wanted.iter().filter(|w| is_token(name, w.first)) {
            match w.rest {
                None => out[w.place] = scalar_text(&json[m.value.clone()]),
                Some(rest) => below.push(Wanted::new(w.place, rest)),
            }
        }
        if !below.is_empty() && depth > 1 {
            collect(json, members(json, m.value.start), &below, out, depth - 1);
        }
    }
}

/// True when `name` is what a JSON pointer's token means.
fn is_token(name: &[u8], token: &str) -> bool {
    name == token.as_bytes() || token.contains('~') && name == token.replace("~1", "/").replace("~0", "~").as_bytes()
}

/// A string's content, a number's or boolean's text; "" for anything else.
fn scalar_text(value: &[u8]) -> String {
    match value.first() {
        Some(b'"') if !value.contains(&b'\\') => String::from_utf8_lossy(&value[1..value.len() - 1]).into_owned(),
        Some(b'"') => serde_json::from_slice(value).unwrap_or_default(),
        Some(b't' | b'f' | b'-' | b'0'..=b'9') => String::from_utf8_lossy(value).into_owned(),
        _ => String::new(),
    }
}

fn skip_space(json: &[u8], mut at: usize) -> usize {
    while matches!(json.get(at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

/// Past the string whose opening quote stands at `at`.
fn string_end(json: &[u8], at: usize) -> Option<usize> {
    let mut i = at + 1;
    loop {
        i += memchr2(b'"', b'\\', json.get(i..)?)?;
        if json[i] == b'"' {
            return Some(i + 1);
        }
        i += 2;
    }
}

/// Past the value that starts at `at`.
fn value_end(json: &[u8], at: usize) -> Option<usize> {
    match json.get(at)? {
        b'"' => string_end(json, at),
        b'{' | b'[' => {
            let (mut depth, mut i) = (0usize, at);
            loop {
                match json.get(i)? {
                    b'"' => {
                        i = string_end(json, i)?;
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                i += 1;
                if depth == 0 {
                    return Some(i);
                }
            }
        }
        _ => {
            let rest = &json[at..];
            let len = rest.iter().position(|c| matches!(c, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t'));
            Some(at + len.unwrap_or(rest.len())).filter(|end| *end > at)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test]
    fn finds_fields_in_one_pass() {
        let json = br#" { "kind":"Pod", "a/b" : {"c":"x\"y"}, "spec":{"l":[{"nodeName":"no"}],"nodeName":"n1","on":true,"n":-4},"e":{} }"#;
        let got =
            fields(json, &["/spec/nodeName", "/spec/on", "/spec/n", "/a~1b/c", "/spec/l", "/none/x", "/kind", "kind"]);
        assert_eq!(got, ["n1", "true", "-4", "x\"y", "", "", "Pod", ""]);
        assert_eq!(&json[member(json, 0, "e").unwrap()], b"{}");
        let known = member(json, 0, "spec").unwrap();
        assert_eq!(fields_beside(json, &["/kind", "/spec/n", "/a~1b/c"], known.clone()), ["Pod", "-4", "x\"y"]);
        assert_eq!(find(json, 0, "spec"), Some(known.start));
        assert_eq!(find(json, 0, "none"), None);
        // What stands behind the name is not looked at.
        assert_eq!(find(br#"{"a":[],"b":{"c"#, 0, "b"), Some(12));
    }

    #[test_case(b""; "nothing")]
    #[test_case(b"{"; "open")]
    #[test_case(b"{\"a"; "open name")]
    #[test_case(b"{\"a\""; "no colon")]
    #[test_case(b"{\"a\":"; "no value")]
    #[test_case(b"{\"a\":[1,{\"b\":2}"; "open list")]
    #[test_case(b"{\"a\":\"\\"; "open escape")]
    #[test_case(b"[1,2]"; "no object")]
    #[test_case(b"{\"a\":}"; "empty value")]
    fn malformed_text_ends_the_iteration(json: &[u8]) {
        assert_eq!(members(json, 0).count(), 0);
        assert_eq!(fields(json, &["/a", "/a/b"]), ["", ""]);
    }

    #[test]
    fn no_cut_of_a_good_text_panics() {
        let json = br#"{"metadata":{"name":"a","labels":{"x":"y\\"}},"spec":[1,2,{"a":null}],"n":1.5e3}"#;
        assert_eq!(members(json, 0).count(), 3);
        for cut in 0..json.len() {
            let _ = members(&json[..cut], 0).count();
            let _ = fields(&json[..cut], &["/metadata/labels/x"]);
        }
    }
}
