//! One who watches: keeps what it was told, and checks each word.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, Result, ensure};
use proto::graph::rpc::{Known, Resource, Update, WatchRequest, graph_client::GraphClient};
use runtime::jwt;
use tests::gitlab_double::Rails;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status, Streaming};

/// Resource versions by uid.
pub(crate) type Objects = HashMap<String, String>;

/// Config maps of the namespace `default`.
pub(crate) fn config_maps(whole: bool) -> Resource {
    Resource {
        version: "v1".into(),
        resource: "configmaps".into(),
        namespace: "default".into(),
        whole,
        ..Resource::default()
    }
}

/// Begins to watch, as GitLab's token allows, with a user's credentials.
pub(crate) async fn begin(
    port: u16,
    credentials: &str,
    resource: Resource,
    known: Known,
) -> Result<(Rails, Result<Streaming<Update>, Status>)> {
    let secret = jwt::Secret::new(vec![7; 32]);
    let token = jwt::sign(&secret, "gitlab.example.com", "gitlab-kas")?;
    let rails = Rails::connect(port, Some(&token)).await?;
    let mut client = GraphClient::new(rails.caller());
    let request = WatchRequest {
        credentials: credentials.to_owned(),
        resource: Some(resource),
        known: Some(known),
    };
    let told = client.watch(request).await;
    Ok((rails, told.map(tonic::Response::into_inner)))
}

/// What a watcher knows; after an end, why it came.
#[derive(Debug, Default, Clone)]
pub(crate) struct State {
    pub(crate) objects: Objects,
    pub(crate) version: String,
    pub(crate) synced: bool,
    pub(crate) wrong: Option<String>,
    pub(crate) ended: Option<Code>,
    pub(crate) longest: usize,
}

impl State {
    /// Nothing is told twice, nothing goes back, nothing unknown goes away.
    fn take(&mut self, update: Update) -> Result<()> {
        for object in update.changed {
            let version = object.resource_version;
            self.longest = self.longest.max(object.json.len());
            ensure!(
                !object.kind.is_empty() && !object.name.is_empty(),
                "no kind or name"
            );
            let old = self.objects.insert(object.uid, version.clone());
            let (new, old): (u64, u64) = (version.parse()?, old.map_or(Ok(0), |it| it.parse())?);
            ensure!(new > old, "{} told {new} after {old}", object.name);
        }
        for uid in update.removed {
            self.objects
                .remove(&uid)
                .context("an unknown one removed")?;
        }
        if update.synced {
            self.version = update.version;
            self.synced = true;
        }
        Ok(())
    }
}

/// Watches; after an end that says so it goes on from what it knows.
pub(crate) struct Watcher {
    pub(crate) state: watch::Receiver<State>,
    _reading: AbortOnDropHandle<()>,
}

impl Watcher {
    pub(crate) fn start(
        port: u16,
        credentials: &str,
        resource: Resource,
        every: Option<Duration>,
    ) -> Self {
        let (told, state) = watch::channel(State::default());
        let credentials = credentials.to_owned();
        let reading = tokio::spawn(async move {
            loop {
                let known = told.borrow().clone();
                let known = Known {
                    version: known.version,
                    objects: known.objects,
                };
                let reading = read(port, &credentials, resource.clone(), known, &told);
                let end = match every {
                    Some(every) => tokio::time::timeout(every, reading).await.ok(),
                    None => Some(reading.await),
                };
                match end {
                    None => {}
                    Some(Ok(code)) if code == Code::Aborted || code == Code::Unavailable => {}
                    Some(Ok(code)) => return told.send_modify(|it| it.ended = Some(code)),
                    Some(Err(error)) => {
                        return told.send_modify(|it| it.wrong = Some(format!("{error:#}")));
                    }
                }
            }
        });
        Self {
            state,
            _reading: AbortOnDropHandle::new(reading),
        }
    }
}

async fn read(
    port: u16,
    credentials: &str,
    resource: Resource,
    known: Known,
    told: &watch::Sender<State>,
) -> Result<Code> {
    let (_open, updates) = begin(port, credentials, resource, known).await?;
    let mut updates = match updates {
        Ok(updates) => updates,
        Err(status) => return Ok(status.code()),
    };
    loop {
        match updates.message().await {
            Ok(Some(update)) => {
                let mut taken = Ok(());
                told.send_modify(|state| taken = state.take(update));
                taken?;
            }
            Ok(None) => return Ok(Code::Unavailable),
            Err(status) => return Ok(status.code()),
        }
    }
}
