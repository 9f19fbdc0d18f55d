//! Hears from kas what was pushed.

use std::{collections::BTreeSet, time::Duration};

use proto::agent::flux::rpc::{
    Project, ReconcileProjectsRequest, git_lab_flux_client::GitLabFluxClient,
};
use tokio::time::Instant;
use tonic::{Code, Status, codec::CompressionEncoding};

use crate::{
    backoff::HotLoop,
    session::{Connection, Uplink},
};

/// How long a connection is not asked again whose kas does not know the call.
const UNKNOWN: Duration = Duration::from_secs(300);

/// Asks on one connection after the other.
#[derive(Debug)]
pub(super) struct Pushes {
    uplink: Uplink,
    complaint: Option<String>,
}

impl Pushes {
    pub(super) fn new(uplink: Uplink) -> Self {
        Self {
            uplink,
            complaint: None,
        }
    }

    /// Tells of each push to one of these projects. Never ends.
    pub(super) async fn hear(&mut self, projects: &BTreeSet<String>, mut heard: impl FnMut(&str)) {
        let mut hot = HotLoop::new(Duration::from_secs(1), Duration::from_secs(60));
        loop {
            let connection = self.uplink.connection().await;
            let begun = Instant::now();
            let delay = match self.ask(&connection, projects, &mut heard).await {
                Ok(()) => hot.after_end(begun.elapsed(), rand::random()),
                Err(_) if connection.ends().await => Duration::ZERO,
                Err(status) => {
                    connection.judge(&status);
                    self.complain(&status);
                    if status.code() == Code::Unimplemented {
                        UNKNOWN
                    } else {
                        hot.after_refusal(rand::random())
                    }
                }
            };
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = connection.left() => {}
            }
        }
    }

    async fn ask(
        &mut self,
        connection: &Connection,
        projects: &BTreeSet<String>,
        heard: &mut impl FnMut(&str),
    ) -> Result<(), Status> {
        let project = projects.iter().map(|id| Project { id: id.clone() });
        let request = ReconcileProjectsRequest {
            project: project.collect(),
        };
        let mut client = GitLabFluxClient::new(connection.channel())
            .accept_compressed(CompressionEncoding::Gzip);
        let mut pushes = client.reconcile_projects(request).await?.into_inner();
        connection.accept();
        self.complaint = None;
        while let Some(push) = pushes.message().await? {
            if let Some(project) = push.project {
                heard(&project.id);
            }
        }
        Ok(())
    }

    /// Says a thing once, however often it happens.
    fn complain(&mut self, status: &Status) {
        let complaint = format!("{:?}: {}", status.code(), status.message());
        if self.complaint.as_ref() != Some(&complaint) {
            tracing::warn!(
                error = complaint,
                "kas does not tell of pushes; Flux looks at its own interval"
            );
            self.complaint = Some(complaint);
        }
    }
}
