//! The API that GitLab calls, as the configuration wants it.

use std::sync::Arc;

use agent_gateway::{
    Clusters, Tracker,
    events::{Events, Reader},
};
use anyhow::Context as _;
use control_plane::{gitaly::Gitaly, notifications::Notifications};
use proto::{events::rpc::reader_server::ReaderServer, graph::rpc::graph_server::GraphServer};
use runtime::{jwt::Secret, listen::PlainAcceptor, tls::H2};
use user_gateway::Graph;

use super::{directions::Directions, server_tls};
use crate::{
    config::{Config, Listens as _},
    gitlab_api::{GitLabApi, Services, Settings},
    replica::GitLabPort,
};

/// The port for GitLab, where there is one.
pub(super) async fn port(
    config: &Config,
    services: Services,
    directions: &Directions,
) -> anyhow::Result<Option<GitLabPort>> {
    let Some(listen) = config.api.as_ref().map(|api| &api.listen) else {
        return Ok(None);
    };
    let settings = Settings {
        secret: Secret::read(&listen.authentication_secret_file)?,
        max_connection_age: listen.max_connection_age.0,
        directions: directions.gitlab(),
    };
    let acceptor = PlainAcceptor::new(server_tls(listen.tls().as_ref(), &[H2])?);
    let listener = super::listener::listen(&listen.socket())
        .await
        .context("api.listen.address")?;
    tracing::info!(address = %listener, "GitLab's port is up");
    Ok(Some(GitLabPort {
        listener,
        acceptor,
        api: GitLabApi::new(settings, services).await,
    }))
}

/// All that GitLab may ask.
pub(super) fn services(
    notifications: &Notifications,
    tracker: &Arc<Tracker>,
    clusters: &Arc<Clusters>,
    gitaly: Option<&Gitaly>,
    events: Option<&Events>,
    graph: Option<&Graph>,
) -> Services {
    let services = Services::new(notifications.clone(), tracker.clone());
    let mut services = services.with_clusters(clusters.clone(), tracker.clone());
    if let Some(graph) = graph {
        services = services.with(GraphServer::new(graph.clone()));
    }
    if let Some(gitaly) = gitaly {
        services = services.with_repositories(gitaly.clone());
    }
    if let Some(events) = events {
        services = services.with(ReaderServer::new(Reader(events.clone())));
    }
    services
}
