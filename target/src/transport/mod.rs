//! Transports: what turns bytes or messages of a network into capsules, and completions back.

pub mod tcp;
