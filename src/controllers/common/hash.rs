//! Names made of content: stable over restarts and over the order of keys.

use crate::util::order::Arrange;
use serde_json::Value;

/// Letters and digits that spell no words and are not mistaken for one another; upstream's `util/rand`.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A name part for `template`, another one for each number of collisions.
pub fn template_hash(template: &Value, collisions: i64) -> String {
    let mut hash = Fnv::default();
    hash.value(template);
    if collisions > 0 {
        hash.bytes(&collisions.to_le_bytes());
    }
    safe(hash.0)
}

/// Decimal digits of `hash`, in [`ALPHABET`].
pub fn safe(hash: u32) -> String {
    hash.to_string().bytes().map(|b| ALPHABET[b as usize % ALPHABET.len()] as char).collect()
}

/// FNV-1a, 32 bits.
struct Fnv(u32);

impl Default for Fnv {
    fn default() -> Self {
        Self(0x811c_9dc5)
    }
}

impl Fnv {
    fn bytes(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = (self.0 ^ u32::from(*b)).wrapping_mul(0x0100_0193);
        }
    }

    /// Every value with a tag before and an end behind it, keys in order.
    fn value(&mut self, value: &Value) {
        match value {
            Value::Object(map) => {
                let mut keys: Vec<&String> = map.keys().collect();
                keys.arrange();
                self.bytes(b"{");
                for key in keys {
                    self.bytes(key.as_bytes());
                    self.bytes(b":");
                    self.value(&map[key]);
                }
                self.bytes(b"}");
            }
            Value::Array(items) => {
                self.bytes(b"[");
                items.iter().for_each(|v| self.value(v));
                self.bytes(b"]");
            }
            scalar => {
                self.bytes(scalar.to_string().as_bytes());
                self.bytes(b",");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn depends_on_content_only() {
        let a: Value = serde_json::from_str(r#"{"a": 1, "b": ["x", "y"]}"#).unwrap();
        let b: Value = serde_json::from_str(r#"{"b": ["x", "y"], "a": 1}"#).unwrap();
        assert_eq!(template_hash(&a, 0), template_hash(&b, 0));
        assert_ne!(template_hash(&a, 0), template_hash(&a, 1));
        assert_ne!(template_hash(&a, 0), template_hash(&json!({"a": 1, "b": ["xy"]}), 0));
        assert!(template_hash(&a, 0).bytes().all(|c| ALPHABET.contains(&c)));
    }

    #[test]
    fn digits_are_spelled_as_upstream_does() {
        // '0' is 48, and 48 % 27 = 21: the alphabet's "4" is its 22nd letter.
        assert_eq!(safe(0), (ALPHABET[21] as char).to_string());
        assert_eq!(safe(123).len(), 3);
    }
}
