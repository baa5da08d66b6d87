//! How much of a device a request takes.
//!
//! Upstream: `structured/internal/*/consumable_capacity`.

use super::model::{Amounts, Capacity, Choice, Device};

/// What a request takes of one capacity: what it asks for, raised to what may be asked for; the default, or all of it,
/// where it does not ask.
fn taken(asked: Option<i128>, of: &Capacity) -> i128 {
    let Some(asked) = asked else { return of.default.unwrap_or(of.value) };
    if let Some((min, _, step)) = of.range {
        return match step.filter(|step| *step > 0) {
            _ if asked < min => min,
            Some(step) => min + (asked - min + step - 1) / step * step,
            None => asked,
        };
    }
    of.valid.iter().copied().find(|v| *v >= asked).unwrap_or(asked)
}

fn allowed(amount: i128, of: &Capacity) -> bool {
    match of.range {
        Some((_, max, _)) => max.is_none_or(|max| amount <= max),
        None => of.valid.is_empty() || of.valid.contains(&amount),
    }
}

/// What a choice takes of a device, by capacity.
pub fn parts(choice: &Choice, device: &Device) -> Amounts {
    device.capacity.iter().map(|(name, of)| (name.clone(), taken(choice.capacity.get(name).copied(), of))).collect()
}

/// True when the device has what the choice asks for, after what others have of it.
pub fn suffices(choice: &Choice, device: &Device, used: &[&Amounts]) -> bool {
    let known = |name: &str| device.capacity.iter().any(|(n, _)| **n == *name);
    if !choice.capacity.keys().all(|name| known(name)) {
        return false;
    }
    device.capacity.iter().all(|(name, of)| {
        let own = taken(choice.capacity.get(name).copied(), of);
        let others: i128 = used.iter().filter_map(|u| u.get(name)).sum();
        allowed(own, of) && own + others <= of.value
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case(None, None, &[], None, 100; "everything where nothing is said")]
    #[test_case(None, Some(5), &[], None, 5; "the default")]
    #[test_case(Some(7), Some(5), &[], None, 7; "as asked")]
    #[test_case(Some(7), Some(5), &[5, 10, 20], None, 10; "the next that may be asked for")]
    #[test_case(Some(30), Some(5), &[5, 10, 20], None, 30; "more than any stays, and is refused")]
    #[test_case(Some(1), Some(5), &[], Some((4, None, None)), 4; "at least")]
    #[test_case(Some(9), Some(5), &[], Some((4, None, Some(4))), 12; "in steps from the least")]
    fn amounts_are_raised(
        asked: Option<i128>,
        default: Option<i128>,
        valid: &[i128],
        range: Option<(i128, Option<i128>, Option<i128>)>,
        want: i128,
    ) {
        let of = Capacity { value: 100, default, valid: valid.to_vec(), range };
        assert_eq!(taken(asked, &of), want);
        assert_eq!(allowed(want, &of), valid.is_empty() || valid.contains(&want));
    }

    #[test]
    fn more_than_the_most_is_refused() {
        let of = Capacity { value: 100, default: None, valid: Vec::new(), range: Some((4, Some(8), None)) };
        assert!(allowed(8, &of) && !allowed(9, &of));
    }
}
