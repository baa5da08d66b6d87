//! Finds devices for the claims of a pod on one node. Pure.
//!
//! In: the [`Inventory`] and the claims. Out: for each claim the devices of its requests, or that there are none. The search
//! is exhaustive and takes the first solution: claims, their requests and their devices one after another, each device a
//! place to come back to.
//!
//! **Invariant:** it ends after [`STEPS_MAX`] tries, whatever the claims.
//! Upstream: `structured/internal/incubating/allocator_incubating`.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::cluster::NodeInfo;
use super::Inventory;
use super::capacity;
use super::constraint::Rule;
use super::model::{Amounts, Choice, Claim, Class, Count, Device, Selectors};
use super::pools::{Pool, gather, take};
use crate::api::cel::device::VARIABLE;
use crate::api::cel::{Budget, Named, Val, cost};

/// Devices of one claim; upstream's `AllocationResultsMaxSize`.
pub const DEVICES_MAX: usize = 32;
/// Devices tried for one pod on one node, before it is given up. Upstream gives up after ten seconds.
const STEPS_MAX: usize = 200_000;

/// Why a search did not come to an end of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Something is wrong with a claim or a class: no node will do before it is put right.
    Wrong(String),
    /// No devices here, for a reason that is worth telling.
    Here(String),
    /// The claim would have too many devices this way.
    TooMany,
}

/// A place in the pools: pool and device.
type Spot = (usize, usize);

/// A device that was found for a request.
#[derive(Debug)]
pub struct Found<'a> {
    /// Which request, and which choice of it.
    pub request: usize,
    /// See `request`.
    pub choice: usize,
    /// The pool and the device.
    pub at: Spot,
    /// What of a shared device.
    pub part: Option<Amounts>,
    /// The device.
    pub device: &'a Device,
}

/// What was found on one node.
#[derive(Debug)]
pub struct Solution<'a> {
    /// The pools of the node.
    pub pools: Vec<Pool<'a>>,
    /// By claim.
    pub found: Vec<Vec<Found<'a>>>,
    /// By claim and request: the choice that was taken.
    pub chosen: Vec<Vec<usize>>,
}

/// What is to be found for a choice.
struct Wanted<'a> {
    class: &'a Arc<Class>,
    count: usize,
    /// All of these.
    all: Option<Vec<Spot>>,
}

/// Which request is being served: claim, request, choice.
type Part = (usize, usize, usize);

struct Search<'a> {
    inventory: &'a Inventory,
    claims: &'a [Arc<Claim>],
    pools: Vec<Pool<'a>>,
    wanted: HashMap<Part, Wanted<'a>>,
    rules: Vec<Vec<Rule<'a>>>,
    /// Claims that are given a device, by its spot.
    giving: HashMap<Spot, Vec<usize>>,
    /// What is given of shared devices.
    parts: HashMap<Spot, Vec<Amounts>>,
    matches: HashMap<(Part, Spot), bool>,
    found: Vec<Vec<Found<'a>>>,
    chosen: Vec<Vec<usize>>,
    steps: usize,
}

/// Devices for all of the claims on the node; none where there are not enough.
pub fn allocate<'a>(
    inventory: &'a Inventory,
    claims: &'a [Arc<Claim>],
    node: &NodeInfo,
) -> Result<Option<Solution<'a>>, Trouble> {
    let mut search = Search {
        inventory,
        claims,
        pools: gather(inventory, node),
        wanted: HashMap::new(),
        rules: Vec::new(),
        giving: HashMap::new(),
        parts: HashMap::new(),
        matches: HashMap::new(),
        found: claims.iter().map(|_| Vec::new()).collect(),
        chosen: claims.iter().map(|c| vec![0; c.requests.len()]).collect(),
        steps: 0,
    };
    search.prepare()?;
    match search.request(0, 0) {
        Ok(true) => Ok(Some(Solution { pools: search.pools, found: search.found, chosen: search.chosen })),
        Ok(false) | Err(Trouble::TooMany) if search.pools.iter().any(|p| p.invalid) => {
            Err(Trouble::Here("invalid resource pools were encountered".into()))
        }
        Ok(false) | Err(Trouble::TooMany) => Ok(None),
        Err(trouble) => Err(trouble),
    }
}

/// Before the search.
impl<'a> Search<'a> {
    /// Looks at every request: what is asked for, and whether this version understands it.
    fn prepare(&mut self) -> Result<(), Trouble> {
        let claims = self.claims;
        for (c, claim) in claims.iter().enumerate() {
            let mut least_of_claim = 0usize;
            for (r, request) in claim.requests.iter().enumerate() {
                let mut least = usize::MAX;
                for (i, choice) in request.choices.iter().enumerate() {
                    let wanted = self.wanted((c, r, i), claim, choice)?;
                    least = least.min(wanted.count);
                    self.wanted.insert((c, r, i), wanted);
                }
                if request.choices.is_empty() {
                    return Err(wrong(claim, &request.name, "missing device class name (unsupported request type?)"));
                }
                least_of_claim = least_of_claim.saturating_add(least);
            }
            if least_of_claim > DEVICES_MAX {
                return Err(Trouble::Wrong(format!(
                    "claim {}: number of requested devices {least_of_claim} exceeds the claim limit of {DEVICES_MAX}",
                    claim.key()
                )));
            }
            let rule = |(i, constraint): (usize, &'a Option<_>)| match constraint {
                Some(constraint) => Ok(Rule::new(constraint)),
                None => Err(Trouble::Wrong(format!(
                    "claim {}, constraint #{i}: empty constraint (unsupported constraint type?)",
                    claim.key()
                ))),
            };
            self.rules.push(claim.constraints.iter().enumerate().map(rule).collect::<Result<_, _>>()?);
        }
        Ok(())
    }

    fn wanted(&mut self, part: Part, claim: &'a Claim, choice: &'a Choice) -> Result<Wanted<'a>, Trouble> {
        let Some(class) = self.inventory.class(&choice.class) else {
            let why = format!("could not retrieve device class {}: not found", choice.class);
            return Err(wrong(claim, &choice.name, &why));
        };
        match &choice.count {
            Count::Exactly(count) => Ok(Wanted { class, count: *count, all: None }),
            Count::Unknown(mode) => Err(wrong(claim, &choice.name, &format!("unsupported count mode {mode}"))),
            Count::All => {
                let mut all = Vec::new();
                for p in 0..self.pools.len() {
                    let (driver, pool) = &self.pools[p].key;
                    for (bad, why) in [(self.pools[p].incomplete, "being updated"), (self.pools[p].invalid, "invalid")]
                    {
                        if bad {
                            let why =
                                format!("asks for all devices, but resource pool {driver}/{pool} is currently {why}");
                            return Err(wrong(claim, &choice.name, &why));
                        }
                    }
                    for d in 0..self.pools[p].devices.len() {
                        if self.selectable(part, class, (p, d))? && self.suffices(choice, (p, d)) {
                            all.push((p, d));
                        }
                    }
                }
                Ok(Wanted { class, count: all.len(), all: Some(all) })
            }
        }
    }
}

/// Of a choice its own name is told, without that of its request.
fn wrong(claim: &Claim, request: &str, why: &str) -> Trouble {
    let own = request.rsplit('/').next().unwrap_or(request);
    Trouble::Wrong(format!("claim {}, request {own}: {why}", claim.key()))
}

/// The search. Each function goes on with all that is still to be found, and gives back what it took where that fails.
impl<'a> Search<'a> {
    fn request(&mut self, c: usize, r: usize) -> Result<bool, Trouble> {
        let Some(claim) = self.claims.get(c) else { return Ok(true) };
        let Some(request) = claim.requests.get(r) else {
            // Another choice of an earlier claim may leave this one something that needs fewer devices.
            return match self.request(c + 1, 0) {
                Err(Trouble::TooMany) => Ok(false),
                done => done,
            };
        };
        if !request.prioritized {
            return self.device((c, r, 0), 0, (0, 0));
        }
        let mut always_too_many = true;
        for choice in 0..request.choices.len() {
            match self.device((c, r, choice), 0, (0, 0)) {
                Err(Trouble::TooMany) => continue,
                Ok(true) => {
                    self.chosen[c][r] = choice;
                    return Ok(true);
                }
                Ok(false) => always_too_many = false,
                Err(trouble) => return Err(trouble),
            }
        }
        if always_too_many { Err(Trouble::TooMany) } else { Ok(false) }
    }

    /// The `n`th device of a request; those before `from` were tried in all orders that differ.
    fn device(&mut self, part: Part, n: usize, from: Spot) -> Result<bool, Trouble> {
        self.step()?;
        let (c, r, i) = part;
        let claims = self.claims;
        let choice = &claims[c].requests[r].choices[i];
        let (count, class, all) = {
            let wanted = &self.wanted[&part];
            (wanted.count, wanted.class, wanted.all.as_ref().map(|all| (all.is_empty(), all.get(n).copied())))
        };
        if matches!(all, Some((true, _))) {
            return Ok(false);
        }
        if n >= count {
            return self.request(c, r + 1);
        }
        if self.found[c].len() + count - n > DEVICES_MAX {
            return Err(Trouble::TooMany);
        }
        if let Some((_, spot)) = all {
            let Some(spot) = spot else { return Ok(false) };
            return Ok(self.give(part, choice, spot, true)? && self.next(part, n + 1, (0, 0))?);
        }
        for p in from.0..self.pools.len() {
            if self.pools[p].incomplete || self.pools[p].invalid {
                continue;
            }
            let start = if p == from.0 { from.1 } else { 0 };
            for d in start..self.pools[p].devices.len() {
                let spot = (p, d);
                self.step()?;
                if self.in_use(choice, c, spot)
                    || !self.selectable(part, class, spot)?
                    || !self.suffices(choice, spot)
                    || !self.give(part, choice, spot, false)?
                {
                    continue;
                }
                if self.next(part, n + 1, (p, d + 1))? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Goes on after a device was given; takes it back where that leads nowhere.
    fn next(&mut self, part: Part, n: usize, from: Spot) -> Result<bool, Trouble> {
        let done = self.device(part, n, from);
        if done != Ok(true) {
            self.take_back(part);
        }
        done
    }

    fn step(&mut self) -> Result<(), Trouble> {
        self.steps += 1;
        match self.steps > STEPS_MAX {
            true => Err(Trouble::Here("timed out trying to allocate devices".into())),
            false => Ok(()),
        }
    }
}

/// One device.
impl<'a> Search<'a> {
    fn in_use(&self, choice: &Choice, c: usize, spot: Spot) -> bool {
        let giving = self.giving.get(&spot);
        match choice.admin {
            true => giving.is_some_and(|claims| claims.contains(&c)),
            false => self.pools[spot.0].devices[spot.1].taken || giving.is_some_and(|claims| !claims.is_empty()),
        }
    }

    /// True when the class and the request mean the device.
    fn selectable(&mut self, part: Part, class: &Class, spot: Spot) -> Result<bool, Trouble> {
        if let Some(known) = self.matches.get(&(part, spot)) {
            return Ok(*known);
        }
        let (c, r, i) = part;
        let claim = &self.claims[c];
        let candidate = &self.pools[spot.0].devices[spot.1];
        let device = candidate.device;
        let asks = |selectors: &Selectors, whose: &str| {
            all_match(selectors, &device.value).map_err(|(n, why)| {
                let on =
                    if why.starts_with("CEL runtime") { format!(" on device {}", candidate.id) } else { String::new() };
                Trouble::Wrong(format!("{whose}: selector #{n}{on}: {why}"))
            })
        };
        let known = asks(&class.selectors, &format!("class {}", class.name))?
            && asks(&claim.requests[r].choices[i].selectors, &format!("claim {}", claim.key()))?;
        self.matches.insert((part, spot), known);
        Ok(known)
    }

    fn suffices(&self, choice: &Choice, spot: Spot) -> bool {
        let candidate = &self.pools[spot.0].devices[spot.1];
        let used = if candidate.device.shared { self.inventory.used_of(&candidate.id) } else { None };
        let given = self.parts.get(&spot).into_iter().flatten();
        let all: Vec<&Amounts> = used.iter().chain(given).collect();
        capacity::suffices(choice, candidate.device, &all)
    }

    /// Gives a device to a request, if nothing forbids it. `must` where there is no other.
    fn give(&mut self, part: Part, choice: &'a Choice, spot: Spot, must: bool) -> Result<bool, Trouble> {
        let (c, r, i) = part;
        if self.in_use(choice, c, spot) {
            return Ok(false);
        }
        let claims = self.claims;
        let (claim, request) = (&claims[c], &claims[c].requests[r]);
        let (device, driver) = {
            let candidate = &self.pools[spot.0].devices[spot.1];
            (candidate.device, candidate.id.driver.clone())
        };
        let blocks = |effect: &str| matches!(effect, "NoSchedule" | "NoExecute");
        if device.taints.iter().any(|t| blocks(&t.effect) && !choice.tolerations.iter().any(|o| o.tolerates(t))) {
            return Ok(false);
        }
        // A shared device has paid for its counters with the first who has a part of it.
        if self.pays(device, spot) {
            take(&mut self.pools[spot.0].left, device, 1);
            if self.pools[spot.0].left.values().any(|left| *left < 0) {
                take(&mut self.pools[spot.0].left, device, -1);
                return Ok(false);
            }
        }
        let rules = &mut self.rules[c];
        let broken = (0..rules.len()).find(|at| !rules[*at].add(request, choice, &driver, device));
        if let Some(at) = broken {
            rules[..at].iter_mut().for_each(|rule| rule.undo(request, choice));
            if self.pays(device, spot) {
                take(&mut self.pools[spot.0].left, device, -1);
            }
            if must {
                let id = &self.pools[spot.0].devices[spot.1].id;
                let why = format!("cannot add device {id} because a claim constraint would not be satisfied");
                return Err(wrong(claim, &choice.name, &why));
            }
            return Ok(false);
        }
        let part = device.shared.then(|| capacity::parts(choice, device));
        match &part {
            Some(part) => self.parts.entry(spot).or_default().push(part.clone()),
            None => self.giving.entry(spot).or_default().push(c),
        }
        self.found[c].push(Found { request: r, choice: i, at: spot, part, device });
        Ok(true)
    }

    /// True when giving the device now takes from its counters.
    fn pays(&self, device: &Device, spot: Spot) -> bool {
        let shared = || {
            let id = &self.pools[spot.0].devices[spot.1].id;
            self.inventory.parts.contains_key(id) || self.parts.get(&spot).is_some_and(|p| !p.is_empty())
        };
        let is_free = device.consumes.is_empty() || device.shared && shared();
        !is_free
    }

    /// Undoes the last [`Search::give`] for the claim.
    fn take_back(&mut self, (c, r, i): Part) {
        let Some(Found { at, part, device, .. }) = self.found[c].pop() else { return };
        match part {
            Some(_) => drop(self.parts.get_mut(&at).and_then(Vec::pop)),
            None => drop(self.giving.get_mut(&at).and_then(Vec::pop)),
        }
        if self.pays(device, at) {
            take(&mut self.pools[at.0].left, device, -1);
        }
        let request = &self.claims[c].requests[r];
        for rule in &mut self.rules[c] {
            rule.undo(request, &request.choices[i]);
        }
    }
}

/// True when all selectors say yes; the error is that of the one with this number.
fn all_match(selectors: &Selectors, device: &Val) -> Result<bool, (usize, String)> {
    for (n, selector) in selectors.iter().enumerate() {
        let program = selector.as_ref().map_err(|why| (n, why.clone()))?;
        match program.eval(&Named(&[(VARIABLE, device.clone())]), &mut Budget::new(cost::PER_CALL)) {
            Ok(Val::Bool(true)) => {}
            Ok(Val::Bool(false)) => return Ok(false),
            Ok(other) => {
                let kind = other.type_name();
                return Err((n, format!("CEL runtime error: expression returned non-bool value {kind}")));
            }
            Err(error) => return Err((n, format!("CEL runtime error: {error}"))),
        }
    }
    Ok(true)
}
