//! The API that GitLab calls, as the configuration wants it.

use std::{path::Path, sync::Arc};

use agent_gateway::{
    Tracker,
    events::{Events, Reader},
};
use anyhow::Context as _;
use control_plane::{gitaly::Gitaly, notifications::Notifications};
use proto::{events::rpc::reader_server::ReaderServer, graph::rpc::graph_server::GraphServer};
use runtime::{
    jwt::Secret,
    listen::{AnyListener, PlainAcceptor, bind, bind_unix},
    tls::H2,
};
use user_gateway::Graph;

use super::{directions::Directions, server_tls};
use crate::{
    config::{ApiListen, Config, Listens as _, Network},
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
    let listener = listener(listen).await.context("api.listen.address")?;
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
    gitaly: Option<&Gitaly>,
    events: Option<&Events>,
    graph: Option<&Graph>,
) -> Services {
    let mut services = Services::new(notifications.clone(), tracker.clone());
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

async fn listener(listen: &ApiListen) -> anyhow::Result<AnyListener> {
    let address = listen.socket();
    Ok(match address.network {
        Network::Unix => AnyListener::Unix(bind_unix(Path::new(&address.address))?),
        Network::Tcp | Network::Tcp4 | Network::Tcp6 => {
            AnyListener::Tcp(bind(&address.host_port()).await?)
        }
    })
}
