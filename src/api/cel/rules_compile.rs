//! Rules of one node of a schema, compiled.

use serde_json::Value as Json;

use super::{Env, Program, Type, schema};

/// A rule of a schema.
#[derive(Debug)]
pub struct Rule {
    /// As it was written, without blanks around it.
    pub text: String,
    pub(super) program: Program,
    pub(super) message: String,
    pub(super) message_program: Option<Program>,
    pub(super) reason: Why,
    /// Where its error stands, below the node.
    pub(super) path: String,
    /// The most that one evaluation costs.
    pub cost: u64,
    /// The same of its message.
    pub message_cost: u64,
    /// It compares with the value that was.
    pub transition: bool,
    /// It takes an optional for the value that was, and holds for new objects too.
    pub(super) optional_old: bool,
}

/// Why a value is refused: the reasons that a rule may give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// `FieldValueInvalid`.
    Invalid,
    /// `FieldValueForbidden`.
    Forbidden,
    /// `FieldValueRequired`.
    Required,
    /// `FieldValueDuplicate`.
    Duplicate,
}

/// What is wrong with a rule: the member, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect {
    /// `rule` or `messageExpression`.
    pub member: &'static str,
    /// Why.
    pub why: String,
}

/// What the rules of a node may name; none when the schema says too little for rules.
fn env(node: &Json, root: bool, optional_old: bool) -> Option<Env> {
    let type_ = schema::type_of(node, "selfType", root)?;
    let old = if optional_old { Type::Optional(Box::new(type_.clone())) } else { type_.clone() };
    Some(Env::new().with("self", type_).with("oldSelf", old))
}

fn member<'a>(rule: &'a Json, name: &str) -> &'a str {
    rule.get(name).and_then(Json::as_str).unwrap_or_default().trim()
}

/// Compiles a rule of a node. `root` for the object itself and for embedded resources. None for a rule that says nothing
/// or stands where nothing is known.
pub fn compile(rule: &Json, node: &Json, root: bool) -> Option<Result<Rule, Vec<Defect>>> {
    let text = member(rule, "rule");
    if text.is_empty() {
        return None;
    }
    let optional_old = rule.get("optionalOldSelf").and_then(Json::as_bool).unwrap_or(false);
    let env = env(node, root, optional_old)?;
    let mut defects = Vec::new();
    let program = Program::compile(&env, text).map_err(|e| format!("compilation failed: {e}"));
    let program = program.and_then(|p| match p.result {
        Type::Bool | Type::Dyn => Ok(p),
        _ => Err("cel expression must evaluate to a bool".to_owned()),
    });
    let expression = member(rule, "messageExpression");
    let message_program = (!expression.is_empty()).then(|| {
        let made =
            Program::compile(&env, expression).map_err(|e| format!("messageExpression compilation failed: {e}"))?;
        match made.result {
            Type::String | Type::Dyn => Ok(made),
            _ => Err("messageExpression must evaluate to a string".to_owned()),
        }
    });
    let message_program =
        message_program.transpose().map_err(|why| defects.push(Defect { member: "messageExpression", why }));
    let program = program.map_err(|why| defects.insert(0, Defect { member: "rule", why }));
    let (Ok(program), Ok(message_program)) = (program, message_program) else { return Some(Err(defects)) };
    let transition = program.names("oldSelf");
    Some(Ok(Rule {
        text: text.to_owned(),
        cost: program.cost(node),
        message_cost: message_program.as_ref().map_or(0, |p| p.cost(node)),
        transition,
        optional_old,
        program,
        message: member(rule, "message").to_owned(),
        message_program,
        reason: match member(rule, "reason") {
            "FieldValueForbidden" => Why::Forbidden,
            "FieldValueRequired" => Why::Required,
            "FieldValueDuplicate" => Why::Duplicate,
            _ => Why::Invalid,
        },
        path: member(rule, "fieldPath").to_owned(),
    }))
}
