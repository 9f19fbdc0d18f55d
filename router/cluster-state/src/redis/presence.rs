//! Presence: a sorted set for each replica, so that all of it is removed in one
//! step with the replica.
//!
//! All scores are 0, so that members are in the order of their text:
//!
//! | member | for |
//! |---|---|
//! | `a/<agent id>/<group>/<signature> <text>` | an agent's presence; without a signature where replicas have no secret |
//! | `g/<group>/<agent id>` | finding the agents of a group |

use fred::{clients::Client, error::Error, interfaces::SortedSetsInterface as _};
use futures_util::future::{try_join_all, try_join3};

use super::{format::Keys, signature::Signer};
use crate::{
    id::{AgentId, ReplicaId},
    presence::{Presence, PresenceEntry, PresenceQuery, PresenceUpdate, StoredPresence},
};

/// Members that one range reads, at most.
const MAX_MEMBERS: i64 = 100_000;
/// Members whose signatures are checked before others have a turn.
const READ_AT_ONCE: usize = 256;

/// Where a replica's presence is, and by whom it is signed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) keys: &'a Keys,
    pub(super) signer: &'a Signer,
    pub(super) replica: &'a ReplicaId,
}

/// Writes updates, in few commands however many agents they concern.
pub(super) async fn update(
    client: &Client,
    place: Place<'_>,
    updates: &[PresenceUpdate],
) -> Result<(), Error> {
    let key = &place.keys.presence(place.replica);
    let (mut new, mut old) = (Vec::new(), Vec::new());
    for update in updates {
        let now = place.members(update.agent, update.new.as_ref());
        if let StoredPresence::Known(before) = &update.old {
            let mut gone = place.members(update.agent, before.as_ref());
            gone.retain(|member| !now.contains(member));
            old.append(&mut gone);
        }
        new.extend(now.into_iter().map(|member| (0.0, member)));
    }
    let clean = updates
        .iter()
        .filter(|it| it.old == StoredPresence::Unknown);
    let clean = clean.map(|update| async move {
        let (from, to) = range(&format!("a/{}/", update.agent));
        client.zremrangebylex::<(), _, _, _>(key, from, to).await
    });
    let add = async {
        if !new.is_empty() {
            client
                .zadd::<(), _, _>(key, None, None, false, false, new)
                .await?;
        }
        Ok(())
    };
    // Readers see the new member before the old one is removed.
    let remove = async {
        if !old.is_empty() {
            client.zrem::<(), _, _>(key, old).await?;
        }
        Ok(())
    };
    try_join3(try_join_all(clean), add, remove).await.map(drop)
}

/// Reads the presence that these replicas publish.
pub(super) async fn find(
    client: &Client,
    keys: &Keys,
    signer: &Signer,
    replicas: &[ReplicaId],
    query: &PresenceQuery,
) -> Result<Vec<PresenceEntry>, Error> {
    let reads = replicas.iter().map(|replica| async move {
        let key = keys.presence(replica);
        let members = match query {
            PresenceQuery::All => read(client, &key, &["a/".to_owned()]).await?,
            PresenceQuery::Agents(agents) => read_agents(client, &key, agents).await?,
            PresenceQuery::Groups(groups) => {
                let groups: Vec<_> = groups.iter().map(|group| format!("g/{group}/")).collect();
                let found = read(client, &key, &groups).await?;
                let agents: Vec<_> = found.iter().filter_map(|it| agent_of_group(it)).collect();
                read_agents(client, &key, &agents).await?
            }
        };
        let place = Place {
            keys,
            signer,
            replica,
        };
        let mut found = Vec::new();
        for members in members.chunks(READ_AT_ONCE) {
            let entries = members.iter().filter_map(|member| place.parse(member));
            // The index of a group may be older than the presence.
            found.extend(entries.filter(|it| query.includes(it.agent, it.presence.group)));
            tokio::task::yield_now().await;
        }
        Ok::<_, Error>(found)
    });
    Ok(try_join_all(reads).await?.concat())
}

async fn read_agents(client: &Client, key: &str, agents: &[AgentId]) -> Result<Vec<String>, Error> {
    let prefixes: Vec<_> = agents.iter().map(|agent| format!("a/{agent}/")).collect();
    read(client, key, &prefixes).await
}

async fn read(client: &Client, key: &str, prefixes: &[String]) -> Result<Vec<String>, Error> {
    let ranges = prefixes.iter().map(|prefix| {
        let (from, to) = range(prefix);
        client.zrangebylex::<Vec<String>, _, _, _>(key, from, to, Some((0, MAX_MEMBERS)))
    });
    Ok(try_join_all(ranges).await?.concat())
}

/// The range of members that begin with this prefix, which ends in a slash: `0` sorts after a slash.
fn range(prefix: &str) -> (String, String) {
    let end = prefix.trim_end_matches('/');
    (format!("[{prefix}"), format!("({end}0"))
}

impl Place<'_> {
    fn members(&self, agent: AgentId, presence: Option<&Presence>) -> Vec<String> {
        let Some(presence) = presence else {
            return Vec::new();
        };
        let (group, signer) = (presence.group, self.signer);
        let written = signer.write_presence(self.replica, agent, presence);
        vec![
            format!("a/{agent}/{group}/{written}"),
            format!("g/{group}/{agent}"),
        ]
    }

    /// What a member tells, if the replica whose it is has signed it.
    pub(super) fn parse(&self, member: &str) -> Option<PresenceEntry> {
        let mut parts = member.strip_prefix("a/")?.splitn(3, '/');
        let agent = AgentId(parts.next()?.parse().ok()?);
        let group = parts.next()?.parse().ok()?;
        let written = parts.next()?;
        let (signer, replica) = (self.signer, self.replica);
        let text = signer.read_presence(replica, agent, group, written)?;
        Some(PresenceEntry {
            replica: replica.clone(),
            agent,
            presence: Presence {
                group,
                text: text.into(),
            },
        })
    }
}

pub(super) fn agent_of_group(member: &str) -> Option<AgentId> {
    let (_, agent) = member.rsplit_once('/')?;
    agent.parse().ok().map(AgentId)
}

#[cfg(test)]
mod tests {
    use runtime::jwt::Secret;

    use super::*;
    use crate::redis::metrics::StoreMetrics;

    #[test]
    fn members_are_read_as_they_were_written_and_only_where_a_replica_signed_them() {
        let presence = Presence {
            group: 3,
            text: r#"[{"pod":"a/b", "version":"v1"}]"#.into(),
        };
        let (keys, replica) = (Keys::new("p", true), ReplicaId::new("a"));
        let open = Signer::new(None, StoreMetrics::default());
        let signed = Signer::new(Some(&Secret::new(vec![1; 32])), StoreMetrics::default());
        let by = |signer| Place {
            keys: &keys,
            signer,
            replica: &replica,
        };

        let written = by(&open).members(AgentId(7), Some(&presence));

        let forged = r#"a/7/3/[{"pod":"a/b", "version":"v1"}]"#;
        assert_eq!(written, [forged, "g/3/7"]);
        let entry = PresenceEntry {
            replica: replica.clone(),
            agent: AgentId(7),
            presence: presence.clone(),
        };
        assert_eq!(by(&open).parse(&written[0]), Some(entry.clone()));
        assert_eq!(agent_of_group(&written[1]), Some(AgentId(7)));
        for garbage in ["", "a/", "a/x/3/t", "a/7/y/t", "a/7", "g/3/7"] {
            assert_eq!(by(&open).parse(garbage), None, "{garbage}");
        }
        let written = by(&signed).members(AgentId(7), Some(&presence));
        assert_eq!(by(&signed).parse(&written[0]), Some(entry));
        let of_another = written[0].replace("a/7/", "a/8/");
        for member in [forged, &of_another] {
            assert_eq!(by(&signed).parse(member), None, "{member}");
        }
    }

    #[test]
    fn a_range_holds_one_agent_and_no_other() {
        let (from, to) = range("a/7/");
        let within = |member: &str| member >= &from[1..] && member < &to[1..];

        assert!(within("a/7/3/text") && within("a/7/"));
        assert!(!within("a/70/3/text") && !within("a/6/3/text") && !within("g/7/7"));
    }
}
