//! Rules by which objects end. Source: Amazon S3's user guide, "Managing the lifecycle of objects".
//!
//! Buckets with rules are listed in a container of the account `.s3_lifecycle`, so that a pass finds them without
//! looking at every account. A pass reads listings and deletes as the bucket's owner could; where a lock protects a
//! version it stays.

use crate::context::{Cx, Rights, Subject, discard};
use crate::errors::{S3Result, err, invalid_argument, not_implemented};
use crate::layer::{Inner, S3Layer};
use crate::ops;
use crate::state::{Bucket, Setting};
use crate::target::Target;
use crate::xml::{Element, parse};
use caelum_base::Timestamp;
use caelum_object::env::Environ;
use caelum_object::http::{Origin, Params};
use http::{HeaderMap, Method};
use serde_json::Value;
use std::sync::Arc;

const MAX_RULES: usize = 100;
const REGISTRY: (&str, &str) = (".s3_lifecycle", "buckets");
/// Rows of one bucket that a pass looks at; the next pass begins at the front again, after what has ended is gone.
const MAX_ROWS: usize = 1_000_000;
const DAY: i64 = 86_400;

/// When something ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Days(i64),
    /// Seconds since 1970.
    Date(i64),
}

#[derive(Clone, Debug, Default)]
struct Rule {
    prefix: String,
    tags: Vec<(String, String)>,
    larger: Option<u64>,
    smaller: Option<u64>,
    expires: Option<End>,
    removes_markers: bool,
    noncurrent_days: Option<i64>,
    newer_kept: usize,
    abort_days: Option<i64>,
}

fn days(e: &Element, name: &str) -> S3Result<Option<i64>> {
    let Some(text) = e.text_of(name) else { return Ok(None) };
    let n = text.parse::<i64>().ok().filter(|n| (1..=36_500).contains(n));
    n.map(Some).ok_or_else(|| invalid_argument(name, text, &format!("'{name}' must be a positive integer")))
}

fn filter(rule: &mut Rule, f: &Element) -> S3Result<()> {
    for c in &f.children {
        match c.name.as_str() {
            "Prefix" => rule.prefix = c.text.clone(),
            "Tag" => {
                let of = |n: &str| c.child(n).map(|e| e.text.clone()).ok_or_else(|| err("MalformedXML"));
                rule.tags.push((of("Key")?, of("Value")?));
            }
            "ObjectSizeGreaterThan" => rule.larger = Some(c.text.trim().parse().map_err(|_| err("MalformedXML"))?),
            "ObjectSizeLessThan" => rule.smaller = Some(c.text.trim().parse().map_err(|_| err("MalformedXML"))?),
            "And" if f.name == "Filter" => filter(rule, c)?,
            _ => return Err(err("MalformedXML")),
        }
    }
    Ok(())
}

fn expiration(rule: &mut Rule, e: &Element) -> S3Result<()> {
    let date = e.text_of("Date").map(|t| Timestamp::parse(t).filter(|t| t.secs() % DAY == 0));
    rule.expires = match (days(e, "Days")?, date) {
        (Some(d), None) => Some(End::Days(d)),
        (None, Some(Some(t))) => Some(End::Date(t.secs())),
        (None, Some(None)) => {
            return Err(invalid_argument("Date", e.text_of("Date").unwrap_or_default(), "'Date' must be at midnight GMT"));
        }
        (None, None) if e.text_of("ExpiredObjectDeleteMarker") == Some("true") => None,
        _ => return Err(err("MalformedXML")),
    };
    rule.removes_markers = rule.expires.is_none();
    Ok(())
}

/// One rule; `None` when it is switched off.
fn rule(e: &Element) -> S3Result<Option<Rule>> {
    let bad = || err("MalformedXML");
    let mut r = Rule::default();
    let mut acts = 0;
    for c in &e.children {
        match c.name.as_str() {
            "ID" if c.text.len() <= 255 => {}
            "Status" if matches!(c.text.trim(), "Enabled" | "Disabled") => {}
            "Prefix" => r.prefix = c.text.clone(),
            "Filter" => filter(&mut r, c)?,
            "Expiration" => {
                expiration(&mut r, c)?;
                acts += 1;
            }
            "NoncurrentVersionExpiration" => {
                r.noncurrent_days = Some(days(c, "NoncurrentDays")?.ok_or_else(bad)?);
                r.newer_kept = c.text_of("NewerNoncurrentVersions").map_or(Ok(0), |t| t.parse().map_err(|_| bad()))?;
                acts += 1;
            }
            "AbortIncompleteMultipartUpload" => {
                r.abort_days = Some(days(c, "DaysAfterInitiation")?.ok_or_else(bad)?);
                acts += 1;
            }
            "Transition" | "NoncurrentVersionTransition" => return Err(not_implemented("There is one storage class only.")),
            _ => return Err(bad()),
        }
    }
    if acts == 0 || e.child("Status").is_none() {
        return Err(bad());
    }
    let filtered = !r.tags.is_empty() || r.larger.is_some() || r.smaller.is_some();
    if filtered && (r.abort_days.is_some() || r.removes_markers) {
        return Err(bad());
    }
    Ok((e.text_of("Status") == Some("Enabled")).then_some(r))
}

fn rules_of(e: &Element) -> S3Result<Vec<Rule>> {
    if e.children.is_empty() || e.children.len() > MAX_RULES || e.children.iter().any(|c| c.name != "Rule") {
        return Err(err("MalformedXML"));
    }
    let all: Vec<Option<Rule>> = e.children.iter().map(rule).collect::<S3Result<_>>()?;
    Ok(all.into_iter().flatten().collect())
}

/// Checks a `LifecycleConfiguration`. Errors: `MalformedXML`, `InvalidArgument`, `NotImplemented`.
pub fn check(body: &[u8]) -> S3Result<Element> {
    let e = parse(body, "LifecycleConfiguration").map_err(|_| err("MalformedXML"))?;
    let ids: Vec<&str> = e.children.iter().filter_map(|r| r.text_of("ID")).collect();
    if ids.iter().enumerate().any(|(i, id)| ids[..i].contains(id)) {
        return Err(invalid_argument("ID", "", "Rule ID must be unique. Found same ID for more than one rule"));
    }
    rules_of(&e).map(|_| e)
}

fn entry(cx: &Cx) -> String {
    format!("{}/{}", cx.account, cx.bucket())
}

fn at_registry(cx: &Cx) -> Cx {
    Cx { account: REGISTRY.0.into(), ..cx.with_rights(Rights::Granted) }
}

/// Notes that a pass should look at the bucket.
pub async fn register(cx: &Cx) -> S3Result<()> {
    let r = at_registry(cx);
    let put = || r.call(Method::PUT, REGISTRY.1, &entry(cx)).internal().header("content-type", "text/plain").send();
    let mut resp = put().await;
    if resp.status() == http::StatusCode::NOT_FOUND {
        discard(r.call(Method::PUT, REGISTRY.1, "").internal().send().await).await;
        resp = put().await;
    }
    discard(r.expect(resp, Subject::Put(REGISTRY.1)).await?).await;
    Ok(())
}

/// A bucket that stays noted costs a look at its settings.
pub async fn unregister(cx: &Cx) {
    discard(at_registry(cx).call(Method::DELETE, REGISTRY.1, &entry(cx)).internal().send().await).await;
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    pub n_buckets: u64,
    pub n_expired: u64,
    pub n_versions: u64,
    pub n_aborted: u64,
    pub n_failed: u64,
}

impl S3Layer {
    /// Looks at every bucket with rules once and ends what is due.
    pub async fn lifecycle_run_once(&self) -> Pass {
        let mut pass = Pass::default();
        let mut marker = String::new();
        loop {
            let cx = system(&self.0, REGISTRY.0, REGISTRY.1);
            let call = cx.call(Method::GET, REGISTRY.1, "").internal().query("marker", &marker);
            let Ok((rows, _)) = call.json(Subject::Bucket(REGISTRY.1)).await else { return pass };
            let names: Vec<String> =
                rows.as_array().into_iter().flatten().filter_map(|r| Some(r.get("name")?.as_str()?.to_string())).collect();
            let Some(last) = names.last() else { return pass };
            marker.clone_from(last);
            for name in &names {
                let Some((account, bucket)) = name.split_once('/') else { continue };
                let cx = system(&self.0, account, bucket);
                if let Err(e) = run(&cx, &mut pass).await {
                    pass.n_failed += 1;
                    tracing::warn!(code = e.code, bucket, "the lifecycle of a bucket could not be followed");
                }
            }
        }
    }
}

/// A request of the program's own about a bucket.
fn system(inner: &Arc<Inner>, account: &str, bucket: &str) -> Cx {
    let request_id = inner.deps.env.request_id();
    let mut req = http::Request::new(caelum_rest::empty());
    req.extensions_mut().insert(Environ::internal(&request_id, "S3"));
    Cx {
        inner: inner.clone(),
        method: Method::DELETE,
        headers: HeaderMap::new(),
        params: Params::default(),
        target: Target { bucket: Some(bucket.into()), ..Target::default() },
        account: account.into(),
        caller: None,
        is_owner: true,
        claim: None,
        origin: Origin::of(&req),
        rights: Rights::Granted,
        body: std::sync::Mutex::new(None),
        base_url: String::new(),
        request_id,
    }
}

async fn run(cx: &Cx, pass: &mut Pass) -> S3Result<()> {
    let state = match cx.bucket_state().await {
        Ok(s) => s,
        Err(e) if e.code == "NoSuchBucket" => {
            unregister(cx).await;
            return Ok(());
        }
        Err(e) => return Err(e),
    };
    let Some(text) = state.setting(Setting::Lifecycle) else {
        unregister(cx).await;
        return Ok(());
    };
    pass.n_buckets += 1;
    let rules = rules_of(&parse(text.as_bytes(), "LifecycleConfiguration").map_err(|_| err("InternalError"))?)?;
    let now = cx.now().secs();
    if rules.iter().any(|r| r.expires.is_some()) {
        current(cx, &state, &rules, now, pass).await?;
    }
    if state.has_versions() && rules.iter().any(|r| r.noncurrent_days.is_some() || r.removes_markers) {
        versions(cx, &state, &rules, now, pass).await?;
    }
    for r in &rules {
        if let Some(days) = r.abort_days {
            for (key, id, at) in ops::all_uploads(cx, 100_000).await? {
                if key.starts_with(&r.prefix) && due(&at, days, now) && ops::abort_upload(cx, &key, &id).await.is_ok() {
                    pass.n_aborted += 1;
                }
            }
        }
    }
    Ok(())
}

/// Whether `days` whole days have passed since the midnight after `iso`.
fn due(iso: &str, days: i64, now: i64) -> bool {
    let at = Timestamp::parse(iso).map_or(i64::MAX, Timestamp::secs);
    at != i64::MAX && (at.div_euclid(DAY) + 1 + days) * DAY <= now
}

fn text_of<'a>(row: &'a Value, name: &str) -> &'a str {
    row.get(name).and_then(Value::as_str).unwrap_or_default()
}

impl Rule {
    fn fits(&self, row: &Value) -> bool {
        let size = row.get("bytes").and_then(Value::as_u64).unwrap_or(0);
        text_of(row, "name").starts_with(&self.prefix) && self.larger.is_none_or(|l| size > l) && self.smaller.is_none_or(|s| size < s)
    }

    async fn has_tags(&self, cx: &Cx, key: &str) -> bool {
        if self.tags.is_empty() {
            return true;
        }
        let head = cx.call(Method::HEAD, cx.bucket(), key).granted().send().await;
        let there = crate::tags::of_object(head.headers());
        head.status().is_success() && self.tags.iter().all(|t| there.contains(t))
    }
}

async fn current(cx: &Cx, state: &Bucket, rules: &[Rule], now: i64, pass: &mut Pass) -> S3Result<()> {
    let (mut marker, mut seen) = (String::new(), 0);
    while seen < MAX_ROWS {
        let (rows, _) = cx.call(Method::GET, cx.bucket(), "").query("marker", &marker).json(Subject::Bucket(cx.bucket())).await?;
        let rows = rows.as_array().cloned().unwrap_or_default();
        let Some(last) = rows.last() else { break };
        marker = text_of(last, "name").to_string();
        seen += rows.len();
        for row in &rows {
            let key = text_of(row, "name");
            let ended = |r: &&Rule| match r.expires {
                Some(End::Days(d)) => due(text_of(row, "last_modified"), d, now),
                Some(End::Date(t)) => t <= now,
                None => false,
            };
            for r in rules.iter().filter(|r| r.fits(row)).filter(ended) {
                if !r.has_tags(cx, key).await {
                    continue;
                }
                match ops::remove(cx, state, key, None).await {
                    Ok(_) => pass.n_expired += 1,
                    Err(_) => pass.n_failed += 1,
                }
                break;
            }
        }
    }
    Ok(())
}

/// Versions come newest first, key by key; one became noncurrent when the one before it in the list was written.
async fn versions(cx: &Cx, state: &Bucket, rules: &[Rule], now: i64, pass: &mut Pass) -> S3Result<()> {
    let (mut marker, mut version, mut seen) = (String::new(), String::new(), 0);
    let (mut key, mut newer, mut successor) = (String::new(), 0_usize, String::new());
    while seen < MAX_ROWS {
        let mut call = cx.call(Method::GET, cx.bucket(), "").query("versions", "").query("marker", &marker);
        if !version.is_empty() {
            call = call.query("version_marker", &version);
        }
        let (rows, _) = call.json(Subject::Bucket(cx.bucket())).await?;
        let rows = rows.as_array().cloned().unwrap_or_default();
        let Some(last) = rows.last() else { break };
        (marker, version) = (text_of(last, "name").to_string(), text_of(last, "version_id").to_string());
        seen += rows.len();
        for (i, row) in rows.iter().enumerate() {
            if text_of(row, "name") != key {
                (key, newer, successor) = (text_of(row, "name").to_string(), 0, String::new());
            }
            let is_latest = row.get("is_latest").and_then(Value::as_bool).unwrap_or(true);
            let id = text_of(row, "version_id");
            let is_marker = text_of(row, "content_type").starts_with("application/x-deleted");
            // A marker is alone when the next row is another key's.
            let alone = is_latest && is_marker && rows.get(i + 1).is_some_and(|n| text_of(n, "name") != key);
            let alone = alone || (is_latest && is_marker && i + 1 == rows.len() && rows.len() < 1000);
            let ended = rules.iter().filter(|r| r.fits(row)).any(|r| {
                let old = r.noncurrent_days.is_some_and(|d| !is_latest && newer >= r.newer_kept && due(&successor, d, now));
                old || (r.removes_markers && alone)
            });
            if !is_latest {
                newer += 1;
            }
            successor = text_of(row, "last_modified").to_string();
            if ended && !id.is_empty() {
                match ops::remove(cx, state, &key, Some(id)).await {
                    Ok(_) => pass.n_versions += 1,
                    Err(_) => pass.n_failed += 1,
                }
            }
        }
    }
    Ok(())
}

/// What `x-amz-expiration` says of an object, by the first rule that will end it without looking at tags.
pub fn expiration_of(config: &str, key: &str, modified: i64, size: u64) -> Option<String> {
    let e = parse(config.as_bytes(), "LifecycleConfiguration").ok()?;
    let row = serde_json::json!({"name": key, "bytes": size});
    e.children.iter().find_map(|c| {
        let r = rule(c).ok()??;
        let at = match r.expires? {
            End::Days(d) => (modified.div_euclid(DAY) + 1 + d) * DAY,
            End::Date(t) => t,
        };
        let id = c.text_of("ID").unwrap_or_default();
        let date = caelum_object::http::http_date(u64::try_from(at).ok()?);
        (r.tags.is_empty() && r.fits(&row)).then(|| format!("expiry-date=\"{date}\", rule-id=\"{id}\""))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(rule: &str) -> Result<Element, &'static str> {
        check(format!("<LifecycleConfiguration><Rule>{rule}</Rule></LifecycleConfiguration>").as_bytes()).map_err(|e| e.code)
    }

    #[test]
    fn rules_are_checked() {
        assert!(config("<ID>a</ID><Status>Enabled</Status><Prefix>p/</Prefix><Expiration><Days>1</Days></Expiration>").is_ok());
        assert!(config("<Status>Enabled</Status><Filter><And><Prefix>p</Prefix><Tag><Key>a</Key><Value>b</Value></Tag></And></Filter><Expiration><Date>2030-01-01T00:00:00Z</Date></Expiration>").is_ok());
        for bad in [
            "<Status>Enabled</Status><Prefix/>",
            "<Status>On</Status><Prefix/><Expiration><Days>1</Days></Expiration>",
            "<Prefix/><Expiration><Days>1</Days></Expiration>",
            "<Status>Enabled</Status><Expiration><Days>0</Days></Expiration>",
            "<Status>Enabled</Status><Expiration><Days>1</Days><Date>2030-01-01T00:00:00Z</Date></Expiration>",
            "<Status>Enabled</Status><Expiration><Date>2030-01-01T01:00:00Z</Date></Expiration>",
            "<Status>Enabled</Status><Filter><Tag><Key>a</Key><Value>b</Value></Tag></Filter><AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload>",
            "<Status>Enabled</Status><Transition><Days>1</Days><StorageClass>GLACIER</StorageClass></Transition>",
        ] {
            assert!(config(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn days_are_whole() {
        assert!(!due("2026-01-01T10:00:00.000000", 1, Timestamp::parse("2026-01-02T23:59:59Z").unwrap().secs()));
        assert!(due("2026-01-01T10:00:00.000000", 1, Timestamp::parse("2026-01-03T00:00:00Z").unwrap().secs()));
        assert!(!due("rubbish", 1, i64::MAX - 1));
        let c = "<LifecycleConfiguration><Rule><ID>r</ID><Status>Enabled</Status><Prefix>p/</Prefix><Expiration><Days>1</Days></Expiration></Rule></LifecycleConfiguration>";
        assert_eq!(expiration_of(c, "p/x", 0, 1).as_deref(), Some("expiry-date=\"Sat, 03 Jan 1970 00:00:00 GMT\", rule-id=\"r\""));
        assert_eq!(expiration_of(c, "q/x", 0, 1), None);
    }
}
