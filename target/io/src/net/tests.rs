//! Tests of socket I/O.
