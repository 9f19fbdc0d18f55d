//! Keeps a silent upgraded connection alive: load balancers cut what carries nothing for a minute. Pure.
//!
//! Both protocols of Kubernetes have pings that clients answer by themselves: WebSocket (RFC 6455, 5.5.2) and SPDY/3.1
//! (2.6.5). A ping may stand between any two frames, so frames are followed as they pass, by their heads alone. An answer
//! goes on to the cluster, which ignores it there: it has not asked.

use bytes::Bytes;
use http::{HeaderMap, header};

/// What is spoken on an upgraded connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    WebSocket,
    Spdy,
}

/// Follows the frames to a client, and makes pings for it.
#[derive(Debug)]
pub(in super::super) struct Pings {
    protocol: Protocol,
    /// What is here of the next frame's head.
    head: [u8; MAX_HEAD_BYTES],
    head_bytes: usize,
    /// Bytes of a frame behind its head that are still to come.
    payload_left: u64,
    /// The server has said that nothing follows.
    closed: bool,
    next_id: u32,
}

const MAX_HEAD_BYTES: usize = 14;
const SPDY_HEAD_BYTES: usize = 8;
const WEBSOCKET_CLOSE: u8 = 8;
/// An empty ping, not masked, as a server sends it.
const WEBSOCKET_PING: &[u8] = &[0x89, 0];
/// Ids of pings from the server's side are even; the cluster's own begin low.
const FIRST_SPDY_ID: u32 = 0x4000_0000;

impl Pings {
    /// For the answer that switches protocols; nothing for protocols that have no pings.
    pub(in super::super) fn of(headers: &HeaderMap) -> Option<Self> {
        let upgrade = headers.get(header::UPGRADE)?.to_str().ok()?;
        let protocol = if upgrade.eq_ignore_ascii_case("websocket") {
            Protocol::WebSocket
        } else if upgrade.eq_ignore_ascii_case("SPDY/3.1") {
            Protocol::Spdy
        } else {
            return None;
        };
        Some(Self {
            protocol,
            head: [0; MAX_HEAD_BYTES],
            head_bytes: 0,
            payload_left: 0,
            closed: false,
            next_id: FIRST_SPDY_ID,
        })
    }

    /// Follows what is sent to the client.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let here = self.payload_left.min(bytes.len() as u64);
                self.payload_left -= here;
                bytes = &bytes[usize::try_from(here).unwrap_or(bytes.len())..];
                continue;
            }
            self.head[self.head_bytes] = bytes[0];
            self.head_bytes += 1;
            bytes = &bytes[1..];
            if self.head_bytes == self.head_length() {
                self.begin_frame();
            }
        }
    }

    /// A ping, if it can stand here.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        if self.closed || self.head_bytes > 0 || self.payload_left > 0 {
            return None;
        }
        Some(match self.protocol {
            Protocol::WebSocket => Bytes::from_static(WEBSOCKET_PING),
            Protocol::Spdy => {
                let id = self.next_id.to_be_bytes();
                self.next_id = self.next_id.wrapping_add(2);
                // A control frame of version 3 and type 6, without flags, of four bytes.
                let frame = [&[0x80, 3, 0, 6, 0, 0, 0, 4], &id[..]].concat();
                frame.into()
            }
        })
    }

    /// Bytes of the head, as far as it is known: at least one more than there are.
    fn head_length(&self) -> usize {
        match self.protocol {
            Protocol::Spdy => SPDY_HEAD_BYTES,
            Protocol::WebSocket if self.head_bytes < 2 => 2,
            Protocol::WebSocket => {
                let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
                let length = match self.head[1] & 0x7F {
                    126 => 2,
                    127 => 8,
                    _ => 0,
                };
                2 + length + mask
            }
        }
    }

    fn begin_frame(&mut self) {
        let head = &self.head;
        self.payload_left = match self.protocol {
            Protocol::Spdy => u64::from(u32::from_be_bytes([0, head[5], head[6], head[7]])),
            Protocol::WebSocket => {
                self.closed |= head[0] & 0x0F == WEBSOCKET_CLOSE;
                match head[1] & 0x7F {
                    126 => u64::from(u16::from_be_bytes([head[2], head[3]])),
                    127 => {
                        let [_, _, length @ .., _, _, _, _] = head;
                        u64::from_be_bytes(*length)
                    }
                    short => u64::from(short),
                }
            }
        };
        self.head_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pings(upgrade: &'static str) -> Pings {
        let headers =
            HeaderMap::from_iter([(header::UPGRADE, http::HeaderValue::from_static(upgrade))]);
        Pings::of(&headers).unwrap()
    }

    fn websocket(opcode: u8, length: usize) -> Vec<u8> {
        let head = match length {
            0..126 => vec![0x80 | opcode, u8::try_from(length).unwrap()],
            126..65_536 => [
                &[0x80 | opcode, 126][..],
                &u16::try_from(length).unwrap().to_be_bytes(),
            ]
            .concat(),
            _ => [&[0x80 | opcode, 127][..], &(length as u64).to_be_bytes()].concat(),
        };
        [head, vec![0x55; length]].concat()
    }

    fn spdy(control: bool, length: usize) -> Vec<u8> {
        let first = if control {
            [0x80, 3, 0, 1]
        } else {
            [0, 0, 0, 1]
        };
        let length_bytes = u32::try_from(length).unwrap().to_be_bytes();
        let head = [&first[..], &[0], &length_bytes[1..]].concat();
        [head, vec![0x89; length]].concat()
    }

    proptest! {
        #[test]
        fn a_ping_stands_between_frames_only(
            lengths in prop::collection::vec(prop_oneof![0..130_usize, 65_530..65_540_usize], 1..6),
            is_spdy: bool,
            piece in 1..70_000_usize,
        ) {
            let mut pings = pings(if is_spdy { "SPDY/3.1" } else { "websocket" });
            let frames: Vec<_> = lengths
                .iter()
                .map(|length| if is_spdy { spdy(length % 2 == 0, *length) } else { websocket(2, *length) })
                .collect();
            let mut ends: Vec<usize> = Vec::new();
            for frame in &frames {
                ends.push(ends.last().unwrap_or(&0) + frame.len());
            }
            let mut passed = 0;
            for bytes in frames.concat().chunks(piece) {
                pings.follow(bytes);
                passed += bytes.len();
                prop_assert_eq!(pings.next().is_some(), ends.contains(&passed));
            }
        }

        #[test]
        fn any_bytes_are_harmless(bytes: Vec<u8>, is_spdy: bool) {
            pings(if is_spdy { "SPDY/3.1" } else { "websocket" }).follow(&bytes);
        }
    }

    #[test]
    fn nothing_follows_a_close() {
        let mut pings = pings("WebSocket");
        assert_eq!(pings.next().unwrap(), [0x89, 0][..]);

        pings.follow(&websocket(WEBSOCKET_CLOSE, 2));

        assert!(pings.next().is_none());
    }

    #[test]
    fn pings_of_spdy_have_even_ids_of_their_own() {
        let mut pings = pings("SPDY/3.1");

        let ids: Vec<_> = (0..3)
            .map(|_| pings.next().unwrap()[8..].to_vec())
            .collect();

        assert_eq!(ids, [[0x40, 0, 0, 0], [0x40, 0, 0, 2], [0x40, 0, 0, 4]]);
    }

    #[test]
    fn other_protocols_have_none() {
        let other =
            HeaderMap::from_iter([(header::UPGRADE, http::HeaderValue::from_static("h2c"))]);

        assert!(Pings::of(&other).is_none() && Pings::of(&HeaderMap::new()).is_none());
    }
}
