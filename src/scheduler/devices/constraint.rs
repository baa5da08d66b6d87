//! Rules over all devices of a claim, kept while they are chosen one by one.

use serde_json::Value;

use super::model::{Choice, Constraint, Device, Request};

/// A rule, and the values of the devices that were chosen so far.
#[derive(Debug)]
pub struct Rule<'a> {
    constraint: &'a Constraint,
    values: Vec<&'a Value>,
}

impl<'a> Rule<'a> {
    /// Nothing chosen yet.
    pub fn new(constraint: &'a Constraint) -> Self {
        Self { constraint, values: Vec::new() }
    }

    fn concerns(&self, request: &Request, choice: &Choice) -> bool {
        let names = &self.constraint.requests;
        names.is_empty() || names.iter().any(|n| **n == *request.name || **n == *choice.name)
    }

    /// Takes a device, if the rule still holds with it.
    pub fn add(&mut self, request: &Request, choice: &Choice, driver: &str, device: &'a Device) -> bool {
        if !self.concerns(request, choice) {
            return true;
        }
        let Some(value) = device.attribute(driver, &self.constraint.attribute) else { return false };
        let holds = match self.constraint.distinct {
            true => !self.values.contains(&value),
            false => self.values.first().is_none_or(|first| *first == value),
        };
        if holds {
            self.values.push(value);
        }
        holds
    }

    /// Gives back the device that was taken last.
    pub fn undo(&mut self, request: &Request, choice: &Choice) {
        if self.concerns(request, choice) {
            self.values.pop();
        }
    }
}
