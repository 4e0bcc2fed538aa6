//! Tags of objects and buckets.

use crate::errors::{S3Result, err};
use crate::xml::{Xml, parse};
use caelum_object::http::text;
use http::HeaderMap;

/// Where an object's tags are kept, as a query string. Metadata that a POST may change.
pub const OBJECT_TAGS: &str = "x-object-transient-sysmeta-s3api-tagging";
pub const MAX_OBJECT_TAGS: usize = 10;
pub const MAX_BUCKET_TAGS: usize = 50;

pub type Tags = Vec<(String, String)>;

fn check(tags: Tags, max: usize) -> S3Result<Tags> {
    let invalid = |m: &str| err("InvalidTag").text(m);
    if tags.len() > max {
        return Err(err("InvalidTag").text(format!("Tags cannot be greater than {max}")));
    }
    for (i, (k, v)) in tags.iter().enumerate() {
        if k.is_empty() || k.chars().count() > 128 {
            return Err(invalid("The TagKey you have provided is invalid"));
        }
        if v.chars().count() > 256 {
            return Err(invalid("The TagValue you have provided is invalid"));
        }
        let allowed = |c: char| c.is_alphanumeric() || c == ' ' || "_.:/=+-@".contains(c);
        if !k.chars().all(allowed) || !v.chars().all(allowed) {
            return Err(invalid("The tag has characters that are not allowed"));
        }
        if tags[..i].iter().any(|(o, _)| o == k) {
            return Err(invalid("Cannot provide multiple Tags with the same key"));
        }
    }
    Ok(tags)
}

/// From `a=1&b=2`, as in `x-amz-tagging`.
pub fn from_query(query: &str, max: usize) -> S3Result<Tags> {
    check(crate::auth::query_pairs(Some(query)), max)
}

pub fn to_query(tags: &Tags) -> String {
    let q = crate::context::query_quote;
    tags.iter().map(|(k, v)| format!("{}={}", q(k), q(v))).collect::<Vec<_>>().join("&")
}

/// From a `Tagging` document.
pub fn from_xml(body: &[u8], max: usize) -> S3Result<Tags> {
    let bad = || err("MalformedXML");
    let e = parse(body, "Tagging").map_err(|_| bad())?;
    let mut out = Vec::new();
    for t in e.child("TagSet").ok_or_else(bad)?.children("Tag") {
        // Space around a value is part of it.
        let of = |n: &str| t.child(n).map(|c| c.text.clone()).ok_or_else(bad);
        out.push((of("Key")?, of("Value")?));
    }
    check(out, max)
}

pub fn to_xml(tags: &Tags) -> String {
    let mut x = Xml::document("Tagging", true);
    x.open("TagSet");
    for (k, v) in tags {
        x.open("Tag").leaf("Key", k).leaf("Value", v).close();
    }
    x.finish()
}

/// From an object's headers.
pub fn of_object(headers: &HeaderMap) -> Tags {
    text(headers, OBJECT_TAGS).map(|t| crate::auth::query_pairs(Some(t))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_in_all_forms() {
        let tags = from_query("a=1&b%20c=x%2By", 10).unwrap();
        assert_eq!(tags, [("a".into(), "1".into()), ("b c".into(), "x+y".into())]);
        assert_eq!(from_query(&to_query(&tags), 10).unwrap(), tags);
        assert_eq!(from_xml(to_xml(&tags).as_bytes(), 10).unwrap(), tags);
        let many = (0..11).map(|i| format!("k{i}=v")).collect::<Vec<_>>().join("&");
        for bad in ["=1", "a=1&a=2", "a=%3C", many.as_str(), &format!("{}=1", "k".repeat(129)), &format!("k={}", "v".repeat(257))] {
            assert_eq!(from_query(bad, 10).unwrap_err().code, "InvalidTag", "{bad}");
        }
        assert_eq!(from_xml(b"<Tagging/>", 10).unwrap_err().code, "MalformedXML");
    }
}
