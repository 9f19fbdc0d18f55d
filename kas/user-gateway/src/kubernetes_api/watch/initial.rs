//! What a client has of a watch-list that is not through.

/// Of a longer list the place is not known until it is through: 8 bytes are remembered for each object, 64 KiB a watch.
pub(super) const MAX_OBJECTS: usize = 8192;

/// The objects of a watch-list that its client has, by their resource versions: an API server gives each change a
/// version of its own. After a break the list is asked for again; objects that are as they were are kept from the
/// client. Those that do not come again were changed or deleted meanwhile, which the second list cannot say of the
/// latter: then the client must begin anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Initial {
    /// Versions that the client has; those before the last break come first, in order.
    told: Vec<u64>,
    /// For each of those before the break, whether it has not come again.
    awaited: Vec<bool>,
}

/// How an event stands to what the client has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// The client does not have it.
    Now,
    /// The client has it.
    Before,
    /// Two objects have this version, of which the client has one.
    Differently,
    /// There is no version that could be compared, or there are too many.
    Unknown,
}

impl Initial {
    /// Takes note of an object.
    pub(super) fn see(&mut self, version: Option<&str>) -> Told {
        let Some(version) = version.and_then(|it| it.parse().ok()) else {
            return Told::Unknown;
        };
        let before = &self.told[..self.awaited.len()];
        if let Ok(index) = before.binary_search(&version) {
            return match std::mem::take(&mut self.awaited[index]) {
                true => Told::Before,
                false => Told::Differently,
            };
        }
        if self.told.len() == MAX_OBJECTS {
            return Told::Unknown;
        }
        self.told.push(version);
        Told::Now
    }

    /// The list begins again.
    pub(super) fn repeat(&mut self) {
        self.told.sort_unstable();
        self.awaited = vec![true; self.told.len()];
    }

    /// Whether the client has something that did not come again.
    pub(super) fn is_incomplete(&self) -> bool {
        self.awaited.contains(&true)
    }
}
