//! Which message may follow which: one table per stream, one checker for all.
//!
//! Messages of these streams are a single `oneof`; a position in a stream is
//! the field number of the last message, [`START`] before the first and
//! [`END`] for the half-close. The tables are those of the protocol's own
//! validation rules.

use crate::agent::{
    grpctool::{http_request, http_response},
    kas::gateway_kas_response,
    reverse_tunnel::rpc::{connect_request, connect_response},
};

/// The position before the first message.
pub const START: i32 = 0;
/// The end of the stream.
pub const END: i32 = -1;

/// The field of a [`Segment`](crate::agent::grpctool::Segment), in requests and responses alike.
pub(crate) const SEGMENT: i32 = 20_016;

/// What may follow each position: `(position, allowed next positions)`.
pub type Table = &'static [(i32, &'static [i32])];

/// agentk → kas on `ReverseTunnel.Connect`.
pub const CONNECT_REQUEST: Table = &[
    (START, &[1]),
    (1, &[2, 5]),
    (2, &[3, 4]),
    (3, &[3, 4]),
    (4, &[5, END]),
    (5, &[END]),
];

/// kas → agentk on `ReverseTunnel.Connect`.
pub const CONNECT_RESPONSE: Table = &[
    (START, &[1, END]),
    (1, &[2, 3, END]),
    (2, &[2, 3, END]),
    (3, &[END]),
];

/// Owner replica → asking replica on the private API.
pub const GATEWAY_KAS_RESPONSE: Table = &[
    (START, &[1, 6, END]),
    (6, &[1, END]),
    (1, &[2]),
    (2, &[3, 4]),
    (3, &[3, 4]),
    (4, &[5, END]),
    (5, &[END]),
];

/// `grpctool.HttpRequest` and `grpctool.HttpResponse` alike.
pub const HTTP: Table = &[
    (START, &[1]),
    (1, &[2, 3]),
    (2, &[2, 3]),
    (3, &[4, SEGMENT, END]),
    (4, &[4, END]),
    (SEGMENT, &[SEGMENT, END]),
];

/// A peer sent a message, or ended its stream, where the protocol forbids it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("transition from {from} to {to} is not allowed. Allowed: {allowed:?}")]
pub struct OutOfOrder {
    /// Field number of the last message.
    pub from: i32,
    /// Field number of the offending message.
    pub to: i32,
    /// What would have been allowed.
    pub allowed: &'static [i32],
}

/// Checks one stream against its table.
#[derive(Debug, Clone, Copy)]
pub struct Sequence {
    table: Table,
    at: i32,
}

impl Sequence {
    /// A stream on which nothing was received yet.
    #[must_use]
    pub const fn new(table: Table) -> Self {
        Self { table, at: START }
    }

    /// Moves to the message with field number `to`.
    ///
    /// # Errors
    /// [`OutOfOrder`] if the table forbids it; the position stays.
    pub fn step(&mut self, to: i32) -> Result<(), OutOfOrder> {
        let allowed = self.allowed();
        if !allowed.contains(&to) {
            return Err(OutOfOrder {
                from: self.at,
                to,
                allowed,
            });
        }
        self.at = to;
        Ok(())
    }

    /// Whether the stream may end here.
    #[must_use]
    pub fn may_end(&self) -> bool {
        self.allowed().contains(&END)
    }

    fn allowed(&self) -> &'static [i32] {
        self.table
            .iter()
            .find(|(position, _)| *position == self.at)
            .map_or(&[], |(_, allowed)| allowed)
    }
}

/// The field number that a message of a `oneof` travels under.
pub trait FieldNumber {
    /// The number, as the protocol definition gives it.
    fn field_number(&self) -> i32;
}

impl FieldNumber for connect_request::Msg {
    fn field_number(&self) -> i32 {
        match self {
            Self::Descriptor(_) => 1,
            Self::Header(_) => 2,
            Self::Message(_) => 3,
            Self::Trailer(_) => 4,
            Self::Error(_) => 5,
        }
    }
}

impl FieldNumber for connect_response::Msg {
    fn field_number(&self) -> i32 {
        match self {
            Self::RequestInfo(_) => 1,
            Self::Message(_) => 2,
            Self::CloseSend(_) => 3,
        }
    }
}

impl FieldNumber for gateway_kas_response::Msg {
    fn field_number(&self) -> i32 {
        match self {
            Self::TunnelReady(_) => 1,
            Self::Header(_) => 2,
            Self::Message(_) => 3,
            Self::Trailer(_) => 4,
            Self::Error(_) => 5,
            Self::NoTunnel(_) => 6,
        }
    }
}

impl FieldNumber for http_request::Message {
    fn field_number(&self) -> i32 {
        match self {
            Self::Header(_) => 1,
            Self::Data(_) => 2,
            Self::Trailer(_) => 3,
            Self::UpgradeData(_) => 4,
            Self::Segment(_) => SEGMENT,
        }
    }
}

impl FieldNumber for http_response::Message {
    fn field_number(&self) -> i32 {
        match self {
            Self::Header(_) => 1,
            Self::Data(_) => 2,
            Self::Trailer(_) => 3,
            Self::UpgradeData(_) => 4,
            Self::Segment(_) => SEGMENT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_call_is_in_order() {
        let mut sequence = Sequence::new(CONNECT_REQUEST);
        for field in [1, 2, 3, 3, 4, 5, END] {
            sequence.step(field).unwrap();
        }
    }

    #[test]
    fn a_message_before_the_header_is_refused_and_says_what_was_allowed() {
        let mut sequence = Sequence::new(CONNECT_REQUEST);
        sequence.step(1).unwrap();

        let error = sequence.step(3).unwrap_err();

        assert_eq!(
            error.to_string(),
            "transition from 1 to 3 is not allowed. Allowed: [2, 5]"
        );
        sequence.step(2).unwrap();
    }

    #[test]
    fn a_response_cannot_end_between_header_and_trailer() {
        let mut sequence = Sequence::new(HTTP);
        sequence.step(1).unwrap();
        assert!(!sequence.may_end());
        sequence.step(3).unwrap();
        assert!(sequence.may_end());
    }
}
