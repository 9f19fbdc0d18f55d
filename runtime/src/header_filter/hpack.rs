//! Walks an HPACK header block (RFC 7541) without a table. Pure.
//!
//! Only a literal whose name is a static entry, or spelled out, is looked at.
//! A name could also refer to an entry of the dynamic table, but no encoder
//! that prefers the static table (Go's does) ever writes that of a field that
//! the static table has.

use std::borrow::Cow;

use httlib_huffman::DecoderSpeed;

/// A pseudo-header field whose values may have to be replaced.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static [u8],
    /// The entries of the static table that have its name.
    pub(crate) static_entries: &'static [usize],
    /// Something acceptable of the same length, if the value is not.
    pub(crate) replacement: fn(&[u8]) -> Option<Vec<u8>>,
    /// Whether a block has no more than one.
    pub(crate) is_single: bool,
    /// Bytes of the frames of one header block that are looked at. Pseudo-headers come first.
    pub(crate) max_bytes: usize,
    /// Whether a longer header block ends the connection.
    pub(crate) refuses_longer: bool,
}

/// The block with acceptable values of a field; `None` if it is acceptable, or if
/// it is broken, which is for the real decoder to find. The end of a block that is `cut` is to come.
pub(super) fn rewrite(block: &[u8], field: &Field, cut: bool) -> Option<Vec<u8>> {
    let mut output: Option<Vec<u8>> = None;
    let mut walk = Walk { block, at: 0 };
    let mut copied = 0;
    while walk.at < block.len() {
        let value = match walk.value_of(field) {
            Some(value) => value,
            None if cut => break,
            None => return None,
        };
        let Some(value) = value else {
            continue;
        };
        let Some(other) = (field.replacement)(&value.decoded()?) else {
            if field.is_single {
                return None;
            }
            continue;
        };
        let output = output.get_or_insert_with(|| Vec::with_capacity(block.len() * 2));
        output.extend_from_slice(&block[copied..value.start]);
        write_string(&other, output);
        copied = walk.at;
    }
    let mut output = output?;
    output.extend_from_slice(&block[copied..]);
    Some(output)
}

struct Walk<'b> {
    block: &'b [u8],
    at: usize,
}

/// A string literal and where it starts in the block.
#[derive(Clone, Copy)]
struct Text<'b> {
    start: usize,
    huffman: bool,
    bytes: &'b [u8],
}

impl<'b> Walk<'b> {
    /// StreamFilter over one representation; the value, if it is that of this field.
    fn value_of(&mut self, field: &Field) -> Option<Option<Text<'b>>> {
        let name_bits = match *self.block.get(self.at)? {
            0b1000_0000.. => {
                self.integer(7)?;
                return Some(None);
            }
            0b0100_0000.. => 6,
            0b0010_0000.. => {
                self.integer(5)?;
                return Some(None);
            }
            _ => 4,
        };
        let is_it = match self.integer(name_bits)? {
            0 => {
                let name = self.text()?;
                // Coded or not, it is not longer.
                name.bytes.len() <= field.name.len() && *name.decoded()? == *field.name
            }
            index => field.static_entries.contains(&index),
        };
        let value = self.text()?;
        Some(is_it.then_some(value))
    }

    fn text(&mut self) -> Option<Text<'b>> {
        let start = self.at;
        let huffman = self.block.get(start)? & 0x80 != 0;
        let length = self.integer(7)?;
        let bytes = self.block.get(self.at..)?.get(..length)?;
        self.at += length;
        Some(Text {
            start,
            huffman,
            bytes,
        })
    }

    fn integer(&mut self, bits: u32) -> Option<usize> {
        let mask = (1 << bits) - 1;
        let mut value = usize::from(*self.block.get(self.at)?) & mask;
        self.at += 1;
        if value < mask {
            return Some(value);
        }
        for shift in (0..28).step_by(7) {
            let byte = usize::from(*self.block.get(self.at)?);
            self.at += 1;
            value += (byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

impl<'b> Text<'b> {
    fn decoded(self) -> Option<Cow<'b, [u8]>> {
        if !self.huffman {
            return Some(self.bytes.into());
        }
        let mut decoded = Vec::with_capacity(self.bytes.len() * 2);
        httlib_huffman::decode(self.bytes, &mut decoded, DecoderSpeed::FourBits).ok()?;
        Some(decoded.into())
    }
}

fn write_string(text: &[u8], output: &mut Vec<u8>) {
    let length = text.len();
    if length < 0x7F {
        output.push(u8::try_from(length).expect("it is below 127"));
    } else {
        output.push(0x7F);
        let mut rest = length - 0x7F;
        while rest >= 0x80 {
            output.push(u8::try_from(rest & 0x7F).expect("it has 7 bits") | 0x80);
            rest >>= 7;
        }
        output.push(u8::try_from(rest).expect("it has 7 bits"));
    }
    output.extend_from_slice(text);
}
