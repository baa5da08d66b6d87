//! Values as the state keeps them: packed, where that makes them clearly smaller.
//!
//! JSON repeats itself (the names of fields, managed fields above all), and most of an object goes when it is packed. What is
//! written to the disk, read from it, and held by the database shrinks alike; that matters more to an SD card than the few
//! microseconds.
//!
//! **Invariant:** what [`pack`] makes, [`unpack`] turns back; a value that is garbled is an error, never a panic.

use std::borrow::Cow;

/// Values of less than this stay as they are, bytes: there is nothing to win.
const SMALL: usize = 256;

/// What of a value is kept: a packed copy, or the value itself (short, sealed, or compressed by its owner).
pub(super) fn pack(value: &[u8]) -> Cow<'_, [u8]> {
    if value.len() < SMALL {
        return Cow::Borrowed(value);
    }
    let packed = lz4_flex::block::compress(value);
    // It has to be worth unpacking. The length also tells the two forms apart: a packed value is always shorter.
    if packed.len() < value.len() - value.len() / 8 { Cow::Owned(packed) } else { Cow::Borrowed(value) }
}

/// The value of `len` bytes that [`pack`] made this of.
///
/// # Errors
/// It is not what [`pack`] makes.
pub(super) fn unpack(kept: &[u8], len: usize) -> Result<Cow<'_, [u8]>, String> {
    if kept.len() == len {
        return Ok(Cow::Borrowed(kept));
    }
    let value = lz4_flex::block::decompress(kept, len).map_err(|e| e.to_string())?;
    if value.len() == len { Ok(Cow::Owned(value)) } else { Err(format!("{} bytes instead of {len}", value.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_repeats_itself_is_packed_and_what_does_not_is_left_alone() {
        let fields: String =
            (0..40).map(|i| format!(r#""k:{{\"name\":\"V{i}\"}}":{{".":{{}},"f:name":{{}}}},"#)).collect();
        let kept = pack(fields.as_bytes());
        assert!(kept.len() < fields.len() / 4, "{} of {}", kept.len(), fields.len());
        assert_eq!(unpack(&kept, fields.len()).unwrap(), fields.as_bytes());
        // As a cipher's output looks.
        let noise: Vec<u8> = (0..4096u32).flat_map(|i| crc32c::crc32c(&i.to_le_bytes()).to_le_bytes()).collect();
        assert!(matches!(pack(&noise), Cow::Borrowed(_)));
        assert!(matches!(pack(&[b'x'; SMALL - 1]), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn every_value_comes_back(value in prop::collection::vec(prop::sample::select(b"ab{}\"".to_vec()), 0..5000)) {
            let kept = pack(&value);
            prop_assert_eq!(unpack(&kept, value.len()).unwrap(), &value[..]);
        }

        #[test]
        fn garbage_is_an_error(kept in prop::collection::vec(any::<u8>(), 0..300), len in 0..5000usize) {
            if let Ok(value) = unpack(&kept, len) {
                prop_assert_eq!(value.len(), len);
            }
        }
    }
}
