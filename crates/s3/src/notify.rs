//! Events of buckets, told to webhooks. Source: Amazon S3's user guide, "Event notification".
//!
//! What is to be told waits in one bounded queue; when it is full, or a destination cannot be reached after a few
//! attempts, the event is lost and that is logged. Destinations must pass the same checks as every URL that a
//! tenant gives: see [`caelum_safeio`].

use crate::errors::{S3Result, err, invalid_argument, not_implemented};
use crate::xml::{Element, parse};
use bytes::Bytes;
use caelum_safeio::fetch::FetchPolicy;
use serde_json::{Value, json};
use std::sync::OnceLock;
use std::time::Duration;
use tokio::sync::mpsc;

const QUEUE: usize = 1024;
const ATTEMPTS: u32 = 3;
const MAX_RULES: usize = 100;
/// What stands in front of a URL where S3 wants a resource name.
const ARN: &str = "arn:aws:sns:::";

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

/// Sends events on.
pub struct Notifier {
    policy: Option<FetchPolicy>,
    /// Made with the first event, inside the runtime.
    queue: OnceLock<mpsc::Sender<(String, Bytes)>>,
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
    pub time: caelum_base::Timestamp,
    pub request_id: &'a str,
    pub region: &'a str,
    pub remote: Option<String>,
}

impl Event<'_> {
    fn record(&self, id: &str) -> Value {
        let mut object = json!({"key": percent_encoding::utf8_percent_encode(self.key, percent_encoding::NON_ALPHANUMERIC).to_string(),
            "sequencer": format!("{:016X}", self.time.0)});
        for (name, value) in
            [("size", self.size.map(Value::from)), ("eTag", self.etag.map(Value::from)), ("versionId", self.version_id.map(Value::from))]
        {
            if let Some(v) = value {
                object[name] = v;
            }
        }
        json!({"Records": [{
            "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": self.region, "eventTime": self.time.iso_micros_z(),
            "eventName": self.name, "userIdentity": {"principalId": self.user},
            "requestParameters": {"sourceIPAddress": self.remote.clone().unwrap_or_default()},
            "responseElements": {"x-amz-request-id": self.request_id, "x-amz-id-2": self.request_id},
            "s3": {"s3SchemaVersion": "1.0", "configurationId": id,
                   "bucket": {"name": self.bucket, "ownerIdentity": {"principalId": ""}, "arn": format!("arn:aws:s3:::{}", self.bucket)},
                   "object": object}}]})
    }
}

fn url_of(arn: &str) -> Option<&str> {
    let url = arn.strip_prefix(ARN).unwrap_or(arn);
    (url.starts_with("http://") || url.starts_with("https://") || url.starts_with("amqp://") || url.starts_with("amqps://")).then_some(url)
}

/// Checks a `NotificationConfiguration`. Errors: `MalformedXML`, `InvalidArgument`, `NotImplemented`.
pub fn check(body: &[u8], policy: Option<&FetchPolicy>) -> S3Result<Element> {
    let e = parse(body, "NotificationConfiguration").map_err(|_| err("MalformedXML"))?;
    if e.children.len() > MAX_RULES {
        return Err(err("MalformedXML"));
    }
    for c in &e.children {
        if c.name != "TopicConfiguration" {
            return Err(not_implemented("Only topic configurations with the URL of a webhook are supported."));
        }
        let topic = c.text_of("Topic").ok_or_else(|| err("MalformedXML"))?;
        let url = url_of(topic)
            .ok_or_else(|| invalid_argument("Topic", topic, "Unable to validate the destination: arn:aws:sns:::<URL> is expected."))?;
        if url.starts_with("amqp") {
            return Err(not_implemented("There is no driver for AMQP."));
        }
        if url.starts_with("https:") {
            return Err(not_implemented("Webhooks by https are not supported."));
        }
        if policy.is_none() {
            return Err(not_implemented("Webhooks are switched off."));
        }
        caelum_safeio::fetch::check_url(url).map_err(|_| invalid_argument("Topic", topic, "Unable to validate the destination."))?;
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
        .filter_map(|c| {
            let url = url_of(c.text_of("Topic")?)?;
            Some((url.to_string(), Bytes::from(event.record(c.text_of("Id").unwrap_or_default()).to_string())))
        })
        .collect()
}

impl Notifier {
    pub fn new(policy: Option<FetchPolicy>) -> Self {
        Self { policy, queue: OnceLock::new() }
    }

    /// Puts an event into the queue for everybody whom the bucket's configuration names.
    pub fn tell(&self, config: &str, event: &Event<'_>) {
        let Some(policy) = &self.policy else { return };
        for delivery in deliveries(config, event) {
            let queue = self.queue.get_or_init(|| {
                let (tx, rx) = mpsc::channel(QUEUE);
                tokio::spawn(deliver(rx, policy.clone()));
                tx
            });
            if queue.try_send(delivery).is_err() {
                tracing::warn!(bucket = event.bucket, "an event is lost: the queue is full");
            }
        }
    }
}

async fn deliver(mut queue: mpsc::Receiver<(String, Bytes)>, policy: FetchPolicy) {
    while let Some((url, body)) = queue.recv().await {
        for attempt in 1..=ATTEMPTS {
            match caelum_safeio::fetch::post(&url, &policy, "application/json", body.clone()).await {
                Ok(status) if status < 500 => break,
                Ok(_) | Err(_) if attempt < ATTEMPTS => tokio::time::sleep(Duration::from_millis(500 * u64::from(attempt))).await,
                Ok(status) => tracing::warn!(status, "an event could not be delivered"),
                Err(e) => tracing::warn!(error = e.chain(), "an event could not be delivered"),
            }
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
        let told = deliveries(&c, &event("ObjectCreated:Put", "in/é"));
        let v: Value = serde_json::from_slice(&told[0].1).unwrap();
        assert_eq!((told[0].0.as_str(), &v["Records"][0]["s3"]["object"]["key"]), ("http://h.example/x", &json!("in%2F%C3%A9")));
        assert!(deliveries(&c, &event("ObjectCreated:Put", "out/x")).is_empty());
        assert!(deliveries(&c, &event("ObjectRemoved:Delete", "in/x")).is_empty());
    }

    #[test]
    fn destinations() {
        let policy = FetchPolicy::default();
        let code = |url: &str, event: &str| check(config(url, event).as_bytes(), Some(&policy)).err().map(|e| e.code);
        assert_eq!(code("http://h.example/x", "s3:ObjectCreated:Put"), None);
        assert_eq!(code("amqp://h/x", "s3:ObjectCreated:Put"), Some("NotImplemented"));
        assert_eq!(code("http://127.1/x", "s3:ObjectCreated:Put"), Some("InvalidArgument"));
        assert_eq!(code("http://user@h.example/x", "s3:ObjectCreated:Put"), Some("InvalidArgument"));
        assert_eq!(code("file:///etc/passwd", "s3:ObjectCreated:Put"), Some("InvalidArgument"));
        assert_eq!(code("http://h.example/x", "s3:Everything"), Some("InvalidArgument"));
        assert_eq!(check(config("http://h.example/x", "s3:ObjectCreated:Put").as_bytes(), None).unwrap_err().code, "NotImplemented");
    }
}
