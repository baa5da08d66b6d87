//! Kinds of the API group `flowcontrol.apiserver.k8s.io`, and the objects of them that every cluster has.
//!
//! `apiserver::flow` decides by them.

use crate::api::scheme::{Column, KindInfo, STATUS_ONLY};
use crate::api::table::text_or;
use crate::api::value::ValueExt;
use crate::registry::Resource;
use crate::registry::strategy::{Common, Generation};

mod bootstrap;
mod check;

pub use bootstrap::objects;

/// The group.
pub const GROUP: &str = "flowcontrol.apiserver.k8s.io";

const SCHEMA_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("PriorityLevel", "/spec/priorityLevelConfiguration/name"),
    Column::int("MatchingPrecedence", "/spec/matchingPrecedence"),
    Column::new("DistinguisherMethod", |o, _| text_or(o, "/spec/distinguisherMethod/type", "<none>")),
    Column::AGE,
    Column::new("MissingPL", |o, _| {
        let dangling = o.items_at("/status/conditions").iter().find(|c| c.str_at("/type") == Some("Dangling"));
        dangling.and_then(|c| c.str_at("/status")).unwrap_or("?").into()
    }),
];

const LEVEL_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Type", "/spec/type"),
    Column::new("NominalConcurrencyShares", |o, _| number(o, "/spec/limited/nominalConcurrencyShares").into()),
    Column::new("Queues", |o, _| number(o, "/spec/limited/limitResponse/queuing/queues").into()),
    Column::new("HandSize", |o, _| number(o, "/spec/limited/limitResponse/queuing/handSize").into()),
    Column::new("QueueLengthLimit", |o, _| number(o, "/spec/limited/limitResponse/queuing/queueLengthLimit").into()),
    Column::AGE,
];

fn number(o: &serde_json::Value, pointer: &str) -> String {
    o.int_at(pointer).map_or_else(|| "<none>".to_owned(), |n| n.to_string())
}

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    let common = Common::NONE.generation(Generation::Spec);
    vec![
        Resource::new(
            KindInfo::cluster(GROUP, "v1", "FlowSchema", "flowschemas", "flowschema")
                .columns(SCHEMA_COLUMNS)
                .subresources(STATUS_ONLY),
            Box::new(common.status_alone().check(check::schema)),
        ),
        Resource::new(
            KindInfo::cluster(
                GROUP,
                "v1",
                "PriorityLevelConfiguration",
                "prioritylevelconfigurations",
                "prioritylevelconfiguration",
            )
            .columns(LEVEL_COLUMNS)
            .subresources(STATUS_ONLY),
            Box::new(common.status_alone().check(check::level)),
        ),
    ]
}
