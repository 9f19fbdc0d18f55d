//! Maintains a Receiver and a Secret for each repository of the agent's GitLab.

use std::{collections::BTreeMap, time::Duration};

use kube::{
    Client,
    api::{Api, Patch, PatchParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use proto::graph::rpc::Update;
use runtime::{backoff::Backoff, telemetry::Causes};
use serde_json::Value;
use tokio::time::Instant;

use super::{NOTIFICATION, Settings, repository::Repository};
use crate::last_failure::LastFailure;

/// The owner of the fields, as GitLab's agentk names it.
const FIELD_MANAGER: &str = "agentk";
/// How long one write may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// How often all objects are written again, in case somebody changed them.
const RESYNC_INTERVAL: Duration = Duration::from_secs(600);

/// Reconciles the Receivers of the repositories of one kind.
pub(super) struct ReceiverReconciler<'a> {
    client: &'a Client,
    settings: &'a Settings,
    /// By uid.
    all: BTreeMap<String, Repository>,
    /// Those whose objects are to be written.
    due: BTreeMap<String, Repository>,
    again: Instant,
    backoff: Backoff,
    failure: LastFailure,
}

impl<'a> ReceiverReconciler<'a> {
    pub(super) fn new(client: &'a Client, settings: &'a Settings) -> Self {
        Self {
            client,
            settings,
            all: BTreeMap::new(),
            due: BTreeMap::new(),
            again: Instant::now(),
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(300), 2.0),
            failure: LastFailure::default(),
        }
    }

    /// Takes a change of repositories.
    pub(super) fn take(&mut self, update: Update) {
        for object in update.changed {
            match Repository::read(&object.json, &self.settings.host) {
                Some(repository) if self.all.get(&object.uid) == Some(&repository) => {}
                Some(repository) => {
                    self.due.insert(object.uid.clone(), repository.clone());
                    self.all.insert(object.uid, repository);
                    self.again = Instant::now();
                }
                None => self.forget(&object.uid),
            }
        }
        update.removed.iter().for_each(|uid| self.forget(uid));
    }

    /// Its objects go with it.
    fn forget(&mut self, uid: &str) {
        self.all.remove(uid);
        self.due.remove(uid);
    }

    /// Waits until something is to be written. Cancel-safe.
    pub(super) async fn is_due(&self) {
        if self.due.is_empty() {
            tokio::time::sleep_until(self.again + RESYNC_INTERVAL).await;
        } else {
            tokio::time::sleep_until(self.again).await;
        }
    }

    /// Writes what is due; what fails is due again later.
    pub(super) async fn write(&mut self) {
        if self.due.is_empty() {
            self.due.clone_from(&self.all);
        }
        let mut failed = None;
        for (uid, repository) in std::mem::take(&mut self.due) {
            if let Err(error) = self.apply(&repository).await {
                failed = Some(Causes(&error).to_string());
                self.due.insert(uid, repository);
            }
        }
        match failed {
            None => {
                self.again = Instant::now();
                self.backoff.reset();
                self.failure.clear();
            }
            Some(error) => {
                self.again = Instant::now() + self.backoff.next(rand::random());
                if self.failure.is_new(&error) {
                    tracing::warn!(
                        error,
                        "could not write Flux's Receivers; `agentk rbac --features flux` prints the required rights"
                    );
                }
            }
        }
    }

    async fn apply(&self, repository: &Repository) -> Result<(), ApplyError> {
        let agent = self.settings.agent;
        let secret = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Secret"));
        let receiver = GroupVersionKind::gvk(NOTIFICATION, "v1", "Receiver");
        let receiver = ApiResource::from_gvk(&receiver);
        for (kind, object) in [
            (secret, repository.secret(agent)),
            (receiver, repository.receiver(agent)),
        ] {
            self.patch(&kind, &repository.namespace, &object).await?;
        }
        Ok(())
    }

    async fn patch(
        &self,
        kind: &ApiResource,
        namespace: &str,
        object: &Value,
    ) -> Result<(), ApplyError> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, kind);
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(object);
        let patched = tokio::time::timeout(WRITE_TIMEOUT, api.patch(name, &params, &patch)).await;
        match patched.map_err(|_| ApplyError::Timeout)? {
            // Whoever wrote at the same time will be seen.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            patched => Ok(patched.map(drop)?),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum ApplyError {
    #[error("the request to the Kubernetes API failed")]
    Api(#[from] kube::Error),
    #[error("the Kubernetes API did not answer in time")]
    Timeout,
}
