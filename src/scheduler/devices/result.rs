//! Writes down what was found: `status.allocation` of claims.

use serde_json::{Map, Value, json};

use super::model::{Claim, Reach, Request};
use super::search::{Found, Solution};
use crate::api::meta::quantity::Quantity;
use crate::api::value::ValueExt;

/// The allocation of the claim at `c`, on a node.
pub fn allocation(
    solution: &Solution<'_>,
    c: usize,
    claim: &Claim,
    node: &str,
    classes: &dyn Fn(&str) -> Vec<Value>,
) -> Value {
    let found = &solution.found[c];
    let results: Vec<Value> = found.iter().map(|f| result(solution, claim, f)).collect();
    let mut out = json!({"devices": {"results": results}});
    let config = config(claim, &solution.chosen[c], classes);
    if !config.is_empty() {
        out["devices"]["config"] = config.into();
    }
    if let Some(selector) = node_selector(solution, found, node) {
        out["nodeSelector"] = selector;
    }
    out
}

fn result(solution: &Solution<'_>, claim: &Claim, found: &Found<'_>) -> Value {
    let choice = &claim.requests[found.request].choices[found.choice];
    let id = &solution.pools[found.at.0].devices[found.at.1].id;
    let mut out = json!({"request": choice.name, "driver": &*id.driver, "pool": &*id.pool, "device": &*id.device});
    if choice.admin {
        out["adminAccess"] = true.into();
    }
    if !choice.raw_tolerations.is_empty() {
        out["tolerations"] = choice.raw_tolerations.clone().into();
    }
    for (name, list) in
        [("bindingConditions", &found.device.conditions), ("bindingFailureConditions", &found.device.failures)]
    {
        if !list.is_empty() {
            out[name] = json!(list);
        }
    }
    if let Some(part) = &found.part {
        out["shareID"] = uuid::Uuid::new_v4().to_string().into();
        if !part.is_empty() {
            let amount = |(name, n): (&str, &i128)| (name.to_owned(), Value::from(amount(*n)));
            out["consumedCapacity"] =
                part.iter().map(|(name, n)| (&**name, n)).map(amount).collect::<Map<_, _>>().into();
        }
    }
    out
}

fn amount(nanos: i128) -> String {
    Quantity::of_nanos(nanos).to_string()
}

/// Configurations of the classes of all requests, then those of the claim; one for all requests names none.
fn config(claim: &Claim, chosen: &[usize], classes: &dyn Fn(&str) -> Vec<Value>) -> Vec<Value> {
    let mut by_class: Vec<(&str, Vec<&str>)> = Vec::new();
    let picked = |(request, choice): (_, &usize)| {
        let request: &Request = request;
        &request.choices[*choice]
    };
    for choice in claim.requests.iter().zip(chosen).map(picked) {
        match by_class.iter_mut().find(|(class, _)| *class == &*choice.class) {
            Some((_, names)) => names.push(&choice.name),
            None => by_class.push((&choice.class, vec![&choice.name])),
        }
    }
    let mut out = Vec::new();
    for (class, names) in by_class {
        out.extend(classes(class).into_iter().map(|c| with(c, "FromClass", names.iter().copied())));
    }
    for c in &claim.config {
        let names: Vec<&str> = c.items_at("/requests").iter().filter_map(Value::as_str).collect();
        let concerns = |(request, choice): (&Request, &usize)| {
            names.contains(&&*request.name) || names.contains(&&*request.choices[*choice].name)
        };
        if names.is_empty() || claim.requests.iter().zip(chosen).any(concerns) {
            out.push(with(c.clone(), "FromClaim", names.into_iter()));
        }
    }
    for c in out.iter_mut().filter(|c| c.items_at("/requests").len() == claim.requests.len()) {
        c.remove_at("/requests");
    }
    out
}

fn with<'a>(mut config: Value, source: &str, names: impl Iterator<Item = &'a str>) -> Value {
    let names: Vec<&str> = names.collect();
    config["source"] = source.into();
    config.remove_at("/requests");
    if !names.is_empty() {
        config["requests"] = json!(names);
    }
    config
}

/// Nodes that reach all of the devices; none where all nodes do.
fn node_selector(solution: &Solution<'_>, found: &[Found<'_>], node: &str) -> Option<Value> {
    let only = |name: &str| {
        let field = json!({"key": "metadata.name", "operator": "In", "values": [name]});
        Some(json!({"nodeSelectorTerms": [{"matchFields": [field]}]}))
    };
    let (mut expressions, mut fields) = (Vec::new(), Vec::new());
    for f in found {
        let slice = solution.pools[f.at.0].devices[f.at.1].slice;
        let reach = if slice.reach == Reach::Each { &f.device.reach } else { &slice.reach };
        match reach {
            Reach::Node(name) => return only(name),
            _ if f.device.binds_to_node => return only(node),
            Reach::Nodes(_, selector) => {
                // The API takes selectors of one term here.
                let term = selector.get_at("/nodeSelectorTerms/0").unwrap_or(&Value::Null);
                for (list, into) in [("/matchExpressions", &mut expressions), ("/matchFields", &mut fields)] {
                    let new: Vec<_> = term.items_at(list).iter().filter(|e| !into.contains(*e)).cloned().collect();
                    into.extend(new);
                }
            }
            Reach::All | Reach::Each | Reach::Unknown => {}
        }
    }
    let mut term = Map::new();
    for (name, list) in [("matchExpressions", expressions), ("matchFields", fields)] {
        if !list.is_empty() {
            term.insert(name.into(), list.into());
        }
    }
    (!term.is_empty()).then(|| json!({"nodeSelectorTerms": [term]}))
}
