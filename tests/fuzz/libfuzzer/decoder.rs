//! The target that FUZZ_TARGET names, under libFuzzer: first over its long inputs, then over whatever finds new ways.
#![no_main]

use std::sync::LazyLock;

use fuzz::{MAX_INPUT_BYTES, Target, check};
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<&'static Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET is the name of a target");
    let target = fuzz::target(&name);
    for long in target.long {
        check(target, &long.of(MAX_INPUT_BYTES));
    }
    target
});

fuzz_target!(|input: &[u8]| check(&TARGET, input));
