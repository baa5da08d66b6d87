//! What FlowSchemas and PriorityLevelConfigurations come to. Pure.
//!
//! Rules: upstream `apiserver/pkg/util/flowcontrol/apf_controller.go`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::api::value::ValueExt;

use super::classify::Schema;
use super::seats::{Bounds, Queuing};
use crate::util::order::Arrange;

/// Levels that are always there, whatever is stored.
const MANDATORY: [&str; 2] = ["exempt", "catch-all"];

/// A priority level, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Level {
    /// Its uid.
    pub uid: String,
    /// None for one without bounds.
    pub bounds: Option<Bounds>,
}

/// All of it.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// By name.
    pub levels: BTreeMap<String, Level>,
    /// In the order they are asked; each leads to a level that is there.
    pub schemas: Vec<Schema>,
    /// Whether the level of each schema that is stored is there, by the schemas' names.
    pub found: Vec<(String, String, bool)>,
}

/// Reads what is stored. `total` seats are shared among the levels; `first` gives what has to be there.
pub fn plan(levels: &[Value], schemas: &[Value], first: &[(&'static str, Value)], total: usize) -> Plan {
    let name = |o: &Value| o.str_at("/metadata/name").unwrap_or_default().to_owned();
    let with_mandatory = |stored: &[Value], plural: &str| -> Vec<Value> {
        let missing = first.iter().filter(|(p, o)| {
            *p == plural && MANDATORY.contains(&&*name(o)) && stored.iter().all(|s| name(s) != name(o))
        });
        stored.iter().cloned().chain(missing.map(|(_, o)| o.clone())).collect()
    };
    let objects = with_mandatory(levels, "prioritylevelconfigurations");
    let shares = |o: &Value| match o.str_at("/spec/type") {
        Some("Limited") => o.int_at("/spec/limited/nominalConcurrencyShares").unwrap_or(30).max(0),
        _ => o.int_at("/spec/exempt/nominalConcurrencyShares").unwrap_or(0).max(0),
    };
    let sum = objects.iter().map(shares).sum::<i64>().max(1);
    let levels: BTreeMap<String, Level> = objects
        .iter()
        .map(|o| {
            let limited = o.str_at("/spec/type") == Some("Limited");
            let bounds =
                limited.then(|| bounds(o, name(o), (total as f64 * shares(o) as f64 / sum as f64).ceil() as usize));
            (name(o), Level { uid: o.str_at("/metadata/uid").unwrap_or_default().to_owned(), bounds })
        })
        .collect();
    let mut made: Vec<Schema> = with_mandatory(schemas, "flowschemas").iter().map(Schema::of).collect();
    let found = made.iter().map(|s| (s.name.clone(), s.level.clone(), levels.contains_key(&s.level))).collect();
    made.retain(|s| levels.contains_key(&s.level));
    made.arrange_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
    Plan { levels, schemas: made, found }
}

fn bounds(o: &Value, name: String, nominal: usize) -> Bounds {
    let percent = |at: &str| o.int_at(at).map(|p| p.max(0) as usize);
    let lent = nominal * percent("/spec/limited/lendablePercent").unwrap_or(0).min(100) / 100;
    let most = percent("/spec/limited/borrowingLimitPercent").map_or(usize::MAX, |p| nominal + nominal * p / 100);
    let number = |member: &str, otherwise: usize| {
        percent(&format!("/spec/limited/limitResponse/queuing/{member}")).unwrap_or(otherwise).max(1)
    };
    let queues = o.str_at("/spec/limited/limitResponse/type") == Some("Queue");
    let queuing = queues.then(|| Queuing {
        queues: number("queues", 64),
        hand: number("handSize", 8),
        length: number("queueLengthLimit", 50),
    });
    Bounds { name, nominal, lent, most, queuing }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_levels_share_the_seats_as_upstreams_do() {
        let first = crate::registry::first_objects();
        let of = |plural: &str| -> Vec<Value> {
            first.iter().filter(|(p, _)| *p == plural).map(|(_, o)| o.clone()).collect()
        };
        let plan = plan(&of("prioritylevelconfigurations"), &of("flowschemas"), &[], 600);
        let bounds = |name: &str| plan.levels[name].bounds.clone().unwrap();
        assert_eq!((bounds("workload-low").nominal, bounds("workload-low").lent), (245, 220));
        assert_eq!((bounds("catch-all").nominal, bounds("catch-all").queuing), (13, None));
        assert_eq!(bounds("node-high").queuing, Some(Queuing { queues: 64, hand: 6, length: 50 }));
        assert_eq!(plan.levels["exempt"].bounds, None);
        assert_eq!((&*plan.schemas[0].name, &*plan.schemas.last().unwrap().name), ("exempt", "catch-all"));
    }

    #[test]
    fn what_has_to_be_there_is_there_and_what_leads_nowhere_is_told() {
        let schema = json!({"metadata": {"name": "x"}, "spec": {"priorityLevelConfiguration": {"name": "gone"}}});
        let plan = plan(&[], &[schema], &crate::registry::first_objects(), 600);
        assert_eq!(plan.levels.len(), 2);
        assert_eq!(plan.schemas.iter().map(|s| &*s.name).collect::<Vec<_>>(), ["exempt", "catch-all"]);
        assert_eq!(plan.found[0], ("x".to_owned(), "gone".to_owned(), false));
    }
}
