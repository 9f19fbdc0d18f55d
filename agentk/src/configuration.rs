//! Follows the agent's configuration, which kas streams whenever it changes.

use std::{sync::Arc, time::Duration};

use proto::agent::{
    agent_configuration::rpc::{
        ConfigurationRequest, ConfigurationResponse,
        agent_configuration_client::AgentConfigurationClient,
    },
    agentcfg::{AgentConfiguration, LogLevelEnum},
};
use tokio::sync::watch;
use tonic::{Status, codec::CompressionEncoding};

use crate::{
    cluster_facts::ClusterFacts,
    config::SetLogLevel,
    logging::LogLevel,
    pod::Pod,
    registration,
    session::{Attempt, Follower, Uplink},
};

const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Follows the configuration and publishes it.
#[derive(Debug)]
pub(crate) struct ConfigurationFollower {
    pod: Option<Pod>,
    facts: ClusterFacts,
    commit: String,
    known: watch::Sender<Option<Arc<AgentConfiguration>>>,
    log_level: Option<SetLogLevel>,
}

impl ConfigurationFollower {
    /// The configuration is published through the receiver.
    pub(crate) fn new(
        pod: Option<Pod>,
        facts: ClusterFacts,
        log_level: Option<SetLogLevel>,
    ) -> (Self, watch::Receiver<Option<Arc<AgentConfiguration>>>) {
        let (known, receiver) = watch::channel(None);
        let follower = Self {
            pod,
            facts,
            commit: String::new(),
            known,
            log_level,
        };
        (follower, receiver)
    }

    /// Follows on one connection after the other. Never ends.
    pub(crate) async fn follow(&mut self, uplink: &Uplink) {
        let failed = "cannot get the agent's configuration";
        let mut follower = Follower::new(uplink.clone(), BACKOFF_MIN, BACKOFF_MAX, failed);
        loop {
            let attempt = follower.attempt().await;
            let end = self.stream(&mut follower, &attempt).await;
            follower.ended(attempt, end).await;
        }
    }

    async fn stream(&mut self, follower: &mut Follower, attempt: &Attempt) -> Result<(), Status> {
        let request = ConfigurationRequest {
            commit_id: self.commit.clone(),
            agent_meta: Some(registration::meta(self.pod.as_ref(), &self.facts)),
            skip_register: true,
        };
        let mut client = AgentConfigurationClient::new(attempt.channel())
            .accept_compressed(CompressionEncoding::Gzip);
        let mut responses = client.get_configuration(request).await?.into_inner();
        while let Some(response) = responses.message().await? {
            follower.succeeded(attempt);
            self.take(response);
        }
        Ok(())
    }

    fn take(&mut self, response: ConfigurationResponse) {
        let Some(configuration) = response.configuration else {
            tracing::error!("ignoring an empty configuration from kas");
            return;
        };
        let id = configuration.agent_id;
        let known = self.known.borrow().as_ref().map(|it| it.agent_id);
        if known.is_some_and(|known| known != id) {
            tracing::error!(
                agent.id = id,
                "ignoring a configuration from kas that is for another agent"
            );
            return;
        }
        self.apply(&configuration);
        tracing::info!(
            agent.id = id,
            agent.project = configuration.project_path,
            commit = response.commit_id,
            "configuration applied"
        );
        self.commit = response.commit_id;
        self.known.send_replace(Some(Arc::new(configuration)));
    }

    fn apply(&self, configuration: &AgentConfiguration) {
        if let Some(set) = &self.log_level {
            (set.0)(level(configuration));
        }
    }
}

fn level(configuration: &AgentConfiguration) -> LogLevel {
    let logging = configuration
        .observability
        .as_ref()
        .and_then(|it| it.logging.as_ref());
    match logging.map(proto::agent::agentcfg::LoggingCf::level) {
        None | Some(LogLevelEnum::Info) => LogLevel::Info,
        Some(LogLevelEnum::Debug) => LogLevel::Debug,
        Some(LogLevelEnum::Warn) => LogLevel::Warn,
        Some(LogLevelEnum::Error) => LogLevel::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::agent::agentcfg::{LoggingCf, ObservabilityCf};
    use std::sync::{Arc, Mutex};

    fn configuration(id: i64, level: LogLevelEnum) -> AgentConfiguration {
        AgentConfiguration {
            agent_id: id,
            observability: Some(ObservabilityCf {
                logging: Some(LoggingCf {
                    level: level.into(),
                    grpc_level: None,
                }),
                google_profiler: None,
            }),
            ..AgentConfiguration::default()
        }
    }

    fn response(commit: &str, configuration: AgentConfiguration) -> ConfigurationResponse {
        ConfigurationResponse {
            configuration: Some(configuration),
            commit_id: commit.to_owned(),
        }
    }

    #[test]
    fn a_configuration_has_the_agents_number_and_changes_the_log_level() {
        let levels = Arc::new(Mutex::new(Vec::new()));
        let seen = levels.clone();
        let set = SetLogLevel(Arc::new(move |level| seen.lock().unwrap().push(level)));
        let (mut follower, known) =
            ConfigurationFollower::new(None, ClusterFacts::new(), Some(set));

        follower.take(response("c1", configuration(7, LogLevelEnum::Debug)));
        follower.take(response("c2", configuration(8, LogLevelEnum::Error)));

        let published = known.borrow().as_ref().map(|it| it.agent_id);
        assert_eq!(published, Some(7));
        assert_eq!(
            follower.commit, "c1",
            "another agent's configuration is not taken"
        );
        assert_eq!(*levels.lock().unwrap(), [LogLevel::Debug]);
    }
}
