//! Load balancers, and the net before them.

use std::time::Duration;

use anyhow::Result;
use tests::{balancer::Front, chaos::Mode};
use tokio::time::sleep;

use super::Stage;

/// Less than the pauses of an agent under light load.
const IMPATIENT: Duration = Duration::from_secs(2);

impl Stage<'_> {
    #[expect(clippy::unused_async, reason = "what happens each second is awaited")]
    pub(super) async fn reset(&mut self) -> Result<()> {
        self.fronts.cut();
        Ok(())
    }

    pub(super) async fn carry_nothing(&mut self, time: Duration) {
        self.fronts.set(Mode::BlackHole);
        sleep(time).await;
        self.fronts.cut();
        self.fronts.set(Mode::Pass);
    }

    pub(super) async fn shut_agents_down(&mut self) -> Result<()> {
        let haproxy = &self.fronts.haproxy;
        haproxy.shut_down_sessions(Front::WebSocket).await?;
        haproxy.shut_down_sessions(Front::Grpc).await
    }

    pub(super) async fn shut_all_down(&mut self) -> Result<()> {
        self.shut_agents_down().await?;
        self.fronts.haproxy.shut_down_sessions(Front::Users).await
    }

    pub(super) async fn reload_haproxy(&mut self) -> Result<()> {
        self.fronts.haproxy.reload().await
    }

    pub(super) async fn reload_nginx(&mut self) -> Result<()> {
        self.fronts.nginx.reload().await
    }

    pub(super) async fn cut_what_is_idle(&mut self) -> Result<()> {
        self.fronts.haproxy.reload_impatient(IMPATIENT).await?;
        sleep(self.lasts).await;
        self.fronts.haproxy.reload().await
    }
}
