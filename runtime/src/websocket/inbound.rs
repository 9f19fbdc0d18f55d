//! What arrives: frames out, payload in place. Pure.

use std::io;

use super::{
    Role,
    frame::{
        self, GOING_AWAY, Header, MAX_CONTROL, MAX_HEADER, NO_CODE, NORMAL, Opcode, PROTOCOL_ERROR,
        TOO_BIG, UNSUPPORTED,
    },
    outbound::Outbound,
};

/// Longest message accepted, in bytes; the same as GitLab's kas and agentk.
const MAX_MESSAGE: u64 = 10 << 20;

/// Where reading stands.
#[derive(Debug)]
pub(super) struct Inbound {
    role: Role,
    /// The start of a header that was cut by the end of a read.
    header: [u8; MAX_HEADER],
    header_read: u8,
    /// The frame being read.
    opcode: Opcode,
    in_frame: bool,
    fin: bool,
    mask: [u8; 4],
    left: u32,
    /// Bytes of the message being read, if one is.
    message: Option<u32>,
    control: Vec<u8>,
}

/// Why nothing more is to be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The peer closed the WebSocket.
    Closed { code: u16, reason: String },
    /// The other end broke the protocol; the close frame says so.
    Broken { code: u16, why: &'static str },
    /// The stream below ended between two frames.
    Eof,
    /// The stream below ended inside a frame.
    Cut,
}

impl End {
    /// What reading returns from now on.
    pub(super) fn result(&self) -> io::Result<()> {
        match self {
            Self::Eof
            | Self::Closed {
                code: NORMAL | GOING_AWAY | NO_CODE,
                ..
            } => Ok(()),
            Self::Closed { code, reason } => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                format!("the peer closed the WebSocket with code {code}: {reason:?}"),
            )),
            Self::Broken { why, .. } => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the peer broke the WebSocket protocol: {why}"),
            )),
            Self::Cut => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection ended inside a WebSocket frame",
            )),
        }
    }

    /// The code of the close frame that answers it.
    pub(super) fn answer(&self) -> Option<u16> {
        match self {
            Self::Closed { code: NO_CODE, .. } => Some(NORMAL),
            Self::Closed { code, .. } | Self::Broken { code, .. } => Some(*code),
            Self::Eof | Self::Cut => None,
        }
    }

    /// The reason in the close frame that answers it.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Broken { why, .. } => (*why).to_owned(),
            Self::Closed { .. } | Self::Eof | Self::Cut => String::new(),
        }
    }
}

fn broken(why: &'static str) -> End {
    End::Broken {
        code: PROTOCOL_ERROR,
        why,
    }
}

impl Inbound {
    pub(super) fn new(role: Role) -> Self {
        Self {
            role,
            header: [0; MAX_HEADER],
            header_read: 0,
            opcode: Opcode::Binary,
            in_frame: false,
            fin: false,
            mask: [0; 4],
            left: 0,
            message: None,
            control: Vec::new(),
        }
    }

    /// Moves the payload in `bytes` to their front, unmasked, and says how
    /// long it is. Answers to pings go to `answers`.
    pub(super) fn unframe(
        &mut self,
        bytes: &mut [u8],
        answers: &mut Outbound,
    ) -> (usize, Option<End>) {
        let (mut read, mut kept) = (0, 0);
        while read < bytes.len() {
            let step = if self.in_frame {
                self.take_payload(bytes, read, &mut kept)
            } else {
                match self.take_header(&bytes[read..]) {
                    Ok(step) => step,
                    Err(end) => return (kept, Some(end)),
                }
            };
            read += step;
            if let Some(end) = self.finish_frame(answers) {
                return (kept, Some(end));
            }
        }
        (kept, None)
    }

    /// How it ends when the stream below ends here.
    pub(super) fn cut(&self) -> End {
        if self.in_frame || self.header_read > 0 || self.message.is_some() {
            End::Cut
        } else {
            End::Eof
        }
    }

    fn take_payload(&mut self, bytes: &mut [u8], read: usize, kept: &mut usize) -> usize {
        let taken = (bytes.len() - read).min(self.left as usize);
        let range = read..read + taken;
        self.left -= u32::try_from(taken).expect("no more than what is left");
        if self.opcode.is_control() {
            let payload = &mut bytes[range];
            frame::apply_mask(&mut self.mask, payload);
            self.control.extend_from_slice(payload);
        } else {
            bytes.copy_within(range, *kept);
            frame::apply_mask(&mut self.mask, &mut bytes[*kept..*kept + taken]);
            *kept += taken;
        }
        taken
    }

    fn take_header(&mut self, bytes: &[u8]) -> Result<usize, End> {
        let mut taken = 0;
        loop {
            let have = usize::from(self.header_read);
            let want = frame::header_length(&self.header[..have]);
            let piece = (want - have).min(bytes.len() - taken);
            self.header[have..have + piece].copy_from_slice(&bytes[taken..taken + piece]);
            self.header_read += u8::try_from(piece).expect("a header is short");
            taken += piece;
            if have + piece < want {
                return Ok(taken);
            }
            if frame::header_length(&self.header[..want]) == want {
                self.header_read = 0;
                let header = frame::parse(&self.header[..want]);
                return self.start_frame(header).map(|()| taken);
            }
        }
    }

    fn start_frame(&mut self, header: Header) -> Result<(), End> {
        if header.reserved {
            return Err(broken("reserved bits are set"));
        }
        match (self.role, header.mask) {
            (Role::Server, None) => return Err(broken("a client's frame is not masked")),
            (Role::Client, Some(_)) => return Err(broken("a server's frame is masked")),
            (Role::Server, Some(mask)) => self.mask = mask,
            (Role::Client, None) => self.mask = [0; 4],
        }
        let opcode = header.opcode.ok_or(broken("unknown opcode"))?;
        match opcode {
            Opcode::Close | Opcode::Ping | Opcode::Pong => check_control(&header)?,
            Opcode::Text => {
                return Err(End::Broken {
                    code: UNSUPPORTED,
                    why: "expected binary messages, got text",
                });
            }
            Opcode::Binary | Opcode::Continuation => {
                self.continue_message(opcode, header.length)?
            }
        }
        self.opcode = opcode;
        self.fin = header.fin;
        self.left = u32::try_from(header.length).expect("limited above");
        self.in_frame = true;
        Ok(())
    }

    fn continue_message(&mut self, opcode: Opcode, length: u64) -> Result<(), End> {
        let so_far = match (opcode, self.message) {
            (Opcode::Continuation, None) => return Err(broken("continuation of no message")),
            (Opcode::Continuation, Some(so_far)) => so_far,
            (_, Some(_)) => return Err(broken("a message begins inside another one")),
            (_, None) => 0,
        };
        let total = u64::from(so_far).saturating_add(length);
        if total > MAX_MESSAGE {
            return Err(End::Broken {
                code: TOO_BIG,
                why: "the message is longer than 10 MiB",
            });
        }
        self.message = Some(u32::try_from(total).expect("limited above"));
        Ok(())
    }

    fn finish_frame(&mut self, answers: &mut Outbound) -> Option<End> {
        if !self.in_frame || self.left > 0 {
            return None;
        }
        self.in_frame = false;
        if !self.opcode.is_control() {
            if self.fin {
                self.message = None;
            }
            return None;
        }
        let payload = std::mem::take(&mut self.control);
        match self.opcode {
            Opcode::Ping => answers.control(Opcode::Pong, &payload),
            Opcode::Close => return Some(closed(&payload)),
            Opcode::Pong | Opcode::Text | Opcode::Binary | Opcode::Continuation => {}
        }
        None
    }
}

fn check_control(header: &Header) -> Result<(), End> {
    if !header.fin {
        return Err(broken("a control frame is fragmented"));
    }
    if header.length > MAX_CONTROL as u64 {
        return Err(broken("a control frame is longer than 125 bytes"));
    }
    Ok(())
}

fn closed(payload: &[u8]) -> End {
    match payload.split_first_chunk::<2>() {
        Some((code, reason)) => {
            let code = u16::from_be_bytes(*code);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return broken("invalid close code");
            }
            End::Closed {
                code,
                reason: String::from_utf8_lossy(reason).into_owned(),
            }
        }
        None if payload.is_empty() => End::Closed {
            code: NO_CODE,
            reason: String::new(),
        },
        None => broken("half a close code"),
    }
}
