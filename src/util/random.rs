//! Names that nobody has yet.

/// No vowels, nothing that looks like another character: no words come out. Upstream: `util/rand`.
const CHARS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// So many random letters and digits, fit for the end of a name.
pub fn suffix(len: usize) -> String {
    (0..len).map(|_| CHARS[rand::random_range(0..CHARS.len())] as char).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suffix_ends_a_name() {
        let text = suffix(64);
        assert!(text.len() == 64 && text.bytes().all(|b| CHARS.contains(&b)), "{text}");
    }
}
