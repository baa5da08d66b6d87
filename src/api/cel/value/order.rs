//! How values compare: across the types of numbers, and lists by the kind that their schema gives them.

use std::cmp::Ordering;
use std::sync::Arc;

use super::{List, ListKind, Map, Val};

/// Numbers of any types.
fn numbers(a: &Val, b: &Val) -> Option<Option<Ordering>> {
    use Val::{Double, Int, Uint};
    Some(match (a, b) {
        (Int(a), Int(b)) => Some(a.cmp(b)),
        (Uint(a), Uint(b)) => Some(a.cmp(b)),
        (Double(a), Double(b)) => a.partial_cmp(b),
        (Int(a), Uint(b)) => Some(u64::try_from(*a).map_or(Ordering::Less, |a| a.cmp(b))),
        (Uint(a), Int(b)) => Some(u64::try_from(*b).map_or(Ordering::Greater, |b| a.cmp(&b))),
        (Int(a), Double(b)) => whole_with_double(i128::from(*a), *b),
        (Double(a), Int(b)) => whole_with_double(i128::from(*b), *a).map(Ordering::reverse),
        (Uint(a), Double(b)) => whole_with_double(i128::from(*a), *b),
        (Double(a), Uint(b)) => whole_with_double(i128::from(*b), *a).map(Ordering::reverse),
        _ => return None,
    })
}

/// Exact, where both as floating-point numbers would not be.
fn whole_with_double(a: i128, b: f64) -> Option<Ordering> {
    if b.is_nan() {
        return None;
    }
    // Saturates: every double beyond an i128 is beyond `a` too.
    let floor = b.floor();
    let whole = floor as i128;
    Some(a.cmp(&whole).then(if b > floor { Ordering::Less } else { Ordering::Equal }))
}

/// Which of two values of one ordered type comes first; none where there is no order.
pub fn compare(a: &Val, b: &Val) -> Option<Ordering> {
    if let Some(order) = numbers(a, b) {
        return order;
    }
    match (a, b) {
        (Val::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
        (Val::Str(a), Val::Str(b)) => Some(a.cmp(b)),
        (Val::Bytes(a), Val::Bytes(b)) => Some(a.cmp(b)),
        (Val::Time(a), Val::Time(b)) => Some(a.cmp(b)),
        (Val::Duration(a), Val::Duration(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

/// True for equal values. Values of different types are not, but for numbers.
pub fn equal(a: &Val, b: &Val) -> bool {
    if let Some(order) = numbers(a, b) {
        return order == Some(Ordering::Equal);
    }
    match (a, b) {
        (Val::Null, Val::Null) => true,
        (Val::List(a), Val::List(b)) => lists_equal(a, b),
        (Val::Map(a), Val::Map(b)) => maps_equal(a, b),
        (Val::Type(a), Val::Type(b)) => a == b,
        (Val::Optional(a), Val::Optional(b)) => match (a, b) {
            (Some(a), Some(b)) => equal(a, b),
            (None, None) => true,
            _ => false,
        },
        (Val::Quantity(a), Val::Quantity(b)) => a.nanos() == b.nanos(),
        (Val::Url(a), Val::Url(b)) => a == b,
        (Val::Ip(a), Val::Ip(b)) => a == b,
        (Val::Cidr(a), Val::Cidr(b)) => a == b,
        (Val::Semver(a), Val::Semver(b)) => a.order(b) == Ordering::Equal,
        (Val::Format(a), Val::Format(b)) => a.name == b.name,
        (Val::Authz(a), Val::Authz(b)) => Arc::ptr_eq(a, b),
        _ => compare(a, b) == Some(Ordering::Equal),
    }
}

fn maps_equal(a: &Map, b: &Map) -> bool {
    a.entries.len() == b.entries.len() && a.entries.iter().all(|(k, v)| b.entries.get(k).is_some_and(|w| equal(v, w)))
}

fn lists_equal(a: &List, b: &List) -> bool {
    if a.items.len() != b.items.len() {
        return false;
    }
    match (&a.kind, &b.kind) {
        (ListKind::Set, _) | (_, ListKind::Set) => a.items.iter().all(|v| b.items.iter().any(|w| equal(v, w))),
        (ListKind::Map(keys), _) | (_, ListKind::Map(keys)) => {
            a.items.iter().all(|v| b.items.iter().any(|w| same_keys(v, w, keys) && equal(v, w)))
        }
        _ => a.items.iter().zip(&b.items).all(|(v, w)| equal(v, w)),
    }
}

/// True for elements that are one in a list with keys.
pub(super) fn same_keys(a: &Val, b: &Val, keys: &[String]) -> bool {
    let (Val::Map(a), Val::Map(b)) = (a, b) else { return false };
    keys.iter().all(|k| match (a.field(k), b.field(k)) {
        (Some(x), Some(y)) => equal(x, y),
        (None, None) => true,
        _ => false,
    })
}
