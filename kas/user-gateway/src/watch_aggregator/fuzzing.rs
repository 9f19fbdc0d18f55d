//! Messages of the socket for many watches, for the fuzz targets (`tests/fuzz`).

use serde_json::json;

use super::message::{self, Asked};

pub(crate) fn read(text: &[u8]) -> usize {
    let (id, asked) = message::read(text);
    match asked {
        Ok(Asked::Watch(wanted)) => wanted.into_target().for_agent().2.len(),
        Ok(Asked::Unwatch) => message::event(&id, b"{}").len(),
        Err(error) => message::error(&id, &json!({"message": error.to_string()})).len(),
    }
}
