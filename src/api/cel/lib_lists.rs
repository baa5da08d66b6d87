//! Lists and sets.
//!
//! Rules: upstream `apiserver/pkg/cel/library/lists.go`, cel-go `ext.Sets` and `ext.Lists`.

use std::cmp::Ordering;

use super::funcs::{Error, Res, Row, fail, no_overload};
use super::value::{self, List, Val};

/// FUNCTIONS of this library.
pub const ROWS: &[Row] = &[
    Row { name: "isSorted", decls: &["list(A).() bool"], run: is_sorted },
    Row {
        name: "sum",
        decls: &["list(int).() int", "list(uint).() uint", "list(double).() double", "list(duration).() duration"],
        run: sum,
    },
    Row { name: "min", decls: &["list(A).() A"], run: |a| extreme(a, "min", Ordering::Less) },
    Row { name: "max", decls: &["list(A).() A"], run: |a| extreme(a, "max", Ordering::Greater) },
    Row { name: "slice", decls: &["list(A).(int,int) list(A)"], run: slice },
    Row { name: "flatten", decls: &["list(list(A)).() list(A)", "list(dyn).(int) list(dyn)"], run: flatten },
    Row { name: "sort", decls: &["list(A).() list(A)"], run: sort },
    Row { name: "distinct", decls: &["list(A).() list(A)"], run: distinct },
    Row { name: "reverse", decls: &["list(A).() list(A)"], run: reverse },
    Row { name: "first", decls: &["list(A).() opt(A)"], run: |a| end(a, <[Val]>::first) },
    Row { name: "last", decls: &["list(A).() opt(A)"], run: |a| end(a, <[Val]>::last) },
    Row { name: "lists.range", decls: &["(int) list(int)"], run: range },
    Row { name: "sets.contains", decls: &["(list(A),list(A)) bool"], run: sets_contain },
    Row { name: "sets.equivalent", decls: &["(list(A),list(A)) bool"], run: sets_equivalent },
    Row { name: "sets.intersects", decls: &["(list(A),list(A)) bool"], run: sets_intersect },
];

/// Most numbers that `lists.range` makes.
const RANGE_MAX: i64 = 1_000_000;
/// How deep `flatten` goes.
const FLATTEN_MAX: i64 = 64;

/// An element's place as a value; -1 for none.
pub fn place(at: Option<usize>) -> Val {
    Val::Int(at.map_or(-1, |i| i as i64))
}

fn list(a: &[Val]) -> Result<&List, Error> {
    match a {
        [Val::List(l)] => Ok(l),
        _ => fail("no such overload"),
    }
}

fn order(a: &Val, b: &Val) -> Result<Ordering, Error> {
    value::compare(a, b).map_or_else(|| fail("no such overload"), Ok)
}

fn is_sorted(a: &[Val]) -> Res {
    for pair in list(a)?.items.windows(2) {
        if order(&pair[0], &pair[1])?.is_gt() {
            return Ok(Val::Bool(false));
        }
    }
    Ok(Val::Bool(true))
}

fn sum(a: &[Val]) -> Res {
    let items = &list(a)?.items;
    let add = super::funcs::find("_+_").map(|f| f.overloads[0].1);
    let (Some(add), Some(first)) = (add, items.first()) else { return Ok(Val::Int(0)) };
    if !matches!(first, Val::Int(_) | Val::Uint(_) | Val::Double(_) | Val::Duration(_)) {
        return no_overload();
    }
    items[1..].iter().try_fold(first.clone(), |sum, v| add(&[sum, v.clone()]))
}

fn extreme(a: &[Val], name: &str, wanted: Ordering) -> Res {
    let items = &list(a)?.items;
    let Some(mut best) = items.first() else { return fail(format!("{name} called on empty list")) };
    for v in &items[1..] {
        if order(v, best)? == wanted {
            best = v;
        }
    }
    Ok(best.clone())
}

fn slice(a: &[Val]) -> Res {
    let [Val::List(l), Val::Int(from), Val::Int(to)] = a else { return no_overload() };
    if *from < 0 || *to < 0 {
        return fail(format!("cannot slice({from}, {to}), negative indexes not supported"));
    }
    if from > to {
        return fail(format!("cannot slice({from}, {to}), start index must be less than or equal to end index"));
    }
    match l.items.get(*from as usize..*to as usize) {
        Some(part) => Ok(Val::list(part.to_vec())),
        None => fail(format!("cannot slice({from}, {to}), list is length {}", l.items.len())),
    }
}

fn flatten(a: &[Val]) -> Res {
    let (l, depth) = match a {
        [Val::List(l)] => (l, 1),
        [Val::List(_), Val::Int(n)] if *n < 0 => return fail("level must be non-negative"),
        [Val::List(l), Val::Int(n)] => (l, (*n).min(FLATTEN_MAX)),
        _ => return no_overload(),
    };
    let mut out = Vec::new();
    flatten_into(&mut out, l, depth);
    Ok(Val::list(out))
}

fn flatten_into(out: &mut Vec<Val>, l: &List, depth: i64) {
    for v in &l.items {
        match v {
            Val::List(inner) if depth > 0 => flatten_into(out, inner, depth - 1),
            v => out.push(v.clone()),
        }
    }
}

fn sort(a: &[Val]) -> Res {
    let items = list(a)?.items.iter().map(|v| (v.clone(), v.clone())).collect();
    sorted(items)
}

/// Values in the order of their keys.
pub fn sorted(mut items: Vec<(Val, Val)>) -> Res {
    if let Some((first, _)) = items.first()
        && let Some((other, _)) = items.iter().find(|(k, _)| k.type_name() != first.type_name())
    {
        return fail(format!(
            "list elements must have the same type, found {} and {}",
            first.type_name(),
            other.type_name()
        ));
    }
    if items.iter().any(|(k, _)| value::compare(k, k).is_none()) {
        return fail("list elements must be comparable");
    }
    items.sort_by(|(a, _), (b, _)| value::compare(a, b).unwrap_or(Ordering::Equal));
    Ok(Val::list(items.into_iter().map(|(_, v)| v).collect()))
}

fn distinct(a: &[Val]) -> Res {
    let mut out: Vec<Val> = Vec::new();
    for v in &list(a)?.items {
        if !out.iter().any(|w| value::equal(v, w)) {
            out.push(v.clone());
        }
    }
    Ok(Val::list(out))
}

fn reverse(a: &[Val]) -> Res {
    Ok(Val::list(list(a)?.items.iter().rev().cloned().collect()))
}

fn end(a: &[Val], get: fn(&[Val]) -> Option<&Val>) -> Res {
    Ok(get(&list(a)?.items).map_or(Val::Optional(None), |v| Val::some(v.clone())))
}

fn range(a: &[Val]) -> Res {
    match a {
        [Val::Int(n)] if *n > RANGE_MAX => fail(format!("lists.range() of more than {RANGE_MAX}")),
        [Val::Int(n)] => Ok(Val::list((0..*n).map(Val::Int).collect())),
        _ => no_overload(),
    }
}

fn two(a: &[Val]) -> Result<(&List, &List), Error> {
    match a {
        [Val::List(a), Val::List(b)] => Ok((a, b)),
        _ => fail("no such overload"),
    }
}

fn has_all(a: &List, b: &List) -> bool {
    b.items.iter().all(|v| a.items.iter().any(|w| value::equal(v, w)))
}

fn sets_contain(a: &[Val]) -> Res {
    let (a, b) = two(a)?;
    Ok(Val::Bool(has_all(a, b)))
}

fn sets_equivalent(a: &[Val]) -> Res {
    let (a, b) = two(a)?;
    Ok(Val::Bool(has_all(a, b) && has_all(b, a)))
}

fn sets_intersect(a: &[Val]) -> Res {
    let (a, b) = two(a)?;
    Ok(Val::Bool(b.items.iter().any(|v| a.items.iter().any(|w| value::equal(v, w)))))
}
