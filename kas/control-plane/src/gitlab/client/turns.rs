//! Whose turn it is to have GitLab asked: tokens that were good have three quarters of the turns to
//! themselves, and of the last quarter no address of strangers has more than half.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use runtime::shares::{Rate, Rates};
use tokio::time::Instant;

use super::super::{call::Asker, error::CallError};
use crate::{bucket::Bucket, config::RateLimit};

/// Of all turns, those of tokens that were never good.
const STRANGERS_PART: f64 = 0.25;
/// Of these, those of one address.
const ADDRESS_PART: f64 = 0.5;
/// Addresses of strangers that are told apart.
const ADDRESSES: usize = 10_000;

/// The turns.
#[derive(Debug)]
pub(super) struct Turns {
    buckets: Mutex<Buckets>,
    addresses: Rates<IpAddr>,
}

#[derive(Debug)]
struct Buckets {
    known: Bucket,
    strangers: Bucket,
}

impl Turns {
    /// All turns of a rate.
    pub(super) fn new(limit: RateLimit, now: Instant) -> Self {
        let strangers = part(limit, STRANGERS_PART);
        let address = part(strangers, ADDRESS_PART);
        let known = RateLimit {
            refill_rate_per_second: limit.refill_rate_per_second - strangers.refill_rate_per_second,
            bucket_size: limit
                .bucket_size
                .saturating_sub(strangers.bucket_size)
                .max(1),
        };
        let rate = Rate {
            per_second: address.refill_rate_per_second,
            burst: address.bucket_size,
        };
        Self {
            buckets: Mutex::new(Buckets {
                known: Bucket::new(known, now),
                strangers: Bucket::new(strangers, now),
            }),
            addresses: Rates::new(rate, ADDRESSES),
        }
    }

    /// Takes a turn: how long to wait before using it.
    ///
    /// # Errors
    /// [`CallError::Strangers`] when strangers have had their turns, [`CallError::Crowded`] when
    /// those who are known would wait longer than `patience`.
    pub(super) fn take(
        &self,
        asker: Asker,
        now: Instant,
        patience: Duration,
    ) -> Result<Duration, CallError> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let from = match asker {
            Asker::Known => return buckets.known.take(now, patience).ok_or(CallError::Crowded),
            Asker::Stranger(from) => from,
        };
        if self.addresses.take(&from, now)
            && let Some(wait) = buckets.strangers.take(now, patience)
        {
            return Ok(wait);
        }
        // What those who are known leave is for anybody: after a start nobody is known.
        let idle = buckets.known.spare(now) > buckets.known.size() / 2.0;
        let spare = idle.then(|| buckets.known.take(now, Duration::ZERO));
        spare.flatten().ok_or(CallError::Strangers)
    }
}

fn part(limit: RateLimit, part: f64) -> RateLimit {
    let size = (f64::from(limit.bucket_size) * part).round();
    RateLimit {
        refill_rate_per_second: limit.refill_rate_per_second * part,
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a part of a u32, and not below zero"
        )]
        bucket_size: (size as u32).max(1),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const LIMIT: RateLimit = RateLimit {
        refill_rate_per_second: 40.0,
        bucket_size: 80,
    };

    fn stranger(last: u8) -> Asker {
        Asker::Stranger(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)))
    }

    #[test]
    fn made_up_tokens_leave_turns_to_known_ones_and_to_strangers_elsewhere() {
        let now = Instant::now();
        let turns = Turns::new(LIMIT, now);
        let take = |asker| turns.take(asker, now, Duration::from_secs(1));

        let flood = (0..1000).filter(|_| take(stranger(1)).is_ok()).count();

        assert_eq!(flood, 10 + 30, "its part, and what is spare");
        assert_eq!(take(stranger(1)), Err(CallError::Strangers));
        let known = (0..30).filter(|_| take(Asker::Known) == Ok(Duration::ZERO));
        assert_eq!(known.count(), 30);
        let elsewhere = (0..10).filter(|_| take(stranger(2)) == Ok(Duration::ZERO));
        assert_eq!(elsewhere.count(), 10);
    }

    #[test]
    fn known_tokens_wait_for_their_turns_as_long_as_they_have_patience() {
        let now = Instant::now();
        let turns = Turns::new(LIMIT, now);
        let take = || turns.take(Asker::Known, now, Duration::from_secs(1));

        let at_once = (0..60).filter(|_| take() == Ok(Duration::ZERO)).count();

        assert_eq!(at_once, 60);
        assert!(take().unwrap() > Duration::ZERO);
        assert_eq!(
            (0..100).find_map(|_| take().err()),
            Some(CallError::Crowded)
        );
    }
}
