//! Protobuf's tags, varints and lengths.
//!
//! **Invariant:** a reader never leaves its slice, and takes no memory of its own.

use super::ProtoError;

/// A field's content.
#[derive(Debug, Clone, Copy)]
pub(super) enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

impl<'a> Field<'a> {
    pub(super) fn varint(self) -> Result<u64, ProtoError> {
        if let Field::Varint(n) = self { Ok(n) } else { Err(ProtoError::WireType) }
    }

    pub(super) fn double(self) -> Result<f64, ProtoError> {
        if let Field::Fixed64(n) = self { Ok(f64::from_bits(n)) } else { Err(ProtoError::WireType) }
    }

    pub(super) fn bytes(self) -> Result<&'a [u8], ProtoError> {
        if let Field::Bytes(b) = self { Ok(b) } else { Err(ProtoError::WireType) }
    }

    pub(super) fn text(self) -> Result<&'a str, ProtoError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| ProtoError::Utf8)
    }
}

/// Reads the fields of one message.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next field's number and content.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Field<'a>)>, ProtoError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|n| *n > 0).ok_or(ProtoError::WireType)?;
        let field = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => {
                let bytes = self.take(8)?.try_into().expect("eight bytes were taken");
                Field::Fixed64(u64::from_le_bytes(bytes))
            }
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| ProtoError::Truncated)?;
                Field::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Field::Fixed32
            }
            _ => return Err(ProtoError::WireType),
        };
        Ok(Some((number, field)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn varint(&mut self) -> Result<u64, ProtoError> {
        let mut n = 0u64;
        for (i, byte) in self.0.iter().enumerate().take(10) {
            n |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.0 = &self.0[i + 1..];
                return Ok(n);
            }
        }
        Err(if self.0.len() < 10 { ProtoError::Truncated } else { ProtoError::Overflow })
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ProtoError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(ProtoError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }
}

/// Writes fields.
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(512))
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn put_varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    fn tag(&mut self, number: u32, wire: u64) {
        self.put_varint(u64::from(number) << 3 | wire);
    }

    pub(super) fn varint(&mut self, number: u32, n: u64) {
        self.tag(number, 0);
        self.put_varint(n);
    }

    pub(super) fn double(&mut self, number: u32, f: f64) {
        self.tag(number, 1);
        self.raw(&f.to_bits().to_le_bytes());
    }

    pub(super) fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.tag(number, 2);
        self.put_varint(bytes.len() as u64);
        self.raw(bytes);
    }

    pub(super) fn text(&mut self, number: u32, text: &str) {
        self.bytes(number, text.as_bytes());
    }

    /// A nested message. One byte is kept for its length; a longer length moves what was written.
    pub(super) fn message(&mut self, number: u32, body: impl FnOnce(&mut Self)) {
        self.tag(number, 2);
        let at = self.0.len();
        self.0.push(0);
        body(self);
        let length = self.0.len() - at - 1;
        if length < 0x80 {
            self.0[at] = length as u8;
            return;
        }
        let mut prefix = Writer(Vec::with_capacity(10));
        prefix.put_varint(length as u64);
        self.0.splice(at..=at, prefix.0);
    }
}
