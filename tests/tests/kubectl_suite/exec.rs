//! Commands in containers: exec with input, exit code and terminal; attach.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::{kubectl::Streams, payload};

use crate::site::Site;

const SOON: Duration = Duration::from_secs(60);

pub(crate) async fn executes(site: &Site, over: Streams) -> Result<()> {
    let kubectl = site.kubectl.over(over);
    // `cat` alone, without a shell: a shell would close its output before the input ends.
    let input = payload::bytes(1, 2 << 20);

    let failed = kubectl
        .run(&[
            "exec",
            "box",
            "--",
            "sh",
            "-c",
            "echo out; echo err >&2; exit 7",
        ])
        .await?;
    let echoed = kubectl
        .run_with(&["exec", "-i", "box", "--", "cat"], &input)
        .await?;
    let unknown = kubectl
        .refused(&["exec", "box", "--", "no-such-program"])
        .await?;

    ensure!(failed.code == 7, "{failed:?}");
    // On a busy machine kubectl itself complains there when a stream's first message, which is empty, comes before it
    // reads the stream: "websocket.go:297] Unknown stream id 1, discarding message".
    let mut said = failed.stderr.lines();
    ensure!(
        failed.text() == "out\n"
            && said.find(|line| !line.contains("websocket.go:")) == Some("err"),
        "{failed:?}"
    );
    ensure!(echoed.code == 0, "{}", echoed.stderr);
    ensure!(
        echoed.stdout == input,
        "{} of {} bytes came back",
        echoed.stdout.len(),
        input.len()
    );
    ensure!(unknown.contains("no-such-program"), "{unknown}");
    Ok(())
}

pub(crate) async fn at_terminal(site: &Site, over: Streams) -> Result<()> {
    let command = "read word; test -t 0 && echo terminal and $word; exit 5";
    let args = ["exec", "-it", "box", "--", "sh", "-c", command];
    let name = format!("terminal-{over:?}");
    let mut terminal = site
        .kubectl
        .over(over)
        .at_terminal(&name, &args, &site.folder)?;

    terminal.write("hello\n").await?;
    terminal.wait_for("terminal and hello", SOON).await?;
    let status = terminal.ended(SOON).await?;

    ensure!(status.code() == Some(5), "{status}: {}", terminal.tail());
    Ok(())
}

pub(crate) async fn attaches(site: &Site, over: Streams) -> Result<()> {
    let name = format!("attach-{over:?}");
    let mut attached =
        site.kubectl
            .over(over)
            .start(&name, &["attach", "-i", "echo"], &site.folder)?;

    attached.write(&format!("said over {over:?}\n")).await?;
    attached
        .wait_for(&format!("said over {over:?}"), SOON)
        .await?;

    ensure!(attached.is_running(), "{}", attached.tail());
    Ok(())
}
