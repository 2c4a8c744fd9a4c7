//! Identifiers that follow from names, so that they stay the same across restarts and machines.

use uuid::Uuid;

/// Name space of the UUIDs made here (RFC 9562, version 5). Changing it changes the identity of every namespace.
const KVOF: Uuid = Uuid::from_u128(0x5d4e_9a70_2c7b_4f0e_9b1c_6b76_6f66_0001);

/// UUID of a namespace.
pub(super) fn namespace_uuid(nqn: &str, nsid: u32) -> [u8; 16] {
    derive(&format!("uuid/{nsid}/{nqn}"))
}

/// NGUID of a namespace.
pub(super) fn namespace_nguid(nqn: &str, nsid: u32) -> [u8; 16] {
    derive(&format!("nguid/{nsid}/{nqn}"))
}

/// Serial number of a subsystem: 20 hexadecimal digits.
pub(super) fn serial(nqn: &str) -> String {
    let digits = Uuid::from_bytes(derive(&format!("serial/{nqn}"))).simple().to_string();
    digits.chars().take(20).collect()
}

fn derive(name: &str) -> [u8; 16] {
    Uuid::new_v5(&KVOF, name.as_bytes()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stay_the_same_for_ever() {
        // Hosts know namespaces by these: a change here would look to them like other disks.
        let uuid = Uuid::from_bytes(namespace_uuid("nqn.2024-01.com.example:kv", 1));
        assert_eq!(uuid.to_string(), "85848670-dbc7-5c88-a0bc-548bf5290d65");
        assert_eq!(serial("nqn.2024-01.com.example:kv"), "1276c34449125c8ca929");
    }

    #[test]
    fn differ_by_name_nsid_and_use() {
        let all = [
            namespace_uuid("nqn.a", 1),
            namespace_uuid("nqn.a", 2),
            namespace_uuid("nqn.b", 1),
            namespace_nguid("nqn.a", 1),
        ];
        for (i, a) in all.iter().enumerate() {
            for b in all.iter().skip(i + 1) {
                assert_ne!(a, b);
            }
        }
    }
}
