//! What a client of the graph was told so far, and whether that makes sense.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::websocket::WebSocket;

/// A client.
pub(crate) struct Known {
    socket: WebSocket,
    /// What was set, by `group/resource/namespace/name`.
    pub(crate) objects: BTreeMap<String, Value>,
    /// Attributes, by source, kind and destination.
    arcs: BTreeMap<(String, String, String), Value>,
    pub(crate) warnings: Vec<Value>,
}

impl Known {
    /// One that has asked its question.
    pub(crate) fn of(socket: WebSocket) -> Self {
        Self {
            socket,
            objects: BTreeMap::new(),
            arcs: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }

    /// Reads until it is so.
    pub(crate) async fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) -> Result<()> {
        while !is_so(self) {
            let said = self.socket.next().await;
            let said = said.with_context(|| {
                let (objects, warnings) = (self.objects.keys(), &self.warnings);
                format!("no {what}: {objects:#?}\n{:#?}\n{warnings:?}", self.arcs)
            })?;
            self.take(&said)?;
        }
        Ok(())
    }

    fn take(&mut self, said: &Value) -> Result<()> {
        ensure!(said["error"].is_null(), "{said}");
        self.warnings
            .extend(said["warnings"].as_array().into_iter().flatten().cloned());
        for action in said["actions"].as_array().into_iter().flatten() {
            let (kind, what) = action
                .as_object()
                .and_then(|it| it.iter().next())
                .context("no action")?;
            match kind.as_str() {
                "svx" => {
                    let name = name(&what["vx"]);
                    ensure!(what["o"]["metadata"]["name"] == what["vx"]["n"], "{action}");
                    self.objects.insert(name, what.clone());
                }
                "dvx" => {
                    let known = self.objects.remove(&name(&what["vx"]));
                    ensure!(known.is_some(), "what is not known is gone: {action}");
                }
                "sarc" => {
                    let arc = arc(what);
                    ensure!(
                        self.objects.contains_key(&arc.0),
                        "an arc from nowhere: {action}"
                    );
                    let missing = what["a"]["e"] == true;
                    let known = self.objects.contains_key(&arc.2);
                    ensure!(known != missing, "an arc to nowhere: {action}");
                    self.arcs.insert(arc, what["a"].clone());
                }
                "darc" => {
                    let known = self.arcs.remove(&arc(what));
                    ensure!(
                        known.is_some(),
                        "an arc that is not known is gone: {action}"
                    );
                }
                _ => anyhow::bail!("{action}"),
            }
        }
        Ok(())
    }

    /// Whether a part of this name is known.
    pub(crate) fn has(&self, part: &str) -> bool {
        self.objects.keys().any(|it| it.contains(part))
    }

    /// The attributes of an arc.
    pub(crate) fn arc(&self, from: &str, kind: &str, to: &str) -> Option<&Value> {
        self.arcs
            .get(&(from.to_owned(), kind.to_owned(), to.to_owned()))
    }

    /// Where arcs of a kind that lead to an object begin.
    pub(crate) fn sources(&self, kind: &str, to: &str) -> Vec<&str> {
        let all = self.arcs.keys();
        let those = all.filter(|it| it.1 == kind && it.2 == to);
        those.map(|it| it.0.as_str()).collect()
    }
}

fn name(vertex: &Value) -> String {
    ["g", "r", "ns", "n"]
        .map(|it| vertex[it].as_str().unwrap_or_default())
        .join("/")
}

fn arc(what: &Value) -> (String, String, String) {
    let kind = what["t"].as_str().unwrap_or_default();
    (name(&what["s"]), kind.to_owned(), name(&what["d"]))
}
