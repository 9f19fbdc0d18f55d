//! Presence: a sorted set for each replica, so that all of it is removed in one
//! step with the replica.
//!
//! All scores are 0, so that members are in the order of their text:
//!
//! | member | for |
//! |---|---|
//! | `a/<agent id>/<group>/<text>` | an agent's presence |
//! | `g/<group>/<agent id>` | finding the agents of a group |

use fred::{clients::Client, error::Error, interfaces::SortedSetsInterface as _};
use futures_util::future::{try_join_all, try_join3};

use super::format::Keys;
use crate::{
    id::{AgentId, ReplicaId},
    presence::{Presence, PresenceEntry, PresenceQuery, PresenceUpdate, StoredPresence},
};

/// Members that one range reads, at most.
const MAX_MEMBERS: i64 = 100_000;

/// Writes updates, in few commands however many agents they concern.
pub(super) async fn update(
    client: &Client,
    key: &str,
    updates: &[PresenceUpdate],
) -> Result<(), Error> {
    let (mut new, mut old) = (Vec::new(), Vec::new());
    for update in updates {
        let now = members(update.agent, update.new.as_ref());
        if let StoredPresence::Known(before) = &update.old {
            let mut gone = members(update.agent, before.as_ref());
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
        let entries = members.iter().filter_map(|member| parse(member));
        // The index of a group may be older than the presence.
        let selected = entries.filter(|(agent, it)| query.includes(*agent, it.group));
        Ok::<_, Error>(
            selected
                .map(|(agent, presence)| PresenceEntry {
                    replica: replica.clone(),
                    agent,
                    presence,
                })
                .collect::<Vec<_>>(),
        )
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

fn members(agent: AgentId, presence: Option<&Presence>) -> Vec<String> {
    let Some(Presence { group, text }) = presence else {
        return Vec::new();
    };
    vec![
        format!("a/{agent}/{group}/{text}"),
        format!("g/{group}/{agent}"),
    ]
}

pub(super) fn parse(member: &str) -> Option<(AgentId, Presence)> {
    let mut parts = member.strip_prefix("a/")?.splitn(3, '/');
    let agent = AgentId(parts.next()?.parse().ok()?);
    let group = parts.next()?.parse().ok()?;
    let text = parts.next()?.into();
    Some((agent, Presence { group, text }))
}

pub(super) fn agent_of_group(member: &str) -> Option<AgentId> {
    let (_, agent) = member.rsplit_once('/')?;
    agent.parse().ok().map(AgentId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_as_they_were_written() {
        let presence = Presence {
            group: 3,
            text: r#"[{"pod":"a/b"}]"#.into(),
        };

        let written = members(AgentId(7), Some(&presence));

        assert_eq!(written, [r#"a/7/3/[{"pod":"a/b"}]"#, "g/3/7"]);
        assert_eq!(parse(&written[0]), Some((AgentId(7), presence)));
        assert_eq!(agent_of_group(&written[1]), Some(AgentId(7)));
        for garbage in ["", "a/", "a/x/3/t", "a/7/y/t", "a/7", "g/3/7"] {
            assert_eq!(parse(garbage), None, "{garbage}");
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
