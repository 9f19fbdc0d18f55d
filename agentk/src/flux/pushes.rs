//! Follows pushes to projects at kas.

use std::{collections::BTreeSet, time::Duration};

use proto::agent::flux::rpc::{
    Project, ReconcileProjectsRequest, git_lab_flux_client::GitLabFluxClient,
};
use tonic::{Status, codec::CompressionEncoding};

use crate::session::{Attempt, Follower, Uplink};

const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// A subscription to pushes, on one connection after the other.
#[derive(Debug)]
pub(super) struct PushSubscription(Follower);

impl PushSubscription {
    pub(super) fn new(uplink: Uplink) -> Self {
        let failed = "kas does not report pushes; Flux checks its repositories at its own interval";
        Self(Follower::new(uplink, BACKOFF_MIN, BACKOFF_MAX, failed))
    }

    /// Calls `pushed` for each push to one of these projects. Never ends.
    pub(super) async fn follow(
        &mut self,
        projects: &BTreeSet<String>,
        mut pushed: impl FnMut(&str),
    ) {
        loop {
            let attempt = self.0.attempt().await;
            let end = self.stream(&attempt, projects, &mut pushed).await;
            self.0.ended(attempt, end).await;
        }
    }

    async fn stream(
        &mut self,
        attempt: &Attempt,
        projects: &BTreeSet<String>,
        pushed: &mut impl FnMut(&str),
    ) -> Result<(), Status> {
        let project = projects.iter().map(|id| Project { id: id.clone() });
        let request = ReconcileProjectsRequest {
            project: project.collect(),
        };
        let mut client =
            GitLabFluxClient::new(attempt.channel()).accept_compressed(CompressionEncoding::Gzip);
        let mut pushes = client.reconcile_projects(request).await?.into_inner();
        self.0.succeeded(attempt);
        while let Some(push) = pushes.message().await? {
            if let Some(project) = push.project {
                pushed(&project.id);
            }
        }
        Ok(())
    }
}
