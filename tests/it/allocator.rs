//! The allocator takes the options that `util::sys` has for it: a symbol that the linker drops, or whose name the
//! allocator does not look for, would change nothing but the memory of a server.

use std::process::Command;

#[test]
fn the_binary_has_our_options() {
    let (options, _nul) = orch::util::sys::ALLOCATOR_OPTIONS.split_at(orch::util::sys::ALLOCATOR_OPTIONS.len() - 1);
    let options = std::str::from_utf8(options).unwrap();
    let mut orch = Command::new(env!("CARGO_BIN_EXE_orch"));
    let out = orch.arg("--version").env("_RJEM_MALLOC_CONF", "confirm_conf:true").output().unwrap();
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(told.contains(options), "{told}");
    for option in options.split(',') {
        assert!(told.contains(&format!("Set conf value: {option}")), "{option}: {told}");
    }
}
