//! Sorting where lists are short and calls are many.
//!
//! `slice::sort_by` is compiled for each type and each comparison, seven kilobytes a call: a megabyte of the binary, for lists
//! of a few items. Here the sort is compiled once, on positions; a call costs some hundred bytes and one small allocation.
//! What is sorted for every request keeps the standard library's.
//!
//! **Invariant:** stable, as `slice::sort_by` is.

use std::cmp::Ordering;

/// Sorting with little code.
pub trait Arrange<T> {
    /// As `slice::sort_by`.
    fn arrange_by(&mut self, compare: impl FnMut(&T, &T) -> Ordering);

    /// As `slice::sort_by_key`; the key is made for each comparison.
    fn arrange_by_key<K: Ord>(&mut self, key: impl FnMut(&T) -> K);

    /// As `slice::sort`.
    fn arrange(&mut self)
    where
        T: Ord;
}

impl<T> Arrange<T> for [T] {
    fn arrange_by(&mut self, mut compare: impl FnMut(&T, &T) -> Ordering) {
        let mut places = positions(self.len(), &mut |a, b| compare(&self[a], &self[b]));
        permute(&mut places, &mut |a, b| self.swap(a, b));
    }

    fn arrange_by_key<K: Ord>(&mut self, mut key: impl FnMut(&T) -> K) {
        self.arrange_by(|a, b| key(a).cmp(&key(b)));
    }

    fn arrange(&mut self)
    where
        T: Ord,
    {
        self.arrange_by(T::cmp);
    }
}

/// Where each item of the sorted list stands in the unsorted one.
fn positions(len: usize, compare: &mut dyn FnMut(usize, usize) -> Ordering) -> Vec<usize> {
    let mut places: Vec<usize> = (0..len).collect();
    places.sort_by(|a, b| compare(*a, *b));
    places
}

/// Brings items to their places, each with one swap.
fn permute(places: &mut [usize], swap: &mut dyn FnMut(usize, usize)) {
    for start in 0..places.len() {
        let mut here = start;
        // Around one cycle: what belongs here comes here, and its old place is the next to fill.
        while places[here] != start {
            let from = places[here];
            swap(here, from);
            places[here] = here;
            here = from;
        }
        places[here] = here;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sorts_as_the_standard_library_does(items: Vec<(u8, u32)>) {
            let (mut ours, mut theirs) = (items.clone(), items.clone());
            ours.arrange_by_key(|i| i.0 % 8);
            theirs.sort_by_key(|i| i.0 % 8);
            prop_assert_eq!(&ours, &theirs);
            ours.arrange();
            theirs.sort();
            prop_assert_eq!(&ours, &theirs);
            ours.arrange_by(|a, b| b.1.cmp(&a.1));
            theirs.sort_by_key(|i| std::cmp::Reverse(i.1));
            prop_assert_eq!(ours, theirs);
        }
    }
}
