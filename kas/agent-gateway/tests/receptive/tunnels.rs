//! Agents whose calls come by tunnels that kas opens to them, as those of GitLab's receptive agents do.

use std::{path::Path, time::Duration};

use agent_gateway::config::ReceptiveForm;
use router::RoutingTable as _;
use tests::{certs::Certs, ports};

use crate::{
    AGENT, OTHER,
    gitlabs::{AgentDouble, Behaviour, CONNECT, KasDouble},
    pods::{SECRET, private_api},
    site::{Proof, Site, Waiting, until},
};

const TUNNELS: ReceptiveForm = ReceptiveForm::ReverseTunnel;

fn there(waiting: &Waiting) -> String {
    format!("grpc://127.0.0.1:{}", waiting.port)
}

#[tokio::test]
async fn agents_are_reached_by_tunnels_over_every_transport() {
    let site = Site::new();
    let token = site.agent(AGENT);
    let (private, public) = site.keys("keys");
    let replica = site.replica_of("a", TUNNELS);
    for (scheme, proof) in [
        ("grpc", Proof::Jwt),
        ("ws", Proof::Jwt),
        ("grpcs", Proof::Jwt),
        ("wss", Proof::Certificate),
    ] {
        let tls = scheme.ends_with('s') && scheme != "ws";
        let agent = site.waiting(&token, &public, tls, proof);
        let url = format!("{scheme}://localhost:{}/a/path", agent.port);

        site.dial(AGENT, url, &private, proof);

        until(scheme, || {
            replica.holds(AGENT) && replica.shows(AGENT, "connected")
        })
        .await;
        drop(agent);
        until("its end", || !replica.holds(AGENT)).await;
    }
}

#[tokio::test]
async fn an_agent_that_knows_tunnels_only_is_reached_by_them_and_again_when_it_comes_back() {
    let site = Site::new();
    let token = site.agent(AGENT);
    let (private, public) = site.keys("keys");
    let replica = site.replica("a");
    let port = ports::free();
    let agent = AgentDouble::start(port, &token, &public, Behaviour::Sound).await;
    site.dial(
        AGENT,
        format!("grpc://127.0.0.1:{port}"),
        &private,
        Proof::Jwt,
    );
    until("the agent", || {
        replica.holds(AGENT) && replica.shows(AGENT, "connected")
    })
    .await;
    let asked = agent.attaches();

    drop(agent);
    until("its end", || !replica.holds(AGENT)).await;
    let agent = AgentDouble::start(port, &token, &public, Behaviour::Sound).await;
    until("the agent again", || replica.holds(AGENT)).await;

    assert!(asked > 0, "kas did not ask for its own form first");
    assert_eq!(
        agent.attaches(),
        0,
        "kas has forgotten what the agent knows"
    );
}

#[tokio::test]
async fn an_agent_moves_to_another_replica_by_tunnels() {
    let site = Site::new();
    let token = site.agent(AGENT);
    let (private, public) = site.keys("keys");
    let first = site.replica_of("a", TUNNELS);
    let agent = site.waiting(&token, &public, false, Proof::Jwt);
    site.dial(AGENT, there(&agent), &private, Proof::Jwt);
    until("the agent", || first.holds(AGENT)).await;

    site.table("a").leave().await;
    let second = site.replica_of("b", TUNNELS);
    first.drain.start();

    until("the move", || second.holds(AGENT) && !first.holds(AGENT)).await;
    assert!(first.drain.finished(Duration::from_secs(60)).await);
}

#[tokio::test]
async fn what_is_wrong_with_an_agent_or_its_kas_is_said_with_tunnels_too() {
    let site = Site::new();
    let (token, stranger) = (site.agent(AGENT), site.agent(OTHER));
    let (private, public) = site.keys("keys");
    let (wrong, _) = site.keys("wrong");
    let replica = site.replica_of("a", TUNNELS);
    let other = site.waiting(&stranger, &public, false, Proof::Jwt);
    site.dial(OTHER, there(&other), &private, Proof::Jwt);
    until("the other agent", || replica.holds(OTHER)).await;

    let agent = site.waiting(&token, &public, false, Proof::Jwt);
    site.dial(AGENT, there(&agent), &wrong, Proof::Jwt);
    until("the refusal", || replica.shows(AGENT, "refused")).await;
    site.dial(AGENT, there(&other), &private, Proof::Jwt);
    until("the stranger", || replica.shows(AGENT, "another_agent")).await;
    let unknown = site.waiting("unknown", &public, false, Proof::Jwt);
    site.dial(AGENT, there(&unknown), &private, Proof::Jwt);
    until("the bad token", || replica.shows(AGENT, "token")).await;
    let mut foreign = Site::new();
    foreign.certs = Certs::create(&foreign.path("others")).unwrap();
    let guarded = foreign.waiting(&token, &public, true, Proof::Jwt);
    let tls = format!("grpcs://localhost:{}", guarded.port);
    site.dial(AGENT, tls, &private, Proof::Jwt);
    until("the wrong authority", || replica.shows(AGENT, "tls")).await;

    assert!(!replica.holds(AGENT));
    assert!(replica.shows(OTHER, "connected") && replica.holds(OTHER));
    site.dial(AGENT, there(&agent), &private, Proof::Jwt);
    until("the agent", || replica.holds(AGENT)).await;
}

#[tokio::test]
async fn a_hostile_agent_gets_no_more_tunnels_than_one_may_have_and_disturbs_no_other() {
    let site = Site::new();
    let (token, stranger) = (site.agent(AGENT), site.agent(OTHER));
    let (private, public) = site.keys("keys");
    let replica = site.replica_of("a", TUNNELS);
    let other = site.waiting(&stranger, &public, false, Proof::Jwt);
    site.dial(OTHER, there(&other), &private, Proof::Jwt);
    until("the other agent", || replica.holds(OTHER)).await;
    for behaviour in [
        Behaviour::EndsAtOnce,
        Behaviour::CallsNonsense,
        Behaviour::TakesAll,
        Behaviour::HugeMetadata,
    ] {
        let port = ports::free();
        let hostile = AgentDouble::start(port, &token, &public, behaviour).await;
        site.dial(
            AGENT,
            format!("grpc://127.0.0.1:{port}"),
            &private,
            Proof::Jwt,
        );
        until(&format!("{behaviour:?}"), || hostile.is_done()).await;

        assert!(hostile.most_tunnels() <= 1000, "{behaviour:?}");
        assert!(replica.holds(OTHER), "{behaviour:?}");
        if behaviour == Behaviour::EndsAtOnce {
            assert!(hostile.tunnels() < 50, "{}", hostile.tunnels());
        }
    }
    assert!(replica.shows(OTHER, "connected"));
}

fn secret(site: &Site) -> std::path::PathBuf {
    let file = site.path("secret");
    std::fs::write(&file, SECRET).unwrap();
    file
}

/// Two pods of an agent that know each other.
fn pods(site: &Site, token: &str, public: &Path) -> [Waiting; 2] {
    let secret = secret(site);
    let [one, two] = [ports::free(), ports::free()];
    [(one, two), (two, one)].map(|(own, other)| {
        let private_api = private_api(&secret, own, other);
        site.pod(token, public, false, Proof::Jwt, Some(private_api))
    })
}

#[tokio::test]
async fn a_pod_without_tunnels_reaches_kas_by_those_of_another() {
    let site = Site::new();
    let token = site.agent(AGENT);
    let (private, public) = site.keys("keys");
    let replica = site.replica_of("a", TUNNELS);
    let alone = site.waiting(&token, &public, false, Proof::Jwt);
    site.dial(AGENT, there(&alone), &private, Proof::Jwt);
    until("one pod", || replica.holds(AGENT)).await;
    let of_one = replica.registry.tunnels(AGENT).idle;
    drop(alone);
    until("its end", || !replica.holds(AGENT)).await;

    let [dialled, _other] = pods(&site, &token, &public);
    site.dial(AGENT, there(&dialled), &private, Proof::Jwt);

    until("both pods", || {
        replica.registry.tunnels(AGENT).idle > of_one
    })
    .await;
    assert!(replica.shows(AGENT, "connected"));
}

#[tokio::test]
async fn a_kas_that_carries_no_connections_hears_of_both_pods_by_the_tunnels_of_one() {
    let site = Site::new();
    let token = site.agent(AGENT);
    let (private, public) = site.keys("keys");
    let alone = site.waiting(&token, &public, false, Proof::Jwt);
    let kas = KasDouble::dial(alone.port, &private).await;
    until("one pod", || kas.open(CONNECT) > 0).await;
    let of_one = kas.open(CONNECT);
    drop((alone, kas));

    let [dialled, other] = pods(&site, &token, &public);
    let kas = KasDouble::dial(dialled.port, &private).await;

    until("both pods", || kas.open(CONNECT) > of_one).await;
    let shown = format!("Bearer {token}");
    assert!(
        kas.tokens().iter().all(|it| *it == shown),
        "{:?}",
        kas.tokens()
    );
    drop(other);
    until("one pod again", || kas.open(CONNECT) == of_one).await;
}

#[tokio::test]
async fn an_agent_makes_its_calls_elsewhere_when_a_kas_opens_no_more_tunnels() {
    let site = Site::new();
    let token = site.agent(AGENT);
    let (private, public) = site.keys("keys");
    let agent = site.waiting(&token, &public, false, Proof::Jwt);
    let first = KasDouble::dial(agent.port, &private).await;
    until("the first", || first.open(CONNECT) > 0).await;

    first.let_go();
    let second = KasDouble::dial(agent.port, &private).await;

    until("the second", || second.open(CONNECT) > 0).await;
    let of_second = second.calls();
    first.end_calls();
    until("the calls of the first", || second.calls() > of_second).await;
}

#[tokio::test]
async fn a_hostile_kas_is_held_within_bounds() {
    let site = Site::new();
    let token = site.agent(AGENT);
    let (private, public) = site.keys("keys");
    let (wrong, _) = site.keys("wrong");
    let agent = site.waiting(&token, &public, false, Proof::Jwt);
    let kas = KasDouble::dial(agent.port, &private).await;
    until("the agent", || kas.open(CONNECT) > 0).await;
    let open = kas.open(CONNECT);

    let stranger = KasDouble::dial(agent.port, &wrong).await;
    until("the refusals", || stranger.refused() > 5).await;
    let nonsense = KasDouble::offering(agent.port, &private, vec!["x".repeat(200)]).await;
    until("the refused offers", || nonsense.refused() > 5).await;
    let useless = KasDouble::offering(agent.port, &private, vec!["y".to_owned()]).await;
    useless.settled().await;

    assert_eq!(stranger.calls() + nonsense.calls() + useless.calls(), 0);
    assert!(kas.open(CONNECT) >= open);
}
