//! A client made with kube-rs: the test program itself, started with [`ROLE`] as its first argument.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what a client says is compared"
)]

use std::{future::Future, process::ExitCode};

use anyhow::{Context, Result, bail};
use futures_util::{StreamExt, TryStreamExt};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{AttachParams, ListParams, LogParams, WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{watcher, watcher::Event},
};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::world::{COMMAND, LARGE, PAGE, POD, PORT, SAID, WATCHED};

/// Makes the test program a client.
pub(crate) const ROLE: &str = "kube-rs";

/// Does what `ACTION KUBECONFIG NAMESPACE` ask for.
pub(crate) fn main(args: &[String]) -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime needs only threads");
    match runtime.block_on(act(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

async fn act(args: &[String]) -> Result<()> {
    let [action, kubeconfig, namespace] = args else {
        bail!("usage: {ROLE} ACTION KUBECONFIG NAMESPACE");
    };
    let file = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    let maps = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let pods = Api::<Pod>::namespaced(client, namespace);
    match action.as_str() {
        "list" => list(&maps).await,
        "watch" => watch(&maps).await,
        "informer" => informer(maps).await,
        "logs" => {
            print!("{}", pods.logs(POD, &LogParams::default()).await?);
            Ok(())
        }
        "exec" => exec(&pods).await,
        "forward" => forward(&pods).await,
        other => bail!("no action {other}"),
    }
}

async fn list(maps: &Api<ConfigMap>) -> Result<()> {
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = maps.list(&params).await?;
        let next = page.metadata.continue_.clone().filter(|it| !it.is_empty());
        for map in page {
            println!("{}", map.name_any());
        }
        let Some(next) = next else {
            return Ok(());
        };
        params = params.continue_token(&next);
    }
}

fn show(map: &ConfigMap) {
    println!("{}", map.labels().get("round").map_or("none", |it| it));
}

async fn watch(maps: &Api<ConfigMap>) -> Result<()> {
    let list = maps.list(&ListParams::default().labels(WATCHED)).await?;
    list.items.iter().for_each(show);
    let version = list.metadata.resource_version.unwrap_or_default();
    let params = WatchParams::default().labels(WATCHED).timeout(290);
    let mut events = maps.watch(&params, &version).await?.boxed();
    while let Some(event) = events.try_next().await? {
        match event {
            WatchEvent::Added(map) | WatchEvent::Modified(map) => show(&map),
            WatchEvent::Bookmark(_) => {}
            other => bail!("{other:?}"),
        }
    }
    bail!("the watch has ended")
}

async fn informer(maps: Api<ConfigMap>) -> Result<()> {
    let config = watcher::Config::default().labels(WATCHED).streaming_lists();
    let mut events = watcher(maps, config).boxed();
    while let Some(event) = events.try_next().await? {
        if let Event::Apply(map) | Event::InitApply(map) = event {
            show(&map);
        }
    }
    bail!("the watch has ended")
}

async fn exec(pods: &Api<Pod>) -> Result<()> {
    let params = AttachParams::default()
        .stdin(true)
        .stdout(true)
        .stderr(true);
    let mut session = pods.exec(POD, ["sh", "-c", COMMAND], &params).await?;
    let status = session.take_status().context("no status")?;
    let mut stdin = session.stdin().context("no standard input")?;
    let (stdout, stderr) = (session.stdout(), session.stderr());
    stdin.write_all(SAID.as_bytes()).await?;
    stdin.flush().await?;
    let (stdout, stderr, status) = tokio::join!(all(stdout), all(stderr), status);
    let details = status.context("it ended without a status")?.details;
    let causes = details.and_then(|it| it.causes).unwrap_or_default();
    let code = causes.into_iter().find_map(|cause| cause.message);
    println!(
        "stdout: {}stderr: {}code: {}",
        stdout?,
        stderr?,
        code.unwrap_or_default()
    );
    Ok(())
}

async fn all(stream: Option<impl AsyncRead + Unpin>) -> Result<String> {
    let mut text = String::new();
    let mut stream = stream.context("no stream")?;
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

async fn forward(pods: &Api<Pod>) -> Result<()> {
    let mut forwarded = pods.portforward(POD, &[PORT]).await?;
    let stream = forwarded.take_stream(PORT).context("no stream")?;
    let (mut http, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(LARGE)
        .header("host", "localhost")
        .body(Empty::<bytes::Bytes>::new())?;
    let read = async {
        let answer = http.send_request(request).await?;
        anyhow::Ok(answer.into_body().collect().await?.to_bytes())
    };
    let body = first(read, connection).await?;
    println!("{} {}", body.len(), hex::encode(Sha256::digest(&body)));
    Ok(())
}

/// The outcome of the first, while the second goes on.
async fn first<T>(done: impl Future<Output = T>, other: impl Future) -> T {
    let (mut done, mut other) = (std::pin::pin!(done), std::pin::pin!(other));
    tokio::select! {
        done = &mut done => done,
        _ = &mut other => done.await,
    }
}
