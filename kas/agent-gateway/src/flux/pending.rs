//! The pushes that are queued for one stream.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use control_plane::notifications::GitPush;

/// As many as in GitLab's kas.
const MAX_PENDING_PUSHES: usize = 10;

/// A bounded queue that has each project once: a reconciliation covers all pushes before it.
#[derive(Debug, Default)]
pub(crate) struct PendingPushes {
    queue: Mutex<VecDeque<GitPush>>,
    more: Notify,
}

/// What became of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Enqueued {
    Added,
    /// Another to its project is queued already.
    Covered,
    /// The queue was full.
    Dropped,
}

impl PendingPushes {
    pub(super) fn enqueue(&self, push: GitPush) -> Enqueued {
        let mut queue = self.lock();
        if queue.iter().any(|it| it.project_path == push.project_path) {
            return Enqueued::Covered;
        }
        if queue.len() >= MAX_PENDING_PUSHES {
            return Enqueued::Dropped;
        }
        queue.push_back(push);
        self.more.notify_one();
        Enqueued::Added
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
        let pending = PendingPushes::default();
        for id in 0..10 {
            assert_eq!(pending.enqueue(push(id)), Enqueued::Added);
        }

        assert_eq!(pending.enqueue(push(0)), Enqueued::Covered);
        assert_eq!(pending.enqueue(push(10)), Enqueued::Dropped);

        for id in 0..10 {
            assert_eq!(pending.next().await, push(id));
        }
        assert_eq!(pending.enqueue(push(0)), Enqueued::Added);
        assert_eq!(pending.next().await, push(0));
    }
}
