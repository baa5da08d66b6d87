//! Watch events out of a stream of bytes: one JSON document a line.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::Value;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::io::StreamReader;

use crate::api::status::{ApiResult, Status};
use crate::api::value::ValueExt;

/// Bytes of one event; an object has at most 3 MiB, and managed fields and escapes come on top.
pub const MAX_EVENT_BYTES: usize = 16 << 20;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchKind {
    /// It is there now.
    Added,
    /// It changed.
    Modified,
    /// It is gone; the object is its last state.
    Deleted,
    /// Nothing happened up to the object's resourceVersion.
    Bookmark,
}

/// An event of a watch.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchEvent {
    /// What happened.
    pub kind: WatchKind,
    /// To which object.
    pub object: Value,
}

impl WatchEvent {
    /// True for the bookmark that ends the initial events of a watch that asked for them.
    pub fn ends_initial_events(&self) -> bool {
        self.kind == WatchKind::Bookmark
            && self.object.str_at("/metadata/annotations/k8s.io~1initial-events-end") == Some("true")
    }
}

/// Splits and decodes. An error, also one the server sent as an event, is the last item.
pub(super) fn events(bytes: BoxStream<'static, ApiResult<Bytes>>) -> BoxStream<'static, ApiResult<WatchEvent>> {
    let reader = StreamReader::new(bytes.map(|b| b.map_err(std::io::Error::other)));
    let lines = FramedRead::new(reader, LinesCodec::new_with_max_length(MAX_EVENT_BYTES));
    let mut failed = false;
    lines
        .map(|line| match line {
            Ok(text) => decode(&text),
            Err(LinesCodecError::Io(e)) => {
                Err(e.downcast::<Box<Status>>().unwrap_or_else(|e| super::unreachable_server(&e)))
            }
            Err(LinesCodecError::MaxLineLengthExceeded) => {
                Err(Status::internal(format!("a watch event is larger than {MAX_EVENT_BYTES} bytes")))
            }
        })
        .take_while(move |item| {
            let go_on = !failed;
            failed |= item.is_err();
            std::future::ready(go_on)
        })
        .boxed()
}

fn decode(line: &str) -> ApiResult<WatchEvent> {
    let mut event: Value =
        serde_json::from_str(line).map_err(|e| Status::internal(format!("cannot read a watch event: {e}")))?;
    let object = event.remove_at("/object").unwrap_or_default();
    let kind = match event.str_at("/type").unwrap_or_default() {
        "ADDED" => WatchKind::Added,
        "MODIFIED" => WatchKind::Modified,
        "DELETED" => WatchKind::Deleted,
        "BOOKMARK" => WatchKind::Bookmark,
        "ERROR" => return Err(Status::from_value(&object, 500)),
        other => return Err(Status::internal(format!("unknown watch event {other:?}"))),
    };
    Ok(WatchEvent { kind, object })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::Reason;
    use futures::stream;
    use serde_json::json;

    #[tokio::test]
    async fn events_are_cut_at_lines_and_end_with_the_error() {
        let text = [
            json!({"type": "ADDED", "object": {"a": "b"}}).to_string(),
            json!({"type": "ERROR", "object": Status::expired("too old").to_value()}).to_string(),
            json!({"type": "ADDED", "object": {}}).to_string(),
        ]
        .join("\n");
        // Chunks that know nothing of lines.
        let chunks: Vec<_> = text.as_bytes().chunks(7).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        let out: Vec<_> = events(stream::iter(chunks).boxed()).collect().await;
        assert_eq!(out.len(), 2);
        assert_eq!(out[0], Ok(WatchEvent { kind: WatchKind::Added, object: json!({"a": "b"}) }));
        assert_eq!(out[1].as_ref().unwrap_err().reason, Reason::Expired);
    }
}
