//! Several replicas with GitLab as their control plane: a job deploys with the
//! kubeconfig that GitLab writes, and what is committed reaches all agents.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::{
    agentk::Agentk,
    git::Repository,
    gitlab_double::{Endpoint, Fault, FaultKind},
    gitlab_set::GitLabSet,
    kube::Cluster,
    kubectl::{Kubectl, WEB},
    parts::{Part, say, skipped},
    stub_api::StubApi,
    wait::until,
};
use tokio::time::Instant;

const LIMIT: Duration = Duration::from_secs(60);
const FILE: &str = ".gitlab/agents/production/config.yaml";
const DEBUG: &str = "observability: {logging: {level: debug}}\n";

/// Three agents of one repository, one of them twice.
struct Site {
    set: GitLabSet,
    files: Repository,
    agents: Vec<Agentk>,
    _stub: StubApi,
}

impl Site {
    async fn start(poll: u32) -> Result<Self> {
        let set = GitLabSet::start(3, poll).await?;
        let files = set.double.repository(3).await?;
        let stub = StubApi::start().await?;
        let kubeconfig = stub.kubeconfig(set.folder())?;
        let tokens = [
            ("one", "agent-5-a"),
            ("two", "agent-5-b"),
            ("three", "agent-6"),
        ];
        let agents = tokens.map(|(name, token)| set.agentk(name, token, &kubeconfig));
        Ok(Self {
            agents: agents.into_iter().collect::<Result<_>>()?,
            set,
            files,
            _stub: stub,
        })
    }

    async fn commit(&self, text: &str) -> Result<String> {
        self.files.commit("main", &[(FILE, Some(text))]).await
    }

    /// How long it takes until all agents have a commit.
    async fn reached(&self, commit: &str) -> Result<Duration> {
        let began = Instant::now();
        let applied = async || {
            let has = |it: &Agentk| it.process.output().contains(commit);
            self.agents.iter().all(has).then_some(())
        };
        let reached = until("all agents to have the commit", LIMIT, applied).await;
        reached.with_context(|| self.set.tails())?;
        Ok(began.elapsed())
    }

    /// What GitLab was told of an agent, once it is this often.
    async fn told(&self, agent: i64, times: usize) -> Result<usize> {
        let told = || {
            let all = self.set.double.configurations().into_iter();
            all.filter(|(id, _)| *id == agent).count()
        };
        let enough = async || Some(told()).filter(|it| *it >= times);
        until("GitLab to be told", LIMIT, enough).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_reaches_all_agents_by_polling_and_one_replica_polls() -> Result<()> {
    if skipped(
        "a_commit_reaches_all_agents_by_polling",
        &[Part::Haproxy, Part::Redis],
    ) {
        return Ok(());
    }
    let mut site = Site::start(4).await?;
    let first = site.commit(DEBUG).await?;
    site.reached(&first).await?;

    let second = site.commit("").await?;
    let polled = site.reached(&second).await?;
    let before = site.set.called("InfoRefsUploadPack").await;
    let own = site.set.double.counters().of(Endpoint::InfoRefs);
    let later = async || {
        let now = site.set.double.counters().of(Endpoint::InfoRefs);
        (now >= own + 3).then_some(())
    };
    until("three polls", LIMIT, later).await?;
    let after = site.set.called("InfoRefsUploadPack").await;
    let pollers: Vec<_> = (0..3).filter(|it| after[*it] > before[*it]).collect();
    ensure!(pollers.len() == 1, "{before:?} {after:?}");

    site.set.replicas[pollers[0]].process.signal("KILL").await?;
    let third = site.commit(DEBUG).await?;
    let survived = site.reached(&third).await?;
    let broken = site.commit("observability: [").await?;
    let agent = &mut site.agents[0].process;
    agent.wait_for("config.yaml:1:", LIMIT).await?;
    let mended = site.commit("").await?;
    site.reached(&mended).await?;

    let applied = site.agents[0].process.output().contains(&broken);
    ensure!(!applied, "a broken file is not applied");
    let told = site.told(5, 4).await?;
    // Each good commit is told once, and what is current once more for each of the agent's pods that starts.
    ensure!(
        (4..=6).contains(&told),
        "{told}: each good commit is told once"
    );
    say(&format!(
        "a commit reaches three agents by polling every 4 s after {polled:?}; after {survived:?} when the replica that polls is killed just before"
    ));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_reaches_all_agents_at_once() -> Result<()> {
    if skipped(
        "a_push_reaches_all_agents_at_once",
        &[Part::Haproxy, Part::Redis],
    ) {
        return Ok(());
    }
    // Nothing is found by polling.
    let site = Site::start(3600).await?;
    let first = site.commit(DEBUG).await?;
    site.set.push(3, "group/config").await?;
    site.reached(&first).await?;
    let mut slowest = Duration::ZERO;
    for turn in 0..6 {
        let polls = site.set.double.counters().of(Endpoint::InfoRefs);
        let commit = site.commit(&format!("{DEBUG}# {turn}\n")).await?;

        let pushed = Instant::now();
        site.set.push(3, "group/config").await?;
        site.reached(&commit).await?;
        slowest = slowest.max(pushed.elapsed());

        let polls = site.set.double.counters().of(Endpoint::InfoRefs) - polls;
        ensure!(polls == 1, "{polls} polls for one push");
    }
    say(&format!(
        "a push reaches three agents after {slowest:?} at most, of 6"
    ));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_gitlab_and_gitaly_agents_keep_their_configuration() -> Result<()> {
    if skipped("without_gitlab_and_gitaly", &[Part::Haproxy, Part::Redis]) {
        return Ok(());
    }
    let site = Site::start(1).await?;
    let first = site.commit(DEBUG).await?;
    site.reached(&first).await?;

    site.set
        .double
        .change(|it| it.faults = vec![Fault::everywhere(FaultKind::Down)]);
    let reported = async || {
        let says = |it: &tests::gitlab_member::Member| {
            it.process
                .output()
                .contains("configuration project cannot be read")
        };
        site.set.replicas.iter().any(says).then_some(())
    };
    until("kas to report it", LIMIT, reported).await?;
    let second = site.commit("").await?;
    site.set.double.change(|it| it.faults.clear());
    site.reached(&second).await?;

    for agent in &site.agents {
        let log = agent.process.output();
        ensure!(
            !log.contains("cannot get the agent's configuration"),
            "{log}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_deploys_with_the_kubeconfig_that_gitlab_writes() -> Result<()> {
    let needs = [Part::Cluster, Part::Haproxy, Part::Redis];
    if skipped(
        "a_job_deploys_with_the_kubeconfig_that_gitlab_writes",
        &needs,
    ) {
        return Ok(());
    }
    let cluster = Cluster::up().await?;
    let deployed = deploys(&cluster).await;
    cluster.down().await?;
    deployed
}

/// Who may do what, as the cluster sees them: caller, agent, verb, resource, namespace.
const VERBS: &[(&str, i64, &str, &str, &str, bool)] = &[
    // A job as itself has the rights of its environment, in one namespace.
    ("ci:job-100", 5, "get", "pods", "apps", true),
    ("ci:job-100", 5, "delete", "deployments", "apps", true),
    ("ci:job-100", 5, "create", "rolebindings", "apps", false),
    ("ci:job-100", 5, "get", "pods", "default", false),
    ("ci:job-100", 5, "impersonate", "users", "apps", false),
    // Another job comes without that environment.
    ("ci:job-101", 5, "get", "pods", "apps", false),
    // As the agent everybody may do what it may.
    ("ci:job-100", 6, "delete", "nodes", "default", true),
    ("ci:job-101", 6, "get", "secrets", "default", true),
    ("pat:pat-alice", 6, "impersonate", "users", "default", true),
    // A user as herself has the rights of her roles.
    ("pat:pat-alice", 5, "list", "pods", "apps", true),
    ("pat:pat-alice", 5, "create", "pods", "apps", false),
];

async fn deploys(cluster: &Cluster) -> Result<()> {
    let set = GitLabSet::start(3, 300).await?;
    let kubeconfig = cluster.agent_kubeconfig();
    let agents = [
        set.agentk("production", "agent-5-a", &kubeconfig)?,
        set.agentk("staging", "agent-6", &kubeconfig)?,
    ];
    let admin = cluster.admin();
    admin.ok(&["create", "namespace", "apps"]).await?;
    // As whom GitLab says that they come.
    for (name, role, group) in [
        ("jobs", "edit", "gitlab:project_env:8:prod-eu"),
        ("people", "view", "gitlab:group_role:2:maintainer"),
    ] {
        let role = format!("--clusterrole={role}");
        let group = format!("--group={group}");
        let rights = ["create", "rolebinding", name, &role, &group, "-n", "apps"];
        admin.ok(&rights).await?;
    }
    let kubectl = |caller: &str, agent: i64| {
        let file = set.kubeconfig("group/config", agent, caller)?;
        anyhow::Ok(Kubectl::new(&file).in_namespace("apps").patient(LIMIT))
    };
    for agent in [5, 6] {
        let job = kubectl("ci:job-100", agent)?;
        let connected = async || job.ok(&["get", "pods"]).await.ok();
        let connected = until("the agents", LIMIT, connected).await;
        let logs = agents.iter().map(|it| it.process.tail());
        connected.with_context(|| format!("{}\n{}", set.tails(), logs.collect::<String>()))?;
    }
    let job = kubectl("ci:job-100", 5)?;

    job.apply(WEB).await?;
    job.ok(&["rollout", "status", "deployment/web", "--timeout=120s"])
        .await?;
    let name = "jsonpath={.status.userInfo.username}";
    let who = job.ok(&["auth", "whoami", "-o", name]).await?;

    ensure!(who == "gitlab:ci_job:100", "{who}");
    for (caller, agent, verb, what, namespace, may) in VERBS {
        let asked = ["auth", "can-i", verb, what, "-n", namespace];
        let answer = kubectl(caller, *agent)?.run(&asked).await?;
        let expected = if *may { "yes" } else { "no" };
        ensure!(
            answer.text().trim() == expected,
            "{caller} {agent} {verb} {what} {namespace}: {answer:?}"
        );
    }
    // Whom GitLab does not let in does not come so far; why, the callers' own tests check.
    for (caller, agent) in [
        ("ci:job-100", 7),
        ("ci:job-102", 5),
        ("ci:nobody", 5),
        ("pat:pat-bob", 5),
    ] {
        kubectl(caller, agent)?.refused(&["get", "pods"]).await?;
    }
    Ok(())
}
