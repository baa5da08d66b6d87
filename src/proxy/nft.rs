//! The rules of one address family in the kernel: one table, changed by transactions that hold only what changed.
//!
//! A packet's way: `prerouting` and `output` look its destination up in a verdict map, by address first, then (for the
//! node's own addresses) by port; the Service port's chain picks an index, and a map `endpoints-N` turns (group, index)
//! into an address. Three lookups, however many Services there are. `postrouting` masquerades what is marked, and pods
//! that reached themselves. `input`, `forward` and `output-early` refuse what has no endpoints.
//!
//! **Invariant:** the table holds what the model holds, or is replaced as a whole.

use std::time::Duration;

use nlink::netlink::Nftables;
use nlink::netlink::connection::Connection;
use nlink::netlink::nftables::{
    BaseChain, Chain as NftChain, ChainName, CtKey, DynsetExpr, DynsetOp, Expr, FilterHook, LookupExpr, MetaKey,
    NatHook, NumgenKind, Priority, Register, Rule as NftRule, Set, SetDataType, SetElement, SetKeyType, Transaction,
    Verdict,
};

use super::model::{Action, Chain, Change, Element, Front, Rule};
use crate::api::services::Protocol;
use crate::util::families::Family;
use crate::util::nft::{self, Result, word, words};

/// Mark of packets that are masqueraded; upstream's bit.
const MASQUERADE_MARK: u32 = 0x4000;
/// Clients remembered by session affinity, over all Services.
const MAX_AFFINITY_CLIENTS: u32 = 262_144;
/// `NF_CT_STATE_NEW`.
const CT_NEW: u32 = 8;
/// `IPS_DST_NAT`.
const CT_DNAT: u32 = 0x20;
/// Before the destination is rewritten, after connections are tracked.
const BEFORE_DNAT: i32 = -110;

/// `NFT_REJECT_ICMP_UNREACH` and `NFT_REJECT_TCP_RST`.
const UNREACHABLE: u32 = 0;
const RESET: u32 = 1;

const SERVICES: &str = "services";
const NODE_PORTS: &str = "node-ports";
const REFUSED: &str = "refused";
const REFUSED_NODE_PORTS: &str = "refused-node-ports";
/// Endpoints are spread over so many maps, by their group: the kernel goes through all rules that use a map for each
/// element that it gets, and through all elements for each rule, so that one map for all takes seconds at 10,000 Services.
const ENDPOINT_MAPS: u32 = 64;
/// Elements of a transaction that is made while this process listens to what the kernel tells of it.
const HEARD_ELEMENTS: usize = 1_000;
const LIVE: &str = "live";
const HAIRPINS: &str = "hairpins";
const AFFINITY: &str = "affinity";
const REJECT: &str = "reject";

/// Where the chosen endpoint stands in registers, its port after it: behind all that is looked up meanwhile.
const CHOSEN: usize = 9;

const BASE_CHAINS: usize = 6;
const OTHER_CHAINS: usize = 1;

/// The table in the kernel.
pub struct Table {
    conn: Connection<Nftables>,
    name: String,
    family: Family,
    sets: Sets,
}

/// The table's maps and sets; elements are written with their set's description.
struct Sets {
    services: Set,
    node_ports: Set,
    refused: Set,
    refused_node_ports: Set,
    live: Set,
    hairpins: Set,
    affinity: Set,
    endpoints: Vec<Set>,
}

/// The map that has the endpoints of a group.
fn endpoints_of(group: u32) -> String {
    format!("endpoints-{}", group % ENDPOINT_MAPS)
}

impl Sets {
    fn new(table: &str, family: Family) -> Self {
        use SetKeyType::{InetProto, InetService, Mark};
        let key = |parts: &[&SetKeyType]| SetKeyType::Concat(parts.iter().map(|p| (*p).clone()).collect());
        let set = |name: &str, parts: &[&SetKeyType]| {
            Set::new(table, name).family(nft::table_family(family)).key_type(key(parts))
        };
        let address = &nft::address_type(family);
        let endpoint = || SetDataType::Value(key(&[address, &InetService]));
        Self {
            services: set(SERVICES, &[address, &InetProto, &InetService]).vmap(),
            node_ports: set(NODE_PORTS, &[&InetProto, &InetService]).vmap(),
            refused: set(REFUSED, &[address, &InetProto, &InetService]).vmap(),
            refused_node_ports: set(REFUSED_NODE_PORTS, &[&InetProto, &InetService]).vmap(),
            endpoints: (0..ENDPOINT_MAPS).map(|n| set(&endpoints_of(n), &[&Mark, &Mark]).map(endpoint())).collect(),
            live: set(LIVE, &[&Mark, address, &InetService]),
            hairpins: set(HAIRPINS, &[address, address]),
            affinity: set(AFFINITY, &[&Mark, address])
                .map(endpoint())
                .dynamic()
                .size(MAX_AFFINITY_CLIENTS)
                .timeout(Duration::from_secs(u64::from(crate::api::services::DEFAULT_AFFINITY_SECONDS))),
        }
    }

    fn all(&self) -> Vec<&Set> {
        let single = [
            &self.services,
            &self.node_ports,
            &self.refused,
            &self.refused_node_ports,
            &self.live,
            &self.hairpins,
            &self.affinity,
        ];
        single.into_iter().chain(&self.endpoints).collect()
    }

    /// The set an element belongs to, by its place in [`Sets::all`], and its form there.
    fn place(&self, element: &Element) -> Result<(usize, SetElement)> {
        let mark = SetElement::mark;
        Ok(match element {
            Element::Front(Front::Address(address, protocol, port), action) => {
                let key = nft::address_key(*address, protocol.number(), *port);
                (if matches!(action, Action::Chain(_)) { 0 } else { 2 }, key.verdict(verdict(action)?))
            }
            Element::Front(Front::Node(protocol, port), action) => {
                let key = nft::port_key(protocol.number(), *port);
                (if matches!(action, Action::Chain(_)) { 1 } else { 3 }, key.verdict(verdict(action)?))
            }
            Element::Endpoint(group, index, endpoint) => {
                let place = 7 + (group % ENDPOINT_MAPS) as usize;
                (place, SetElement::concat([mark(*group), mark(*index)]).value(nft::endpoint_value(*endpoint)))
            }
            Element::Live(group, endpoint) => {
                let parts = [mark(*group), nft::address(endpoint.ip()), SetElement::port(endpoint.port())];
                (4, SetElement::concat(parts))
            }
            Element::Hairpin(address) => (5, SetElement::concat([nft::address(*address), nft::address(*address)])),
        })
    }
}

fn verdict(action: &Action) -> Result<Verdict> {
    Ok(match action {
        Action::Chain(name) => Verdict::GotoTo(ChainName::new(name.as_str())?),
        Action::Reject => Verdict::GotoTo(ChainName::new(REJECT)?),
        Action::Drop => Verdict::Drop,
    })
}

impl Table {
    /// A table of that name, for packets of that family; not yet made.
    pub fn new(name: &str, family: Family) -> Result<Self> {
        Ok(Self { conn: nft::connect()?, name: name.to_owned(), family, sets: Sets::new(name, family) })
    }

    /// Replaces the table by one that holds all this.
    pub async fn install(&self, all: &Change) -> Result<()> {
        let mut t = nft::fresh_table(self.conn.transaction(), &self.name, self.family);
        for set in self.sets.all() {
            t = t.add_set(set.clone());
        }
        t = self.base(t)?;
        self.commit(self.write(t, all)?, all).await
    }

    /// Brings the table from what it holds to what it should.
    pub async fn apply(&self, change: &Change) -> Result<()> {
        self.commit(self.write(self.conn.transaction(), change)?, change).await
    }

    async fn commit(&self, transaction: Transaction, change: &Change) -> Result<()> {
        let elements = change.add.len() + change.del.len();
        let _deaf = (elements > HEARD_ELEMENTS).then(nft::deafen);
        transaction.commit(&self.conn).await
    }

    /// Removes the table; one that is gone is fine.
    pub async fn remove(&self) -> Result<()> {
        self.conn.del_table_if_exists(self.name.as_str(), nft::table_family(self.family)).await.map(drop)
    }

    /// True when the table is there with as many chains and sets as it should have.
    pub async fn is_whole(&self, service_chains: usize) -> Result<bool> {
        let expected = self.sets.all().len() + BASE_CHAINS + OTHER_CHAINS + service_chains;
        let used = nft::table_use(&self.conn, &self.name, self.family).await?;
        Ok(used.is_some_and(|n| usize::try_from(n) == Ok(expected)))
    }

    fn rule(&self, chain: &str, exprs: impl IntoIterator<Item = Expr>) -> NftRule {
        let rule = NftRule::new(&self.name, chain).family(nft::table_family(self.family));
        exprs.into_iter().fold(rule, NftRule::expr)
    }

    fn base(&self, mut t: Transaction) -> Result<Transaction> {
        let family = self.family;
        let chain = |name: &str| NftChain::new(self.name.as_str(), name).map(|c| c.family(nft::table_family(family)));
        t = t.add_chain(chain(REJECT)?);
        for exprs in refusals(family) {
            t = t.add_rule(self.rule(REJECT, exprs));
        }
        for (name, hook) in [("prerouting", NatHook::Prerouting), ("output", NatHook::Output)] {
            t = t
                .add_chain(chain(name)?.base(BaseChain::nat(hook, Priority::DstNat)))
                .add_rule(self.rule(name, by_address(family, SERVICES)))
                .add_rule(self.rule(name, by_node_port(family, NODE_PORTS)));
        }
        let filters =
            [("input", FilterHook::Input), ("forward", FilterHook::Forward), ("output-early", FilterHook::Output)];
        for (name, hook) in filters {
            t = t
                .add_chain(chain(name)?.base(BaseChain::filter(hook, Priority::Custom(BEFORE_DNAT))))
                .add_rule(self.rule(name, new_connection().into_iter().chain(by_address(family, REFUSED))))
                .add_rule(
                    self.rule(name, new_connection().into_iter().chain(by_node_port(family, REFUSED_NODE_PORTS))),
                );
        }
        let name = "postrouting";
        t = t.add_chain(chain(name)?.base(BaseChain::nat(NatHook::Postrouting, Priority::SrcNat)));
        t = t.add_rule(self.rule(name, marked_is_masqueraded()));
        Ok(t.add_rule(self.rule(name, hairpin_is_masqueraded(family))))
    }

    fn write(&self, mut t: Transaction, change: &Change) -> Result<Transaction> {
        let family = nft::table_family(self.family);
        for chain in &change.add_chains {
            let made = NftChain::new(self.name.as_str(), chain.name.as_str())?;
            t = t.add_chain(made.family(family).comment(comment(chain)));
        }
        t = self.elements(t, &change.del, Transaction::del_set_elements)?;
        for chain in &change.set_chains {
            t = t.flush_chain(&self.name, &chain.name, family);
        }
        for chain in change.add_chains.iter().chain(&change.set_chains) {
            for rule in &chain.rules {
                t = t.add_rule(self.rule(&chain.name, lower(self.family, rule)?));
            }
        }
        t = self.elements(t, &change.add, Transaction::add_set_elements)?;
        for name in &change.del_chains {
            t = t.flush_chain(&self.name, name, family);
        }
        for name in &change.del_chains {
            t = t.del_chain(&self.name, name, family);
        }
        Ok(t)
    }

    fn elements(
        &self,
        mut t: Transaction,
        elements: &[Element],
        op: fn(Transaction, &Set, &[SetElement]) -> Transaction,
    ) -> Result<Transaction> {
        let sets = self.sets.all();
        let mut placed = vec![Vec::new(); sets.len()];
        for element in elements {
            let (set, element) = self.sets.place(element)?;
            placed[set].push(element);
        }
        for (set, elements) in sets.into_iter().zip(placed) {
            for some in elements.chunks(nft::ELEMENTS_PER_MESSAGE) {
                t = op(t, set, some);
            }
        }
        Ok(t)
    }
}

/// Bytes of a comment at most; nft's own limit is 128.
const MAX_COMMENT_BYTES: usize = 120;

fn comment(chain: &Chain) -> &str {
    // Names of namespaces, Services and ports are ASCII.
    chain.comment.get(..MAX_COMMENT_BYTES).unwrap_or(&chain.comment)
}

/// `ip daddr . meta l4proto . th dport vmap @map`.
fn by_address(family: Family, map: &str) -> Vec<Expr> {
    let after = words(family);
    let mut exprs = vec![nft::destination(family, word(0))];
    exprs.extend(nft::protocol_and_port(word(after), word(after + 1)));
    exprs.push(nft::verdict_map(map, word(0)));
    exprs
}

/// `fib daddr type local … meta l4proto . th dport vmap @map`.
fn by_node_port(family: Family, map: &str) -> Vec<Expr> {
    let mut exprs = nft::to_this_node(family).to_vec();
    exprs.extend(nft::protocol_and_port(word(0), word(1)));
    exprs.push(nft::verdict_map(map, word(0)));
    exprs
}

fn new_connection() -> [Expr; 3] {
    connection_has(CtKey::State, CT_NEW)
}

fn connection_has(key: CtKey, bit: u32) -> [Expr; 3] {
    let load = Expr::Ct { dreg: Register::R0, key };
    [load, nft::bits(Register::R0, &bit.to_ne_bytes(), &[0; 4]), nft::differs(Register::R0, &[0; 4])]
}

fn marked_is_masqueraded() -> Vec<Expr> {
    let mark = MASQUERADE_MARK.to_ne_bytes();
    let load = || Expr::Meta { dreg: Register::R0, key: MetaKey::Mark };
    vec![
        load(),
        nft::bits(Register::R0, &mark, &[0; 4]),
        nft::equals(Register::R0, &mark),
        // The mark is not for anybody after us.
        load(),
        nft::bits(Register::R0, &(!MASQUERADE_MARK).to_ne_bytes(), &[0; 4]),
        Expr::MetaSet { key: MetaKey::Mark, sreg: Register::R0 },
        nft::masquerade(),
    ]
}

fn hairpin_is_masqueraded(family: Family) -> Vec<Expr> {
    let mut exprs = connection_has(CtKey::Status, CT_DNAT).to_vec();
    exprs.push(nft::source(family, word(0)));
    exprs.push(nft::destination(family, word(words(family))));
    exprs.push(LookupExpr::new(HAIRPINS, word(0)).into());
    exprs.push(nft::masquerade());
    exprs
}

/// What tells a client that nobody is there: its connect fails at once with "connection refused".
fn refusals(family: Family) -> Vec<Vec<Expr>> {
    // ICMP port unreachable.
    let unreachable = |code| vec![Expr::Reject { reject_type: UNREACHABLE, icmp_code: code }];
    match family {
        Family::V4 => vec![unreachable(3)],
        // Its answer comes while the client still connects, and over IPv6 that counts only when it tries again, a second later.
        Family::V6 => {
            let of_tcp = [
                Expr::Meta { dreg: Register::R0, key: MetaKey::L4Proto },
                nft::equals(Register::R0, &[Protocol::Tcp.number()]),
                Expr::Reject { reject_type: RESET, icmp_code: 0 },
            ];
            vec![of_tcp.to_vec(), unreachable(4)]
        }
    }
}

fn mark() -> [Expr; 3] {
    let set = MASQUERADE_MARK;
    [
        Expr::Meta { dreg: Register::R0, key: MetaKey::Mark },
        nft::bits(Register::R0, &(!set).to_ne_bytes(), &set.to_ne_bytes()),
        Expr::MetaSet { key: MetaKey::Mark, sreg: Register::R0 },
    ]
}

fn load(register: Register, number: u32) -> Expr {
    Expr::Immediate { dreg: register, data: number.to_ne_bytes().to_vec() }
}

/// `(group, random index)` → address and port at [`CHOSEN`].
fn pick(group: u32, endpoints: u32) -> Vec<Expr> {
    vec![
        load(word(0), group),
        Expr::Numgen { dreg: word(1), kind: NumgenKind::Random, modulus: endpoints, offset: 0 },
        nft::value_map(&endpoints_of(group), word(0), word(CHOSEN)),
    ]
}

/// Remembers (group, client) → the endpoint at [`CHOSEN`]. `anew` replaces what was remembered before: an update
/// alone only makes it last longer.
fn remember(family: Family, group: u32, seconds: u32, anew: bool) -> Vec<Expr> {
    let op = |op| DynsetExpr::new(op, AFFINITY, word(0)).sreg_data(word(CHOSEN));
    let mut exprs = vec![load(word(0), group), nft::source(family, word(1))];
    if anew {
        exprs.push(op(DynsetOp::Delete).into());
    }
    exprs.push(op(DynsetOp::Update).timeout(Duration::from_secs(u64::from(seconds))).into());
    exprs
}

fn to_picked(family: Family) -> Expr {
    nft::dnat(family, word(CHOSEN), word(CHOSEN + words(family)))
}

/// The kernel's form of a rule.
fn lower(family: Family, rule: &Rule) -> Result<Vec<Expr>> {
    let goto = |chain: &str| ChainName::new(chain).map(|c| Expr::Verdict(Verdict::GotoTo(c)));
    Ok(match rule {
        Rule::Mark => mark().to_vec(),
        Rule::MarkOutside(net) => nft::from_network(*net, false).into_iter().chain(mark()).collect(),
        Rule::GotoFrom(net, chain) => nft::from_network(*net, true).into_iter().chain([goto(chain)?]).collect(),
        Rule::GotoFromNode(chain) => nft::from_this_node().into_iter().chain(mark()).chain([goto(chain)?]).collect(),
        Rule::Goto(chain) => vec![goto(chain)?],
        Rule::Stay(group, seconds) => {
            let mut exprs = vec![
                load(word(0), *group),
                nft::source(family, word(1)),
                nft::value_map(AFFINITY, word(0), word(CHOSEN)),
                // Right before the endpoint: both are one key.
                load(word(CHOSEN - 1), *group),
                LookupExpr::new(LIVE, word(CHOSEN - 1)).into(),
            ];
            exprs.extend(remember(family, *group, *seconds, false));
            exprs.push(to_picked(family));
            exprs
        }
        Rule::PickAndRemember(group, n, seconds) => {
            let mut exprs = pick(*group, *n);
            exprs.extend(remember(family, *group, *seconds, true));
            exprs.push(to_picked(family));
            exprs
        }
        Rule::Pick(group, n) => pick(*group, *n).into_iter().chain([to_picked(family)]).collect(),
        Rule::Drop => vec![Expr::Verdict(Verdict::Drop)],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_up_and_what_was_found_have_registers_of_their_own() {
        for family in Family::ALL {
            let (group, client, endpoint) = (1, words(family), words(family) + 1);
            assert!(group + client < CHOSEN, "{family}: a group stands once more right before the endpoint");
            assert!(CHOSEN + endpoint <= 16, "{family}: there are 16");
            assert_eq!(word(CHOSEN + words(family)) as usize - word(CHOSEN) as usize, words(family));
        }
    }

    #[test]
    fn over_ipv6_a_refused_connection_is_reset() {
        assert_eq!(refusals(Family::V4).len(), 1);
        assert_eq!(refusals(Family::V6).len(), 2, "TCP has an answer of its own");
    }
}
