//! The recent events of one resource, bounded by bytes and by age.
//!
//! **Invariant:** every event after `floor` is here, in order of revision.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::event::{Event, EventKind};
use crate::store::Revision;

/// What the events of one resource may keep alive beyond its current objects, bytes.
pub const RING_BYTES: usize = 8 << 20;
/// How long an event is kept, so that watchers can resume after a break; upstream's etcd keeps five minutes.
pub const RING_AGE: Duration = Duration::from_secs(300);
/// The newest events keep their encodings for the watchers that still have to send them.
pub const RING_ENCODED: usize = 256;
/// Events one reading takes at most, rounded up to whole revisions.
pub const READ_EVENTS: usize = 256;
/// What an event costs beside the objects it alone holds, bytes.
const EVENT_OVERHEAD: usize = 192;

pub(super) struct Ring {
    floor: Revision,
    events: VecDeque<(Instant, Arc<Event>)>,
    bytes: usize,
}

impl Ring {
    pub(super) fn new(floor: Revision) -> Self {
        Self { floor, events: VecDeque::new(), bytes: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn floor(&self) -> Revision {
        self.floor
    }

    pub(super) fn push(&mut self, event: Arc<Event>, now: Instant) {
        self.bytes += cost(&event);
        self.events.push_back((now, event));
        if let Some((_, cold)) = self.events.len().checked_sub(RING_ENCODED + 1).map(|i| &self.events[i]) {
            cold.forget_encodings();
        }
    }

    /// Drops what is over the bounds. Events of one revision go together.
    pub(super) fn trim(&mut self, now: Instant, mut dropped: impl FnMut(&Arc<Event>)) {
        while let Some((at, event)) = self.events.front() {
            let half = event.revision == self.floor;
            if !half && self.bytes <= RING_BYTES && now.duration_since(*at) <= RING_AGE {
                break;
            }
            self.bytes -= cost(event);
            self.floor = event.revision;
            dropped(event);
            self.events.pop_front();
        }
    }

    /// Events after `since`, whole revisions; none when some of them are gone.
    pub(super) fn read(&self, since: Revision) -> Option<Vec<Arc<Event>>> {
        if since < self.floor {
            return None;
        }
        let from = self.events.partition_point(|(_, e)| e.revision <= since);
        let mut found: Vec<Arc<Event>> = Vec::new();
        for (_, event) in self.events.range(from..) {
            if found.len() >= READ_EVENTS && found.last().is_none_or(|l| l.revision != event.revision) {
                break;
            }
            found.push(event.clone());
        }
        Some(found)
    }

    /// All events.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Event>> {
        self.events.iter().map(|(_, event)| event)
    }

    /// True when there are events after `since`.
    pub(super) fn has_after(&self, since: Revision) -> bool {
        self.events.back().is_some_and(|(_, e)| e.revision > since)
    }
}

/// What the event keeps alive that would be gone without it.
fn cost(event: &Event) -> usize {
    let old = event.previous.as_ref().map_or(0, |o| o.json.len());
    let own = if event.kind == EventKind::Deleted { event.object.json.len() } else { 0 };
    EVENT_OVERHEAD + old + own
}
