//! Access control lists of buckets and objects. They are stored as Swift's s3api stores them: JSON in system metadata,
//! `{"Owner": id, "Grant": [{"Permission": …, "Grantee": …}]}`, with groups by name.

use crate::errors::{S3Result, err, invalid_argument, not_implemented};
use crate::xml::{Xml, parse};
use caelum_object::env::Caller;
use caelum_object::http::text;
use http::HeaderMap;
use serde_json::{Value, json};

pub const OBJECT_ACL: &str = "x-object-sysmeta-s3api-acl";
/// An object's list that was changed after its upload.
pub const OBJECT_ACL_LATER: &str = "x-object-transient-sysmeta-s3api-acl";
pub const MAX_XML: usize = 200 * 1024;
const MAX_GRANTS: usize = 100;
/// What fits into one header on the way to storage.
const MAX_STORED: usize = 7_000;

const GROUPS: [(&str, &str); 3] = [
    ("AllUsers", "http://acs.amazonaws.com/groups/global/AllUsers"),
    ("AuthenticatedUsers", "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"),
    ("LogDelivery", "http://acs.amazonaws.com/groups/s3/LogDelivery"),
];
const PERMISSIONS: [&str; 5] = ["FULL_CONTROL", "READ", "WRITE", "READ_ACP", "WRITE_ACP"];

/// The id by which lists name a caller: `project:user`, or tempauth's user.
pub fn canonical_id(caller: &Caller) -> String {
    match &caller.project_name {
        Some(p) if caller.groups.is_empty() => format!("{p}:{}", caller.user_name),
        _ => caller.user_id.clone(),
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessList {
    /// `None`: nobody has set a list; the account's rules alone hold.
    pub owner: Option<String>,
    /// Grantee (an id or a group's name), permission.
    pub grants: Vec<(String, String)>,
}

fn is_group(name: &str) -> bool {
    GROUPS.iter().any(|(g, _)| *g == name)
}

fn group_of(uri: &str) -> S3Result<String> {
    let found = GROUPS.iter().find(|(_, u)| *u == uri).map(|(g, _)| (*g).to_string());
    found.ok_or_else(|| invalid_argument("uri", uri, "Invalid group uri"))
}

impl AccessList {
    /// A list as stored. What cannot be read grants nothing.
    pub fn stored(text: Option<&str>) -> Self {
        let Some(v) = text.and_then(|t| serde_json::from_str::<Value>(t).ok()) else { return Self::default() };
        let owner = v.get("Owner").and_then(Value::as_str).map(str::to_string);
        let one = |g: &Value| Some((g.get("Grantee")?.as_str()?.to_string(), g.get("Permission")?.as_str()?.to_string()));
        let grants = v.get("Grant").and_then(Value::as_array).into_iter().flatten().filter_map(one).collect();
        Self { owner, grants }
    }

    /// Of an object, from its headers.
    pub fn of_object(headers: &HeaderMap) -> Self {
        Self::stored(text(headers, OBJECT_ACL_LATER).or_else(|| text(headers, OBJECT_ACL)))
    }

    /// As it is stored. Errors: `InvalidRequest` when it is too long for that.
    pub fn to_stored(&self) -> S3Result<String> {
        let grants: Vec<Value> = self.grants.iter().map(|(g, p)| json!({"Permission": p, "Grantee": g})).collect();
        let text = json!({"Owner": self.owner, "Grant": grants}).to_string();
        // Header values are ASCII on their way.
        let ascii: String = text.chars().map(|c| if c.is_ascii() { c.to_string() } else { utf16_escape(c) }).collect();
        if ascii.len() > MAX_STORED { Err(crate::errors::invalid_request("The access control list is too long.")) } else { Ok(ascii) }
    }

    /// One of S3's canned lists.
    pub fn canned(name: &str, owner: &str, bucket_owner: &str) -> S3Result<Self> {
        let full = |id: &str| (id.to_string(), "FULL_CONTROL".to_string());
        let grant = |who: &str, what: &str| (who.to_string(), what.to_string());
        let mut grants = vec![full(owner)];
        match name {
            "private" => {}
            "public-read" => grants.push(grant("AllUsers", "READ")),
            "public-read-write" => grants.extend([grant("AllUsers", "READ"), grant("AllUsers", "WRITE")]),
            "authenticated-read" => grants.push(grant("AuthenticatedUsers", "READ")),
            "bucket-owner-read" => grants.push(grant(bucket_owner, "READ")),
            "bucket-owner-full-control" => grants.push(full(bucket_owner)),
            "log-delivery-write" => grants.extend([grant("LogDelivery", "WRITE"), grant("LogDelivery", "READ_ACP")]),
            _ => return Err(invalid_argument("x-amz-acl", name, "Invalid Argument.")),
        }
        Ok(Self { owner: Some(owner.into()), grants })
    }

    /// What the request's headers ask for; the private list when they ask for nothing.
    pub fn of_headers(headers: &HeaderMap, owner: &str, bucket_owner: &str) -> S3Result<Option<Self>> {
        let mut grants = Vec::new();
        for permission in PERMISSIONS {
            let name = format!("x-amz-grant-{}", permission.to_lowercase().replace('_', "-"));
            for grantee in text(headers, &name).into_iter().flat_map(|v| v.split(',')).filter(|g| !g.trim().is_empty()) {
                grants.push((grantee_of(grantee.trim())?, permission.to_string()));
            }
        }
        let canned = text(headers, "x-amz-acl");
        if canned.is_some() && !grants.is_empty() {
            return Err(crate::errors::invalid_request("Specifying both Canned ACLs and Header Grants is not allowed"));
        }
        if let Some(name) = canned {
            return Self::canned(name, owner, bucket_owner).map(Some);
        }
        if grants.len() > MAX_GRANTS {
            return Err(err("MalformedACLError"));
        }
        Ok((!grants.is_empty()).then(|| Self { owner: Some(owner.into()), grants }))
    }

    /// From an `AccessControlPolicy` document. The owner cannot be changed by it.
    pub fn from_xml(body: &[u8], owner: &str) -> S3Result<Self> {
        let bad = || err("MalformedACLError");
        let e = parse(body, "AccessControlPolicy").map_err(|_| bad())?;
        let named = e.child("Owner").and_then(|o| o.text_of("ID")).ok_or_else(bad)?;
        if named != owner {
            return Err(err("AccessDenied").text("The owner of a list cannot be changed."));
        }
        let mut grants = Vec::new();
        for g in e.child("AccessControlList").ok_or_else(bad)?.children("Grant") {
            let grantee = g.child("Grantee").ok_or_else(bad)?;
            let kind = grantee.attributes.iter().find(|(n, _)| n == "type").map(|(_, v)| v.as_str());
            let who = match kind {
                Some("CanonicalUser") => grantee.text_of("ID").filter(|i| !i.is_empty() && !is_group(i)).ok_or_else(bad)?.to_string(),
                Some("Group") => group_of(grantee.text_of("URI").ok_or_else(bad)?)?,
                Some("AmazonCustomerByEmail") => return Err(not_implemented("Grants by mail address are not supported.")),
                _ => return Err(bad()),
            };
            let what = g.text_of("Permission").filter(|p| PERMISSIONS.contains(p)).ok_or_else(bad)?;
            grants.push((who, what.to_string()));
        }
        if grants.len() > MAX_GRANTS { Err(bad()) } else { Ok(Self { owner: Some(owner.into()), grants }) }
    }

    pub fn to_xml(&self, default_owner: &str) -> String {
        let owner = self.owner.as_deref().unwrap_or(default_owner);
        let full = [(owner.to_string(), "FULL_CONTROL".to_string())];
        let grants = if self.owner.is_none() { &full[..] } else { &self.grants };
        let mut x = Xml::document("AccessControlPolicy", true);
        x.open("Owner").leaf("ID", owner).leaf("DisplayName", owner).close().open("AccessControlList");
        for (who, what) in grants {
            x.open("Grant");
            match GROUPS.iter().find(|(g, _)| g == who) {
                Some((_, uri)) => x.open_typed("Grantee", "Group").leaf("URI", uri).close(),
                None => x.open_typed("Grantee", "CanonicalUser").leaf("ID", who).leaf("DisplayName", who).close(),
            };
            x.leaf("Permission", what).close();
        }
        x.finish()
    }

    /// Whether the list grants `permission` to the caller (`None`: anybody who did not sign).
    pub fn grants(&self, caller: Option<&Caller>, permission: &str) -> bool {
        self.grants.iter().any(|(who, what)| (what == permission || what == "FULL_CONTROL") && is_grantee(who, caller))
    }
}

fn utf16_escape(c: char) -> String {
    let mut units = [0; 2];
    c.encode_utf16(&mut units).iter().map(|u| format!("\\u{u:04x}")).collect()
}

fn grantee_of(text: &str) -> S3Result<String> {
    let bad = || invalid_argument("x-amz-grant", text, "Argument format not recognized");
    let (kind, value) = text.split_once('=').ok_or_else(bad)?;
    let value = value.trim().trim_matches(['"', '\'']);
    match kind.trim().to_ascii_lowercase().as_str() {
        "id" if !value.is_empty() && !is_group(value) => Ok(value.to_string()),
        "uri" => group_of(value),
        "emailaddress" => Err(not_implemented("Grants by mail address are not supported.")),
        _ => Err(bad()),
    }
}

/// Names count only where they cannot be another domain's.
fn is_grantee(who: &str, caller: Option<&Caller>) -> bool {
    let Some(c) = caller else { return who == "AllUsers" };
    let default = |d: &Option<String>| d.as_deref().is_none_or(|d| d == "default");
    let named = default(&c.user_domain_id) && default(&c.project_domain_id) && who == canonical_id(c);
    matches!(who, "AllUsers" | "AuthenticatedUsers")
        || (!is_group(who) && (named || who == c.user_id || c.project_id.as_deref() == Some(who)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(domain: &str) -> Caller {
        Caller {
            user_id: "u1".into(),
            user_name: "alice".into(),
            project_id: Some("p1".into()),
            project_name: Some("demo".into()),
            user_domain_id: Some(domain.into()),
            project_domain_id: Some(domain.into()),
            ..Caller::default()
        }
    }

    #[test]
    fn stored_as_upstream_does() {
        let list = AccessList::canned("public-read", "demo:alice", "x").unwrap();
        let text = list.to_stored().unwrap();
        assert_eq!(AccessList::stored(Some(&text)), list);
        let upstream = r#"{"Owner":"test:tester","Grant":[{"Permission":"FULL_CONTROL","Grantee":"test:tester"},{"Permission":"READ","Grantee":"AllUsers"}]}"#;
        let read = AccessList::stored(Some(upstream));
        assert!(read.grants(None, "READ") && !read.grants(None, "WRITE"));
        assert_eq!(AccessList::stored(Some("rubbish")), AccessList::default());
        let odd = AccessList { owner: Some("é😀".into()), grants: vec![] };
        assert!(odd.to_stored().unwrap().is_ascii());
        assert_eq!(AccessList::stored(Some(&odd.to_stored().unwrap())), odd);
    }

    #[test]
    fn grants_count_for_whom_they_name() {
        let list = |who: &str| AccessList { owner: Some("o".into()), grants: vec![(who.into(), "READ".into())] };
        for who in ["u1", "p1", "demo:alice", "AuthenticatedUsers", "AllUsers"] {
            assert!(list(who).grants(Some(&caller("default")), "READ"), "{who}");
        }
        assert!(!list("demo:alice").grants(Some(&caller("other")), "READ"), "names of another domain");
        assert!(!list("AuthenticatedUsers").grants(None, "READ"));
        assert!(!list("u2").grants(Some(&caller("default")), "READ"));
        assert!(!list("u1").grants(Some(&caller("default")), "WRITE"));
    }

    #[test]
    fn documents() {
        let list = AccessList::canned("authenticated-read", "a<b", "x").unwrap();
        assert_eq!(AccessList::from_xml(list.to_xml("").as_bytes(), "a<b").unwrap(), list);
        assert_eq!(AccessList::from_xml(list.to_xml("").as_bytes(), "other").unwrap_err().code, "AccessDenied");
        assert_eq!(AccessList::from_xml(b"<AccessControlPolicy/>", "o").unwrap_err().code, "MalformedACLError");
        let mut h = HeaderMap::new();
        assert_eq!(AccessList::of_headers(&h, "o", "o").unwrap(), None);
        h.insert("x-amz-grant-read", r#"uri="http://acs.amazonaws.com/groups/global/AllUsers", id="bob""#.parse().unwrap());
        let read = AccessList::of_headers(&h, "o", "o").unwrap().unwrap();
        assert_eq!(read.grants, [("AllUsers".to_string(), "READ".to_string()), ("bob".to_string(), "READ".to_string())]);
        h.insert("x-amz-acl", "private".parse().unwrap());
        assert!(AccessList::of_headers(&h, "o", "o").is_err());
    }
}
