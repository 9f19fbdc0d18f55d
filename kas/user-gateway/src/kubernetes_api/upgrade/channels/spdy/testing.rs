//! Frames for tests.

use super::headers::dictionary;
use flate2::{Compress, Compression, FlushCompress};

/// A client that opens streams.
pub(crate) struct Client(Compress);

impl Client {
    /// One that has opened none.
    pub(crate) fn new() -> Self {
        let mut zlib = Compress::new(Compression::best(), true);
        zlib.set_dictionary(&dictionary()).unwrap();
        Self(zlib)
    }

    /// The frame that opens a stream with these headers.
    pub(crate) fn opens(&mut self, stream: u32, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut block = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            block.extend(text.as_bytes());
        }
        let mut packed = Vec::with_capacity(block.len() + 1024);
        let flush = FlushCompress::Sync;
        self.0.compress_vec(&block, &mut packed, flush).unwrap();
        let stream = stream.to_be_bytes();
        frame([0x80, 3, 0, 1], &[&stream[..], &[0; 6], &packed].concat())
    }
}

/// A frame whose head begins so.
pub(crate) fn frame(head: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&head[..], &[0], &length[1..], payload].concat()
}

/// Data of a stream.
pub(crate) fn data(stream: u32, payload: &[u8]) -> Vec<u8> {
    frame(stream.to_be_bytes(), payload)
}
