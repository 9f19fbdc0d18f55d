//! Watches, for the fuzz targets (`tests/fuzz`).

use bytes::Bytes;

use super::{
    Encoding,
    frames::Frames,
    position::{Point, Position},
};

/// What a client gets of a watch.
#[derive(Debug, PartialEq, Eq)]
pub struct Cut {
    /// What was passed on before the end.
    pub passed: Vec<u8>,
    /// What was held back until then.
    pub held: Vec<u8>,
    /// The version behind which it would go on after a break.
    pub version: Option<String>,
}

pub(crate) fn cut(
    protobuf: bool,
    hides_bookmarks: bool,
    pieces: impl IntoIterator<Item = Bytes>,
) -> Cut {
    let encoding = match protobuf {
        true => Encoding::Protobuf,
        false => Encoding::Json,
    };
    let mut frames = Frames::new(encoding, Position::new(Some("1"), None, hides_bookmarks));
    let mut passed = Vec::new();
    for piece in pieces {
        frames.push(piece);
        take(&mut frames, &mut passed);
    }
    let version = match frames.point() {
        Some(Point::Behind(version)) => Some(version.into()),
        Some(Point::Start | Point::End) | None => None,
    };
    frames.end();
    let mut held = Vec::new();
    take(&mut frames, &mut held);
    Cut {
        passed,
        held,
        version,
    }
}

fn take(frames: &mut Frames, to: &mut Vec<u8>) {
    while let Some(bytes) = frames.pop() {
        to.extend_from_slice(&bytes);
    }
}
