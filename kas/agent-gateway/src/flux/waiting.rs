//! The pushes that wait for one stream.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use control_plane::notifications::GitPush;

/// As many as GitLab's kas lets wait.
const MOST: usize = 10;

/// A bounded queue that has each project once: whoever is told of one push
/// looks at all that came before.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    queue: Mutex<VecDeque<GitPush>>,
    more: Notify,
}

/// What became of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offered {
    /// It waits.
    Taken,
    /// Another to its project waits already.
    Covered,
    /// There was no room.
    Dropped,
}

impl Waiting {
    pub(super) fn offer(&self, push: GitPush) -> Offered {
        let mut queue = self.lock();
        if queue.iter().any(|it| it.project_path == push.project_path) {
            return Offered::Covered;
        }
        if queue.len() >= MOST {
            return Offered::Dropped;
        }
        queue.push_back(push);
        self.more.notify_one();
        Offered::Taken
    }

    /// The next one, once there is one. For one reader.
    pub(crate) async fn next(&self) -> GitPush {
        loop {
            if let Some(push) = self.lock().pop_front() {
                return push;
            }
            self.more.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<GitPush>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(id: i64) -> GitPush {
        GitPush {
            project_id: id,
            project_path: format!("group/{id}").into(),
        }
    }

    #[tokio::test]
    async fn a_push_that_comes_twice_waits_once_and_what_has_no_room_is_dropped() {
        let waiting = Waiting::default();
        for id in 0..10 {
            assert_eq!(waiting.offer(push(id)), Offered::Taken);
        }

        assert_eq!(waiting.offer(push(0)), Offered::Covered);
        assert_eq!(waiting.offer(push(10)), Offered::Dropped);

        for id in 0..10 {
            assert_eq!(waiting.next().await, push(id));
        }
        assert_eq!(waiting.offer(push(0)), Offered::Taken);
        assert_eq!(waiting.next().await, push(0));
    }
}
