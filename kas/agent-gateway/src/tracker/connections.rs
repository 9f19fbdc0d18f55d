//! Agents' processes in the form in which GitLab's kas 16.5 keeps them in Redis.

use cluster_state::{AgentId, ConnectionForm, Presence};
use jiff::Timestamp;
use prost::Message as _;
use proto::agent::agent_tracker::ConnectedAgentInfo;

use super::{instance::Instance, origin::Origin, record};

/// Each process is a `ConnectedAgentInfo`.
#[derive(Debug, Clone, Copy, Default)]
pub struct GitLabConnections;

impl ConnectionForm for GitLabConnections {
    fn encode(&self, agent: AgentId, presence: &Presence) -> Vec<(i64, Vec<u8>)> {
        let infos = record::infos(agent, presence).into_iter();
        infos
            .map(|info| (info.connection_id, info.encode_to_vec()))
            .collect()
    }

    fn decode(&self, connection: &[u8]) -> Option<(AgentId, Presence)> {
        let info = ConnectedAgentInfo::decode(connection).ok()?;
        let at = info.connected_at?;
        let at = Timestamp::new(at.seconds, at.nanos).ok()?;
        let meta = info.agent_meta.unwrap_or_default();
        let instance = Instance::registered(info.connection_id, &meta, at, &Origin::unknown());
        let presence = Presence {
            group: info.project_id,
            text: record::encode(&[&instance]).into(),
        };
        Some((AgentId(info.agent_id), presence))
    }
}

#[cfg(test)]
mod tests {
    use proto::agent::entity::AgentMeta;

    use super::*;

    fn connection() -> ConnectedAgentInfo {
        ConnectedAgentInfo {
            agent_meta: Some(AgentMeta {
                version: "v16.5.0".to_owned(),
                pod_namespace: "default".to_owned(),
                pod_name: "agentk-1".to_owned(),
                ..AgentMeta::default()
            }),
            connected_at: Some(prost_types::Timestamp {
                seconds: 1_700_000_000,
                nanos: 5,
            }),
            connection_id: 77,
            agent_id: 5,
            project_id: 3,
        }
    }

    #[test]
    fn a_connection_is_written_as_it_was_read() {
        let bytes = connection().encode_to_vec();

        let (agent, presence) = GitLabConnections.decode(&bytes).unwrap();

        assert_eq!((agent, presence.group), (AgentId(5), 3));
        let written = GitLabConnections.encode(agent, &presence);
        assert_eq!(written.len(), 1);
        assert_eq!(written[0].0, 77);
        let again = ConnectedAgentInfo::decode(&written[0].1[..]).unwrap();
        assert_eq!(again, connection());
    }

    #[test]
    fn what_is_no_connection_is_none() {
        let mut timeless = connection();
        timeless.connected_at = None;
        let mut never = connection();
        never.connected_at = Some(prost_types::Timestamp {
            seconds: i64::MAX,
            nanos: 0,
        });

        for bytes in [
            b"garbage".to_vec(),
            Vec::new(),
            timeless.encode_to_vec(),
            never.encode_to_vec(),
        ] {
            assert_eq!(GitLabConnections.decode(&bytes), None);
        }
    }

    #[test]
    fn a_long_text_of_somebody_else_is_cut() {
        let mut long = connection();
        long.agent_meta.as_mut().unwrap().version = "x\n".repeat(1000);

        let (_, presence) = GitLabConnections.decode(&long.encode_to_vec()).unwrap();

        assert!(presence.text.len() < 500, "{}", presence.text);
    }
}
