//! Names of everything of ours in the kernel.
//!
//! Invariant: from a name (or, for taps, from the interface alias) alone one can say whether it is
//! ours and of which installation. Interface names end at 15 bytes, chains at 28, sets at 31.

use sha2::{Digest, Sha256};

/// Interface name prefixes, each followed by the tag and eight hex digits.
const KINDS: [&str; 8] = ["cb", "cx", "cd", "cr", "ch", "ci", "cp", "cq"];

/// Makes names for one installation.
#[derive(Clone, Debug)]
pub(super) struct Names {
    tag: String,
}

/// `n` hex digits that stand for an id: its own first digits for a UUID, else a hash of it.
fn short(id: &str, n: usize) -> String {
    let bare: String = id.chars().filter(|c| *c != '-').collect();
    if bare.len() == 32 && bare.bytes().all(|b| b.is_ascii_hexdigit()) {
        return bare[..n].to_ascii_lowercase();
    }
    hex(&Sha256::digest(id.as_bytes()))[..n].to_string()
}

/// Lower-case hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [char::from(DIGITS[usize::from(b >> 4)]), char::from(DIGITS[usize::from(b & 15)])]).collect()
}

impl Names {
    /// A tag that does not fit (1–4 lower-case letters or digits) is replaced by a hash of it.
    pub fn new(tag: &str) -> Self {
        let fits = (1..=4).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let tag = if fits { tag.to_string() } else { hex(&Sha256::digest(tag.as_bytes()))[..4].to_string() };
        Self { tag }
    }

    fn dev(&self, kind: &str, id: &str) -> String {
        format!("{kind}{}{}", self.tag, short(id, 8))
    }

    /// The network's bridge.
    pub fn bridge(&self, network: &str) -> String {
        self.dev("cb", network)
    }

    /// Prefix of all network bridges, for `-i name+`.
    pub fn bridge_prefix(&self) -> String {
        format!("cb{}", self.tag)
    }

    pub fn vxlan(&self, network: &str) -> String {
        self.dev("cx", network)
    }

    /// Host end of the DHCP namespace's link.
    pub fn dhcp_link(&self, network: &str) -> String {
        self.dev("cd", network)
    }

    /// Host end of a router's link.
    pub fn router_link(&self, port: &str) -> String {
        self.dev("cr", port)
    }

    /// The end with the host's own addresses, and its peer in the physical network's bridge.
    pub fn host_link(&self, physical: &str) -> (String, String) {
        (self.dev("ch", physical), self.dev("ci", physical))
    }

    /// A link between a network's bridge and a bridge of the host.
    pub fn patch_link(&self, network: &str) -> (String, String) {
        (self.dev("cp", network), self.dev("cq", network))
    }

    /// Router interface inside its namespace.
    pub fn inner(&self, port: &str) -> String {
        format!("i{}", short(port, 11))
    }

    /// Router gateway inside its namespace.
    pub fn gateway(&self, port: &str) -> String {
        format!("g{}", short(port, 11))
    }

    pub fn ns_dhcp(&self, network: &str) -> String {
        format!("cae-{}-dhcp-{network}", self.tag)
    }

    pub fn ns_router(&self, router: &str) -> String {
        format!("cae-{}-rt-{router}", self.tag)
    }

    pub fn is_our_ns(&self, name: &str) -> bool {
        name.starts_with(&format!("cae-{}-", self.tag))
    }

    /// A fixed chain of ours: `fwd`, `br`, `in`, `raw`, `nat`.
    pub fn chain(&self, which: &str) -> String {
        format!("cae-{}-{which}", self.tag)
    }

    /// A network's or port's chain: `n`, `o` (from the guest), `i` (to the guest), `s` (source check).
    pub fn chain_of(&self, which: char, id: &str) -> String {
        format!("cae-{}-{which}-{}", self.tag, short(id, 14))
    }

    pub fn is_our_chain(&self, name: &str) -> bool {
        name.starts_with(&format!("cae-{}-", self.tag))
    }

    /// The address set of a security group in one family.
    pub fn set(&self, group: &str, v6: bool) -> String {
        format!("cae-{}-{}-{}", self.tag, if v6 { 6 } else { 4 }, short(group, 18))
    }

    pub fn is_our_set(&self, name: &str) -> bool {
        name.starts_with(&format!("cae-{}-", self.tag))
    }

    /// The bridge-family nftables table.
    pub fn table(&self) -> String {
        format!("cae_{}", self.tag)
    }

    /// A port's chains in that table.
    pub fn nft_chain(&self, which: char, port: &str) -> String {
        format!("{which}_{}", short(port, 14))
    }

    /// Interface alias: kind and full id.
    pub fn alias(&self, kind: &str, id: &str) -> String {
        format!("cae:{}:{kind}:{id}", self.tag)
    }

    /// Whether a device is ours, by name or alias.
    pub fn is_our_link(&self, name: &str, alias: &str) -> bool {
        alias.starts_with(&format!("cae:{}:", self.tag))
            || KINDS.iter().any(|kind| {
                name.strip_prefix(kind)
                    .and_then(|rest| rest.strip_prefix(self.tag.as_str()))
                    .is_some_and(|rest| rest.len() == 8 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
            })
    }

    /// A stable locally administered MAC for a device of ours that no port describes.
    pub fn mac(&self, what: &str) -> String {
        let digest = Sha256::digest(format!("{}:{what}", self.tag).as_bytes());
        let tail: Vec<String> = digest[..5].iter().map(|b| format!("{b:02x}")).collect();
        format!("02:{}", tail.join(":"))
    }

    /// The device group of all devices of this installation; deleting a group takes one grace period
    /// of the kernel instead of one per device.
    pub fn group(&self) -> u32 {
        let digest = Sha256::digest(format!("group:{}", self.tag).as_bytes());
        u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) & 0x7fff_ffff | 0x100
    }

    /// Where the search for a free conntrack zone of a network begins (1–65000).
    pub fn zone_seed(network: &str) -> u16 {
        let digest = Sha256::digest(network.as_bytes());
        u16::from_be_bytes([digest[0], digest[1]]) % 65_000 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel_and_are_recognised() {
        let names = Names::new("abcd");
        let id = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
        for dev in [names.bridge(id), names.router_link("port one"), names.host_link("public").0, names.inner(id)] {
            assert!(dev.len() <= 15, "{dev}");
        }
        assert_eq!(names.bridge(id), "cbabcd0f1e2d3c");
        assert!(names.is_our_link(&names.bridge(id), ""));
        assert!(names.is_our_link("tap0", &names.alias("port", id)));
        assert!(!names.is_our_link("cbefgh0f1e2d3c", ""));
        assert!(names.chain_of('o', id).len() <= 28);
        assert!(names.set(id, true).len() < 31);
        assert_ne!(Names::new("a-long-tag").bridge(id), names.bridge(id));
    }
}
