//! YAML as kubectl and the API server read and write it: YAML 1.1 scalars in, sorted block style out.
//!
//! Upstream: `sigs.k8s.io/yaml` over go-yaml v2: `0644` is octal, `yes` is true, merge keys work, keys become text.
//! Duplicate keys are refused (but by [`parse_last_wins`]), and so are documents whose aliases expand without bound.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt::Write as _;

use serde::de::{DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::MAX_STRICT_ERRORS;
use super::json::{Key, Node, Parsed, Told};

/// Events that the aliases of one text may expand to.
const MAX_ALIAS_EVENTS: usize = 100_000;
/// Columns behind which a text may go on in the next line.
const WIDTH: usize = 80;

/// Why a text is no YAML.
#[derive(Debug, thiserror::Error)]
#[error("error converting YAML to JSON: yaml: {0}")]
pub struct YamlError(String);

/// Parses all documents of a text; empty ones (a comment, `---` twice) are left out.
pub fn parse_all(text: &str) -> Result<Vec<Value>, YamlError> {
    several(text, Words::Yaml11)
}

/// The same as kustomize reads it (go-yaml v3): of the words, only `true` and `false` are no text.
pub fn parse_all_strict(text: &str) -> Result<Vec<Value>, YamlError> {
    several(text, Words::Yaml12)
}

/// Which words are booleans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Words {
    /// `y`, `no`, `on` and the like, too.
    Yaml11,
    /// `true` and `false` alone.
    Yaml12,
}

fn several(text: &str, words: Words) -> Result<Vec<Value>, YamlError> {
    let documents = documents(text, serde_saphyr::DuplicateKeyPolicy::Error, words)?;
    // Keys that differ until they become text.
    if let Some(path) = documents.iter().find_map(|d| d.duplicates.first()) {
        return Err(YamlError(format!("key {path:?} already set in map")));
    }
    Ok(documents.into_iter().map(|d| d.value).filter(|v| !v.is_null()).collect())
}

fn documents(
    text: &str,
    duplicate_keys: serde_saphyr::DuplicateKeyPolicy,
    words: Words,
) -> Result<Vec<Parsed>, YamlError> {
    let documents: Vec<Document> = read(text, duplicate_keys, words)?;
    let mut documents: Vec<Parsed> = documents.into_iter().map(|d| d.0).collect();
    documents.iter_mut().for_each(|d| without_empty_fractions(&mut d.value));
    Ok(documents)
}

fn read<T: DeserializeOwned>(
    text: &str,
    duplicate_keys: serde_saphyr::DuplicateKeyPolicy,
    words: Words,
) -> Result<Vec<T>, YamlError> {
    let mut options = serde_saphyr::Options::default();
    options.legacy_octal_numbers = true;
    options.with_snippet = false;
    options.alias_limits.max_total_replayed_events = MAX_ALIAS_EVENTS;
    options.duplicate_keys = duplicate_keys;
    options.strict_booleans = words == Words::Yaml12;
    serde_saphyr::from_multiple_with_options(text, options).map_err(|e| YamlError(worded(&e.to_string())))
}

/// `1e3` and `1.` are whole numbers once upstream has made JSON of them.
fn without_empty_fractions(value: &mut Value) {
    /// Up to here every whole number is exact.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(n) if n.is_f64() => {
            if let Some(whole) = n.as_f64().filter(|n| n.fract() == 0.0 && n.abs() <= EXACT) {
                *value = (whole as i64).into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(without_empty_fractions),
        Value::Object(members) => members.values_mut().for_each(without_empty_fractions),
        _ => {}
    }
}

/// Parses a body of one document as upstream's server does: of duplicate keys the last counts, and they are told.
pub fn parse_last_wins(bytes: &[u8]) -> Result<Parsed, YamlError> {
    let text = std::str::from_utf8(bytes).map_err(|e| YamlError(e.to_string()))?;
    let documents = documents(text, serde_saphyr::DuplicateKeyPolicy::LastWins, Words::Yaml11)?;
    let first = documents.into_iter().find(|d| !d.value.is_null());
    Ok(first.unwrap_or_else(|| Told::default().of(Value::Null)))
}

/// The duplicate keys of a text that [`parse_last_wins`] takes, as go-yaml tells them: `line 9: key "foo" already set in map`.
pub fn duplicate_keys(bytes: &[u8]) -> Vec<String> {
    let Ok(text) = std::str::from_utf8(bytes) else { return Vec::new() };
    let documents: Vec<Repeated> =
        read(text, serde_saphyr::DuplicateKeyPolicy::LastWins, Words::Yaml11).unwrap_or_default();
    documents.into_iter().flat_map(|d| d.0).take(MAX_STRICT_ERRORS).collect()
}

/// The duplicate keys of a node, with their lines.
struct Repeated(Vec<String>);

impl<'de> serde::Deserialize<'de> for Repeated {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self(Vec::new()))
    }
}

impl<'de> Visitor<'de> for Repeated {
    type Value = Self;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Self, A::Error> {
        while let Some(Repeated(below)) = seq.next_element()? {
            self.0.extend(below);
        }
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<serde_saphyr::Spanned<Key>>()? {
            let (line, Key(name)) = (key.referenced.line(), key.value);
            let again = (!seen.insert(name.clone())).then(|| format!("line {line}: key {name:?} already set in map"));
            self.0.extend(map.next_value::<Repeated>()?.0);
            self.0.extend(again);
        }
        Ok(self)
    }
}

/// The parser's message as go-yaml writes it: the line in front, none for the first.
fn worded(text: &str) -> String {
    let (what, place) = text.rsplit_once(" at line ").unwrap_or((text, ""));
    let what = match what.strip_prefix("duplicate mapping key: ").and_then(|rest| rest.split_once(", set Dup")) {
        Some((key, _)) => format!("key {key:?} already set in map"),
        None => what.to_owned(),
    };
    match place.split(',').next().and_then(|n| n.parse::<u32>().ok()) {
        Some(line) if line > 1 => format!("line {line}: {what}"),
        _ => what,
    }
}

/// Parses a body of one document.
pub fn parse(bytes: &[u8]) -> Result<Value, YamlError> {
    let text = std::str::from_utf8(bytes).map_err(|e| YamlError(e.to_string()))?;
    Ok(parse_all(text)?.into_iter().next().unwrap_or(Value::Null))
}

struct Document(Parsed);

impl<'de> serde::Deserialize<'de> for Document {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut told = Told::default();
        let value = Node { told: &mut told, depth: 0 }.deserialize(deserializer)?;
        Ok(Document(told.of(value)))
    }
}

/// Writes a value as `kubectl get -o yaml` does: keys sorted, two spaces, lists at their key's indent.
pub fn to_string(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(m) if !m.is_empty() => write_object(&mut out, value, 0),
        Value::Array(items) if !items.is_empty() => write_list(&mut out, items, 0),
        scalar => {
            write_scalar(&mut out, scalar, 0);
            out.push('\n');
        }
    }
    out
}

fn write_object(out: &mut String, value: &Value, indent: usize) {
    let Value::Object(members) = value else { return };
    let mut keys: Vec<&String> = members.keys().collect();
    keys.sort_by(|a, b| natural(a, b));
    for (i, key) in keys.into_iter().enumerate() {
        // The first key of a list's element stands behind its dash.
        if i > 0 || out.is_empty() || out.ends_with('\n') {
            pad(out, indent);
        }
        write_text(out, key, indent, false);
        out.push(':');
        match &members[key] {
            Value::Object(m) if !m.is_empty() => {
                out.push('\n');
                write_object(out, &members[key], indent + 2);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                write_list(out, items, indent);
            }
            scalar => {
                out.push(' ');
                write_scalar(out, scalar, indent + 2);
                out.push('\n');
            }
        }
    }
}

fn write_list(out: &mut String, items: &[Value], indent: usize) {
    for (i, item) in items.iter().enumerate() {
        if i > 0 || out.is_empty() || out.ends_with('\n') {
            pad(out, indent);
        }
        out.push_str("- ");
        match item {
            Value::Object(m) if !m.is_empty() => write_object(out, item, indent + 2),
            Value::Array(inner) if !inner.is_empty() => write_list(out, inner, indent + 2),
            scalar => {
                write_scalar(out, scalar, indent + 2);
                out.push('\n');
            }
        }
    }
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn write_scalar(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => {
            let _ = write!(out, "{n}");
        }
        Value::String(text) => write_text(out, text, indent, true),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
}

fn write_text(out: &mut String, text: &str, indent: usize, block: bool) {
    let printable = |c: char| c == '\n' || c == '\t' || (!c.is_control() && c != '\u{feff}');
    let special = !text.chars().all(printable);
    let trailing_space = text.lines().any(|l| l.ends_with([' ', '\t']));
    if block && text.contains('\n') && !special && !trailing_space && !text.starts_with([' ', '\n', '\t']) {
        return write_block(out, text, indent);
    }
    let fold = block.then_some(indent);
    if special || text.contains('\n') || reads_as_other(text) {
        out.push('"');
        write_folded(out, text, fold, true, push_escaped);
        out.push('"');
    } else if needs_quotes(text) {
        out.push('\'');
        write_folded(out, text, fold, false, |out, c| {
            // A quote stands twice.
            out.extend(std::iter::repeat_n(c, if c == '\'' { 2 } else { 1 }));
        });
        out.push('\'');
    } else {
        write_folded(out, text, fold, false, |out, c| out.push(c));
    }
}

/// Writes text with `write`, going on in the next line at the first single space behind the width, as libyaml does where
/// that is allowed (`fold`: how far the next line is indented). In double quotes a space that begins a line is escaped.
fn write_folded(
    out: &mut String,
    text: &str,
    fold: Option<usize>,
    double_quoted: bool,
    write: impl Fn(&mut String, char),
) {
    let mut column = out.rsplit('\n').next().unwrap_or_default().chars().count();
    let mut spaces = false;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let next = chars.peek().map(|(_, c)| *c);
        if c != ' ' {
            let before = out.len();
            write(out, c);
            column += out[before..].chars().count();
            spaces = false;
            continue;
        }
        let single = !spaces && at > 0 && next.is_some_and(|c| double_quoted || c != ' ');
        match fold {
            Some(indent) if single && column > WIDTH => {
                out.push('\n');
                pad(out, indent);
                column = indent;
                if next == Some(' ') {
                    out.push('\\');
                    column += 1;
                }
            }
            _ => {
                out.push(' ');
                column += 1;
            }
        }
        spaces = true;
    }
}

fn write_block(out: &mut String, text: &str, indent: usize) {
    let body = text.trim_end_matches('\n');
    out.push_str(match text.len() - body.len() {
        0 => "|-",
        1 => "|",
        _ => "|+",
    });
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        out.push('\n');
        if !line.is_empty() {
            pad(out, indent);
            out.push_str(line);
        }
    }
}

/// A character as it stands between double quotes.
fn push_escaped(out: &mut String, c: char) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\t' => out.push_str("\\t"),
        '\r' => out.push_str("\\r"),
        '\0' => out.push_str("\\0"),
        '\u{1b}' => out.push_str("\\e"),
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{feff}' => out.push_str("\\uFEFF"),
        c if c.is_control() && (c as u32) < 256 => {
            let _ = write!(out, "\\x{:02X}", c as u32);
        }
        c => out.push(c),
    }
}

/// True for a text that, unquoted, reads back as something else than a text.
fn reads_as_other(text: &str) -> bool {
    const WORDS: [&str; 16] =
        ["", "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n", ".inf", ".nan", "-.inf", "+.inf", "<<"];
    if text.len() <= 5 && WORDS.iter().any(|w| w.eq_ignore_ascii_case(text)) {
        return true;
    }
    let body = text.strip_prefix(['-', '+']).unwrap_or(text);
    let Some(first) = body.bytes().next() else { return false };
    if !(first.is_ascii_digit() || first == b'.') {
        return false;
    }
    let plain = body.replace('_', "");
    let based = |prefix: &str, radix: u32| {
        plain.strip_prefix(prefix).is_some_and(|d| !d.is_empty() && d.chars().all(|c| c.is_digit(radix)))
    };
    let float = plain.bytes().all(|b| b.is_ascii_digit() || b".eE+-".contains(&b)) && plain.parse::<f64>().is_ok();
    float || based("0x", 16) || based("0o", 8) || based("0b", 2) || is_date(text) || is_sexagesimal(&plain)
}

/// `2006-01-02`, with or without a time: YAML 1.1 timestamps.
fn is_date(text: &str) -> bool {
    let b = text.as_bytes();
    b.len() >= 8
        && b[..4].iter().all(u8::is_ascii_digit)
        && b[4] == b'-'
        && (jiff::civil::Date::strptime("%Y-%m-%d", text).is_ok() || text.parse::<jiff::Timestamp>().is_ok())
}

/// `1:30`: YAML 1.1 counts in sixties.
fn is_sexagesimal(text: &str) -> bool {
    text.contains(':') && text.split(':').all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
}

/// True for a text with YAML's own signs at places where they mean something.
fn needs_quotes(text: &str) -> bool {
    let bytes = text.as_bytes();
    let Some(first) = bytes.first() else { return true };
    let opens = match first {
        b'-' | b'?' | b':' => bytes.get(1).is_none_or(|b| matches!(b, b' ' | b'\t')),
        _ => b"#,[]{}&*!|>'\"%@` \t".contains(first),
    };
    opens
        || text.ends_with([' ', '\t', ':'])
        || [": ", ":\t", " #", "\t#"].iter().any(|sign| text.contains(sign))
        || text.starts_with("---")
        || text.starts_with("...")
}

/// go-yaml's order of keys: letters after other signs, runs of digits by their number.
fn natural(a: &str, b: &str) -> Ordering {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let Some(i) = a.iter().zip(&b).position(|(x, y)| x != y) else { return a.len().cmp(&b.len()) };
    let (x, y) = (a[i], b[i]);
    match (x.is_alphabetic(), y.is_alphabetic()) {
        (true, true) => return x.cmp(&y),
        (true, false) => return Ordering::Greater,
        (false, true) => return Ordering::Less,
        (false, false) => {}
    }
    let in_number = (x == '0' || y == '0') && a[..i].iter().rev().take_while(|c| c.is_ascii_digit()).any(|c| *c != '0');
    let run = |chars: &[char]| {
        let digits = chars[i..].iter().map_while(|c| c.to_digit(10));
        digits.fold((u128::from(in_number), 0usize), |(n, len), d| {
            (n.saturating_mul(10).saturating_add(u128::from(d)), len + 1)
        })
    };
    run(&a).cmp(&run(&b)).then(x.cmp(&y))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    #[test]
    fn errors_are_worded_as_go_yaml_words_them() {
        let said = |text: &str| parse_all(text).unwrap_err().to_string();
        assert_eq!(said("a: 1\na: 2\n"), "error converting YAML to JSON: yaml: line 2: key \"a\" already set in map");
        let first = said("a: b: c\n");
        assert_eq!(first, "error converting YAML to JSON: yaml: mapping values are not allowed in this context");
    }

    #[test_case("0644", json!(420); "octal")]
    #[test_case("0o644", json!(420))]
    #[test_case("0x1F", json!(31))]
    #[test_case("yes", json!(true))]
    #[test_case("Off", json!(false))]
    #[test_case("~", json!(null))]
    #[test_case("1.5", json!(1.5))]
    #[test_case("1e3", json!(1000); "a whole number")]
    #[test_case("-2.", json!(-2); "no fraction")]
    #[test_case("'0644'", json!("0644"); "quoted")]
    #[test_case("1Gi", json!("1Gi"))]
    #[test_case("1_000", json!(1000); "underscores")]
    fn scalars(text: &str, want: Value) {
        assert_eq!(parse_all(&format!("a: {text}")).unwrap(), [json!({"a": want})]);
    }

    #[test]
    fn kustomize_takes_the_old_booleans_for_text() {
        let got = parse_all_strict("{a: y, b: yes, c: No, d: on, e: true, f: 0644, n: 1e3}").unwrap();
        let want = json!({"a": "y", "b": "yes", "c": "No", "d": "on", "e": true, "f": 420, "n": 1000});
        assert_eq!(got, [want]);
    }

    // What the stock kubectl made of the same texts.
    #[test]
    fn long_texts_go_on_in_the_next_line() {
        let words = |n: usize| vec!["word"; n].join(" ");
        let value = json!({"plain": words(20), "single": format!("a: {}", words(19)), "double": format!("\u{7} {}", words(19)),
            "spaces": format!("{}  two", words(16)), "list": [words(20)], "one": "x".repeat(100)});
        let want = format!(
            "double: \"\\a {w14}\n  {w5}\"\nlist:\n- {w16}\n  {w4}\none: {one}\nplain: {w15}\n  {w5}\n\
             single: 'a: {w14}\n  {w5}'\nspaces: {w15}\n  word  two\n",
            w4 = words(4),
            w5 = words(5),
            w14 = words(14),
            w15 = words(15),
            w16 = words(16),
            one = "x".repeat(100),
        );
        assert_eq!(to_string(&value), want);
        assert_eq!(parse(want.as_bytes()).unwrap(), value);
    }

    #[test]
    fn documents_merge_keys_and_odd_keys() {
        let text = "# nothing\n---\nbase: &b {x: 1}\nuse:\n  <<: *b\n  z: 2\n---\n---\n1: a\ntrue: b\n";
        let got = parse_all(text).unwrap();
        assert_eq!(got, [json!({"base": {"x": 1}, "use": {"x": 1, "z": 2}}), json!({"1": "a", "true": "b"})]);
    }

    #[test]
    fn duplicates_and_bombs_are_refused() {
        assert!(parse_all("a: 1\nb: {c: 1, c: 2}\n").is_err());
        assert!(parse_all("{1: a, \"1\": b}").is_err());
        let told = parse_last_wins(b"a: 1\nb: {c: 1, c: 2}\n").unwrap();
        assert_eq!((told.value, told.duplicates), (json!({"a": 1, "b": {"c": 2}}), vec!["b.c".into()]));
        assert_eq!(
            duplicate_keys(b"\na: 1\nb:\n  c: 1\n  c: 2\nl:\n- d: 1\n  d: 2\na: 2\n"),
            [
                "line 5: key \"c\" already set in map",
                "line 8: key \"d\" already set in map",
                "line 9: key \"a\" already set in map",
            ]
        );
        let merged = parse_last_wins(b"a: &x {k: 1}\nb: {<<: *x, k: 2}\n").unwrap();
        assert_eq!((&merged.value["b"], merged.duplicates.len()), (&json!({"k": 2}), 0));
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..9 {
            let _ = writeln!(bomb, "a{i}: &a{i} [{}]", vec![format!("*a{}", i - 1); 10].join(", "));
        }
        assert!(parse_all(&bomb).is_err());
        assert!(parse_all(&"[".repeat(10_000)).is_err());
        assert!(parse_all(&("- ".repeat(5_000) + "a")).is_err());
    }

    #[test]
    fn writes_as_kubectl_does() {
        let value = json!({"kind": "X", "apiVersion": "v1", "spec": {"list": [{"b": "1", "a": 1}, [1, 2], {}], "none": [], "n10": 1, "n2": 2},
            "data": {"text": "a\nb\n", "open": "a\nb", "yes": "yes", "colon": "a: b", "star": "*", "null": null, "dash": "-", "url": "http://x:80"}});
        let want = "apiVersion: v1\ndata:\n  colon: 'a: b'\n  dash: '-'\n  \"null\": null\n  open: |-\n    a\n    b\n  star: '*'\n  text: |\n    a\n    b\n  \
                    url: http://x:80\n  \"yes\": \"yes\"\nkind: X\nspec:\n  list:\n  - a: 1\n    b: \"1\"\n  - - 1\n    - 2\n  - {}\n  n2: 2\n  n10: 1\n  none: []\n";
        assert_eq!(to_string(&value), want);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn texts_come_back(text in "[ -~\\n\\t\u{e9}\u{1}]{0,20}", key in "[a-z0-9:# .-]{0,6}") {
            let value = json!({ key: [text.clone(), {"k": text}] });
            let back = parse_all(&to_string(&value)).unwrap();
            proptest::prop_assert_eq!(&back[..], &[value][..]);
        }
    }
}
