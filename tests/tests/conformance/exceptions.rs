//! The committed list of tests that fail directly on our cluster of one node, each under its reason.

use anyhow::{Context, Result, ensure};

use crate::settings::{Group, Way};

const COMMITTED: &str = include_str!("fails-directly");

/// Tests that are not run through kas, since they fail without it.
#[derive(Debug)]
pub(crate) struct Exceptions(Vec<Exception>);

#[derive(Debug)]
struct Exception {
    test: String,
    reason: String,
    /// It is not even run directly.
    harms: bool,
}

impl Exceptions {
    pub(crate) fn committed() -> Result<Self> {
        Self::parse(COMMITTED)
    }

    /// Lines that begin with `# ` are the reason of the tests that follow; the lines before the first empty one say
    /// what the file is. A test that takes the node down is behind `! `.
    fn parse(text: &str) -> Result<Self> {
        let (_, list) = text.split_once("\n\n").context("no empty line")?;
        let mut exceptions = Vec::<Exception>::new();
        let mut reason = String::new();
        let mut in_reason = false;
        for line in list.lines().filter(|line| !line.is_empty()) {
            if let Some(words) = line.strip_prefix("# ") {
                if !in_reason {
                    reason.clear();
                }
                in_reason = true;
                reason = format!("{reason} {words}").trim().to_owned();
                continue;
            }
            in_reason = false;
            let (harms, test) = match line.strip_prefix("! ") {
                Some(test) => (true, test),
                None => (false, line),
            };
            ensure!(!reason.is_empty(), "no reason: {test}");
            ensure!(is_ours(test), "of no group of ours: {test}");
            let twice = exceptions.iter().any(|it| it.test == test);
            ensure!(!twice, "twice: {test}");
            exceptions.push(Exception {
                test: test.to_owned(),
                reason: reason.clone(),
                harms,
            });
        }
        Ok(Self(exceptions))
    }

    pub(crate) fn has(&self, test: &str) -> bool {
        self.0.iter().any(|it| it.test == test)
    }

    /// Which tests of a group are not run by this way: directly, all are that do no harm.
    pub(crate) fn of(&self, group: Group, way: Way) -> Vec<&str> {
        let skipped = self.0.iter().filter(|it| it.harms || way != Way::Direct);
        let tests = skipped.map(|it| it.test.as_str());
        tests
            .filter(|test| test.starts_with(&group.prefix()))
            .collect()
    }

    /// Each reason, and how many tests have it.
    pub(crate) fn reasons(&self) -> Vec<(&str, usize)> {
        let mut reasons = Vec::<(&str, usize)>::new();
        for exception in &self.0 {
            match reasons.iter_mut().find(|it| it.0 == exception.reason) {
                Some(reason) => reason.1 += 1,
                None => reasons.push((&exception.reason, 1)),
            }
        }
        reasons
    }
}

fn is_ours(test: &str) -> bool {
    let of_a_group = |group: Group| test.starts_with(&group.prefix());
    Group::ALL.into_iter().any(of_a_group) && test.contains("[Conformance]")
}

#[test]
fn each_test_that_fails_directly_has_a_reason() -> Result<()> {
    let exceptions = Exceptions::committed()?;

    assert!(
        exceptions.reasons().iter().all(|it| it.0.ends_with('.')),
        "a reason is a sentence"
    );
    Ok(())
}

#[test]
fn a_list_without_a_reason_or_of_other_tests_is_refused() {
    let fine =
        "about\n\n# Not\n# here.\n[sig-cli] One [Conformance]\n! [sig-node] Two [Conformance]\n";
    let bad = [
        "about\n\n[sig-cli] One [Conformance]\n",
        "about\n\n# Not here.\n[sig-network] One [Conformance]\n",
        "about\n\n# Not here.\n[sig-cli] One\n",
        "about\n\n# Not here.\n[sig-cli] One [Conformance]\n[sig-cli] One [Conformance]\n",
    ];

    let parsed = Exceptions::parse(fine).map(|it| it.0);

    let parsed = parsed.expect("a list");
    let told = parsed.iter().map(|it| (it.test.as_str(), it.harms));
    let expected = [
        ("[sig-cli] One [Conformance]", false),
        ("[sig-node] Two [Conformance]", true),
    ];
    assert!(told.eq(expected));
    assert_eq!(parsed[1].reason, "Not here.");
    assert!(bad.iter().all(|text| Exceptions::parse(text).is_err()));
}
