//! Methods that one agent process has and no other of its agent. They are in the first message of the process' tunnels,
//! and have its name.

/// Bytes of a method, at most.
const MAX_BYTES: usize = 100;

/// What one is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessMethod {
    /// Goes on with an upgraded connection that the process has.
    Resume,
    /// Asks for an answer that the process has kept.
    Answers,
}

impl ProcessMethod {
    /// The method of the process of this name.
    #[must_use]
    pub fn of(self, process: &str) -> String {
        format!("{}{process}", self.prefix())
    }

    /// Whether a path is such a method.
    #[must_use]
    pub fn is(self, path: &str) -> bool {
        let name = path.strip_prefix(self.prefix()).unwrap_or_default();
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_name && path.len() <= MAX_BYTES
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Resume => "/kas.kubernetes_api.rpc.Resume/",
            Self::Answers => "/kas.kubernetes_api.rpc.Answers/",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_follows_the_prefix() {
        use ProcessMethod::{Answers, Resume};
        let methods = [Resume, Answers];

        for method in methods {
            let path = method.of("00ff00ff00ff00ff");
            let which: Vec<_> = methods.iter().filter(|it| it.is(&path)).collect();
            assert_eq!(which, [&method], "{path}");
            for other in ["", "a/b", &"a".repeat(100)] {
                assert!(!method.is(&method.of(other)), "{other}");
            }
            assert!(!method.is(""));
        }
    }
}
