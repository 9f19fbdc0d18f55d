//! Which requests there are whose answers are kept, and which there were.
//!
//! A request that never came is not begun any more once kas was told so. One that came is remembered for a while
//! without its answer, so that nobody is told that it never came.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use proto::agent::{grpctool::KeepOffer, kubernetes_api::rpc::ImpersonationConfig};
use runtime::shares::{Limits, Share, Shares};
use tokio::time::Instant;
use tonic::Status;

use super::{
    answer::{Answer, Reader, unknown},
    not_taken,
};

/// Bytes of answers' bodies that are kept, by caller.
const BYTES: Limits = Limits {
    total: 32 << 20,
    each: 8 << 20,
    reserved: 4 << 20,
};
/// Answers that no call carries, by caller.
const DETACHED: Limits = Limits {
    total: 512,
    each: 128,
    reserved: 64,
};
/// Requests whose answers are kept; there are fewer tunnels.
const MAX_LIVE: usize = 1000;
/// How long an answer is kept that was passed on: the replica that took it may have broken before it had passed it on.
const PASSED_ON_TTL: Duration = Duration::from_secs(5);
/// Bytes of these.
const MAX_PASSED_ON_BYTES: usize = 4 << 20;
/// How long it is remembered that a request came, or must not be begun: longer than any kas asks about it.
const SPENT_TTL: Duration = Duration::from_secs(120);
/// Requests that are remembered so.
const MAX_SPENT: usize = 65_536;
/// What is over is removed so late at most.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Names a request. It is a secret, and has no `Debug`.
pub(super) type Id = [u8; 16];

/// The requests of this process. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Table(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    entries: Mutex<Entries>,
    bytes: Shares<u64>,
    detached: Shares<u64>,
}

#[derive(Default)]
struct Entries {
    by_id: HashMap<Id, Entry>,
    live: usize,
    /// Answers that were passed on, how long they are kept, and their bytes; oldest first.
    passed_on: VecDeque<(Instant, Id, usize)>,
    passed_on_bytes: usize,
    /// What is remembered without an answer, and until when; oldest first.
    spent: VecDeque<(Instant, Id)>,
    /// Until when something is not remembered that should be.
    forgetful: Option<Instant>,
    sweeping: bool,
}

impl std::fmt::Debug for Entries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} requests", self.by_id.len())
    }
}

enum Entry {
    /// Its answer is here or will be, for this identity.
    Live(Arc<Answer>, Option<Box<ImpersonationConfig>>),
    /// It came.
    Spent,
    /// It did not, and must not be begun.
    Refused,
}

impl Table {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared {
            entries: Mutex::default(),
            bytes: Shares::new(BYTES),
            detached: Shares::new(DETACHED),
        }))
    }

    /// A request is about to be begun, whose call reads the answer first; none if it cannot be kept.
    ///
    /// # Errors
    /// When its name is none, or it must not be begun.
    pub(super) fn begin(
        &self,
        offer: &KeepOffer,
        identity: Option<ImpersonationConfig>,
    ) -> Result<Option<(Id, Reader)>, Status> {
        let id = id(offer)?;
        let bytes = self.0.bytes.take(offer.caller, 0).ok();
        let mut entries = self.entries();
        if entries.by_id.contains_key(&id) {
            return Err(unwanted());
        }
        entries.make_room(Instant::now());
        let answer = bytes.filter(|_| entries.live < MAX_LIVE).map(Answer::new);
        // Before anybody else can ask for it.
        let reader = answer.map(|answer| answer.read_by_another(0));
        match &reader {
            Some(reader) => {
                let entry = Entry::Live(reader.answer().clone(), identity.map(Box::new));
                entries.by_id.insert(id, entry);
                entries.live += 1;
            }
            None => entries.remember(id, Entry::Spent, Instant::now()),
        }
        drop(entries);
        if reader.is_none() {
            self.see_to_sweeping();
        }
        Ok(reader.map(|reader| (id, reader)))
    }

    /// A request is about to be begun whose answer is not kept.
    ///
    /// # Errors
    /// When its name is none, or it must not be begun.
    pub(super) fn begin_unkept(&self, offer: &KeepOffer) -> Result<(), Status> {
        let id = id(offer)?;
        let mut entries = self.entries();
        if entries.by_id.contains_key(&id) {
            return Err(unwanted());
        }
        entries.remember(id, Entry::Spent, Instant::now());
        drop(entries);
        self.see_to_sweeping();
        Ok(())
    }

    /// A call asks for the answer to a request of this identity.
    ///
    /// # Errors
    /// NOT_FOUND; with the mark that the API server has begun nothing, if the request never came, nor will be begun.
    pub(super) fn read(
        &self,
        offer: &KeepOffer,
        identity: Option<&ImpersonationConfig>,
    ) -> Result<(Id, Reader), Status> {
        let id = id(offer)?;
        let found = self.entries().find(id, identity, Instant::now());
        let answer = match found {
            Ok(answer) => answer,
            Err(status) => {
                self.see_to_sweeping();
                return Err(status);
            }
        };
        Ok((id, answer.read_by_another(offer.received)))
    }

    /// A call has passed the answer on.
    pub(super) fn passed_on(&self, id: Id) {
        self.entries().pass_on(id, Instant::now());
        self.see_to_sweeping();
    }

    /// Nothing is known of the answer any more.
    pub(super) fn spend(&self, id: Id) {
        self.entries().spend(id, Instant::now());
        self.see_to_sweeping();
    }

    /// A place for an answer that no call carries.
    pub(super) fn detach(&self, caller: u64) -> Option<Share<u64>> {
        self.0.detached.take(caller, 1).ok()
    }

    /// What is over is removed by a task, which ends when there is nothing more.
    fn see_to_sweeping(&self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if std::mem::replace(&mut self.entries().sweeping, true) {
            return;
        }
        let table = Arc::downgrade(&self.0);
        runtime.spawn(async move {
            while let Some(shared) = table.upgrade() {
                let next = lock(&shared).sweep(Instant::now());
                drop(shared);
                let Some(next) = next else { return };
                tokio::time::sleep_until(next + SWEEP_INTERVAL).await;
            }
        });
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        lock(&self.0)
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, Entries> {
    shared
        .entries
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

impl Entries {
    fn find(
        &mut self,
        id: Id,
        identity: Option<&ImpersonationConfig>,
        now: Instant,
    ) -> Result<Arc<Answer>, Status> {
        match self.by_id.get(&id) {
            Some(Entry::Live(answer, whose)) if whose.as_deref() == identity => Ok(answer.clone()),
            // Nobody learns whether there is such an answer of another identity.
            Some(Entry::Live(..) | Entry::Spent) => Err(unknown()),
            Some(Entry::Refused) => Err(not_taken()),
            None if self.forgetful.is_some_and(|until| now < until) => Err(unknown()),
            None => {
                self.remember(id, Entry::Refused, now);
                Err(not_taken())
            }
        }
    }

    fn pass_on(&mut self, id: Id, now: Instant) {
        let Some(Entry::Live(answer, _)) = self.by_id.get(&id) else {
            return;
        };
        answer.was_passed_on();
        let length = answer.length();
        self.passed_on.push_back((now + PASSED_ON_TTL, id, length));
        self.passed_on_bytes += length;
        while self.passed_on_bytes > MAX_PASSED_ON_BYTES {
            self.spend_passed_on(now);
        }
    }

    /// The answer that was passed on before all others.
    fn spend_passed_on(&mut self, now: Instant) {
        if let Some((_, id, length)) = self.passed_on.pop_front() {
            self.passed_on_bytes -= length;
            self.spend(id, now);
        }
    }

    /// What was passed on gives way to what was not.
    fn make_room(&mut self, now: Instant) {
        while self.live >= MAX_LIVE && !self.passed_on.is_empty() {
            self.spend_passed_on(now);
        }
    }

    fn spend(&mut self, id: Id, now: Instant) {
        if matches!(self.by_id.get(&id), Some(Entry::Live(..))) {
            self.live -= 1;
            self.remember(id, Entry::Spent, now);
        }
    }

    fn remember(&mut self, id: Id, entry: Entry, now: Instant) {
        self.by_id.insert(id, entry);
        self.spent.push_back((now + SPENT_TTL, id));
        if self.spent.len() > MAX_SPENT
            && let Some((until, id)) = self.spent.pop_front()
        {
            self.by_id.remove(&id);
            self.forgetful = self.forgetful.max(Some(until));
        }
    }

    /// Removes what is over, and says when something will be.
    fn sweep(&mut self, now: Instant) -> Option<Instant> {
        while self.passed_on.front().is_some_and(|it| it.0 <= now) {
            self.spend_passed_on(now);
        }
        while let Some((_, id)) = self.spent.pop_front_if(|it| it.0 <= now) {
            self.by_id.remove(&id);
        }
        let passed_on = self.passed_on.front().map(|it| it.0);
        let spent = self.spent.front().map(|it| it.0);
        let next = passed_on.into_iter().chain(spent).min();
        if next.is_none() {
            self.sweeping = false;
            self.by_id.shrink_to_fit();
            self.spent.shrink_to_fit();
            self.passed_on.shrink_to_fit();
        }
        next
    }
}

fn unwanted() -> Status {
    Status::aborted("the request is not wanted any more")
}

fn id(offer: &KeepOffer) -> Result<Id, Status> {
    let id = Id::try_from(&*offer.id);
    id.map_err(|_| Status::invalid_argument("a name of a request that is none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(id: u32, caller: u64) -> KeepOffer {
        let mut name = [0; 16];
        name[..4].copy_from_slice(&id.to_be_bytes());
        KeepOffer {
            id: name.to_vec().into(),
            keep_seconds: 60,
            caller,
            received: 0,
        }
    }

    fn whom(name: &str) -> ImpersonationConfig {
        ImpersonationConfig {
            username: name.into(),
            ..ImpersonationConfig::default()
        }
    }

    fn is_not_taken(status: &Status) -> bool {
        use prost::Message as _;
        let details = proto::google::rpc::Status::decode(status.details()).unwrap_or_default();
        proto::not_taken::is_among(&details.details)
    }

    #[test]
    fn what_never_came_is_not_begun_any_more() {
        let table = Table::new();

        assert!(is_not_taken(&table.read(&offer(1, 1), None).unwrap_err()));
        assert!(is_not_taken(&table.read(&offer(1, 1), None).unwrap_err()));

        assert!(table.begin(&offer(1, 1), None).is_err());
        assert!(table.begin(&offer(2, 1), None).unwrap().is_some());
    }

    #[test]
    fn another_identity_hears_of_nothing() {
        let table = Table::new();
        table.begin(&offer(1, 1), Some(whom("ana"))).unwrap();

        for other in [None, Some(whom("bob"))] {
            let refused = table.read(&offer(1, 1), other.as_ref()).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::NotFound);
            assert!(!is_not_taken(&refused), "it may be in progress");
        }
        assert!(table.read(&offer(1, 1), Some(&whom("ana"))).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_passed_on_is_forgotten_soon_and_that_it_came_later() {
        let table = Table::new();
        let (id, reader) = table.begin(&offer(1, 1), None).unwrap().unwrap();
        reader.answer().push("body".into());
        table.passed_on(id);
        assert!(table.read(&offer(1, 1), None).is_ok());

        tokio::time::sleep(Duration::from_secs(10)).await;
        let spent = table.read(&offer(1, 1), None).unwrap_err();
        assert!(!is_not_taken(&spent));
        drop(reader);
        assert_eq!(table.0.bytes.taken(), 0);

        tokio::time::sleep(Duration::from_secs(130)).await;
        let entries = table.entries();
        assert_eq!((entries.by_id.len(), entries.live), (0, 0));
        assert!(!entries.sweeping, "nothing is left to be swept");
    }

    #[test]
    fn what_is_begun_without_a_kept_answer_is_no_request_that_never_came() {
        let table = Table::new();
        table.begin_unkept(&offer(1, 1)).unwrap();

        assert!(!is_not_taken(&table.read(&offer(1, 1), None).unwrap_err()));

        table.read(&offer(2, 1), None).unwrap_err();
        assert!(table.begin_unkept(&offer(2, 1)).is_err());
    }

    #[test]
    fn what_has_no_room_is_no_request_that_never_came() {
        let table = Table::new();
        for number in 0..u32::try_from(MAX_LIVE).unwrap() {
            assert!(table.begin(&offer(number, 1), None).unwrap().is_some());
        }

        assert!(table.begin(&offer(5000, 1), None).unwrap().is_none());

        assert!(!is_not_taken(
            &table.read(&offer(5000, 1), None).unwrap_err()
        ));
    }

    #[test]
    fn who_remembers_no_more_says_that_it_is_not_known() {
        let table = Table::new();
        for number in 0..=u32::try_from(MAX_SPENT).unwrap() {
            assert!(is_not_taken(
                &table.read(&offer(number, 1), None).unwrap_err()
            ));
        }

        assert!(!is_not_taken(&table.read(&offer(0, 1), None).unwrap_err()));
        assert_eq!(table.entries().spent.len(), MAX_SPENT);
    }

    #[test]
    fn one_caller_leaves_room_for_others() {
        let table = Table::new();
        let greedy: Vec<_> = (0..600).filter_map(|_| table.detach(1)).collect();
        assert_eq!(greedy.len(), DETACHED.each);
        assert!(table.detach(2).is_some());

        let piece = bytes::Bytes::from(vec![0; 900 << 10]);
        let mut kept = 0;
        for number in 0..20 {
            let (_, reader) = table.begin(&offer(number, 1), None).unwrap().unwrap();
            reader.answer().push(piece.clone());
            kept += usize::from(reader.answer().is_kept());
        }
        assert_eq!(kept, 9, "8 MiB of one caller");
        let (_, other) = table.begin(&offer(100, 2), None).unwrap().unwrap();
        other.answer().push(piece);
        assert!(other.answer().is_kept());
    }
}
