//! Runs the checks of `interop-tests/checks/` in one guest and reports each of them.
