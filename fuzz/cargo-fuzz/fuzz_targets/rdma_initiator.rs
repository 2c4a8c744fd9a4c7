#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| kvof_fuzz::rdma_initiator(data));
