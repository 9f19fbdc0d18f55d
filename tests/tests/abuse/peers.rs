//! Whoever can write to the store is no replica yet, and what one replica knows all say.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, Response};
use tests::{
    http as client,
    parts::{Part, skipped},
    wait::until,
};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    impostor::Impostor,
    old_agent::OldAgent,
    site::{SOON, Site},
};

const NEEDS: &[Part] = &[Part::Redis];
/// Well within the time for which a request is held.
const BEFORE_THE_HOLD_ENDS: Duration = Duration::from_secs(40);
const REJECTED: &str = "routing_store_rejected_entries_total";

/// A port that an attacker listens on.
struct Trap {
    port: u16,
    caught: Arc<AtomicUsize>,
    _accepting: AbortOnDropHandle<()>,
}

impl Trap {
    async fn set() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let caught = Arc::<AtomicUsize>::default();
        let count = caught.clone();
        let accepting = tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((socket, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                open.push(socket);
            }
        });
        Ok(Self {
            port,
            caught,
            _accepting: AbortOnDropHandle::new(accepting),
        })
    }

    fn caught_nobody(&self) -> Result<()> {
        let caught = self.caught.load(Ordering::Relaxed);
        ensure!(caught == 0, "an attacker was dialled {caught} times");
        Ok(())
    }

    fn url(&self) -> String {
        format!("grpc://127.0.0.1:{}", self.port)
    }
}

/// What an attacker reads in the store, and where.
struct Loot {
    replicas: String,
    lease: String,
    agent: String,
    owner: (String, String),
}

impl Loot {
    async fn take(site: &mut Site, agent: &str) -> Result<Self> {
        let redis = site.redis()?;
        let keys = redis.cli(&["keys", "*replicas"]).await?;
        let replicas = keys.trim().to_owned();
        let leases = redis.cli(&["hvals", &replicas]).await?;
        let lease = leases.lines().next().context("no lease")?.to_owned();
        let agent = replicas.replace("replicas", &format!("agent:{{{agent}}}"));
        let owner = async || {
            let fields = redis.cli(&["hgetall", &agent]).await.ok()?;
            let mut fields = fields.lines().map(str::to_owned);
            Some((fields.next()?, fields.next()?))
        };
        let owner = until("an owner in the store", SOON, owner).await?;
        Ok(Self {
            replicas,
            lease,
            agent,
            owner,
        })
    }

    /// The key of another agent's record.
    fn key_of(&self, agent: &str) -> String {
        self.replicas
            .replace("replicas", &format!("agent:{{{agent}}}"))
    }
}

/// The text with the first address of loopback in it moved to this port.
fn moved(text: &str, port: u16) -> String {
    let (before, after) = text.split_once("127.0.0.1:").unwrap_or((text, ""));
    let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
    format!("{before}127.0.0.1:{port}{after}")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_replica_wrote_into_the_store_leads_nobody_anywhere() -> Result<()> {
    if skipped("what_no_replica_wrote_into_the_store", NEEDS) {
        return Ok(());
    }
    let mut site = Site::start(2).await?;
    let port = site.replicas.members[0].agents;
    let bystander = site.agent("bystander", port).await?;
    let (bait, _) = site.register("bait").await?;
    let (copied, _) = site.register("copied").await?;
    let loot = Loot::take(&mut site, &bystander.id).await?;
    let trap = Trap::set().await?;
    let crowd = site.crowd(&site.bearer(&bystander.id));
    crowd.goes_on(20).await?;

    let (name, value) = &loot.owner;
    let lease = moved(&loot.lease, trap.port);
    let owner = moved(value, trap.port);
    let redis = site.redis()?;
    let plants = [
        [&loot.replicas, "attacker", &lease],
        [&loot.key_of(&bait), "attacker", &trap.url()],
        [&loot.key_of(&bait), name, &owner],
        [&loot.key_of(&copied), name, value],
        [&loot.agent, "attacker", &owner],
        [&loot.agent, name, &owner],
    ];
    for [key, field, value] in plants {
        redis.cli(&["hset", key, field, value]).await?;
    }
    for id in [&bait, &copied] {
        // No tunnel of these is found, however long it is looked for.
        let bearer = site.bearer(id);
        let ask = site.get(1, "/version", &bearer);
        let answer = tokio::time::timeout(Duration::from_secs(3), ask).await;
        ensure!(!answer.is_ok_and(|it| it.is_ok_and(|it| it.status().is_success())));
    }
    trap.caught_nobody()?;
    for kind in ["lease", "owner"] {
        let name = format!("{REJECTED}{{kind=\"{kind}\"}} ");
        let rejected = async || site.metric(1, &name).await.filter(|count| *count > 0);
        let rejected = until("entries to be rejected", SOON, rejected).await;
        rejected.with_context(|| site.tails())?;
    }
    crowd.goes_on(200).await?;

    crowd.end().await.with_context(|| site.tails())?;
    trap.caught_nobody()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_a_dead_replicas_address_is_told_nothing() -> Result<()> {
    if skipped("whoever_takes_a_dead_replicas_address", NEEDS) {
        return Ok(());
    }
    let site = Site::start(3).await?;
    let [stays, asks, dies] = [0, 1, 2].map(|number| &site.replicas.members[number]);
    let bystander = site.agent("bystander", stays.agents).await?;
    let stranded = site.agent("stranded", dies.agents).await?;
    let crowd = site.crowd_at(&[0, 1], &site.bearer(&bystander.id));
    crowd.goes_on(20).await?;

    // Its lease and its entry are signed, and there for a while.
    dies.process.signal("KILL").await?;
    let bound = async || Impostor::start(dies.peers, stays.peers).await.ok();
    let impostor = until("the port of the dead", SOON, bound).await?;
    let url = format!("http://127.0.0.1:{}/k8s-proxy/version", asks.users);
    let bearer = site.bearer(&stranded.id);
    let asking = tokio::spawn(async move { client::get(&url, &bearer).await });

    impostor.learns_nothing(3).await?;
    crowd.goes_on(200).await?;
    impostor.learns_nothing(3).await?;
    asking.abort();
    crowd.end().await.with_context(|| site.tails())?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_emptied_under_load_costs_nobody_a_request() -> Result<()> {
    if skipped("a_store_that_is_emptied_under_load", NEEDS) {
        return Ok(());
    }
    let mut site = Site::start(2).await?;
    let port = site.replicas.members[0].agents;
    let bystander = site.agent("bystander", port).await?;
    let mut unasked = Vec::new();
    for name in ["one", "two", "three"] {
        // The other replica has not heard of these yet.
        let kubeconfig = site.stub.kubeconfig(site.folder())?;
        let agent = site.agent_of(name, port, &kubeconfig).await?;
        site.answers(0, &site.bearer(&agent.id)).await?;
        unasked.push(agent);
    }
    let (absent, _) = site.register("absent").await?;
    let crowd = site.crowd(&site.bearer(&bystander.id));
    // From here on the replica is old enough to know who is absent.
    let answer = site.get(1, "/version", &site.bearer(&absent)).await?;
    ensure!(answer.status() == 503, "{answer:?}");

    for agent in &unasked {
        site.redis()?.cli(&["flushall"]).await?;
        let answer = site.get(1, "/version", &site.bearer(&agent.id)).await?;
        ensure!(answer.status() == 200, "{answer:?}\n{}", site.tails());
        crowd.goes_on(100).await?;
    }

    crowd.end().await.with_context(|| site.tails())?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_does_not_hold_an_agent_refuses_as_the_one_that_does() -> Result<()> {
    if skipped("a_replica_that_does_not_hold_an_agent_refuses", NEEDS) {
        return Ok(());
    }
    let site = Site::start(2).await?;
    let port = site.replicas.members[0].agents;
    let bystander = site.agent("bystander", port).await?;
    let crowd = site.crowd(&site.bearer(&bystander.id));
    let user = site.replicas.cli(&["user", "create", "herself"]).await?;
    let proxy = (
        "gitlab.agent.kubernetes_api.rpc.KubernetesApi",
        "MakeRequest",
    );
    let other = (
        "gitlab.agent.flux.rpc.GitRepositoryReconciler",
        "ReconcileNow",
    );

    for (name, version, method, upgrade, code) in [
        ("impersonates-not", "v14.1.0", proxy, false, 403),
        ("lacks-the-method", "v16.5.0", other, false, 501),
        ("upgrades-not", "v14.1.0", proxy, true, 501),
    ] {
        let (id, token) = site.register(name).await?;
        site.grant(name, "herself", "user").await?;
        let bearer = if code == 403 {
            format!("pat:{id}:{user}")
        } else {
            site.bearer(&id)
        };
        let _agent = OldAgent::connect(port, &token, version, method).await?;

        let mut said = Vec::new();
        for replica in [0, 1] {
            let port = site.replicas.members[replica].users;
            // Until its tunnels are known, an agent has never connected.
            let known = async || {
                let asked = ask(port, &bearer, upgrade);
                let answer = tokio::time::timeout(BEFORE_THE_HOLD_ENDS, asked).await;
                (!matches!(&answer, Ok(Ok(early)) if early.status() == 503)).then_some(answer)
            };
            let answer = until("the agent's tunnels", SOON, known).await?;
            let answer = answer.with_context(|| format!("{name} at {replica}: held"))??;
            ensure!(answer.status() == code, "{name} at {replica}: {answer:?}");
            said.push(String::from_utf8_lossy(answer.body()).into_owned());
        }
        ensure!(said[0] == said[1], "{said:#?}");
    }

    crowd.end().await.with_context(|| site.tails())?;
    Ok(())
}

async fn ask(port: u16, bearer: &str, upgrade: bool) -> Result<Response<Bytes>> {
    let url = format!("http://127.0.0.1:{port}/k8s-proxy/version");
    let mut request = Request::get(url).header("authorization", format!("Bearer {bearer}"));
    if upgrade {
        request = request
            .header("connection", "Upgrade")
            .header("upgrade", "SPDY/3.1");
    }
    client::send(request.body(Bytes::new())?).await
}
