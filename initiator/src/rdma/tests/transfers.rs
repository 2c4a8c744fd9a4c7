//! Where data go, in what form, and what comes back.

use kvof_spec::sgl::KEYED_LENGTH_MAX;

use super::*;
use crate::Error;

#[test]
fn a_command_without_data_says_so_as_linux_does() {
    let mut rig = Rig::new();
    for (key, payload) in [Payload::None, Payload::to_controller(Vec::new()), Payload::from_controller(Vec::new())]
        .into_iter()
        .enumerate()
    {
        rig.submit(key, payload);
        let capsule = rig.capsule();
        assert_eq!(capsule.sqe.sgl1.decode(), Sgl::Keyed { address: 0, length: 0, key: 0, invalidate: false });
        assert!(capsule.behind.is_empty() && rig.exposed.is_empty());
        rig.respond(&capsule, Status::SUCCESS, 7);
        let answer = rig.answer(key).result.unwrap();
        assert_eq!((answer.cqe.dw0.get(), answer.received), (7, 0));
    }
}

#[test]
fn small_data_to_the_controller_go_in_the_capsule() {
    let mut rig = Rig::new();
    let data = pattern(4096, 1);
    rig.submit(1, Payload::to_controller(data.clone()));
    let capsule = rig.capsule();
    assert_eq!(capsule.sqe.sgl1.decode(), Sgl::InCapsule { offset: 0, length: 4096 });
    assert!(rig.exposed.is_empty() && rig.read(&capsule) == data);
    rig.respond(&capsule, Status::SUCCESS, 0);
    let answer = rig.answer(1);
    assert_eq!(answer.result.unwrap().received, 0);
    assert_eq!(answer.payload.take::<Vec<u8>>().unwrap(), data);
}

#[test]
fn larger_data_are_exposed_for_the_command_alone_and_not_copied() {
    let mut rig = Rig::new();
    let data = pattern(4097, 2);
    let at = data.as_ptr();
    rig.submit(1, Payload::to_controller(data.clone()));
    let mut target = Buffer::new(100);
    target.host_mut().unwrap().fill(0xee);
    rig.submit(2, Payload::from_controller(target));
    let (store, read) = (rig.capsule(), rig.capsule());
    assert!(matches!(store.descriptors()[..], [(_, 4097, _, true)]));
    assert_eq!(rig.read(&store), data);
    // The key of one command is no key for the other, and no way to write what is only read.
    let (address, _, key, _) = store.descriptors()[0];
    assert!(rig.reach(address, 1, key, Access::Write).is_none());
    assert!(rig.reach(address, 4098, key, Access::Read).is_none());
    rig.write(&read, &[7; 100]);
    rig.respond(&read, Status::SUCCESS, 0);
    rig.respond(&store, Status::CAPACITY_EXCEEDED, 0);
    assert!(rig.exposed.is_empty());
    let answer = rig.answer(2);
    assert_eq!(answer.result.unwrap().received, 100);
    assert_eq!(answer.payload.take::<Buffer>().unwrap()[..], [7; 100]);
    let answer = rig.answer(1);
    assert_eq!(answer.result.unwrap_err().status(), Some(Status::CAPACITY_EXCEEDED));
    let back: Vec<u8> = answer.payload.take().unwrap();
    assert!(back == data && back.as_ptr() != at, "the vector that went in");
}

#[test]
fn a_vector_comes_back_where_it_was() {
    let mut rig = Rig::new();
    let vec = vec![0u8; 5000];
    let at = vec.as_ptr();
    rig.submit(1, Payload::from_controller(vec));
    let capsule = rig.capsule();
    rig.write(&capsule, &pattern(5000, 3));
    rig.respond(&capsule, Status::SUCCESS, 0);
    let back: Vec<u8> = rig.answer(1).payload.take().unwrap();
    assert_eq!((back.as_ptr(), back == pattern(5000, 3)), (at, true));
}

#[test]
fn buffers_of_other_types_are_copied() {
    let mut rig = Rig::new();
    rig.submit(1, Payload::to_controller(Own(pattern(6000, 4))));
    rig.submit(2, Payload::from_controller(Own(vec![0xee; 300])));
    rig.submit_filling(3, Payload::from_controller(vec![0xee; 300].into_boxed_slice()), Extent::Value);
    let (store, read, retrieve) = (rig.capsule(), rig.capsule(), rig.capsule());
    assert_eq!(rig.read(&store), pattern(6000, 4));
    rig.write(&read, &pattern(300, 5));
    rig.write(&retrieve, &pattern(300, 6));
    rig.respond(&store, Status::SUCCESS, 0);
    rig.respond(&read, Status::SUCCESS, 0);
    rig.respond(&retrieve, Status::SUCCESS, 100);
    assert_eq!(rig.answer(1).payload.take::<Own>().unwrap().0, pattern(6000, 4));
    assert_eq!(rig.answer(2).payload.take::<Own>().unwrap().0, pattern(300, 5));
    let back = rig.answer(3).payload.take::<Box<[u8]>>().unwrap();
    // Of a copy only what was brought goes back.
    assert_eq!(back[..], [&pattern(300, 6)[..100], &[0xee; 200]].concat()[..]);
}

#[test]
fn what_a_command_that_reads_has_brought_follows_its_kind() {
    let mut rig = Rig::new();
    for (key, (extent, dw0, received)) in
        [(Extent::Buffer, 7, 300), (Extent::Value, 0, 0), (Extent::Value, 299, 299), (Extent::Value, 1 << 20, 300)]
            .into_iter()
            .enumerate()
    {
        rig.submit_filling(key, Payload::from_controller(vec![0u8; 300]), extent);
        let capsule = rig.capsule();
        rig.respond(&capsule, Status::SUCCESS, dw0);
        assert_eq!(rig.answer(key).result.unwrap().received, received, "{extent:?} {dw0}");
    }
}

#[test]
fn more_than_one_descriptor_holds_takes_a_list() {
    let mut rig = Rig::new();
    let len = 2 * KEYED_LENGTH_MAX as usize + 1;
    rig.submit(1, Payload::from_controller(Buffer::new(len)));
    let capsule = rig.capsule();
    let descriptors = capsule.descriptors();
    assert_eq!(descriptors.len(), 3);
    assert_eq!(descriptors.iter().map(|d| d.1 as usize).sum::<usize>(), len);
    assert!(descriptors.iter().all(|d| d.2 == descriptors[0].2 && !d.3), "one key, which the host invalidates");
    let data = pattern(len, 7);
    rig.write(&capsule, &data);
    rig.give_back = false;
    rig.respond(&capsule, Status::SUCCESS, 0);
    assert!(rig.answers.is_empty() && rig.exposed.values().all(|e| e.concealing && !e.dead));
    rig.conceal_all();
    let answer = rig.answer(1);
    assert_eq!(answer.result.unwrap().received as usize, len);
    assert!(answer.payload.take::<Buffer>().unwrap()[..] == data);
}

#[test]
fn what_no_list_holds_is_refused_with_the_rule() {
    let one = Limits { descriptors: 1, ..limits() };
    let mut rig = Rig::with(one, 32);
    rig.submit(1, Payload::from_controller(Buffer::new(KEYED_LENGTH_MAX as usize)));
    assert!(matches!(rig.capsule().descriptors()[..], [(_, KEYED_LENGTH_MAX, _, true)]));
    rig.submit(2, Payload::from_controller(Buffer::new(KEYED_LENGTH_MAX as usize + 1)));
    let answer = rig.answer(2);
    let error = answer.result.unwrap_err();
    assert!(matches!(error, Error::Argument { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("16777216") && text.contains("MSDBD") && text.contains("takes 1 keyed"), "{text}");
    assert_eq!(answer.payload.take::<Buffer>().unwrap().len(), 1 << 24);
    assert!(rig.queue.ended().is_none());
}

#[test]
fn no_key_is_offered_for_invalidation_where_the_device_cannot() {
    let mut rig = Rig::new();
    rig.invalidatable = false;
    rig.submit(1, Payload::from_controller(vec![0u8; 10]));
    let capsule = rig.capsule();
    assert!(matches!(capsule.descriptors()[..], [(_, 10, _, false)]));
    rig.respond(&capsule, Status::SUCCESS, 0);
    assert!(rig.answer(1).result.is_ok());
}

#[test]
fn the_answer_waits_for_the_dead_key_and_for_the_arrival() {
    let mut rig = Rig::new();
    (rig.acknowledge, rig.give_back) = (false, false);
    rig.submit(1, Payload::from_controller(vec![0u8; 10]));
    rig.submit(2, Payload::None);
    let (read, plain) = (rig.capsule(), rig.capsule());
    // Responses may be seen before the arrival of their commands is told.
    rig.respond(&read, Status::SUCCESS, 0);
    rig.respond(&plain, Status::SUCCESS, 0);
    assert!(rig.answers.is_empty());
    rig.acknowledge_all();
    assert!(rig.answer(2).result.is_ok());
    assert!(rig.answers.is_empty());
    rig.conceal_all();
    assert!(rig.answer(1).result.is_ok());
    assert!(!rig.queue.is_busy());
}

#[test]
fn memory_that_cannot_be_exposed_fails_its_command_alone() {
    let mut rig = Rig::new();
    rig.refuse = true;
    rig.submit(1, Payload::from_controller(vec![3u8; 10]));
    let answer = rig.answer(1);
    let text = answer.result.unwrap_err().to_string();
    assert!(text.contains("no more registrations") && text.contains("10 bytes"), "{text}");
    assert_eq!(answer.payload.take::<Vec<u8>>().unwrap(), [3; 10]);
    rig.refuse = false;
    rig.submit(2, Payload::from_controller(vec![3u8; 10]));
    let capsule = rig.capsule();
    rig.respond(&capsule, Status::SUCCESS, 0);
    assert!(rig.answer(2).result.is_ok());
}
