//! Follows an agent's stream of objects, and reconnects when it breaks.

use std::{sync::Arc, time::Duration};

use object_cache::ObjectCache;
use proto::{
    bounds::{Bounds, OutOfBounds, Repeated},
    former_names::former,
    frame::{MAX_MESSAGE, Payload},
    graph::rpc::{SourceRequest, Update},
};
use router::{Call, Event, Need, OpenError, Opening, Router};
use runtime::backoff::Backoff;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::Key;

/// The agent's method.
const METHOD: &str = "/gitlab.agent.kas_graph.rpc.Source/Watch";
/// What one update of an agent may hold: ours hold less.
const UPDATE: Bounds = Bounds {
    bytes: MAX_MESSAGE,
    repeated: &[
        repeated(&[1], 20_000, "objects"),
        repeated(&[2], 100_000, "objects that are gone"),
        repeated(&[1, 7], 40_000, "owners"),
        repeated(&[1, 8], 100_000, "labels"),
    ],
};
/// How long a tunnel is waited for.
const TUNNEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Feeds `cache` until retrying is of no use; the status says why.
pub(super) async fn run(router: &Router, key: &Key, cache: &ObjectCache) -> Status {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(5), 2.0);
    loop {
        let end = match open(router, key, cache).await {
            Ok(call) => follow(call, cache, || backoff.reset()).await,
            Err(error) if cache.is_ready() => Status::unavailable(error.to_string()),
            Err(error) => return unserved(&error),
        };
        if is_final(end.code()) {
            return end;
        }
        cache.mark_interrupted();
        tracing::debug!(status = %end, agent.id = key.agent.0, "stream of the agent's objects ended; reconnecting");
        tokio::time::sleep(backoff.next(rand::random())).await;
    }
}

/// Begins to be told; an older agent knows the method by its former name.
async fn open(router: &Router, key: &Key, cache: &ObjectCache) -> Result<Call, OpenError> {
    match open_as(METHOD, router, key, cache).await {
        Err(OpenError::NotOffered) => open_as(&former(METHOD), router, key, cache).await,
        opened => opened,
    }
}

async fn open_as(
    method: &str,
    router: &Router,
    key: &Key,
    cache: &ObjectCache,
) -> Result<Call, OpenError> {
    let request = SourceRequest {
        resource: Some(key.collection.resource(key.whole)),
        version: cache.version(),
    };
    let method: Arc<str> = method.into();
    let need = Need {
        method: method.clone(),
        impersonation: false,
        upgrade: false,
        caller: "graph".into(),
    };
    let opening = Opening {
        method,
        meta: Default::default(),
        messages: vec![Payload::message(&request)],
        close: true,
        safe: true,
        moves: true,
    };
    let deadline = Instant::now() + TUNNEL_TIMEOUT;
    router.open(key.agent, &need, &opening, deadline).await
}

/// The first updates, up to one that is synced, are all that there is.
async fn follow(mut call: Call, cache: &ObjectCache, well: impl FnOnce()) -> Status {
    let mut first = Some(cache.begin_list());
    let mut well = Some(well);
    loop {
        let bytes = match call.event().await {
            Ok(Event::Message(bytes)) => bytes,
            Ok(Event::Header(_) | Event::Trailer(_)) => continue,
            Ok(Event::Error(status)) => {
                return Status::new(Code::from_i32(status.code), status.message);
            }
            Ok(Event::End) => {
                return Status::unavailable("the agent ended the stream of its objects");
            }
            Err(broken) => return Status::unavailable(broken.to_string()),
        };
        let update: Update = match UPDATE.decode(bytes) {
            Ok(update) => update,
            Err(error @ OutOfBounds::Malformed(_)) => {
                return Status::unavailable(format!("an update is broken: {error}"));
            }
            Err(error) => return Status::resource_exhausted(format!("an update has {error}")),
        };
        let Some(mut all) = first.take() else {
            cache.apply(update);
            continue;
        };
        // They count before they are passed on: an agent may never say that it has sent all.
        if let Err(full) = all.push(update.changed) {
            return full;
        }
        if update.synced {
            all.commit(update.version);
            if let Some(well) = well.take() {
                well();
            }
        } else {
            first = Some(all);
        }
    }
}

const fn repeated(path: &'static [u32], most: usize, what: &'static str) -> Repeated {
    Repeated { path, most, what }
}

fn unserved(error: &OpenError) -> Status {
    Status::failed_precondition(format!(
        "no tunnel of the agent serves graphs ({error}); agentk does with --features=graph"
    ))
}

fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::PermissionDenied
            | Code::Unimplemented
            | Code::ResourceExhausted
    )
}
