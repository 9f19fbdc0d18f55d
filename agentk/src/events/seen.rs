//! How far each event of the cluster has been counted. Pure.

use std::collections::{HashMap, VecDeque};

/// Counts by the event's uid, of as many events as fit; the oldest is forgotten.
#[derive(Debug)]
pub(super) struct SeenCounts {
    limit: usize,
    counts: HashMap<String, i64>,
    order: VecDeque<String>,
}

impl SeenCounts {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            counts: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Notes a count and gives how many of it are new.
    pub(super) fn note(&mut self, uid: &str, count: i64) -> i64 {
        if let Some(known) = self.counts.get_mut(uid) {
            let new = (count - *known).max(0);
            *known += new;
            return new;
        }
        if self.order.len() >= self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.counts.remove(&oldest);
        }
        self.order.push_back(uid.to_owned());
        self.counts.insert(uid.to_owned(), count);
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_not_counted_again_until_it_is_forgotten() {
        let mut seen = SeenCounts::new(2);

        let counted = [
            ("a", 2),
            ("a", 2),
            ("a", 5),
            ("a", 1),
            ("b", 1),
            ("c", 1),
            ("a", 5),
        ]
        .map(|(uid, count)| seen.note(uid, count));

        assert_eq!(counted, [2, 0, 3, 0, 1, 1, 5]);
    }
}
