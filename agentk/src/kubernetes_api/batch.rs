//! Gathers the messages of a response into few frames.

use bytes::Bytes;
use prost::Message as _;
use proto::{
    agent::{
        grpctool::{HttpResponse, ResumeAnswer, Segment, http_response, http_response::Message},
        prototool,
    },
    frame::{Frame, FrameBuilder, Payload},
};

use crate::call::{Outbound, TunnelError, add_trailer};

/// `ConnectRequest.message`, `Message.data`.
const MESSAGE: &[u32] = &[3, 1];
/// The same, `HttpResponse.data`, `Data.data`.
const DATA: &[u32] = &[3, 1, 2, 1];
/// The same, `HttpResponse.upgradeData`, `UpgradeData.data`.
const UPGRADE_DATA: &[u32] = &[3, 1, 4, 1];
/// Bytes that are not worth waiting for others. Only payloads of frames that
/// are sent before they have so many are ever copied.
const FLUSH_BYTES: usize = 16 << 10;

/// Messages for one frame.
#[derive(Debug)]
pub(super) struct Batch {
    builder: Option<FrameBuilder>,
    length: usize,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            builder: None,
            length: 0,
        }
    }

    /// Adds a response's head.
    pub(super) fn header(&mut self, outbound: &Outbound, response: prototool::HttpResponse) {
        self.resumable_header(outbound, response, None);
    }

    /// Adds a response's head, and what is said of an upgraded connection that can be resumed.
    pub(super) fn resumable_header(
        &mut self,
        outbound: &Outbound,
        response: prototool::HttpResponse,
        resume: Option<ResumeAnswer>,
    ) {
        let header = http_response::Header {
            response: Some(response),
            resume,
        };
        self.message(outbound, Message::Header(header));
    }

    /// Adds a response's head that is [encoded](Self::encoded) already.
    pub(super) fn encoded_header(&mut self, outbound: &Outbound, head: Bytes) {
        let payload = Payload {
            head,
            body: Bytes::new(),
        };
        self.add(outbound, MESSAGE, payload);
    }

    /// The message of a response's head.
    pub(super) fn encoded(response: prototool::HttpResponse) -> Bytes {
        let header = http_response::Header {
            response: Some(response),
            resume: None,
        };
        let message = Some(Message::Header(header));
        HttpResponse { message }.encode_to_vec().into()
    }

    /// Adds the end of a response's body.
    pub(super) fn trailer(&mut self, outbound: &Outbound) {
        self.message(outbound, Message::Trailer(http_response::Trailer {}));
    }

    /// Adds bytes of a response's body, at most [`CHUNK`](runtime::grpc::CHUNK_BYTES).
    pub(super) fn data(&mut self, outbound: &Outbound, bytes: Bytes) {
        self.add(
            outbound,
            DATA,
            Payload {
                head: Bytes::new(),
                body: bytes,
            },
        );
    }

    /// Adds bytes of an upgraded connection, at most [`CHUNK`](runtime::grpc::CHUNK_BYTES).
    pub(super) fn upgrade_data(&mut self, outbound: &Outbound, bytes: Bytes) {
        self.add(
            outbound,
            UPGRADE_DATA,
            Payload {
                head: Bytes::new(),
                body: bytes,
            },
        );
    }

    /// The frame of a segment.
    pub(super) fn segment(outbound: &Outbound, segment: Segment) -> Frame {
        let payload = proto::segment::payload(segment);
        outbound.builder().nested(MESSAGE, payload).build()
    }

    fn message(&mut self, outbound: &Outbound, message: Message) {
        let message = HttpResponse {
            message: Some(message),
        };
        self.add(outbound, MESSAGE, Payload::message(&message));
    }

    fn add(&mut self, outbound: &Outbound, fields: &[u32], payload: Payload) {
        self.length += payload.len();
        let builder = self.builder.take().unwrap_or_else(|| outbound.builder());
        self.builder = Some(builder.nested(fields, payload));
    }

    /// Whether the frame should leave before more is added.
    pub(super) fn is_full(&self) -> bool {
        self.length >= FLUSH_BYTES
    }

    /// Sends what is there.
    pub(super) async fn flush(&mut self, outbound: &mut Outbound) -> Result<(), TunnelError> {
        match self.take() {
            Some(frame) => outbound.send(frame).await,
            None => Ok(()),
        }
    }

    /// Sends what is there with the end of the call behind it.
    pub(super) fn end(&mut self, outbound: &mut Outbound) -> Result<(), TunnelError> {
        let builder = self.builder.take().unwrap_or_else(|| outbound.builder());
        outbound.end(add_trailer(builder).build())
    }

    fn take(&mut self) -> Option<Frame> {
        self.length = 0;
        self.builder.take().map(FrameBuilder::build)
    }
}
