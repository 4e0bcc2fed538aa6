//! `X-Container-Sync-To` and `container-sync-realms.conf`. Source: Swift's documentation,
//! `overview_container_sync`.

use caelum_swiftkit::parse_ini;
use std::collections::HashMap;

/// The realms an operator has set up.
#[derive(Clone, Debug, Default)]
pub struct SyncRealms(HashMap<String, Realm>);

#[derive(Clone, Debug, Default)]
struct Realm {
    key: Option<String>,
    key2: Option<String>,
    clusters: HashMap<String, String>,
}

/// Where a container is synchronized to.
#[derive(Clone, PartialEq, Eq)]
pub struct SyncTo {
    pub url: String,
    /// Realm (in capitals) and its key.
    pub realm: Option<(String, String)>,
}

impl SyncRealms {
    pub fn parse(text: &str) -> Self {
        let mut out = HashMap::new();
        for (section, keys) in parse_ini(text) {
            if section == "DEFAULT" {
                continue;
            }
            let realm: &mut Realm = out.entry(section.to_ascii_uppercase()).or_default();
            for (k, v) in keys {
                match k.to_ascii_lowercase().as_str() {
                    "key" => realm.key = Some(v),
                    "key2" => realm.key2 = Some(v),
                    k => {
                        if let Some(cluster) = k.strip_prefix("cluster_") {
                            realm.clusters.insert(cluster.to_ascii_uppercase(), v);
                        }
                    }
                }
            }
        }
        Self(out)
    }

    pub fn key(&self, realm: &str) -> Option<&str> {
        self.0.get(&realm.to_ascii_uppercase())?.key.as_deref().filter(|k| !k.is_empty())
    }

    /// A second key that is accepted while the first is being replaced.
    pub fn key2(&self, realm: &str) -> Option<&str> {
        self.0.get(&realm.to_ascii_uppercase())?.key2.as_deref().filter(|k| !k.is_empty())
    }

    pub fn endpoint(&self, realm: &str, cluster: &str) -> Option<&str> {
        self.0.get(&realm.to_ascii_uppercase())?.clusters.get(&cluster.to_ascii_uppercase()).map(String::as_str)
    }
}

/// Reads the header. `Ok(None)`: synchronization is off. Errors: upstream's text for the client.
pub fn validate_sync_to(value: &str, allowed_hosts: &[String], realms: &SyncRealms) -> Result<Option<SyncTo>, String> {
    let trimmed = value.trim_end_matches('/');
    if trimmed.is_empty() {
        return Ok(None);
    }
    if let Some(rest) = trimmed.strip_prefix("//") {
        let parts: Vec<&str> = rest.split('/').collect();
        let [realm, cluster, account, container] = parts[..] else {
            return Err(format!("Invalid X-Container-Sync-To format '{value}'"));
        };
        let key = realms.key(realm).ok_or_else(|| format!("No realm key for '{realm}'"))?;
        let endpoint = realms.endpoint(realm, cluster).ok_or_else(|| format!("No cluster endpoint for '{realm}' '{cluster}'"))?;
        let url = format!("{}/{account}/{container}", endpoint.trim_end_matches('/'));
        return Ok(Some(SyncTo { url, realm: Some((realm.to_ascii_uppercase(), key.to_string())) }));
    }
    let (scheme, rest) = trimmed.split_once("://").unwrap_or(("", trimmed));
    let scheme = scheme.to_ascii_lowercase();
    if scheme != "http" && scheme != "https" {
        return Err(format!("Invalid scheme '{scheme}' in X-Container-Sync-To, must be \"//\", \"http\", or \"https\"."));
    }
    let (authority, path) = match rest.find(['/', '?', '#']) {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    if !path.starts_with('/') {
        return Err("Path required in X-Container-Sync-To".into());
    }
    if path.contains([';', '?', '#']) {
        return Err("Params, queries, and fragments not allowed in X-Container-Sync-To".into());
    }
    let host_port = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
    let host = match host_port.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(""),
        None => host_port.split(':').next().unwrap_or(""),
    }
    .to_ascii_lowercase();
    if !allowed_hosts.contains(&host) {
        return Err(format!("Invalid host '{host}' in X-Container-Sync-To"));
    }
    Ok(Some(SyncTo { url: trimmed.to_string(), realm: None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let realms = SyncRealms::parse("[DEFAULT]\nmtime_check_interval = 300\n[us]\nkey = k\ncluster_dfw1 = http://dfw1.host/v1/\n");
        let hosts = ["127.0.0.1".to_string()];
        let check = |v: &str| validate_sync_to(v, &hosts, &realms);
        assert_eq!(check("").map(|s| s.is_none()), Ok(true));
        assert_eq!(check("//US/dfw1/a/c").unwrap().unwrap().url, "http://dfw1.host/v1/a/c");
        assert_eq!(check("http://127.0.0.1:80/v1/a/c").unwrap().unwrap().url, "http://127.0.0.1:80/v1/a/c");
        for bad in
            ["//us/dfw1/a", "//uk/x/a/c", "//us/x/a/c", "ftp://127.0.0.1/x", "http://127.0.0.1", "http://127.0.0.1/a?b", "http://evil/x"]
        {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
