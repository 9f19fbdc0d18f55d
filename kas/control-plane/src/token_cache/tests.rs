//! What is remembered, for how long, and what an outage changes.

use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::FutureExt;

use super::*;

#[derive(Debug, Clone, PartialEq, Eq)]
enum No {
    Refused,
    Away,
}

impl Retryable for No {
    fn is_retryable(&self) -> bool {
        *self == Self::Away
    }
}

type Answer = Result<u32, No>;

struct Fixture {
    cache: TokenCache<u32, No>,
    asked: Arc<AtomicU32>,
}

impl Fixture {
    fn new() -> Self {
        let policy = CachePolicy {
            ttl: Duration::from_secs(300),
            error_ttl: Duration::from_secs(60),
            grace: Duration::from_secs(600),
            capacity: 10,
        };
        Self {
            cache: TokenCache::new(policy),
            asked: Arc::default(),
        }
    }

    async fn get(&self, answer: Answer) -> Answer {
        self.get_after(Duration::ZERO, answer).await
    }

    async fn get_after(&self, delay: Duration, answer: Answer) -> Answer {
        let asked = self.asked.clone();
        let ask = |_| {
            async move {
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(delay).await;
                answer
            }
            .boxed()
        };
        self.cache.get(TokenHash::new([0; 32]), ask).await
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_good_answer_is_remembered_for_its_time() {
    let fixture = Fixture::new();

    assert_eq!(fixture.get(Ok(1)).await, Ok(1));
    assert_eq!(fixture.get(Ok(2)).await, Ok(1));
    seconds(301).await;
    assert_eq!(fixture.get(Ok(3)).await, Ok(3));
    assert_eq!(fixture.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_remembered_for_less_long() {
    let fixture = Fixture::new();

    assert_eq!(fixture.get(Err(No::Refused)).await, Err(No::Refused));
    assert_eq!(fixture.get(Ok(1)).await, Err(No::Refused));
    seconds(61).await;
    assert_eq!(fixture.get(Ok(1)).await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_failure_to_ask_is_not_remembered() {
    let fixture = Fixture::new();

    assert_eq!(fixture.get(Err(No::Away)).await, Err(No::Away));
    assert_eq!(fixture.get(Ok(1)).await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_share_one_question() {
    let fixture = Fixture::new();

    let (one, two) = tokio::join!(fixture.get(Ok(1)), fixture.get(Ok(2)));

    assert_eq!((one, two), (Ok(1), Ok(1)));
    assert_eq!(fixture.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_stops_waiting_does_not_stop_the_question() {
    let fixture = Fixture::new();

    let slow = fixture.get_after(Duration::from_secs(5), Ok(1));
    let gave_up = tokio::time::timeout(Duration::from_secs(1), slow).await;
    seconds(5).await;

    assert!(gave_up.is_err());
    assert_eq!(fixture.get(Ok(2)).await, Ok(1));
    assert_eq!(fixture.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_ends_soon_is_renewed_without_waiting() {
    let fixture = Fixture::new();
    fixture.get(Ok(1)).await.unwrap();
    seconds(271).await;

    let before = fixture.get_after(Duration::from_secs(1), Ok(2)).await;
    seconds(2).await;

    assert_eq!(before, Ok(1));
    assert_eq!(fixture.get(Ok(3)).await, Ok(2));
    assert_eq!(fixture.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn while_nobody_can_say_a_good_answer_lasts_for_its_grace_and_no_longer() {
    let fixture = Fixture::new();
    fixture.get(Ok(1)).await.unwrap();

    seconds(400).await;
    assert_eq!(fixture.get(Err(No::Away)).await, Ok(1));
    seconds(499).await;
    assert_eq!(fixture.get(Err(No::Away)).await, Ok(1));
    seconds(2).await;
    assert_eq!(fixture.get(Err(No::Away)).await, Err(No::Away));
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_not_waited_for_in_the_grace_but_counts_when_it_comes() {
    let fixture = Fixture::new();
    fixture.get(Ok(1)).await.unwrap();
    seconds(400).await;

    let meanwhile = fixture
        .get_after(Duration::from_secs(5), Err(No::Refused))
        .await;
    seconds(5).await;

    assert_eq!(meanwhile, Ok(1));
    assert_eq!(fixture.get(Ok(2)).await, Err(No::Refused));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_ends_the_grace() {
    let fixture = Fixture::new();
    fixture.get(Ok(1)).await.unwrap();
    seconds(400).await;

    assert_eq!(fixture.get(Err(No::Refused)).await, Err(No::Refused));
    seconds(61).await;
    assert_eq!(fixture.get(Err(No::Away)).await, Err(No::Away));
}

#[tokio::test(start_paused = true)]
async fn grace_is_not_extended_by_an_answer_older_than_a_refusal() {
    let fixture = Fixture::new();
    fixture.get(Ok(1)).await.unwrap();
    seconds(271).await;

    // Renewed in the background, and refused.
    assert_eq!(fixture.get(Err(No::Refused)).await, Ok(1));
    seconds(1).await;

    assert_eq!(fixture.get(Ok(2)).await, Err(No::Refused));
}

#[tokio::test(start_paused = true)]
async fn without_a_time_nothing_is_remembered() {
    let mut fixture = Fixture::new();
    fixture.cache.policy.ttl = Duration::ZERO;

    assert_eq!(fixture.get(Ok(1)).await, Ok(1));
    assert_eq!(fixture.get(Ok(2)).await, Ok(2));
}
