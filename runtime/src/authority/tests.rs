//! The filter against a reference HPACK decoder.

use std::{collections::VecDeque, io};

use fluke_hpack::Decoder;
use http::uri::Authority;
use proptest::prelude::*;
use tokio::io::AsyncReadExt;

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const GO: &[u8] = b"wss:%2F%2Fkas.example.com%2F-%2Fkubernetes-agent%2F";

type Headers = Vec<(Vec<u8>, Vec<u8>)>;

/// How a field is written.
#[derive(Debug, Clone, Copy)]
enum Form {
    Incremental,
    Without,
    Never,
}

#[derive(Debug, Clone)]
enum Field {
    /// By static index 1, or spelled out.
    Authority(Form, bool, bool, Vec<u8>),
    Other(Form, bool, Vec<u8>, Vec<u8>),
    Reference(usize),
    Static(u8),
    Resize,
}

#[derive(Debug, Clone)]
enum Frame {
    Headers {
        fields: Vec<Field>,
        padding: Option<u8>,
        priority: bool,
        cuts: Vec<prop::sample::Index>,
    },
    Other(u8, Vec<u8>),
}

/// Writes header blocks and knows what can be referred to.
#[derive(Default)]
struct Encoder {
    sizes: VecDeque<usize>,
}

impl Encoder {
    fn block(&mut self, fields: &[Field]) -> Vec<u8> {
        let mut block = Vec::new();
        for field in fields {
            match field {
                Field::Authority(form, huffman, spelled, value) => {
                    let name = spelled.then_some(&b":authority"[..]);
                    self.literal(&mut block, *form, *huffman, name, value);
                }
                Field::Other(form, huffman, name, value) => {
                    self.literal(&mut block, *form, *huffman, Some(name), value);
                }
                Field::Reference(at) if !self.sizes.is_empty() => {
                    integer(&mut block, 0x80, 7, 62 + at % self.sizes.len());
                }
                Field::Reference(_) => {}
                Field::Static(index) => block.push(0x80 | index),
                Field::Resize => {
                    if block.is_empty() {
                        integer(&mut block, 0x20, 5, 4096);
                        block.push(0x82);
                    }
                }
            }
        }
        block
    }

    fn literal(
        &mut self,
        block: &mut Vec<u8>,
        form: Form,
        huffman: bool,
        name: Option<&[u8]>,
        value: &[u8],
    ) {
        let index = usize::from(name.is_none());
        match form {
            Form::Incremental => integer(block, 0x40, 6, index),
            Form::Without => integer(block, 0, 4, index),
            Form::Never => integer(block, 0x10, 4, index),
        }
        if let Some(name) = name {
            string(block, huffman, name);
        }
        string(block, huffman, value);
        if matches!(form, Form::Incremental) {
            let name = name.map_or(10, <[u8]>::len);
            self.sizes.push_front(name + value.len() + 32);
            while self.sizes.iter().sum::<usize>() > 4096 {
                self.sizes.pop_back();
            }
        }
    }
}

fn integer(block: &mut Vec<u8>, first: u8, bits: u32, value: usize) {
    let mask = (1 << bits) - 1;
    if value < mask {
        block.push(first | u8::try_from(value).unwrap());
        return;
    }
    block.push(first | u8::try_from(mask).unwrap());
    let mut rest = value - mask;
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

fn string(block: &mut Vec<u8>, huffman: bool, text: &[u8]) {
    if huffman {
        let mut coded = Vec::new();
        httlib_huffman::encode(text, &mut coded).unwrap();
        integer(block, 0x80, 7, coded.len());
        block.extend(coded);
    } else {
        integer(block, 0, 7, text.len());
        block.extend(text);
    }
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [
        length[1], length[2], length[3], kind, flags, 0, 0, 0, stream,
    ];
    [&head, payload].concat()
}

fn headers(
    block: &[u8],
    padding: Option<u8>,
    priority: bool,
    cuts: &[prop::sample::Index],
) -> Vec<u8> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(block.len() + 1)).collect();
    cuts.extend([0, block.len()]);
    cuts.sort_unstable();
    let pieces: Vec<_> = cuts.windows(2).map(|w| &block[w[0]..w[1]]).collect();
    let mut bytes = Vec::new();
    for (at, piece) in pieces.iter().enumerate() {
        let end = if at + 1 == pieces.len() { 0x4 } else { 0 };
        if at > 0 {
            bytes.extend(frame(0x9, end, 3, piece));
            continue;
        }
        let mut flags = end | 0x1;
        let mut payload = Vec::new();
        if let Some(padding) = padding {
            flags |= 0x8;
            payload.push(padding);
        }
        if priority {
            flags |= 0x20;
            payload.extend([0, 0, 0, 1, 16]);
        }
        payload.extend(*piece);
        payload.resize(payload.len() + usize::from(padding.unwrap_or(0)), 0);
        bytes.extend(frame(0x1, flags, 3, &payload));
    }
    bytes
}

fn connection(frames: &[Frame]) -> Vec<u8> {
    let mut encoder = Encoder::default();
    let mut bytes = PREFACE.to_vec();
    for part in frames {
        match part {
            Frame::Other(kind, payload) => bytes.extend(frame(*kind, 0, 3, payload)),
            Frame::Headers {
                fields,
                padding,
                priority,
                cuts,
            } => {
                let block = encoder.block(fields);
                bytes.extend(headers(&block, *padding, *priority, cuts));
            }
        }
    }
    bytes
}

/// What a reader of HTTP/2 sees.
#[derive(Debug, PartialEq)]
enum Seen {
    Headers { priority: Vec<u8>, fields: Headers },
    Other(Vec<u8>),
}

fn see(mut bytes: &[u8]) -> Vec<Seen> {
    let mut decoder = Decoder::new();
    let mut seen = Vec::new();
    assert!(bytes.starts_with(PREFACE));
    bytes = &bytes[PREFACE.len()..];
    let mut open: Option<(Vec<u8>, Vec<u8>)> = None;
    while !bytes.is_empty() {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        assert!(length <= 16 << 10);
        let (whole, rest) = bytes.split_at(9 + length);
        bytes = rest;
        let (kind, flags) = (whole[3], whole[4]);
        let mut payload = &whole[9..];
        match kind {
            0x1 => {
                assert!(open.is_none());
                if flags & 0x8 != 0 {
                    payload = &payload[1..payload.len() - usize::from(payload[0])];
                }
                let priority = if flags & 0x20 == 0 { 0 } else { 5 };
                let (priority, block) = payload.split_at(priority);
                let priority = [&[flags & 0x1], &whole[5..9], priority].concat();
                open = Some((priority, block.to_vec()));
            }
            0x9 => open.as_mut().unwrap().1.extend(payload),
            _ => {
                assert!(open.is_none());
                seen.push(Seen::Other(whole.to_vec()));
            }
        }
        if matches!(kind, 0x1 | 0x9) && flags & 0x4 != 0 {
            let (priority, block) = open.take().unwrap();
            let fields = decoder.decode(&block).unwrap();
            seen.push(Seen::Headers { priority, fields });
        }
    }
    seen
}

fn acceptable(mut seen: Vec<Seen>) -> Vec<Seen> {
    for part in &mut seen {
        let Seen::Headers { fields, .. } = part else {
            continue;
        };
        for (name, value) in fields {
            if name == b":authority" && Authority::try_from(&value[..]).is_err() {
                for byte in value {
                    if !byte.is_ascii_alphanumeric() && *byte != b'.' {
                        *byte = b'-';
                    }
                }
            }
        }
    }
    seen
}

/// Passes `bytes` through the filter in reads of `step` bytes at most.
async fn filtered(bytes: &[u8], pieces: &[usize], step: usize) -> io::Result<Vec<u8>> {
    let mut rest = bytes;
    let mut chunks = Vec::new();
    let mut sizes = pieces.iter().copied().cycle();
    while !rest.is_empty() {
        let size = sizes.next().unwrap_or(rest.len()).clamp(1, rest.len());
        let (chunk, after) = rest.split_at(size);
        chunks.push(Ok::<_, io::Error>(bytes::Bytes::copy_from_slice(chunk)));
        rest = after;
    }
    let reader = tokio_util::io::StreamReader::new(futures_util::stream::iter(chunks));
    let mut filter = AuthorityFilter::new(reader);
    let mut output = Vec::new();
    let mut buffer = vec![0; step];
    loop {
        match filter.read(&mut buffer).await? {
            0 => return Ok(output),
            read => output.extend_from_slice(&buffer[..read]),
        }
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => Just(GO.to_vec()),
        2 => "[a-z0-9.:%/-]{0,40}".prop_map(String::into_bytes),
        1 => Just(b"kas.example.com:443".to_vec()),
        1 => prop::collection::vec(32u8..127, 900..1200),
        1 => prop::collection::vec(any::<u8>(), 0..30),
    ]
}

fn form() -> impl Strategy<Value = Form> {
    prop_oneof![
        3 => Just(Form::Incremental),
        1 => Just(Form::Without),
        1 => Just(Form::Never)
    ]
}

fn field() -> impl Strategy<Value = Field> {
    let name = "[a-z-]{1,20}".prop_map(String::into_bytes);
    prop_oneof![
        3 => (form(), any::<bool>(), any::<bool>(), value())
            .prop_map(|(form, huffman, spelled, value)| Field::Authority(form, huffman, spelled, value)),
        2 => (form(), any::<bool>(), name, value())
            .prop_map(|(form, huffman, name, value)| Field::Other(form, huffman, name, value)),
        3 => any::<usize>().prop_map(Field::Reference),
        2 => (1u8..=61).prop_map(Field::Static),
        1 => Just(Field::Resize),
    ]
}

fn frames() -> impl Strategy<Value = Frame> {
    let fields = prop::collection::vec(field(), 0..8);
    let cuts = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    let kind = prop_oneof![Just(0u8), 2u8..=8];
    prop_oneof![
        3 => (fields, any::<Option<u8>>(), any::<bool>(), cuts).prop_map(
            |(fields, padding, priority, cuts)| Frame::Headers { fields, padding, priority, cuts }
        ),
        1 => (kind, prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(kind, payload)| Frame::Other(kind, payload)),
    ]
}

proptest! {
    #[test]
    fn everything_but_bad_authorities_stays(
        frames in prop::collection::vec(frames(), 0..12),
        pieces in prop::collection::vec(prop_oneof![1usize..12, 1usize..4000], 1..8),
        step in prop_oneof![1usize..12, Just(8192)],
    ) {
        let bytes = connection(&frames);

        let output = block_on(filtered(&bytes, &pieces, step)).unwrap();

        prop_assert_eq!(see(&output), acceptable(see(&bytes)));
    }

    #[test]
    fn garbage_never_panics(bytes: Vec<u8>, block: Vec<u8>, pieces in prop::collection::vec(1usize..20, 1..4)) {
        let wild = [PREFACE, &bytes].concat();
        let _ = block_on(filtered(&wild, &pieces, 64));
        let framed = [PREFACE, &frame(1, 0x4, 1, &block), &frame(1, 0x2c, 1, &block)].concat();
        let output = block_on(filtered(&framed, &pieces, 64)).unwrap();
        prop_assert!(output.len() >= PREFACE.len() + 18);
    }
}

#[test]
fn a_go_agents_call_may_be_cut_anywhere() {
    let call = |field: Field| Frame::Headers {
        fields: vec![Field::Static(3), Field::Static(6), field],
        padding: None,
        priority: false,
        cuts: Vec::new(),
    };
    let first = Field::Authority(Form::Incremental, true, false, GO.to_vec());
    let data = Frame::Other(0, b"data".to_vec());
    let bytes = connection(&[call(first), data, call(Field::Reference(0))]);

    for cut in 1..bytes.len() {
        let output = block_on(filtered(&bytes, &[cut, bytes.len()], 8192)).unwrap();

        let seen = see(&output);
        assert_eq!(seen, acceptable(see(&bytes)), "cut at {cut}");
        let Seen::Headers { fields, .. } = &seen[2] else {
            panic!("{seen:?}")
        };
        assert_eq!(
            fields[2].1,
            b"wss--2F-2Fkas.example.com-2F--2Fkubernetes-agent-2F"
        );
    }
}

#[test]
fn a_long_block_is_cut_into_frames_that_every_peer_accepts() {
    let long = Field::Other(Form::Without, false, b"x".to_vec(), vec![b'y'; 40_000]);
    let bad = Field::Authority(Form::Without, true, false, GO.to_vec());
    let block = Encoder::default().block(&[bad, long]);
    let mut bytes = [PREFACE, &frame(1, 0x1, 3, &block[..16_000])].concat();
    bytes.extend(frame(9, 0, 3, &block[16_000..32_000]));
    bytes.extend(frame(9, 0x4, 3, &block[32_000..]));

    let output = block_on(filtered(&bytes, &[5000], 8192)).unwrap();

    assert_eq!(see(&output), acceptable(see(&bytes)));
    assert_ne!(output, bytes);
}

#[test]
fn endless_headers_are_refused() {
    let flood = frame(9, 0, 3, &[]).repeat(10_000);
    let huge = frame(1, 0x4, 3, &vec![0x82; 70_000]);
    for frames in [[frame(1, 0, 3, &[]), flood].concat(), huge] {
        let bytes = [PREFACE, &frames].concat();

        let error = block_on(filtered(&bytes, &[1000], 1000)).unwrap_err();

        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}

#[test]
fn an_idle_filter_is_small() {
    let size = size_of::<AuthorityFilter<()>>();

    assert!(size <= 32, "{size}");
}
