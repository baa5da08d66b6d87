//! What kinds and fields mean, and which values a field takes.
//!
//! Descriptions are upstream's; the build script takes them from k8s-openapi's schemas (`scripts/descriptions.rs`) and the
//! binary holds them compressed. They are unpacked for one document and dropped with it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Read;
use std::sync::LazyLock;

use flate2::read::ZlibDecoder;

pub(super) static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.zz"));

/// One line a field: struct, field, values parted by commas; made by `scripts/enum-table.py`.
pub(super) const ENUMS: &str = include_str!("../enums.table");

/// Unpacks the descriptions of everything.
pub(super) fn unpack() -> String {
    let mut text = String::new();
    ZlibDecoder::new(PACKED).read_to_string(&mut text).expect("the build script wrote this; a test reads it");
    text
}

/// Descriptions by published name and field.
pub(super) struct Words<'a>(HashMap<(&'a str, &'a str), &'a str>);

impl<'a> Words<'a> {
    /// Reads what [`unpack`] gave.
    pub(super) fn read(text: &'a str) -> Self {
        let mut words = HashMap::new();
        let mut name = "";
        for line in text.lines() {
            let (field, description) = match line.strip_prefix('\t') {
                Some(rest) => rest.split_once('\t').unwrap_or((rest, "")),
                None => {
                    let (struct_name, description) = line.split_once('\t').unwrap_or((line, ""));
                    name = struct_name;
                    ("", description)
                }
            };
            if !description.is_empty() {
                words.insert((name, field), description);
            }
        }
        Self(words)
    }

    /// Of a struct, or of a scalar.
    pub(super) fn of_struct(&self, name: &str) -> Option<Cow<'a, str>> {
        self.of_field(name, "")
    }

    /// Of a field.
    pub(super) fn of_field(&self, name: &str, field: &str) -> Option<Cow<'a, str>> {
        self.0.get(&(name, field)).map(|text| unescape(text))
    }
}

fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(if chars.next() == Some('n') { '\n' } else { '\\' }),
            c => out.push(c),
        }
    }
    out.into()
}

/// The values that upstream publishes for a field of a struct (`core.v1.PodSpec`), in order; empty where any will do.
pub(super) fn values(def: &str, field: &str) -> Vec<&'static str> {
    static TABLE: LazyLock<HashMap<(&str, &str), &str>> = LazyLock::new(|| {
        let parse = |line: &'static str| {
            let mut parts = line.splitn(3, ' ');
            Some(((parts.next()?, parts.next()?), parts.next()?))
        };
        ENUMS.lines().filter_map(parse).collect()
    });
    let text = TABLE.get(&(def, field)).copied().unwrap_or_default();
    let unquoted = |value: &'static str| if value == "\"\"" { "" } else { value };
    if text.is_empty() { Vec::new() } else { text.split(',').map(unquoted).collect() }
}

#[cfg(test)]
mod tests {
    use super::super::published_name;
    use super::*;
    use crate::api::schema::table;

    #[test]
    fn every_published_struct_is_described() {
        let text = unpack();
        let words = Words::read(&text);
        // Types that the source has no schemas of: lists and watch events are generic there.
        let without =
            |name: &str| name.ends_with("List") || name == "meta.v1.WatchEvent" || name.starts_with("metrics.");
        let published = table().structs().iter().filter(|s| s.published && !without(s.name));
        let bare: Vec<&str> = published
            .clone()
            .filter(|s| words.of_struct(&published_name(s)).is_none())
            .filter(|s| s.fields().iter().all(|f| words.of_field(&published_name(s), f.json).is_none()))
            .map(|s| s.name)
            .collect();
        assert!(bare.is_empty(), "{bare:?}");
        assert!(published.count() > 400);
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescape(r"a\nb\\n"), "a\nb\\n");
        let text = "x.Y\tWhat it is.\n\tz\tOne\\ntwo.\n";
        let words = Words::read(text);
        assert_eq!(words.of_struct("x.Y").unwrap(), "What it is.");
        assert_eq!(words.of_field("x.Y", "z").unwrap(), "One\ntwo.");
        assert_eq!(words.of_field("x.Y", "nope"), None);
    }

    #[test]
    fn every_row_of_values_is_of_a_field_of_texts() {
        for line in ENUMS.lines() {
            let (name, field) = line.split_once(' ').unwrap();
            let field = field.split(' ').next().unwrap();
            assert!(table().by_name(name).unwrap().field(field).is_some(), "{line}");
            assert!(!values(name, field).is_empty(), "{line}");
        }
        assert_eq!(values("core.v1.PodSpec", "restartPolicy"), ["Always", "Never", "OnFailure"]);
        assert_eq!(values("core.v1.HostPathVolumeSource", "type")[0], "");
        assert!(values("core.v1.PodSpec", "hostname").is_empty());
    }
}
