//! How much of something each holder may do per second.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How often those that have recovered are looked for, which visits all of them: not at each call of a new holder.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// A token bucket's measures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Turns that come back per second.
    pub per_second: f64,
    /// Turns that may be taken at once.
    pub burst: u32,
}

/// One token bucket for each holder. Clones share them.
///
/// At most so many holders are remembered as was said; when there are more than that which have
/// lately taken turns, the others share one bucket, so that many holders cannot cost more than few.
#[derive(Debug)]
pub struct Rates<K>(Arc<Inner<K>>);

#[derive(Debug)]
struct Inner<K> {
    rate: Rate,
    holders: usize,
    state: Mutex<State<K>>,
}

#[derive(Debug)]
struct State<K> {
    buckets: HashMap<K, Bucket>,
    others: Bucket,
    swept: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    turns: f64,
    at: Instant,
}

impl<K> Clone for Rates<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Eq + Hash + Clone> Rates<K> {
    /// Full buckets, for `holders` at most.
    #[must_use]
    pub fn new(rate: Rate, holders: usize) -> Self {
        let full = Bucket {
            turns: f64::from(rate.burst),
            at: Instant::now(),
        };
        Self(Arc::new(Inner {
            rate,
            holders,
            state: Mutex::new(State {
                buckets: HashMap::new(),
                others: full,
                swept: full.at,
            }),
        }))
    }

    /// Takes a turn of `holder`; says whether there was one.
    #[must_use]
    pub fn take(&self, holder: &K, now: Instant) -> bool {
        let rate = self.0.rate;
        self.with_bucket(holder, now, |bucket| bucket.take(rate, now))
    }

    /// Does something with the bucket of `holder`, or with that of the others.
    fn with_bucket<T>(&self, holder: &K, now: Instant, act: impl FnOnce(&mut Bucket) -> T) -> T {
        let (rate, full) = (self.0.rate, f64::from(self.0.rate.burst));
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.buckets.len() >= self.0.holders && now >= state.swept + SWEEP_INTERVAL {
            state.swept = now;
            state
                .buckets
                .retain(|_, bucket| !bucket.recovered(rate, now));
        }
        if let Some(bucket) = state.buckets.get_mut(holder) {
            return act(bucket);
        }
        if state.buckets.len() >= self.0.holders {
            return act(&mut state.others);
        }
        let mut bucket = Bucket {
            turns: full,
            at: now,
        };
        let done = act(&mut bucket);
        state.buckets.insert(holder.clone(), bucket);
        done
    }

    /// Takes a turn of `holder`, one that is still to come if need be: how long to wait before using it. Nothing
    /// is taken when that is longer than `patience`.
    #[must_use]
    pub fn take_in_advance(
        &self,
        holder: &K,
        now: Instant,
        patience: Duration,
    ) -> Option<Duration> {
        let rate = self.0.rate;
        self.with_bucket(holder, now, |bucket| {
            bucket.take_in_advance(rate, now, patience)
        })
    }

    /// Holders that are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.buckets.len()
    }
}

impl Bucket {
    fn refilled(&self, rate: Rate, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.turns + passed * rate.per_second).min(f64::from(rate.burst))
    }

    fn recovered(&self, rate: Rate, now: Instant) -> bool {
        self.refilled(rate, now) >= f64::from(rate.burst)
    }

    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        self.turns = self.refilled(rate, now);
        self.at = now;
        let there = self.turns >= 1.0;
        if there {
            self.turns -= 1.0;
        }
        there
    }

    fn take_in_advance(
        &mut self,
        rate: Rate,
        now: Instant,
        patience: Duration,
    ) -> Option<Duration> {
        let turns = self.refilled(rate, now);
        let missing = (1.0 - turns).max(0.0);
        let wait = match missing > 0.0 {
            true => Duration::try_from_secs_f64(missing / rate.per_second).unwrap_or(Duration::MAX),
            false => Duration::ZERO,
        };
        if wait > patience {
            return None;
        }
        (self.turns, self.at) = (turns - 1.0, now);
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        per_second: 1.0,
        burst: 2,
    };

    #[test]
    fn each_has_a_rate_of_its_own() {
        let (rates, now) = (Rates::new(RATE, 10), Instant::now());

        let greedy: Vec<_> = (0..4).map(|_| rates.take(&"greedy", now)).collect();

        assert_eq!(greedy, [true, true, false, false]);
        assert!(rates.take(&"bystander", now));
        assert!(rates.take(&"greedy", now + Duration::from_secs(1)));
    }

    #[test]
    fn a_turn_that_is_still_to_come_is_given_with_the_time_to_wait() {
        let (rates, now) = (Rates::new(RATE, 10), Instant::now());
        let take = |seconds| rates.take_in_advance(&"eager", now, Duration::from_secs(seconds));

        let waits: Vec<_> = (0..5).map(|_| take(2)).collect();

        let seconds = |it| Some(Duration::from_secs(it));
        assert_eq!(
            waits,
            [seconds(0), seconds(0), seconds(1), seconds(2), None]
        );
        assert_eq!(take(3), seconds(3), "nothing was taken by who did not wait");
    }

    #[test]
    fn many_strangers_share_one_bucket_and_leave_those_alone_who_are_known() {
        let (rates, now) = (Rates::new(RATE, 3), Instant::now());
        for holder in 0..3 {
            assert!(rates.take(&holder, now));
        }

        let strangers = (3..1000).filter(|holder| rates.take(holder, now)).count();

        assert_eq!((strangers, rates.remembered()), (2, 3));
        assert!(rates.take(&1, now), "one that is known has its own");
        let later = now + Duration::from_secs(5);
        assert!(
            rates.take(&2000, later),
            "those that recovered are forgotten"
        );
        assert_eq!(rates.remembered(), 1);
    }
}
