//! The objects of one resource: a list in pages, then a watch, and from the beginning again where the watch cannot go
//! on. Each request is one of the caller.

use std::{collections::HashSet, sync::Arc, time::Duration};

use control_plane::Identity;
use http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use runtime::{
    backoff::Backoff,
    shares::{Share, Shares},
    telemetry::Causes,
};
use serde_json::{Value, json};

use super::{
    discovery::Resource,
    message::{End, Vertex, Warning},
    selection::{Evaluator, Seen, Wanted},
};
use crate::{
    caller::Caller,
    events::{self, Events},
    target::Target,
};

/// Objects of a page; where a page is too long it is asked for with fewer.
const PAGE_OBJECTS: [&str; 3] = ["100", "10", "1"];
/// The longest page, in bytes.
const MAX_PAGE_BYTES: usize = 4 << 20;
/// How long a page may take.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a place for a page is tried to be taken.
const PAGE_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// What all feeds of a query share.
#[derive(Debug, Clone)]
pub(super) struct Common {
    /// Whose requests these are.
    pub(super) caller: Arc<Caller>,
    /// Who looks at the objects.
    pub(super) evaluator: Evaluator,
    /// Pages that are being read, by caller.
    pub(super) pages: Shares<Identity>,
    /// Bytes of events that are being read, by caller.
    pub(super) bytes: Shares<Identity>,
}

/// A feed.
#[derive(Debug)]
pub(super) struct Feed {
    common: Common,
    resource: Resource,
    namespace: String,
    wanted: Wanted,
    state: State,
    page: usize,
    backoff: Backoff,
    warned: bool,
    /// Whether it tells which namespaces are to be seen.
    tells_namespaces: bool,
}

#[derive(Debug)]
enum State {
    /// Behind this token, and what was listed.
    List(Option<String>, HashSet<Vertex>),
    Watch(Box<Events>),
    Over,
}

/// What a feed tells.
#[derive(Debug, Default)]
pub(super) struct Update {
    /// Objects.
    pub(super) seen: Vec<Seen>,
    /// All objects that there are, behind the end of a list.
    pub(super) all: Option<HashSet<Vertex>>,
    /// What is wrong.
    pub(super) warning: Option<Warning>,
    /// Whether there is no more.
    pub(super) over: bool,
}

/// Why a list or a watch does not go on.
enum Failed {
    /// The query ends.
    End(End),
    /// The cluster, or kas, says no.
    Status(Value),
    /// The page is too long.
    TooLong,
}

impl From<End> for Failed {
    fn from(end: End) -> Self {
        Self::End(end)
    }
}

impl Feed {
    /// A feed of a resource in a namespace, or in all.
    pub(super) fn new(
        common: Common,
        resource: Resource,
        namespace: String,
        wanted: Wanted,
    ) -> Self {
        Self {
            common,
            resource,
            namespace,
            wanted,
            state: State::List(None, HashSet::new()),
            page: 0,
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(30), 2.0),
            warned: false,
            tells_namespaces: false,
        }
    }

    /// The same, which only says of which namespaces objects are to be seen.
    pub(super) fn of_namespaces(self) -> Self {
        Self {
            tells_namespaces: true,
            ..self
        }
    }

    /// Whether it only says that.
    pub(super) fn tells_namespaces(&self) -> bool {
        self.tells_namespaces
    }

    /// What it is of.
    pub(super) fn resource(&self) -> &Resource {
        &self.resource
    }

    /// Whether an object is one of its.
    pub(super) fn is_of(&self, vertex: &Vertex) -> bool {
        vertex.group == self.resource.group
            && vertex.resource == self.resource.plural
            && (self.namespace.is_empty() || *vertex.namespace == *self.namespace)
    }

    /// Waits for what there is next to be told.
    pub(super) async fn next(mut self) -> (Self, Result<Update, End>) {
        let told = match self.step().await {
            Ok(update) => Ok(update),
            Err(Failed::End(end)) => Err(end),
            Err(Failed::TooLong) if self.page + 1 < PAGE_OBJECTS.len() => {
                self.page += 1;
                Ok(Update::default())
            }
            Err(Failed::TooLong) => {
                let limit = MAX_PAGE_BYTES;
                let status = events::message(format!("an object of more than {limit} bytes"));
                self.state = State::Over;
                Ok(self.warn(&status, true))
            }
            Err(Failed::Status(status)) => Ok(self.fail(&status).await),
        };
        (self, told)
    }

    async fn step(&mut self) -> Result<Update, Failed> {
        match &mut self.state {
            State::List(token, _) => {
                let token = token.clone();
                self.list(token).await
            }
            State::Watch(events) => {
                let event = events.next().await.map_err(Failed::Status)?;
                let mut event: Value = serde_json::from_slice(&event)
                    .map_err(|error| Failed::Status(events::message(error.to_string())))?;
                let there = event["type"] != "DELETED";
                let seen = self.look(vec![(event["object"].take(), there)]).await?;
                Ok(Update {
                    seen,
                    ..Update::default()
                })
            }
            State::Over => std::future::pending().await,
        }
    }

    async fn look(&mut self, objects: Vec<(Value, bool)>) -> Result<Vec<Seen>, End> {
        let (wanted, resource) = (self.wanted.clone(), self.resource.clone());
        self.common.evaluator.look(wanted, resource, objects).await
    }

    async fn list(&mut self, token: Option<String>) -> Result<Update, Failed> {
        let _place = self.place().await;
        let page = tokio::time::timeout(PAGE_TIMEOUT, self.page(token.as_deref())).await;
        let late = |_| Failed::Status(events::message("the cluster did not answer in time"));
        let mut page = page.map_err(late)??;
        let items = match page["items"].take() {
            Value::Array(items) => items,
            _ => Vec::new(),
        };
        let items = items.into_iter().map(|it| (it, true)).collect();
        let seen = self.look(items).await?;
        let State::List(token, all) = &mut self.state else {
            return Ok(Update::default());
        };
        all.extend(seen.iter().map(|it| match it {
            Seen::There(vertex, _) | Seen::Gone(vertex) => vertex.clone(),
        }));
        let metadata = &page["metadata"];
        *token = metadata["continue"]
            .as_str()
            .filter(|it| !it.is_empty())
            .map(str::to_owned);
        if token.is_some() {
            return Ok(Update {
                seen,
                ..Update::default()
            });
        }
        let all = std::mem::take(all);
        let version = metadata["resourceVersion"].as_str().map(str::to_owned);
        let caller = self.common.caller.clone();
        let bytes = self.common.bytes.take(caller.identity().clone(), 0);
        let full = |full| Failed::Status(events::message(format!("too much is read: {full}")));
        let events = Events::new(caller, self.target()?, version, bytes.map_err(full)?);
        self.state = State::Watch(Box::new(events));
        self.backoff.reset();
        self.warned = false;
        Ok(Update {
            seen,
            all: Some(all),
            ..Update::default()
        })
    }

    /// A place among the pages that are being read.
    async fn place(&mut self) -> Share<Identity> {
        loop {
            let who = self.common.caller.identity().clone();
            match self.common.pages.take(who, 1) {
                Ok(place) => return place,
                Err(_) => tokio::time::sleep(PAGE_RETRY_INTERVAL).await,
            }
        }
    }

    async fn page(&mut self, token: Option<&str>) -> Result<Value, Failed> {
        let mut target = self.target()?;
        target.set("limit", PAGE_OBJECTS[self.page]);
        if let Some(token) = token {
            target.set("continue", token);
        }
        let response = self.common.caller.get(target).await;
        let response = response.map_err(|failure| Failed::Status(events::status(&failure)))?;
        if response.status() != StatusCode::OK {
            return Err(Failed::Status(events::refusal(response).await));
        }
        let body = Limited::new(response.into_body(), MAX_PAGE_BYTES)
            .collect()
            .await;
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => Failed::TooLong,
            false => Failed::Status(events::message(Causes(&*error).to_string())),
        })?;
        serde_json::from_slice(&body.to_bytes())
            .map_err(|error| Failed::Status(events::message(error.to_string())))
    }

    fn target(&self) -> Result<Target, Failed> {
        let invalid = || Failed::Status(events::message("the resource has no valid name"));
        let collection = self
            .resource
            .collection(&self.namespace)
            .ok_or_else(invalid)?;
        let mut target = Target::at(&collection.path()).map_err(|_| invalid())?;
        let selector = &self.wanted.selector;
        for (name, value) in [
            ("labelSelector", &selector.labels),
            ("fieldSelector", &selector.fields),
        ] {
            if !value.is_empty() {
                target.set(name, value);
            }
        }
        Ok(target)
    }

    /// A status ends the feed, or makes it begin anew.
    async fn fail(&mut self, status: &Value) -> Update {
        let code = status["code"].as_u64().unwrap_or(0);
        let relisted = matches!(self.state, State::Watch(_)) || code == 410;
        self.state = State::List(None, HashSet::new());
        match code {
            400 | 401 | 403 | 404 | 405 => {
                self.state = State::Over;
                self.warn(status, true)
            }
            410 if relisted => {
                tokio::time::sleep(self.backoff.next(rand::random())).await;
                Update::default()
            }
            _ => {
                tokio::time::sleep(self.backoff.next(rand::random())).await;
                if std::mem::replace(&mut self.warned, true) {
                    return Update::default();
                }
                self.warn(status, false)
            }
        }
    }

    fn warn(&self, status: &Value, over: bool) -> Update {
        let kind = match status["code"].as_u64() {
            Some(401 | 403) => "FORBIDDEN",
            Some(404) => "NOT_FOUND",
            _ => "UNAVAILABLE",
        };
        let attributes = json!({
            "g": *self.resource.group, "v": *self.resource.version, "r": *self.resource.plural,
            "ns": self.namespace,
        });
        let warning = Warning {
            kind,
            message: status["message"].as_str().unwrap_or_default().to_owned(),
            attributes,
        };
        Update {
            warning: Some(warning),
            over,
            ..Update::default()
        }
    }
}
