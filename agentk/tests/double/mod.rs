//! A kas and a Kubernetes API that tests play, with the real agent between.

pub mod api;
pub mod kas;

use std::time::Duration;

use agentk::{ClusterSource, Config, Token};
use prost::Message as _;
use proto::agent::{
    grpctool::http_request,
    kubernetes_api::rpc::{HeaderExtra, ImpersonationConfig},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Longest wait for anything.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The agent between its two ends.
pub struct World {
    pub kas: kas::Kas,
    pub api: api::Api,
    pub stop: CancellationToken,
    pub agent: AbortOnDropHandle<()>,
}

/// An agent with one connection, so that it is known which tunnel is whose.
pub async fn world() -> World {
    world_with(1).await
}

/// An agent with so many connections.
pub async fn world_with(connections: usize) -> World {
    let api = api::Api::start().await;
    let kas = kas::Kas::start().await;
    let stop = CancellationToken::new();
    let token = Token::Fixed("secret".to_owned().into());
    let mut config =
        Config::new(&kas.address, token, ClusterSource::Server(api.url.clone())).unwrap();
    config.kas_connections = connections;
    let running = agentk::run(config, stop.clone(), CancellationToken::new());
    let agent = tokio::spawn(async move { running.await.unwrap() });
    World {
        kas,
        api,
        stop,
        agent: AbortOnDropHandle::new(agent),
    }
}

pub async fn within<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, wait)
        .await
        .expect("it took too long")
}

/// Has a request be made as another user.
pub fn impersonating(header: &mut http_request::Header) {
    let extra = HeaderExtra {
        imp_config: Some(ImpersonationConfig {
            username: "ana".into(),
            ..ImpersonationConfig::default()
        }),
    };
    header.extra = Some(prost_types::Any {
        type_url: "type.googleapis.com/gitlab.agent.kubernetes_api.rpc.HeaderExtra".into(),
        value: extra.encode_to_vec(),
    });
}
