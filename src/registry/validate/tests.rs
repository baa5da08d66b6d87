//! The shared validators, in tables.

use super::*;
use test_case::test_case;

#[test_case("10.0.0.1", true)]
#[test_case("010.0.0.1", true; "leading zeros are decimal")]
#[test_case("10.0.0", false)]
#[test_case("10.0.0.256", false)]
#[test_case("::1", true)]
#[test_case("", false; "empty")]
fn addresses(text: &str, ok: bool) {
    assert_eq!(parse_ip(text).is_some(), ok);
}

#[test_case("http", 0)]
#[test_case("-a-", 1; "hyphens at the ends")]
#[test_case("80", 1; "no letter")]
#[test_case("UPPER", 2; "no capitals, and so no letter")]
#[test_case("abcdefghijklmnop", 1; "too long")]
fn port_names(name: &str, errors: usize) {
    assert_eq!(port_name(name).len(), errors);
}

#[test]
fn descending_paths_stay_below() {
    let judge = |path: &str| {
        let (value, errs) = (Value::from(path), FieldErrors::new());
        local_descending_path(&Field::root(&value, &errs));
        errs.len()
    };
    assert_eq!((judge("a/b"), judge("/a"), judge("a/../b"), judge("a..b")), (0, 1, 1, 0));
}

#[test]
fn percentages() {
    assert_eq!((percent("10%"), percent("%"), percent("-1%"), percent("1")), (Some(10), None, None, None));
    assert!(is_zero(Some(&"0%".into())) && !is_zero(Some(&1.into())) && is_zero(None));
}
