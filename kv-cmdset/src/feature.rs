//! Feature 20h, Key Value Configuration (KV section 4.1.3), kept per namespace.

use kvof_spec::feature::{FeatureId, KvConfiguration as Wire};

/// What a namespace is set to by the feature; the default is what it starts with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KvConfiguration {
    /// EDNEK: Delete of a key that does not exist is an error, KV Key Does Not Exist, instead of Success.
    pub ednek: bool,
}

impl KvConfiguration {
    /// Feature identifier.
    pub const FID: u8 = FeatureId::KEY_VALUE_CONFIGURATION.0;

    /// From CDW11 of Set Features or DW0 of Get Features; reserved bits are ignored.
    #[must_use]
    pub const fn from_dword(dword: u32) -> Self {
        Self { ednek: Wire(dword).ednek() }
    }

    /// As CDW11 of Set Features and DW0 of Get Features.
    #[must_use]
    pub const fn to_dword(self) -> u32 {
        Wire(0).with_ednek(self.ednek).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bit_0_counts() {
        assert_eq!(KvConfiguration::from_dword(0xffff_fffe), KvConfiguration { ednek: false });
        assert_eq!(KvConfiguration::from_dword(0xffff_ffff), KvConfiguration { ednek: true });
        assert_eq!(KvConfiguration { ednek: true }.to_dword(), 1);
        assert_eq!(KvConfiguration::default().to_dword(), 0);
    }
}
