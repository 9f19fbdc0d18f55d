//! The protobuf wire format: numbered fields, one after the other.

/// The content of a field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content<'a> {
    Number(i64),
    Bytes(&'a [u8]),
}

/// Iterates over the fields of a message; `None` as an item says that the bytes are broken.
#[derive(Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Content<'a>)> {
        let key = self.varint()?;
        let content = match key & 7 {
            0 => Content::Number(self.varint()?.cast_signed()),
            1 => Content::Bytes(self.take(8)?),
            2 => {
                let length = self.varint()?;
                Content::Bytes(self.take(length)?)
            }
            5 => Content::Bytes(self.take(4)?),
            _ => return None,
        };
        Some((key >> 3, content))
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Option<(u64, Content<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// The number in that field of the message, 0 when it is not there.
pub(super) fn first_number(message: &[u8], wanted: u64) -> Option<i64> {
    for entry in Reader::new(message) {
        match entry? {
            (number, Content::Number(found)) if number == wanted => return Some(found),
            _ => {}
        }
    }
    Some(0)
}

/// The text in that field of the message, empty when it is not there.
pub(super) fn first_text(message: &[u8], wanted: u64) -> Option<String> {
    for entry in Reader::new(message) {
        match entry? {
            (number, Content::Bytes(found)) if number == wanted => {
                return String::from_utf8(found.to_vec()).ok();
            }
            _ => {}
        }
    }
    Some(String::new())
}
