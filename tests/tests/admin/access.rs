//! Who may use which agent and as whom: told through any replica, with the reason, and with the rules that never decide.

use admin::{Client, ClientOptions, v1};
use anyhow::{Context, Result, ensure};
use tests::{
    http as client,
    parts::{Part, skipped},
    wait::until,
};

use super::{LIMIT, Site};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_use_an_agent_and_why_is_told_and_rules_without_effect_are_named() -> Result<()> {
    const NAME: &str = "who_may_use_an_agent_and_why_is_told_and_rules_without_effect_are_named";
    if skipped(NAME, &[Part::Redis]) {
        return Ok(());
    }
    let site = Site::start().await?;
    site.replicas
        .cli(&["user", "create", "bob", "--group", "devs"])
        .await?;
    let grant = ["access", "grant", "--agent", "prod", "--user", "ana"];
    site.replicas
        .cli(&[&grant[..], &["--as", "user", "--record=required"]].concat())
        .await?;

    let shadowed = async || {
        let told = site.ask(1, "/v1/agents/prod/access").await.ok()?;
        (told["rules"][1]["shadowed_by"][0] == 1).then_some(told)
    };
    let told = until("the file to be followed", LIMIT, shadowed).await;
    let told = told.with_context(|| site.tails())?;
    ensure!(told["decided_by"] == "standalone", "{told:#}");
    ensure!(
        told["answer"].is_null() && told["rules_total"] == 2,
        "{told:#}"
    );
    ensure!(told["rules"][0]["callers"] == "user ana", "{told:#}");
    ensure!(told["rules"][0]["recorded"] == "", "{told:#}");
    ensure!(told["rules"][1]["recorded"] == "required", "{told:#}");
    ensure!(
        told["rules"][0]["shadowed_by"] == serde_json::json!([]),
        "{told:#}"
    );

    let ana = site.ask(1, "/v1/agents/2/access?user=ana").await?;
    let answer = &ana["answer"];
    ensure!(answer["allowed"] == true && answer["rule"] == 1, "{ana:#}");
    let sentence = answer["sentence"].as_str().unwrap_or_default();
    ensure!(
        sentence.starts_with("Allowed: user:ana, in no group, may use agent prod, by rule 1"),
        "{sentence}"
    );
    let bob = site.ask(1, "/v1/agents/prod/access?user=bob").await?;
    let answer = &bob["answer"];
    ensure!(answer["allowed"] == false && answer["rule"] == 0, "{bob:#}");
    ensure!(answer["groups"][0] == "devs", "{bob:#}");
    ensure!(
        answer["verdicts"][0]["verdict"] == "is for others",
        "{bob:#}"
    );

    let port = site.replicas.members[1].admin;
    let mut client = Client::connect(&ClientOptions {
        server: format!("http://127.0.0.1:{port}"),
        ..ClientOptions::default()
    })
    .await?;
    let matrix = client.grpc().get_access(v1::GetAccessRequest {
        agent: "PROD".to_owned(),
        caller: String::new(),
    });
    let matrix = matrix.await?.into_inner();
    ensure!(
        matrix.agents_total == 1 && matrix.agents[0].name == "prod",
        "{matrix:#?}"
    );
    let cells: Vec<_> = matrix
        .rows
        .iter()
        .map(|row| {
            (
                &*row.kind,
                &*row.name,
                row.cells[0].rule,
                &*row.cells[0].access_as,
            )
        })
        .collect();
    let expected = [
        ("user", "ana", 1, "agent"),
        ("user", "bob", 0, ""),
        ("group", "devs", 0, ""),
    ];
    ensure!(cells == expected, "{cells:?}");

    let both = format!("http://127.0.0.1:{port}/v1/agents/prod/access?user=a&service=b");
    let refused = client::get(&both, "").await?;
    ensure!(refused.status() == 400, "{refused:?}");
    Ok(())
}
