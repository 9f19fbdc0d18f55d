//! `loadtest` as a program: verdicts, reports, bad input, and what Ctrl-C leaves behind.

mod bad_input;
mod page;
mod pieces;
mod place;
mod runs;
