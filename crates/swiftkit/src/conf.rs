use crate::{HashPath, Policies, PolicyKind, StoragePolicy};
use caelum_base::{Error, Result};

/// An ini file as Python's reader of them understands it: sections in order, each with its keys in order. Lines that
/// begin with `#` or `;` are comments; `key = value` or `key: value`. A line that is indented deeper than its key's
/// continues the value, with a line feed between.
pub fn parse_ini(text: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut out: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let (mut indent, mut continues) = (0, false);
    for line in text.lines() {
        let depth = line.len() - line.trim_start().len();
        let line = line.trim();
        if line.starts_with(['#', ';']) {
            continue;
        }
        let value = out.last_mut().and_then(|(_, keys)| keys.last_mut()).filter(|_| continues).map(|(_, value)| value);
        match value {
            Some(value) if line.is_empty() => value.push('\n'),
            Some(value) if depth > indent => {
                value.push('\n');
                value.push_str(line);
            }
            _ if line.is_empty() => {}
            _ => {
                indent = depth;
                continues = start(&mut out, line);
            }
        }
    }
    for (_, value) in out.iter_mut().flat_map(|(_, keys)| keys) {
        value.truncate(value.trim_end().len());
    }
    out
}

/// A line that continues nothing. Whether the next one may continue it.
fn start(out: &mut Vec<(String, Vec<(String, String)>)>, line: &str) -> bool {
    if let Some((name, _)) = line.strip_prefix('[').and_then(|l| l.rsplit_once(']')) {
        out.push((name.trim().to_string(), Vec::new()));
    } else if let (Some((key, value)), Some((_, keys))) = (line.split_once(['=', ':']), out.last_mut()) {
        keys.push((key.trim().to_string(), value.trim().to_string()));
        return true;
    }
    false
}

/// What `swift.conf` says.
#[derive(Clone, Debug, Default)]
pub struct SwiftConf {
    pub hash: HashPath,
    pub policies: Policies,
}

impl SwiftConf {
    /// Errors: `Invalid` with the offending section.
    pub fn parse(text: &str) -> Result<Self> {
        let mut hash = HashPath::default();
        let mut policies = Vec::new();
        for (section, keys) in parse_ini(text) {
            if section == "swift-hash" {
                for (k, v) in &keys {
                    match k.as_str() {
                        "swift_hash_path_prefix" => hash.prefix = v.clone().into_bytes(),
                        "swift_hash_path_suffix" => hash.suffix = v.clone().into_bytes(),
                        _ => {}
                    }
                }
            } else if let Some(index) = section.strip_prefix("storage-policy:") {
                policies.push(policy(index, &keys)?);
            }
        }
        Ok(Self { hash, policies: Policies::new(policies)? })
    }
}

fn policy(index: &str, keys: &[(String, String)]) -> Result<StoragePolicy> {
    let bad = |what: &str| Error::invalid(format!("swift.conf [storage-policy:{index}]: {what}"));
    let get = |key: &str| keys.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
    let yes = |key: &str| get(key).is_some_and(|v| matches!(v.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on" | "t" | "y"));
    let number = |key: &str, default: Option<usize>| match get(key) {
        Some(v) => v.parse().map_err(|_| bad(&format!("{key} is not a number"))),
        None => default.ok_or_else(|| bad(&format!("{key} is missing"))),
    };
    let kind = match get("policy_type").unwrap_or("replication") {
        "replication" => PolicyKind::Replication,
        "erasure_coding" => PolicyKind::ErasureCoding {
            ec_type: get("ec_type").ok_or_else(|| bad("ec_type is missing"))?.to_string(),
            data: number("ec_num_data_fragments", None)?,
            parity: number("ec_num_parity_fragments", None)?,
            segment_size: number("ec_object_segment_size", Some(1_048_576))? as u64,
            duplication: number("ec_duplication_factor", Some(1))?,
        },
        other => return Err(bad(&format!("policy_type {other} is not known"))),
    };
    let index = index.parse().map_err(|_| bad("the index is not a number"))?;
    Ok(StoragePolicy {
        index,
        name: get("name").map_or_else(|| format!("Policy-{index}"), str::to_string),
        aliases: get("aliases").map_or_else(Vec::new, |a| a.split(',').map(|n| n.trim().to_string()).collect()),
        is_default: yes("default"),
        is_deprecated: yes("deprecated"),
        kind,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_several_lines() {
        let text = "[a]\nx = 1\n  y = 2\n# note\n\n    ; note\n  z\n\nk: v\n[b] # end\n  deep = 1\n  next = 2\n    more\n";
        let pair = |k: &str, v: &str| (k.to_string(), v.to_string());
        let a = vec![pair("x", "1\ny = 2\n\nz"), pair("k", "v")];
        assert_eq!(parse_ini(text), [("a".into(), a), ("b".into(), vec![pair("deep", "1"), pair("next", "2\nmore")])]);
        assert!(parse_ini("lost = 1\n").is_empty());
    }

    #[test]
    fn a_cluster() {
        let conf = SwiftConf::parse(
            "[swift-hash]\nswift_hash_path_suffix = end\n# note\n[storage-policy:0]\nname = gold\ndefault = yes\n\
             [storage-policy:1]\nname = ec\naliases = deep, cold\npolicy_type = erasure_coding\nec_type = isa_l_rs_vand\n\
             ec_num_data_fragments = 4\nec_num_parity_fragments = 2\n",
        )
        .unwrap();
        assert_eq!(conf.hash.suffix, b"end");
        assert_eq!(conf.policies.by_name("COLD").unwrap().index, 1);
        assert_eq!(conf.policies.get(1).unwrap().quorum(6), 5);
        assert_eq!(conf.policies.get(0).unwrap().quorum(3), 2);
        assert_eq!(conf.policies.get(1).unwrap().dir("objects"), "objects-1");
        assert!(SwiftConf::parse("[storage-policy:1]\nname = x\n").is_err());
    }
}
