//! A process that does little should be small: it gives back what only its start, or a busy time, needed of its code.
//!
//! The allocator gives freed memory back by itself. Code is not freed: whatever ran once stays mapped, with what the kernel
//! mapped around it, and counts as in use, so that the kernel rather drops what others read from the disk.
//!
//! **Invariant:** what is given back is read-only and comes back by itself, from the page cache as long as it is there.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};

use super::sys;
use super::tasks::Shutdown;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(30);
/// Processor time within that of a process that does little: one hundredth.
const LITTLE: Duration = Duration::from_millis(300);

/// What is known from look to look.
#[derive(Debug, Default)]
struct Habit {
    /// Processor time at the last look.
    spent: Duration,
    /// There was nothing to do since it was busy last, and what that needed is given back.
    small: bool,
}

impl Habit {
    /// Whether now is the time to give back. Once for each busy time: the start is one.
    fn look(&mut self, spent: Duration) -> bool {
        let quiet = spent.saturating_sub(self.spent) < LITTLE;
        self.spent = spent;
        let due = quiet && !self.small;
        self.small = quiet;
        due
    }
}

/// Processor time of this process so far.
fn spent() -> Option<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let of = |t: nix::sys::time::TimeVal| {
        let micros = t.tv_usec().max(0).unsigned_abs();
        Duration::from_secs(t.tv_sec().max(0).unsigned_abs()) + Duration::from_micros(micros)
    };
    Some(of(usage.user_time()) + of(usage.system_time()))
}

/// Looks until the shutdown, and gives back when there is nothing to do.
pub async fn run(stop: &Shutdown) {
    let mut habit = Habit::default();
    while stop.or(tokio::time::sleep(LOOK)).await.is_some() {
        if !spent().is_some_and(|spent| habit.look(spent)) {
            continue;
        }
        match sys::forget_code() {
            Ok(bytes) => tracing::debug!(bytes, "nothing to do: gave back what is mapped of the program"),
            Err(e) => tracing::debug!("cannot give back what is mapped of the program: {e}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_after_each_busy_time() {
        let mut habit = Habit::default();
        let looks = [2000, 2100, 2150, 2200, 2900, 3100, 3900, 3950, 4000];
        let due: Vec<bool> = looks.iter().map(|ms| habit.look(Duration::from_millis(*ms))).collect();
        assert_eq!(due, [false, true, false, false, false, true, false, true, false]);
    }

    /// Kilobytes of files that are mapped and present.
    fn mapped() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("RssFile:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse().unwrap()
    }

    #[test]
    fn code_that_is_given_back_is_not_mapped_and_runs_on() {
        // Other tests run meanwhile, and map what they need.
        let less = || {
            let before = mapped();
            let bytes = sys::forget_code().unwrap();
            bytes > 1 << 20 && mapped() < before
        };
        assert!((0..10).any(|_| less()));
        assert!(spent().unwrap() > Duration::ZERO);
    }
}
