//! The fields of a span as JSON, for the lines below it. Each request has a span and few have a line: tracing's own
//! formatter sorts them in a map first, which costs as much as the rest of a span does several times over.

use std::fmt;

use tracing::{
    field::{Field, Visit},
    span::Record,
};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FormatFields, FormattedFields, format::Writer},
};

/// Writes an object with a member for each field. What is recorded twice is there twice; the last one counts.
#[derive(Debug)]
pub(super) struct SpanFields;

impl<'w> FormatFields<'w> for SpanFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut object = Object {
            out: writer,
            open: "{",
            result: Ok(()),
        };
        fields.record(&mut object);
        object.end()
    }

    fn add_fields(
        &self,
        current: &'w mut FormattedFields<Self>,
        fields: &Record<'_>,
    ) -> fmt::Result {
        let open = match current.fields.pop() {
            Some(_) if current.fields.len() > 1 => ",",
            Some(_) => "",
            None => "{",
        };
        let mut object = Object {
            out: current.as_writer(),
            open,
            result: Ok(()),
        };
        fields.record(&mut object);
        object.end()
    }
}

struct Object<'w> {
    out: Writer<'w>,
    /// What comes before the next member.
    open: &'static str,
    result: fmt::Result,
}

impl Object<'_> {
    fn end(mut self) -> fmt::Result {
        self.result?;
        if self.open == "{" {
            self.out.write_str("{")?;
        }
        self.out.write_str("}")
    }

    fn member(&mut self, field: &Field, write: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        if self.result.is_err() {
            return;
        }
        let name = field.name();
        let name = name.strip_prefix("r#").unwrap_or(name);
        let open = std::mem::replace(&mut self.open, ",");
        self.result = self
            .out
            .write_str(open)
            .and_then(|()| text(&mut self.out, name))
            .and_then(|()| self.out.write_str(":"))
            .and_then(|()| write(&mut self.out));
    }
}

fn text(out: &mut Writer<'_>, text: &str) -> fmt::Result {
    let plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    if !text.bytes().all(plain) {
        let escaped = serde_json::to_string(text).map_err(|_| fmt::Error)?;
        return out.write_str(&escaped);
    }
    out.write_str("\"")?;
    out.write_str(text)?;
    out.write_str("\"")
}

impl Visit for Object<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        // Those that JSON has no number for are null.
        self.member(field, |out| write!(out, "{}", serde_json::json!(value)));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field, |out| write!(out, "{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.member(field, |out| write!(out, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field, |out| write!(out, "{value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.member(field, |out| text(out, value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.member(field, |out| text(out, &format!("{value:?}")));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};
    use tracing::{Subscriber, field::Empty, span};
    use tracing_subscriber::{
        Layer,
        layer::{Context, SubscriberExt},
        registry::LookupSpan,
    };

    use super::*;

    /// Notes the fields of each span that ends.
    #[derive(Clone, Default)]
    struct Notes(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Notes {
        fn on_close(&self, id: span::Id, context: Context<'_, S>) {
            let span = context.span(&id).unwrap();
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<SpanFields>>().unwrap();
            self.0.lock().unwrap().push(fields.fields.clone());
        }
    }

    fn written(act: impl FnOnce()) -> Value {
        let notes = Notes::default();
        let layer = tracing_subscriber::fmt::layer().fmt_fields(SpanFields);
        let subscriber = tracing_subscriber::registry()
            .with(layer)
            .with(notes.clone());
        tracing::subscriber::with_default(subscriber, act);
        let written = notes.0.lock().unwrap().remove(0);
        serde_json::from_str(&written).unwrap_or_else(|_| panic!("no JSON: {written}"))
    }

    #[test]
    fn fields_of_all_kinds_are_json() {
        let fields = written(|| {
            let text = "a \"b\"\\\n";
            tracing::info_span!(
                "s", text, shown = %text, debug = ?Some(1), agent.id = -5, r#type = true,
                ratio = 0.5, none = f64::NAN, big = u64::MAX
            );
        });

        let expected = json!({
            "text": "a \"b\"\\\n", "shown": "a \"b\"\\\n", "debug": "Some(1)", "agent.id": -5, "type": true,
            "ratio": 0.5, "none": null, "big": u64::MAX
        });
        assert_eq!(fields, expected);
    }

    #[test]
    fn fields_that_come_later_are_added() {
        let fields = written(|| {
            let span = tracing::info_span!("s", a = Empty, b = Empty);
            span.record("a", 1);
            span.record("b", "two");
            span.record("a", 3);
        });
        assert_eq!(fields, json!({"a": 3, "b": "two"}));

        let fields = written(|| {
            let span = tracing::info_span!("s", a = 1, b = Empty);
            span.record("b", 2);
        });
        assert_eq!(fields, json!({"a": 1, "b": 2}));
        assert_eq!(written(|| drop(tracing::info_span!("s"))), json!({}));
    }
}
