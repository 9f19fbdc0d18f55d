//! One caller takes all that there is; the others go on.
