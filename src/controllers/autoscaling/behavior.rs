//! From what metrics ask for to what is done: bounds, rates, and calm. Pure but for the [`Memory`] that is given.
//!
//! Upstream: `podautoscaler/horizontal` (`normalizeDesiredReplicas`, `…WithBehaviors`).

use std::collections::VecDeque;

use serde_json::Value;

use crate::api::value::ValueExt;

/// Upstream's `--horizontal-pod-autoscaler-downscale-stabilization`.
const CALM: i64 = 300;
/// The longest that a behavior may look back, seconds; the API allows no more.
const MEMORY_MAX: i64 = 3600;
/// Entries of one list: one for each time that an autoscaler is looked at.
const ENTRIES_MAX: usize = 1024;

/// What was recommended and done lately, for one autoscaler; by ticks, so that a clock that is set forgets nothing.
#[derive(Debug, Default)]
pub struct Memory {
    recommended: VecDeque<(i64, i64)>,
    added: VecDeque<(i64, i64)>,
    removed: VecDeque<(i64, i64)>,
}

fn remember(list: &mut VecDeque<(i64, i64)>, now: i64, n: i64) {
    let oldest = now - MEMORY_MAX;
    while list.len() >= ENTRIES_MAX || list.front().is_some_and(|(at, _)| *at < oldest) {
        list.pop_front();
    }
    list.push_back((now, n));
}

/// Those after `seconds` ago.
fn lately(list: &VecDeque<(i64, i64)>, now: i64, seconds: i64) -> impl Iterator<Item = i64> {
    let cut = now - seconds;
    list.iter().filter(move |(at, _)| *at > cut).map(|(_, n)| *n)
}

impl Memory {
    /// The first time that an autoscaler is looked at: what is there counts as recommended.
    pub fn begin(&mut self, now: i64, replicas: i64) {
        if self.recommended.is_empty() {
            remember(&mut self.recommended, now, replicas);
        }
    }

    /// A change was made.
    pub fn scaled(&mut self, now: i64, from: i64, to: i64) {
        match to > from {
            true => remember(&mut self.added, now, to - from),
            false => remember(&mut self.removed, now, from - to),
        }
    }
}

/// What is asked for, within what.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct Ask {
    pub current: i64,
    pub desired: i64,
    pub min: i64,
    pub max: i64,
    pub now: i64,
}

/// Reason and message of a condition.
pub type Why = (&'static str, &'static str);

/// What is done.
#[derive(Debug, PartialEq, Eq)]
pub struct Decision {
    /// So many replicas.
    pub replicas: i64,
    /// Of the condition `AbleToScale`.
    pub able: Why,
    /// True and why, of the condition `ScalingLimited`.
    pub limited: (bool, Why),
}

const READY: Why = ("ReadyForNewScale", "recommended size matches current size");
const DOWN_CALMED: Why = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const UP_CALMED: Why = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const WITHIN: Why = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_MANY: Why = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: Why = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const TOO_FAST_UP: Why = ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const TOO_FAST_DOWN: Why =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");

/// Decides, and remembers what was asked for.
pub fn decide(behavior: Option<&Value>, ask: Ask, memory: &mut Memory) -> Decision {
    let Ask { current, desired, now, .. } = ask;
    let window = |at: &str, default| behavior.and_then(|b| b.int_at(at)).unwrap_or(default);
    let (up, down) =
        (window("/scaleUp/stabilizationWindowSeconds", 0), window("/scaleDown/stabilizationWindowSeconds", CALM));
    let (calm, why) = match behavior {
        // Without a behavior only what goes down is calmed, whatever is there now.
        None => (lately(&memory.recommended, now, CALM).fold(desired, i64::max), DOWN_CALMED),
        // What is there stays, unless all that was recommended within a window lies above it, or below.
        Some(_) => {
            let low = lately(&memory.recommended, now, up).fold(desired, i64::min);
            let high = lately(&memory.recommended, now, down).fold(desired, i64::max);
            (current.max(low).min(high), if desired >= current { UP_CALMED } else { DOWN_CALMED })
        }
    };
    remember(&mut memory.recommended, now, desired);
    let ask = Ask { desired: calm, ..ask };
    let (replicas, limit) = match behavior {
        None => by_default(ask),
        Some(behavior) => by_rates(behavior, ask, memory),
    };
    let able = if calm == desired { READY } else { why };
    Decision { replicas, able, limited: (replicas != calm, limit) }
}

/// At most twice as many at once, or four.
fn by_default(Ask { current, desired, min, max, .. }: Ask) -> (i64, Why) {
    let fastest = (2 * current).max(4);
    let (most, why) = if max > fastest { (fastest, TOO_FAST_UP) } else { (max, TOO_MANY) };
    match desired {
        n if n < min => (min, TOO_FEW),
        n if n > most => (most, why),
        n => (n, WITHIN),
    }
}

fn by_rates(behavior: &Value, Ask { current, desired, min, max, now }: Ask, memory: &Memory) -> (i64, Why) {
    if desired > current {
        let fastest = up_limit(&behavior["scaleUp"], current, memory, now).max(current);
        let (most, why) = if max > fastest { (fastest, TOO_FAST_UP) } else { (max, TOO_MANY) };
        if desired > most {
            return (most, why);
        }
    } else if desired < current {
        let fastest = down_limit(&behavior["scaleDown"], current, memory, now).min(current);
        let (least, why) = if min < fastest { (fastest, TOO_FAST_DOWN) } else { (min, TOO_FEW) };
        if desired < least {
            return (least, why);
        }
    }
    (desired, WITHIN)
}

/// Limits of all policies, from what was there when each period began.
fn limits<'a>(
    rules: &'a Value,
    changes: [(&'a VecDeque<(i64, i64)>, i64); 2],
    current: i64,
    now: i64,
    limit: impl Fn(&str, i64, i64) -> i64 + 'a,
) -> impl Iterator<Item = i64> + 'a {
    rules.items_at("/policies").iter().map(move |policy| {
        let period = policy.int_at("/periodSeconds").unwrap_or(0);
        let change: i64 = changes.iter().map(|(list, sign)| sign * lately(list, now, period).sum::<i64>()).sum();
        let (kind, value) = (policy.str_at("/type").unwrap_or_default(), policy.int_at("/value").unwrap_or(0));
        limit(kind, value, current - change)
    })
}

fn up_limit(rules: &Value, current: i64, memory: &Memory, now: i64) -> i64 {
    let limit = |kind: &str, value: i64, start: i64| match kind {
        // Rounded up, or few would never become more.
        "Percent" => (start as f64 * (1.0 + value as f64 / 100.0)).ceil() as i64,
        _ => start + value,
    };
    let all = limits(rules, [(&memory.added, 1), (&memory.removed, -1)], current, now, limit);
    match rules.str_at("/selectPolicy") {
        Some("Disabled") => current,
        Some("Min") => all.min().unwrap_or(current),
        _ => all.max().unwrap_or(current),
    }
}

fn down_limit(rules: &Value, current: i64, memory: &Memory, now: i64) -> i64 {
    let limit = |kind: &str, value: i64, start: i64| match kind {
        "Percent" => (start as f64 * (1.0 - value as f64 / 100.0)) as i64,
        _ => start - value,
    };
    let all = limits(rules, [(&memory.added, 1), (&memory.removed, -1)], current, now, limit);
    match rules.str_at("/selectPolicy") {
        Some("Disabled") => current,
        Some("Min") => all.max().unwrap_or(current),
        _ => all.min().unwrap_or(current),
    }
}
