//! Both ends against each other, and against hand-made frames.

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};

use super::{
    frame::{MAX_HEADER, apply_mask, encode},
    *,
};

fn raw(opcode: Opcode, fin: bool, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; MAX_HEADER];
    let length = encode(opcode, payload.len(), mask, &mut header);
    if !fin {
        header[0] &= 0x7F;
    }
    let mut payload = payload.to_vec();
    if let Some(mut mask) = mask {
        apply_mask(&mut mask, &mut payload);
    }
    [&header[..length], &payload].concat()
}

fn masked(opcode: Opcode, fin: bool, payload: &[u8]) -> Vec<u8> {
    raw(opcode, fin, Some([7, 77, 177, 27]), payload)
}

/// A server's end, and the wire.
fn server() -> (WebSocket<DuplexStream>, DuplexStream) {
    let (wire, inner) = duplex(64 << 10);
    (WebSocket::new(inner, Role::Server, None), wire)
}

async fn send_all(
    mut io: impl AsyncWrite + Unpin,
    pieces: &[Vec<u8>],
    vectored: bool,
) -> io::Result<()> {
    for piece in pieces {
        let mut rest = &piece[..];
        while !rest.is_empty() {
            let (first, second) = rest.split_at(rest.len() / 3);
            let sent = if vectored {
                let slices = [IoSlice::new(first), IoSlice::new(&[]), IoSlice::new(second)];
                io.write_vectored(&slices).await?
            } else {
                io.write(rest).await?
            };
            rest = &rest[sent..];
        }
        io.flush().await?;
    }
    Ok(())
}

async fn receive_all(mut io: impl AsyncRead + Unpin, step: usize) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut buffer = vec![0; step];
    loop {
        match io.read(&mut buffer).await? {
            0 => return Ok(all),
            read => all.extend_from_slice(&buffer[..read]),
        }
    }
}

async fn receive(mut io: impl AsyncRead + Unpin, step: usize, length: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = vec![0; step];
    while all.len() < length {
        let read = io.read(&mut buffer).await.unwrap();
        assert_ne!(read, 0);
        all.extend_from_slice(&buffer[..read]);
    }
    all
}

fn length(pieces: &[Vec<u8>]) -> usize {
    pieces.iter().map(Vec::len).sum()
}

async fn exchange(
    wire: usize,
    step: usize,
    to_server: &[Vec<u8>],
    to_client: &[Vec<u8>],
    vectored: bool,
) -> (Vec<u8>, Vec<u8>) {
    let ping = vectored.then_some(Duration::from_millis(1));
    let (client, server) = duplex(wire);
    let (mut client_read, mut client_write) = split(WebSocket::new(client, Role::Client, ping));
    let (mut server_read, server_write) = split(WebSocket::new(server, Role::Server, ping));
    let (to_server_length, to_client_length) = (length(to_server), length(to_client));
    let (sent, answered, at_server, at_client) = tokio::join!(
        send_all(&mut client_write, to_server, vectored),
        send_all(server_write, to_client, vectored),
        receive(&mut server_read, step, to_server_length),
        receive(&mut client_read, step, to_client_length),
    );
    sent.unwrap();
    answered.unwrap();
    let (goodbye, rest) = tokio::join!(client_write.shutdown(), receive_all(server_read, step));
    goodbye.unwrap();
    assert_eq!(rest.unwrap(), b"");
    (at_server, at_client)
}

fn paused(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await })
        .expect("it is not stuck");
}

fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let length = prop_oneof![8 => 1usize..200, 1 => 60_000usize..70_000];
    let piece = (length, any::<u8>()).prop_map(|(length, seed)| {
        let byte = |at: usize| u8::try_from(at * 31 % 251).unwrap() ^ seed;
        (0..length).map(byte).collect()
    });
    prop::collection::vec(piece, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn bytes_arrive_in_order_through_narrow_wires(
        wire in prop_oneof![1usize..20, Just(4096)],
        step in prop_oneof![1usize..20, Just(4096)],
        to_server in pieces(),
        to_client in pieces(),
        vectored: bool,
    ) {
        paused(async {
            let arrived = exchange(wire, step, &to_server, &to_client, vectored).await;
            assert_eq!(arrived, (to_server.concat(), to_client.concat()));
        });
    }

    #[test]
    fn garbage_never_panics(bytes: Vec<u8>, client: bool) {
        let role = if client { Role::Client } else { Role::Server };
        let mut bytes = bytes;
        let _ = Inbound::new(role).unframe(&mut bytes, &mut Outbound::new(role));
    }
}

#[test]
fn frames_may_be_cut_anywhere() {
    let message = [
        masked(Opcode::Binary, false, b"hello "),
        masked(Opcode::Ping, true, b"there?"),
        masked(Opcode::Continuation, false, b""),
        masked(Opcode::Continuation, true, b"world"),
        masked(Opcode::Pong, true, b"unasked"),
        masked(Opcode::Binary, true, &[b'x'; 300]),
    ]
    .concat();
    let expected = [&b"hello world"[..], &[b'x'; 300]].concat();

    for cut in 0..=message.len() {
        let (first, second) = message.split_at(cut);
        let mut inbound = Inbound::new(Role::Server);
        let mut answers = Outbound::new(Role::Server);
        let mut payload = Vec::new();
        for part in [first, second] {
            let mut part = part.to_vec();
            let (kept, end) = inbound.unframe(&mut part, &mut answers);
            assert_eq!(end, None);
            payload.extend_from_slice(&part[..kept]);
        }

        assert_eq!(payload, expected, "cut at {cut}");
        assert!(answers.has_queue());
        assert_eq!(inbound.cut(), End::Eof);
    }
}

#[tokio::test]
async fn a_ping_is_answered() {
    let (mut server, mut wire) = server();
    let bytes = [
        masked(Opcode::Ping, true, b"hi"),
        masked(Opcode::Binary, true, b"data"),
    ];
    wire.write_all(&bytes.concat()).await.unwrap();

    let mut data = [0; 4];
    server.read_exact(&mut data).await.unwrap();
    server.flush().await.unwrap();

    assert_eq!(&data, b"data");
    let expected = raw(Opcode::Pong, true, None, b"hi");
    let mut pong = vec![0; expected.len()];
    wire.read_exact(&mut pong).await.unwrap();
    assert_eq!(pong, expected);
}

#[tokio::test]
async fn wrong_frames_are_told_and_end_the_connection() {
    let reserved = {
        let mut frame = masked(Opcode::Binary, true, b"x");
        frame[0] |= 0x40;
        frame
    };
    let unknown = {
        let mut frame = masked(Opcode::Binary, true, b"x");
        frame[0] = 0x83;
        frame
    };
    let too_big = [0x82, 0xFF, 0, 0, 0, 0, 0, 0xA0, 0, 1, 0, 0, 0, 0].to_vec();
    let endless = [
        0x82, 0xFF, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0,
    ]
    .to_vec();
    let grown = [
        masked(Opcode::Binary, false, &vec![0; 6 << 20]),
        masked(Opcode::Continuation, true, &vec![0; 6 << 20]),
    ]
    .concat();
    let nested = [
        masked(Opcode::Binary, false, b"x"),
        masked(Opcode::Binary, true, b"x"),
    ]
    .concat();
    for (name, frame, code) in [
        ("reserved bit", reserved, 1002u16),
        ("unknown opcode", unknown, 1002),
        ("not masked", raw(Opcode::Binary, true, None, b"x"), 1002),
        ("split ping", masked(Opcode::Ping, false, b"x"), 1002),
        ("long ping", masked(Opcode::Ping, true, &[0; 126]), 1002),
        ("no start", masked(Opcode::Continuation, true, b"x"), 1002),
        ("nested", nested, 1002),
        ("half a code", masked(Opcode::Close, true, b"x"), 1002),
        ("bad code", masked(Opcode::Close, true, &[3, 0xED]), 1002),
        ("text", masked(Opcode::Text, true, b"x"), 1003),
        ("too big", too_big, 1009),
        ("endless", endless, 1009),
        ("too big in parts", grown, 1009),
    ] {
        let (mut server, wire) = server();
        let (mut wire_read, mut wire_write) = split(wire);

        let read = receive_all(&mut server, 64 << 10);
        let write = async {
            let _ = wire_write.write_all(&frame).await;
            std::future::pending::<()>().await;
        };
        let error = tokio::select! {
            read = read => read.unwrap_err(),
            () = write => unreachable!("it stays open"),
        };

        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{name}: {error}");
        let mut close = [0; 4];
        wire_read.read_exact(&mut close).await.unwrap();
        assert_eq!(close[0], 0x88, "{name}");
        assert_eq!(u16::from_be_bytes([close[2], close[3]]), code, "{name}");
        let again = server.read(&mut [0; 8]).await;
        assert!(again.is_err(), "{name}");
        let write = server.write(b"more").await.unwrap_err();
        assert_eq!(write.kind(), io::ErrorKind::BrokenPipe, "{name}");
    }
}

#[tokio::test]
async fn a_close_is_answered_and_read_as_the_end() {
    for (payload, answer, fails) in [
        (&[3, 0xE8][..], 1000u16, false),
        (&[3, 0xE9, b'b', b'y', b'e'], 1001, false),
        (&[], 1000, false),
        (&[3, 0xF3, b'x'], 1011, true),
    ] {
        let (mut server, mut wire) = server();
        let data = masked(Opcode::Binary, true, b"last");
        let close = masked(Opcode::Close, true, payload);
        wire.write_all(&[data, close].concat()).await.unwrap();

        let mut last = [0; 4];
        server.read_exact(&mut last).await.unwrap();
        let end = server.read(&mut [0; 8]).await;

        assert_eq!(&last, b"last");
        assert_eq!(end.is_err(), fails);
        let mut reply = [0; 4];
        wire.read_exact(&mut reply).await.unwrap();
        assert_eq!(reply[..2], [0x88, 2]);
        assert_eq!(reply[2..], answer.to_be_bytes());
    }
}

#[tokio::test]
async fn a_server_that_shuts_down_says_once_that_it_goes_away() {
    let (mut server, mut wire) = server();

    server.shutdown().await.unwrap();
    let _ = server.shutdown().await;

    let mut bytes = Vec::new();
    drop(server);
    wire.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, [0x88, 2, 3, 0xE9]);
}

#[tokio::test]
async fn a_connection_cut_inside_a_frame_is_an_error() {
    let (mut server, mut wire) = server();
    let frame = masked(Opcode::Binary, true, b"data");
    wire.write_all(&frame[..8]).await.unwrap();
    drop(wire);

    let error = receive_all(&mut server, 64).await.unwrap_err();

    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test(start_paused = true)]
async fn pings_are_sent_while_reading_and_never_inside_a_frame() {
    let (mut wire, inner) = duplex(6);
    let ping = Some(Duration::from_secs(10));
    let (mut read, mut write) = split(WebSocket::new(inner, Role::Server, ping));

    let sender = async {
        write.write_all(&[b'x'; 100]).await.unwrap();
        write.flush().await.unwrap();
    };
    let slow_wire = async {
        let mut bytes = vec![0; 102];
        for byte in &mut bytes {
            tokio::time::sleep(Duration::from_secs(1)).await;
            *byte = wire.read_u8().await.unwrap();
        }
        let mut ping = [0; 2];
        wire.read_exact(&mut ping).await.unwrap();
        drop(wire);
        (bytes, ping)
    };
    let mut byte = [0];
    let (end, (), (bytes, ping)) = tokio::join!(read.read(&mut byte), sender, slow_wire);

    assert_eq!(end.unwrap(), 0);
    assert_eq!(bytes, [&[0x82, 100][..], &[b'x'; 100]].concat());
    assert_eq!(ping, [0x89, 0]);
}

#[tokio::test]
async fn a_flood_of_pings_costs_no_memory() {
    let (mut server, mut wire) = server();
    let flood = masked(Opcode::Ping, true, &[0; 125]).repeat(10_000);
    let data = masked(Opcode::Binary, true, b"data");

    let mut received = [0; 4];
    let send = async {
        wire.write_all(&flood).await.unwrap();
        wire.write_all(&data).await.unwrap();
    };
    let (_, ()) = tokio::join!(server.read_exact(&mut received), send);

    assert_eq!(&received, b"data");
    assert!(server.outbound.queue_length() < 4096);
}

#[test]
fn an_idle_websocket_is_small() {
    let size = size_of::<WebSocket<()>>();

    assert!(size <= 160, "{size}");
}
