//! gRPC messages as bytes: framing on the way out, deframing on the way in.
//!
//! A [`Frame`] is what goes to HTTP/2: one or more length-prefixed messages, of
//! which the last may keep a long payload apart so that it is never copied. A
//! [`Deframer`] cuts received DATA back into messages, by slicing where a
//! message lies within one chunk.
//!
//! Format: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

mod deframe;
mod gzip;

use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

pub use deframe::{Deframer, Encoding, FrameError};

/// Longest message that is accepted, in bytes: grpc-go's default, which
/// agentk and GitLab's kas use.
pub const MAX_MESSAGE: usize = 4 << 20;

const PREFIX: usize = 5;

/// A protobuf message of which the last field is a long byte string.
///
/// `head` holds all that is encoded before those bytes.
#[derive(Debug, Clone, Default)]
pub struct Payload {
    /// Encoded fields, and the key and length of the byte string.
    pub head: Bytes,
    /// The byte string itself.
    pub body: Bytes,
}

impl Payload {
    /// Encodes a whole message.
    pub fn message(message: &impl Message) -> Self {
        Self {
            head: message.encode_to_vec().into(),
            body: Bytes::new(),
        }
    }

    /// A message that consists of `body` under nested length-delimited fields,
    /// outermost first.
    #[must_use]
    pub fn nested(fields: &[u32], body: Bytes) -> Self {
        let mut head = BytesMut::with_capacity(fields.len() * 6);
        put_nested(&mut head, fields, body.len());
        Self {
            head: head.freeze(),
            body,
        }
    }

    /// Length of the encoded message.
    #[must_use]
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Whether the encoded message has no bytes (as an empty message has).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Bytes for HTTP/2 that are sent as they are: a head and a body behind it.
#[derive(Debug, Clone, Default)]
pub struct Frame {
    head: Bytes,
    body: Bytes,
}

impl Frame {
    /// Bytes that are framed already, or need no framing.
    #[must_use]
    pub fn raw(bytes: Bytes) -> Self {
        Self {
            head: bytes,
            body: Bytes::new(),
        }
    }

    /// Frames one message.
    pub fn message(message: &impl Message) -> Self {
        FrameBuilder::default().message(message).build()
    }

    /// Frames an encoded message under nested length-delimited fields.
    #[must_use]
    pub fn nested(fields: &[u32], payload: Payload) -> Self {
        FrameBuilder::default().nested(fields, payload).build()
    }
}

impl Buf for Frame {
    fn remaining(&self) -> usize {
        self.head.len() + self.body.len()
    }

    fn chunk(&self) -> &[u8] {
        if self.head.is_empty() {
            &self.body
        } else {
            &self.head
        }
    }

    fn advance(&mut self, count: usize) {
        let of_head = count.min(self.head.len());
        self.head.advance(of_head);
        self.body.advance(count - of_head);
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for part in [&self.head, &self.body] {
            if !part.is_empty() && filled < slices.len() {
                slices[filled] = IoSlice::new(part);
                filled += 1;
            }
        }
        filled
    }
}

/// Puts several messages into one [`Frame`], so that they leave in one write.
#[derive(Debug, Default)]
pub struct FrameBuilder {
    head: BytesMut,
    body: Bytes,
}

impl FrameBuilder {
    /// Adds a message.
    #[must_use]
    pub fn message(mut self, message: &impl Message) -> Self {
        self.flatten();
        let length = message.encoded_len();
        self.put_prefix(length);
        message
            .encode(&mut self.head)
            .expect("BytesMut grows as needed");
        self
    }

    /// Adds an encoded message under nested length-delimited fields, outermost
    /// first. Only the last payload of a frame stays uncopied.
    #[must_use]
    pub fn nested(mut self, fields: &[u32], payload: Payload) -> Self {
        self.flatten();
        self.put_prefix(nested_len(fields, payload.len()));
        put_nested(&mut self.head, fields, payload.len());
        self.head.put(payload.head);
        self.body = payload.body;
        self
    }

    /// The finished frame.
    #[must_use]
    pub fn build(self) -> Frame {
        Frame {
            head: self.head.freeze(),
            body: self.body,
        }
    }

    fn put_prefix(&mut self, length: usize) {
        self.head.reserve(PREFIX + length.min(256));
        self.head.put_u8(0);
        self.head
            .put_u32(u32::try_from(length).expect("messages are far below 4 GiB"));
    }

    fn flatten(&mut self) {
        let body = std::mem::take(&mut self.body);
        self.head.put(body);
    }
}

fn put_nested(out: &mut BytesMut, fields: &[u32], length: usize) {
    for (level, field) in fields.iter().enumerate() {
        prost::encoding::encode_key(*field, prost::encoding::WireType::LengthDelimited, out);
        prost::encoding::encode_varint(nested_len(&fields[level + 1..], length) as u64, out);
    }
}

fn nested_len(fields: &[u32], length: usize) -> usize {
    fields.iter().rev().fold(length, |inner, field| {
        prost::encoding::key_len(*field) + prost::encoding::encoded_len_varint(inner as u64) + inner
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::reverse_tunnel::rpc::{self, connect_response::Msg};

    fn bytes_of(mut frame: Frame) -> Bytes {
        frame.copy_to_bytes(frame.remaining())
    }

    #[test]
    fn a_nested_payload_is_what_prost_would_encode() {
        let data = Bytes::from(vec![7; 300]);
        let typed = rpc::ConnectResponse {
            msg: Some(Msg::Message(rpc::Message { data: data.clone() })),
        };

        let by_hand = Frame::nested(
            &[2, 1],
            Payload {
                head: Bytes::new(),
                body: data,
            },
        );

        assert_eq!(bytes_of(by_hand), bytes_of(Frame::message(&typed)));
    }

    #[test]
    fn several_messages_in_one_frame_come_out_one_by_one() {
        let info = rpc::RequestInfo {
            method_name: "/a/b".into(),
            ..Default::default()
        };
        let frame = FrameBuilder::default()
            .message(&info)
            .nested(
                &[2, 1],
                Payload {
                    head: Bytes::from_static(b"ab"),
                    body: Bytes::from_static(b"cd"),
                },
            )
            .message(&rpc::CloseSend {})
            .build();
        let mut deframer = Deframer::new(Encoding::Identity);

        deframer.push(bytes_of(frame));

        let first = deframer.next_message().unwrap().unwrap();
        assert_eq!(rpc::RequestInfo::decode(first).unwrap(), info);
        let second =
            rpc::ConnectResponse::decode(deframer.next_message().unwrap().unwrap()).unwrap();
        assert_eq!(
            second.msg,
            Some(Msg::Message(rpc::Message {
                data: Bytes::from_static(b"abcd")
            }))
        );
        assert_eq!(deframer.next_message().unwrap(), Some(Bytes::new()));
        assert_eq!(deframer.next_message().unwrap(), None);
    }
}
