//! Agents with several pods, and agents that are of no use.

use anyhow::Result;
use tokio::time::sleep;

use super::Stage;
use crate::fleet::Kind;

/// Agents that get more pods.
const AGENTS: usize = 4;
/// Requests for the agent that never answers.
const IN_VAIN: usize = 100;

impl Stage<'_> {
    /// Pods on two replicas beside the one behind the load balancer; one is killed, then the other leaves.
    pub(super) async fn more_pods(&mut self) -> Result<()> {
        let ours = self.fleet.agents.iter().filter(|it| it.kind == Kind::Own);
        let mut pods = [Vec::new(), Vec::new()];
        for agent in ours.take(AGENTS) {
            for (replica, pods) in self.replicas.members.iter().zip(&mut pods) {
                pods.push(self.guests.pod(agent, replica.agents)?);
            }
        }
        sleep(self.lasts / 2).await;
        for (pods, signal) in pods.iter_mut().zip(["KILL", "TERM"]) {
            for pod in pods {
                pod.process.end_by(signal, self.lasts.max(LEAVE)).await?;
            }
            sleep(self.lasts / 4).await;
        }
        Ok(())
    }

    pub(super) async fn ask_a_silent_agent(&mut self) -> Result<()> {
        let users = self.fronts.users();
        let silent = self.guests.silent(users, IN_VAIN).await?;
        sleep(self.lasts).await;
        drop(silent);
        Ok(())
    }
}

/// How long a pod may take to leave.
const LEAVE: std::time::Duration = std::time::Duration::from_secs(45);
