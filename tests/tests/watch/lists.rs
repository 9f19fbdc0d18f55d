//! Watch-lists (`sendInitialEvents`) while a load balancer resets the agent's connections in their midst.

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tests::{chaos::Chaos, kubectl::Kubectl};

use super::{SOON, resumes, values};

const OBJECTS: usize = 1200;
/// So large that what lies between the API server and a client that reads slowly does not hold them all.
const OBJECT_BYTES: usize = 16 << 10;
/// Between two cuts the client reads so much.
const BYTES_BETWEEN_CUTS: usize = 2 << 20;
const END: &[u8] = b"k8s.io/initial-events-end";
const FORMS: [&str; 4] = [
    "application/json",
    super::PROTOBUF,
    "application/json;as=Table;v=v1;g=meta.k8s.io",
    "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io;stream=watch",
];

/// Where lists are asked for, and what breaks them.
pub(super) struct Site<'a> {
    pub(super) users: u16,
    pub(super) observability: u16,
    pub(super) bearer: &'a str,
    pub(super) chaos: &'a Chaos,
}

/// In each form every object comes once, and the bookmark once behind them.
pub(super) async fn come_whole(site: &Site<'_>, admin: &Kubectl, folder: &Path) -> Result<()> {
    let file = folder.join("lists.yaml");
    std::fs::write(&file, objects()?)?;
    admin.ok(&["create", "namespace", "lists"]).await?;
    let admin = admin.in_namespace("lists");
    let file = file.display().to_string();
    admin
        .ok(&["create", "--filename", &file, "--output", "name"])
        .await?;

    for (round, form) in FORMS.into_iter().enumerate() {
        let before = resumes(site.observability).await?;
        let mark = format!("behind-the-list-{round}");
        let told = read(site, &admin, form, &mark).await.context(form)?;
        let resumed = resumes(site.observability).await? - before;

        let names = names(&told, form);
        let every: BTreeSet<_> = (0..OBJECTS).map(name).collect();
        let distinct: BTreeSet<_> = names.iter().cloned().collect();
        ensure!(resumed >= 1.0, "{form}: no cut hit the list");
        ensure!(
            distinct == every,
            "{form}: {} names of {OBJECTS}",
            distinct.len()
        );
        ensure!(names.len() == OBJECTS, "{form}: {} objects", names.len());
        let ends = told.windows(END.len()).filter(|bytes| *bytes == END);
        ensure!(ends.count() == 1, "{form}: not one bookmark");
    }
    Ok(())
}

fn name(number: usize) -> String {
    format!("list-{number:05}")
}

fn objects() -> Result<String> {
    let mut text = String::new();
    for number in 0..OBJECTS {
        let (name, filling) = (name(number), "x".repeat(OBJECT_BYTES));
        writeln!(
            text,
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: lists, annotations: {{filling: {filling}}}}}"
        )?;
    }
    Ok(text)
}

/// What a client has of a list and its bookmark, up to a change that is marked so and made behind them.
async fn read(site: &Site<'_>, admin: &Kubectl, form: &str, mark: &str) -> Result<Vec<u8>> {
    let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true\
                 &fieldSelector=metadata.name!=kube-root-ca.crt";
    let url = format!(
        "http://127.0.0.1:{}/k8s-proxy/api/v1/namespaces/lists/configmaps?{query}",
        site.users
    );
    let request = Request::get(url)
        .header("authorization", format!("Bearer {}", site.bearer))
        .header("accept", form)
        .header("accept-encoding", "gzip")
        .body(Empty::<Bytes>::new())?;
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let reading = async {
        let mut body = client.request(request).await?.into_body();
        let (mut told, mut cut_at) = (Vec::new(), BYTES_BETWEEN_CUTS);
        let mut ended = false;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            // The bookmark's annotation may lie across two pieces.
            let seen = told.len().saturating_sub(END.len());
            told.extend_from_slice(&data);
            if !ended && told[seen..].windows(END.len()).any(|bytes| bytes == END) {
                ended = true;
                // The list is through: the watch goes on as any other, with an event that is to come.
                site.chaos.cut();
                admin
                    .ok(&[
                        "annotate",
                        "configmap",
                        &name(0),
                        "--overwrite",
                        &format!("mark={mark}"),
                    ])
                    .await?;
            }
            if ended
                && told[seen..]
                    .windows(mark.len())
                    .any(|bytes| bytes == mark.as_bytes())
            {
                return Ok(told);
            }
            if !ended && told.len() >= cut_at {
                site.chaos.cut();
                cut_at += BYTES_BETWEEN_CUTS;
            }
        }
        anyhow::bail!("the watch ended after {} bytes", told.len())
    };
    tokio::time::timeout(3 * SOON, reading)
        .await
        .context("no bookmark in time")?
}

/// The objects of the events, in their order.
fn names(told: &[u8], form: &str) -> Vec<String> {
    if form.contains("protobuf") {
        let added = |frame: &&[u8]| {
            frame[..frame.len().min(32)]
                .windows(5)
                .any(|it| it == b"ADDED")
        };
        return frames(told).filter(added).filter_map(named).collect();
    }
    let events = values(told);
    let texts = events.iter().filter(|event| event["type"] == "ADDED");
    texts
        .filter_map(|event| named(event.to_string().as_bytes()))
        .collect()
}

/// Frames behind their lengths.
fn frames(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (frame, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        bytes = rest;
        Some(frame)
    })
}

/// The first name of the test's in an event.
fn named(event: &[u8]) -> Option<String> {
    const PREFIX: &[u8] = b"list-";
    let at = event
        .windows(PREFIX.len())
        .position(|bytes| bytes == PREFIX)?;
    let name = event.get(at..at + PREFIX.len() + 5)?;
    Some(String::from_utf8_lossy(name).into_owned())
}
