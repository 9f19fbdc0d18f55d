//! Keeps a silent upgraded connection alive: load balancers cut what carries nothing for a minute. Pure.
//!
//! Both protocols of Kubernetes have pings that clients answer by themselves: WebSocket (RFC 6455, 5.5.2) and SPDY/3.1
//! (2.6.5). A ping may stand between any two frames, so frames are followed as they pass, by their heads alone. An answer
//! goes on to the cluster, which ignores it there: it has not asked.

use bytes::Bytes;
use http::{HeaderMap, header};
use runtime::websocket::passing::Passing;

use super::channels::spdy::frames::Framing;

/// What is spoken on an upgraded connection, and how far.
#[derive(Debug)]
enum Protocol {
    WebSocket(Passing),
    Spdy { framing: Framing, next_id: u32 },
}

/// Follows the frames to a client, and makes pings for it.
#[derive(Debug)]
pub(in super::super) struct Pings(Protocol);

/// An empty ping, not masked, as a server sends it.
const WEBSOCKET_PING: &[u8] = &[0x89, 0];
/// Ids of pings from the server's side are even; the cluster's own begin low.
const FIRST_SPDY_ID: u32 = 0x4000_0000;

impl Pings {
    /// For the answer that switches protocols; nothing for protocols that have no pings.
    pub(in super::super) fn of(headers: &HeaderMap) -> Option<Self> {
        let upgrade = headers.get(header::UPGRADE)?.to_str().ok()?;
        let protocol = if upgrade.eq_ignore_ascii_case("websocket") {
            Protocol::WebSocket(Passing::default())
        } else if upgrade.eq_ignore_ascii_case("SPDY/3.1") {
            Protocol::Spdy {
                framing: Framing::default(),
                next_id: FIRST_SPDY_ID,
            }
        } else {
            return None;
        };
        Some(Self(protocol))
    }

    /// Follows what is sent to the client.
    pub(super) fn follow(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Protocol::WebSocket(passing) => passing.pass(bytes),
            Protocol::Spdy { framing, .. } => framing.pass(bytes),
        }
    }

    /// A ping, if it can stand here.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        match &mut self.0 {
            // Nothing follows a close.
            Protocol::WebSocket(passing) => {
                let fits = passing.is_between_frames() && !passing.is_closed();
                fits.then(|| Bytes::from_static(WEBSOCKET_PING))
            }
            Protocol::Spdy { framing, next_id } => {
                if !framing.is_between_frames() {
                    return None;
                }
                let id = next_id.to_be_bytes();
                *next_id = next_id.wrapping_add(2);
                // A control frame of version 3 and type 6, without flags, of four bytes.
                let frame = [&[0x80, 3, 0, 6, 0, 0, 0, 4], &id[..]].concat();
                Some(frame.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WEBSOCKET_CLOSE: u8 = 8;

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
