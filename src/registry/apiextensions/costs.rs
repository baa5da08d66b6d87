//! What the rules of a schema may cost together.
//!
//! In: estimates, one by one. Out: which are too dear. Rules: upstream `apiextensions/validation`, `TotalCost`.

use std::cell::RefCell;

use crate::api::cel::cost::{ESTIMATED_RULE, ESTIMATED_SCHEMA};
use crate::registry::errors::FieldErrors;

/// How many of the dearest are named when the sum is too much.
const NAMED_MAX: usize = 4;
const ADVICE: &str = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)";

/// Estimates and their places.
#[derive(Default)]
pub struct Costs(RefCell<Vec<(u64, FieldErrors)>>);

/// By how much something is too dear, in words.
fn excess(cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    match factor {
        f if f > 100.0 => "exceeds budget by factor of more than 100x".to_owned(),
        f if f < 1.5 => format!("exceeds budget by factor of {f:.2}x"),
        f => format!("exceeds budget by factor of {f:.1}x"),
    }
}

impl Costs {
    /// Adds one, and tells when it is too dear alone.
    pub fn add(&self, at: &FieldErrors, what: &str, cost: u64) {
        if cost > ESTIMATED_RULE {
            at.forbidden(format!("estimated {what} cost {} {ADVICE}", excess(cost, ESTIMATED_RULE)));
        }
        self.0.borrow_mut().push((cost, at.clone()));
    }

    /// Tells at the dearest, and at the schema's root, when all together are too dear.
    pub fn check(&self, root: &FieldErrors) {
        let mut all = self.0.take();
        let total = all.iter().fold(0, |sum: u64, (cost, _)| sum.saturating_add(*cost));
        if total <= ESTIMATED_SCHEMA {
            return;
        }
        all.retain(|(cost, _)| *cost >= ESTIMATED_SCHEMA / 100);
        all.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
        for (_, at) in all.iter().take(NAMED_MAX) {
            at.forbidden("contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema");
        }
        root.forbidden(format!(
            "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema {} {ADVICE}",
            excess(total, ESTIMATED_SCHEMA)
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case(&[1, 2], &[]; "cheap")]
    #[test_case(&[1, 10_000_001], &["r[1]"]; "one")]
    #[test_case(&[9_000_000; 12], &["r[0]", "r[1]", "r[2]", "r[3]", "<nil>"]; "many that are not too dear alone")]
    #[test_case(&[u64::MAX, 5], &["r[0]", "r[0]", "<nil>"]; "one that nothing bounds")]
    fn told(costs: &[u64], want: &[&str]) {
        let (all, errs) = (Costs::default(), FieldErrors::new());
        for (i, cost) in costs.iter().enumerate() {
            all.add(&errs.at("r").index(i), "rule", *cost);
        }
        all.check(&errs);
        let found: Vec<String> = errs.take().into_iter().map(|c| c.field).collect();
        assert_eq!(found, want);
    }
}
