//! Kubernetes protobuf: JSON values to and from the bytes that Go clients send, over the wire table.
//!
//! A body is [`MAGIC`] and a `runtime.Unknown` with apiVersion, kind and the message. Within messages presence follows
//! gogo's proto2 code: what is no pointer is always written; lists are not packed; maps are lists of entries; structs
//! that JSON inlines are nested. In a watch each event is a length and a `metav1.WatchEvent` whose object is a body.
//!
//! Decoded values are JSON, not yet canonical: pass them through `schema::canonicalize`.
//!
//! **Invariant:** encoding a canonical value gives the bytes that upstream's Go types give.

mod decode;
mod encode;
pub mod gnostic;
mod wire;

use serde_json::{Map, Value};

use super::{MAX_DEPTH, json};
use crate::api::schema::StructDef;
use crate::api::value::ValueExt;
use wire::{Reader, Writer};

/// First bytes of every protobuf body.
pub const MAGIC: [u8; 4] = *b"k8s\0";

/// Content type of protobuf bodies.
pub const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Why bytes are no protobuf of their kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum ProtoError {
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    #[error("proto: unexpected end of the message")]
    Truncated,
    #[error("proto: a varint is longer than ten bytes")]
    Overflow,
    #[error("proto: illegal tag or wire type")]
    WireType,
    #[error("proto: a string is not UTF-8")]
    Utf8,
    #[error("proto: exceeded max depth")]
    Depth,
    #[error("proto: raw JSON is malformed")]
    Json,
    #[error("proto: unsupported content {0}")]
    Content(&'static str),
}

/// What stands around a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Envelope<'a> {
    /// `apps/v1`.
    pub api_version: &'a str,
    /// `Deployment`.
    pub kind: &'a str,
    /// The message.
    pub raw: &'a [u8],
    /// Empty for protobuf; `application/json` where `raw` is JSON.
    pub content_type: &'a str,
}

/// Takes the envelope off a body.
pub fn open(body: &[u8]) -> Result<Envelope<'_>, ProtoError> {
    let rest = body.strip_prefix(&MAGIC[..]).ok_or(ProtoError::NoMagic)?;
    let mut envelope = Envelope::default();
    let mut reader = Reader::new(rest);
    while let Some((number, field)) = reader.next()? {
        match number {
            1 => {
                let mut meta = Reader::new(field.bytes()?);
                while let Some((number, field)) = meta.next()? {
                    match number {
                        1 => envelope.api_version = field.text()?,
                        2 => envelope.kind = field.text()?,
                        _ => {}
                    }
                }
            }
            2 => envelope.raw = field.bytes()?,
            3 if !field.bytes()?.is_empty() => return Err(ProtoError::Content("encoding")),
            4 => envelope.content_type = field.text()?,
            _ => {}
        }
    }
    Ok(envelope)
}

/// Decodes the message of an envelope, with `kind` and `apiVersion` as the envelope says.
pub fn decode(envelope: &Envelope<'_>, def: &'static StructDef) -> Result<Value, ProtoError> {
    let value = decode_at(envelope, def, 0)?;
    // Messages were counted, of which each may be a list or a map and an object.
    if value.depth() > MAX_DEPTH { Err(ProtoError::Depth) } else { Ok(value) }
}

/// The same for an envelope that lies `depth` levels deep in another.
fn decode_at(envelope: &Envelope<'_>, def: &'static StructDef, depth: usize) -> Result<Value, ProtoError> {
    let mut value = match envelope.content_type {
        "" | CONTENT_TYPE => decode::message(envelope.raw, def, depth)?,
        "application/json" => json::parse_at(envelope.raw, depth).map_err(|_| ProtoError::Json)?.value,
        _ => return Err(ProtoError::Content("type")),
    };
    if let (Value::Object(members), true) = (&mut value, def.kind) {
        for (key, text) in [("kind", envelope.kind), ("apiVersion", envelope.api_version)] {
            if !text.is_empty() {
                members.insert(key.to_owned(), text.into());
            }
        }
    }
    Ok(value)
}

/// Encodes a canonical object, envelope and all.
pub fn encode(value: &Value, def: &'static StructDef) -> Vec<u8> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    seal(text("apiVersion"), text("kind"), |w| encode::message(w, value, def))
}

/// Puts an envelope around a message that `body` writes.
fn seal(api_version: &str, kind: &str, body: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::new();
    w.raw(&MAGIC);
    w.message(1, |w| {
        w.text(1, api_version);
        w.text(2, kind);
    });
    w.message(2, body);
    w.text(3, "");
    w.text(4, "");
    w.finish()
}

/// A frame of a watch: the length, and the event around a body (of [`encode`]).
pub fn watch_frame(event: &str, body: &[u8]) -> Vec<u8> {
    let mut w = Writer::new();
    w.raw(&[0; 4]);
    w.text(1, event);
    w.message(2, |w| w.bytes(1, body));
    let mut frame = w.finish();
    let length = (frame.len() - 4) as u32;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame
}

/// The event and the body of a watch frame, its length taken off.
pub fn read_watch_event(frame: &[u8]) -> Result<(&str, &[u8]), ProtoError> {
    let (mut event, mut body) = ("", &[][..]);
    let mut reader = Reader::new(frame);
    while let Some((number, field)) = reader.next()? {
        match number {
            1 => event = field.text()?,
            2 => {
                let mut raw = Reader::new(field.bytes()?);
                while let Some((number, field)) = raw.next()? {
                    if number == 1 {
                        body = field.bytes()?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok((event, body))
}

/// An empty object.
fn object() -> Map<String, Value> {
    Map::new()
}

#[cfg(test)]
mod tests;
