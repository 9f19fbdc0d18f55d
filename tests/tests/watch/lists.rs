//! Watch-lists (`sendInitialEvents`) while a load balancer resets the agent's connections in their midst.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    hash::{BuildHasher, RandomState},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tests::{
    chaos::Chaos,
    kas::{Kas, Options},
    kube::Cluster,
    kubectl::Kubectl,
    parts::{say, skipped},
};

use super::{
    NEEDS, PODS, resumes, serves, start_agent,
    told::{Told, events},
};

/// So large that what lies between the API server and a client that reads slowly does not hold them all.
const OBJECT_BYTES: usize = 16 << 10;
const END: &[u8] = b"k8s.io/initial-events-end";
/// All with `Accept-Encoding: gzip`, which 1.37 would follow.
const FORMS: [&str; 5] = [
    "application/json",
    super::PROTOBUF,
    "application/json;as=Table;v=v1;g=meta.k8s.io",
    "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
    "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io;stream=watch",
];

/// Where lists are asked for, and what breaks them.
pub(super) struct Site<'a> {
    pub(super) users: u16,
    pub(super) observability: u16,
    pub(super) bearer: &'a str,
    pub(super) chaos: &'a Chaos,
}

/// How much there is to list, and when connections are reset.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) objects: usize,
    pub(super) cuts: Cuts,
    /// How long one list may take.
    pub(super) limit: Duration,
}

/// When connections are reset.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cuts {
    /// Whenever the client has read so many bytes.
    Every(usize),
    /// So often, at places that nobody knows before.
    Random(usize),
}

impl Size {
    /// What the client has read at each cut.
    fn places(&self) -> Vec<usize> {
        let all = self.objects * OBJECT_BYTES;
        match self.cuts {
            Cuts::Every(bytes) => (1..)
                .map(|it| it * bytes)
                .take_while(|it| *it < all)
                .collect(),
            Cuts::Random(count) => {
                let chance = RandomState::new();
                let place = |number| chance.hash_one(number) as usize % all;
                let mut places: Vec<_> = (0..count).map(place).collect();
                places.sort_unstable();
                places
            }
        }
    }
}

/// As large as clusters have them: `make test-watch-lists`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn lists_of_thousands_come_whole_through_cuts_at_random_moments() -> Result<()> {
    const NAME: &str = "lists_of_thousands_come_whole_through_cuts_at_random_moments";
    if skipped(NAME, NEEDS) {
        return Ok(());
    }
    let cluster = Cluster::api_server("").await?;
    let whole = async {
        let folder = tempfile::tempdir()?;
        let folder = folder.path();
        let kas = Kas::start(Options::default(), folder).await?;
        let chaos = Chaos::start(&[kas.agents]).await?;
        let token = kas.create_agent("site").await?;
        let user = kas.create_user("ana", "site", &["agent"]).await?;
        let _agent = start_agent(chaos.port(), &cluster, &token, folder)?;
        let bearer = format!("pat:{}:{user}", kas.agent_id("site").await?);
        let url = format!("http://127.0.0.1:{}/k8s-proxy{PODS}", kas.users);
        serves(&url, &bearer).await?;
        let site = Site {
            users: kas.users,
            observability: kas.observability,
            bearer: &bearer,
            chaos: &chaos,
        };
        let size = Size {
            objects: number("WATCH_LIST_OBJECTS", 5000),
            cuts: Cuts::Random(number("WATCH_LIST_CUTS", 40)),
            limit: Duration::from_secs(600),
        };
        let lists = come_whole(&site, size, &cluster.admin(), folder).await;
        lists.with_context(|| kas.process.tail())
    };
    let whole = whole.await;
    cluster.down().await?;
    whole
}

fn number(variable: &str, default: usize) -> usize {
    let given = std::env::var(variable).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// In each form every object comes once, and the bookmark once behind them.
pub(super) async fn come_whole(
    site: &Site<'_>,
    size: Size,
    admin: &Kubectl,
    folder: &Path,
) -> Result<()> {
    let file = folder.join("lists.yaml");
    std::fs::write(&file, objects(size.objects)?)?;
    admin.ok(&["create", "namespace", "lists"]).await?;
    let admin = admin.in_namespace("lists").patient(size.limit);
    let file = file.display().to_string();
    admin
        .ok(&["create", "--filename", &file, "--output", "name"])
        .await?;

    for (round, form) in FORMS.into_iter().enumerate() {
        let before = resumes(site.observability).await?;
        let mark = format!("behind-the-list-{round}");
        let places = size.places();
        let told = tokio::time::timeout(size.limit, read(site, &admin, form, &mark, &places));
        let told = told.await.context("no bookmark in time").flatten();
        let told = told.with_context(|| format!("{form}, cuts at {places:?}"))?;
        let resumed = resumes(site.observability).await? - before;

        ensure!(resumed >= 1.0, "{form}: no cut hit the list");
        let events = events(&told, form);
        let whole = is_whole(&events, size.objects);
        whole.with_context(|| format!("{form}, cuts at {places:?}"))?;
        say(&format!(
            "{form}: {} objects, {} cuts, {resumed} resumes, {} events, 1 bookmark at the end of the list",
            size.objects,
            places.len() + 1,
            events.len(),
        ));
    }
    Ok(())
}

/// Each name once, then the end of the list once, then what came later; versions say so too.
fn is_whole(events: &[Told], objects: usize) -> Result<()> {
    let ends: Vec<_> = (0..events.len())
        .filter(|it| events[*it].ends_list)
        .collect();
    ensure!(ends.len() == 1, "the list ends at {ends:?}");
    let (initial, rest) = events.split_at(ends[0]);
    let added = initial.iter().filter(|event| event.kind == "ADDED");
    let names: Vec<_> = added.map(|event| event.name.clone()).collect();
    let every: BTreeSet<_> = (0..objects).map(name).collect();
    let distinct: BTreeSet<_> = names.iter().cloned().collect();
    ensure!(distinct == every, "{} names of {objects}", distinct.len());
    ensure!(names.len() == objects, "{} objects", names.len());
    ensure!(
        initial
            .iter()
            .all(|it| (1..=rest[0].version).contains(&it.version)),
        "the list says that it is older than what is in it"
    );
    ensure!(
        rest.is_sorted_by_key(|event| event.version),
        "versions go back: {rest:?}"
    );
    Ok(())
}

fn name(number: usize) -> String {
    format!("list-{number:05}")
}

fn objects(count: usize) -> Result<String> {
    let mut text = String::new();
    for number in 0..count {
        let (name, filling) = (name(number), "x".repeat(OBJECT_BYTES));
        writeln!(
            text,
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: lists, annotations: {{filling: {filling}}}}}"
        )?;
    }
    Ok(text)
}

/// What a client has of a list and its bookmark, up to a change that is marked so and made behind them.
async fn read(
    site: &Site<'_>,
    admin: &Kubectl,
    form: &str,
    mark: &str,
    places: &[usize],
) -> Result<Vec<u8>> {
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
    let answer = client.request(request).await?;
    // What is compressed could not be resumed.
    let coding = answer.headers().get(header::CONTENT_ENCODING);
    ensure!(coding.is_none(), "{coding:?}");
    let mut body = answer.into_body();
    let (mut told, mut places) = (Vec::new(), places.iter().peekable());
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
            annotate(admin, mark).await?;
        }
        if ended
            && told[seen..]
                .windows(mark.len())
                .any(|bytes| bytes == mark.as_bytes())
        {
            return Ok(told);
        }
        while !ended && places.next_if(|place| told.len() >= **place).is_some() {
            site.chaos.cut();
        }
    }
    anyhow::bail!("the watch ended after {} bytes", told.len())
}

async fn annotate(admin: &Kubectl, mark: &str) -> Result<()> {
    let mark = format!("mark={mark}");
    let args = ["annotate", "configmap", &name(0), "--overwrite", &mark];
    admin.ok(&args).await.map(drop)
}
