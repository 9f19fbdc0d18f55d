//! A head that is no longer than clients take.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::add;

/// Lines of a head that reach the client, at most.
pub(super) const MAX_LINES: usize = 1000;
/// Bytes of a head that reach the client, at most.
const MAX_BYTES: usize = 256 << 10;
/// Colon, space and the end of a line.
const AROUND_BYTES: usize = 4;
/// As many lines as fit.
pub(super) fn fitting(mut lists: Vec<(HeaderName, Vec<Bytes>)>) -> HeaderMap {
    let lines = lists.iter().map(|(_, values)| values.len()).sum::<usize>();
    let bytes = lists.iter().map(bytes).sum::<usize>();
    let all_fit = lines <= MAX_LINES && bytes <= MAX_BYTES;
    if !all_fit {
        // What there is little of matters most, such as the type and the length.
        lists.sort_by_key(bytes_and_lines);
    }
    let mut headers = HeaderMap::new();
    let (mut lines_left, mut bytes_left, mut left_out) = (MAX_LINES, MAX_BYTES, 0);
    for (name, values) in lists {
        for value in values {
            let size = name.as_str().len() + value.len() + AROUND_BYTES;
            let value = HeaderValue::from_maybe_shared(value);
            if let Ok(value) = value
                && lines_left > 0
                && size <= bytes_left
                && add(&mut headers, &name, value)
            {
                (lines_left, bytes_left) = (lines_left - 1, bytes_left - size);
            } else {
                left_out += 1;
            }
        }
    }
    if left_out > 0 {
        let text =
            format!("299 kas \"{left_out} of {lines} header lines of this answer were left out\"");
        if let Ok(warning) = HeaderValue::from_str(&text) {
            add(&mut headers, &header::WARNING, warning);
        }
    }
    headers
}

fn bytes((name, values): &(HeaderName, Vec<Bytes>)) -> usize {
    let around = name.as_str().len() + AROUND_BYTES;
    values.iter().map(|value| value.len() + around).sum()
}

fn bytes_and_lines(list: &(HeaderName, Vec<Bytes>)) -> (usize, usize) {
    (bytes(list), list.1.len())
}
