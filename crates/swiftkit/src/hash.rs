use md5::{Digest, Md5};

/// MD5 of a name together with the cluster's secret prefix and suffix: where its data lies.
pub type NameHash = [u8; 16];

/// The cluster's `swift_hash_path_prefix` and `swift_hash_path_suffix`. Changing them loses all data.
#[derive(Clone, Debug, Default)]
pub struct HashPath {
    pub prefix: Vec<u8>,
    pub suffix: Vec<u8>,
}

impl HashPath {
    pub fn account(&self, account: &str) -> NameHash {
        self.hash(&[account])
    }

    pub fn container(&self, account: &str, container: &str) -> NameHash {
        self.hash(&[account, container])
    }

    pub fn object(&self, account: &str, container: &str, object: &str) -> NameHash {
        self.hash(&[account, container, object])
    }

    fn hash(&self, names: &[&str]) -> NameHash {
        let mut md5 = Md5::new();
        md5.update(&self.prefix);
        for name in names {
            md5.update(b"/");
            md5.update(name.as_bytes());
        }
        md5.update(&self.suffix);
        md5.finalize().into()
    }
}

pub fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        out.push(char::from(DIGITS[usize::from(b >> 4)]));
        out.push(char::from(DIGITS[usize::from(b & 15)]));
    }
    out
}

/// For ETags of small things.
pub fn md5_hex(data: &[u8]) -> String {
    to_hex(&Md5::digest(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_example() {
        // From Swift's documentation of hash_path with the suffix `endcap` and no prefix.
        let h = HashPath { prefix: Vec::new(), suffix: b"endcap".to_vec() };
        assert_eq!(to_hex(&h.account("a")), "1c84525acb02107ea475dcd3d09c2c58");
        assert_eq!(to_hex(&h.container("a", "c")), "33379ecb053aa5c9e356c68997cbb59e");
        assert_eq!(to_hex(&h.object("a", "c", "o")), "06fbf0b514e5199dfc4e00f42eb5ea83");
    }
}
