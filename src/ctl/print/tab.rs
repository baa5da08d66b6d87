//! Aligned columns, with the rules of Go's `text/tabwriter`, which every kubectl user's eye (and `awk`) knows.
//!
//! A cell ends with a tab; what stands behind the last tab of a line is text and aligns nothing. A column is a run of
//! consecutive lines that all have that cell; it is as wide as its widest cell and the padding, at least `min`.

/// How columns are made.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Least width of a column, in characters.
    pub min: usize,
    /// Spaces behind the widest cell.
    pub padding: usize,
}

/// `kubectl get` and most tables.
pub const GET: Layout = Layout { min: 6, padding: 3 };
/// `kubectl describe`.
pub const DESCRIBE: Layout = Layout { min: 0, padding: 2 };

/// Aligns a text.
pub fn align(text: &str, layout: Layout) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|l| l.split('\t').collect()).collect();
    let mut out = String::with_capacity(text.len() * 2);
    let mut widths = Vec::new();
    format(&mut out, &lines, 0, lines.len(), &mut widths, layout);
    // The split made one more line than there are line ends.
    out.pop();
    out
}

/// Writes lines `from..to`, whose first `widths.len()` columns are known.
fn format(out: &mut String, lines: &[Vec<&str>], from: usize, to: usize, widths: &mut Vec<usize>, layout: Layout) {
    let column = widths.len();
    let mut done = from;
    let mut at = from;
    while at < to {
        if column + 1 >= lines[at].len() {
            at += 1;
            continue;
        }
        // A cell here ends with a tab: a column begins.
        write(out, &lines[done..at], widths);
        let begin = at;
        let mut width = layout.min;
        while at < to && column + 1 < lines[at].len() {
            width = width.max(lines[at][column].chars().count() + layout.padding);
            at += 1;
        }
        widths.push(width);
        format(out, lines, begin, at, widths, layout);
        widths.pop();
        done = at;
    }
    write(out, &lines[done..to], widths);
}

fn write(out: &mut String, lines: &[Vec<&str>], widths: &[usize]) {
    for line in lines {
        for (i, cell) in line.iter().enumerate() {
            out.push_str(cell);
            if let Some(width) = widths.get(i).filter(|_| i + 1 < line.len()) {
                out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
            }
        }
        out.push('\n');
    }
}

/// Rows that come one after another: columns only grow, so that a watch stays aligned.
#[derive(Debug)]
pub struct Rows {
    widths: Vec<usize>,
}

impl Rows {
    /// No widths yet.
    pub fn new() -> Self {
        Self { widths: Vec::new() }
    }

    /// Aligns rows with each other and with those before.
    pub fn align(&mut self, rows: &[Vec<String>]) -> String {
        for row in rows {
            for (i, cell) in row.iter().enumerate().take(row.len().saturating_sub(1)) {
                let width = GET.min.max(cell.chars().count() + GET.padding);
                match self.widths.get_mut(i) {
                    Some(w) => *w = (*w).max(width),
                    None => self.widths.push(width),
                }
            }
        }
        let mut out = String::new();
        for row in rows {
            let cells: Vec<&str> = row.iter().map(String::as_str).collect();
            write(&mut out, &[cells], &self.widths);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("a\tb\nlonger\tc\n", GET, "a        b\nlonger   c\n"; "a column is as wide as its widest cell")]
    #[test_case("a\tb\n", GET, "a     b\n"; "and at least the minimum")]
    #[test_case("Name:\tx\nLabels:\ta\n\tb\n", DESCRIBE, "Name:    x\nLabels:  a\n         b\n"; "an empty cell keeps its place")]
    #[test_case("Name:\tx\nA:\nLonger name:\ty\n", DESCRIBE, "Name:  x\nA:\nLonger name:  y\n"; "a line without the cell ends the column")]
    #[test_case("é\tx\nab\ty\n", DESCRIBE, "é   x\nab  y\n"; "characters are counted, not bytes")]
    #[test_case("a\tb\tc\nd\te\tf\ng\th\n", DESCRIBE, "a  b  c\nd  e  f\ng  h\n"; "inner columns")]
    #[test_case("", DESCRIBE, ""; "nothing")]
    fn aligned(text: &str, layout: Layout, want: &str) {
        assert_eq!(align(text, layout), want);
    }

    #[test]
    fn columns_of_a_watch_only_grow() {
        let row = |cells: &[&str]| cells.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
        let mut rows = Rows::new();
        assert_eq!(
            rows.align(&[row(&["NAME", "AGE"]), row(&["a-long-name", "1s"])]),
            "NAME          AGE\na-long-name   1s\n"
        );
        assert_eq!(rows.align(&[row(&["b", "2s"])]), "b             2s\n");
    }
}
