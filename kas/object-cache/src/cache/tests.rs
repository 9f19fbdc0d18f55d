use super::*;
use crate::{
    backlog::{BACKLOG_BYTES, BACKLOG_CHANGES},
    limits::Limits,
};

fn budget(bytes: usize, bytes_per_group: usize) -> Arc<Budget> {
    Budget::new(&Limits::of_bytes(bytes, bytes_per_group))
}

fn cache(limit: usize) -> Arc<ObjectCache> {
    ObjectCache::new(&budget(limit, limit), 1)
}

async fn watching(cache: &Arc<ObjectCache>) -> Watch {
    let known = Known::default();
    cache.clone().watch(&known, Duration::MAX).await.unwrap()
}

fn object(uid: usize, version: usize, bytes: usize) -> Object {
    Object {
        uid: uid.to_string(),
        resource_version: version.to_string(),
        json: vec![0; bytes].into(),
        ..Object::default()
    }
}

fn change(version: usize) -> Update {
    Update {
        changed: vec![object(1, version, 0)],
        version: version.to_string(),
        ..Update::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_watcher_receives_all_objects_then_each_change() {
    let cache = cache(usize::MAX);
    let large = 1_400_000;
    cache.replace(vec![object(1, 1, large), object(2, 2, large)], "2".into());
    let known = Known::default();
    let mut watch = cache.clone().watch(&known, Duration::MAX).await.unwrap();

    let mut received = Vec::new();
    while !received.last().is_some_and(|it: &Update| it.synced) {
        received.push(watch.next().await.unwrap());
    }
    assert!(received.iter().all(|update| update.changed.len() <= 1));
    cache.apply(change(3));
    assert_eq!(watch.next().await.unwrap().version, "3");
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_does_not_read_is_cut_off() {
    let cache = cache(usize::MAX);
    cache.replace(Vec::new(), "1".into());
    let known = Known::default();
    let mut watch = cache.clone().watch(&known, Duration::MAX).await.unwrap();
    for version in 2..BACKLOG_CHANGES + 10 {
        cache.apply(change(version));
    }

    assert!(watch.next().await.unwrap().synced);
    let end = watch.next().await.unwrap_err();
    assert_eq!(end.code(), tonic::Code::Aborted);
}

#[tokio::test(start_paused = true)]
async fn a_list_without_end_is_refused_and_its_bytes_are_released() {
    let cache = cache(10_000);
    let mut stage = cache.begin_list();
    let mut pushed = 0;
    while stage.push(vec![object(pushed, 1, 1000)]).is_ok() {
        pushed += 1;
        assert!(pushed < 10, "there is an end");
    }
    drop(stage);
    assert_eq!(cache.usage.bytes(), 0);

    let mut stage = cache.begin_list();
    stage.push(vec![object(1, 1, 1000)]).unwrap();
    stage.commit("1".into());
    assert!(cache.is_ready() && cache.failure().is_none());
}

#[tokio::test(start_paused = true)]
async fn too_many_bytes_end_the_cache_for_all_watchers() {
    let cache = cache(10_000);
    cache.replace(Vec::new(), "1".into());
    let known = Known::default();
    let mut watch = cache.clone().watch(&known, Duration::MAX).await.unwrap();
    watch.next().await.unwrap();
    cache.replace(vec![object(1, 2, 20_000)], "2".into());

    let end = watch.next().await.unwrap_err();
    assert_eq!(end.code(), tonic::Code::ResourceExhausted);
    assert!(cache.watch(&known, Duration::MAX).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn the_largest_cache_fails_not_the_one_that_grows_last() {
    let budget = budget(100_000, 100_000);
    let (large, small) = (ObjectCache::new(&budget, 1), ObjectCache::new(&budget, 2));
    large.replace(vec![object(1, 1, 70_000)], "1".into());
    small.replace(vec![object(1, 1, 10_000)], "1".into());
    let mut watch = watching(&large).await;

    small.replace(vec![object(2, 2, 40_000)], "2".into());

    let code = tonic::Code::ResourceExhausted;
    assert_eq!(watch.next().await.unwrap_err().code(), code);
    assert_eq!(large.usage.bytes(), 0);
    assert!(small.failure().is_none());
    assert!(small.usage.bytes() > 40_000);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_exceeds_its_part_loses_its_largest_cache() {
    let budget = budget(100_000, 50_000);
    let bystander = ObjectCache::new(&budget, 1);
    bystander.replace(vec![object(1, 1, 45_000)], "1".into());
    let (first, second) = (ObjectCache::new(&budget, 2), ObjectCache::new(&budget, 2));
    first.replace(vec![object(1, 1, 30_000)], "1".into());

    second.replace(vec![object(1, 1, 25_000)], "1".into());

    assert!(first.failure().is_some());
    assert!(second.failure().is_none() && bystander.failure().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_group_that_lists_without_end_fails_only_its_own_cache() {
    let budget = budget(100_000, 50_000);
    let (bystander, endless) = (ObjectCache::new(&budget, 1), ObjectCache::new(&budget, 2));
    bystander.replace(vec![object(1, 1, 1_000)], "1".into());
    let mut stage = endless.begin_list();

    let full = (0..1_000).find_map(|uid| stage.push(vec![object(uid, 1, 1_000)]).err());

    assert_eq!(full.unwrap().code(), tonic::Code::ResourceExhausted);
    drop(stage);
    assert_eq!(endless.usage.bytes(), 0);
    assert!(watching(&bystander).await.next().await.unwrap().synced);
}

#[tokio::test(start_paused = true)]
async fn new_watchers_share_the_objects() {
    let cache = cache(usize::MAX);
    cache.replace(
        (0..100).map(|uid| object(uid, 1, 1_000)).collect(),
        "1".into(),
    );
    let before = cache.usage.bytes();

    let mut watches = Vec::new();
    for _ in 0..100 {
        watches.push(watching(&cache).await);
    }
    assert_eq!(cache.usage.bytes(), before);

    // What is left to receive counts, even when nothing else holds it.
    cache.replace(Vec::new(), "2".into());
    assert_eq!(cache.usage.bytes(), before);
    drop(watches);
    assert_eq!(cache.usage.bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_backlog_of_slow_watchers_is_bounded_and_goes_first() {
    let cache = cache(2 * BACKLOG_BYTES);
    cache.replace(Vec::new(), "1".into());
    let mut slow = watching(&cache).await;
    assert!(slow.next().await.unwrap().synced);
    let mut quick = watching(&cache).await;
    assert!(quick.next().await.unwrap().synced);

    for version in 2..50 {
        let changed = vec![object(1, version, BACKLOG_BYTES / 4)];
        let version = version.to_string();
        cache.apply(Update {
            changed,
            version: version.clone(),
            ..Update::default()
        });
        assert_eq!(quick.next().await.unwrap().version, version);
        assert!(cache.usage.bytes() < 2 * BACKLOG_BYTES);
    }

    assert!(cache.failure().is_none());
    assert_eq!(slow.next().await.unwrap_err().code(), tonic::Code::Aborted);
}

#[tokio::test(start_paused = true)]
async fn no_watcher_is_taken_back_to_an_older_version() {
    let cache = cache(usize::MAX);
    cache.replace(Vec::new(), "1".into());
    let known = Known {
        version: "5".into(),
        ..Known::default()
    };
    let waiting = tokio::spawn(cache.clone().watch_owned(known));
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    cache.apply(change(6));
    let mut watch = waiting.await.unwrap().unwrap();
    assert_eq!(watch.next().await.unwrap().version, "6");
}

impl ObjectCache {
    async fn watch_owned(self: Arc<Self>, known: Known) -> Result<Watch, Status> {
        self.watch(&known, Duration::from_secs(3600)).await
    }
}
