//! Agents' configuration, from the repository to the agent and to GitLab.

use std::{sync::Arc, time::Duration};

use control_plane::{
    AgentConfigurationVersion, Configuration, ControlPlane, Problem, Token,
    notifications::{GitPush, Notifications},
};
use proto::agent::agentcfg::LogLevelEnum;
use router::AgentId;
use serde_json::json;
use tests::{
    git::Repository,
    gitlab_double::{Endpoint, Fault, FaultKind},
};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::fixture::{Fixture, POLL};

const LIMIT: Duration = Duration::from_secs(60);
/// So long that nothing is found by polling.
const NEVER: Duration = Duration::from_secs(3600);
const FILE: &str = ".gitlab/agents/production/config.yaml";
const OTHER: &str = ".gitlab/agents/staging/config.yaml";
const DEBUG: &str = "observability: {logging: {level: debug}}\n";
const WARN: &str = "observability: {logging: {level: warn}}\n";

/// A control plane that reads repositories, and the one of agents 5 and 6.
struct Rig {
    fixture: Fixture,
    files: Repository,
    notifications: Notifications,
    _reading: JoinHandle<()>,
    _stop: DropGuard,
}

/// A stream of an agent.
struct Stream(watch::Receiver<Configuration>);

impl Rig {
    async fn start(period: Duration) -> Self {
        let fixture = Fixture::polling(period).await;
        let notifications = Notifications::new(None);
        let stop = CancellationToken::new();
        let reading =
            fixture
                .gitlab
                .clone()
                .read_repositories(None, notifications.clone(), stop.clone());
        Self {
            files: fixture.double.repository(3).await.unwrap(),
            fixture,
            notifications,
            _reading: tokio::spawn(reading),
            _stop: stop.drop_guard(),
        }
    }

    async fn commit(&self, files: &[(&str, Option<&str>)]) -> String {
        self.files.commit("main", files).await.unwrap()
    }

    /// A stream of an agent that has this version, or none.
    async fn stream(&self, agent: i64, token: &str, has: &str) -> Stream {
        let token = Token::new(token);
        self.fixture.gitlab.agent_by_token(&token).await.unwrap();
        let stream = self.fixture.gitlab.configuration(AgentId(agent), has);
        Stream(stream.unwrap())
    }

    async fn production(&self) -> Stream {
        self.stream(5, "agent-5-a", "").await
    }

    async fn push(&self) {
        let push = GitPush {
            project_id: 3,
            project_path: "group/config".into(),
        };
        self.notifications.publish(push).await.unwrap();
    }

    /// What GitLab was told of an agent, once it is this often.
    async fn told(&self, agent: i64, times: usize) -> Vec<serde_json::Value> {
        let told = || {
            let all = self.fixture.double.configurations().into_iter();
            let of = all.filter(|(id, _)| *id == agent);
            of.map(|(_, file)| file).collect::<Vec<_>>()
        };
        let enough = async || Some(told()).filter(|it| it.len() >= times);
        tests::wait::until("GitLab to be told", LIMIT, enough)
            .await
            .unwrap()
    }

    /// Waits until a call was made so often in all.
    async fn asked(&self, endpoint: Endpoint, times: u64) {
        let enough = async || (self.fixture.asked(endpoint) >= times).then_some(());
        tests::wait::until("calls to Gitaly", LIMIT, enough)
            .await
            .unwrap();
    }
}

impl Stream {
    async fn until(&mut self, what: impl FnMut(&Configuration) -> bool) -> Configuration {
        let waiting = tokio::time::timeout(LIMIT, self.0.wait_for(what));
        waiting.await.expect("it comes").unwrap().clone()
    }

    async fn version(&mut self, commit: &str) -> Arc<AgentConfigurationVersion> {
        let is = |it: &Configuration| {
            let version = it.version.as_ref();
            it.verified && version.is_some_and(|it| it.commit_id == commit)
        };
        self.until(is).await.version.unwrap()
    }
}

fn level(version: &AgentConfigurationVersion) -> Option<LogLevelEnum> {
    let observability = version.configuration.observability.as_ref()?;
    Some(observability.logging.as_ref()?.level())
}

#[tokio::test]
async fn an_agent_gets_each_commit_of_its_file_and_gitlab_is_told() {
    let rig = Rig::start(POLL).await;
    let first = rig.commit(&[(FILE, Some(DEBUG))]).await;
    let mut stream = rig.production().await;

    let one = stream.version(&first).await;
    let second = rig.commit(&[(FILE, Some(WARN))]).await;
    let two = stream.version(&second).await;
    let third = rig.commit(&[(FILE, None), ("x", Some(""))]).await;
    let none = stream.version(&third).await;

    assert_eq!(level(&one), Some(LogLevelEnum::Debug));
    assert_eq!(level(&two), Some(LogLevelEnum::Warn));
    assert_eq!(none.configuration, Default::default());
    let logging = |level: &str| json!({"observability": {"logging": {"level": level}}});
    let told = [logging("debug"), logging("warn"), json!({})];
    assert_eq!(rig.told(5, 3).await, told);
}

#[tokio::test]
async fn user_access_is_told_to_gitlab_and_not_to_the_agent() {
    let rig = Rig::start(POLL).await;
    let access = "user_access: {access_as: {agent: {}}, projects: [{id: g/p}]}\n";
    let commit = rig.commit(&[(FILE, Some(access))]).await;
    let mut stream = rig.production().await;

    let version = stream.version(&commit).await;

    assert_eq!(version.configuration, Default::default());
    let access = json!({"access_as": {"agent": {}}, "projects": [{"id": "g/p"}]});
    let told = json!({"user_access": access});
    assert_eq!(rig.told(5, 1).await, [told]);
}

#[tokio::test]
async fn of_an_empty_repository_nothing_is_sent_and_without_the_branch_it_is_said() {
    let rig = Rig::start(POLL).await;
    let mut stream = rig.production().await;
    rig.asked(Endpoint::InfoRefs, 3).await;
    assert_eq!(*stream.0.borrow(), Configuration::default());

    rig.files.commit("other", &[("x", Some(""))]).await.unwrap();
    let missing = stream.until(|it| it.problem.is_some()).await;
    let commit = rig.commit(&[(FILE, Some(DEBUG))]).await;
    stream.version(&commit).await;

    assert!(
        matches!(&missing.problem, Some(Problem::NoBranch(why)) if why.contains("NotFound")),
        "{missing:?}"
    );
    assert_eq!(stream.0.borrow().problem, None);
}

#[tokio::test]
async fn a_file_that_cannot_be_used_leaves_the_last_good_one() {
    let rig = Rig::start(POLL).await;
    let good = rig.commit(&[(FILE, Some(DEBUG))]).await;
    let mut stream = rig.production().await;
    stream.version(&good).await;
    let large = format!("#{}", "x".repeat(1000));
    for (text, words) in [
        ("observability: [", "config.yaml:1:"),
        ("ci_access: {projects: [{}]}", "`id` is missing"),
        (&large, "FileTooBig: TreeEntry: file is too big"),
    ] {
        rig.commit(&[(FILE, Some(text))]).await;

        let broken = |it: &Configuration| matches!(&it.problem, Some(Problem::Broken(why)) if why.contains(words));
        let kept = stream.until(broken).await;

        let version = kept.version.unwrap();
        assert_eq!(
            (&version.commit_id, level(&version)),
            (&good, Some(LogLevelEnum::Debug))
        );
    }
    let mended = rig.commit(&[(FILE, Some(WARN))]).await;
    stream.version(&mended).await;
    assert_eq!(
        rig.told(5, 2).await.len(),
        2,
        "of broken files GitLab is not told"
    );
}

#[tokio::test]
async fn while_gitaly_is_away_agents_keep_what_they_have() {
    let rig = Rig::start(POLL).await;
    let good = rig.commit(&[(FILE, Some(DEBUG))]).await;
    let mut stream = rig.production().await;
    stream.version(&good).await;

    for kind in [FaultKind::Down, FaultKind::Garbage, FaultKind::Status(404)] {
        let fault = Fault::at(Endpoint::InfoRefs, kind, None);
        rig.fixture.double.change(|it| it.faults = vec![fault]);
        let before = rig.fixture.asked(Endpoint::InfoRefs);
        rig.asked(Endpoint::InfoRefs, before + 2).await;
        assert_eq!(stream.version(&good).await.commit_id, good);
        assert_eq!(stream.0.borrow().problem, None);
    }
    let new = rig.commit(&[(FILE, Some(WARN))]).await;
    rig.fixture.recovers();

    stream.version(&new).await;
}

#[tokio::test]
async fn a_push_is_found_at_once_and_the_agents_of_a_repository_share_the_questions() {
    let rig = Rig::start(NEVER).await;
    let first = rig
        .commit(&[(FILE, Some(DEBUG)), (OTHER, Some(WARN))])
        .await;
    let mut production = rig.production().await;
    production.version(&first).await;
    let mut staging = rig.stream(6, "agent-6", "").await;
    let mut again = rig.stream(5, "agent-5-b", "").await;
    staging.version(&first).await;
    again.version(&first).await;
    assert_eq!(rig.fixture.asked(Endpoint::InfoRefs), 1);
    let files = rig.fixture.asked(Endpoint::TreeEntry);

    let second = rig.commit(&[(FILE, Some(WARN))]).await;
    rig.push().await;
    let changed = production.version(&second).await;
    let same = staging.version(&second).await;

    assert_eq!(level(&changed), Some(LogLevelEnum::Warn));
    assert_eq!(level(&same), Some(LogLevelEnum::Warn));
    assert_eq!(rig.fixture.asked(Endpoint::InfoRefs), 2);
    assert_eq!(rig.fixture.asked(Endpoint::TreeEntries), 1);
    let read = rig.fixture.asked(Endpoint::TreeEntry) - files;
    assert_eq!(
        read, 2,
        "each was read once since the listing, which names their content"
    );
    let third = rig.commit(&[(FILE, Some(DEBUG))]).await;
    rig.push().await;
    production.version(&third).await;
    staging.version(&third).await;
    let read = rig.fixture.asked(Endpoint::TreeEntry) - files;
    assert_eq!(read, 3, "only what changed is read");
    assert_eq!(rig.told(6, 3).await.len(), 3, "each commit is told");
}

#[tokio::test]
async fn an_agent_that_knows_more_than_this_replica_keeps_it() {
    let rig = Rig::start(NEVER).await;
    let old = rig.commit(&[(FILE, Some(DEBUG))]).await;
    let mut stale = rig.production().await;
    stale.version(&old).await;
    let new = rig.commit(&[(FILE, Some(WARN))]).await;

    let mut stream = rig.stream(5, "agent-5-a", &new).await;

    assert!(stream.0.borrow().newer_than(&new).is_none());
    let version = stream.version(&new).await;
    assert_eq!(level(&version), Some(LogLevelEnum::Warn));
    stale.version(&new).await;
}

#[tokio::test]
async fn what_only_gitlab_knows_in_a_file_reaches_it_as_written_and_the_rest_the_agent() {
    let rig = Rig::start(POLL).await;
    let file = "observability: {logging: {level: warn}}
ci_access:
  instance: {}
  projects: [{id: g/p, protected_branches_only: true, access_as: {ci_job: {}}}]
remote_development: {enabled: yes, workspaces_quota: 10, workspaces_per_user_quota: 2}
observability: {logging: {level: debug}}
";
    let commit = rig.commit(&[(FILE, Some(file))]).await;
    let mut stream = rig.production().await;

    let version = stream.version(&commit).await;

    assert_eq!(
        level(&version),
        Some(LogLevelEnum::Debug),
        "the last counts"
    );
    let sent = &version.configuration;
    assert_eq!(sent.ci_access.as_ref().unwrap().projects[0].id, "g/p");
    assert!(sent.remote_development.as_ref().unwrap().enabled);
    let told = json!({
        "observability": {"logging": {"level": "debug"}},
        "ci_access": {
            "instance": {},
            "projects": [{
                "id": "g/p", "protected_branches_only": true, "access_as": {"ci_job": {}},
            }],
        },
        "remote_development": {
            "enabled": true, "workspaces_quota": 10, "workspaces_per_user_quota": 2,
        },
    });
    assert_eq!(rig.told(5, 1).await, [told]);
}

#[tokio::test]
async fn an_agent_that_begins_anew_has_gitlab_told_again_and_not_without_end() {
    let rig = Rig::start(NEVER).await;
    let commit = rig.commit(&[(FILE, Some(DEBUG))]).await;
    let mut stream = rig.production().await;
    stream.version(&commit).await;
    assert_eq!(rig.told(5, 1).await.len(), 1);

    let mut opened_again = rig.stream(5, "agent-5-a", &commit).await;
    opened_again.version(&commit).await;
    rig.production().await;
    assert_eq!(rig.told(5, 2).await.len(), 2, "a stream is not a restart");
    for _ in 0..100 {
        rig.production().await;
    }
    // What comes after those is told after them.
    let next = rig.commit(&[(FILE, Some(WARN))]).await;
    rig.push().await;
    stream.version(&next).await;
    let is_next = async || {
        let all = rig.told(5, 1).await;
        let last = all.last()?["observability"]["logging"]["level"] == "warn";
        last.then_some(all.len())
    };
    let told = tests::wait::until("the next commit to be told", LIMIT, is_next);

    assert!(told.await.unwrap() <= 6);
}

#[tokio::test]
async fn gitlab_is_told_later_what_it_could_not_be_told_at_once() {
    let rig = Rig::start(POLL).await;
    let fault = Fault::at(
        Endpoint::AgentConfiguration,
        FaultKind::Status(400),
        Some(1),
    );
    rig.fixture.double.change(|it| it.faults = vec![fault]);
    let commit = rig.commit(&[(FILE, Some(DEBUG))]).await;
    let mut stream = rig.production().await;

    stream.version(&commit).await;

    assert_eq!(rig.told(5, 1).await.len(), 1);
}
