//! Connection requests.

use kvof_spec::{
    IntoBytes,
    fabrics::{CNTLID_DYNAMIC, CNTLID_MAX},
    rdma::{CmRequest, CmStatus},
};
use proptest::prelude::*;

use super::{
    super::{ADMIN_IN_CAPSULE, RdmaSettings, Request, RequestLimits, check_request},
    rig::LIMITS,
};

fn check(qid: u16, hrqsize: u16, hsqsize: u16, cntlid: u16) -> Result<Request, CmStatus> {
    check_request(CmRequest::new(qid, hrqsize, hsqsize, cntlid).as_bytes(), &LIMITS)
}

#[test]
fn what_hosts_send_is_accepted() {
    // Linux: 32 entries for the admin queue, and what was asked for on the command line for the others.
    let admin = check(0, 32, 31, 0).unwrap();
    assert_eq!(admin, Request { qid: 0, hrqsize: 32, hsqsize: 31, cntlid: 0 });
    assert_eq!(admin.entries(), 32);
    assert_eq!(check(8, 128, 127, 1), Ok(Request { qid: 8, hrqsize: 128, hsqsize: 127, cntlid: 1 }));
    // Kernels that do not know CNTLID yet leave it zero.
    assert!(check(1, 128, 127, 0).is_ok());
    assert!(check(1, 128, 127, CNTLID_MAX).is_ok());
    // It is reserved for an admin queue.
    assert!(check(0, 32, 31, CNTLID_DYNAMIC).is_ok());
    // Fewer receives than sends.
    assert!(check(1, 1, 127, 0).is_ok());
    assert!(check(1, 2, 1, 0).is_ok());
}

#[test]
fn the_cm_pads_and_may_cut() {
    let mut bytes = CmRequest::new(1, 128, 127, 0).as_bytes().to_vec();
    bytes.resize(56, 0);
    assert!(check_request(&bytes, &LIMITS).is_ok());
    assert!(check_request(&bytes[..32], &LIMITS).is_ok());
    for len in 0..32 {
        assert_eq!(check_request(&bytes[..len], &LIMITS), Err(CmStatus::INVALID_LENGTH), "{len}");
    }
}

#[test]
fn refusals_say_which_field_is_wrong() {
    let mut bytes = CmRequest::new(0, 32, 31, 0).as_bytes().to_vec();
    bytes[0] = 1;
    assert_eq!(check_request(&bytes, &LIMITS), Err(CmStatus::INVALID_RECFMT));
    assert_eq!(check(9, 128, 127, 0), Err(CmStatus::INVALID_QID));
    assert_eq!(check(u16::MAX, 128, 127, 0), Err(CmStatus::INVALID_QID));
    assert_eq!(check(0, 32, 0, 0), Err(CmStatus::INVALID_HSQSIZE));
    assert_eq!(check(1, 128, 0, 0), Err(CmStatus::INVALID_HSQSIZE));
    assert_eq!(check(0, 33, 32, 0), Err(CmStatus::INVALID_HSQSIZE));
    assert_eq!(check(1, 129, 128, 0), Err(CmStatus::INVALID_HSQSIZE));
    assert_eq!(check(1, 129, u16::MAX, 0), Err(CmStatus::INVALID_HSQSIZE));
    assert_eq!(check(0, 0, 31, 0), Err(CmStatus::INVALID_HRQSIZE));
    assert_eq!(check(1, 128, 127, CNTLID_MAX + 1), Err(CmStatus::INVALID_CNTLID));
    assert_eq!(check(1, 128, 127, CNTLID_DYNAMIC), Err(CmStatus::INVALID_CNTLID));
}

#[test]
fn receive_buffers_take_the_longest_capsule() {
    let settings = RdmaSettings { in_capsule: 4096, ..RdmaSettings::default() };
    assert_eq!(settings.capsule_max(0), 64 + ADMIN_IN_CAPSULE as usize);
    assert_eq!(settings.capsule_max(1), 64 + 4096);
}

proptest! {
    #[test]
    fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..80), most in 2..=u16::MAX) {
        let limits = RequestLimits { admin_entries: most, queue_entries: most, io_queues: most };
        if let Ok(request) = check_request(&bytes, &limits) {
            prop_assert!((2..=most).contains(&request.entries()));
            prop_assert!(request.hrqsize > 0 && request.qid <= most);
        }
    }
}
