//! Amounts of resources, as integers: what pods ask for and nodes have.

use std::collections::BTreeMap;

use crate::api::meta::quantity::Quantity;

/// Milli-CPU that a container without a request counts as, in scores only.
pub const DEFAULT_MILLI_CPU: i64 = 100;
/// Bytes of memory that a container without a request counts as, in scores only.
pub const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// A resource list in units: CPU in thousandths, everything else in whole units, rounded up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub cpu: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of ephemeral storage.
    pub storage: i64,
    /// Number of pods; only nodes have it.
    pub pods: i64,
    /// Huge pages and extended resources, sorted by name.
    pub scalar: Vec<(Box<str>, i64)>,
}

/// A resource list as objects have it.
pub type RawList = BTreeMap<String, String>;

impl Resources {
    /// From a resource list; what is no quantity counts as nothing (the API refuses it anyway).
    pub fn from_list(list: &RawList) -> Self {
        let mut out = Self::default();
        for (name, text) in list {
            let Ok(q) = Quantity::parse(text) else { continue };
            *out.slot(name) = if name == "cpu" { q.milli_value() } else { q.value() };
        }
        out
    }

    /// The amount of a resource by name, made where it is missing.
    pub fn slot(&mut self, name: &str) -> &mut i64 {
        match name {
            "cpu" => &mut self.cpu,
            "memory" => &mut self.memory,
            "ephemeral-storage" => &mut self.storage,
            "pods" => &mut self.pods,
            _ => {
                let at = match self.scalar.binary_search_by(|(n, _)| (**n).cmp(name)) {
                    Ok(at) => at,
                    Err(at) => {
                        self.scalar.insert(at, (name.into(), 0));
                        at
                    }
                };
                &mut self.scalar[at].1
            }
        }
    }

    /// The amount of a scalar resource.
    pub fn scalar(&self, name: &str) -> i64 {
        self.scalar.binary_search_by(|(n, _)| (**n).cmp(name)).map_or(0, |at| self.scalar[at].1)
    }

    /// Adds `sign` times another.
    pub fn add(&mut self, other: &Self, sign: i64) {
        self.cpu += sign * other.cpu;
        self.memory += sign * other.memory;
        self.storage += sign * other.storage;
        self.pods += sign * other.pods;
        for (name, amount) in &other.scalar {
            *self.slot(name) += sign * amount;
        }
    }

    /// Raises each amount to at least the other's.
    pub fn raise_to(&mut self, other: &Self) {
        self.cpu = self.cpu.max(other.cpu);
        self.memory = self.memory.max(other.memory);
        self.storage = self.storage.max(other.storage);
        for (name, amount) in &other.scalar {
            let slot = self.slot(name);
            *slot = (*slot).max(*amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_add_up_and_come_off_again() {
        let list = |pairs: &[(&str, &str)]| {
            Resources::from_list(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
        };
        let a = list(&[("cpu", "1000.5m"), ("memory", "1Ki"), ("x/gpu", "2")]);
        assert_eq!((a.cpu, a.memory, a.scalar("x/gpu")), (1001, 1024, 2));
        let mut sum = list(&[("cpu", "1"), ("a/b", "1"), ("x/gpu", "0")]);
        let before = sum.clone();
        sum.add(&a, 1);
        assert_eq!((sum.cpu, sum.scalar("x/gpu"), sum.scalar("a/b")), (2001, 2, 1));
        sum.add(&a, -1);
        assert_eq!(sum, before);
    }
}
