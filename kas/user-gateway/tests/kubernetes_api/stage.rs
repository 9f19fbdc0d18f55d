//! A proxy whose agent hands every request to the test.

use tokio::sync::mpsc;
use user_gateway::Settings;

use crate::{
    agent::{Agent, Asked},
    proxy::{AGENT, LONG, Proxy},
};

pub(crate) struct Stage {
    pub(crate) proxy: Proxy,
    pub(crate) requests: mpsc::Receiver<Asked>,
    pub(crate) agent: Agent,
}

impl Stage {
    pub(crate) async fn set() -> Self {
        Self::with(Settings::default()).await
    }

    pub(crate) async fn with(settings: Settings) -> Self {
        let proxy = Proxy::with(settings).await;
        let (hand_over, requests) = mpsc::channel(1);
        let agent = Agent::connect(&proxy.registry, AGENT, 2, move |asked| {
            let hand_over = hand_over.clone();
            async move { drop(hand_over.send(asked).await) }
        })
        .await;
        Self {
            proxy,
            requests,
            agent,
        }
    }

    /// The next request that reaches the agent.
    pub(crate) async fn asked(&mut self) -> Asked {
        let asked = tokio::time::timeout(LONG, self.requests.recv()).await;
        asked.expect("a request in time").unwrap()
    }
}
