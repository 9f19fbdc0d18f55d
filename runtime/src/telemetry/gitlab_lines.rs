//! Log lines with the keys of GitLab's kas, so that what collects and shows its logs goes on doing so.

use std::{
    fmt,
    io::{self, Write as _},
};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, format::Writer},
    registry::LookupSpan,
};

/// Which module of GitLab's kas does what a part of this one does. The first prefix that fits counts.
const MODULES: [(&str, &str); 19] = [
    ("audit", "kubernetes_api"),
    ("user_gateway", "kubernetes_api"),
    (
        "agent_gateway::gateway::services::configuration",
        "agent_configuration",
    ),
    (
        "agent_gateway::gateway::services::registrar",
        "agent_registrar",
    ),
    (
        "agent_gateway::gateway::services::gitlab_access",
        "gitlab_access",
    ),
    ("agent_gateway::gateway::services::flux", "flux"),
    ("agent_gateway::flux", "flux"),
    ("agent_gateway::tracker", "agent_tracker"),
    ("agent_gateway", "reverse_tunnel"),
    ("router", "reverse_tunnel"),
    ("control_plane::gitlab::repositories", "agent_configuration"),
    ("control_plane::gitlab::modules", "gitlab_access"),
    ("control_plane::gitlab::client::module", "gitlab_access"),
    ("control_plane::gitlab::usage_metrics", "usage_metrics"),
    ("control_plane::notifications", "notifications"),
    ("kas::gitlab_api::agent_tracker", "agent_tracker"),
    (
        "kas::gitlab_api::configuration_project",
        "configuration_project",
    ),
    ("kas::gitlab_api::notifications", "notifications"),
    ("runtime::metrics", "observability"),
];

/// What is told apart from other lines by its target in this format too.
const AUDIT: &str = "audit";

/// Writes such lines.
#[derive(Debug)]
pub(super) struct GitLabLines;

impl<S, N> FormatEvent<S, N> for GitLabLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let meta = event.metadata();
        let mut line = Line::begin(writer);
        line.text("level", level(*meta.level()));
        line.display("time", &Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ"));
        if let Some(module) = module(meta.target()) {
            line.text("mod_name", module);
        }
        if meta.target() == AUDIT {
            line.text("target", AUDIT);
        }
        event.record(&mut line);
        for span in context.event_scope().into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>() {
                line.inherit(&fields.fields);
            }
        }
        line.end()
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

fn module(target: &str) -> Option<&'static str> {
    let known = MODULES.iter().find(|(prefix, _)| {
        let rest = target.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    });
    known.map(|(_, module)| *module)
}

/// A line that is being written.
struct Line<'w> {
    out: Output<'w>,
    keys: Vec<&'static str>,
    result: io::Result<()>,
}

/// What tracing gives to write to, for `serde_json`.
struct Output<'w>(Writer<'w>);

impl io::Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = std::str::from_utf8(bytes).map_err(io::Error::other)?;
        fmt::Write::write_str(&mut self.0, text).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> Line<'w> {
    fn begin(writer: Writer<'w>) -> Self {
        let mut out = Output(writer);
        let result = out.write_all(b"{");
        Self {
            out,
            keys: Vec::new(),
            result,
        }
    }

    fn end(mut self) -> fmt::Result {
        let ended = self.result.and_then(|()| self.out.write_all(b"}\n"));
        ended.map_err(|_| fmt::Error)
    }

    fn text(&mut self, key: &'static str, text: &str) {
        self.field(key, text);
    }

    fn display(&mut self, key: &'static str, value: &dyn fmt::Display) {
        self.field(key, &value.to_string());
    }

    fn field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) {
        if self.keys.contains(&key) || self.result.is_err() {
            return;
        }
        self.keys.push(key);
        self.result = self.write(key, value);
    }

    fn write<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) -> io::Result<()> {
        if self.keys.len() > 1 {
            self.out.write_all(b",")?;
        }
        let key = match key {
            "message" => "msg",
            key => key,
        };
        self.out.write_all(b"\"")?;
        for (number, part) in key.split('.').enumerate() {
            if number > 0 {
                self.out.write_all(b"_")?;
            }
            self.out.write_all(part.as_bytes())?;
        }
        self.out.write_all(b"\":")?;
        serde_json::to_writer(&mut self.out, value).map_err(io::Error::other)
    }

    /// The fields of a span, as JSON, that the event does not have itself.
    fn inherit(&mut self, fields: &str) {
        let fields: Map<String, Value> = serde_json::from_str(fields).unwrap_or_default();
        for (key, value) in &fields {
            let known = INHERITED.iter().find(|it| *it == key);
            if let Some(known) = known {
                self.field(known, value);
            }
        }
    }
}

/// Fields of spans.
const INHERITED: [&str; 5] = ["agent.id", "request_id", "remote_addr", "method", "peer"];

impl Visit for Line<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.field(field.name(), &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field.name(), &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field.name(), &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field.name(), &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.field(field.name(), &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::{fmt::MakeWriter, layer::SubscriberExt};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Written {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    fn lines(act: impl FnOnce()) -> Vec<Value> {
        let written = Written::default();
        let layer = super::super::gitlab_layer().with_writer(written.clone());
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, act);
        let bytes = written.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn a_line_has_the_keys_of_gitlabs_kas() {
        let lines = lines(|| {
            tracing::warn!(
                target: "control_plane::gitlab::repositories::poller",
                error = %"a \"b\"\n", agent.id = 5, ok = true, ratio = 0.5,
                "could not read"
            );
        });

        let line = &lines[0];
        let keys: Vec<_> = line
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(
            keys,
            [
                "level", "time", "mod_name", "msg", "error", "agent_id", "ok", "ratio"
            ]
        );
        assert_eq!(line["level"], "warn");
        assert_eq!(line["msg"], "could not read");
        assert_eq!(line["mod_name"], "agent_configuration");
        assert_eq!(
            (&line["agent_id"], &line["ratio"]),
            (&5.into(), &0.5.into())
        );
        assert_eq!(line["error"], "a \"b\"\n");
        let time = line["time"].as_str().unwrap();
        assert!(
            time.parse::<Timestamp>().is_ok() && time.len() == 24,
            "{time}"
        );
    }

    #[test]
    fn what_a_span_says_is_in_the_line_once() {
        let lines = lines(|| {
            let span = tracing::info_span!("request", request_id = "r", agent.id = 5, secret = "s");
            span.in_scope(|| tracing::info!(agent.id = 6, "x"));
        });

        assert_eq!(lines[0]["agent_id"], 6);
        assert_eq!(lines[0]["request_id"], "r");
        assert_eq!(lines[0].as_object().unwrap().get("secret"), None);
    }

    #[test]
    fn a_part_is_named_as_the_module_that_does_the_same() {
        assert_eq!(module("user_gateway::front"), Some("kubernetes_api"));
        assert_eq!(module("agent_gateway::flux::pending"), Some("flux"));
        assert_eq!(
            module("agent_gateway::gateway::connection"),
            Some("reverse_tunnel")
        );
        assert_eq!(module("routers"), None);
        assert_eq!(module("kas::app"), None);
    }
}
