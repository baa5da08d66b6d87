//! Sets of completion indexes, written as `0-3,5,7-9`. Rule: upstream `indexed_job_utils.go`.

use std::fmt;

/// Disjoint ranges in order, ends included; so a Job of a hundred thousand indexes costs what its gaps cost.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Indexes(Vec<(i64, i64)>);

impl Indexes {
    /// From text. What cannot be read is left out.
    pub fn parse(text: &str) -> Self {
        let mut all = Self::default();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse(), last.parse()) {
                all.add(first, last);
            }
        }
        all
    }

    /// Without those at and above `end`.
    pub fn below(mut self, end: i64) -> Self {
        self.0.retain(|r| r.0 < end);
        if let Some(last) = self.0.last_mut() {
            last.1 = last.1.min(end - 1);
        }
        self
    }

    /// Adds one.
    pub fn insert(&mut self, index: i64) {
        self.add(index, index);
    }

    fn add(&mut self, first: i64, last: i64) {
        if first > last {
            return;
        }
        // Ranges from `from` to before `to` touch the new one and become part of it.
        let from = self.0.partition_point(|r| r.1 + 1 < first);
        let to = self.0.partition_point(|r| r.0 <= last + 1);
        let (mut start, mut end) = (first, last);
        if from < to {
            (start, end) = (start.min(self.0[from].0), end.max(self.0[to - 1].1));
        }
        self.0.splice(from..to, [(start, end)]);
    }

    /// True when `index` is one of them.
    pub fn contains(&self, index: i64) -> bool {
        let at = self.0.partition_point(|r| r.1 < index);
        self.0.get(at).is_some_and(|r| r.0 <= index)
    }

    /// How many.
    pub fn count(&self) -> i64 {
        self.0.iter().map(|r| r.1 - r.0 + 1).sum()
    }

    /// How many of them `other` has too.
    pub fn common(&self, other: &Self) -> i64 {
        let overlap = |a: &(i64, i64), b: &(i64, i64)| (a.1.min(b.1) - a.0.max(b.0) + 1).max(0);
        self.0.iter().map(|a| other.0.iter().map(|b| overlap(a, b)).sum::<i64>()).sum()
    }
}

impl fmt::Display for Indexes {
    /// Two neighbours are `1,2`, not `1-2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case(&[], "")]
    #[test_case(&[3], "3")]
    #[test_case(&[3, 4], "3,4"; "two")]
    #[test_case(&[5, 3, 4, 9], "3-5,9"; "out of order")]
    #[test_case(&[1, 3, 2, 2], "1-3"; "closes a gap")]
    #[test_case(&[0, 1, 5, 6, 7, 3], "0,1,3,5-7")]
    fn written(all: &[i64], want: &str) {
        let mut set = Indexes::default();
        all.iter().for_each(|i| set.insert(*i));
        assert_eq!(set.to_string(), want);
        assert_eq!(Indexes::parse(want), set);
        assert!(all.iter().all(|i| set.contains(*i)));
        assert!(!set.contains(8));
    }

    #[test]
    fn counts_cuts_and_compares() {
        let set = Indexes::parse("0-4,7,9-12");
        assert_eq!(set.count(), 10);
        assert_eq!(set.clone().below(10).to_string(), "0-4,7,9");
        assert_eq!(set.common(&Indexes::parse("3-9")), 4);
    }
}
