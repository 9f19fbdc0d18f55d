//! Who was revoked gets nothing more by a resumption.
