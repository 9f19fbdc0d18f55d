//! What is refused before anything is started.

use anyhow::Result;
use tests::kas::{Kas, Options};

use crate::place::{LIMIT, Place, SMALL, text};

#[tokio::test]
async fn a_typo_is_named_before_anything_is_started() -> Result<()> {
    let place = Place::new("typo")?;

    let output = place.run(&SMALL.replace("agents: 6", "agnets: 6")).await?;

    let said = text(&output);
    assert!(
        !output.status.success() && !place.0.join("out").exists(),
        "{said}"
    );
    assert!(
        said.contains("scenario.yaml:3:9: unknown key `agnets`, did you mean `agents`?"),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn too_many_agents_for_the_open_files_are_refused_beforehand() -> Result<()> {
    let place = Place::new("files")?;
    let mut command = place.command(SMALL)?;
    command.args(["--agents", "100000000"]);

    let output = tokio::time::timeout(LIMIT, command.output()).await??;

    let said = text(&output);
    assert!(
        !output.status.success() && !place.0.join("out").exists(),
        "{said}"
    );
    assert!(
        said.contains("hard limit is") && said.contains("ulimit -Hn"),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn refused_tokens_are_said_at_once() -> Result<()> {
    let place = Place::new("refused")?;
    let kas = Kas::start(Options::default(), &place.0).await?;
    let (tokens, bearer) = (place.0.join("tokens"), place.0.join("bearer"));
    std::fs::write(&tokens, "glagent-nobody")?;
    std::fs::write(&bearer, "pat:1:nobody")?;
    let attach = format!(
        "name: refused\ntopology:\n  attach:\n    kas_address: ws://127.0.0.1:{}/\n    url: http://127.0.0.1:{}/k8s-proxy\n    token_file: {}\n    bearer_file: {}\nphases: [{{name: none, seconds: 1}}]\n",
        kas.agents,
        kas.users,
        tokens.display(),
        bearer.display()
    );

    let output = place.run(&attach).await?;

    let said = text(&output);
    assert!(
        !output.status.success() && said.contains("refuses the agents' tokens"),
        "{said}"
    );
    Ok(())
}
