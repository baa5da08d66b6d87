//! Collecting what is wrong with an object, with upstream's field paths and reasons.
//!
//! Rules: upstream `apimachinery/pkg/util/validation/field`.
//!
//! **Invariant:** errors collect; nobody stops at the first one.

use std::cell::RefCell;
use std::fmt::{self, Write};
use std::rc::Rc;

use serde_json::Value;

use crate::api::status::Cause;

/// The errors of one object.
#[derive(Debug, Default, Clone)]
pub struct FieldErrors {
    causes: Rc<RefCell<Vec<Cause>>>,
    path: String,
}

impl FieldErrors {
    /// An empty collection at the object's root.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same collection at a field below.
    pub fn at(&self, field: &str) -> Self {
        match self.path.is_empty() {
            true => self.below(&[field]),
            false => self.below(&[".", field]),
        }
    }

    /// The same collection for the object as a whole, as upstream writes that path, unlike the root's.
    pub fn whole(&self) -> Self {
        Self { causes: self.causes.clone(), path: "[]".to_owned() }
    }

    /// The same collection at an element of a list.
    pub fn index(&self, i: usize) -> Self {
        let mut digits = [0; 20];
        self.below(&["[", decimal(i, &mut digits), "]"])
    }

    /// The same collection at a key of a map.
    pub fn key(&self, key: &str) -> Self {
        self.below(&["[", key, "]"])
    }

    /// Validators walk every object and mostly find nothing: a path costs one allocation and no formatting.
    fn below(&self, parts: &[&str]) -> Self {
        let mut path = String::with_capacity(self.path.len() + parts.iter().map(|p| p.len()).sum::<usize>());
        path.push_str(&self.path);
        parts.iter().for_each(|p| path.push_str(p));
        Self { causes: self.causes.clone(), path }
    }

    /// The path, as `spec.ports[2].port`.
    pub fn path(&self) -> &str {
        &self.path
    }

    fn push(&self, reason: &'static str, message: String) {
        // Upstream's root path has no name; it prints as <nil>.
        let field = if self.path.is_empty() { "<nil>".to_owned() } else { self.path.clone() };
        self.causes.borrow_mut().push(Cause { reason, message, field });
    }

    /// `Required value`.
    pub fn required(&self, detail: impl fmt::Display) {
        self.push("FieldValueRequired", with_detail("Required value".into(), detail));
    }

    /// `Invalid value: …`.
    pub fn invalid(&self, value: impl Into<Value>, detail: impl fmt::Display) {
        self.push("FieldValueInvalid", with_detail(format!("Invalid value: {}", show(&value.into())), detail));
    }

    /// `Invalid value: …` where the value says nothing, or too much.
    pub fn refused(&self, detail: impl fmt::Display) {
        self.push("FieldValueInvalid", with_detail("Invalid value".into(), detail));
    }

    /// `Forbidden: …`.
    pub fn forbidden(&self, detail: impl fmt::Display) {
        self.push("FieldValueForbidden", with_detail("Forbidden".into(), detail));
    }

    /// `Duplicate value: …`.
    pub fn duplicate(&self, value: impl Into<Value>) {
        self.push("FieldValueDuplicate", format!("Duplicate value: {}", show(&value.into())));
    }

    /// `Not found: …`.
    pub fn not_found(&self, value: impl Into<Value>) {
        self.push("FieldValueNotFound", format!("Not found: {}", show(&value.into())));
    }

    /// `Unsupported value: …: supported values: …`.
    pub fn not_supported(&self, value: impl Into<Value>, allowed: &[&str]) {
        let mut message = format!("Unsupported value: {}", show(&value.into()));
        if !allowed.is_empty() {
            let mut sorted = allowed.to_vec();
            sorted.sort_unstable();
            let quoted: Vec<String> = sorted.iter().map(|a| format!("\"{a}\"")).collect();
            let _ = write!(message, ": supported values: {}", quoted.join(", "));
        }
        self.push("FieldValueNotSupported", message);
    }

    /// `Invalid value: …` of the wrong type.
    pub fn type_invalid(&self, value: impl Into<Value>, detail: impl fmt::Display) {
        self.push("FieldValueTypeInvalid", with_detail(format!("Invalid value: {}", show(&value.into())), detail));
    }

    /// `Too long: …`.
    pub fn too_long(&self, max: usize) {
        self.push("FieldValueTooLong", format!("Too long: may not be more than {max} bytes"));
    }

    /// `Too many: …`.
    pub fn too_many(&self, actual: usize, max: usize) {
        self.push("FieldValueTooMany", format!("Too many: {actual}: must have at most {max} items"));
    }

    /// `Internal error: …`.
    pub fn internal(&self, detail: impl fmt::Display) {
        self.push("InternalError", format!("Internal error: {detail}"));
    }

    /// One `Invalid value` per reason.
    pub fn all_invalid(&self, value: &str, reasons: Vec<String>) {
        for reason in reasons {
            self.invalid(value, reason);
        }
    }

    /// The same collection at the object's root.
    pub fn root_of(other: &Self) -> Self {
        Self { causes: other.causes.clone(), path: String::new() }
    }

    /// Another collection at the same place: for tries whose outcome decides what is told.
    pub fn apart(&self) -> Self {
        Self { causes: Rc::default(), path: self.path.clone() }
    }

    /// Takes over what another collection found.
    pub fn adopt(&self, other: &Self) {
        self.causes.borrow_mut().extend(other.take());
    }

    /// True when something was found for one of these reasons.
    pub fn has_reason(&self, reasons: &[&str]) -> bool {
        self.causes.borrow().iter().any(|c| reasons.contains(&c.reason))
    }

    /// True while nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.causes.borrow().is_empty()
    }

    /// How many errors there are.
    pub fn len(&self) -> usize {
        self.causes.borrow().len()
    }

    /// What was found.
    pub fn take(&self) -> Vec<Cause> {
        std::mem::take(&mut self.causes.borrow_mut())
    }
}

fn decimal(mut n: usize, digits: &mut [u8; 20]) -> &str {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            return std::str::from_utf8(&digits[at..]).unwrap_or_default();
        }
    }
}

fn with_detail(mut message: String, detail: impl fmt::Display) -> String {
    let before = message.len();
    let _ = write!(message, ": {detail}");
    if message.len() == before + 2 {
        message.truncate(before);
    }
    message
}

/// A value as upstream prints it in messages: texts quoted, the rest as JSON, null as `null`.
fn show(value: &Value) -> String {
    match value {
        Value::String(s) => format!("{s:?}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_messages_read_as_upstreams() {
        let errs = FieldErrors::new();
        errs.at("spec").at("ports").index(2).at("port").invalid(0, "must be between 1 and 65535, inclusive");
        errs.at("metadata").at("labels").key("a/b").required("");
        assert_eq!([0, 9, 10, 1203].map(|i| errs.index(i).path), ["[0]", "[9]", "[10]", "[1203]"]);
        errs.at("spec").at("type").not_supported("X", &["NodePort", "ClusterIP"]);
        let causes = errs.take();
        assert_eq!(causes[0].field, "spec.ports[2].port");
        assert_eq!(causes[0].message, "Invalid value: 0: must be between 1 and 65535, inclusive");
        assert_eq!((causes[1].field.as_str(), causes[1].message.as_str()), ("metadata.labels[a/b]", "Required value"));
        assert_eq!(causes[2].message, "Unsupported value: \"X\": supported values: \"ClusterIP\", \"NodePort\"");
    }
}
