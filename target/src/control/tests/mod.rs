//! Tests of the control plane as a host sees it.
