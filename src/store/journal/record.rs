//! One commit as bytes, and finding commits in bytes that a crash may have torn.
//!
//! A record is, little-endian: magic, length of the payload, crc32c of all that follows; revision, the revision that
//! was durable when this record was written, number of changes; then each change: key length, value length (all ones
//! for a deletion), key, value.
//!
//! The durable revision is what tells a torn tail from damage. Records are lost in a crash only behind the last sync;
//! so when a record that follows a hole says that what is in the hole had been durable, the hole is damage.

use bytes::{Buf, BufMut, Bytes};

use crate::store::{Change, Revision};

/// Not UTF-8: no JSON that a client stores can look like a record.
const MAGIC: u32 = u32::from_le_bytes([0xff, b'O', b'J', 0xfe]);
/// Magic, length, crc.
const HEAD: usize = 12;
/// Revision, durable revision, count.
const FIXED: usize = 20;
const DELETION: u32 = u32::MAX;
/// Longest payload, bytes; a longer one is not a record.
const PAYLOAD_MAX: usize = 2 * crate::store::TXN_MAX;

/// A commit as read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Record {
    pub(in crate::store) revision: Revision,
    /// What was durable when it was written.
    pub(in crate::store) durable: Revision,
    pub(in crate::store) changes: Vec<Change>,
}

/// Appends a record. All changes have the same revision.
pub(in crate::store) fn encode(out: &mut Vec<u8>, revision: Revision, durable: Revision, changes: &[Change]) {
    let start = out.len();
    out.put_u32_le(MAGIC);
    out.put_u64_le(0);
    out.put_u64_le(revision);
    out.put_u64_le(durable);
    out.put_u32_le(changes.len() as u32);
    for change in changes {
        out.put_u32_le(change.key.len() as u32);
        out.put_u32_le(change.value.as_ref().map_or(DELETION, |v| v.len() as u32));
        out.put_slice(&change.key);
        out.put_slice(change.value.as_deref().unwrap_or_default());
    }
    let payload = (out.len() - start - HEAD) as u32;
    out[start + 4..start + 8].copy_from_slice(&payload.to_le_bytes());
    let crc = crc32c::crc32c(&out[start + HEAD..]);
    out[start + 8..start + HEAD].copy_from_slice(&crc.to_le_bytes());
}

/// The record at the start of `bytes` and its length; none when there is no whole, sound one.
pub(in crate::store) fn decode(bytes: &[u8]) -> Option<(Record, usize)> {
    let mut head = bytes.get(..HEAD)?;
    if head.get_u32_le() != MAGIC {
        return None;
    }
    let (len, crc) = (head.get_u32_le() as usize, head.get_u32_le());
    if !(FIXED..=PAYLOAD_MAX).contains(&len) {
        return None;
    }
    let mut payload = bytes.get(HEAD..HEAD + len)?;
    if crc32c::crc32c(payload) != crc {
        return None;
    }
    let (revision, durable, count) = (payload.get_u64_le(), payload.get_u64_le(), payload.get_u32_le());
    let mut changes = Vec::new();
    for _ in 0..count {
        let (key, value) = (payload.try_get_u32_le().ok()?, payload.try_get_u32_le().ok()?);
        let key = take(&mut payload, key as usize)?;
        let value = if value == DELETION { None } else { Some(take(&mut payload, value as usize)?) };
        changes.push(Change { revision, key, value });
    }
    Some((Record { revision, durable, changes }, HEAD + len))
}

/// Copies, so that a small key does not keep a whole segment in memory.
fn take(from: &mut &[u8], len: usize) -> Option<Bytes> {
    let (taken, rest) = from.split_at_checked(len)?;
    *from = rest;
    Some(Bytes::copy_from_slice(taken))
}

/// The first sound record anywhere in `bytes`: its offset, itself and its length.
pub(in crate::store) fn find(bytes: &[u8]) -> Option<(usize, Record, usize)> {
    let magic = MAGIC.to_le_bytes();
    let candidates = bytes.windows(magic.len()).enumerate().filter(|(_, w)| *w == magic);
    candidates.map(|(at, _)| at).find_map(|at| decode(&bytes[at..]).map(|(record, len)| (at, record, len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(revision: Revision) -> Vec<Change> {
        let key = |k: &'static str| Bytes::from_static(k.as_bytes());
        vec![
            Change { revision, key: key("/a"), value: Some(key("one")) },
            Change { revision, key: key("/b"), value: None },
            Change { revision, key: key("/c"), value: Some(Bytes::new()) },
        ]
    }

    #[test]
    fn comes_back_whole_or_not_at_all() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 7, 5, &changes(7));
        let len = bytes.len();
        encode(&mut bytes, 8, 5, &[]);
        assert_eq!(decode(&bytes), Some((Record { revision: 7, durable: 5, changes: changes(7) }, len)));
        for cut in 0..len {
            assert_eq!(decode(&bytes[..cut]), None, "cut at {cut}");
        }
        for bit in 0..len * 8 {
            let mut damaged = bytes[..len].to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&damaged), None, "bit {bit} flipped");
        }
        bytes[3] ^= 1;
        assert_eq!(find(&bytes).map(|(at, r, _)| (at, r.revision)), Some((len, 8)));
    }
}
