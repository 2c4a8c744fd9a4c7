//! What lies on the devices, for people who look into a failure.

use kvof_store::{
    device::sim::SimDevices,
    format::{PAGE, SUPERBLOCK_LEN, StripeHeader, Superblock},
    geometry::Geometry,
};

/// Every superblock and every whole stripe header of every device.
pub fn dump(devices: &SimDevices, geometry: &Geometry) {
    for shard in 0..geometry.shards() {
        for member in 0..geometry.members() {
            let Some(image) = devices.image(member) else { continue };
            for slot in 0..2 {
                let mut bytes = vec![0; SUPERBLOCK_LEN];
                if image.read(geometry.superblock(shard, slot), &mut bytes).is_err() {
                    continue;
                }
                match Superblock::decode(&bytes) {
                    Ok(s) => {
                        let states: Vec<_> = s.members.iter().map(|m| m.state).collect();
                        println!(
                            "shard {shard} member {member} slot {slot}: epoch {} clean {} {states:?}",
                            s.epoch, s.clean
                        );
                    }
                    Err(error) => println!("shard {shard} member {member} slot {slot}: {error}"),
                }
            }
        }
        for group in 0..geometry.groups() {
            for row in 0..geometry.segment_pages() {
                for column in 0..geometry.width() {
                    let member = geometry.member(group, column);
                    let mut page = vec![0; PAGE];
                    let offset = geometry.offset(shard, group, column, row);
                    let read = devices.image(member).map(|image| image.read(offset, &mut page));
                    if !matches!(read, Some(Ok(()))) {
                        continue;
                    }
                    let Ok(h) = StripeHeader::decode(&page) else { continue };
                    let keys = h.entries(StripeHeader::body(&page)).unwrap_or_default();
                    let keys: Vec<_> = keys.iter().map(|e| format!("{}#{}", e.key, e.sequence)).collect();
                    println!(
                        "shard {shard} group {group} row {row} column {column} member {member}: {:?} inc {} stripe {} \
                         committed {} width {} rows {} entries {} used {} {}",
                        h.kind,
                        h.incarnation,
                        h.stripe,
                        h.committed,
                        h.width,
                        h.rows,
                        h.entries,
                        h.used,
                        if keys.len() < 8 { keys.join(" ") } else { String::new() }
                    );
                }
            }
        }
    }
}
