//! What other programs read: lines on stdout, flushed one by one.

use std::io::Write;

use serde::Serialize;

/// Writes a line. Whoever reads it may be gone, which stops nothing.
pub(crate) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Writes a result as JSON.
///
/// # Errors
/// When the value has no JSON form.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Tells the person at the terminal how it goes.
pub(crate) fn progress(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
