//! Reads YAML into typed values, with errors that name file, line and column.

mod field;
mod noting;
mod seconds;
mod write;

pub use field::{NonEmpty, list};
pub use noting::{UnknownKey, read_noting};
pub use runtime::yaml::{Mistake, Spot, nearest, read};
use runtime::yaml::{mistake, options, unknown};
pub use seconds::{PositiveSeconds, Seconds};
pub use write::write;
