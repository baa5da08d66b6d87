//! Pages on their way back: links that lead to the other side lead back through the proxy. The page passes through as it
//! comes; what is held back is at most one tag.
//!
//! Rules: upstream `apimachinery/pkg/util/proxy/transport.go` (`atomsToAttrs`, `rewriteHTML`). Only the values of the
//! attributes change, where upstream writes the whole tag anew.
//!
//! **Invariant:** at most [`MAX_TAG_BYTES`] are held back, whatever the other side sends; a longer tag passes as it is.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateDecoder, DeflateEncoder, GzDecoder, GzEncoder};
use futures::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};

use super::urls::Links;
use crate::apiserver::respond::Body;

/// Bytes of a tag that is looked at.
const MAX_TAG_BYTES: usize = 64 << 10;

/// Attributes that are links, by element.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];
/// Elements whose content is text whatever it looks like.
const RAW: [&str; 9] = ["script", "style", "textarea", "title", "iframe", "noembed", "noframes", "noscript", "xmp"];

/// How a page is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Plain,
    Gzip,
    Deflate,
}

impl Coding {
    /// None for one that is not known: such a page passes as it is.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        match headers.get(header::CONTENT_ENCODING).map_or(Ok(""), |v| v.to_str()) {
            Ok("") => Some(Self::Plain),
            Ok("gzip") => Some(Self::Gzip),
            Ok("deflate") => Some(Self::Deflate),
            _ => None,
        }
    }
}

/// The page, rewritten as it is read.
pub(super) fn rewritten(body: Incoming, coding: Coding, links: Links) -> Body {
    let parts = body.into_data_stream().map_err(io::Error::other).map_ok(Some);
    let parts = parts.chain(stream::once(async { Ok(None) }));
    let pages = parts.scan(Page::new(coding, links), |page, part| {
        let out = part.and_then(|part| match part {
            Some(bytes) => page.feed(&bytes),
            None => page.end(),
        });
        std::future::ready(Some(out))
    });
    let full = pages.try_filter(|bytes| std::future::ready(!bytes.is_empty()));
    StreamBody::new(full.map_ok(Frame::data)).boxed_unsync()
}

/// A page between its codings.
struct Page {
    rewriter: Rewriter,
    unpack: Unpack,
    pack: Pack,
}

enum Unpack {
    Plain,
    Gzip(GzDecoder<Vec<u8>>),
    Deflate(DeflateDecoder<Vec<u8>>),
}

enum Pack {
    Plain,
    Gzip(GzEncoder<Vec<u8>>),
    Deflate(DeflateEncoder<Vec<u8>>),
}

impl Page {
    fn new(coding: Coding, links: Links) -> Self {
        let (unpack, pack) = match coding {
            Coding::Plain => (Unpack::Plain, Pack::Plain),
            Coding::Gzip => {
                let pack = GzEncoder::new(Vec::new(), Compression::default());
                (Unpack::Gzip(GzDecoder::new(Vec::new())), Pack::Gzip(pack))
            }
            Coding::Deflate => {
                let pack = DeflateEncoder::new(Vec::new(), Compression::default());
                (Unpack::Deflate(DeflateDecoder::new(Vec::new())), Pack::Deflate(pack))
            }
        };
        Self { rewriter: Rewriter::new(links), unpack, pack }
    }

    fn feed(&mut self, part: &[u8]) -> io::Result<Bytes> {
        let plain = match &mut self.unpack {
            Unpack::Plain => part.to_vec(),
            Unpack::Gzip(d) => d.write_all(part).map(|()| std::mem::take(d.get_mut()))?,
            Unpack::Deflate(d) => d.write_all(part).map(|()| std::mem::take(d.get_mut()))?,
        };
        let out = self.rewriter.feed(&plain);
        self.packed(out, false)
    }

    fn end(&mut self) -> io::Result<Bytes> {
        let left = match &mut self.unpack {
            Unpack::Plain => Vec::new(),
            Unpack::Gzip(d) => d.try_finish().map(|()| std::mem::take(d.get_mut()))?,
            Unpack::Deflate(d) => d.try_finish().map(|()| std::mem::take(d.get_mut()))?,
        };
        let mut out = self.rewriter.feed(&left);
        out.append(&mut self.rewriter.held);
        self.packed(out, true)
    }

    /// Each part is flushed: whoever reads a page that comes slowly sees what has come.
    fn packed(&mut self, bytes: Vec<u8>, last: bool) -> io::Result<Bytes> {
        match &mut self.pack {
            Pack::Plain => Ok(bytes.into()),
            Pack::Gzip(e) => {
                e.write_all(&bytes)?;
                if last {
                    e.try_finish()?
                } else {
                    e.flush()?
                }
                Ok(std::mem::take(e.get_mut()).into())
            }
            Pack::Deflate(e) => {
                e.write_all(&bytes)?;
                if last {
                    e.try_finish()?
                } else {
                    e.flush()?
                }
                Ok(std::mem::take(e.get_mut()).into())
            }
        }
    }
}

/// Finds tags in what comes in parts.
struct Rewriter {
    links: Links,
    /// What has come and is not decided: the beginning of a tag, of a comment's end, of a raw element's end.
    held: Vec<u8>,
    /// The end that is waited for where nothing is a tag: of a comment or of a raw element.
    until: Option<Vec<u8>>,
}

/// What stands at a `<`.
enum Mark {
    /// More is needed to tell.
    More,
    /// Text, or something that passes as it is, of so many bytes.
    Plain(usize),
    /// A comment: plain up to its end.
    Comment,
    /// A start tag of so many bytes.
    Tag(usize),
}

impl Rewriter {
    fn new(links: Links) -> Self {
        Self { links, held: Vec::new(), until: None }
    }

    fn feed(&mut self, part: &[u8]) -> Vec<u8> {
        let mut input = std::mem::take(&mut self.held);
        input.extend_from_slice(part);
        let (mut out, mut at) = (Vec::with_capacity(input.len()), 0);
        while at < input.len() {
            let rest = &input[at..];
            if let Some(end) = &self.until {
                match find_ignoring_case(rest, end) {
                    Some(found) => {
                        out.extend_from_slice(&rest[..found]);
                        at += found;
                        self.until = None;
                        // The end itself is no start tag; a comment's dashes are text.
                        let skip = rest[found..].len().min(1);
                        out.extend_from_slice(&rest[found..found + skip]);
                        at += skip;
                    }
                    None => {
                        let sure = rest.len().saturating_sub(end.len() - 1);
                        out.extend_from_slice(&rest[..sure]);
                        at += sure;
                        break;
                    }
                }
                continue;
            }
            let Some(open) = rest.iter().position(|b| *b == b'<') else {
                out.extend_from_slice(rest);
                at = input.len();
                break;
            };
            out.extend_from_slice(&rest[..open]);
            at += open;
            let rest = &input[at..];
            match mark(rest) {
                Mark::More if rest.len() < MAX_TAG_BYTES => break,
                Mark::More => {
                    out.push(b'<');
                    at += 1;
                }
                Mark::Plain(length) => {
                    out.extend_from_slice(&rest[..length]);
                    at += length;
                }
                Mark::Comment => {
                    out.extend_from_slice(b"<!");
                    at += 2;
                    self.until = Some(b"-->".to_vec());
                }
                Mark::Tag(length) => {
                    let name = self.tag(&rest[..length], &mut out);
                    at += length;
                    if RAW.contains(&&*name) {
                        self.until = Some(format!("</{name}").into_bytes());
                    }
                }
            }
        }
        self.held = input.split_off(at);
        out
    }

    /// Writes a tag with its links rewritten; gives the element's name in lower case.
    fn tag(&self, tag: &[u8], out: &mut Vec<u8>) -> String {
        let name_end =
            tag[1..].iter().position(|b| is_space(*b) || matches!(b, b'/' | b'>')).map_or(tag.len(), |n| n + 1);
        let name = String::from_utf8_lossy(&tag[1..name_end]).to_ascii_lowercase();
        let links = LINKS.iter().find(|(element, _)| *element == name).map_or(&[][..], |(_, links)| *links);
        let mut done = 0;
        for (key, value) in attributes(tag, name_end) {
            let key = String::from_utf8_lossy(&tag[key]).to_ascii_lowercase();
            let Ok(text) = std::str::from_utf8(&tag[value.clone()]) else { continue };
            if !links.contains(&&*key) || text.is_empty() {
                continue;
            }
            let link = unescape(text);
            let rewritten = self.links.rewrite(&link);
            if rewritten != link {
                out.extend_from_slice(&tag[done..value.start]);
                out.extend_from_slice(escape(&rewritten).as_bytes());
                done = value.end;
            }
        }
        out.extend_from_slice(&tag[done..]);
        name
    }
}

fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\n' | b'\r' | 0x0c)
}

fn find_ignoring_case(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|w| w.eq_ignore_ascii_case(what))
}

fn mark(text: &[u8]) -> Mark {
    match text.get(1) {
        None => Mark::More,
        Some(b'!') if text.starts_with(b"<!--") => Mark::Comment,
        Some(b'!') if b"<!--".starts_with(text) => Mark::More,
        Some(b) if b.is_ascii_alphabetic() => tag_end(text).map_or(Mark::More, Mark::Tag),
        // End tags, declarations and mere signs hold no links: what follows them is looked at anew.
        Some(_) => Mark::Plain(1),
    }
}

/// Where a start tag ends; a `>` between quotes ends nothing.
fn tag_end(text: &[u8]) -> Option<usize> {
    let (mut quote, mut before) = (None, b' ');
    for (i, b) in text.iter().enumerate() {
        match quote {
            Some(q) if q == *b => quote = None,
            Some(_) => {}
            None if matches!(b, b'"' | b'\'') && before == b'=' => quote = Some(*b),
            None if *b == b'>' => return Some(i + 1),
            None => {}
        }
        if !is_space(*b) {
            before = *b;
        }
    }
    None
}

/// Where keys and values of a tag's attributes stand, the quotes left out.
fn attributes(tag: &[u8], from: usize) -> Vec<(std::ops::Range<usize>, std::ops::Range<usize>)> {
    let (mut out, mut at, end) = (Vec::new(), from, tag.len() - 1);
    let skip = |at: usize, while_in: &dyn Fn(u8) -> bool| {
        tag[at..end].iter().position(|b| !while_in(*b)).map_or(end, |n| at + n)
    };
    while at < end {
        at = skip(at, &|b| is_space(b) || b == b'/');
        let key = at..skip(at, &|b| !is_space(b) && !matches!(b, b'=' | b'/'));
        at = skip(key.end, &is_space);
        if tag.get(at) != Some(&b'=') || at >= end {
            at = at.max(key.end).max(key.start + usize::from(key.is_empty()));
            continue;
        }
        at = skip(at + 1, &is_space);
        let value = match tag.get(at) {
            Some(quote @ (b'"' | b'\'')) => at + 1..skip((at + 1).min(end), &|b| b != *quote),
            _ => at..skip(at, &|b| !is_space(b)),
        };
        at = (value.end + 1).min(end);
        out.push((key, value));
    }
    out
}

/// The references that links are written with. Others stay as they are, on the way in and out.
const REFERENCES: [(&str, &str); 7] =
    [("&amp;", "&"), ("&quot;", "\""), ("&#34;", "\""), ("&#39;", "'"), ("&lt;", "<"), ("&gt;", ">"), ("&#x2F;", "/")];

fn unescape(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let known = REFERENCES.iter().find(|(name, _)| rest.starts_with(name));
        let (took, sign) = known.map_or((1, "&"), |(name, sign)| (name.len(), *sign));
        out.push_str(sign);
        rest = &rest[took..];
    }
    out + rest
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use test_case::test_case;

    fn links() -> Links {
        Links { prefix: "/p".into(), target: "10.0.0.1:80".into(), asked: "api".into() }
    }

    /// In one piece, byte by byte, and in threes: it must not matter.
    fn rewrite(page: &str) -> String {
        let by = |size: usize| {
            let mut all = Page::new(Coding::Plain, links());
            let mut out: Vec<u8> = page.as_bytes().chunks(size).flat_map(|c| all.feed(c).unwrap()).collect();
            out.extend(all.end().unwrap());
            String::from_utf8(out).unwrap()
        };
        let whole = by(page.len().max(1));
        assert_eq!((by(1), by(3)), (whole.clone(), whole.clone()));
        whole
    }

    #[test_case(r#"<a href="/x">y</a>"#, r#"<a href="/p/x">y</a>"#; "a link")]
    #[test_case("<A HREF='/x' class=b>", "<A HREF='/p/x' class=b>"; "in capitals")]
    #[test_case("<a href=/x>", "<a href=/p/x>"; "without quotes")]
    #[test_case("<a\n title=\"a>b\" href = \"/x\" >", "<a\n title=\"a>b\" href = \"/p/x\" >"; "spaces, and a sign between quotes")]
    #[test_case(r#"<a href="x/y"><a href="http://else/">"#, r#"<a href="x/y"><a href="http://else/">"#; "others")]
    #[test_case(r#"<a href="/x?a=1&amp;b=2">"#, r#"<a href="/p/x?a=1&amp;b=2">"#; "references")]
    #[test_case(r#"<img src="/i.png"/><br/>"#, r#"<img src="/p/i.png"/><br/>"#; "closed at once")]
    #[test_case(r#"<div href="/x">"#, r#"<div href="/x">"#; "no link of this element")]
    #[test_case(r#"<script src="/s.js">if (a<b) "<a href='/x'>"</script><a href="/x">"#,
        r#"<script src="/p/s.js">if (a<b) "<a href='/x'>"</script><a href="/p/x">"#; "text of a script")]
    #[test_case(r#"<!-- <a href="/x"> --><a href="/x">"#, r#"<!-- <a href="/x"> --><a href="/p/x">"#; "a comment")]
    #[test_case(r#"<!DOCTYPE html><html manifest="/m">1 < 2"#, r#"<!DOCTYPE html><html manifest="/p/m">1 < 2"#; "a declaration and a sign")]
    #[test_case(r#"<a href="/x"#, r#"<a href="/x"#; "cut off")]
    #[test_case("<a disabled href>", "<a disabled href>"; "no values")]
    #[test_case("", ""; "nothing")]
    fn pages(page: &str, want: &str) {
        assert_eq!(rewrite(page), want);
    }

    #[test]
    fn a_tag_without_end_is_not_held_for_ever() {
        let mut page = Page::new(Coding::Plain, links());
        let mut out = 0;
        out += page.feed(b"<a href=\"").unwrap().len();
        for _ in 0..40 {
            out += page.feed(&[b'x'; 4096]).unwrap().len();
            assert!(page.rewriter.held.len() <= MAX_TAG_BYTES + 4096);
        }
        assert!(out > 64 << 10);
    }

    #[test]
    fn compressed_pages_are_opened_and_closed_again() {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(br#"<p><a href="/x">"#).unwrap();
        let packed = packed.finish().unwrap();
        let mut page = Page::new(Coding::Gzip, links());
        let (first, second) = packed.split_at(packed.len() / 2);
        let out = [page.feed(first).unwrap(), page.feed(second).unwrap(), page.end().unwrap()].concat();
        let mut text = String::new();
        flate2::read::GzDecoder::new(&*out).read_to_string(&mut text).unwrap();
        assert_eq!(text, r#"<p><a href="/p/x">"#);
    }

    proptest::proptest! {
        /// Whatever comes, nothing panics, and where the parts are cut does not matter.
        #[test]
        fn any_bytes(page in "[<>a-c!/='\" \n-]{0,60}", cut in 0usize..60) {
            let feed = |parts: &[&str]| {
                let mut all = Rewriter::new(links());
                let mut out: Vec<u8> = parts.iter().flat_map(|p| all.feed(p.as_bytes())).collect();
                out.append(&mut all.held);
                out
            };
            let (a, b) = page.split_at(cut.min(page.len()));
            assert_eq!(feed(&[a, b]), feed(&[&page]));
        }
    }
}
