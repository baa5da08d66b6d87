//! Which images to remove when the disk fills up. Pure; thresholds and order are upstream's.

use crate::util::order::Arrange;
use jiff::{SignedDuration, Timestamp};

/// When to begin and where to end, percent of the disk; `--image-gc-high-threshold` and its like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcPolicy {
    /// At this usage images are removed.
    pub high_percent: u8,
    /// Down to this usage.
    pub low_percent: u8,
    /// An image younger than this stays.
    pub min_age: SignedDuration,
}

impl Default for GcPolicy {
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80, min_age: SignedDuration::from_mins(2) }
    }
}

/// An image and when it was needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUse {
    /// Id.
    pub id: String,
    /// Bytes.
    pub size: u64,
    /// First seen by this kubelet.
    pub detected: Timestamp,
    /// A container last used it; none when never.
    pub last_used: Option<Timestamp>,
    /// A container uses it now.
    pub in_use: bool,
    /// Never removed: the pause image.
    pub pinned: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Ids to remove, in this order.
    pub remove: Vec<String>,
    /// Bytes from the present usage to the goal.
    pub wanted: u64,
    /// Bytes that removing all of them falls short of the goal by.
    pub short_by: u64,
}

/// The images to remove, those not used for longest first, until usage is at the low threshold.
/// `capacity` and `available` are of the file system that holds images, in bytes.
pub fn plan(policy: GcPolicy, capacity: u64, available: u64, images: &[ImageUse], now: Timestamp) -> Plan {
    let used = u128::from(capacity.saturating_sub(available));
    if capacity == 0 || used * 100 < u128::from(capacity) * u128::from(policy.high_percent) {
        return Plan::default();
    }
    let goal = u128::from(capacity) * u128::from(policy.low_percent) / 100;
    let mut missing = u64::try_from(used.saturating_sub(goal)).unwrap_or(u64::MAX);
    let idle = |i: &&ImageUse| !i.in_use && !i.pinned && now.duration_since(i.detected) >= policy.min_age;
    let mut candidates: Vec<&ImageUse> = images.iter().filter(idle).collect();
    candidates.arrange_by_key(|i| (i.last_used.unwrap_or(Timestamp::MIN), i.detected));
    let mut plan = Plan { wanted: missing, ..Plan::default() };
    for image in candidates {
        if missing == 0 {
            break;
        }
        plan.remove.push(image.id.clone());
        missing = missing.saturating_sub(image.size);
    }
    plan.short_by = missing;
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    const NOW: i64 = 10_000;

    fn image(id: &str, size: u64, detected: i64, used: Option<i64>) -> ImageUse {
        let at = |s| Timestamp::from_second(s).unwrap();
        ImageUse { id: id.into(), size, detected: at(detected), last_used: used.map(at), in_use: false, pinned: false }
    }

    fn run(available: u64, images: &[ImageUse]) -> (String, u64) {
        let plan = plan(GcPolicy::default(), 100, available, images, Timestamp::from_second(NOW).unwrap());
        (plan.remove.join(" "), plan.short_by)
    }

    #[test_case(16 => (String::new(), 0); "below the high threshold")]
    #[test_case(15 => ("never".into(), 0); "at it: one image is enough")]
    #[test_case(10 => ("never old".into(), 0); "longest unused next")]
    #[test_case(0 => ("never old new".into(), 5); "all of them are not enough")]
    fn least_recently_used_first(available: u64) -> (String, u64) {
        run(available, &[image("new", 5, 0, Some(90)), image("old", 5, 5, Some(50)), image("never", 5, 9, None)])
    }

    #[test]
    fn used_pinned_and_fresh_images_stay() {
        let used = ImageUse { in_use: true, ..image("used", 50, 0, None) };
        let pinned = ImageUse { pinned: true, ..image("pinned", 50, 0, None) };
        let fresh = image("fresh", 50, NOW - 60, None);
        assert_eq!(run(0, &[used, pinned, fresh]), (String::new(), 20));
    }

    #[test]
    fn an_unknown_disk_is_left_alone() {
        let now = Timestamp::from_second(NOW).unwrap();
        assert_eq!(plan(GcPolicy::default(), 0, 0, &[image("a", 1, 0, None)], now), Plan::default());
    }
}
