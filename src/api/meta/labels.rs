//! Label selectors: the query form (`a=b,c in (d,e),!f`) and the object form (`matchLabels`, `matchExpressions`).
//!
//! Rules: upstream `apimachinery/pkg/labels`.

use serde_json::Value;
use std::fmt;

use super::names;

/// Labels of nodes that their pods get.
pub const TOPOLOGY: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// How a requirement compares.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Op {
    /// The label is there with one of these values.
    In(Vec<String>),
    /// The label is not there, or has none of these values.
    NotIn(Vec<String>),
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
    /// The label is an integer above this one.
    Gt(i64),
    /// The label is an integer below this one.
    Lt(i64),
}

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// Label name.
    pub key: String,
    /// Comparison.
    pub op: Op,
}

/// All requirements must hold; none at all matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Selector(pub Vec<Requirement>);

/// A `metav1.LabelSelector` as Go prints it, for messages that upstream makes so; null is none.
pub fn go_text(selector: &Value) -> String {
    if selector.is_null() {
        return "nil".to_owned();
    }
    let text = |v: &Value, key: &str| v.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let list = |v: &Value, key: &str| v.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let labels = selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten();
    let mut labels: Vec<String> = labels.map(|(k, v)| format!("{k}: {},", v.as_str().unwrap_or_default())).collect();
    labels.sort_unstable();
    let one = |e: &Value| {
        let values = list(e, "values");
        let values: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
        let (key, operator) = (text(e, "key"), text(e, "operator"));
        format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{}],}},", values.join(" "))
    };
    let expressions: String = list(selector, "matchExpressions").iter().map(one).collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}",
        labels.concat()
    )
}

/// Why a selector could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

impl Requirement {
    /// One of a node selector's term, which may also compare numbers; none when it cannot be understood.
    pub fn of_node(key: &str, operator: &str, values: &[String]) -> Option<Self> {
        let number = || values.first().and_then(|v| v.parse().ok());
        let op = match operator {
            "In" => Op::In(values.to_vec()),
            "NotIn" => Op::NotIn(values.to_vec()),
            "Exists" => Op::Exists,
            "DoesNotExist" => Op::DoesNotExist,
            "Gt" => Op::Gt(number()?),
            "Lt" => Op::Lt(number()?),
            _ => return None,
        };
        Some(Self { key: key.to_owned(), op })
    }

    /// True when the label `value` (none: absent) satisfies this.
    pub fn matches(&self, value: Option<&str>) -> bool {
        match (&self.op, value) {
            (Op::In(values), Some(v)) => values.iter().any(|x| x == v),
            (Op::NotIn(values), Some(v)) => !values.iter().any(|x| x == v),
            (Op::NotIn(_) | Op::DoesNotExist, None) | (Op::Exists, Some(_)) => true,
            (Op::Gt(n), Some(v)) => v.parse::<i64>().is_ok_and(|v| v > *n),
            (Op::Lt(n), Some(v)) => v.parse::<i64>().is_ok_and(|v| v < *n),
            _ => false,
        }
    }
}

impl Selector {
    /// Matches everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// True when it selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Evaluates against a set of labels, looked up by name.
    pub fn matches<'a>(&self, labels: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|r| r.matches(labels(&r.key)))
    }

    /// Evaluates against labels in a JSON object.
    pub fn matches_value(&self, labels: Option<&Value>) -> bool {
        self.matches(|key| labels.and_then(|l| l.get(key)).and_then(Value::as_str))
    }

    /// From a plain map, as `spec.selector` of a Service.
    pub fn from_map(map: &Value) -> Self {
        let all = map.as_object().into_iter().flatten();
        Self(
            all.map(|(k, v)| Requirement {
                key: k.clone(),
                op: Op::In(vec![v.as_str().unwrap_or_default().to_owned()]),
            })
            .collect(),
        )
    }

    /// From a `metav1.LabelSelector`. An absent one is for the caller to decide; an empty one matches everything.
    pub fn from_label_selector(selector: &Value) -> Result<Self, SelectorError> {
        let mut all = selector.get("matchLabels").map(Self::from_map).unwrap_or_default().0;
        for e in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let key = e.get("key").and_then(Value::as_str).unwrap_or_default().to_owned();
            let values = || -> Vec<String> {
                let values = e.get("values").and_then(Value::as_array).into_iter().flatten();
                values.filter_map(|v| v.as_str().map(str::to_owned)).collect()
            };
            let op = match e.get("operator").and_then(Value::as_str).unwrap_or_default() {
                "In" => Op::In(values()),
                "NotIn" => Op::NotIn(values()),
                "Exists" => Op::Exists,
                "DoesNotExist" => Op::DoesNotExist,
                other => return Err(SelectorError(format!("{other:?} is not a valid label selector operator"))),
            };
            all.push(Requirement { key, op });
        }
        Ok(Self(all))
    }

    /// Parses the query form.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut p = Parser { text, at: 0 };
        let mut all = Vec::new();
        p.space();
        while p.at < text.len() {
            all.push(p.requirement()?);
            p.space();
            if p.at < text.len() && !p.eat(",") {
                return Err(p.unexpected("',' or end of string"));
            }
            p.space();
            if p.at == text.len() && text.trim_end().ends_with(',') {
                return Err(p.unexpected("identifier after ','"));
            }
        }
        Ok(Self(all))
    }
}

impl fmt::Display for Selector {
    /// The query form, which parses back to the same selector.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Requirement { key, op }) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match op {
                Op::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0])?,
                Op::In(values) => write!(f, "{key} in ({})", values.join(","))?,
                Op::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", values[0])?,
                Op::NotIn(values) => write!(f, "{key} notin ({})", values.join(","))?,
                Op::Exists => write!(f, "{key}")?,
                Op::DoesNotExist => write!(f, "!{key}")?,
                Op::Gt(n) => write!(f, "{key}>{n}")?,
                Op::Lt(n) => write!(f, "{key}<{n}")?,
            }
        }
        Ok(())
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn unexpected(&self, wanted: &str) -> SelectorError {
        let found: String = self.rest().chars().take(20).collect();
        SelectorError(format!("unable to parse requirement: found '{found}', expected: {wanted}"))
    }

    fn word(&mut self) -> String {
        self.space();
        let word: String = self
            .rest()
            .chars()
            .take_while(|c| !c.is_whitespace() && !matches!(c, ',' | '=' | '!' | '(' | ')' | '<' | '>'))
            .collect();
        self.at += word.len();
        self.space();
        word
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let absent = self.eat("!");
        let key = self.word();
        if key.is_empty() {
            return Err(self.unexpected("identifier"));
        }
        if let Some(why) = names::qualified_name(&key).into_iter().next() {
            return Err(SelectorError(format!("unable to parse requirement: key: Invalid value: {key:?}: {why}")));
        }
        if absent {
            return Ok(Requirement { key, op: Op::DoesNotExist });
        }
        let op = if self.rest().is_empty() || self.rest().starts_with(',') {
            Op::Exists
        } else if self.eat("==") || self.eat("=") {
            Op::In(vec![self.value(&key)?])
        } else if self.eat("!=") {
            Op::NotIn(vec![self.value(&key)?])
        } else if self.eat(">") {
            Op::Gt(self.integer(&key)?)
        } else if self.eat("<") {
            Op::Lt(self.integer(&key)?)
        } else {
            match self.word().as_str() {
                "in" => Op::In(self.set(&key)?),
                "notin" => Op::NotIn(self.set(&key)?),
                other => {
                    return Err(SelectorError(format!(
                        "unable to parse requirement: found '{other}', expected: in, notin, =, ==, !=, gt, lt"
                    )));
                }
            }
        };
        Ok(Requirement { key, op })
    }

    fn value(&mut self, key: &str) -> Result<String, SelectorError> {
        let value = self.word();
        match names::label_value(&value).into_iter().next() {
            Some(why) => Err(SelectorError(format!("values[0][{key}]: Invalid value: {value:?}: {why}"))),
            None => Ok(value),
        }
    }

    fn integer(&mut self, key: &str) -> Result<i64, SelectorError> {
        let value = self.word();
        value.parse().map_err(|_| {
            SelectorError(format!(
                "values[0][{key}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
            ))
        })
    }

    fn set(&mut self, key: &str) -> Result<Vec<String>, SelectorError> {
        if !self.eat("(") {
            return Err(self.unexpected("'('"));
        }
        let mut values = vec![self.value(key)?];
        while self.eat(",") {
            values.push(self.value(key)?);
        }
        if !self.eat(")") {
            return Err(self.unexpected("',' or ')'"));
        }
        values.sort();
        values.dedup();
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("", true; "empty matches all")]
    #[test_case("app=web", true)]
    #[test_case("app==web, tier!=back", true)]
    #[test_case("app in (web,db),!gone", true)]
    #[test_case("app notin (web)", false)]
    #[test_case("missing notin (web)", true)]
    #[test_case("app,tier", true)]
    #[test_case("n>4,n<6", true)]
    #[test_case("n>5", false)]
    #[test_case("app=", false; "empty value")]
    fn matches(text: &str, want: bool) {
        let labels = serde_json::json!({"app": "web", "tier": "front", "n": "5"});
        assert_eq!(Selector::parse(text).unwrap().matches_value(Some(&labels)), want);
    }

    #[test_case("app in"; "no set")]
    #[test_case("app in (a"; "open set")]
    #[test_case("a b"; "two words")]
    #[test_case("=x"; "no key")]
    #[test_case("a=b,"; "trailing comma")]
    #[test_case("a=b=c"; "two values")]
    #[test_case("n>x"; "not a number")]
    fn refuses(text: &str) {
        assert!(Selector::parse(text).is_err(), "{text}");
    }

    #[test]
    fn prints_objects_as_go_does() {
        let selector = serde_json::json!({"matchLabels": {"b": "2", "a": "1"},
            "matchExpressions": [{"key": "k", "operator": "In", "values": ["x", "y"]}]});
        let want = "&LabelSelector{MatchLabels:map[string]string{a: 1,b: 2,},MatchExpressions:[]LabelSelectorRequirement{\
             LabelSelectorRequirement{Key:k,Operator:In,Values:[x y],},},}";
        assert_eq!((go_text(&selector).as_str(), go_text(&Value::Null).as_str()), (want, "nil"));
    }

    #[test]
    fn prints_what_it_parses() {
        for text in ["a=b,c in (d,e),!f,g", "a!=b", "n>4"] {
            assert_eq!(Selector::parse(text).unwrap().to_string(), text);
        }
    }
}
