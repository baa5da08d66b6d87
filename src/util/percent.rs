//! Percent-encoding of paths, queries and header names, undone. What is not valid stays as it was.

/// The bytes behind `text`; `plus` turns `+` into a space, as in queries.
pub fn bytes(text: &str, plus: bool) -> Vec<u8> {
    let raw = text.as_bytes();
    let mut out = Vec::with_capacity(raw.len());
    let mut i = 0;
    while i < raw.len() {
        let digit = |at: usize| raw.get(at).and_then(|b| (*b as char).to_digit(16)).map(|d| d as u8);
        match (raw[i], digit(i + 1), digit(i + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                i += 3;
            }
            (byte, ..) => {
                out.push(if plus && byte == b'+' { b' ' } else { byte });
                i += 1;
            }
        }
    }
    out
}

/// The same as text.
pub fn decode(text: &str, plus: bool) -> String {
    String::from_utf8_lossy(&bytes(text, plus)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_valid_is_undone_and_the_rest_stays() {
        assert_eq!(decode("a%20b+c%2", true), "a b c%2");
        assert_eq!(decode("a+%C3%A4%zz%+f", false), "a+\u{e4}%zz%+f");
    }
}
