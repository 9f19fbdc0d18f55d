//! Durations as GitLab writes them: decimal seconds and an `s`.

use std::time::Duration;

use serde::{
    Serialize, Serializer,
    de::{Deserialize, Deserializer, Error},
};

/// A duration of zero or more, such as `300s` or `0.5s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(pub Duration);

/// A duration above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PositiveSeconds(pub Duration);

impl Seconds {
    /// So many whole ones.
    #[must_use]
    pub const fn new(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl PositiveSeconds {
    /// So many whole ones, at least one.
    #[must_use]
    pub const fn new(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).map(Self).ok_or_else(|| {
            D::Error::custom(format!(
                "`{text}` is not a duration in seconds such as 300s or 0.5s"
            ))
        })
    }
}

impl<'de> Deserialize<'de> for PositiveSeconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Seconds(duration) = Seconds::deserialize(deserializer)?;
        if duration.is_zero() {
            return Err(D::Error::custom("the duration must be greater than 0s"));
        }
        Ok(Self(duration))
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (whole, nanos) = (self.0.as_secs(), self.0.subsec_nanos());
        let text = format!("{whole}.{nanos:09}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        serializer.collect_str(&format_args!("{text}s"))
    }
}

impl Serialize for PositiveSeconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Seconds(self.0).serialize(serializer)
    }
}

fn parse(text: &str) -> Option<Duration> {
    let number = text.strip_suffix('s')?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || fraction.len() > 9 || !digits(whole) || !digits(fraction) {
        return None;
    }
    let nanos = format!("{fraction:0<9}").parse().ok()?;
    Some(Duration::new(whole.parse().ok()?, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_decimal_with_a_suffix_and_nothing_else() {
        assert_eq!(parse("300s"), Some(Duration::from_secs(300)));
        assert_eq!(parse("0.5s"), Some(Duration::from_millis(500)));
        assert_eq!(parse("0s"), Some(Duration::ZERO));
        assert_eq!(parse("1.000000001s"), Some(Duration::new(1, 1)));
        for bad in [
            "5m",
            "1h",
            "300",
            "",
            "s",
            ".5s",
            "-1s",
            "1e3s",
            "1.0000000001s",
            "99999999999999999999s",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
