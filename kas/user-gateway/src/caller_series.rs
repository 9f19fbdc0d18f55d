//! How many requests each caller made and how long they took, as metrics of a bounded number of series.
//!
//! A request that ends is counted under a lock that it takes anyway, by one look-up and two additions; everything else
//! is done once a minute and for whoever reads the metrics. Only callers who were let in are counted.
//!
//! Those with most requests have a series each, the rest share one. Half of the series are for users and half for CI
//! jobs and services, since each CI job is a caller of its own: jobs take no series from users. Within a half, a caller
//! gives its series up only to one who made more than twice as many requests lately, and only one does so in a minute:
//! who makes up callers has to send what those others send, and more.

use std::{
    collections::hash_map::Entry,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

use foldhash::{HashMap, HashMapExt as _};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::Counter, family::Family, gauge::ConstGauge},
};

use crate::{
    caller_tallies::{CallerTallies, Traffic},
    in_progress::InProgressList,
};

/// Callers without a series that one part of the list tells apart until it is read again.
const MAX_NEW_IN_PART: usize = 1000;
/// Callers without a series that are remembered, of users and of others.
const MAX_WAITING: usize = 1000;
/// The same until the minute is over, when the least busy ones are forgotten.
const MAX_WAITING_IN_MINUTE: usize = 4 * MAX_WAITING;
/// What counts of the requests of a minute after another one: after 14 minutes half of them.
const DECAY: f64 = 0.95;
/// Requests lately below which a caller without a series is forgotten.
const FORGOTTEN: f64 = 0.1;
/// How much busier than one with a series somebody must be to get it.
const BUSIER: f64 = 2.0;
/// After how many minutes without requests a caller has no series.
const IDLE_MINUTES: u32 = 60;
/// What callers' names begin with that are people.
const USER: &str = "user:";
/// The label of all callers who have no series of their own; names of callers have a kind and a colon.
const OTHER: &str = "other";
/// Bytes of a name that are told.
const MAX_NAME_BYTES: usize = 128;

/// The series of all callers.
#[derive(Debug)]
pub(crate) struct CallerSeries {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    users: Pool,
    others: Pool,
    rest: Traffic,
}

/// The callers of a kind.
#[derive(Debug)]
struct Pool {
    max: usize,
    named: HashMap<Arc<str>, Series>,
    waiting: HashMap<Arc<str>, Recent>,
}

/// What is told of a caller.
#[derive(Debug, Default)]
struct Series {
    total: Traffic,
    recent: Recent,
    idle_minutes: u32,
}

/// How many requests a caller made lately, and in the minute that is not over.
#[derive(Debug, Clone, Copy, Default)]
struct Recent {
    before: f64,
    minute: u64,
    /// Whether there were any in the minute that was over last.
    is_active: bool,
}

impl Recent {
    fn end_minute(&mut self) {
        // It is exact up to 2^53.
        let minute = self.minute as f64;
        *self = Self {
            before: self.before.mul_add(DECAY, minute),
            minute: 0,
            is_active: self.minute > 0,
        };
    }
}

impl Pool {
    fn new(max: usize) -> Self {
        Self {
            max,
            named: HashMap::new(),
            waiting: HashMap::new(),
        }
    }

    /// Counts what a caller had, and gives back what belongs to the rest.
    fn add(&mut self, caller: Arc<str>, traffic: Traffic) -> Traffic {
        if traffic.requests == 0 {
            return Traffic::default();
        }
        // Names that are told alike are one series.
        let caller = match caller.len() > MAX_NAME_BYTES {
            true => caller[..caller.floor_char_boundary(MAX_NAME_BYTES)].into(),
            false => caller,
        };
        let has_room = self.named.len() < self.max;
        match self.named.entry(caller) {
            Entry::Occupied(mut found) => found.get_mut().add(traffic),
            Entry::Vacant(place) if has_room => {
                let recent = self.waiting.remove(place.key()).unwrap_or_default();
                let series = Series {
                    recent,
                    ..Series::default()
                };
                place.insert(series).add(traffic);
            }
            Entry::Vacant(place) => {
                let caller = place.into_key();
                if self.waiting.len() < MAX_WAITING_IN_MINUTE || self.waiting.contains_key(&caller)
                {
                    let recent = self.waiting.entry(caller).or_default();
                    recent.minute = recent.minute.saturating_add(traffic.requests);
                }
                return traffic;
            }
        }
        Traffic::default()
    }

    fn end_minute(&mut self) {
        self.named.retain(|_, series| series.end_minute());
        self.waiting.retain(|_, recent| {
            recent.end_minute();
            recent.before >= FORGOTTEN
        });
        self.give_to_a_busier_one();
        self.forget_the_least();
    }

    /// The busiest caller without a series gets that of the least busy one, if it is much busier.
    fn give_to_a_busier_one(&mut self) {
        let active = self.waiting.iter().filter(|(_, recent)| recent.is_active);
        let busiest = active.max_by(|(_, a), (_, b)| a.before.total_cmp(&b.before));
        let Some((caller, recent)) = busiest.map(|(caller, recent)| (caller.clone(), *recent))
        else {
            return;
        };
        if self.named.len() >= self.max {
            let least = self
                .named
                .iter()
                .min_by(|(_, a), (_, b)| a.recent.before.total_cmp(&b.recent.before));
            let least = least.filter(|(_, it)| recent.before > BUSIER * it.recent.before);
            let Some((least, of_least)) = least.map(|(name, it)| (name.clone(), it.recent)) else {
                return;
            };
            self.named.remove(&least);
            self.waiting.insert(least, of_least);
        }
        self.waiting.remove(&caller);
        let series = Series {
            recent,
            ..Series::default()
        };
        self.named.insert(caller, series);
    }

    fn forget_the_least(&mut self) {
        if self.waiting.len() <= MAX_WAITING {
            return;
        }
        let mut counts: Vec<_> = self.waiting.values().map(|it| it.before).collect();
        counts.select_nth_unstable_by(MAX_WAITING, |a, b| b.total_cmp(a));
        let last = counts[MAX_WAITING];
        let more = counts.iter().filter(|it| **it > last).count();
        let mut room = MAX_WAITING - more.min(MAX_WAITING);
        self.waiting.retain(|_, recent| {
            let order = recent.before.total_cmp(&last);
            let is_one_of_many = order.is_eq() && room > 0;
            room -= usize::from(is_one_of_many);
            order.is_gt() || is_one_of_many
        });
    }
}

impl Series {
    fn add(&mut self, traffic: Traffic) {
        self.total.add(traffic);
        self.recent.minute = self.recent.minute.saturating_add(traffic.requests);
    }

    /// Whether it stays.
    fn end_minute(&mut self) -> bool {
        self.idle_minutes = match self.recent.minute {
            0 => self.idle_minutes + 1,
            _ => 0,
        };
        self.recent.end_minute();
        self.idle_minutes < IDLE_MINUTES
    }
}

impl State {
    fn pool(&mut self, caller: &str) -> &mut Pool {
        match caller.starts_with(USER) {
            true => &mut self.users,
            false => &mut self.others,
        }
    }

    /// Where a part of the list counts from now on: those with a series always have room.
    fn fresh(&self) -> CallerTallies {
        let max = self.users.max + self.others.max;
        if max == 0 {
            return CallerTallies::default();
        }
        let named = self.users.named.keys().chain(self.others.named.keys());
        let by: HashMap<_, _> = named.map(|it| (it.clone(), Traffic::default())).collect();
        CallerTallies {
            room: by.len() + MAX_NEW_IN_PART,
            by,
            rest: Traffic::default(),
        }
    }

    /// Reads all parts of the list.
    fn collect(&mut self, list: &InProgressList) {
        for counted in list.take_callers(|| self.fresh()) {
            self.rest.add(counted.rest);
            for (caller, traffic) in counted.by {
                let rest = self.pool(&caller).add(caller, traffic);
                self.rest.add(rest);
            }
        }
    }
}

impl CallerSeries {
    /// So many series, at most, of the requests in this list; 0 counts nothing.
    pub(crate) fn new(max: usize, list: &InProgressList) -> Self {
        let mut state = State {
            users: Pool::new(max.div_ceil(2)),
            others: Pool::new(max / 2),
            rest: Traffic::default(),
        };
        // From now on they are counted.
        state.collect(list);
        Self {
            state: Mutex::new(state),
        }
    }

    /// A minute is over.
    pub(crate) fn end_minute(&self, list: &InProgressList) {
        let mut state = self.state();
        state.collect(list);
        state.users.end_minute();
        state.others.end_minute();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A caller, as a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallerLabel {
    caller: String,
}

impl CallerLabel {
    fn of(name: &str) -> Self {
        let caller = name[..name.floor_char_boundary(MAX_NAME_BYTES)].to_owned();
        Self { caller }
    }
}

/// Reads the series of all callers when somebody asks.
#[derive(Debug)]
pub(crate) struct CallerCollector<T>(pub(crate) T);

impl<T> Collector for CallerCollector<T>
where
    T: AsRef<CallerSeries> + AsRef<InProgressList> + std::fmt::Debug + Send + Sync + 'static,
{
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let series: &CallerSeries = self.0.as_ref();
        let mut state = series.state();
        state.collect(self.0.as_ref());
        let (requests, took) = (
            Family::<CallerLabel, Counter>::default(),
            Family::<CallerLabel, Counter<f64, AtomicU64>>::default(),
        );
        let tell = |name: &str, traffic: &Traffic| {
            let label = CallerLabel::of(name);
            requests.get_or_create(&label).inc_by(traffic.requests);
            took.get_or_create(&label)
                .inc_by(traffic.took.as_secs_f64());
        };
        let all = [&state.users, &state.others];
        for (name, series) in all.iter().flat_map(|pool| &pool.named) {
            tell(name, &series.total);
        }
        if all.iter().any(|pool| pool.max > 0) {
            tell(OTHER, &state.rest);
        }
        let omitted = all.iter().map(|pool| pool.waiting.len().min(MAX_WAITING));
        let omitted = omitted.sum::<usize>();
        drop(state);
        let (counter, gauge) = (MetricType::Counter, MetricType::Gauge);
        let (name, help) = (
            "k8s_api_proxy_caller_requests",
            "Reads and writes that are over of the callers with most of them; other is the sum of all other callers",
        );
        requests.encode(encoder.encode_descriptor(name, help, None, counter)?)?;
        let (name, help) = (
            "k8s_api_proxy_caller_request_seconds",
            "How long the reads and writes took that are over, of the callers with most of them; other is the sum of all other callers",
        );
        took.encode(encoder.encode_descriptor(name, help, None, counter)?)?;
        let (name, help) = (
            "caller_series_omitted",
            "Callers with requests lately that are counted as other, because there are more than observability.max_caller_series has room for; 2000 at most are told apart",
        );
        let omitted = ConstGauge::new(i64::try_from(omitted).unwrap_or(i64::MAX));
        omitted.encode(encoder.encode_descriptor(name, help, None, gauge)?)
    }
}

#[cfg(test)]
mod tests;
