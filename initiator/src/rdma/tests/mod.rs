//! The host queue against a model of a queue pair and of a controller: commands in, capsules out, RDMA on exposed memory.

mod hostile;
mod limits;
mod model;
mod transfers;

use std::collections::BTreeMap;

use kvof_spec::sgl::Sgl;
use kvof_spec::{IntoBytes, Status};

use super::{
    rig::{Capsule, LIMIT, OPCODE, Own, Rig, limits, pattern},
    *,
};
use crate::{buffer::Payload, queue::TimeLimit};
