//! gRPC messages as bytes: framing on the way out, deframing on the way in.
//!
//! A [`Frame`] is what goes to HTTP/2: one or more length-prefixed messages, of
//! which one may keep a long payload apart so that it is never copied. A
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

/// Bytes of a payload that are copied rather than sent from where they are: a place of their own costs as much.
const COPIED_BYTES: usize = 512;

/// Bytes for HTTP/2 that are sent as they are: a head, a body behind it, and what comes after that.
#[derive(Debug, Clone, Default)]
pub struct Frame {
    head: Bytes,
    body: Bytes,
    tail: Bytes,
}

impl Frame {
    /// Bytes that are framed already, or need no framing.
    #[must_use]
    pub fn raw(bytes: Bytes) -> Self {
        Self {
            head: bytes,
            ..Self::default()
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
        self.head.len() + self.body.len() + self.tail.len()
    }

    fn chunk(&self) -> &[u8] {
        let parts = [&self.head, &self.body];
        parts
            .into_iter()
            .find(|it| !it.is_empty())
            .unwrap_or(&self.tail)
    }

    fn advance(&mut self, count: usize) {
        let of_head = count.min(self.head.len());
        self.head.advance(of_head);
        let of_body = (count - of_head).min(self.body.len());
        self.body.advance(of_body);
        self.tail.advance(count - of_head - of_body);
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for part in [&self.head, &self.body, &self.tail] {
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
    tail: BytesMut,
}

impl FrameBuilder {
    /// Adds a message.
    #[must_use]
    pub fn message(mut self, message: &impl Message) -> Self {
        let length = message.encoded_len();
        let out = self.out();
        put_prefix(out, length, length);
        message.encode(out).expect("BytesMut grows as needed");
        self
    }

    /// Adds an encoded message under nested length-delimited fields, outermost
    /// first. Only the last long payload of a frame stays uncopied.
    #[must_use]
    pub fn nested(mut self, fields: &[u32], payload: Payload) -> Self {
        let Payload { head, body } = payload;
        let is_long = body.len() > COPIED_BYTES;
        if is_long {
            self.flatten();
        }
        let copied = if is_long { 0 } else { body.len() };
        let length = head.len() + body.len();
        let out = self.out();
        // Each field has a key and a length, of 6 bytes in all.
        put_prefix(
            out,
            nested_len(fields, length),
            fields.len() * 6 + head.len() + copied,
        );
        put_nested(out, fields, length);
        out.put(head);
        if is_long {
            self.body = body;
        } else {
            out.put(body);
        }
        self
    }

    /// The finished frame.
    #[must_use]
    pub fn build(self) -> Frame {
        Frame {
            head: self.head.freeze(),
            body: self.body,
            tail: self.tail.freeze(),
        }
    }

    /// Where what comes next is written.
    fn out(&mut self) -> &mut BytesMut {
        if self.body.is_empty() {
            &mut self.head
        } else {
            &mut self.tail
        }
    }

    /// Has no payload apart any more.
    fn flatten(&mut self) {
        let (body, tail) = (
            std::mem::take(&mut self.body),
            std::mem::take(&mut self.tail),
        );
        self.head.reserve(body.len() + tail.len());
        self.head.put(body);
        self.head.put(tail);
    }
}

/// Begins a message of so many bytes, with room for those that are `written` there, and for a short message behind it.
fn put_prefix(out: &mut BytesMut, length: usize, written: usize) {
    const SHORT: usize = 64;
    out.reserve(PREFIX + written + SHORT);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).expect("messages are far below 4 GiB"));
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
    fn long_payloads_come_out_in_their_order() {
        let payload = |byte, length| Payload {
            head: Bytes::from_static(b"ab"),
            body: Bytes::from(vec![byte; length]),
        };
        let lengths = [3, 3000, 5, 6000, 7];
        let builder = lengths.iter().fold(FrameBuilder::default(), |all, length| {
            all.nested(&[2, 1], payload(7, *length))
        });
        let mut frame = builder.message(&rpc::CloseSend {}).build();
        let whole = bytes_of(frame.clone());
        let mut slices = [IoSlice::new(&[]); 4];

        let filled = frame.chunks_vectored(&mut slices);
        assert_eq!(filled, 3);
        assert_eq!(slices[1].len(), 6000, "the last long one is not copied");
        let sent: Vec<u8> = slices[..filled].iter().flat_map(|it| it.to_vec()).collect();
        assert_eq!(sent, whole);
        let mut by_pieces = Vec::new();
        while frame.has_remaining() {
            let count = frame.chunk().len().min(1000);
            by_pieces.extend_from_slice(&frame.chunk()[..count]);
            frame.advance(count);
        }
        assert_eq!(by_pieces, whole);

        let mut deframer = Deframer::new(Encoding::Identity);
        deframer.push(whole);
        for length in lengths {
            let message = deframer.next_message().unwrap().unwrap();
            let Some(Msg::Message(message)) = rpc::ConnectResponse::decode(message).unwrap().msg
            else {
                panic!("another message");
            };
            assert_eq!(message.data.len(), 2 + length);
        }
        assert_eq!(deframer.next_message().unwrap(), Some(Bytes::new()));
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
