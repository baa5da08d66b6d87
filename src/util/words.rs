//! Words that people write: finding the one they meant.

/// The word of `known` that is nearest to `word`; empty when there are none.
pub fn nearest<'a>(known: impl IntoIterator<Item = &'a str>, word: &str) -> &'a str {
    known.into_iter().min_by_key(|k| strsim::damerau_levenshtein(k, word)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_hand_is_seen_through() {
        assert_eq!(nearest(["mirrors", "configs"], "mirorrs"), "mirrors");
        assert_eq!(nearest([], "x"), "");
    }
}
