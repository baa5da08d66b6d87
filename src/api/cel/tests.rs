//! Expressions and their values, as cel-go has them.

use proptest::prelude::*;
use serde_json::json;
use test_case::test_case;

use super::*;

fn run(text: &str) -> Result<Val, String> {
    let doc = json!({"n": 5, "s": "abc", "l": ["a", "b"], "o": {"x": 1}, "d": 1.5});
    let program = Program::compile(&Env::new().with("v", Type::Dyn), text).map_err(|e| e.0)?;
    let vars: &[(&str, Val)] = &[("v", Val::from_json(&doc))];
    let mut budget = Budget::new(cost::PER_OBJECT);
    program.eval(&Named(vars), &mut budget).map_err(|e| e.to_string())
}

#[test_case("1 + 2 * 3 == 7"; "precedence")]
#[test_case("-5 / 2 == -2 && -5 % 2 == -1"; "division towards zero")]
#[test_case("-9223372036854775808 < 0"; "the smallest number")]
#[test_case("0x10 == 16 && 1u + 2u == 3u"; "hex and unsigned")]
#[test_case("1.5e3 == 1500.0 && .5 < 1.0"; "doubles")]
#[test_case("1 < 1.5 && 2u > 1.5 && dyn(1) == dyn(1.0) && dyn(1) == dyn(1u)"; "numbers of several types")]
#[test_case("dyn(1) != dyn('1')"; "other types differ")]
#[test_case("'a' + \"b\" + r'\\n' == 'ab\\\\n'"; "texts")]
#[test_case("'''a\nb'''.size() == 3 && '\\u00e9'.size() == 1 && b'\\xff'.size() == 1"; "escapes")]
#[test_case("true || 1/0 == 1"; "or absorbs")]
#[test_case("1/0 == 1 || true"; "or absorbs on the left")]
#[test_case("!(1/0 == 1 && false)"; "and absorbs")]
#[test_case("v.n == 5 && v.o.x == 1 && v['s'] == 'abc' && v.l[1] == 'b'"; "members")]
#[test_case("has(v.n) && !has(v.zz) && 'n' in v && !('zz' in v) && 'a' in v.l"; "presence")]
#[test_case("v.?zz.orValue(3) == 3 && v.?o.x.hasValue() && !v.?zz.x.hasValue()"; "optional members")]
#[test_case("v.l[?5].orValue('z') == 'z' && v[?'s'].value() == 'abc'"; "optional indexes")]
#[test_case("optional.of(1).optMap(x, x + 1).value() == 2 && optional.none().or(optional.of(2)).value() == 2"; "optionals")]
#[test_case("[?optional.none(), 1].size() == 1 && {?'a': optional.of(1)}.a == 1"; "optional entries")]
#[test_case("[1,2,3].all(x, x > 0) && [1,2].exists(x, x == 2) && [1,2,2].exists_one(x, x == 1)"; "macros")]
#[test_case("[1,2,3].map(x, x * 2) == [2,4,6] && [1,2,3].map(x, x > 1, x * 2) == [4,6] && [1,2].filter(x, x > 1) == [2]"; "lists of results")]
#[test_case("{'a': 1, 'b': 2}.all(k, k != '') && {'a': 1}.map(k, k) == ['a']"; "macros over maps")]
#[test_case("[1,2].all(i, x, i + 1 == x) && {'a': 1}.exists(k, x, k == 'a' && x == 1)"; "two variables")]
#[test_case("[1,2].transformList(i, x, i * x) == [0,2] && {'a': 1}.transformMap(k, x, x + 1) == {'a': 2}"; "transforms")]
#[test_case("{'a': 'x'}.transformMapEntry(k, x, {x: k}) == {'x': 'a'} && ['a'].transformMap(i, x, x)[0] == 'a'"; "entries")]
#[test_case("cel.bind(x, 2, x * x) == 4"; "bind")]
#[test_case("[1,2].exists(x, 1/(x-1) > 0)"; "exists absorbs")]
#[test_case("![0,1].all(x, 1/x > 5)"; "all absorbs")]
#[test_case("int('5') == 5 && uint(5) == 5u && double('1.5') == 1.5 && string(1) == '1' && bool('true')"; "conversions")]
#[test_case("string(1.0) == '1' && string(1e6) == '1e+06' && string(0.5) == '0.5' && int(1.9) == 1"; "doubles as text")]
#[test_case("type(1) == int && type('a') == string && type([]) == list && type(null) == null_type"; "types")]
#[test_case("bytes('abc') == b'abc' && string(b'abc') == 'abc'"; "bytes")]
#[test_case("timestamp('2024-01-02T03:04:05Z') + duration('1h') == timestamp('2024-01-02T04:04:05Z')"; "times")]
#[test_case("timestamp('2024-01-02T03:04:05.006Z').getMilliseconds() == 6 && timestamp('2024-01-02T00:00:00Z').getDayOfMonth() == 1"; "parts of times")]
#[test_case("timestamp('2024-01-02T03:04:05Z').getHours('-02:00') == 1 && timestamp('2024-01-07T00:00:00Z').getDayOfWeek() == 0"; "time zones")]
#[test_case("duration('1h30m').getMinutes() == 90 && string(duration('1.5s')) == '1.5s' && duration('-1ms') < duration('0')"; "durations")]
#[test_case("timestamp('2024-01-02T00:00:00Z') - timestamp('2024-01-01T00:00:00Z') == duration('24h')"; "differences of times")]
#[test_case("'hello'.charAt(1) == 'e' && 'hello'.charAt(5) == '' && 'hello'.substring(1, 3) == 'el'"; "characters")]
#[test_case("'hello'.indexOf('l') == 2 && 'hello'.lastIndexOf('l') == 3 && 'hello'.indexOf('l', 3) == 3 && 'hello'.lastIndexOf('l', 2) == 2"; "places")]
#[test_case("'a,b,c'.split(',') == ['a','b','c'] && 'a,b,c'.split(',', 2) == ['a','b,c'] && 'ab'.split('') == ['a','b']"; "split")]
#[test_case("'aXbX'.replace('X','-') == 'a-b-' && 'aXbX'.replace('X','-',1) == 'a-bX' && ['a','b'].join('-') == 'a-b'"; "replace and join")]
#[test_case("' a '.trim() == 'a' && 'Ab'.lowerAscii() == 'ab' && 'Ab'.upperAscii() == 'AB'"; "case")]
#[test_case("'%s %d %.2f %x %b %%'.format([dyn('a'), 5, 1.0, 255, 5]) == 'a 5 1.00 ff 101 %'"; "format")]
#[test_case("'%s'.format([[dyn(1), 'a', {'k': true}]]) == '[1, a, {k: true}]' && strings.quote('a\"b') == '\"a\\\\\"b\"'"; "format of lists")]
#[test_case("'abc'.matches('^a.c$') && 'a12b'.find('[0-9]+') == '12' && 'ab'.findAll('[a-z]') == ['a','b'] && 'ab'.findAll('[a-z]', 1) == ['a']"; "patterns")]
#[test_case("[1,2,3].isSorted() && [1,2,3].sum() == 6 && [3,1].min() == 1 && ['a','b'].max() == 'b' && [1,2,1].lastIndexOf(1) == 2"; "lists")]
#[test_case("sets.contains([1,2],[2]) && sets.equivalent([1,2],[2,1,1]) && sets.intersects([1],[1,2])"; "sets")]
#[test_case("[3,1,2].sort() == [1,2,3] && [1,1].distinct() == [1] && [1,2,3].slice(1,3) == [2,3] && [[1],[2]].flatten() == [1,2]"; "more of lists")]
#[test_case("lists.range(3) == [0,1,2] && [1,2].reverse() == [2,1] && [{'a': 2}, {'a': 1}].sortBy(x, x.a)[0].a == 1 && [1].first().value() == 1"; "even more of lists")]
#[test_case("quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('500m').add(quantity('500m')).asInteger() == 1 && quantity('1k').sub(1).compareTo(quantity('999')) == 0"; "quantities")]
#[test_case("isQuantity('1Gi') && !isQuantity('x') && quantity('-1').sign() == -1 && !quantity('1m').isInteger()"; "more of quantities")]
#[test_case("url('https://a:80/x?k=v&k=w').getPort() == '80' && url('https://a/x?k=v&k=w').getQuery() == {'k': ['v','w']} && url('https://[::1]:80/').getHostname() == '::1'"; "urls")]
#[test_case("ip('10.0.0.1').family() == 4 && ip('::1').isLoopback() && ip.isCanonical('::1') && !ip.isCanonical('0:0::1') && !isIP('1.2.3')"; "addresses")]
#[test_case("cidr('10.0.0.0/8').containsIP('10.1.1.1') && cidr('10.0.0.0/8').containsCIDR(cidr('10.1.0.0/16')) && cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8') && string(cidr('10.1.2.3/8').ip()) == '10.1.2.3'"; "prefixes")]
#[test_case("semver('1.2.3').isLessThan(semver('1.10.0')) && semver('v1.2', true).minor() == 2 && !isSemver('1.2') && semver('1.0.0-rc.1').compareTo(semver('1.0.0')) == -1"; "versions")]
#[test_case("!format.dns1123Label().validate('abc').hasValue() && format.dns1123Label().validate('A_b').value().size() > 0 && !format.named('nope').hasValue()"; "formats")]
#[test_case("v.d == 1.5 && v.n > 4.5"; "dynamic numbers")]
#[test_case("{1: 'a'}[1] == 'a' && {true: 1}[true] == 1"; "keys of other types")]
#[test_case("dyn([1, 2]) == [1, 2] && [] == [] && {'a': [1]} == {'a': [1]}"; "deep equality")]
#[test_case("// a comment\n 1 == 1"; "comments")]
#[test_case("jsonpatch.escapeKey('a/b~c') == 'a~1b~0c'"; "escape of keys")]
fn is_true(text: &str) {
    assert_eq!(run(text).map(|v| matches!(v, Val::Bool(true))), Ok(true), "{text}");
}

#[test_case("9223372036854775807 + 1", "integer overflow")]
#[test_case("1 / 0", "division by zero")]
#[test_case("1 % 0", "modulus by zero")]
#[test_case("1u - 2u", "unsigned integer overflow")]
#[test_case("v.zz", "no such key: zz")]
#[test_case("v.l[7]", "index out of bounds: 7")]
#[test_case("{'a': 1}['b']", "no such key: b")]
#[test_case("v.s.size() + v.s", "no such overload")]
#[test_case("v.s.foo == 1", "no such overload")]
#[test_case("optional.none().value()", "optional.none() dereference")]
#[test_case("'abc'.substring(5)", "index out of range: 5")]
#[test_case("dyn([]).min()", "min called on empty list")]
#[test_case("false || v.zz", "no such key: zz")]
#[test_case("{'a': 1, 'a': 2}", "insert failed: key a already exists")]
#[test_case(
    "quantity('zz')",
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)]
#[test_case(
    "url('no url')",
    "URL parse error during conversion from string: parse \"no url\": invalid URI for request"
)]
fn fails(text: &str, why: &str) {
    assert_eq!(run(text).map(|_| ()), Err(why.to_owned()), "{text}");
}

#[test_case("1 +", "1:4: Syntax error: mismatched input '<EOF>'")]
#[test_case("'a", "1:1: Syntax error: token recognition error")]
#[test_case("foo == 1", "1:1: undeclared reference to 'foo' (in container '')")]
#[test_case("'a' == 5", "1:5: found no matching overload for '_==_' applied to '(string, int)'")]
#[test_case("'a' + 1", "1:5: found no matching overload for '_+_' applied to '(string, int)'")]
#[test_case("'a'.frobnicate()", "1:15: undeclared reference to 'frobnicate'")]
#[test_case("'a'.startsWith(1)", "found no matching overload for 'startsWith' applied to 'string.(int)'")]
#[test_case("[1, 'a']", "expected type 'int' but found 'string'")]
#[test_case("'a'.matches('(')", "invalid matches argument")]
#[test_case("timestamp('x') == timestamp('y')", "invalid timestamp argument")]
#[test_case("'abc'.all(x, x == 'a')", "cannot be range of a comprehension")]
#[test_case("[1].all(1, true)", "argument must be a simple name")]
#[test_case("[1].all(x, x + 1)", "expected type 'bool' but found 'int'")]
#[test_case("has(v)", "invalid argument to has() macro")]
#[test_case("1 && true", "found no matching overload for '_&&_' applied to '(int, bool)'")]
#[test_case("Foo{a: 1}", "undeclared reference to 'Foo'")]
#[test_case("for", "reserved identifier: for")]
#[test_case("9223372036854775808", "invalid int literal")]
#[test_case("'a'.x", "type 'string' does not support field selection")]
fn does_not_compile(text: &str, why: &str) {
    let got = run(text);
    assert!(matches!(&got, Err(e) if e.starts_with("ERROR: <input>:") && e.contains(why)), "{text}: {got:?}");
}

#[test]
fn fields_of_objects_are_known() {
    let object = Type::object("thing", [("a", Type::Int), ("m", Type::map(Type::String, Type::String))]);
    let env =
        Env::new().with("self", object).with("variables", Type::object("variables", [])).with("variables.x", Type::Int);
    for (text, want) in [
        ("self.a > 1", None),
        ("self.zz == 1", Some("undefined field 'zz'")),
        ("self.m.any == 'x'", None),
        ("has(self.a)", None),
        ("has(self.zz)", Some("undefined field 'zz'")),
        ("variables.x == 1", None),
        ("variables.x == 'a'", Some("no matching overload")),
        ("variables.y == 1", Some("undefined field 'y'")),
        ("self == null", None),
        ("self.a == null", Some("no matching overload")),
    ] {
        let got = Program::compile(&env, text).map_err(|e| e.0);
        match want {
            None => assert!(got.is_ok(), "{text}: {got:?}"),
            Some(why) => assert!(matches!(&got, Err(e) if e.contains(why)), "{text}: {got:?}"),
        }
    }
}

#[test]
fn patches_are_objects_named_after_their_places() {
    let env = Env::new().with_patches();
    let json = |text: &str| {
        let program = Program::compile(&env, text).map_err(|e| e.0)?;
        let value = program.eval(&Named(&[]), &mut Budget::new(1000)).map_err(|e| e.to_string())?;
        Ok::<_, String>(value.to_json())
    };
    assert_eq!(
        json("Object{metadata: Object.metadata{labels: {'a': 'b'}}}"),
        Ok(Some(json!({"metadata": {"labels": {"a": "b"}}})))
    );
    assert_eq!(
        json("[JSONPatch{op: 'add', path: '/a', value: 1}]"),
        Ok(Some(json!([{"op": "add", "path": "/a", "value": 1}])))
    );
    assert!(json("Object{spec: Object.metadata{a: 1}}").is_err());
    assert!(json("JSONPatch{nope: 1}").is_err());
}

#[test_case("lists.range(1000).all(a, lists.range(1000).all(b, lists.range(1000).all(c, true)))"; "loops in loops")]
#[test_case(&doubled("[a, a]", 60, "a == a"); "values that share parts")]
#[test_case(&doubled("a + a", 60, "a.size() > 0"); "lists that double")]
#[test_case(&doubled("a + a", 60, "a == 'x'").replacen("[1]", "'x'", 1); "texts that double")]
fn too_much_work_ends(text: &str) {
    assert_eq!(run(text).map(|_| ()), Err(Error::Budget.to_string()));
}

/// Binds `a` to a list and then, again and again, to what is made of it.
fn doubled(step: &str, times: usize, end: &str) -> String {
    let mut text = "cel.bind(a, [1], ".to_owned();
    for _ in 0..times {
        text += &format!("cel.bind(a, dyn({step}), ");
    }
    text + end + &")".repeat(times + 1)
}

#[test_case(&"(".repeat(100_000); "brackets")]
#[test_case(&"!".repeat(100_000); "negations")]
#[test_case(&"[".repeat(100_000); "lists")]
#[test_case(&("1".to_owned() + &"+1".repeat(40_000)); "a long sum")]
#[test_case(&("v".to_owned() + &".a".repeat(40_000)); "a long path")]
#[test_case(&("v".to_owned() + &"[0]".repeat(30_000)); "a long row of indexes")]
#[test_case(&("true?1:".repeat(14_000) + "1"); "a long row of conditions")]
fn too_deep_does_not_compile(text: &str) {
    assert!(Program::compile(&Env::new().with("v", Type::Dyn), text).is_err());
}

proptest! {
    #[test]
    fn any_text_ends_without_a_panic(text in ".{0,80}") {
        let _ = run(&text);
    }

    #[test]
    fn any_words_end_without_a_panic(words in proptest::collection::vec(proptest::sample::select(WORDS), 0..30)) {
        let _ = run(&words.concat());
    }
}

const WORDS: &[&str] = &[
    "v",
    "x",
    ".",
    "?",
    "[",
    "]",
    "(",
    ")",
    "{",
    "}",
    ",",
    ":",
    "1",
    "2u",
    "1.5",
    "'a'",
    "b'a'",
    "null",
    "true",
    "+",
    "-",
    "*",
    "/",
    "%",
    "==",
    "<",
    "&&",
    "||",
    "!",
    " in ",
    "size",
    "all(x,",
    "map(x,",
    "has(",
    "matches",
    "format",
    "dyn(",
    "int(",
    "v.n",
    "v.l",
    "v.s",
    "substring",
    "split",
    "cel.bind(x,",
    "optional.of(",
    "timestamp(",
    "9223372036854775807",
];
