//! The pins of the store, kept here, and what other replicas change about them.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use cluster_state::{AgentId, ChannelEvent, ClusterUid, MAX_PINS, StoreError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Clusters;

/// How long a tunnel waits for the store.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// Changes that may wait.
const MAX_CHANGES: usize = 1024;

impl Clusters {
    /// Follows what other replicas change, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let Some(channel) = self.changes.clone() else {
            return self.read_all().await;
        };
        let (sender, mut changed) = mpsc::channel(MAX_CHANGES);
        let mut on_event = move |event| {
            // One that finds no room is read with all at the next gap, or by the agent's next tunnel.
            let _ = sender.try_send(event);
        };
        let following = async {
            let reading = async {
                while let Some(event) = changed.recv().await {
                    match event {
                        ChannelEvent::Gap => self.read_all().await,
                        ChannelEvent::Message(text) => {
                            let id = std::str::from_utf8(&text).ok();
                            if let Some(id) = id.and_then(|id| id.parse().ok()) {
                                self.read_again(AgentId(id)).await;
                            }
                        }
                    }
                }
            };
            tokio::join!(channel.listen(&mut on_event), reading);
        };
        stop.run_until_cancelled(following).await;
    }

    /// Pins an agent unless it is pinned.
    pub(super) async fn pin_first(&self, agent: AgentId, cluster: ClusterUid) {
        let pinning = self.pins.pin_first(agent, &cluster);
        let pinned = tokio::time::timeout(STORE_TIMEOUT, pinning).await;
        match pinned.unwrap_or(Err(StoreError::Timeout(STORE_TIMEOUT))) {
            Ok(pinned) => {
                let first = pinned == cluster;
                let news = self.know(agent, Some(pinned), false);
                if first && news {
                    tracing::info!(agent.id = agent.0, %cluster, "agent is pinned to its cluster");
                    self.publish(agent).await;
                }
            }
            Err(error) => {
                tracing::debug!(agent.id = agent.0, %error, "could not pin the agent to its cluster; keeping the pin here for now");
                self.know(agent, Some(cluster), true);
            }
        }
    }

    /// Notes a pin; ends tunnels that lead elsewhere, or nobody knows where. Says whether it is another one.
    pub(super) fn know(&self, agent: AgentId, pin: Option<ClusterUid>, tentative: bool) -> bool {
        let (callers, pin) = {
            let mut agents = self.lock();
            if agents.len() >= MAX_PINS && !agents.contains_key(&agent) {
                return false;
            }
            let known = agents.entry(agent).or_default();
            if known.pin == pin || (tentative && known.pin.is_some()) {
                known.tentative &= tentative;
                return false;
            }
            known.pin.clone_from(&pin);
            known.tentative = tentative;
            known.fronts.clear();
            let callers: Vec<_> = known.callers.iter().filter_map(Weak::upgrade).collect();
            (callers, pin)
        };
        if let Some(pin) = pin {
            for caller in callers {
                caller.cut_others(&pin);
            }
        }
        true
    }

    pub(super) async fn publish(&self, agent: AgentId) {
        if let Some(channel) = &self.changes {
            let message = agent.to_string().into_bytes().into();
            // Whoever does not hear of it asks the store at the agent's next tunnel.
            let _ = tokio::time::timeout(STORE_TIMEOUT, channel.publish(message)).await;
        }
    }

    /// Another replica has changed a pin.
    async fn read_again(&self, agent: AgentId) {
        let keeps_all = self.keeps_all.load(Ordering::Relaxed);
        if !keeps_all && !self.lock().contains_key(&agent) {
            return;
        }
        if let Ok(pin) = self.pins.read(agent).await {
            self.know(agent, pin, false);
        }
    }

    /// Changes may have been missed.
    async fn read_all(&self) {
        let pins = match self.pins.all().await {
            Ok(pins) => pins,
            Err(error) => {
                return tracing::debug!(%error, "could not read the agents' cluster pins");
            }
        };
        let others: Vec<_> = {
            let agents = self.lock();
            let others = agents.iter().filter(|(id, _)| !pins.contains_key(id));
            let others = others.filter_map(|(id, it)| {
                let connected = it.callers.iter().any(|caller| caller.strong_count() > 0);
                Some((*id, it.pin.clone()?, it.tentative || connected))
            });
            others.collect()
        };
        for (agent, cluster, holds) in others {
            // A store that has lost its pins gets those of connected agents again.
            if holds {
                self.pin_first(agent, cluster).await;
            } else {
                self.know(agent, None, false);
            }
        }
        for (agent, pin) in pins {
            self.know(agent, pin, false);
        }
    }
}
