//! Segments of resumable connections, encoded without a copy of their bytes.

use bytes::{Bytes, BytesMut};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};

use crate::{agent::grpctool::Segment, frame::Payload, sequence::SEGMENT};

/// The field of a segment's bytes.
const DATA: u32 = 5;

/// The message of an HTTP request or response, which are the same here, that consists of the segment.
#[must_use]
pub fn payload(mut segment: Segment) -> Payload {
    let data = std::mem::replace(&mut segment.data, Bytes::new());
    let mut own = BytesMut::with_capacity(32);
    segment.encode(&mut own).expect("BytesMut grows as needed");
    if !data.is_empty() {
        encode_key(DATA, WireType::LengthDelimited, &mut own);
        encode_varint(data.len() as u64, &mut own);
    }
    let (field, length) = (SEGMENT.unsigned_abs(), (own.len() + data.len()) as u64);
    let room = key_len(field) + encoded_len_varint(length) + own.len();
    let mut head = BytesMut::with_capacity(room);
    encode_key(field, WireType::LengthDelimited, &mut head);
    encode_varint(length, &mut head);
    head.extend_from_slice(&own);
    Payload {
        head: head.freeze(),
        body: data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::grpctool::{HttpRequest, HttpResponse, http_request, http_response};

    #[test]
    fn a_segment_is_what_prost_would_encode() {
        for data in [&b""[..], b"some bytes"] {
            let segment = Segment {
                offset: 300,
                acknowledged: 1 << 40,
                end: true,
                over: false,
                data: Bytes::from_static(data),
            };

            let Payload { head, body } = payload(segment.clone());

            let bytes = Bytes::from([head, body].concat());
            let request = HttpRequest::decode(bytes.clone()).unwrap().message;
            assert_eq!(
                request,
                Some(http_request::Message::Segment(segment.clone()))
            );
            let response = HttpResponse::decode(bytes.clone()).unwrap();
            let message = Some(http_response::Message::Segment(segment.clone()));
            assert_eq!(response.message, message);
            assert_eq!(HttpResponse { message }.encode_to_vec(), bytes);
        }
    }
}
