//! Requests and answers by number: the same for the same seed.
//!
//! Text stands for bytes: a character is the byte of its number, see [`bytes`].

/// A small generator of pseudo-random numbers (xorshift64*), so that a case can be made again.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64, case: u64) -> Self {
        let mut dice = Self((seed ^ (case + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1);
        for _ in 0..4 {
            dice.next();
        }
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("it has 64 bits");
        usize::try_from((self.next() >> 16) % end).expect("it is below end")
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn length(&mut self, from: &[usize]) -> Vec<u8> {
        let length = from[self.below(from.len())];
        (0..length).map(|_| self.next().to_le_bytes()[3]).collect()
    }
}

/// How the end of a body is told over HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length,
    Chunked,
    /// With extensions of chunks, and trailers behind them, which a proxy may drop.
    ChunkedAndMore,
    /// The connection ends with it.
    Close,
}

/// A request as it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) framing: Framing,
}

/// An answer as it is given.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) framing: Framing,
}

const SEGMENTS: [&str; 12] = [
    "api",
    "v1",
    "namespaces",
    "a-b.c",
    "pods",
    "x:y",
    "a+b",
    "a,b;c=d@e",
    "~$&!*'()",
    "p_q",
    "0",
    "log",
];
const ODD_SEGMENTS: [&str; 16] = [
    "a%2Fb",
    "%2e%2e",
    "..",
    ".",
    "",
    "%FF",
    "a%20b",
    "%25",
    "a|b",
    "{x}",
    "\u{c3}\u{a9}",
    "%C3%A9",
    "[::1]",
    "a\\b",
    "%7c%7C",
    "^",
];
const PAIRS: [&str; 10] = [
    "limit=500",
    "labelSelector=a%3Db%2Cc",
    "a=1",
    "a=2",
    "z=9",
    "pretty",
    "b=",
    "timeout=32s",
    "fieldSelector=x=y",
    "c=+%20",
];
const ODD_PAIRS: [&str; 14] = [
    "a;b",
    "a=1;b=2",
    "a=%zz",
    "%",
    "a=%FF",
    "",
    "=v",
    "=",
    "x==y",
    "a=|{}\\^",
    "\u{c3}\u{a9}=\u{c3}\u{a9}",
    "a=/?",
    "%61=3",
    "a='()!*",
];
/// What no URI has: its parser refuses it, or cuts what follows.
const RAW: [&str; 8] = ["\"", "<", ">", "`", "#", "#x\"y", "\u{e9}", "#"];
const METHODS: [&str; 8] = [
    "GET", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "DELETE",
];
const HEADERS: [&str; 8] = [
    "accept",
    "x-custom",
    "x-custom",
    "kubectl-command",
    "if-match",
    "traceparent",
    "x-forwarded-for",
    "warning",
];
const VALUES: [&str; 9] = [
    "application/json",
    "a, b;q=0.5",
    "\"7\"",
    "x",
    "a=b; c",
    "",
    "two  spaces\tand a tab",
    "\u{c3}\u{a9}",
    "<>\"`#%{}",
];
const BODIES: [usize; 6] = [0, 1, 7, 900, 5000, 60_000];

/// The request with this number.
pub(crate) fn request(seed: u64, case: u64) -> Request {
    let mut dice = Dice::new(seed, case);
    let target = target(&mut dice);
    let method = dice.pick(&METHODS);
    let headers = request_headers(&mut dice);
    let body = match method {
        "GET" | "HEAD" => Vec::new(),
        _ => dice.length(&BODIES),
    };
    let framing = match dice.below(6) {
        0 => Framing::Chunked,
        1 => Framing::ChunkedAndMore,
        _ => Framing::Length,
    };
    Request {
        method,
        target,
        headers,
        body,
        framing,
    }
}

fn target(dice: &mut Dice) -> String {
    let mut target = String::new();
    for _ in 0..=dice.below(5) {
        target.push('/');
        target.push_str(if dice.one_in(6) {
            dice.pick(&ODD_SEGMENTS)
        } else {
            dice.pick(&SEGMENTS)
        });
    }
    if dice.one_in(60) {
        target.push_str("/%zz");
    }
    if dice.one_in(30) {
        target.push_str(dice.pick(&RAW));
    }
    for number in 0..dice.below(5) {
        target.push(if number == 0 { '?' } else { '&' });
        target.push_str(if dice.one_in(6) {
            dice.pick(&ODD_PAIRS)
        } else {
            dice.pick(&PAIRS)
        });
        if dice.one_in(60) {
            target.push_str(dice.pick(&RAW));
        }
    }
    target
}

fn request_headers(dice: &mut Dice) -> Vec<(String, String)> {
    let user_agent = format!("kubectl/v1.{}", dice.below(40));
    let mut headers = vec![
        ("user-agent".to_owned(), user_agent),
        ("accept-encoding".to_owned(), "identity".to_owned()),
    ];
    for name in HEADERS {
        if dice.one_in(3) {
            headers.push((name.to_owned(), dice.pick(&VALUES).to_owned()));
        }
    }
    if dice.one_in(60) {
        // Not UTF-8.
        headers.push(("x-latin".to_owned(), "caf\u{e9}".to_owned()));
    }
    if dice.one_in(40) {
        for number in 0..[90, 200, 1500][dice.below(3)] {
            headers.push((format!("x-many-{}", number % 150), number.to_string()));
        }
    }
    headers
}

/// The answer to the request with this number.
pub(crate) fn answer(seed: u64, case: u64) -> Answer {
    let mut dice = Dice::new(seed ^ 0xA5, case);
    let statuses = [
        200, 200, 200, 201, 202, 204, 206, 299, 301, 304, 400, 403, 404, 409, 410, 418, 422, 429,
        500, 502, 503, 504, 599,
    ];
    let status = statuses[dice.below(statuses.len())];
    let types = [
        "application/json",
        "text/plain; charset=utf-8",
        "application/vnd.kubernetes.protobuf",
    ];
    let mut headers = vec![("content-type".to_owned(), dice.pick(&types).to_owned())];
    for name in [
        "etag",
        "audit-id",
        "warning",
        "warning",
        "cache-control",
        "location",
        "retry-after",
        "x-kubernetes-pf-flowschema-uid",
    ] {
        if dice.one_in(2) {
            let value = dice.pick(&[
                "299 - \"deprecated\"",
                "no-cache, private",
                "\"abc\"",
                "e1-f2",
                "",
                "\u{c3}\u{a9}",
            ]);
            headers.push((name.to_owned(), value.to_owned()));
        }
    }
    if dice.one_in(40) {
        for number in 0..300 {
            headers.push(("warning".to_owned(), format!("299 - \"{number}\"")));
        }
    }
    let framing = match dice.below(8) {
        0..=2 => Framing::Chunked,
        3 => Framing::ChunkedAndMore,
        4 => Framing::Close,
        _ => Framing::Length,
    };
    Answer {
        status,
        headers,
        body: dice.length(&[0, 1, 17, 300, 9000, 100_000]),
        framing,
    }
}

/// The bytes that text stands for.
pub(crate) fn bytes(text: &str) -> Vec<u8> {
    let byte = |c| u8::try_from(u32::from(c)).expect("each character stands for a byte");
    text.chars().map(byte).collect()
}

/// The text that stands for bytes.
pub(crate) fn text(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}
