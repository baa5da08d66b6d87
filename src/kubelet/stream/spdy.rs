//! SPDY/3.1 as a client of a CRI streaming server: open streams, send, close, receive. Frames only, no sockets.
//!
//! The servers in question (Go's spdystream) neither open streams themselves nor count flow-control windows, and nothing
//! in the headers of their replies is needed. So no header is ever decompressed, and headers sent are stored, not
//! compressed, which every inflater reads. A frame has at most 16 MiB by its format.

use bytes::{Buf, BufMut, Bytes, BytesMut};

const HEADER_BYTES: usize = 8;
const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FLAG_FIN: u8 = 1;

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A stream was accepted.
    Accepted(u32),
    /// Bytes of a stream; the flag tells that there will be no more.
    Data(u32, Bytes, bool),
    /// A stream was refused or broken off.
    Reset(u32),
    /// Has to be sent back as it is.
    Ping(Bytes),
    /// The connection ends.
    GoAway,
    /// Of no concern to us.
    Other,
}

/// Takes a whole frame from the front of `buffer`; none while it is incomplete.
pub(super) fn take(buffer: &mut BytesMut) -> Option<Frame> {
    let header: [u8; HEADER_BYTES] = buffer.get(..HEADER_BYTES)?.try_into().ok()?;
    let length = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
    if buffer.len() < HEADER_BYTES + length {
        return None;
    }
    let whole = buffer.split_to(HEADER_BYTES + length).freeze();
    let mut body = whole.slice(HEADER_BYTES..);
    let is_last = header[4] & FLAG_FIN != 0;
    let word = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
    if word >> 31 == 0 {
        return Some(Frame::Data(word, body, is_last));
    }
    let kind = u16::from_be_bytes([header[2], header[3]]);
    let stream = if body.len() >= 4 { body.get_u32() & 0x7fff_ffff } else { 0 };
    Some(match kind {
        SYN_REPLY if is_last => Frame::Data(stream, Bytes::new(), true),
        SYN_REPLY => Frame::Accepted(stream),
        RST_STREAM => Frame::Reset(stream),
        PING => Frame::Ping(whole),
        GOAWAY => Frame::GoAway,
        _ => Frame::Other,
    })
}

/// Writes frames. One for a connection: header blocks are one continuous zlib stream.
#[derive(Debug, Default)]
pub(super) struct Writer {
    began: bool,
}

impl Writer {
    /// Opens a stream; ids of clients are odd.
    pub(super) fn open(&mut self, stream: u32, headers: &[(&str, &str)], out: &mut BytesMut) {
        let block = self.header_block(headers);
        control(SYN_STREAM, 0, 10 + block.len(), out);
        out.put_u32(stream);
        // No associated stream, highest priority, no credential slot.
        out.put_u32(0);
        out.put_u16(0);
        out.extend_from_slice(&block);
    }

    /// Headers as a zlib stream of stored blocks, flushed at the end.
    fn header_block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = Vec::new();
        let field = |text: &str, plain: &mut Vec<u8>| {
            plain.put_u32(text.len() as u32);
            plain.extend_from_slice(text.as_bytes());
        };
        plain.put_u32(headers.len() as u32);
        for (name, value) in headers {
            field(name, &mut plain);
            field(value, &mut plain);
        }
        let mut block = Vec::new();
        if !std::mem::replace(&mut self.began, true) {
            // zlib: deflate, 32 KiB window, no preset dictionary.
            block.extend([0x78, 0x01]);
        }
        // A stored block, then an empty one: what a sync flush looks like.
        for part in [plain.as_slice(), &[]] {
            let length = u16::try_from(part.len()).expect("a handful of short headers");
            block.push(0);
            block.put_u16_le(length);
            block.put_u16_le(!length);
            block.extend_from_slice(part);
        }
        block
    }
}

/// Bytes of a stream, and its end if `last`.
pub(super) fn data(stream: u32, bytes: &[u8], last: bool, out: &mut BytesMut) {
    out.put_u32(stream);
    out.put_u32(u32::from(last) << 24 | bytes.len() as u32);
    out.extend_from_slice(bytes);
}

fn control(kind: u16, flags: u8, length: usize, out: &mut BytesMut) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(u32::from(flags) << 24 | length as u32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn header_blocks_inflate_as_one_stream() {
        let mut writer = Writer::default();
        let mut zlib = writer.header_block(&[("streamtype", "error")]);
        zlib.extend(writer.header_block(&[("streamtype", "stdin")]));
        let mut inflated = vec![0; 54];
        flate2::read::ZlibDecoder::new(zlib.as_slice()).read_exact(&mut inflated).unwrap();
        let expected = |value: &[u8]| {
            let mut out = vec![0, 0, 0, 1, 0, 0, 0, 10];
            out.extend(b"streamtype\0\0\0\x05");
            out.extend(value);
            out
        };
        assert_eq!(inflated[..27], expected(b"error"));
        assert_eq!(inflated[27..], expected(b"stdin"));
    }

    #[test]
    fn frames_are_taken_whole() {
        let mut buffer = BytesMut::new();
        data(5, b"hello", true, &mut buffer);
        let all = buffer.clone();
        for cut in 0..all.len() {
            assert_eq!(take(&mut BytesMut::from(&all[..cut])), None);
        }
        assert_eq!(take(&mut buffer), Some(Frame::Data(5, Bytes::from_static(b"hello"), true)));
        assert!(buffer.is_empty());

        control(SYN_REPLY, 0, 4, &mut buffer);
        buffer.put_u32(3);
        control(PING, 0, 4, &mut buffer);
        buffer.put_u32(2);
        control(GOAWAY, 0, 0, &mut buffer);
        assert_eq!(take(&mut buffer), Some(Frame::Accepted(3)));
        let Some(Frame::Ping(ping)) = take(&mut buffer) else { panic!("a ping") };
        assert_eq!(ping.len(), 12, "with its header, to be sent back");
        assert_eq!(take(&mut buffer), Some(Frame::GoAway));
        assert_eq!(take(&mut buffer), None);
    }
}
