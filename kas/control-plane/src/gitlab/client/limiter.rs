//! Whose turn it is to have GitLab asked: tokens that were good have three quarters of the turns to
//! themselves, and of the last quarter no address of unknown has more than half.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use runtime::shares::{Rate, Rates};
use tokio::time::Instant;

use super::super::{call::Requester, error::CallError};
use crate::{config::RateLimit, token_bucket::TokenBucket};

/// Of all turns, those of tokens that were never good.
const UNKNOWN_SHARE: f64 = 0.25;
/// Of these, those of one address.
const ADDRESS_SHARE: f64 = 0.5;
/// Addresses of unknown that are told apart.
const ADDRESSES_MAX: usize = 10_000;

/// The turns.
#[derive(Debug)]
pub(super) struct RequestLimiter {
    buckets: Mutex<Buckets>,
    addresses: Rates<IpAddr>,
}

#[derive(Debug)]
struct Buckets {
    known: TokenBucket,
    unknown: TokenBucket,
}

impl RequestLimiter {
    /// All turns of a rate.
    pub(super) fn new(limit: RateLimit, now: Instant) -> Self {
        let unknown = limit.part(UNKNOWN_SHARE);
        let address = unknown.part(ADDRESS_SHARE);
        let known = RateLimit {
            refill_rate_per_second: limit.refill_rate_per_second - unknown.refill_rate_per_second,
            bucket_size: limit.bucket_size.saturating_sub(unknown.bucket_size).max(1),
        };
        let rate = Rate {
            per_second: address.refill_rate_per_second,
            burst: address.bucket_size,
        };
        Self {
            buckets: Mutex::new(Buckets {
                known: TokenBucket::new(known, now),
                unknown: TokenBucket::new(unknown, now),
            }),
            addresses: Rates::new(rate, ADDRESSES_MAX),
        }
    }

    /// Takes a turn: how long to wait before using it.
    ///
    /// # Errors
    /// [`CallError::TooManyUnknown`] when unknown have had their turns, [`CallError::RateLimited`] when
    /// those who are known would wait longer than `patience`.
    pub(super) fn take(
        &self,
        requester: Requester,
        now: Instant,
        patience: Duration,
    ) -> Result<Duration, CallError> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let from = match requester {
            Requester::Known => {
                return buckets
                    .known
                    .take(now, patience)
                    .ok_or(CallError::RateLimited);
            }
            Requester::Unknown(from) => from,
        };
        if self.addresses.take(&from, now)
            && let Some(wait) = buckets.unknown.take(now, patience)
        {
            return Ok(wait);
        }
        // What those who are known leave is for anybody: after a start nobody is known.
        let idle = buckets.known.spare(now) > buckets.known.size() / 2.0;
        let spare = idle.then(|| buckets.known.take(now, Duration::ZERO));
        spare.flatten().ok_or(CallError::TooManyUnknown)
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

    fn unknown(last: u8) -> Requester {
        Requester::Unknown(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)))
    }

    #[test]
    fn made_up_tokens_leave_turns_to_known_ones_and_to_strangers_elsewhere() {
        let now = Instant::now();
        let turns = RequestLimiter::new(LIMIT, now);
        let take = |requester| turns.take(requester, now, Duration::from_secs(1));

        let flood = (0..1000).filter(|_| take(unknown(1)).is_ok()).count();

        assert_eq!(flood, 10 + 30, "its part, and what is spare");
        assert_eq!(take(unknown(1)), Err(CallError::TooManyUnknown));
        let known = (0..30).filter(|_| take(Requester::Known) == Ok(Duration::ZERO));
        assert_eq!(known.count(), 30);
        let elsewhere = (0..10).filter(|_| take(unknown(2)) == Ok(Duration::ZERO));
        assert_eq!(elsewhere.count(), 10);
    }

    #[test]
    fn known_tokens_wait_for_their_turns_as_long_as_they_have_patience() {
        let now = Instant::now();
        let turns = RequestLimiter::new(LIMIT, now);
        let take = || turns.take(Requester::Known, now, Duration::from_secs(1));

        let at_once = (0..60).filter(|_| take() == Ok(Duration::ZERO)).count();

        assert_eq!(at_once, 60);
        assert!(take().unwrap() > Duration::ZERO);
        assert_eq!(
            (0..100).find_map(|_| take().err()),
            Some(CallError::RateLimited)
        );
    }
}
