//! What all tests share: one cluster, and one site for each topology, started when first needed.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, anyhow};
use tests::{kube::Cluster, parts::say};
use tokio::{
    runtime::Runtime,
    sync::{OnceCell, Semaphore},
};

use crate::{objects, scenario::Scenario, site::Site, topology::Topology};

type Started<T> = Arc<OnceCell<Result<T, String>>>;

/// The one runtime that owns every process, the cluster, and the sites.
#[derive(Debug)]
pub(crate) struct World {
    runtime: Runtime,
    places: Semaphore,
    cluster: Started<Cluster>,
    sites: Mutex<HashMap<&'static str, Started<Site>>>,
}

impl World {
    /// A world in which so many scenarios run at once, and those that only wait.
    pub(crate) fn new(at_once: usize) -> Self {
        let runtime = Runtime::new().expect("a runtime needs only threads");
        Self {
            runtime,
            places: Semaphore::new(at_once),
            cluster: Started::default(),
            sites: Mutex::default(),
        }
    }

    /// Runs one scenario in one topology; the error has the last lines of the processes' logs.
    pub(crate) fn run(&self, topology: Topology, scenario: Scenario) -> Result<()> {
        self.runtime.block_on(async {
            let place = async || self.places.acquire().await.context("places for tests");
            let _place = match scenario.waits {
                true => None,
                false => Some(place().await?),
            };
            let cell = self.site(topology.name);
            let site = cell
                .get_or_init(async || self.start(topology).await.map_err(text))
                .await;
            let site = site
                .as_ref()
                .map_err(|error| anyhow!("topology does not start: {error}"))?;
            (scenario.run)(site).await.with_context(|| site.tails())
        })
    }

    /// Ends all that was started.
    pub(crate) fn end(&self) {
        self.runtime.block_on(async {
            self.sites
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clear();
            if let Some(Ok(cluster)) = self.cluster.get()
                && let Err(error) = cluster.down().await
            {
                say(&format!("the cluster does not go down: {error:?}"));
            }
        });
    }

    fn site(&self, name: &'static str) -> Started<Site> {
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        sites.entry(name).or_default().clone()
    }

    async fn start(&self, topology: Topology) -> Result<Site> {
        let cluster = self
            .cluster
            .get_or_init(async || start_cluster().await.map_err(text))
            .await;
        let cluster = cluster
            .as_ref()
            .map_err(|error| anyhow!("no cluster: {error}"))?;
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join("kubectl_suite")
            .join(topology.name);
        Site::start(topology, cluster, &folder).await
    }
}

async fn start_cluster() -> Result<Cluster> {
    let cluster = Cluster::up().await?;
    let prepared = objects::create_a_thousand(&cluster.admin()).await;
    if prepared.is_err() {
        cluster.down().await.ok();
    }
    prepared.map(|()| cluster)
}

fn text(error: anyhow::Error) -> String {
    format!("{error:?}")
}
