//! The last words on SPDY: data of the stream that its client has opened for errors.
//!
//! They may stand between two frames only, and the frames of bulk output come in pieces. Frames of data can be divided
//! at will, though: of one that has come in part, a frame is made of that part, so that nothing is waited for and words
//! fit behind whatever was sent. Nothing is kept but a frame's head.

use std::{collections::VecDeque, io};

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{
    super::channels::{
        Unreadable,
        spdy::{
            frames::{FIN, Frames, Framing, HEAD_BYTES, Piece},
            headers::Headers,
        },
    },
    Errors,
};
use crate::failure::Failure;

/// Frames of the client with headers among which the one is looked for that opens the stream for errors: an exec has five
/// streams, of which it is the first in all clients of Kubernetes.
const MAX_OPENINGS: usize = 5;
/// Bytes of a frame, at most: what three bytes can say.
const MAX_PAYLOAD_BYTES: usize = (1 << 24) - 1;

/// How SPDY's client is told.
#[derive(Debug)]
pub(in crate::kubernetes_api) struct Spdy {
    errors: Errors,
    /// Looks for the stream for errors; gone with its memory once it is found, or is not among the first.
    search: Option<Box<Search>>,
    /// The stream for errors.
    stream: Option<u32>,
    /// Follows what the client is sent.
    framing: Framing,
    /// Frames are divided: there is somebody to speak to.
    divides: bool,
    /// How the frame is sent that is on its way.
    frame: Frame,
    /// The cluster has said how the command ended.
    told: bool,
}

/// How a frame is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frame {
    /// As it comes.
    AsItIs,
    /// Its bytes have frames of their own.
    Divided,
}

/// The look for the stream for errors.
#[derive(Debug, Default)]
struct Search {
    frames: Frames,
    headers: Headers,
    openings: usize,
}

impl Search {
    /// Its id, once it has come.
    fn read(&mut self, bytes: &[u8]) -> Result<Option<u32>, Unreadable> {
        const ENOUGH: Unreadable = Unreadable("what is looked for is among the first");
        let Self {
            frames,
            headers,
            openings,
        } = self;
        let mut found = None;
        let read = frames.read(bytes, |piece| {
            let Piece::Control(kind, frame) = piece else {
                return Ok(());
            };
            let opened = headers.read(kind, frame)?;
            *openings += 1;
            found = opened.and_then(|(stream, kind)| (kind == b"error").then_some(stream));
            match found.is_some() || *openings == MAX_OPENINGS {
                true => Err(ENOUGH),
                false => Ok(()),
            }
        });
        match found {
            Some(_) => Ok(found),
            None => read.map(|()| None),
        }
    }
}

impl Spdy {
    pub(super) fn new(errors: Errors) -> Self {
        Self {
            errors,
            search: Some(Box::default()),
            stream: None,
            framing: Framing::default(),
            divides: false,
            frame: Frame::AsItIs,
            told: false,
        }
    }

    pub(super) fn read_sent(&mut self, bytes: &[u8]) {
        let Some(search) = &mut self.search else {
            return;
        };
        match search.read(bytes) {
            Ok(None) => {}
            Ok(stream @ Some(_)) => {
                self.stream = stream;
                self.search = None;
            }
            Err(_) => self.search = None,
        }
    }

    pub(super) fn is_told(&self) -> bool {
        self.told
    }

    pub(super) fn lacks_status(&self) -> bool {
        self.stream.is_some() && self.errors.tells_success() && !self.told
    }

    /// Whether a frame may follow what was sent.
    fn may_speak(&self) -> bool {
        // A part of a head is held back.
        let is_divided = !self.framing.is_head_whole() || self.frame == Frame::Divided;
        self.framing.is_between_frames() || self.divides && is_divided
    }

    /// Has frames sent on. Those of data that are here in part are divided.
    pub(super) fn pass(&mut self, mut bytes: Bytes, outgoing: &mut VecDeque<Bytes>) {
        self.divides |= self.stream.is_some() && self.framing.is_between_frames();
        if !self.divides {
            self.framing.pass(&bytes);
            send(outgoing, bytes);
            return;
        }
        // Bytes at the beginning that go as they are.
        let mut as_they_are = 0;
        while as_they_are < bytes.len() {
            let begins = self.framing.is_between_frames();
            let taken = self.framing.take(&bytes[as_they_are..]);
            let is_whole = self.framing.is_between_frames();
            if taken.head > 0 && self.framing.is_head_whole() {
                let is_data = self.framing.stream().is_some();
                self.frame = match is_data && !is_whole {
                    true => Frame::Divided,
                    false => Frame::AsItIs,
                };
            }
            let ends_stream = is_whole && self.framing.head()[4] & FIN != 0;
            if self.framing.is_head_whole() && self.framing.stream() == self.stream {
                self.told |= taken.payload > 0 || ends_stream;
            }
            if self.frame == Frame::AsItIs && begins && self.framing.is_head_whole() {
                as_they_are += taken.head + taken.payload;
                continue;
            }
            // The head is changed, held back or comes late.
            send(outgoing, bytes.split_to(as_they_are));
            drop(bytes.split_to(taken.head));
            as_they_are = taken.payload;
            if let Some(head) = self.head(taken.head > 0, taken.payload) {
                send(outgoing, Bytes::copy_from_slice(&head));
            }
        }
        send(outgoing, bytes);
    }

    /// The head of what is sent of a frame; nothing where it has one already or gets it later.
    fn head(&self, is_first: bool, payload: usize) -> Option<[u8; HEAD_BYTES]> {
        let mut head = self.framing.head();
        match self.frame {
            _ if !self.framing.is_head_whole() => None,
            Frame::AsItIs => is_first.then_some(head),
            Frame::Divided if payload == 0 => None,
            Frame::Divided => {
                if self.framing.left() > 0 {
                    head[4] &= !FIN;
                }
                set_length(&mut head, payload);
                Some(head)
            }
        }
    }

    /// Has the rest written.
    pub(super) async fn finish_frame(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        unsent: VecDeque<Bytes>,
    ) -> io::Result<()> {
        for bytes in unsent {
            io.write_all(&bytes).await?;
        }
        match self.may_speak() {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    pub(super) async fn say(
        &self,
        io: &mut (impl AsyncWrite + Unpin),
        failure: &Failure,
    ) -> io::Result<()> {
        let stream = self.stream.filter(|_| !self.told);
        let stream = stream.ok_or(io::ErrorKind::NotConnected)?;
        let mut words = self.errors.of(failure);
        words.truncate(MAX_PAYLOAD_BYTES);
        let [a, b, c, d] = stream.to_be_bytes();
        let mut head = [a, b, c, d, FIN, 0, 0, 0];
        set_length(&mut head, words.len());
        io.write_all(&[&head[..], &words].concat()).await?;
        io.flush().await
    }
}

fn set_length(head: &mut [u8; HEAD_BYTES], length: usize) {
    let [.., high, middle, low] = length.to_be_bytes();
    head[5..].copy_from_slice(&[high, middle, low]);
}

fn send(outgoing: &mut VecDeque<Bytes>, bytes: Bytes) {
    if !bytes.is_empty() {
        outgoing.push_back(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes_api::upgrade::channels::spdy::testing::{Client, data, frame};
    use http::StatusCode;
    use proptest::prelude::*;

    const ERRORS: u32 = 1;
    const OUTPUT: u32 = 5;

    /// One whose client has opened its streams, in pieces of this size.
    fn opened(errors: Errors, size: usize) -> Spdy {
        let (mut spdy, mut client) = (Spdy::new(errors), Client::new());
        let sent = [
            client.opens(ERRORS, &[("streamtype", "error")]),
            client.opens(OUTPUT, &[("streamtype", "stdout")]),
        ];
        sent.concat().chunks(size).for_each(|it| spdy.read_sent(it));
        assert_eq!(spdy.stream, Some(ERRORS));
        assert!(spdy.search.is_none(), "its memory is given back");
        spdy
    }

    /// What the client is sent of these bytes.
    fn passed(spdy: &mut Spdy, bytes: &[u8]) -> Vec<u8> {
        let mut outgoing = VecDeque::new();
        spdy.pass(Bytes::copy_from_slice(bytes), &mut outgoing);
        outgoing.into_iter().flatten().collect()
    }

    /// Streams and their bytes, where all frames are whole; and streams that have ended.
    fn read(bytes: &[u8]) -> (Vec<(u32, Vec<u8>)>, Vec<u32>) {
        let (mut framing, mut all, mut ended) =
            (Framing::default(), Vec::<(u32, Vec<u8>)>::new(), Vec::new());
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = framing.take(rest);
            let (here, behind) = rest.split_at(taken.head + taken.payload);
            rest = behind;
            if let Some(stream) = framing.stream() {
                assert!(!ended.contains(&stream), "{stream} goes on behind its end");
                match all.iter_mut().find(|(known, _)| *known == stream) {
                    Some((_, bytes)) => bytes.extend(&here[taken.head..]),
                    None => all.push((stream, here[taken.head..].to_vec())),
                }
                if framing.head()[4] & FIN != 0 {
                    ended.push(stream);
                }
            }
        }
        assert!(framing.is_between_frames());
        (all, ended)
    }

    async fn say(spdy: &Spdy) -> Vec<u8> {
        let mut said = Vec::new();
        let failure = Failure::new(StatusCode::BAD_GATEWAY, "the tunnel broke");
        spdy.say(&mut said, &failure).await.unwrap();
        said
    }

    #[tokio::test]
    async fn a_failure_follows_whatever_was_sent_of_the_output() {
        let pings = frame([0x80, 3, 0, 6], &[0, 0, 0, 1]);
        let sent = [data(OUTPUT, b"the output"), pings, data(OUTPUT, &[7; 300])].concat();
        for size in [1, 2, 3, 7, 9, 64, sent.len()] {
            for end in 0..sent.len() {
                let mut spdy = opened(Errors::Status, size);
                let pieces = sent[..end].chunks(size);
                let mut all: Vec<u8> = pieces.flat_map(|it| passed(&mut spdy, it)).collect();
                assert!(spdy.lacks_status());
                // Only behind a part of a ping is no place.
                let within_ping = (26..30).contains(&end);
                assert_eq!(spdy.may_speak(), !within_ping, "{end} in pieces of {size}");
                if within_ping {
                    continue;
                }

                all.extend(say(&spdy).await);

                let (streams, ended) = read(&all);
                let failure = streams.iter().find(|(stream, _)| *stream == ERRORS);
                let status: serde_json::Value =
                    serde_json::from_slice(&failure.unwrap().1).unwrap();
                assert_eq!(status["status"], "Failure");
                assert_eq!(status["message"], "GitLab Agent Server: the tunnel broke");
                assert_eq!(ended, [ERRORS]);
            }
        }
    }

    #[test]
    fn what_the_cluster_says_is_not_said_again() {
        let ends = {
            let mut frame = data(ERRORS, b"");
            frame[4] = FIN;
            frame
        };
        for said in [data(ERRORS, br#"{"status":"Success"}"#), ends] {
            for size in [1, 5, 100] {
                let mut spdy = opened(Errors::Status, size);
                for piece in said.chunks(size) {
                    passed(&mut spdy, piece);
                }
                assert!(spdy.is_told() && !spdy.lacks_status());
            }
        }
        let mut words = opened(Errors::Words, 1);
        passed(&mut words, &data(OUTPUT, b"x"));
        assert!(!words.is_told() && !words.lacks_status());
    }

    #[test]
    fn whole_frames_are_passed_on_as_they_are() {
        let mut spdy = opened(Errors::Status, 100);
        let sent = Bytes::from([data(OUTPUT, b"a"), data(OUTPUT, &[0; 9000])].concat());
        let mut outgoing = VecDeque::new();

        spdy.pass(sent.clone(), &mut outgoing);

        assert_eq!(outgoing.len(), 1);
        assert_eq!(outgoing[0].as_ptr(), sent.as_ptr(), "nothing is copied");
    }

    #[test]
    fn the_stream_is_looked_for_among_the_first_only() {
        let (mut spdy, mut client) = (Spdy::new(Errors::Status), Client::new());
        for stream in 0..5 {
            spdy.read_sent(&client.opens(2 * stream + 1, &[("streamtype", "data")]));
        }
        spdy.read_sent(&client.opens(11, &[("streamtype", "error")]));

        assert!(spdy.search.is_none() && spdy.stream.is_none());
        let odd = b"\x00\x00\x00";
        assert_eq!(passed(&mut spdy, odd), odd, "nothing is held back");
        assert!(!spdy.may_speak() && !spdy.lacks_status());
    }

    #[test]
    fn little_is_kept_of_a_connection() {
        assert!(size_of::<Spdy>() <= 64, "{} bytes", size_of::<Spdy>());
    }

    proptest! {
        #[test]
        fn streams_are_the_same_however_frames_come(
            frames in prop::collection::vec((0..4_u32, 0..200_usize, any::<bool>()), 1..12),
            size in 1..250_usize,
        ) {
            let sent: Vec<u8> = frames.iter().flat_map(|(kind, length, _)| match kind {
                0 => frame([0x80, 3, 0, 2], &vec![9; *length]),
                stream => data(*stream * 2 + 1, &vec![0x80; *length]),
            }).collect();
            let mut spdy = opened(Errors::Status, size);

            let all: Vec<u8> = sent.chunks(size).flat_map(|it| passed(&mut spdy, it)).collect();

            prop_assert_eq!(read(&all), read(&sent));
        }

        #[test]
        fn any_bytes_are_harmless(sent: Vec<u8>, answered: Vec<u8>, size in 1..40_usize) {
            let mut spdy = Spdy::new(Errors::Status);
            sent.chunks(size).for_each(|it| spdy.read_sent(it));
            for mut spdy in [spdy, opened(Errors::Words, 9)] {
                let mut all = 0;
                for piece in answered.chunks(size) {
                    all += passed(&mut spdy, piece).len();
                }
                prop_assert!(all <= answered.len() * 9);
            }
        }
    }
}
