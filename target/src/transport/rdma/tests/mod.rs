//! Connections with a real target behind them, and a host whose memory is a map.

mod capsule;
mod data;
mod life;
mod mix;
mod request;
mod rig;
mod sgl;
