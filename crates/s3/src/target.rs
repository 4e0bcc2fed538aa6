//! Which bucket and key a request names: in the path, or the bucket in the host name.

use crate::errors::{S3Result, err};
use percent_encoding::percent_decode_str;

/// What a request is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The account that a path names beside the bucket (`account:bucket`); else the caller's is meant.
    pub account: Option<String>,
    pub bucket: Option<String>,
    pub key: Option<String>,
    pub is_in_host: bool,
}

/// Whether a name can be a bucket's. Source: Amazon S3's user guide, "Bucket naming rules"; without `dns` also what
/// older regions allowed (capitals, underscores, 255 characters).
pub fn is_bucket_name(name: &str, dns: bool) -> bool {
    let max = if dns { 63 } else { 255 };
    let allowed =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.') || (!dns && (c.is_ascii_uppercase() || c == '_'));
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let dotted = name.contains("..") || name.contains(".-") || name.contains("-.");
    (3..=max).contains(&name.len())
        && name.chars().all(allowed)
        && ends(name.chars().next())
        && !name.ends_with('.')
        && (!dns || (ends(name.chars().last()) && !dotted))
        && name.parse::<std::net::Ipv4Addr>().is_err()
}

/// The bucket that a host name begins with, when the rest is one of `domains`.
pub fn bucket_in_host<'a>(host: &'a str, domains: &[String]) -> Option<&'a str> {
    let host = match host.rsplit_once(':') {
        Some((h, port)) if port.bytes().all(|b| b.is_ascii_digit()) => h,
        _ => host,
    };
    domains.iter().find_map(|d| {
        let rest = host.len().checked_sub(d.trim_start_matches('.').len() + 1)?;
        let (bucket, tail) = (host.get(..rest)?, host.get(rest..)?);
        let fits = tail.strip_prefix('.').is_some_and(|t| t.eq_ignore_ascii_case(d.trim_start_matches('.')));
        (fits && !bucket.is_empty()).then_some(bucket)
    })
}

/// From the path below the mount, percent-encoded.
///
/// Errors: `InvalidURI`, `InvalidBucketName`.
pub fn parse(path: &str, host_bucket: Option<&str>, dns: bool) -> S3Result<Target> {
    let decode = |t: &str| {
        let text = percent_decode_str(t).decode_utf8().map_err(|_| err("InvalidURI").with("URI", path))?;
        if text.contains('\0') { Err(err("InvalidURI").with("URI", path)) } else { Ok(text.into_owned()) }
    };
    let path = path.trim_start_matches('/');
    let (named, key) = match host_bucket {
        Some(b) => (b.to_string(), decode(path)?),
        None => {
            let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
            (decode(bucket)?, decode(key)?)
        }
    };
    if named.is_empty() {
        return Ok(Target::default());
    }
    let (account, bucket) = match named.split_once(':') {
        Some((account, bucket)) if host_bucket.is_none() => (Some(account.to_string()), bucket.to_string()),
        _ => (None, named),
    };
    if !is_bucket_name(&bucket, dns) || account.as_ref().is_some_and(|a| a.is_empty() || a.contains(['/', '.'])) {
        return Err(err("InvalidBucketName").with("BucketName", bucket));
    }
    let key = (!key.is_empty()).then_some(key);
    Ok(Target { account, bucket: Some(bucket), key, is_in_host: host_bucket.is_some() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["abc", "a-b.c", "0x0", &"a".repeat(63)] {
            assert!(is_bucket_name(good, true), "{good}");
        }
        let long = "a".repeat(64);
        for bad in ["ab", "Abc", "a_b", "-ab", "ab-", "a..b", "a.-b", "1.2.3.4", "abc.", "a+segments", "a/b", &long] {
            assert!(!is_bucket_name(bad, true), "{bad}");
        }
        assert!(is_bucket_name("My_Bucket", false) && !is_bucket_name("a+segments", false));
    }

    #[test]
    fn paths_and_hosts() {
        let t = parse("/bucket/a/b%20c", None, true).unwrap();
        assert_eq!((t.bucket.as_deref(), t.key.as_deref()), (Some("bucket"), Some("a/b c")));
        assert_eq!(parse("/", None, true).unwrap(), Target::default());
        let t = parse("/acc:bucket/", None, true).unwrap();
        assert_eq!((t.account.as_deref(), t.bucket.as_deref(), t.key), (Some("acc"), Some("bucket"), None));
        assert_eq!(parse("/bucket/%ff", None, true).unwrap_err().code, "InvalidURI");
        assert_eq!(parse("/bucket/%00", None, true).unwrap_err().code, "InvalidURI");
        assert_eq!(parse("/b/x", None, true).unwrap_err().code, "InvalidBucketName");
        let t = parse("//double", Some("bucket"), true).unwrap();
        assert_eq!((t.bucket.as_deref(), t.is_in_host), (Some("bucket"), true));
        let domains = ["s3.example.com".to_string()];
        assert_eq!(bucket_in_host("my.bucket.S3.example.com:8080", &domains), Some("my.bucket"));
        assert_eq!(bucket_in_host("s3.example.com", &domains), None);
        assert_eq!(bucket_in_host("evils3.example.com", &domains), None);
    }
}
