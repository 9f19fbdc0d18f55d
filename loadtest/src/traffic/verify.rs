//! Whether a body is what it must be.

use std::{sync::OnceLock, time::Duration};

use bytes::{Bytes, BytesMut};

use crate::{
    content,
    script::{self, Answer, Script},
};

/// Longest body that is remembered for comparison.
const MAX_LEARNED: usize = 16 << 20;
/// Most events of which the body is made beforehand.
const MAX_EVENTS: u64 = 100_000;

/// What every body must be.
#[derive(Debug)]
pub(super) enum Expected {
    /// That many bytes of the pattern.
    Pattern(u64),
    /// These bytes.
    Exactly(Bytes),
    /// These bytes, which come one by one within this time.
    Events(Bytes, Duration),
    /// Whatever the first body was.
    Learned(OnceLock<Bytes>),
}

/// Looks at one body as it comes.
#[derive(Debug)]
pub(super) struct Verifier<'a> {
    expected: &'a Expected,
    received: u64,
    first: BytesMut,
}

/// A body that is not what it must be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It ended early.
    Short,
    /// It has other bytes, or too many.
    Different,
}

impl Wrong {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Short => "body: too short",
            Self::Different => "body: wrong bytes",
        }
    }
}

impl Expected {
    /// For the last parts of the path as the script knows them, or whatever
    /// the first answer is.
    pub(super) fn new(path: &str, post: Option<u64>) -> Self {
        let path = path.split('?').next().unwrap_or_default();
        let last = path.trim_matches('/').rsplitn(4, '/').collect::<Vec<_>>();
        if let (Some(length), Some(&"echo")) = (post, last.first()) {
            return Self::Pattern(length);
        }
        if let [number, kind @ ("bytes" | "json"), ..] = last[..] {
            match Script::new(0).answer(&format!("/{kind}/{number}")) {
                Answer::Bytes(length) => return Self::Pattern(length),
                Answer::Json(body) if kind == "json" => return Self::Exactly(body),
                Answer::Json(_) | Answer::Echo | Answer::Watch { .. } | Answer::Exec => {}
            }
        }
        if let [every, events, "watch", ..] = last[..]
            && let Answer::Watch { events, every } =
                Script::new(0).answer(&format!("/watch/{events}/{every}"))
            && (1..=MAX_EVENTS).contains(&events)
        {
            let body: BytesMut = (0..events).flat_map(script::event).collect();
            return Self::Events(body.freeze(), every.saturating_mul(events as u32));
        }
        Self::Learned(OnceLock::new())
    }

    /// The time that the answer takes by its script.
    pub(super) fn scripted(&self) -> Duration {
        match self {
            Self::Events(_, scripted) => *scripted,
            Self::Pattern(_) | Self::Exactly(_) | Self::Learned(_) => Duration::ZERO,
        }
    }

    pub(super) fn verifier(&self) -> Verifier<'_> {
        Verifier {
            expected: self,
            received: 0,
            first: BytesMut::new(),
        }
    }
}

impl Verifier<'_> {
    /// Takes in the next piece.
    pub(super) fn piece(&mut self, piece: &[u8]) -> Result<(), Wrong> {
        let offset = self.received;
        self.received += piece.len() as u64;
        let right = match self.expected {
            Expected::Pattern(length) => {
                self.received <= *length && content::is_pattern(offset, piece)
            }
            Expected::Exactly(body) | Expected::Events(body, _) => has(body, offset, piece),
            Expected::Learned(known) => match known.get() {
                Some(body) if self.first.is_empty() => has(body, offset, piece),
                Some(_) | None => self.remember(piece),
            },
        };
        if right { Ok(()) } else { Err(Wrong::Different) }
    }

    /// Says whether the body may end here; gives its length.
    pub(super) fn end(self) -> Result<u64, Wrong> {
        let length = match self.expected {
            Expected::Pattern(length) => *length,
            Expected::Exactly(body) | Expected::Events(body, _) => body.len() as u64,
            Expected::Learned(known) => {
                let mine = self.first.freeze();
                let body = known.get_or_init(|| mine.clone());
                if !mine.is_empty() && mine != *body {
                    return Err(Wrong::Different);
                }
                body.len() as u64
            }
        };
        if self.received == length {
            Ok(length)
        } else {
            Err(Wrong::Short)
        }
    }

    fn remember(&mut self, piece: &[u8]) -> bool {
        self.first.extend_from_slice(piece);
        self.first.len() <= MAX_LEARNED
    }
}

fn has(body: &Bytes, offset: u64, piece: &[u8]) -> bool {
    let rest = usize::try_from(offset).ok().and_then(|at| body.get(at..));
    rest.is_some_and(|rest| rest.starts_with(piece))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verify(expected: &Expected, body: &[u8]) -> Result<u64, Wrong> {
        let mut verifier = expected.verifier();
        for piece in body.chunks(1000) {
            verifier.piece(piece)?;
        }
        verifier.end()
    }

    #[test]
    fn paths_of_the_script_have_known_bodies() {
        let bytes = Expected::new("/k8s-proxy/bytes/5000", None);
        let json = Expected::new("/k8s-proxy/json/4096?a=b", None);
        let echo = Expected::new("/echo", Some(3000));

        assert_eq!(verify(&bytes, &content::pattern(0, 5000)), Ok(5000));
        assert_eq!(verify(&json, &content::json(4096)), Ok(4096));
        assert_eq!(verify(&echo, &content::pattern(0, 3000)), Ok(3000));

        let watch = Expected::new("/k8s-proxy/watch/2/250", None);
        let events = [script::event(0), script::event(1)].concat();
        assert_eq!(verify(&watch, &events), Ok(events.len() as u64));
        assert_eq!(watch.scripted(), Duration::from_millis(500));
    }

    #[test]
    fn short_long_and_wrong_bodies_are_told_apart() {
        let bytes = Expected::new("/bytes/5000", None);

        assert_eq!(
            verify(&bytes, &content::pattern(0, 4999)),
            Err(Wrong::Short)
        );
        assert_eq!(
            verify(&bytes, &content::pattern(0, 5001)),
            Err(Wrong::Different)
        );
        assert_eq!(
            verify(&bytes, &content::pattern(1, 5000)),
            Err(Wrong::Different)
        );
    }

    #[test]
    fn elsewhere_all_bodies_must_be_as_the_first() {
        let expected = Expected::new("/api/v1/namespaces", None);

        assert_eq!(verify(&expected, b"a first body"), Ok(12));
        assert_eq!(verify(&expected, b"a first body"), Ok(12));
        assert_eq!(verify(&expected, b"a first"), Err(Wrong::Short));
        assert_eq!(verify(&expected, b"another body"), Err(Wrong::Different));
    }
}
