//! Quotas: places that many holders share, so that no one holder can take them all.
//!
//! A place is whatever the owner of the [`Shares`] counts: requests, tunnels, bytes. [`Rates`] does
//! the same for what passes per second. Both are bounded themselves: a holder is remembered only
//! while it holds something, or until its rate has recovered.

mod rates;

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use foldhash::fast::RandomState;

pub use rates::{Rate, Rates};

/// How many places there are, and how they may be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Places in all.
    pub total: usize,
    /// Places that one holder may have.
    pub each: usize,
    /// Of all places, the last ones, which only a holder that has none may take.
    pub reserved: usize,
}

/// Why no place was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The holder has all that one holder may have.
    #[error("the limit for one is reached ({0})")]
    Holder(usize),
    /// All places that this holder might have are taken.
    #[error("the limit for all is reached ({0})")]
    Total(usize),
}

/// Places, shared by holders of type `K`. Clones share them.
#[derive(Debug)]
pub struct Shares<K: Eq + Hash>(Arc<Inner<K>>);

#[derive(Debug)]
struct Inner<K> {
    limits: Limits,
    taken: Mutex<Taken<K>>,
}

#[derive(Debug)]
struct Taken<K> {
    total: usize,
    /// None of them zero.
    by: HashMap<K, usize, RandomState>,
}

/// Some places of one holder, given back when it is dropped.
#[derive(Debug)]
pub struct Share<K: Eq + Hash + Clone> {
    of: Arc<Inner<K>>,
    holder: K,
    places: usize,
}

impl<K: Eq + Hash> Clone for Shares<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// All places free.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let taken = Mutex::new(Taken {
            total: 0,
            by: HashMap::default(),
        });
        Self(Arc::new(Inner { limits, taken }))
    }

    /// Takes `places` for `holder`.
    ///
    /// # Errors
    /// [`Full`], and nothing is taken.
    pub fn take(&self, holder: K, places: usize) -> Result<Share<K>, Full> {
        self.0.take(&holder, places)?;
        Ok(Share {
            of: self.0.clone(),
            holder,
            places,
        })
    }

    /// Places that are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.0.taken().total
    }

    /// Places that one holder has.
    #[must_use]
    pub fn held_by(&self, holder: &K) -> usize {
        self.0.taken().by.get(holder).copied().unwrap_or(0)
    }

    /// The holder with most places, and how many these are.
    #[must_use]
    pub fn largest(&self) -> Option<(K, usize)> {
        let taken = self.0.taken();
        let largest = taken.by.iter().max_by_key(|(_, places)| **places);
        largest.map(|(holder, places)| (holder.clone(), *places))
    }
}

impl<K: Eq + Hash + Clone> Share<K> {
    /// Takes more for the same holder.
    ///
    /// # Errors
    /// [`Full`], and the share is what it was.
    pub fn grow(&mut self, places: usize) -> Result<(), Full> {
        self.of.take(&self.holder, places)?;
        self.places += places;
        Ok(())
    }

    /// Gives back some; never more than there are.
    pub fn shrink(&mut self, places: usize) {
        let places = places.min(self.places);
        self.places -= places;
        self.of.give_back(&self.holder, places);
    }

    /// How many these are.
    #[must_use]
    pub fn places(&self) -> usize {
        self.places
    }
}

impl<K: Eq + Hash + Clone> Drop for Share<K> {
    fn drop(&mut self) {
        self.of.give_back(&self.holder, self.places);
    }
}

impl<K: Eq + Hash + Clone> Inner<K> {
    fn take(&self, holder: &K, places: usize) -> Result<(), Full> {
        let Limits {
            total,
            each,
            reserved,
        } = self.limits;
        let mut taken = self.taken();
        let held = taken.by.get(holder).copied().unwrap_or(0);
        let more = held.saturating_add(places);
        if more > each {
            return Err(Full::Holder(each));
        }
        let within = if held == 0 {
            total
        } else {
            total.saturating_sub(reserved)
        };
        if taken.total.saturating_add(places) > within {
            return Err(Full::Total(total));
        }
        if places > 0 {
            taken.total += places;
            taken.by.insert(holder.clone(), more);
        }
        Ok(())
    }

    fn give_back(&self, holder: &K, places: usize) {
        let mut taken = self.taken();
        taken.total = taken.total.saturating_sub(places);
        if let Some(held) = taken.by.get_mut(holder) {
            *held = held.saturating_sub(places);
            if *held == 0 {
                taken.by.remove(holder);
            }
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken<K>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        total: 20,
        each: 12,
        reserved: 2,
    };

    #[test]
    fn the_last_places_are_for_those_who_have_none() {
        let shares = Shares::new(LIMITS);
        let greedy: Vec<_> = (0..12).map(|_| shares.take("greedy", 1).unwrap()).collect();
        assert_eq!(shares.take("greedy", 1).unwrap_err(), Full::Holder(12));
        let second: Vec<_> = (0..6).map(|_| shares.take("second", 1).unwrap()).collect();
        assert_eq!(shares.take("second", 1).unwrap_err(), Full::Total(20));

        let bystanders = [shares.take("a", 1).unwrap(), shares.take("b", 1).unwrap()];
        assert_eq!(shares.take("c", 1).unwrap_err(), Full::Total(20));

        drop((greedy, second, bystanders));
        assert_eq!((shares.taken(), shares.largest()), (0, None));
    }

    #[test]
    fn a_share_grows_and_shrinks() {
        let shares = Shares::new(LIMITS);
        let mut share = shares.take(1, 4).unwrap();

        share.grow(8).unwrap();
        assert_eq!(share.grow(1), Err(Full::Holder(12)));
        share.shrink(100);

        assert_eq!((share.places(), shares.taken()), (0, 0));
        share.grow(3).unwrap();
        assert_eq!(shares.largest(), Some((1, 3)));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_no_limit_is_passed(
            steps in prop::collection::vec((0..5_u8, 0..6_usize, any::<bool>()), 0..200)
        ) {
            let shares = Shares::new(LIMITS);
            let mut held: Vec<(u8, Share<u8>)> = Vec::new();
            for (holder, places, take) in steps {
                if take {
                    held.extend(shares.take(holder, places).ok().map(|share| (holder, share)));
                } else if !held.is_empty() {
                    held.remove(places % held.len());
                }
                let mut by = BTreeMap::new();
                for (holder, share) in &held {
                    *by.entry(*holder).or_insert(0) += share.places();
                }
                prop_assert!(by.values().all(|places| *places <= LIMITS.each));
                prop_assert_eq!(by.values().sum::<usize>(), shares.taken());
                prop_assert!(shares.taken() <= LIMITS.total);
                for holder in 0..5 {
                    prop_assert_eq!(shares.held_by(&holder), by.get(&holder).copied().unwrap_or(0));
                }
            }
        }
    }
}
