//! Expressions at their places in objects: why they cannot be compiled, told as errors of fields.

use super::Field;
use crate::api::cel::{Env, Program, Type};

pub use crate::api::cel::is_identifier;

/// Tells at an expression's place why it cannot be compiled, or that its value is of none of the types wanted. No type
/// means any.
pub fn check(expression: &Field<'_>, env: &Env, wanted: &[Type]) {
    match Program::compile(env, expression.as_text()) {
        Err(why) => expression.invalid(format!("compilation failed: {why}")),
        Ok(program) if wanted.is_empty() || fits(&program.result, wanted) => {}
        Ok(program) => expression.invalid(format!("must evaluate to {} but got {}", wanted[0], program.result)),
    }
}

/// True for one of the types, or one that only values will tell.
fn fits(result: &Type, wanted: &[Type]) -> bool {
    let same = |w: &Type| match (w, result) {
        // Of lists and objects the members are looked at when the value is there.
        (Type::List(_), Type::List(_)) => true,
        (Type::Object(w), Type::Object(r)) => w.name == r.name,
        (w, r) => w == r,
    };
    *result == Type::Dyn || wanted.iter().any(same)
}
