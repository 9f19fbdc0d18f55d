//! How many tunnels there are. Pure.

use std::time::Duration;

/// Idle tunnels that are always kept.
const MIN_IDLE_TUNNELS: usize = 2;
/// How many are opened when idle ones run out.
const OPEN_TUNNELS: usize = 10;
/// An idle tunnel without a call for so long is surplus.
const UNUSED_TTL: Duration = Duration::from_secs(60);

/// Counts of tunnels.
#[derive(Debug)]
pub struct Pool {
    min_idle: usize,
    max: usize,
    idle: usize,
    active: usize,
}

/// Whether a tunnel is opened again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It is.
    Again,
    /// There are enough without it.
    Stop,
}

impl Pool {
    /// A pool that keeps idle tunnels on so many lines, and has up to `max`, idle or not.
    #[must_use]
    pub fn new(lines: usize, max: usize) -> Self {
        Self {
            min_idle: MIN_IDLE_TUNNELS.max(lines),
            max,
            idle: 0,
            active: 0,
        }
    }

    /// Begins; gives back how many tunnels to open.
    pub fn start(&mut self) -> usize {
        self.idle = self.min_idle;
        self.min_idle
    }

    /// A call took an idle tunnel; gives back how many more to open.
    pub fn call_began(&mut self) -> usize {
        self.idle -= 1;
        self.active += 1;
        if self.idle >= self.min_idle {
            return 0;
        }
        let more = OPEN_TUNNELS.min(self.max.saturating_sub(self.idle + self.active));
        self.idle += more;
        more
    }

    /// The call ended, and its tunnel will be opened again.
    pub fn call_ended(&mut self) {
        self.active -= 1;
        self.idle += 1;
    }

    /// A tunnel ended that had carried nothing this time; its last call, if
    /// any, ended so long ago.
    pub fn idle_ended(&mut self, unused: Option<Duration>) -> Next {
        let needed = unused.is_some_and(|unused| unused <= UNUSED_TTL);
        if self.idle <= self.min_idle || needed {
            return Next::Again;
        }
        self.idle -= 1;
        Next::Stop
    }

    /// A call took a retiring tunnel, which does not count as idle.
    pub fn uncounted_call_began(&mut self) {
        self.active += 1;
    }

    /// That call ended.
    pub fn uncounted_call_ended(&mut self) {
        self.active -= 1;
    }

    /// A tunnel is not opened again, since the agent stops.
    pub fn closed(&mut self) {
        self.idle -= 1;
    }

    /// How many are idle, and how many carry a call.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.idle, self.active)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX_TUNNELS: usize = 500;

    #[test]
    fn the_first_call_opens_ten_more() {
        let mut pool = Pool::new(2, MAX_TUNNELS);

        assert_eq!(pool.start(), 2);
        assert_eq!(pool.call_began(), 10);
        assert_eq!(pool.counts(), (11, 1));
    }

    #[test]
    fn unused_tunnels_go_down_to_the_minimum() {
        let mut pool = Pool::new(2, MAX_TUNNELS);
        pool.start();
        pool.call_began();
        pool.call_ended();

        let stopped = (0..50)
            .filter(|_| pool.idle_ended(None) == Next::Stop)
            .count();

        assert_eq!(stopped, 10);
        assert_eq!(pool.counts(), (2, 0));
    }

    #[test]
    fn a_tunnel_used_a_minute_ago_stays() {
        let mut pool = Pool::new(2, MAX_TUNNELS);
        pool.start();
        pool.call_began();

        assert_eq!(pool.idle_ended(Some(UNUSED_TTL)), Next::Again);
        assert_eq!(
            pool.idle_ended(Some(UNUSED_TTL + Duration::from_secs(1))),
            Next::Stop
        );
    }

    #[derive(Debug, Clone)]
    enum Step {
        Call(usize),
        End(usize),
        IdleEnds(usize, Option<u64>),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => any::<usize>().prop_map(Step::Call),
            2 => any::<usize>().prop_map(Step::End),
            1 => (any::<usize>(), proptest::option::of(0u64..200)).prop_map(|(n, s)| Step::IdleEnds(n, s)),
        ]
    }

    proptest! {
        /// The model is the list of tunnels itself: true where one carries a call.
        #[test]
        fn counts_are_those_of_the_tunnels(steps in prop::collection::vec(step(), 0..2000)) {
            let mut pool = Pool::new(2, MAX_TUNNELS);
            let mut tunnels = vec![false; pool.start()];
            for step in steps {
                let pick = |busy: bool, n: usize| {
                    let found: Vec<_> = (0..tunnels.len()).filter(|at| tunnels[*at] == busy).collect();
                    (!found.is_empty()).then(|| found[n % found.len()])
                };
                match step {
                    Step::Call(n) => if let Some(at) = pick(false, n) {
                        tunnels[at] = true;
                        let more = pool.call_began();
                        prop_assert!(more == 0 || more <= OPEN_TUNNELS);
                        tunnels.extend(std::iter::repeat_n(false, more));
                    },
                    Step::End(n) => if let Some(at) = pick(true, n) {
                        tunnels[at] = false;
                        pool.call_ended();
                    },
                    Step::IdleEnds(n, unused) => if let Some(at) = pick(false, n)
                        && pool.idle_ended(unused.map(Duration::from_secs)) == Next::Stop
                    {
                        tunnels.remove(at);
                    },
                }
                let active = tunnels.iter().filter(|busy| **busy).count();
                prop_assert_eq!(pool.counts(), (tunnels.len() - active, active));
                prop_assert!(tunnels.len() <= MAX_TUNNELS);
                prop_assert!(tunnels.len() - active >= MIN_IDLE_TUNNELS || tunnels.len() > MAX_TUNNELS - OPEN_TUNNELS);
            }
        }
    }
}
