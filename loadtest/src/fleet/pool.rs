//! How many tunnels an agent holds open, as agentk decides it. Pure.

const MIN_IDLE: usize = 2;
const GROW: usize = 10;
const MAX: usize = 500;

/// An agent's tunnels, by number.
#[derive(Debug)]
pub(super) struct Pool {
    min_idle: usize,
    idle: usize,
    active: usize,
}

impl Pool {
    /// A pool that starts with `tunnels`, and at least agentk's minimum.
    pub(super) fn new(tunnels: usize) -> Self {
        let min_idle = tunnels.clamp(MIN_IDLE, MAX);
        Self {
            min_idle,
            idle: min_idle,
            active: 0,
        }
    }

    /// Tunnels to open at first.
    pub(super) fn initial(&self) -> usize {
        self.min_idle
    }

    /// An idle tunnel got a call; says how many more to open.
    pub(super) fn taken(&mut self) -> usize {
        self.idle = self.idle.saturating_sub(1);
        self.active += 1;
        if self.idle >= self.min_idle {
            return 0;
        }
        let more = GROW.min(MAX.saturating_sub(self.idle + self.active));
        self.idle += more;
        more
    }

    /// A call ended; its place opens another tunnel.
    pub(super) fn finished(&mut self) {
        self.active = self.active.saturating_sub(1);
        self.idle += 1;
    }

    /// An idle tunnel ended; says whether its place opens another.
    pub(super) fn lost(&mut self) -> bool {
        let keep = self.idle <= self.min_idle;
        if !keep {
            self.idle -= 1;
        }
        keep
    }

    #[cfg(test)]
    fn total(&self) -> usize {
        self.idle + self.active
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_call_grows_the_pool_by_ten() {
        let mut pool = Pool::new(2);

        assert_eq!(pool.taken(), 10);
        assert_eq!(pool.taken(), 0);
        assert_eq!(pool.total(), 12);
    }

    #[test]
    fn the_pool_never_has_more_than_five_hundred() {
        let mut pool = Pool::new(2);

        while pool.idle > 0 {
            pool.taken();
        }

        assert_eq!(pool.total(), MAX);
    }

    #[test]
    fn idle_tunnels_beyond_the_minimum_are_not_opened_again() {
        let mut pool = Pool::new(2);
        pool.taken();
        pool.finished();

        let reopened = (0..12).filter(|_| pool.lost()).count();

        assert_eq!(pool.total(), 2);
        assert_eq!(reopened, 2);
    }
}
