//! Prometheus' text form.

use std::fmt::{Display, Write};

/// Appends a family of figures: its head, and a line for each row. A row is what stands behind the name, as `{a="b"}` or
/// nothing, and a value.
pub fn family<V: Display>(
    out: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    rows: impl IntoIterator<Item = (String, V)>,
) {
    // Writing to a String does not fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in rows {
        let _ = writeln!(out, "{name}{labels} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_and_a_line_for_each_row() {
        let mut out = String::new();
        family(&mut out, "a_total", "counter", "As.", [("{b=\"c\"}".to_owned(), 1.5), (String::new(), 2.0)]);
        assert_eq!(out, "# HELP a_total As.\n# TYPE a_total counter\na_total{b=\"c\"} 1.5\na_total 2\n");
    }
}
