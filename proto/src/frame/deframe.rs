//! Cuts received DATA into gRPC messages.

use bytes::{Buf, Bytes, BytesMut};

use super::{MAX_MESSAGE, PREFIX, gzip::gunzip};

/// How the messages of a stream may be compressed (`grpc-encoding`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    Identity,
    /// gzip, message by message, as agentk sends.
    Gzip,
}

impl Encoding {
    /// Reads a `grpc-encoding` header.
    ///
    /// # Errors
    /// [`FrameError::UnknownEncoding`] for anything but `identity` and `gzip`.
    pub fn from_header(value: Option<&http::HeaderValue>) -> Result<Self, FrameError> {
        match value.map(http::HeaderValue::as_bytes) {
            None | Some(b"identity") => Ok(Self::Identity),
            Some(b"gzip") => Ok(Self::Gzip),
            Some(other) => Err(FrameError::UnknownEncoding(
                String::from_utf8_lossy(other).into_owned(),
            )),
        }
    }
}

/// Received bytes that are not gRPC messages.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A message is longer than allowed.
    #[error("received a message of {length} bytes, more than the {limit} allowed")]
    TooLong {
        /// Length as announced, or as reached while decompressing.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The compressed flag is neither 0 nor 1, or is 1 without an encoding.
    #[error(
        "received a message with compressed flag {0}, which the stream's encoding does not allow"
    )]
    BadFlag(u8),
    /// The compressed bytes are broken.
    #[error("received a message whose gzip data are broken")]
    BadGzip,
    /// An encoding that is not installed.
    #[error("Decompressor is not installed for grpc-encoding {0:?}")]
    UnknownEncoding(String),
    /// The stream ended within a message.
    #[error("the stream ended within a message")]
    Truncated,
}

/// Gathers DATA and gives back whole messages, decompressed. It takes as much memory as came, never what a
/// prefix or a trailer announces.
#[derive(Debug)]
pub struct Deframer {
    /// Received and not yet looked at; the usual place for a whole message.
    chunk: Bytes,
    /// A message that began in an earlier chunk, with its prefix.
    partial: BytesMut,
    encoding: Encoding,
    /// Bytes of a message, compressed or not, at most.
    limit: u32,
}

impl Deframer {
    /// An empty deframer for messages of up to [`MAX_MESSAGE`] bytes.
    #[must_use]
    pub fn new(encoding: Encoding) -> Self {
        Self::limited(encoding, MAX_MESSAGE)
    }

    /// An empty deframer for messages of up to `limit` bytes, as they come and as they inflate.
    #[must_use]
    pub fn limited(encoding: Encoding, limit: usize) -> Self {
        let mut deframer = Self {
            chunk: Bytes::new(),
            partial: BytesMut::new(),
            encoding,
            limit: 0,
        };
        deframer.set_limit(limit);
        deframer
    }

    /// Sets the limit for messages that are not cut out yet: the first of a stream may have one of its own.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = u32::try_from(limit).unwrap_or(u32::MAX);
    }

    /// Takes in a chunk. To be called when [`Self::next_message`] gave `None`.
    pub fn push(&mut self, chunk: Bytes) {
        if self.chunk.is_empty() {
            self.chunk = chunk;
        } else {
            self.set_aside();
            self.chunk = chunk;
        }
    }

    /// The next whole message, or `None` until more is pushed.
    ///
    /// # Errors
    /// [`FrameError`] when the bytes are no gRPC message; the stream is then
    /// beyond repair.
    pub fn next_message(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some((flag, message)) = (if self.partial.is_empty() {
            self.next_in_chunk()?
        } else {
            self.next_in_partial()?
        }) else {
            return Ok(None);
        };
        match flag {
            0 => Ok(Some(message)),
            1 if self.encoding == Encoding::Gzip => gunzip(&message, self.limit as usize).map(Some),
            flag => Err(FrameError::BadFlag(flag)),
        }
    }

    /// Says whether the stream may end here.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] if a message is incomplete.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.chunk.is_empty() && self.partial.is_empty() {
            Ok(())
        } else {
            Err(FrameError::Truncated)
        }
    }

    fn next_in_chunk(&mut self) -> Result<Option<(u8, Bytes)>, FrameError> {
        let Some(length) = self.message_length(&self.chunk)? else {
            self.set_aside();
            return Ok(None);
        };
        if self.chunk.len() < PREFIX + length {
            self.set_aside();
            return Ok(None);
        }
        let flag = self.chunk[0];
        self.chunk.advance(PREFIX);
        let message = self.chunk.split_to(length);
        if self.chunk.is_empty() {
            self.chunk = Bytes::new();
        }
        Ok(Some((flag, message)))
    }

    fn next_in_partial(&mut self) -> Result<Option<(u8, Bytes)>, FrameError> {
        self.fill_partial(PREFIX);
        let Some(length) = self.message_length(&self.partial)? else {
            return Ok(None);
        };
        self.fill_partial(PREFIX + length);
        if self.partial.len() < PREFIX + length {
            return Ok(None);
        }
        let flag = self.partial[0];
        let mut message = std::mem::take(&mut self.partial).freeze();
        message.advance(PREFIX);
        Ok(Some((flag, message)))
    }

    fn fill_partial(&mut self, wanted: usize) {
        let take = wanted
            .saturating_sub(self.partial.len())
            .min(self.chunk.len());
        self.partial.extend_from_slice(&self.chunk.split_to(take));
        if self.chunk.is_empty() {
            self.chunk = Bytes::new();
        }
    }

    fn set_aside(&mut self) {
        self.partial
            .extend_from_slice(&std::mem::take(&mut self.chunk));
    }

    fn message_length(&self, bytes: &[u8]) -> Result<Option<usize>, FrameError> {
        let Some(prefix) = bytes.get(1..PREFIX) else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(prefix.try_into().expect("four bytes"));
        if length > self.limit {
            return Err(FrameError::TooLong {
                length: length as usize,
                limit: self.limit as usize,
            });
        }
        Ok(Some(length as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
        let mut out = vec![flag];
        out.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        out.extend_from_slice(message);
        out
    }

    fn gzip(message: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(message).unwrap();
        encoder.finish().unwrap()
    }

    proptest! {
        #[test]
        fn messages_come_out_whole_however_they_are_cut(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8),
            cuts in prop::collection::vec(1usize..60, 1..60),
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|m| framed(0, m)).collect();
            let mut deframer = Deframer::new(Encoding::Identity);
            let mut out = Vec::new();
            let mut rest = &stream[..];
            let mut cuts = cuts.iter().cycle();

            while !rest.is_empty() {
                let (piece, tail) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                rest = tail;
                deframer.push(Bytes::copy_from_slice(piece));
                while let Some(message) = deframer.next_message().unwrap() {
                    out.push(message.to_vec());
                }
            }

            prop_assert_eq!(out, messages);
            deframer.finish().unwrap();
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut deframer = Deframer::new(Encoding::Gzip);
            deframer.push(bytes.into());
            while let Ok(Some(_)) = deframer.next_message() {}
        }
    }

    #[test]
    fn gzip_is_taken_only_where_the_stream_said_so() {
        let bytes = Bytes::from(framed(1, &gzip(b"hello")));
        let mut deframer = Deframer::new(Encoding::Gzip);
        deframer.push(bytes.clone());
        assert_eq!(deframer.next_message().unwrap().unwrap(), "hello");

        let mut plain = Deframer::new(Encoding::Identity);
        plain.push(bytes);
        assert_eq!(plain.next_message(), Err(FrameError::BadFlag(1)));
    }

    #[test]
    fn a_gzip_bomb_is_cut_off_at_the_limit() {
        let mut deframer = Deframer::new(Encoding::Gzip);
        deframer.push(framed(1, &gzip(&vec![0; MAX_MESSAGE + 10])).into());
        assert!(matches!(
            deframer.next_message(),
            Err(FrameError::TooLong { .. })
        ));
    }

    #[test]
    fn a_limit_counts_what_comes_and_what_it_inflates_to_and_can_be_raised() {
        let (short, long) = (vec![7; 100], vec![7; 101]);
        for (flag, pack) in [(0, <[u8]>::to_vec as fn(&[u8]) -> Vec<u8>), (1, gzip)] {
            let mut deframer = Deframer::limited(Encoding::Gzip, 100);
            deframer.push(framed(flag, &pack(&short)).into());
            assert_eq!(deframer.next_message().unwrap().unwrap(), short);
            deframer.push(framed(flag, &pack(&long)).into());
            let (length, limit) = (101, 100);
            let too_long = FrameError::TooLong { length, limit };
            assert_eq!(deframer.next_message(), Err(too_long), "{flag}");

            let mut raised = Deframer::limited(Encoding::Gzip, 100);
            raised.set_limit(101);
            raised.push(framed(flag, &pack(&long)).into());
            assert_eq!(raised.next_message().unwrap().unwrap(), long);
        }
    }

    #[test]
    fn what_is_announced_costs_nothing_before_it_comes() {
        let mut deframer = Deframer::new(Encoding::Identity);
        let mut announced = vec![0];
        announced.extend_from_slice(&(MAX_MESSAGE as u32).to_be_bytes());

        deframer.push(announced.into());

        assert_eq!(deframer.next_message(), Ok(None));
        assert!(deframer.partial.capacity() < 1000);
    }

    #[test]
    fn a_stream_that_ends_within_a_message_is_truncated() {
        let mut deframer = Deframer::new(Encoding::Identity);
        deframer.push(Bytes::from_static(&[0, 0, 0, 0, 9, 1]));
        assert_eq!(deframer.next_message(), Ok(None));
        assert_eq!(deframer.finish(), Err(FrameError::Truncated));
    }
}
