//! Names that would become paths, and watchers who take more than their share.
