//! The names that our own services had before they were below `gitlab.agent.`. They are served for one more release.

use std::borrow::Cow;

/// What paths of methods begin with: now, and before.
const NAMES: [(&str, &str); 3] = [
    ("/gitlab.agent.kas_events.rpc.", "/kas.events.rpc."),
    ("/gitlab.agent.kas_graph.rpc.", "/kas.graph.rpc."),
    ("/gitlab.agent.kas_receptive.rpc.", "/kas.receptive.rpc."),
];

/// The present path of a method, `/package.Service/Method`, whichever name it was called by.
#[must_use]
pub fn present(path: &str) -> Cow<'_, str> {
    // Most calls have names of GitLab's.
    if !path.starts_with("/kas.") {
        return path.into();
    }
    let present = NAMES.iter().find_map(|(now, before)| {
        let rest = path.strip_prefix(before)?;
        Some(format!("{now}{rest}"))
    });
    present.map_or(path.into(), Cow::from)
}

/// The path that the method had before; the same if it had no other.
#[must_use]
pub fn former(path: &str) -> Cow<'_, str> {
    let former = NAMES.iter().find_map(|(now, before)| {
        let rest = path.strip_prefix(now)?;
        Some(format!("{before}{rest}"))
    });
    former.map_or(path.into(), Cow::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_names_of_a_method_are_known_and_others_stay_as_they_are() {
        let pairs = [
            (
                "/gitlab.agent.kas_events.rpc.Collector/Report",
                "/kas.events.rpc.Collector/Report",
            ),
            (
                "/gitlab.agent.kas_graph.rpc.Graph/Watch",
                "/kas.graph.rpc.Graph/Watch",
            ),
            (
                "/gitlab.agent.kas_receptive.rpc.Receptive/Attach",
                "/kas.receptive.rpc.Receptive/Attach",
            ),
        ];
        for (now, before) in pairs {
            assert_eq!((present(before), former(now)), (now.into(), before.into()));
            assert_eq!(present(now), now);
        }
        for other in ["/kas.other.rpc.A/B", "/gitlab.agent.kas.A/B", "nonsense"] {
            assert_eq!(
                (present(other), former(other)),
                (other.into(), other.into())
            );
        }
    }
}
