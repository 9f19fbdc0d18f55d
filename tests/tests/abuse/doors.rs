//! The wrong protocol at a port, and the right one at the wrong port.
