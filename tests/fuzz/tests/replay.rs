//! All targets over the inputs that are kept, and over long ones.

use fuzz::{MAX_INPUT_BYTES, TARGETS, check, corpus};

/// Long enough for what does not grow in step to show, and short enough for a build without optimisation.
const LONG_BYTES: usize = 48 << 10;

#[test]
fn what_was_found_once_holds_now() {
    for target in TARGETS {
        let inputs = corpus(target);
        assert!(!inputs.is_empty(), "{} has no corpus", target.name);
        for (path, input) in inputs {
            println!("{}", path.display());
            check(target, &input);
        }
    }
}

#[test]
fn nothing_at_all_and_single_bytes_are_taken() {
    for target in TARGETS {
        check(target, b"");
        for byte in 0..=u8::MAX {
            check(target, &[byte]);
        }
    }
}

#[test]
fn long_inputs_become_no_longer() {
    for target in TARGETS {
        for (at, long) in target.long.iter().enumerate() {
            println!("{} {at}", target.name);
            check(target, &long.of(LONG_BYTES));
        }
    }
}

#[test]
fn corpora_are_small() {
    for target in TARGETS {
        let inputs = corpus(target);
        let bytes: usize = inputs.iter().map(|(_, input)| input.len()).sum();
        assert!(
            inputs.len() <= 20,
            "{}: {} files",
            target.name,
            inputs.len()
        );
        assert!(bytes <= 64 << 10, "{}: {bytes} bytes", target.name);
        let longest = inputs.iter().map(|(_, input)| input.len()).max();
        assert!(longest <= Some(MAX_INPUT_BYTES));
    }
}
