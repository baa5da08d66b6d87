//! Macros: calls that are read as loops and bindings.

use super::{Expr, Kind, Parsed, Parser, Problem, call};
use crate::api::cel::ast::Fold;

impl Parser {
    /// A call with a receiver, or a macro.
    pub(super) fn method(&self, target: Expr, name: String, mut args: Vec<Expr>, at: usize) -> Parsed<Expr> {
        let is_cel = matches!(&target.kind, Kind::Ident { name, .. } if name == "cel");
        if is_cel && name == "bind" && args.len() == 3 {
            let body = Box::new(args.remove(2));
            let value = Box::new(args.remove(1));
            return Ok(Kind::Bind { name: variable(&args[0])?, value, body }.at(at));
        }
        if matches!(&*name, "optMap" | "optFlatMap") && args.len() == 2 {
            let body = Box::new(args.remove(1));
            let flat = name == "optFlatMap";
            return Ok(Kind::OptMap { operand: Box::new(target), name: variable(&args[0])?, body, flat }.at(at));
        }
        let Some((fold, vars, filtered)) = macro_shape(&name, args.len()) else {
            args.insert(0, target);
            return Ok(call(&name, args, true, at));
        };
        let vars: Vec<String> = args.drain(..vars).map(|a| variable(&a)).collect::<Parsed<_>>()?;
        if vars.len() == 2 && vars[0] == vars[1] {
            return Err(Problem { at, why: "duplicate variable name".into() });
        }
        let filter = filtered.then(|| Box::new(args.remove(0)));
        let step = Box::new(args.remove(0));
        Ok(Kind::Fold { fold, range: Box::new(target), vars, filter, step }.at(at))
    }
}

/// What a macro makes, how many variables it names, and whether a condition stands before its last argument.
fn macro_shape(name: &str, args: usize) -> Option<(Fold, usize, bool)> {
    Some(match (name, args) {
        ("all", 2) => (Fold::All, 1, false),
        ("all", 3) => (Fold::All, 2, false),
        ("exists", 2) => (Fold::Exists, 1, false),
        ("exists", 3) => (Fold::Exists, 2, false),
        ("exists_one" | "existsOne", 2) => (Fold::ExistsOne, 1, false),
        ("exists_one" | "existsOne", 3) => (Fold::ExistsOne, 2, false),
        ("map", 2) => (Fold::Map, 1, false),
        ("map", 3) => (Fold::Map, 1, true),
        ("filter", 2) => (Fold::Filter, 1, false),
        ("transformList", 3) => (Fold::Map, 2, false),
        ("transformList", 4) => (Fold::Map, 2, true),
        ("transformMap", 3) => (Fold::TransformMap, 2, false),
        ("transformMap", 4) => (Fold::TransformMap, 2, true),
        ("transformMapEntry", 3) => (Fold::TransformMapEntry, 2, false),
        ("transformMapEntry", 4) => (Fold::TransformMapEntry, 2, true),
        ("sortBy", 2) => (Fold::SortBy, 1, false),
        _ => return None,
    })
}

fn variable(e: &Expr) -> Parsed<String> {
    match &e.kind {
        Kind::Ident { name, .. } => Ok(name.clone()),
        _ => Err(Problem { at: e.at as usize, why: "argument must be a simple name".into() }),
    }
}
