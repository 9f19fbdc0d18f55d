//! Connection records: a list for each agent, the newest first, each signed.

use std::{sync::Arc, time::Duration};

use fred::{
    clients::Client,
    error::Error,
    interfaces::{ClientLike as _, KeysInterface as _},
    types::{ClusterHash, CustomCommand},
};
use futures_util::FutureExt as _;

use super::{RedisStore, format::Keys, in_time, metrics::StoreMetrics, signature::Signer};
use crate::{
    connection_record::{ConnectionRecord, ConnectionRecords, RecordSubject, RecordsPage, page_of},
    store::StoreFuture,
};

/// How many records a list may have beyond its bound before it is trimmed, so that most writes are one command.
const SLACK: usize = 16;
/// Seconds that a list outlives the write that began or trimmed it.
const LIST_TTL: i64 = 30 * 24 * 3600;
/// How long a command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(4);

/// The connection records of all replicas.
#[derive(Debug)]
pub(super) struct RedisRecords {
    client: Client,
    keys: Keys,
    server: String,
    metrics: StoreMetrics,
    signer: Arc<Signer>,
}

impl RedisRecords {
    pub(super) fn new(store: &RedisStore) -> Self {
        Self {
            client: store.client.clone(),
            keys: store.keys.clone(),
            server: store.server.clone(),
            metrics: store.metrics.clone(),
            signer: store.signer.clone(),
        }
    }

    async fn push(&self, subject: RecordSubject, texts: Vec<String>) -> Result<(), Error> {
        let (key, added) = (self.keys.connections(subject), texts.len());
        let arguments = std::iter::once(key.clone()).chain(texts).collect();
        let length: usize = self.client.custom(command("LPUSH"), arguments).await?;
        let bound = subject.bound();
        if length > bound + SLACK {
            let arguments = range(&key, bound);
            self.client
                .custom::<(), _>(command("LTRIM"), arguments)
                .await?;
        }
        if length > bound + SLACK || length <= added {
            self.client.expire::<(), _>(&key, LIST_TTL, None).await?;
        }
        Ok(())
    }
}

impl ConnectionRecords for RedisRecords {
    fn append<'a>(
        &'a self,
        subject: RecordSubject,
        records: &'a [ConnectionRecord],
    ) -> StoreFuture<'a, ()> {
        async move {
            let texts = records.iter().map(|record| {
                let text = serde_json::to_string(record).expect("strings and numbers are JSON");
                self.signer.write_record(subject, &text)
            });
            let texts: Vec<_> = texts.collect();
            if texts.is_empty() {
                return Ok(());
            }
            let pushed = in_time(&self.server, COMMAND_TIMEOUT, self.push(subject, texts)).await;
            self.metrics.count("append_records", pushed.is_ok());
            pushed
        }
        .boxed()
    }

    fn read(
        &self,
        subject: RecordSubject,
        page: RecordsPage,
    ) -> StoreFuture<'_, Vec<ConnectionRecord>> {
        async move {
            let key = self.keys.connections(subject);
            let length = match page.before {
                None => page.limit.saturating_add(OUT_OF_ORDER),
                Some(_) => subject.bound(),
            };
            let read = self
                .client
                .custom(command("LRANGE"), range(&key, length.min(subject.bound())));
            let read = in_time(&self.server, COMMAND_TIMEOUT, read).await;
            self.metrics.count("read_records", read.is_ok());
            let texts: Vec<String> = read?;
            let records = texts.into_iter().filter_map(|text| {
                let text = self.signer.read_record(subject, &text)?;
                let record: ConnectionRecord = serde_json::from_str(text).ok()?;
                // Without a secret, whoever writes into Redis may have written anything.
                Some(record.bounded())
            });
            Ok(page_of(records, page))
        }
        .boxed()
    }
}

/// Records that may stand behind one that is older: several replicas write, each a little later than it happened.
const OUT_OF_ORDER: usize = 8;

/// The key and the range of the first so many of a list.
fn range(key: &str, length: usize) -> Vec<String> {
    let last = length.saturating_sub(1).to_string();
    vec![key.to_owned(), "0".to_owned(), last]
}

fn command(name: &'static str) -> CustomCommand {
    CustomCommand::new_static(name, ClusterHash::FirstKey, false)
}
