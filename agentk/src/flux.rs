//! Has Flux look at a repository as soon as its project was pushed to, on the pod that leads.
//!
//! For each repository of Flux that is on the agent's GitLab it keeps a Receiver; kas tells of
//! pushes to their projects, and then their Receivers are called. Field by field as GitLab's
//! agentk does it, so that either may follow the other.

mod hooks;
mod keeper;
mod pushes;
mod receivers;
mod repository;

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use object_cache::Watch;
use proto::{agent::agentcfg::AgentConfiguration, graph::rpc::Resource};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::{
    cluster::Cluster, error_chain::chain, graph::Graph, last_failure::LastFailure,
    leader::LeaderOnly, session::Uplink,
};
use hooks::{HookError, Hooks};
use keeper::Keeper;
use pushes::PushSubscription;
use receivers::Receivers;

/// The group of Flux's repositories.
const SOURCE: &str = "source.toolkit.fluxcd.io";
/// The group of its Receivers.
const NOTIFICATION: &str = "notification.toolkit.fluxcd.io";
/// Annotations of what this agent keeps.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const OF_AGENT: &str = "agent.gitlab.com/id";
const OF_PROJECT: &str = "agent.gitlab.com/project";
/// Receivers that come one after the other are asked for together.
const DEBOUNCE: Duration = Duration::from_secs(1);
/// After this it is looked again for what the cluster does not have.
const MISSING: Duration = Duration::from_secs(120);
/// After this it is tried again otherwise.
const RETRY: Duration = Duration::from_secs(10);
/// Calls of Receivers at once.
const CALLS: usize = 100;

/// What keeps Receivers and calls them.
#[derive(Debug)]
pub(crate) struct Flux {
    pub(crate) cluster: Cluster,
    pub(crate) graph: Graph,
    pub(crate) uplink: Uplink,
    /// As kas tells it.
    pub(crate) configuration: watch::Receiver<Option<Arc<AgentConfiguration>>>,
}

/// What of the agent's configuration matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Settings {
    agent: i64,
    /// GitLab's host, as users know it.
    host: String,
    webhooks: String,
}

impl Settings {
    /// None without a GitLab.
    fn of(configuration: &AgentConfiguration) -> Option<Self> {
        let url: http::Uri = configuration.gitlab_external_url.parse().ok()?;
        let flux = configuration.flux.clone().unwrap_or_default();
        Some(Self {
            agent: configuration.agent_id,
            host: url.host()?.to_owned(),
            webhooks: flux.webhook_receiver_url,
        })
    }
}

impl Flux {
    /// As work for the pod that leads.
    pub(crate) fn leader_only(self) -> LeaderOnly {
        let flux = Arc::new(self);
        let work = move |stop: CancellationToken| -> Pin<Box<dyn Future<Output = ()> + Send>> {
            let flux = flux.clone();
            Box::pin(async move {
                stop.run_until_cancelled(flux.run()).await;
            })
        };
        LeaderOnly(Arc::new(work))
    }

    /// Never ends, unless the cluster cannot be asked at all.
    async fn run(&self) {
        let client = match self.cluster.typed() {
            Ok(client) => client,
            Err(error) => {
                return tracing::error!(
                    error = chain(&error),
                    "cannot notify Flux of pushes: no client for the Kubernetes API"
                );
            }
        };
        let mut configuration = self.configuration.clone();
        loop {
            let current = configuration.borrow_and_update().clone();
            let settings = current.as_deref().and_then(Settings::of);
            let changed =
                configuration.wait_for(|new| new.as_deref().and_then(Settings::of) != settings);
            if current.is_some() && settings.is_none() {
                tracing::warn!(
                    "cannot notify Flux of pushes: kas has no `gitlab.external_url`, by which the repositories of this GitLab are recognised"
                );
            }
            let serving = async {
                match &settings {
                    Some(settings) => self.serve(&client, settings).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = changed => if changed.is_err() { return },
                () = serving => {}
            }
        }
    }

    /// Never ends.
    async fn serve(&self, client: &kube::Client, settings: &Settings) {
        let mut failure = LastFailure::default();
        loop {
            let error = self.follow(client, settings).await;
            let missing = error.code() == Code::NotFound;
            let error = error.message().to_owned();
            if failure.is_new(&error) {
                if missing {
                    tracing::warn!(error, "the cluster lacks Flux's resources; retrying");
                } else {
                    tracing::warn!(error, "cannot notify Flux of pushes; retrying");
                }
            }
            tokio::time::sleep(if missing { MISSING } else { RETRY }).await;
        }
    }

    /// Ends when something cannot be followed any more.
    async fn follow(&self, client: &kube::Client, settings: &Settings) -> Status {
        let hooks = match Hooks::new(&settings.webhooks) {
            Ok(hooks) => hooks,
            Err(error) => {
                return Status::failed_precondition(format!(
                    "flux.webhook_receiver_url: {}",
                    chain(&error)
                ));
            }
        };
        let watches = tokio::try_join!(
            self.watch(SOURCE, "gitrepositories"),
            self.watch(NOTIFICATION, "receivers"),
        );
        let (repositories, receivers) = match watches {
            Ok(watches) => watches,
            Err(status) => return status,
        };
        tracing::info!("notifying Flux of pushes");
        let known = Known::default();
        tokio::select! {
            end = keep(Keeper::new(client, settings), repositories) => end,
            end = self.keep_packed(Keeper::new(client, settings)) => end,
            end = known.follow(receivers, settings.agent) => end,
            () = self.call(client, &hooks, &known) => Status::internal("it has ended"),
        }
    }

    /// Repositories in registries are followed if this Flux has them.
    async fn keep_packed(&self, keeper: Keeper<'_>) -> Status {
        match self.watch(SOURCE, "ocirepositories").await {
            Ok(watch) => keep(keeper, watch).await,
            Err(status) if status.code() == Code::NotFound => std::future::pending().await,
            Err(status) => status,
        }
    }

    async fn watch(&self, group: &str, resource: &str) -> Result<Watch, Status> {
        let watched = Resource {
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            whole: true,
            ..Resource::default()
        };
        let watch = self.graph.objects(watched).await;
        watch.map_err(|status| {
            Status::new(
                status.code(),
                format!("{resource}.{group}/v1: {}", status.message()),
            )
        })
    }

    /// Calls Receivers when their projects were pushed to. Never ends.
    async fn call(&self, client: &kube::Client, hooks: &Hooks, known: &Known) {
        let mut pushes = PushSubscription::new(self.uplink.clone());
        let mut calls = JoinSet::new();
        let mut changes = known.changed.subscribe();
        loop {
            changes.mark_unchanged();
            let projects = known.receivers().projects();
            let other = async {
                loop {
                    if changes.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                    tokio::time::sleep(DEBOUNCE).await;
                    if known.receivers().projects() != projects {
                        return;
                    }
                }
            };
            if projects.is_empty() {
                other.await;
                continue;
            }
            let pushed = |project: &str| {
                while calls.try_join_next().is_some() {}
                for path in known.receivers().paths(project) {
                    if calls.len() >= CALLS {
                        return tracing::warn!(
                            project,
                            "too many Receivers are being called; Flux checks the repository at its own interval"
                        );
                    }
                    let (hooks, client) = (hooks.clone(), client.clone());
                    let project = project.to_owned();
                    calls.spawn(async move {
                        log(&project, hooks.call(&client, &path).await);
                    });
                }
            };
            tokio::select! {
                () = pushes.follow(&projects, pushed) => {}
                () = other => {}
            }
        }
    }
}

/// The path of a webhook is a secret.
fn log(project: &str, called: Result<(), HookError>) {
    match called {
        Ok(()) => tracing::debug!(project, "notified Flux of a push"),
        Err(error) => {
            tracing::warn!(
                project,
                error = chain(&error),
                "could not call a Receiver; Flux checks the repository at its own interval"
            )
        }
    }
}

async fn keep(mut keeper: Keeper<'_>, mut repositories: Watch) -> Status {
    loop {
        let update = tokio::select! {
            update = repositories.next() => Some(update),
            () = keeper.is_due() => None,
        };
        match update {
            Some(Ok(update)) => keeper.take(update),
            Some(Err(end)) => return end,
            None => keeper.write().await,
        }
    }
}

/// The Receivers that are there.
#[derive(Debug, Default)]
struct Known {
    receivers: Mutex<Receivers>,
    changed: watch::Sender<()>,
}

impl Known {
    async fn follow(&self, mut watch: Watch, agent: i64) -> Status {
        loop {
            let update = match watch.next().await {
                Ok(update) => update,
                Err(end) => return end,
            };
            if self.receivers().apply(update, agent) {
                self.changed.send_replace(());
            }
        }
    }

    fn receivers(&self) -> MutexGuard<'_, Receivers> {
        self.receivers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
