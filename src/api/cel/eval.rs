//! The evaluator.
//!
//! **Invariant:** every step is paid for before it is done; a tree has bounded depth, so the evaluator recurses.

use std::sync::Arc;

use indexmap::IndexMap;

use super::ast::{Entry, Expr, Fold, Kind};
use super::cost::{self, Budget};
use super::funcs::{Error, Res, fail, no_overload};
use super::value::{Key, Map, Val};
use super::{Vars, convert, lib_lists, lib_std};

/// Most values that one value may hold.
const WEIGHT_MAX: u64 = 10_000_000;
/// Making a list, a map, an object.
const LIST: u64 = 10;
const MAP: u64 = 30;
const STRUCT: u64 = 40;

/// Evaluates a tree.
pub fn eval(expr: &Expr, vars: &dyn Vars, budget: &mut Budget) -> Res {
    Eval { vars, locals: Vec::new(), budget }.expr(expr)
}

struct Eval<'a> {
    vars: &'a dyn Vars,
    locals: Vec<(&'a str, Val)>,
    budget: &'a mut Budget,
}

fn bounded(v: Val) -> Res {
    if v.weight() > WEIGHT_MAX { Err(Error::Budget) } else { Ok(v) }
}

/// A member that does not fit its schema is an error as soon as it is looked at.
fn good(v: &Val) -> Res {
    match v {
        Val::Bad(why) => fail(&**why),
        v => Ok(v.clone()),
    }
}

impl<'a> Eval<'a> {
    fn expr(&mut self, e: &'a Expr) -> Res {
        match &e.kind {
            Kind::Const(v) => Ok(v.clone()),
            Kind::Ident { name, local } => self.ident(name, *local),
            Kind::Select { operand, field, test, optional } => {
                let of = self.expr(operand)?;
                if *test {
                    return has(&of, field);
                }
                self.budget.spend(1)?;
                select(&of, field, *optional)
            }
            Kind::Index { operand, index, optional } => {
                let (of, by) = (self.expr(operand)?, self.expr(index)?);
                self.budget.spend(1)?;
                indexed(&of, &by, *optional)
            }
            Kind::Call { name, args, fun, .. } => {
                let args = args.iter().map(|a| self.expr(a)).collect::<Result<Vec<_>, _>>()?;
                self.budget.spend(cost::call(name, &args))?;
                match fun {
                    Some(run) => bounded(run(&args)?),
                    None => no_overload(),
                }
            }
            Kind::And(parts) => self.logic(parts, false),
            Kind::Or(parts) => self.logic(parts, true),
            Kind::Cond(parts) => match self.expr(&parts[0])? {
                Val::Bool(true) => self.expr(&parts[1]),
                Val::Bool(false) => self.expr(&parts[2]),
                _ => no_overload(),
            },
            Kind::List(items) => self.list(items),
            Kind::Map(entries) => self.map(entries),
            Kind::Struct { name, fields } => self.object(name, fields),
            Kind::Fold { fold, range, vars, filter, step } => {
                let over = self.expr(range)?;
                self.fold(*fold, &over, vars, filter.as_deref(), step)
            }
            Kind::Bind { name, value, body } => {
                let v = self.expr(value)?;
                self.budget.spend(LIST + 1)?;
                self.within(name, v, body)
            }
            Kind::OptMap { operand, name, body, flat } => match self.expr(operand)? {
                Val::Optional(None) => Ok(Val::Optional(None)),
                Val::Optional(Some(v)) => {
                    let made = self.within(name, Val::clone(&v), body)?;
                    if *flat { Ok(made) } else { Ok(Val::some(made)) }
                }
                _ => no_overload(),
            },
        }
    }

    fn within(&mut self, name: &'a str, v: Val, body: &'a Expr) -> Res {
        self.locals.push((name, v));
        let made = self.expr(body);
        self.locals.pop();
        made
    }

    fn ident(&mut self, name: &str, local: bool) -> Res {
        self.budget.spend(1)?;
        if local {
            let found = self.locals.iter().rev().find(|(n, _)| *n == name);
            return found.map_or_else(|| fail(format!("no such attribute: {name}")), |(_, v)| good(v));
        }
        match self.vars.get(name, self.budget) {
            Some(v) => good(&v?),
            None => fail(format!("no such attribute: {name}")),
        }
    }

    /// One part that decides is enough, even after an error.
    fn logic(&mut self, parts: &'a [Expr], decides: bool) -> Res {
        let mut error = None;
        for part in parts {
            match self.expr(part) {
                Ok(Val::Bool(b)) if b == decides => return Ok(Val::Bool(decides)),
                Ok(Val::Bool(_)) => {}
                Ok(_) => error = error.or(Some(Error::Failed("no such overload".into()))),
                Err(Error::Budget) => return Err(Error::Budget),
                Err(why) => error = error.or(Some(why)),
            }
        }
        error.map_or(Ok(Val::Bool(!decides)), Err)
    }

    /// The value of an entry; none when it is left out.
    fn entry(&mut self, value: &'a Expr, optional: bool) -> Result<Option<Val>, Error> {
        match self.expr(value)? {
            Val::Optional(v) if optional => Ok(v.map(|v| Val::clone(&v))),
            _ if optional => fail("no such overload"),
            v => Ok(Some(v)),
        }
    }

    fn list(&mut self, items: &'a [Entry<()>]) -> Res {
        self.budget.spend(LIST)?;
        let mut out = Vec::with_capacity(items.len());
        for item in items {
            out.extend(self.entry(&item.value, item.optional)?);
        }
        bounded(Val::list(out))
    }

    fn map(&mut self, entries: &'a [Entry<Expr>]) -> Res {
        self.budget.spend(MAP)?;
        let mut out = IndexMap::with_capacity(entries.len());
        for entry in entries {
            let key = self.expr(&entry.key)?;
            let Some(value) = self.entry(&entry.value, entry.optional)? else { continue };
            insert(&mut out, &key, value)?;
        }
        bounded(Val::Map(Arc::new(Map::new(out, None))))
    }

    fn object(&mut self, name: &str, fields: &'a [Entry<String>]) -> Res {
        self.budget.spend(STRUCT)?;
        let mut out = IndexMap::with_capacity(fields.len());
        for field in fields {
            if let Some(value) = self.entry(&field.value, field.optional)? {
                out.insert(Key::Str(field.key.as_str().into()), value);
            }
        }
        bounded(Val::Map(Arc::new(Map::new(out, Some(name.into())))))
    }

    fn fold(&mut self, fold: Fold, over: &Val, vars: &'a [String], filter: Option<&'a Expr>, step: &'a Expr) -> Res {
        let pairs: Box<dyn Iterator<Item = (Val, Val)>> = match over {
            Val::List(l) => {
                let l = l.clone();
                Box::new((0..l.items.len()).map(move |i| (Val::Int(i as i64), l.items[i].clone())))
            }
            Val::Map(m) => {
                let m = m.clone();
                let pair = move |i| m.entries.get_index(i).map(|(k, v): (&Key, &Val)| (k.value(), v.clone()));
                Box::new((0..over.size() as usize).filter_map(pair))
            }
            _ => return no_overload(),
        };
        let is_map = matches!(over, Val::Map(_));
        let mut made = Made::new(fold);
        for (key, element) in pairs {
            // What upstream spends on the loop's condition and on its accumulator.
            self.budget.spend(3)?;
            let before = self.locals.len();
            let one = if is_map { key.clone() } else { element.clone() };
            match vars {
                [k, v] => self.locals.extend([(k.as_str(), key.clone()), (v.as_str(), element)]),
                [v] => self.locals.push((v.as_str(), one.clone())),
                _ => {}
            }
            let wanted = filter.map_or(Ok(Val::Bool(true)), |f| self.expr(f));
            let stepped = match wanted {
                Ok(Val::Bool(true)) => Some(self.expr(step)),
                Ok(Val::Bool(false)) => None,
                Ok(_) => Some(no_overload()),
                Err(why) => Some(Err(why)),
            };
            self.locals.truncate(before);
            if let Some(result) = stepped
                && made.take(key, one, result)?
            {
                break;
            }
        }
        bounded(made.end()?)
    }
}

/// What a comprehension has made so far.
struct Made {
    fold: Fold,
    list: Vec<Val>,
    keyed: Vec<(Val, Val)>,
    map: IndexMap<Key, Val>,
    count: u64,
    error: Option<Error>,
    weight: u64,
}

impl Made {
    fn new(fold: Fold) -> Self {
        Self { fold, list: Vec::new(), keyed: Vec::new(), map: IndexMap::new(), count: 0, error: None, weight: 0 }
    }

    /// Takes the result of one step; true when no further one matters.
    fn take(&mut self, key: Val, one: Val, result: Res) -> Result<bool, Error> {
        let decides = match self.fold {
            Fold::All => Some(false),
            Fold::Exists => Some(true),
            _ => None,
        };
        if let Some(decides) = decides {
            match result {
                Ok(Val::Bool(b)) if b == decides => {
                    self.count = 1;
                    return Ok(true);
                }
                Ok(Val::Bool(_)) => {}
                Ok(_) => self.fail(Error::Failed("no such overload".into())),
                Err(Error::Budget) => return Err(Error::Budget),
                // A later element may decide all the same.
                Err(why) => self.fail(why),
            }
            return Ok(false);
        }
        let made = result?;
        self.weight = self.weight.saturating_add(made.weight());
        if self.weight > WEIGHT_MAX {
            return Err(Error::Budget);
        }
        match (self.fold, made) {
            (Fold::ExistsOne, Val::Bool(b)) => self.count += u64::from(b),
            (Fold::Filter, Val::Bool(b)) => self.list.extend(b.then_some(one)),
            (Fold::ExistsOne | Fold::Filter, _) => return fail("no such overload"),
            (Fold::Map, v) => self.list.push(v),
            (Fold::TransformMap, v) => insert(&mut self.map, &key, v)?,
            (Fold::TransformMapEntry, Val::Map(m)) => {
                for (k, v) in &m.entries {
                    insert(&mut self.map, &k.value(), v.clone())?;
                }
            }
            (Fold::SortBy, v) => self.keyed.push((v, one)),
            _ => return fail("no such overload"),
        }
        Ok(false)
    }

    fn fail(&mut self, why: Error) {
        self.error.get_or_insert(why);
    }

    fn end(self) -> Res {
        match self.fold {
            Fold::All | Fold::Exists => {
                let decided = self.count == 1;
                match self.error {
                    Some(why) if !decided => Err(why),
                    _ => Ok(Val::Bool((self.fold == Fold::Exists) == decided)),
                }
            }
            Fold::ExistsOne => Ok(Val::Bool(self.count == 1)),
            Fold::Map | Fold::Filter => Ok(Val::list(self.list)),
            Fold::TransformMap | Fold::TransformMapEntry => Ok(Val::Map(Arc::new(Map::new(self.map, None)))),
            Fold::SortBy => lib_lists::sorted(self.keyed),
        }
    }
}

fn insert(out: &mut IndexMap<Key, Val>, key: &Val, value: Val) -> Result<(), Error> {
    let Some(k) = Key::of(key).filter(|_| !matches!(key, Val::Double(_))) else {
        return fail(format!("unsupported key type: {}", key.type_name()));
    };
    if out.insert(k, value).is_some() {
        return fail(format!("insert failed: key {} already exists", convert::text(key)?));
    }
    Ok(())
}

fn has(of: &Val, field: &str) -> Res {
    match of {
        Val::Map(m) => Ok(Val::Bool(m.field(field).is_some())),
        Val::Optional(None) => Ok(Val::Bool(false)),
        Val::Optional(Some(v)) => has(v, field),
        _ => no_overload(),
    }
}

fn select(of: &Val, field: &str, optional: bool) -> Res {
    match of {
        Val::Map(m) => match m.field(field) {
            Some(v) if optional => Ok(Val::some(good(v)?)),
            Some(v) => good(v),
            None if optional => Ok(Val::Optional(None)),
            None => fail(format!("no such key: {field}")),
        },
        Val::Optional(None) => Ok(Val::Optional(None)),
        Val::Optional(Some(v)) => select(v, field, true),
        _ => no_overload(),
    }
}

fn indexed(of: &Val, by: &Val, optional: bool) -> Res {
    let v = match of {
        Val::Optional(None) => return Ok(Val::Optional(None)),
        Val::Optional(Some(v)) => return indexed(v, by, true),
        v => v,
    };
    match lib_std::index(v, by) {
        Ok(found) if optional => Ok(Val::some(found)),
        Err(Error::Failed(why)) if optional && (why.starts_with("no such key") || why.starts_with("index out")) => {
            Ok(Val::Optional(None))
        }
        other => other,
    }
}
