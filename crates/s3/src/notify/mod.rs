//! Events of buckets, told to webhooks and message brokers. Source: Amazon S3's user guide, "Event notification".
//!
//! A bucket's configuration names a destination where S3 has the name of a topic or a queue: `arn:aws:sns:::<URL>` is a
//! webhook, `arn:aws:sns:<region>:<account>:<name>` and `arn:aws:sqs:…:<name>` (region and account do not matter) a
//! broker that the operator has given that name. Webhooks are what tenants choose, so that the operator says which
//! there may be, and each must pass the checks of every URL that a tenant gives: see [`caelum_safeio`]. Where brokers are
//! and how to log in there stands in the operator's configuration only.

mod amqp;
mod queue;

pub use amqp::Broker;

use crate::errors::{S3Result, err, invalid_argument, not_implemented};
use crate::xml::{Element, parse};
use bytes::Bytes;
use caelum_base::{Env, Error, Result};
use caelum_safeio::fetch::FetchPolicy;
use caelum_safeio::tls::Tls;
use ipnet::IpNet;
use queue::Queue;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const MAX_RULES: usize = 100;

/// Where events may be sent.
#[derive(Clone, Debug)]
pub struct EventOptions {
    /// `None`: no webhooks.
    pub webhooks: Option<Webhooks>,
    /// Message brokers by the names that buckets call them by.
    pub brokers: BTreeMap<String, Broker>,
    /// Where events wait, of this process alone; `None`: in memory only.
    pub spool: Option<PathBuf>,
    /// Pause after a first failure; each further one doubles it, up to five minutes.
    pub retry: Duration,
    /// For brokers by `amqps`.
    pub tls: Option<Tls>,
}

impl Default for EventOptions {
    fn default() -> Self {
        Self { webhooks: None, brokers: BTreeMap::new(), spool: None, retry: Duration::from_secs(1), tls: None }
    }
}

impl EventOptions {
    /// Brokers as `NAME = URL EXCHANGE [ROUTING_KEY]`, separated by semicolons: see [`Broker::parse`].
    pub fn parse_brokers(text: &str) -> Result<BTreeMap<String, Broker>> {
        let mut out = BTreeMap::new();
        for entry in text.split(';').map(str::trim).filter(|e| !e.is_empty()) {
            let (name, rest) =
                entry.split_once('=').ok_or_else(|| Error::invalid("a message broker is given as NAME = URL EXCHANGE KEY"))?;
            let name = name.trim();
            let is_name =
                !name.is_empty() && name.len() <= 256 && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
            if !is_name || out.insert(name.to_string(), Broker::parse(rest.trim())?).is_some() {
                return Err(Error::invalid(format!("message brokers: {name} is no name, or stands twice")));
            }
        }
        Ok(out)
    }
}

/// Which webhooks tenants may name.
#[derive(Clone, Debug)]
pub struct Webhooks {
    fetch: FetchPolicy,
    /// Any host with a public address.
    is_public: bool,
    /// These hosts, at public addresses.
    hosts: Vec<String>,
}

impl Webhooks {
    /// From a list of `public`, names of hosts, and networks (whose ports are free). Public hosts are reached at ports 80,
    /// 443, 8080 and 8443 only. An empty list means that there are none. Without `tls` there is no `https`.
    pub fn parse(entries: &[String], tls: Option<Tls>) -> Result<Option<Self>> {
        let mut out = Self { fetch: FetchPolicy { tls, ..FetchPolicy::default() }, is_public: false, hosts: Vec::new() };
        for e in entries.iter().map(|e| e.trim()) {
            if e == "public" {
                out.is_public = true;
            } else if let Some(net) = e.parse::<IpNet>().ok().or_else(|| e.parse::<IpAddr>().ok().map(IpNet::from)) {
                out.fetch.allowed_networks.push(net);
            } else if !e.is_empty() && e.split('.').all(|l| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')) {
                out.hosts.push(e.to_ascii_lowercase());
            } else {
                return Err(Error::invalid(format!("webhooks: {e} is neither public nor a host nor a network")));
            }
        }
        Ok((!entries.is_empty()).then_some(out))
    }

    /// With which checks a URL may be called: unless its host may be anywhere public, only the networks count.
    fn policy_for(&self, url: &str) -> FetchPolicy {
        let uri = url.parse::<http::Uri>().ok();
        let host = uri.as_ref().and_then(|u| u.host()).unwrap_or_default().to_ascii_lowercase();
        let mut policy = self.fetch.clone();
        if !self.is_public && !self.hosts.contains(&host) {
            policy.ports.clear();
        }
        policy
    }

    /// Whether a URL can be allowed at all, before its host is looked up.
    fn check(&self, url: &str) -> Result<()> {
        let policy = self.policy_for(url);
        caelum_safeio::fetch::check_url(url, &policy)?;
        let host = url.parse::<http::Uri>().ok().and_then(|u| u.host().map(str::to_string)).unwrap_or_default();
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        let never = match address {
            Ok(a) => {
                !policy.allowed_networks.iter().any(|n| n.contains(&a)) && (policy.ports.is_empty() || !caelum_safeio::fetch::is_global(a))
            }
            // A name that is not listed may still lead into a network that is.
            Err(_) => policy.ports.is_empty() && policy.allowed_networks.is_empty(),
        };
        if never { Err(Error::invalid("The host of the URL is not allowed.")) } else { Ok(()) }
    }
}

const EVENTS: &[&str] = &[
    "s3:ObjectCreated:*",
    "s3:ObjectCreated:Put",
    "s3:ObjectCreated:Post",
    "s3:ObjectCreated:Copy",
    "s3:ObjectCreated:CompleteMultipartUpload",
    "s3:ObjectRemoved:*",
    "s3:ObjectRemoved:Delete",
    "s3:ObjectRemoved:DeleteMarkerCreated",
    "s3:ObjectTagging:*",
    "s3:ObjectTagging:Put",
    "s3:ObjectTagging:Delete",
    "s3:ObjectAcl:Put",
    "s3:LifecycleExpiration:*",
    "s3:LifecycleExpiration:Delete",
    "s3:LifecycleExpiration:DeleteMarkerCreated",
];

/// Sends events on, until it is dropped.
pub struct Notifier {
    queue: Arc<Queue>,
    options: EventOptions,
    /// Runs the queue; made inside the runtime.
    task: OnceLock<tokio::task::AbortHandle>,
}

impl Drop for Notifier {
    fn drop(&mut self) {
        if let Some(t) = self.task.get() {
            t.abort();
        }
    }
}

/// One thing that happened to an object.
pub struct Event<'a> {
    /// `ObjectCreated:Put`
    pub name: &'a str,
    pub bucket: &'a str,
    pub key: &'a str,
    pub size: Option<u64>,
    pub etag: Option<&'a str>,
    pub version_id: Option<&'a str>,
    pub user: &'a str,
    /// The bucket's.
    pub owner: &'a str,
    pub time: caelum_base::Timestamp,
    pub request_id: &'a str,
    pub region: &'a str,
    pub remote: Option<String>,
}

/// Keys stand in records as forms are encoded, slashes as they are.
const KEEP: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b'/').remove(b' ');

impl Event<'_> {
    fn record(&self, id: &str) -> Value {
        let key = percent_encoding::utf8_percent_encode(self.key, KEEP).to_string().replace(' ', "+");
        let mut object = json!({"key": key, "sequencer": format!("{:016X}", self.time.0)});
        for (name, value) in
            [("size", self.size.map(Value::from)), ("eTag", self.etag.map(Value::from)), ("versionId", self.version_id.map(Value::from))]
        {
            if let Some(v) = value {
                object[name] = v;
            }
        }
        json!({"Records": [{
            "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": self.region, "eventTime": millis(self.time),
            "eventName": self.name, "userIdentity": {"principalId": self.user},
            "requestParameters": {"sourceIPAddress": self.remote.clone().unwrap_or_default()},
            "responseElements": {"x-amz-request-id": self.request_id, "x-amz-id-2": self.request_id},
            "s3": {"s3SchemaVersion": "1.0", "configurationId": id,
                   "bucket": {"name": self.bucket, "ownerIdentity": {"principalId": self.owner}, "arn": format!("arn:aws:s3:::{}", self.bucket)},
                   "object": object}}]})
    }

    /// What a destination is told when a configuration first names it.
    fn test(&self) -> Value {
        json!({"Service": "Amazon S3", "Event": "s3:TestEvent", "Time": millis(self.time), "Bucket": self.bucket,
            "RequestId": self.request_id, "HostId": self.request_id})
    }
}

/// `1970-01-01T00:00:00.000Z`
fn millis(t: caelum_base::Timestamp) -> String {
    let micros = t.iso_micros_z();
    format!("{}Z", &micros[..micros.len() - 4])
}

/// The destination that a resource name stands for: a URL, or a broker's name. `None` for what is no resource name.
fn destination(arn: &str) -> Option<&str> {
    let is_url = |t: &str| t.starts_with("http://") || t.starts_with("https://");
    if is_url(arn) {
        return Some(arn);
    }
    let mut parts = arn.splitn(6, ':');
    let (Some("arn"), Some("aws"), Some("sns" | "sqs"), Some(_), Some(_), Some(name)) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    (is_url(name) || (!name.is_empty() && !name.contains(':'))).then_some(name)
}

/// Where a rule of a configuration sends events.
fn destination_of(c: &Element) -> Option<&str> {
    let kind = match c.name.as_str() {
        "TopicConfiguration" => "Topic",
        "QueueConfiguration" => "Queue",
        _ => return None,
    };
    destination(c.text_of(kind)?)
}

fn check_destination(c: &Element, options: &EventOptions) -> S3Result<()> {
    let text = ["Topic", "Queue"].iter().find_map(|n| c.text_of(n)).ok_or_else(|| err("MalformedXML"))?;
    let refused = |why: &str| invalid_argument("ARN", text, &format!("Unable to validate the following destination configurations: {why}"));
    let to = destination_of(c)
        .ok_or_else(|| refused("arn:aws:sns:::<URL>, or arn:aws:sqs:::<name> of a configured destination, is expected"))?;
    if !to.contains("://") {
        return if options.brokers.contains_key(to) { Ok(()) } else { Err(refused("there is no destination of this name")) };
    }
    let webhooks = options.webhooks.as_ref().ok_or_else(|| not_implemented("Webhooks are switched off."))?;
    webhooks.check(to).map_err(|e| refused(&e.message))
}

/// Checks a `NotificationConfiguration`. Errors: `MalformedXML`, `InvalidArgument`, `NotImplemented`.
pub fn check(body: &[u8], options: &EventOptions) -> S3Result<Element> {
    let e = parse(body, "NotificationConfiguration").map_err(|_| err("MalformedXML"))?;
    if e.children.len() > MAX_RULES {
        return Err(err("MalformedXML"));
    }
    for c in &e.children {
        if !matches!(c.name.as_str(), "TopicConfiguration" | "QueueConfiguration") {
            return Err(not_implemented("Only topic and queue configurations are supported."));
        }
        check_destination(c, options)?;
        if c.children("Event").count() == 0 {
            return Err(err("MalformedXML"));
        }
        if let Some(odd) = c.children("Event").find(|e| !EVENTS.contains(&e.text.trim())) {
            return Err(invalid_argument("Event", odd.text.trim(), "The event is not supported for notifications"));
        }
        for rule in filters(c) {
            let name = rule.text_of("Name").unwrap_or_default().to_ascii_lowercase();
            if !matches!(name.as_str(), "prefix" | "suffix") {
                return Err(invalid_argument("FilterRule.Name", &name, "filter rule name must be either prefix or suffix"));
            }
        }
    }
    Ok(e)
}

fn filters(c: &Element) -> impl Iterator<Item = &Element> {
    c.child("Filter").and_then(|f| f.child("S3Key")).into_iter().flat_map(|k| k.children("FilterRule"))
}

fn is_about(c: &Element, event: &Event<'_>) -> bool {
    let full = format!("s3:{}", event.name);
    let named = c.children("Event").any(|e| crate::policy::matches(e.text.trim(), &full));
    named
        && filters(c).all(|r| {
            let value = r.text_of("Value").unwrap_or_default();
            match r.text_of("Name").unwrap_or_default().to_ascii_lowercase().as_str() {
                "prefix" => event.key.starts_with(value),
                _ => event.key.ends_with(value),
            }
        })
}

/// Where an event goes and what is said there.
fn deliveries(config: &str, event: &Event<'_>) -> Vec<(String, Bytes)> {
    let Ok(e) = parse(config.as_bytes(), "NotificationConfiguration") else { return Vec::new() };
    let fitting = e.children.iter().filter(|c| is_about(c, event));
    fitting
        .filter_map(|c| Some((destination_of(c)?.to_string(), Bytes::from(event.record(c.text_of("Id").unwrap_or_default()).to_string()))))
        .collect()
}

impl Notifier {
    /// Begins with what an earlier process has left, when it is made inside a runtime; else with the first event.
    pub fn new(env: Env, options: EventOptions) -> Self {
        let new = Self { queue: Arc::new(Queue::new(env, options.clone())), options, task: OnceLock::new() };
        if new.options.spool.is_some() && tokio::runtime::Handle::try_current().is_ok() {
            new.start();
        }
        new
    }

    fn start(&self) {
        self.task.get_or_init(|| tokio::spawn(self.queue.clone().run()).abort_handle());
    }

    pub fn options(&self) -> &EventOptions {
        &self.options
    }

    /// Puts an event into the queue for everybody whom the bucket's configuration names.
    pub async fn tell(&self, config: &str, event: &Event<'_>) {
        for (to, body) in deliveries(config, event) {
            self.start();
            self.queue.push(to, body).await;
        }
    }

    /// Tells those whom a new configuration names that it does.
    pub async fn test(&self, config: &Element, event: &Event<'_>) {
        let body = Bytes::from(event.test().to_string());
        let mut all: Vec<&str> = config.children.iter().filter_map(destination_of).collect();
        all.sort_unstable();
        all.dedup();
        for to in all {
            self.start();
            self.queue.push(to.to_string(), body.clone()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event<'a>(name: &'a str, key: &'a str) -> Event<'a> {
        Event {
            name,
            bucket: "b",
            key,
            size: Some(3),
            etag: Some("e"),
            version_id: None,
            user: "u",
            owner: "o",
            time: caelum_base::Timestamp::from_secs(0),
            request_id: "tx",
            region: "r",
            remote: None,
        }
    }

    fn config(url: &str, event: &str) -> String {
        format!(
            "<NotificationConfiguration><TopicConfiguration><Id>one</Id><Topic>arn:aws:sns:::{url}</Topic><Event>{event}</Event>\
             <Filter><S3Key><FilterRule><Name>Prefix</Name><Value>in/</Value></FilterRule></S3Key></Filter></TopicConfiguration></NotificationConfiguration>"
        )
    }

    #[test]
    fn who_is_told_what() {
        let c = config("http://h.example/x", "s3:ObjectCreated:*");
        let told = deliveries(&c, &event("ObjectCreated:Put", "in/a é"));
        let v: Value = serde_json::from_slice(&told[0].1).unwrap();
        assert_eq!((told[0].0.as_str(), &v["Records"][0]["s3"]["object"]["key"]), ("http://h.example/x", &json!("in/a+%C3%A9")));
        assert!(deliveries(&c, &event("ObjectCreated:Put", "out/x")).is_empty());
        assert!(deliveries(&c, &event("ObjectRemoved:Delete", "in/x")).is_empty());
    }

    fn options(webhooks: &[&str]) -> EventOptions {
        let webhooks: Vec<String> = webhooks.iter().map(|w| w.to_string()).collect();
        let brokers = EventOptions::parse_brokers("events = amqp://u:p@mq ex key").unwrap();
        EventOptions { webhooks: Webhooks::parse(&webhooks, None).unwrap(), brokers, ..EventOptions::default() }
    }

    #[test]
    fn destinations() {
        let public = options(&["public"]);
        let code = |url: &str, event: &str| check(config(url, event).as_bytes(), &public).err().map(|e| e.code);
        assert_eq!(code("http://h.example/x", "s3:ObjectCreated:Put"), None);
        for bad in [
            "amqp://h/x",
            "http://127.1/x",
            "http://127.0.0.1/x",
            "http://[::1]/x",
            "http://user@h.example/x",
            "file:///etc/passwd",
            "none",
            "https://h.example/",
        ] {
            assert_eq!(code(bad, "s3:ObjectCreated:Put"), Some("InvalidArgument"), "{bad}");
        }
        assert_eq!(code("events", "s3:ObjectCreated:Put"), None);
        assert_eq!(code("http://h.example/x", "s3:Everything"), Some("InvalidArgument"));
        let off = check(config("http://h.example/x", "s3:ObjectCreated:Put").as_bytes(), &options(&[]));
        assert_eq!(off.unwrap_err().code, "NotImplemented");
        let queue = "<NotificationConfiguration><QueueConfiguration><Queue>arn:aws:sqs:eu-west-1:1234:events</Queue><Event>s3:ObjectCreated:*</Event></QueueConfiguration></NotificationConfiguration>";
        assert_eq!(deliveries(queue, &event("ObjectCreated:Put", "k"))[0].0, "events");
        assert!(check(queue.as_bytes(), &options(&[])).is_ok());
        let function = queue.replace("QueueConf", "CloudFunctionConf");
        assert_eq!(check(function.as_bytes(), &public).unwrap_err().code, "NotImplemented");
    }

    #[test]
    fn which_webhooks_there_may_be() {
        let may = |allowed: &[&str], url: &str| options(allowed).webhooks.unwrap().check(url).is_ok();
        assert!(may(&["hooks.example"], "http://hooks.EXAMPLE/x") && !may(&["hooks.example"], "http://other.example/x"));
        assert!(may(&["10.0.0.0/8"], "http://10.1.2.3:9999/x") && !may(&["10.0.0.0/8"], "http://8.8.8.8/x"));
        assert!(may(&["10.0.0.0/8"], "http://inner.example/x"), "where the name leads is seen when it is called");
        assert!(may(&["192.0.2.7"], "http://192.0.2.7/") && !may(&["192.0.2.7"], "http://192.0.2.8/"));
        let all = options(&["10.0.0.0/8", "hooks.example"]).webhooks.unwrap();
        assert!(all.policy_for("http://inner.example/").ports.is_empty() && !all.policy_for("http://hooks.example/").ports.is_empty());
        assert!(Webhooks::parse(&["http://x".into()], None).is_err() && Webhooks::parse(&["".into()], None).is_err());
        for bad in ["events", "a b = amqp://u:p@h e", "= amqp://u:p@h e", "e = amqp://u:p@h e; e = amqp://u:p@h e"] {
            assert!(EventOptions::parse_brokers(bad).is_err(), "{bad}");
        }
    }
}
