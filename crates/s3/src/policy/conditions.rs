//! Conditions of statements.

use super::{Facts, matches};
use caelum_base::Timestamp;
use ipnet::IpNet;
use serde_json::Value;
use std::net::IpAddr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    Equals,
    EqualsIgnoreCase,
    Like,
    Less,
    LessEquals,
    Greater,
    GreaterEquals,
    Is,
    In,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Date,
    Bool,
    Address,
    Null,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quantity {
    One,
    ForAll,
    ForAny,
}

/// One key with the values it is compared with.
#[derive(Clone, Debug)]
pub struct Condition {
    kind: Kind,
    test: Test,
    is_negated: bool,
    if_exists: bool,
    quantity: Quantity,
    /// In lower case.
    pub key: String,
    values: Vec<String>,
}

/// Keys that requests have facts for; those with a slash are prefixes.
const KEYS: &[&str] = &[
    "aws:currenttime",
    "aws:epochtime",
    "aws:referer",
    "aws:securetransport",
    "aws:sourceip",
    "aws:useragent",
    "aws:userid",
    "aws:username",
    "aws:principaltype",
    "s3:authtype",
    "s3:delimiter",
    "s3:existingobjecttag/",
    "s3:if-match",
    "s3:if-none-match",
    "s3:locationconstraint",
    "s3:max-keys",
    "s3:object-lock-legal-hold",
    "s3:object-lock-mode",
    "s3:object-lock-retain-until-date",
    "s3:prefix",
    "s3:requestobjecttag/",
    "s3:requestobjecttagkeys",
    "s3:signatureage",
    "s3:signatureversion",
    "s3:versionid",
    "s3:x-amz-acl",
    "s3:x-amz-content-sha256",
    "s3:x-amz-copy-source",
    "s3:x-amz-grant-full-control",
    "s3:x-amz-grant-read",
    "s3:x-amz-grant-read-acp",
    "s3:x-amz-grant-write",
    "s3:x-amz-grant-write-acp",
    "s3:x-amz-metadata-directive",
    "s3:x-amz-server-side-encryption",
    "s3:x-amz-storage-class",
    "s3:x-amz-website-redirect-location",
];

fn operator(name: &str) -> Option<(Kind, Test, bool)> {
    Some(match name {
        "StringEquals" => (Kind::Text, Test::Equals, false),
        "StringNotEquals" => (Kind::Text, Test::Equals, true),
        "StringEqualsIgnoreCase" => (Kind::Text, Test::EqualsIgnoreCase, false),
        "StringNotEqualsIgnoreCase" => (Kind::Text, Test::EqualsIgnoreCase, true),
        "StringLike" | "ArnEquals" | "ArnLike" => (Kind::Text, Test::Like, false),
        "StringNotLike" | "ArnNotEquals" | "ArnNotLike" => (Kind::Text, Test::Like, true),
        "NumericEquals" => (Kind::Number, Test::Equals, false),
        "NumericNotEquals" => (Kind::Number, Test::Equals, true),
        "NumericLessThan" => (Kind::Number, Test::Less, false),
        "NumericLessThanEquals" => (Kind::Number, Test::LessEquals, false),
        "NumericGreaterThan" => (Kind::Number, Test::Greater, false),
        "NumericGreaterThanEquals" => (Kind::Number, Test::GreaterEquals, false),
        "DateEquals" => (Kind::Date, Test::Equals, false),
        "DateNotEquals" => (Kind::Date, Test::Equals, true),
        "DateLessThan" => (Kind::Date, Test::Less, false),
        "DateLessThanEquals" => (Kind::Date, Test::LessEquals, false),
        "DateGreaterThan" => (Kind::Date, Test::Greater, false),
        "DateGreaterThanEquals" => (Kind::Date, Test::GreaterEquals, false),
        "Bool" => (Kind::Bool, Test::Is, false),
        "IpAddress" => (Kind::Address, Test::In, false),
        "NotIpAddress" => (Kind::Address, Test::In, true),
        "Null" => (Kind::Null, Test::Is, false),
        _ => return None,
    })
}

fn date(text: &str) -> Option<f64> {
    let seconds = |t: Timestamp| t.0 as f64 / 1e6;
    text.parse().ok().or_else(|| Timestamp::parse(text).map(seconds))
}

fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// From the value of `Condition`.
pub fn parse(v: &Value) -> Result<Vec<Condition>, String> {
    let map = v.as_object().ok_or("Condition must be an object")?;
    let mut out = Vec::new();
    for (name, keys) in map {
        let (quantity, rest) = match name.split_once(':') {
            Some(("ForAllValues", r)) => (Quantity::ForAll, r),
            Some(("ForAnyValue", r)) => (Quantity::ForAny, r),
            _ => (Quantity::One, name.as_str()),
        };
        let (rest, if_exists) = rest.strip_suffix("IfExists").map_or((rest, false), |r| (r, true));
        let (kind, test, is_negated) = operator(rest).ok_or_else(|| format!("Invalid Condition type : {name}"))?;
        for (key, values) in keys.as_object().ok_or("Condition must be an object of objects")? {
            let key = key.to_lowercase();
            let known = KEYS.iter().any(|k| *k == key || (k.ends_with('/') && key.len() > k.len() && key.starts_with(k)));
            if !known {
                return Err(format!("Policy has an invalid condition key: {key}"));
            }
            let values = scalars(values)?;
            let fits = |v: &String| match kind {
                Kind::Text => true,
                Kind::Number => v.parse::<f64>().is_ok(),
                Kind::Date => date(v).is_some(),
                Kind::Bool | Kind::Null => matches!(v.as_str(), "true" | "false"),
                Kind::Address => network(v).is_some(),
            };
            if !values.iter().all(fits) || values.iter().any(|v| v.contains("${")) {
                return Err(format!("Invalid value in condition {name} for {key}"));
            }
            out.push(Condition { kind, test, is_negated, if_exists, quantity, key, values });
        }
    }
    Ok(out)
}

fn scalars(v: &Value) -> Result<Vec<String>, String> {
    let one = |v: &Value| match v {
        Value::String(s) => Ok(s.clone()),
        Value::Bool(b) => Ok(b.to_string()),
        Value::Number(n) => Ok(n.to_string()),
        _ => Err("Invalid value in condition".to_string()),
    };
    match v {
        Value::Array(list) if list.is_empty() => Err("Invalid value in condition".into()),
        Value::Array(list) => list.iter().map(one).collect(),
        v => Ok(vec![one(v)?]),
    }
}

impl Condition {
    pub fn holds(&self, facts: &Facts) -> bool {
        let found = facts.get(&self.key).filter(|v| !v.is_empty());
        if self.kind == Kind::Null {
            return self.values.iter().any(|v| (v == "true") == found.is_none());
        }
        let Some(found) = found else {
            // A negated test is true of what is not there.
            return self.if_exists || self.is_negated || self.quantity == Quantity::ForAll;
        };
        let one = |fact: &String| self.values.iter().any(|v| self.compare(fact, v)) != self.is_negated;
        match self.quantity {
            Quantity::ForAny | Quantity::One => found.iter().any(one),
            Quantity::ForAll => found.iter().all(one),
        }
    }

    fn compare(&self, fact: &str, value: &str) -> bool {
        let ordered = |pair: Option<(f64, f64)>| {
            pair.is_some_and(|(f, v)| match self.test {
                Test::Less => f < v,
                Test::LessEquals => f <= v,
                Test::Greater => f > v,
                Test::GreaterEquals => f >= v,
                _ => f == v,
            })
        };
        match self.kind {
            Kind::Text => match self.test {
                Test::EqualsIgnoreCase => fact.to_lowercase() == value.to_lowercase(),
                Test::Like => matches(value, fact),
                _ => fact == value,
            },
            Kind::Number => ordered(fact.parse().ok().zip(value.parse().ok())),
            Kind::Date => ordered(date(fact).zip(date(value))),
            Kind::Bool => fact.eq_ignore_ascii_case(value),
            Kind::Address => {
                let address = fact.parse::<IpAddr>().ok().map(|a| a.to_canonical());
                address.zip(network(value)).is_some_and(|(a, n)| n.contains(&a))
            }
            Kind::Null => false,
        }
    }
}
