//! The advertisement of refs, for the fuzz targets (`tests/fuzz`).

use super::refs::{Advertisement, Head, Progress};

/// Reads an advertisement in pieces of so many bytes until `main` is found in it.
///
/// # Errors
/// What is wrong with it.
pub fn head_of_main(
    advertisement: &[u8],
    piece: usize,
) -> Result<Option<Head>, impl std::error::Error> {
    let mut refs = Advertisement::new("main");
    for data in advertisement.chunks(piece) {
        match refs.push(data)? {
            Progress::More => {}
            Progress::Found(head) => return Ok(Some(head)),
            Progress::Missing => return Ok(None),
        }
    }
    Ok::<_, super::refs::RefsError>(None)
}
