//! Whatever bytes come: what parses says yes or no, in time, and never panics.
//!
//! Inputs are made of a small corpus by a generator with a seed: a failure prints target, seed and number of the case, and
//! `ORCH_FUZZ_SEED=… cargo test --test it fuzz` runs it again. `ORCH_FUZZ_CASES` makes it look longer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use orch::api::cel::{Budget, Env, Named, Program, Type, Val};
use orch::api::codec::{json, proto, yaml};
use orch::api::cron::Schedule;
use orch::api::jsonpath::JsonPath;
use orch::api::meta::fields::FieldSelector;
use orch::api::meta::labels::Selector;
use orch::api::meta::quantity::Quantity;
use orch::api::patch;
use orch::api::schema::{self, View};
use serde_json::{Value, json};
use test_case::test_case;

/// Cases of each target when nothing else is said.
const CASES: u64 = 400;
/// The seed when nothing else is said.
const SEED: u64 = 20_261_128;
/// Longest input, bytes.
const INPUT_MAX_BYTES: usize = 64 << 10;
/// Until one case is done, on the busiest machine: what is quadratic in such an input would still show.
const LONG: Duration = Duration::from_secs(30);

/// A generator of numbers: the same seed, the same numbers.
pub struct Dice(u64);

impl Dice {
    /// Of a case.
    pub fn of(seed: u64, case: u64) -> Self {
        Self((seed ^ case.wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// One of them.
    pub fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

/// What parsers stumble over.
const WORDS: &[&[u8]] = &[
    b"\0",
    b"\xff\xfe",
    b"\xc3",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b"\\u",
    b"\\ud800",
    b"null",
    b"-",
    b"1e999",
    b"0x",
    b"NaN",
    b"&a ",
    b"*a ",
    b"<<: ",
    b"!!binary ",
    b"---\n",
    b"\t",
    b": ",
    b"- ",
    b"(",
    b")",
    b"..",
    b"[*]",
    b"?(@.",
    b"in (",
    b"notin",
    b"!",
    b"==",
    b"=",
    b",",
    b"999999999999999999999",
    b"9223372036854775808",
    b"-9223372036854775808",
    b"Ei",
    b"n",
    b"%",
    b"~1",
    b"~",
    b"/-",
    b"$patch",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80",
    b"\x0a\xff\xff\xff\xff\x0f",
    b".matches('",
    b"all(x,",
    b"\xf0\x9f\x98\x80",
];

/// A text of the corpus, changed here and there.
pub fn mutated(dice: &mut Dice, corpus: &[&[u8]]) -> Vec<u8> {
    let mut out = dice.pick(corpus).to_vec();
    for _ in 0..=dice.below(6) {
        let at = dice.below(out.len() + 1);
        match dice.below(7) {
            0 if !out.is_empty() => {
                let at = at.min(out.len() - 1);
                out[at] ^= 1 << dice.below(8);
            }
            1 => {
                let word = dice.pick(WORDS);
                out.splice(at..at, word.iter().copied());
            }
            2 => {
                let end = (at + dice.below(16)).min(out.len());
                out.drain(at..end);
            }
            3 => {
                let end = (at + dice.below(64)).min(out.len());
                let part = out[at..end].repeat(1 + dice.below(40));
                out.splice(at..at, part);
            }
            4 => {
                let other = dice.pick(corpus);
                let from = dice.below(other.len() + 1);
                out.splice(at.., other[from..].iter().copied());
            }
            5 => out.truncate(at),
            _ => {
                let word = dice.pick(WORDS).repeat(1 + dice.below(300));
                out.splice(at..at, word);
            }
        }
        out.truncate(INPUT_MAX_BYTES);
    }
    out
}

/// How many cases, and from which seed.
pub fn asked() -> (u64, u64) {
    let number = |name: &str, otherwise| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(otherwise);
    (number("ORCH_FUZZ_CASES", CASES), number("ORCH_FUZZ_SEED", SEED))
}

fn with_text(input: &[u8], parse: impl Fn(&str)) {
    parse(&String::from_utf8_lossy(input));
}

fn parsed(input: &[u8]) -> Option<Value> {
    json::parse(input).ok().map(|p| p.value)
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}},
        "spec": {"containers": [{"name": "a", "image": "i", "ports": [{"containerPort": 80, "protocol": "TCP"}],
            "env": [{"name": "E", "value": "1"}], "resources": {"limits": {"cpu": "1500m"}}}], "tolerations": [{"key": "k"}]}})
}

fn patches(input: &[u8]) {
    let Some(patch) = parsed(input) else { return };
    let def = schema::table().kind("", "v1", "Pod").unwrap();
    drop(patch::json::apply(pod(), patch.clone()));
    drop(patch::merge::apply(pod(), patch.clone()));
    drop(patch::strategic::apply(pod(), patch.clone(), View::of(def)));
    drop(patch::apply::merge_into(View::of(def), &pod(), &patch));
    drop(patch::apply::merge_into(View::deduced(), &pod(), &patch));
    drop(schema::canonicalize(patch, def));
}

fn protobuf(input: &[u8]) {
    let def = schema::table().kind("", "v1", "Pod").unwrap();
    if let Ok(envelope) = proto::open(input) {
        drop(proto::decode(&envelope, def));
    }
    let _ = proto::read_watch_event(input);
}

fn cel(text: &str) {
    let env = Env::new().with("self", Type::Dyn);
    if let Ok(program) = Program::compile(&env, text) {
        let values = [("self", Val::from_json(&pod()))];
        drop(program.eval(&Named(&values), &mut Budget::new(100_000)));
    }
}

const JSON: &[&[u8]] = &[
    br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","labels":{"k":"v"}},"data":{"k":"\u00e4\n"},"n":[1,-2.5e3,true,null]}"#,
    br#"[[[[{"a":{"b":{"c":[]}}}]]]]"#,
    br#""\ud83d\ude00""#,
];
const YAML: &[&[u8]] = &[
    b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  k: |\n    text\n  m: 0644\n---\na: &x [1, 2]\nb: *x\n<<: {c: yes}\n",
    b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n",
    b"? [complex, key]\n: !!str 5\n",
];
const SELECTORS: &[&[u8]] =
    &[b"a=b,c!=d,e in (f, g),h notin (i),!j,k", b"app.kubernetes.io/name==x", b"metadata.name=a,spec.nodeName!=b\\,c"];
const QUANTITIES: &[&[u8]] = &[b"1.5Gi", b"100m", b"-3e-9", b"12E", b"0.000000001", b"1Ki"];
const PATCHES: &[&[u8]] = &[
    br#"[{"op":"add","path":"/spec/containers/-","value":{"name":"b"}},{"op":"move","from":"/metadata","path":"/a~1b"},{"op":"test","path":"","value":1}]"#,
    br#"{"spec":{"containers":[{"name":"a","$patch":"delete"},{"$patch":"replace"}],"$setElementOrder/containers":[{"name":"a"}],"$retainKeys":["x"]}}"#,
    br#"{"metadata":{"labels":{"a":null},"$deleteFromPrimitiveList/finalizers":["f"]},"spec":{"tolerations":[{"key":"k"},{"key":"k"}]}}"#,
];
const CEL: &[&[u8]] = &[
    b"self.spec.containers.all(c, c.image.matches('^a+b') && size(c.name) < 3) ? 'x' : [1, 2u, 3.0].map(x, x * 2)[0]",
    b"duration('1h') + timestamp('2020-01-01T00:00:00Z') > self.x || has(self.metadata.labels) && \"a\" in {'a': b'\\x00'}",
    b"quantity('1Gi').add(1).isGreaterThan(quantity('2')) || ip('::1').family() == 6 || url('http://a/b').getHost() == 'a'",
    b"optional.of(self).?a.orValue('') + '%s'.format([self.metadata]) + sets.contains([1], [1]).string()",
];
const PATHS: &[&[u8]] =
    &[b"{.items[*].metadata.name}", b"{range .a[?(@.b==\"c\")]}{.d['e.f']}{end}", b".spec.a[-1:0:2]", b"{..x}"];
const CRONS: &[&[u8]] = &[b"*/5 0-23/2 1,15 JAN-DEC mon#2", b"@hourly", b"0 0 29 2 *", b"TZ=UTC 1 2 3 4 5"];

fn proto_corpus() -> Vec<Vec<u8>> {
    let def = schema::table().kind("", "v1", "Pod").unwrap();
    let body = proto::encode(&pod(), def);
    vec![proto::watch_frame("ADDED", &body), body]
}

type Parse = fn(&[u8]);

#[test_case("json", JSON, |i| drop(json::parse(i)); "json")]
#[test_case("yaml", YAML, |i| drop(yaml::parse_last_wins(i)); "yaml")]
#[test_case("yaml stream", YAML, |i| with_text(i, |t| drop(yaml::parse_all(t))); "yaml stream")]
#[test_case("labels", SELECTORS, |i| with_text(i, |t| drop(Selector::parse(t))); "label selectors")]
#[test_case("fields", SELECTORS, |i| with_text(i, |t| { let _ = FieldSelector::parse(t); }); "field selectors")]
#[test_case("quantity", QUANTITIES, |i| with_text(i, |t| { let _ = Quantity::parse(t); }); "quantities")]
#[test_case("patch", PATCHES, patches; "patches")]
#[test_case("cel", CEL, |i| with_text(i, cel); "cel")]
#[test_case("jsonpath", PATHS, |i| with_text(i, |t| { drop(JsonPath::parse(t)); drop(JsonPath::relaxed(t)); }); "json paths")]
#[test_case("cron", CRONS, |i| with_text(i, |t| drop(Schedule::parse(t))); "schedules")]
#[test_case("protobuf", &[], protobuf; "protobuf")]
#[test_case("join token", &[b"K10abc::id123:secret", b"abcdef.0123456789abcdef"], |i| with_text(i, |t| drop(orch::pki::token::parse(t))); "join tokens")]
#[test_case("csr", &[b"-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----\n"], |i| drop(orch::pki::request::read(i)); "requests for certificates")]
fn nothing_that_parses_panics(target: &str, corpus: &[&[u8]], parse: Parse) {
    let own = proto_corpus();
    let own: Vec<&[u8]> = own.iter().map(Vec::as_slice).collect();
    let corpus = if corpus.is_empty() { &own } else { corpus };
    let (cases, seed) = asked();
    for case in 0..cases {
        let input = mutated(&mut Dice::of(seed, case), corpus);
        let begun = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(|| parse(&input)));
        let shown = || String::from_utf8_lossy(&input[..input.len().min(400)]).into_owned();
        assert!(done.is_ok(), "{target}: case {case} of seed {seed} panicked: {:?}", shown());
        assert!(begun.elapsed() < LONG, "{target}: case {case} of seed {seed} took too long: {:?}", shown());
    }
}

/// Depth and aliases are bounded before they cost anything.
#[test]
fn depth_and_aliases_are_refused() {
    const DEEP: usize = 10_000;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let text = format!("{}1{}", open.repeat(DEEP), close.repeat(DEEP));
        assert!(json::parse(text.as_bytes()).is_err());
        assert!(yaml::parse_last_wins(text.as_bytes()).is_err());
    }
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let aliases = vec![format!("*a{}", i - 1); 9].join(", ");
        bomb.push_str(&format!("a{i}: &a{i} [{aliases}]\n"));
    }
    assert!(yaml::parse_last_wins(bomb.as_bytes()).is_err());
    assert!(yaml::parse_all(&bomb).is_err());
    assert!(Program::compile(&Env::new(), &"(".repeat(DEEP)).is_err());
    assert!(Program::compile(&Env::new(), &format!("{}1", "-".repeat(DEEP))).is_err());
    assert!(Program::compile(&Env::new(), &format!("1{}", "+1".repeat(DEEP))).is_err());
}
