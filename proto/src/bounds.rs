//! How large a message of a method may be: its bytes, and how often its parts repeat.
//!
//! The parts are counted on the wire, before anything is allocated for them: two bytes of a message can stand
//! for an element of hundreds.

use bytes::Bytes;
use prost::Message;

/// What a method takes as one message.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes of the message, decompressed.
    pub bytes: usize,
    /// Parts that may not repeat without end.
    pub repeated: &'static [Repeated],
}

/// A part of a message that repeats.
#[derive(Debug, Clone, Copy)]
pub struct Repeated {
    /// The field's number, behind those of the messages that it is in.
    pub path: &'static [u32],
    /// How many there may be in the whole message.
    pub most: usize,
    /// What they are, for the refusal.
    pub what: &'static str,
}

/// Why a message is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutOfBounds {
    /// It is longer than the method takes.
    #[error("a message of {length} bytes, more than the {limit} that this method takes")]
    TooLong {
        /// Its length.
        length: usize,
        /// The method's limit.
        limit: usize,
    },
    /// One of its parts repeats too often.
    #[error("more {what} than the {most} that this method takes")]
    TooMany {
        /// Which.
        what: &'static str,
        /// How many there may be.
        most: usize,
    },
    /// It is no protobuf message of the method.
    #[error("the message is not understood: {0}")]
    Malformed(String),
}

impl Bounds {
    /// Up to so many bytes, with nothing that repeats.
    #[must_use]
    pub const fn bytes(bytes: usize) -> Self {
        Self {
            bytes,
            repeated: &[],
        }
    }

    /// Checks an encoded message. Allocates nothing unless it is refused.
    ///
    /// # Errors
    /// [`OutOfBounds`] when the method does not take it.
    pub fn check(&self, message: &[u8]) -> Result<(), OutOfBounds> {
        if message.len() > self.bytes {
            return Err(OutOfBounds::TooLong {
                length: message.len(),
                limit: self.bytes,
            });
        }
        for Repeated { path, most, what } in self.repeated {
            let malformed = || OutOfBounds::Malformed("its fields are broken".to_owned());
            let mut room = *most;
            match count(message, path, &mut room) {
                Ok(()) => {}
                Err(Stop::Full) => return Err(OutOfBounds::TooMany { what, most: *most }),
                Err(Stop::Malformed) => return Err(malformed()),
            }
        }
        Ok(())
    }

    /// Checks a message, and decodes it.
    ///
    /// # Errors
    /// [`OutOfBounds`] when the method does not take it.
    pub fn decode<M: Message + Default>(&self, message: Bytes) -> Result<M, OutOfBounds> {
        self.check(&message)?;
        M::decode(message).map_err(|error| OutOfBounds::Malformed(error.to_string()))
    }
}

enum Stop {
    Full,
    Malformed,
}

/// Takes one of the `room` for each field at the end of `path`.
fn count(message: &[u8], path: &[u32], room: &mut usize) -> Result<(), Stop> {
    let Some((wanted, inner)) = path.split_first() else {
        return Ok(());
    };
    let mut rest = message;
    while !rest.is_empty() {
        let (number, value) = field(&mut rest).ok_or(Stop::Malformed)?;
        if number != u64::from(*wanted) {
            continue;
        }
        if inner.is_empty() {
            *room = room.checked_sub(1).ok_or(Stop::Full)?;
        } else {
            count(value, inner, room)?;
        }
    }
    Ok(())
}

/// Cuts off the next field: its number, and its bytes if it has a length. Groups are no part of proto3.
///
/// Format: <https://protobuf.dev/programming-guides/encoding/>.
fn field<'a>(rest: &mut &'a [u8]) -> Option<(u64, &'a [u8])> {
    let key = varint(rest)?;
    let value = match key & 7 {
        0 => {
            varint(rest)?;
            &[]
        }
        1 => {
            take(rest, 8)?;
            &[]
        }
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            take(rest, length)?
        }
        5 => {
            take(rest, 4)?;
            &[]
        }
        _ => return None,
    };
    Some((key >> 3, value))
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        agent::reverse_tunnel::{
            info::{AgentDescriptor, Method, Service},
            rpc::{ConnectRequest, Descriptor, connect_request::Msg},
        },
        events::rpc::{Event, ReportRequest},
    };

    const METHODS: Bounds = Bounds {
        bytes: 16 << 10,
        repeated: &[Repeated {
            path: &[1, 1, 1, 2],
            most: 20,
            what: "methods",
        }],
    };
    const REPORT: Bounds = Bounds {
        bytes: 8 << 20,
        repeated: &[Repeated {
            path: &[1],
            most: 1000,
            what: "events",
        }],
    };

    fn descriptor(services: &[usize]) -> ConnectRequest {
        let services = services.iter().map(|methods| Service {
            name: "s".into(),
            methods: vec![Method { name: "m".into() }; *methods],
        });
        let agent_descriptor = Some(AgentDescriptor {
            services: services.collect(),
        });
        ConnectRequest {
            msg: Some(Msg::Descriptor(Descriptor { agent_descriptor })),
        }
    }

    proptest! {
        #[test]
        fn what_is_nested_is_counted_as_prost_would(services in prop::collection::vec(0..10_usize, 0..6), cut in any::<prop::sample::Index>()) {
            let message = descriptor(&services).encode_to_vec();
            let methods: usize = services.iter().sum();

            prop_assert_eq!(METHODS.check(&message).is_ok(), methods <= 20);

            // Appended, the fields of both are one message, as protobuf has it.
            let twice = [message.clone(), message.clone()].concat();
            prop_assert_eq!(METHODS.check(&twice).is_ok(), 2 * methods <= 20);
            let _ = METHODS.check(&message[..cut.index(message.len() + 1)]);
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = METHODS.check(&bytes);
        }

        #[test]
        fn whatever_prost_encodes_is_understood(ids in prop::collection::vec(".*", 0..20), dropped in any::<u64>(), count in any::<i64>()) {
            let events = ids.into_iter().map(|id| Event { id, count, ..Event::default() });
            let report = ReportRequest { events: events.collect(), dropped };

            let decoded: ReportRequest = REPORT.decode(report.encode_to_vec().into()).unwrap();

            prop_assert_eq!(decoded, report);
        }
    }

    #[test]
    fn millions_of_empty_events_are_refused_before_they_are_made() {
        let many: Bytes = [0x0a, 0].repeat(2_097_000).into();

        let (what, most) = ("events", 1000);
        let refused = Err(OutOfBounds::TooMany { what, most });
        assert_eq!(REPORT.decode::<ReportRequest>(many), refused);
        assert!(REPORT.check(&[0x0a, 0].repeat(1000)).is_ok());
    }

    #[test]
    fn a_long_message_is_refused_by_its_length() {
        let (length, limit) = (11, 10);
        assert_eq!(
            Bounds::bytes(10).check(&[0; 11]),
            Err(OutOfBounds::TooLong { length, limit })
        );
    }
}
