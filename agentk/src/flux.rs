//! Notifies Flux of pushes to its repositories, on the pod that leads.
//!
//! For each repository of Flux that is on the agent's GitLab it maintains a Receiver; kas reports pushes to their
//! projects, and then their Receivers are called. The objects equal those of GitLab's agentk field by field, so
//! that either agent may follow the other.

mod pushes;
mod receivers;
mod reconciler;
mod repository;
mod webhook;

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

use runtime::telemetry::Causes;

use crate::{
    cluster::Cluster, graph::Graph, last_failure::LastFailure, leader::LeaderOnly, session::Uplink,
};
use pushes::PushSubscription;
use receivers::Receivers;
use reconciler::ReceiverReconciler;
use webhook::{WebhookClient, WebhookError};

/// The group of Flux's repositories.
const SOURCE: &str = "source.toolkit.fluxcd.io";
/// The group of its Receivers.
const NOTIFICATION: &str = "notification.toolkit.fluxcd.io";
/// Annotations of what this agent keeps.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const OF_AGENT: &str = "agent.gitlab.com/id";
const OF_PROJECT: &str = "agent.gitlab.com/project";
/// Receivers that change within this interval make one new subscription.
const DEBOUNCE_INTERVAL: Duration = Duration::from_secs(1);
/// Interval at which resources are looked for that the cluster lacks.
const MISSING_RETRY_INTERVAL: Duration = Duration::from_secs(120);
/// Delay after other failures.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Concurrent calls of Receivers.
const MAX_CALLS: usize = 100;

/// The feature.
#[derive(Debug)]
pub(crate) struct Flux {
    pub(crate) cluster: Cluster,
    pub(crate) graph: Graph,
    pub(crate) uplink: Uplink,
    /// The agent's configuration, from kas.
    pub(crate) configuration: watch::Receiver<Option<Arc<AgentConfiguration>>>,
}

/// The part of the agent's configuration that matters here.
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

    /// Ends only when there is no client for the cluster.
    async fn run(&self) {
        let client = match self.cluster.typed() {
            Ok(client) => client,
            Err(error) => {
                return tracing::error!(
                    error = %Causes(&error),
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
            tokio::time::sleep(if missing {
                MISSING_RETRY_INTERVAL
            } else {
                RETRY_INTERVAL
            })
            .await;
        }
    }

    /// Ends when something cannot be followed any more.
    async fn follow(&self, client: &kube::Client, settings: &Settings) -> Status {
        let webhook = match WebhookClient::new(&settings.webhooks) {
            Ok(webhook) => webhook,
            Err(error) => {
                return Status::failed_precondition(format!(
                    "flux.webhook_receiver_url: {}",
                    Causes(&error)
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
        let known = KnownReceivers::default();
        tokio::select! {
            end = reconcile(ReceiverReconciler::new(client, settings), repositories) => end,
            end = self.reconcile_oci(ReceiverReconciler::new(client, settings)) => end,
            end = known.follow(receivers, settings.agent) => end,
            () = self.call(client, &webhook, &known) => Status::internal("the calls of Receivers ended"),
        }
    }

    /// Repositories in registries are followed if this Flux has them.
    async fn reconcile_oci(&self, reconciler: ReceiverReconciler<'_>) -> Status {
        match self.watch(SOURCE, "ocirepositories").await {
            Ok(watch) => reconcile(reconciler, watch).await,
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
    async fn call(&self, client: &kube::Client, webhook: &WebhookClient, known: &KnownReceivers) {
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
                    tokio::time::sleep(DEBOUNCE_INTERVAL).await;
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
                    if calls.len() >= MAX_CALLS {
                        return tracing::warn!(
                            project,
                            "too many Receivers are being called; Flux checks the repository at its own interval"
                        );
                    }
                    let (webhook, client) = (webhook.clone(), client.clone());
                    let project = project.to_owned();
                    calls.spawn(async move {
                        log(&project, webhook.call(&client, &path).await);
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

/// Without the path of the webhook, which is a secret.
fn log(project: &str, called: Result<(), WebhookError>) {
    match called {
        Ok(()) => tracing::debug!(project, "notified Flux of a push"),
        Err(error) => {
            tracing::warn!(
                project,
                error = %Causes(&error),
                "could not call a Receiver; Flux checks the repository at its own interval"
            )
        }
    }
}

async fn reconcile(mut reconciler: ReceiverReconciler<'_>, mut repositories: Watch) -> Status {
    loop {
        let update = tokio::select! {
            update = repositories.next() => Some(update),
            () = reconciler.is_due() => None,
        };
        match update {
            Some(Ok(update)) => reconciler.take(update),
            Some(Err(end)) => return end,
            None => reconciler.write().await,
        }
    }
}

/// The Receivers that are there.
#[derive(Debug, Default)]
struct KnownReceivers {
    receivers: Mutex<Receivers>,
    changed: watch::Sender<()>,
}

impl KnownReceivers {
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
