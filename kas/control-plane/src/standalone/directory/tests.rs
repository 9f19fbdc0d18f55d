//! Who may use what, as whom.

use std::path::Path;

use super::super::{super::Token, parse};
use super::*;

fn hash(token: &str) -> TokenHash {
    Token::new(token).hash()
}

fn entry(token: &str) -> String {
    let hex = hex::encode(hash(token).as_bytes());
    format!(
        "[{{hash: 'sha256:{hex}', created_at: 2026-01-01T00:00:00Z, expires_at: 2026-12-31T00:00:00Z}}]"
    )
}

fn directory(rules: &str) -> Directory {
    let text = format!(
        "agents:
- {{id: 1, name: demo, project: {{id: 7, path: group/project}}, tokens: {}}}
- {{id: 2, name: prod}}
users:
- {{name: alice, groups: [admins, devs], tokens: {}}}
- {{name: bob, tokens: {}}}
services:
- {{name: deployer, groups: [ci], tokens: {}}}
access:
{rules}",
        entry("agent"),
        entry("alice"),
        entry("bob"),
        entry("deployer")
    );
    parse(Path::new("f"), &text, now()).unwrap()
}

fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

/// `Ok` with the user name in the cluster, empty for the agent itself.
fn ask(rules: &str, who: &str, agent: i64) -> Result<String, DenyReason> {
    let kind = if who == "deployer" {
        IdentityKind::CiJob
    } else {
        IdentityKind::User
    };
    let access = directory(rules).authorize(kind, &hash(who), AgentId(agent), now())?;
    Ok(access
        .impersonation
        .map(|it| it.username)
        .unwrap_or_default())
}

#[test]
fn the_first_rule_that_matches_decides() {
    const NONE: Result<&str, ()> = Err(());
    for (rules, who, agent, expected) in [
        (
            "- {agents: '*', users: [alice], access_as: agent}",
            "alice",
            1,
            Ok(""),
        ),
        (
            "- {agents: '*', users: [alice], access_as: agent}",
            "alice",
            2,
            Ok(""),
        ),
        (
            "- {agents: ['*'], users: [alice], access_as: agent}",
            "alice",
            2,
            Ok(""),
        ),
        (
            "- {agents: '*', users: [alice], access_as: agent}",
            "bob",
            1,
            NONE,
        ),
        (
            "- {agents: [demo], users: [alice], access_as: user}",
            "alice",
            1,
            Ok("gitlab:user:alice"),
        ),
        (
            "- {agents: [demo], users: [alice], access_as: user}",
            "alice",
            2,
            NONE,
        ),
        (
            "- {agents: [prod, demo], groups: [devs], access_as: user}",
            "alice",
            1,
            Ok("gitlab:user:alice"),
        ),
        (
            "- {agents: [demo], groups: [devs], access_as: user}",
            "bob",
            1,
            NONE,
        ),
        (
            "- {agents: [demo], groups: [ci], access_as: ci_job}",
            "deployer",
            1,
            Ok("gitlab:ci_job:deployer"),
        ),
        (
            "- {agents: [demo], groups: [ci], access_as: user}",
            "deployer",
            1,
            NONE,
        ),
        (
            "- {agents: [demo], groups: [devs], access_as: ci_job}",
            "alice",
            1,
            NONE,
        ),
        (
            "- {agents: [demo], services: [deployer], access_as: agent}",
            "deployer",
            1,
            Ok(""),
        ),
        (
            "- {agents: [demo], groups: [ci], access_as: {impersonate: {username: jane}}}",
            "deployer",
            1,
            Ok("jane"),
        ),
        (
            "- {agents: [demo], users: [alice], access_as: user}\n- {agents: '*', groups: [admins], access_as: agent}",
            "alice",
            1,
            Ok("gitlab:user:alice"),
        ),
        (
            "- {agents: [demo], users: [alice], access_as: user}\n- {agents: '*', groups: [admins], access_as: agent}",
            "alice",
            2,
            Ok(""),
        ),
        (
            "- {agents: '*', groups: [admins], access_as: agent}\n- {agents: [demo], users: [alice], access_as: user}",
            "alice",
            1,
            Ok(""),
        ),
    ] {
        let answer = ask(rules, who, agent);
        assert_eq!(
            answer.as_deref().map_err(|_| ()),
            expected,
            "{rules} {who} {agent}"
        );
    }
}

#[test]
fn denials_say_what_is_wrong() {
    let rules = "- {agents: [demo], users: [alice], access_as: user}";
    let directory = directory(rules);
    let ask = |kind, token: &str, agent, time: &str| {
        directory
            .authorize(kind, &hash(token), AgentId(agent), time.parse().unwrap())
            .unwrap_err()
    };
    let now = "2026-06-01T00:00:00Z";

    assert_eq!(
        ask(IdentityKind::User, "nobody", 1, now),
        DenyReason::BadToken
    );
    assert_eq!(
        ask(IdentityKind::CiJob, "alice", 1, now),
        DenyReason::BadToken
    );
    assert_eq!(
        ask(IdentityKind::User, "agent", 1, now),
        DenyReason::BadToken
    );
    assert_eq!(
        ask(IdentityKind::User, "alice", 9, now),
        DenyReason::UnknownAgent { agent: AgentId(9) }
    );
    assert_eq!(
        ask(IdentityKind::User, "bob", 1, now).to_string(),
        "user:bob may not use agent demo: no access rule allows it"
    );
    assert_eq!(
        ask(IdentityKind::User, "alice", 1, "2027-01-01T00:00:00Z"),
        DenyReason::Expired {
            who: "user:alice".into()
        }
    );
}

#[test]
fn an_agents_token_ends_with_its_time() {
    let directory = directory("");

    assert!(directory.agent_by_token(&hash("agent"), now()).is_ok());
    assert_eq!(
        directory.agent_by_token(&hash("agent"), "2026-12-31T00:00:00Z".parse().unwrap()),
        Err(AuthError::Expired {
            agent: "demo".into()
        })
    );
}

#[test]
fn a_rule_ends_when_it_says_and_those_after_it_decide_then() {
    let rules =
        "- {agents: '*', users: [alice], access_as: agent, expires_at: 2026-07-01T00:00:00Z}
- {agents: '*', users: [alice], access_as: user}";
    let directory = directory(rules);
    let asked = |time: &str| {
        let time = time.parse().unwrap();
        let access = directory.authorize(IdentityKind::User, &hash("alice"), AgentId(1), time);
        access.unwrap().impersonation.is_some()
    };

    assert!(!asked("2026-06-30T23:59:59Z"));
    assert!(asked("2026-07-01T00:00:00Z"));
    let at = |time: &str| time.parse().unwrap();
    assert!(directory.any_token_expired(at("2026-06-30T00:00:00Z"), at("2026-07-01T00:00:00Z")));
}

fn impersonation(
    rules: &str,
    who: &str,
    kind: IdentityKind,
) -> (Vec<String>, Vec<(String, String)>) {
    let access = directory(rules)
        .authorize(kind, &hash(who), AgentId(1), now())
        .unwrap();
    let whom = access.impersonation.unwrap();
    let extra = whom.extra.into_iter().map(|it| (it.key, it.val.join(",")));
    (whom.groups, extra.collect())
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    let prefixed =
        |(key, value): &(&str, &str)| (format!("agent.gitlab.com/{key}"), (*value).to_owned());
    expected.iter().map(prefixed).collect()
}

#[test]
fn a_user_appears_with_its_groups() {
    let rules = "- {agents: '*', users: [alice], access_as: user}";

    let (groups, extra) = impersonation(rules, "alice", IdentityKind::User);

    assert_eq!(
        groups,
        ["gitlab:user", "gitlab:group:admins", "gitlab:group:devs"]
    );
    let expected = [
        ("id", "1"),
        ("username", "alice"),
        ("access_type", "personal_access_token"),
        ("config_project_id", "7"),
    ];
    assert_eq!(extra, pairs(&expected));
}

#[test]
fn a_service_appears_as_a_job() {
    let rules = "- {agents: '*', services: [deployer], access_as: ci_job}";

    let (groups, extra) = impersonation(rules, "deployer", IdentityKind::CiJob);

    assert_eq!(groups, ["gitlab:ci_job", "gitlab:group:ci"]);
    assert_eq!(
        extra,
        pairs(&[
            ("id", "1"),
            ("username", "deployer"),
            ("config_project_id", "7")
        ])
    );
}

#[test]
fn tokens_that_end_are_noticed_once() {
    let directory = directory("");
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let end = "2026-12-31T00:00:00Z";

    assert!(!directory.any_token_expired(at("2026-01-01T00:00:00Z"), at("2026-12-30T23:59:59Z")));
    assert!(directory.any_token_expired(at("2026-12-30T23:59:59Z"), at(end)));
    assert!(!directory.any_token_expired(at(end), at("2027-06-01T00:00:00Z")));
}
