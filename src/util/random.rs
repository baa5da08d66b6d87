//! Names that nobody has yet.

/// No vowels, nothing that looks like another character: no words come out. Upstream: `util/rand`.
const CHARS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// So many random letters and digits, fit for the end of a name.
pub fn suffix(len: usize) -> String {
    (0..len).map(|_| CHARS[rand::random_range(0..CHARS.len())] as char).collect()
}

/// One of some samples, changed here and there, for tests of what parses: the same seed makes the same bytes.
#[cfg(test)]
pub fn mangled(seed: u64, samples: &[&[u8]]) -> Vec<u8> {
    use rand::{Rng, SeedableRng};
    /// Longest piece that is repeated or dropped, bytes.
    const PIECE_MAX: usize = 64;
    let mut dice = rand::rngs::StdRng::seed_from_u64(seed);
    let mut out = samples[dice.random_range(0..samples.len())].to_vec();
    for _ in 0..dice.random_range(0..6) {
        let from = dice.random_range(0..=out.len());
        let to = (from + dice.random_range(0..PIECE_MAX)).min(out.len());
        match dice.random_range(0..5) {
            0 if from < out.len() => out[from] ^= 1 << dice.random_range(0..8),
            1 => drop(out.drain(from..to)),
            2 => {
                let piece = out[from..to].repeat(dice.random_range(1..30));
                out.splice(from..from, piece);
            }
            3 => {
                let other = samples[dice.random_range(0..samples.len())];
                out.splice(from.., other[dice.random_range(0..=other.len())..].iter().copied());
            }
            _ => {
                let noise: Vec<u8> = (0..dice.random_range(1..PIECE_MAX)).map(|_| dice.random()).collect();
                out.splice(from..from, noise);
            }
        }
    }
    out
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
