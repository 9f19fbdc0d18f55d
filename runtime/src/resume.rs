//! One end of an upgraded connection that outlives the calls that carry it. Pure.
//!
//! Each direction is a sequence of positions: its bytes from 0 on, and one more for its end. What was sent is kept
//! until the other end has passed it on and said so ([`Segment::acknowledged`]); when a call broke, another is attached
//! to the connection: both ends say how far they have received, and each sends again from there. No more than
//! [`WINDOW_BYTES`] are under way in each direction, so that an end can always take what comes: acknowledgements never
//! wait behind bytes that nobody takes.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use proto::agent::grpctool::Segment;

/// Bytes of a direction that may wait to be passed on by the other end. An end holds so many of each direction, at most.
pub const WINDOW_BYTES: usize = 256 << 10;
/// What a piece counts besides its bytes, so that many small ones do not hold more than the window.
const PIECE_OVERHEAD_BYTES: usize = 128;
/// Smaller pieces are copied, so that they do not keep the buffer alive that they were read into.
const COPIED_BYTES: usize = 4 << 10;
/// Bytes that were passed on and are acknowledged without waiting for others.
const ACKNOWLEDGED_BYTES: u64 = WINDOW_BYTES as u64 / 4;
/// Bytes of a segment's fields, and of what is around it.
const SEGMENT_OVERHEAD_BYTES: usize = 64;
/// What may be received and not passed on: pieces may have been cut on their way.
const MAX_RECEIVED_BYTES: usize = WINDOW_BYTES / 4 * 5;

/// The other end broke the rules: the connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Bytes are missing between what was received and what came.
    #[error("a gap in a resumable connection")]
    Gap,
    /// Something came behind the end.
    #[error("bytes behind the end of a resumable connection")]
    BehindEnd,
    /// More came than may be under way.
    #[error("more bytes of a resumable connection than its window")]
    Overrun,
    /// A position was never sent, or was acknowledged before.
    #[error("a position of a resumable connection that cannot be")]
    Position,
}

/// What the other end sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// Bytes.
    Data(Bytes),
    /// Nothing follows.
    End,
}

/// One end of a resumable connection.
#[derive(Debug, Default)]
pub struct Endpoint {
    outgoing: Outgoing,
    incoming: Incoming,
}

#[derive(Debug, Default)]
struct Outgoing {
    /// From the first byte on that is not acknowledged.
    pieces: VecDeque<Bytes>,
    /// Their weight.
    weight: usize,
    /// The other end has passed on what lies before.
    acknowledged: u64,
    /// Behind the last byte.
    written: u64,
    ended: bool,
    /// What the present attachment sends next, and where it lies in the pieces.
    next: u64,
    piece: usize,
    within: usize,
    /// Behind all that any attachment has sent.
    furthest: u64,
}

#[derive(Debug, Default)]
struct Incoming {
    /// Not passed on yet.
    pieces: VecDeque<Bytes>,
    weight: usize,
    /// What comes next.
    received: u64,
    ended: bool,
    /// What was passed on lies before.
    consumed: u64,
    /// The last acknowledgement that was sent.
    told: u64,
    /// Acknowledge without waiting for more.
    due: bool,
}

fn weight(piece: &Bytes) -> usize {
    piece.len() + PIECE_OVERHEAD_BYTES
}

impl Endpoint {
    /// Bytes that may be sent now.
    #[must_use]
    pub fn room(&self) -> usize {
        let it = &self.outgoing;
        let taken = it.weight + PIECE_OVERHEAD_BYTES;
        if it.ended {
            return 0;
        }
        WINDOW_BYTES.saturating_sub(taken)
    }

    /// Takes bytes to be sent. There should be [room](Self::room) for them.
    pub fn send(&mut self, bytes: Bytes) {
        let it = &mut self.outgoing;
        if bytes.is_empty() || it.ended {
            return;
        }
        let piece = match bytes.len() {
            ..COPIED_BYTES => Bytes::copy_from_slice(&bytes),
            _ => bytes,
        };
        it.written += piece.len() as u64;
        it.weight += weight(&piece);
        it.pieces.push_back(piece);
    }

    /// Nothing more is sent.
    pub fn finish(&mut self) {
        self.outgoing.ended = true;
    }

    /// Whether the other end has passed on all that was sent, and the end.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.outgoing.ended
            && self.is_acknowledged()
            && self.outgoing.acknowledged > self.outgoing.written
    }

    /// Whether the other end has passed on all bytes that were sent.
    #[must_use]
    pub fn is_acknowledged(&self) -> bool {
        self.outgoing.pieces.is_empty()
    }

    /// The next segment to be sent, with `most` bytes; none if there is nothing to say.
    pub fn next_segment(&mut self, most: usize) -> Option<Segment> {
        let offset = self.outgoing.next;
        let data = self.outgoing.take(most);
        let end = self.outgoing.takes_end();
        if data.is_empty() && !end && !self.incoming.must_acknowledge() {
            return None;
        }
        let it = &mut self.incoming;
        (it.told, it.due) = (it.consumed, false);
        Some(Segment {
            offset,
            acknowledged: it.consumed,
            end,
            over: false,
            data,
        })
    }

    /// How long the [next segment](Self::next_segment) is at most, encoded; none if there is nothing to say.
    #[must_use]
    pub fn next_length(&self, most: usize) -> Option<usize> {
        let piece = self.outgoing.pieces.get(self.outgoing.piece);
        let data = piece.map_or(0, |it| most.min(it.len() - self.outgoing.within));
        let says = data > 0 || self.outgoing.is_at_end() || self.incoming.must_acknowledge();
        says.then_some(data + SEGMENT_OVERHEAD_BYTES)
    }

    /// Whether something was passed on that the other end does not know of.
    #[must_use]
    pub fn owes_acknowledgement(&self) -> bool {
        self.incoming.told < self.incoming.consumed
    }

    /// Has the next segment acknowledge what was passed on, even if it says nothing else.
    pub fn acknowledge(&mut self) {
        self.incoming.due |= self.owes_acknowledgement();
    }

    /// Takes a segment of the present attachment.
    ///
    /// # Errors
    /// [`Violation`] if the other end cannot have sent it.
    pub fn receive(&mut self, segment: Segment) -> Result<(), Violation> {
        self.outgoing.acknowledge(segment.acknowledged)?;
        self.incoming.receive(segment)
    }

    /// What came and was not passed on yet. It counts as passed on from now on.
    pub fn take(&mut self) -> Option<Received> {
        let it = &mut self.incoming;
        if let Some(piece) = it.pieces.pop_front() {
            it.weight -= weight(&piece);
            it.consumed += piece.len() as u64;
            return Some(Received::Data(piece));
        }
        if it.ended && it.consumed < it.received {
            it.consumed = it.received;
            it.due = true;
            return Some(Received::End);
        }
        None
    }

    /// Whether all was received that there is.
    #[must_use]
    pub fn is_received(&self) -> bool {
        self.incoming.ended
    }

    /// Position up to which all was received.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.incoming.received
    }

    /// Another call carries the connection, whose other end has received what lies before `received`.
    ///
    /// # Errors
    /// [`Violation`] if it cannot have.
    pub fn attach(&mut self, received: u64) -> Result<(), Violation> {
        self.outgoing.rewind(received)?;
        // The last acknowledgement may be lost.
        self.incoming.due = self.incoming.consumed > 0;
        Ok(())
    }

    /// Bytes that it holds, with what holds them.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.outgoing.weight + self.incoming.weight
    }

    /// The same of those that were sent and are not acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.outgoing.weight
    }
}

impl Outgoing {
    fn take(&mut self, most: usize) -> Bytes {
        let Some(piece) = self.pieces.get(self.piece) else {
            return Bytes::new();
        };
        let end = piece.len().min(self.within + most);
        let data = piece.slice(self.within..end);
        self.within = end;
        if end == piece.len() {
            (self.piece, self.within) = (self.piece + 1, 0);
        }
        self.moves_to(self.next + data.len() as u64);
        data
    }

    fn is_at_end(&self) -> bool {
        self.ended && self.next == self.written
    }

    /// Whether the end is to be sent, which it is then.
    fn takes_end(&mut self) -> bool {
        let takes = self.is_at_end();
        if takes {
            self.moves_to(self.written + 1);
        }
        takes
    }

    fn moves_to(&mut self, next: u64) {
        self.next = next;
        self.furthest = self.furthest.max(next);
    }

    fn acknowledge(&mut self, acknowledged: u64) -> Result<(), Violation> {
        if acknowledged > self.next {
            return Err(Violation::Position);
        }
        while self.acknowledged < acknowledged {
            let Some(first) = self.pieces.front_mut() else {
                // The end.
                self.acknowledged = acknowledged;
                break;
            };
            let more = usize::try_from(acknowledged - self.acknowledged).unwrap_or(usize::MAX);
            let of_first = more.min(first.len());
            self.acknowledged += of_first as u64;
            self.weight -= of_first;
            if of_first < first.len() {
                first.advance(of_first);
                if self.piece == 0 {
                    self.within -= of_first;
                }
            } else {
                self.pieces.pop_front();
                self.weight -= PIECE_OVERHEAD_BYTES;
                self.piece = self.piece.saturating_sub(1);
            }
        }
        Ok(())
    }

    fn rewind(&mut self, received: u64) -> Result<(), Violation> {
        if received < self.acknowledged || received > self.furthest {
            return Err(Violation::Position);
        }
        let mut skipped = usize::try_from(received - self.acknowledged).unwrap_or(usize::MAX);
        self.piece = 0;
        while let Some(piece) = self.pieces.get(self.piece)
            && skipped >= piece.len()
        {
            skipped -= piece.len();
            self.piece += 1;
        }
        // What is left behind the last piece is the end.
        self.within = if self.piece < self.pieces.len() {
            skipped
        } else {
            0
        };
        self.next = received;
        Ok(())
    }
}

impl Incoming {
    fn must_acknowledge(&self) -> bool {
        let unsaid = self.consumed - self.told.min(self.consumed);
        self.due || unsaid >= ACKNOWLEDGED_BYTES
    }

    fn receive(&mut self, segment: Segment) -> Result<(), Violation> {
        let Segment {
            offset,
            end,
            mut data,
            ..
        } = segment;
        let behind = offset.saturating_add(data.len() as u64);
        if self.ended && !data.is_empty() && behind >= self.received {
            return Err(Violation::BehindEnd);
        }
        let known = self.received.checked_sub(offset).ok_or(Violation::Gap)?;
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        data.advance(known.min(data.len()));
        if data.is_empty() && (self.ended || !end) {
            return Ok(());
        }
        if self.ended {
            return Err(Violation::BehindEnd);
        }
        if !data.is_empty() {
            // A part of a message would keep all of it alive, however long that is.
            let data = Bytes::copy_from_slice(&data);
            self.received += data.len() as u64;
            self.weight += weight(&data);
            self.pieces.push_back(data);
        }
        if end {
            self.ended = true;
            self.received += 1;
        }
        if self.weight > MAX_RECEIVED_BYTES {
            return Err(Violation::Overrun);
        }
        Ok(())
    }
}
