//! Seats of priority levels and the queues before them: who runs now, who waits, who is refused. Pure but for waking.
//!
//! A level has seats of its own that nobody can take (guaranteed), and lends the rest into a common pool, out of which every
//! level takes what it needs beyond its own, up to its bound. A flow is dealt a hand of its level's queues and waits in the
//! shortest of them, so that a flow with a thousand requests stands in a few queues, and the others are others'. Out of the
//! queues the one goes first that has had least (start-time fair queuing).
//!
//! **Invariant:** seats in use never exceed the guaranteed ones and the pool.
//! **Invariant:** whoever waits can be found and taken out; nobody who went away holds a seat.
//!
//! Rules: upstream `apiserver/pkg/util/flowcontrol` and KEP 1040; the pool stands for its ten-second adjustments.

use std::collections::VecDeque;

use tokio::sync::oneshot;

/// What a request is thought to take, in seat seconds, until it has shown.
const ESTIMATE: f64 = 0.05;

/// The bounds of a level.
#[derive(Debug, Clone, PartialEq)]
pub struct Bounds {
    /// Its name.
    pub name: String,
    /// Seats, of which some are lent.
    pub nominal: usize,
    /// Of these, what it lends.
    pub lent: usize,
    /// Seats that it takes at most; borrowed ones among them.
    pub most: usize,
    /// Who finds no seat waits; none refuses them.
    pub queuing: Option<Queuing>,
}

/// How requests wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queuing {
    /// Queues of the level.
    pub queues: usize,
    /// Queues of one flow.
    pub hand: usize,
    /// Requests that wait in one queue.
    pub length: usize,
}

struct Waiter {
    id: u64,
    seats: usize,
    wake: oneshot::Sender<usize>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiter>,
    executing: usize,
    /// What it has had, in seat seconds.
    start: f64,
}

struct Level {
    bounds: Bounds,
    /// No level of this name is configured any more: what is there goes on.
    retired: bool,
    executing: usize,
    waiting: usize,
    queues: Vec<Queue>,
    /// What the queue that went last had had.
    clock: f64,
}

impl Level {
    fn new(bounds: Bounds) -> Self {
        let queues = bounds.queuing.map_or(1, |q| q.queues.max(1));
        let queues = std::iter::repeat_with(Queue::default).take(queues).collect();
        Self { bounds, retired: false, executing: 0, waiting: 0, queues, clock: 0.0 }
    }

    fn borrowed_of(&self, executing: usize) -> usize {
        executing.saturating_sub(self.bounds.nominal - self.bounds.lent)
    }
}

/// How a request begins.
pub enum Entry {
    /// It runs; its queue.
    Run(usize),
    /// It waits; its number and what tells it its queue when it runs.
    Wait(u64, oneshot::Receiver<usize>),
    /// No more wait here.
    Refused(&'static str),
}

/// A level in figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    /// Its name.
    pub name: String,
    /// Seats.
    pub nominal: usize,
    /// Seats in use.
    pub executing: usize,
    /// Requests that wait.
    pub waiting: usize,
}

/// All seats.
#[derive(Default)]
pub struct Seats {
    levels: Vec<Level>,
    pool: usize,
    borrowed: usize,
    waiting: usize,
    next: u64,
}

impl Seats {
    /// Takes other bounds; gives the places of the levels, in their order. What runs or waits goes on.
    pub fn configure(&mut self, all: &[Bounds]) -> Vec<usize> {
        self.levels.iter_mut().for_each(|l| l.retired = true);
        let mut places = Vec::with_capacity(all.len());
        for bounds in all {
            let at = match self.levels.iter().position(|l| l.bounds.name == bounds.name) {
                Some(at) => at,
                None => {
                    self.levels.push(Level::new(bounds.clone()));
                    self.levels.len() - 1
                }
            };
            let level = &mut self.levels[at];
            level.retired = false;
            level.bounds = bounds.clone();
            // Queues only become more: those that are too many are dealt to nobody, and run empty.
            let wanted = bounds.queuing.map_or(1, |q| q.queues.max(1));
            while level.queues.len() < wanted {
                level.queues.push(Queue::default());
            }
            places.push(at);
        }
        let current = || self.levels.iter().filter(|l| !l.retired);
        self.pool = current().map(|l| l.bounds.lent).sum();
        self.borrowed = current().map(|l| l.borrowed_of(l.executing)).sum();
        self.dispatch();
        places
    }

    /// Begins a request of a flow, which `hash` stands for.
    pub fn enter(&mut self, at: usize, hash: u64, seats: usize) -> Entry {
        let level = &self.levels[at];
        let seats = seats.min(level.bounds.nominal.max(1));
        let queue = match level.bounds.queuing {
            Some(q) => shortest(&level.queues, hash, q),
            None => 0,
        };
        if level.waiting == 0 && self.fits(at, seats) {
            self.take(at, queue, seats);
            return Entry::Run(queue);
        }
        let level = &mut self.levels[at];
        let Some(queuing) = level.bounds.queuing else { return Entry::Refused("concurrency-limit") };
        if level.queues[queue].waiting.len() >= queuing.length {
            return Entry::Refused("queue-full");
        }
        self.next += 1;
        let (wake, woken) = oneshot::channel();
        if level.queues[queue].waiting.is_empty() && level.queues[queue].executing == 0 {
            // One that had nothing for long has no claim on the past.
            level.queues[queue].start = level.queues[queue].start.max(level.clock);
        }
        level.queues[queue].waiting.push_back(Waiter { id: self.next, seats, wake });
        level.waiting += 1;
        self.waiting += 1;
        let id = self.next;
        self.dispatch();
        Entry::Wait(id, woken)
    }

    /// Takes out one that waits; false when it does not wait any more.
    pub fn give_up(&mut self, at: usize, id: u64) -> bool {
        let level = &mut self.levels[at];
        for queue in &mut level.queues {
            let before = queue.waiting.len();
            queue.waiting.retain(|w| w.id != id);
            if queue.waiting.len() < before {
                level.waiting -= 1;
                self.waiting -= 1;
                return true;
            }
        }
        false
    }

    /// Ends a request that ran for so many seconds.
    pub fn leave(&mut self, at: usize, queue: usize, seats: usize, took: f64) {
        let seats = seats.min(self.levels[at].bounds.nominal.max(1));
        self.put_back(at, queue, seats);
        self.levels[at].queues[queue].start += (took - ESTIMATE) * seats as f64;
        if self.waiting > 0 {
            self.dispatch();
        }
    }

    /// All levels that are configured.
    pub fn figures(&self) -> Vec<Figures> {
        let one = |l: &Level| Figures {
            name: l.bounds.name.clone(),
            nominal: l.bounds.nominal,
            executing: l.executing,
            waiting: l.waiting,
        };
        self.levels.iter().filter(|l| !l.retired).map(one).collect()
    }

    fn fits(&self, at: usize, seats: usize) -> bool {
        let level = &self.levels[at];
        if level.retired {
            return true;
        }
        let after = level.executing + seats;
        let more = level.borrowed_of(after) - level.borrowed_of(level.executing);
        more == 0 || self.borrowed + more <= self.pool && after <= level.bounds.most
    }

    fn take(&mut self, at: usize, queue: usize, seats: usize) {
        let level = &mut self.levels[at];
        if !level.retired {
            self.borrowed += level.borrowed_of(level.executing + seats) - level.borrowed_of(level.executing);
        }
        level.executing += seats;
        let queue = &mut level.queues[queue];
        if queue.waiting.is_empty() && queue.executing == 0 {
            queue.start = queue.start.max(level.clock);
        }
        queue.executing += seats;
        level.clock = level.clock.max(queue.start);
        queue.start += ESTIMATE * seats as f64;
    }

    fn put_back(&mut self, at: usize, queue: usize, seats: usize) {
        let level = &mut self.levels[at];
        let before = level.executing;
        level.executing = before.saturating_sub(seats);
        level.queues[queue].executing = level.queues[queue].executing.saturating_sub(seats);
        if !level.retired {
            self.borrowed =
                self.borrowed.saturating_sub(level.borrowed_of(before) - level.borrowed_of(level.executing));
        }
    }

    /// Lets run what can.
    fn dispatch(&mut self) {
        for at in 0..self.levels.len() {
            while self.levels[at].waiting > 0 && self.run_next(at) {}
        }
    }

    /// Lets the next of a level run; false when it does not fit.
    fn run_next(&mut self, at: usize) -> bool {
        let full = self.levels[at].queues.iter().enumerate().filter(|(_, q)| !q.waiting.is_empty());
        let Some(queue) = full.min_by(|a, b| a.1.start.total_cmp(&b.1.start)).map(|(i, _)| i) else { return false };
        let Some(seats) = self.levels[at].queues[queue].waiting.front().map(|w| w.seats) else { return false };
        if !self.fits(at, seats) {
            return false;
        }
        let Some(waiter) = self.levels[at].queues[queue].waiting.pop_front() else { return false };
        self.levels[at].waiting -= 1;
        self.waiting -= 1;
        self.take(at, queue, seats);
        if waiter.wake.send(queue).is_err() {
            self.put_back(at, queue, seats);
        }
        true
    }
}

/// The shortest of a flow's queues.
fn shortest(queues: &[Queue], hash: u64, q: Queuing) -> usize {
    let mut best = (usize::MAX, 0);
    deal(hash, q.queues.min(queues.len()).max(1), q.hand, |card| {
        let queue = &queues[card];
        let length = queue.executing + queue.waiting.iter().map(|w| w.seats).sum::<usize>();
        if length < best.0 {
            best = (length, card);
        }
    });
    best.1
}

/// Largest hand. Upstream's validation allows as much as sixty bits can deal.
const HAND_MAX: usize = 16;

/// Deals `hand` different cards of `deck` out of a hash. Nothing is allocated.
fn deal(mut hash: u64, deck: usize, hand: usize, mut each: impl FnMut(usize)) {
    let mut dealt = [0usize; HAND_MAX];
    for i in 0..hand.min(deck).min(HAND_MAX) {
        let left = (deck - i) as u64;
        let mut card = (hash % left) as usize;
        hash /= left;
        // The cards that are left, counted past those that are gone.
        let mut place = 0;
        while place < i && dealt[place] <= card {
            card += 1;
            place += 1;
        }
        dealt.copy_within(place..i, place + 1);
        dealt[place] = card;
        each(card);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn level(name: &str, nominal: usize, lent: usize, queuing: Option<Queuing>) -> Bounds {
        Bounds { name: name.into(), nominal, lent, most: usize::MAX, queuing }
    }

    fn queuing() -> Option<Queuing> {
        Some(Queuing { queues: 8, hand: 2, length: 5 })
    }

    #[test]
    fn a_level_refuses_when_it_is_full_and_has_no_queues() {
        let mut s = Seats::default();
        let at = s.configure(&[level("a", 2, 0, None)])[0];
        assert!(matches!(s.enter(at, 1, 1), Entry::Run(0)));
        assert!(matches!(s.enter(at, 1, 1), Entry::Run(0)));
        assert!(matches!(s.enter(at, 1, 1), Entry::Refused("concurrency-limit")));
        s.leave(at, 0, 1, 0.1);
        assert!(matches!(s.enter(at, 1, 1), Entry::Run(0)));
    }

    #[test]
    fn what_a_level_lends_others_use_and_the_rest_stays_its_own() {
        let mut s = Seats::default();
        let places = s.configure(&[level("busy", 2, 0, None), level("idle", 4, 3, None)]);
        let ran = std::iter::from_fn(|| matches!(s.enter(places[0], 1, 1), Entry::Run(_)).then_some(())).count();
        assert_eq!(ran, 5, "two of its own, three borrowed");
        assert!(matches!(s.enter(places[1], 1, 1), Entry::Run(_)), "one is never lent");
        assert!(matches!(s.enter(places[1], 1, 1), Entry::Refused(_)));
        s.leave(places[0], 0, 1, 0.1);
        assert!(matches!(s.enter(places[1], 1, 1), Entry::Run(_)), "what comes back is there for all");
    }

    /// A flow that sends all it can, and one that sends one request: the one does not wait for all of the other's.
    #[test]
    fn a_greedy_flow_does_not_keep_another_waiting() {
        let mut s = Seats::default();
        let at = s.configure(&[level("a", 1, 0, queuing())])[0];
        let Entry::Run(running) = s.enter(at, 0, 1) else { panic!("it is empty") };
        let mut greedy = Vec::new();
        let refused = loop {
            match s.enter(at, 0, 1) {
                Entry::Wait(_, woken) => greedy.push(woken),
                Entry::Refused(why) => break why,
                Entry::Run(_) => panic!("the seat is taken"),
            }
        };
        assert_eq!((refused, greedy.len()), ("queue-full", 10), "its hand is full");
        // Another hand: cards 3 and 4.
        let Entry::Wait(_, mut polite) = s.enter(at, 3 + 8 * 3, 1) else { panic!("it waits") };
        // Each of the greedy one's queues has its turn, then the other: it does not wait for what stands in them.
        s.leave(at, running, 1, 1.0);
        let next = greedy.iter_mut().find_map(|g| g.try_recv().ok()).expect("the queue that had nothing yet");
        assert_ne!(next, running);
        s.leave(at, next, 1, 1.0);
        assert!(polite.try_recv().is_ok() && greedy.iter_mut().all(|g| g.try_recv().is_err()));
    }

    #[test]
    fn who_goes_away_holds_nothing() {
        let mut s = Seats::default();
        let at = s.configure(&[level("a", 1, 0, queuing())])[0];
        let Entry::Run(queue) = s.enter(at, 0, 1) else { panic!("it is empty") };
        let Entry::Wait(id, _woken) = s.enter(at, 0, 1) else { panic!("it waits") };
        let Entry::Wait(_, dropped) = s.enter(at, 0, 1) else { panic!("it waits") };
        assert!(s.give_up(at, id) && !s.give_up(at, id));
        drop(dropped);
        s.leave(at, queue, 1, 0.1);
        assert_eq!(s.figures()[0], Figures { name: "a".into(), nominal: 1, executing: 0, waiting: 0 });
    }

    #[test]
    fn a_level_that_is_gone_runs_empty() {
        let mut s = Seats::default();
        let at = s.configure(&[level("a", 1, 0, queuing())])[0];
        let Entry::Run(queue) = s.enter(at, 0, 1) else { panic!("it is empty") };
        let Entry::Wait(_, mut woken) = s.enter(at, 0, 1) else { panic!("it waits") };
        s.configure(&[level("b", 1, 0, None)]);
        let other = woken.try_recv().expect("nobody decides about it any more: it runs");
        s.leave(at, queue, 1, 0.1);
        s.leave(at, other, 1, 0.1);
        assert_eq!((s.levels[at].executing, s.borrowed), (0, 0));
    }

    proptest! {
        #[test]
        fn hands_hold_different_cards(hash: u64, deck in 1usize..200, hand in 1usize..10) {
            let mut cards = Vec::new();
            deal(hash, deck, hand, |c| cards.push(c));
            prop_assert!(cards.len() == hand.min(deck) && cards.iter().all(|c| *c < deck));
            let mut unique = cards.clone();
            unique.sort_unstable();
            unique.dedup();
            prop_assert_eq!(unique.len(), cards.len());
        }

        /// Whatever comes and goes: seats in use stay within the bounds, and in the end none is left over.
        #[test]
        fn seats_are_kept_account_of(steps in proptest::collection::vec((0usize..3, 0u64..5, 1usize..4), 1..200)) {
            let mut s = Seats::default();
            let all = [level("a", 3, 1, queuing()), level("b", 4, 4, queuing())];
            let places = s.configure(&all);
            let (mut running, mut waiting) = (Vec::new(), Vec::new());
            for (what, hash, seats) in steps {
                match what {
                    0 | 1 => match s.enter(places[what], hash, seats) {
                        Entry::Run(queue) => running.push((places[what], queue, seats)),
                        Entry::Wait(_, woken) => waiting.push((places[what], woken, seats)),
                        Entry::Refused(_) => {}
                    },
                    _ if !running.is_empty() => {
                        let (at, queue, seats) = running.swap_remove(0);
                        s.leave(at, queue, seats, 0.01);
                    }
                    _ => {}
                }
                waiting.retain_mut(|(at, woken, seats)| match woken.try_recv() {
                    Ok(queue) => { running.push((*at, queue, *seats)); false }
                    Err(_) => true,
                });
                prop_assert!(s.levels.iter().map(|l| l.executing).sum::<usize>() <= 7 && s.borrowed <= s.pool);
            }
            while let Some((at, queue, seats)) = running.pop() {
                s.leave(at, queue, seats, 0.01);
                waiting.retain_mut(|(at, woken, seats)| match woken.try_recv() {
                    Ok(queue) => { running.push((*at, queue, *seats)); false }
                    Err(_) => true,
                });
            }
            prop_assert!(waiting.is_empty() && s.waiting == 0 && s.borrowed == 0);
            prop_assert!(s.levels.iter().all(|l| l.executing == 0));
        }
    }
}
