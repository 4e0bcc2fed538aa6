//! The form of notifications on the wire.

use caelum_base::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How urgent a notification is, in oslo.messaging's spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Priority {
    Debug,
    Info,
    Warn,
    Error,
    Critical,
}

/// oslo.messaging's notification message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notification {
    pub message_id: String,
    /// `<binary>:<host>`, such as `nova-compute:node1`.
    pub publisher_id: String,
    /// `instance.create.end`
    pub event_type: String,
    pub priority: Priority,
    pub payload: Value,
    /// `YYYY-MM-DD HH:MM:SS.ffffff`, UTC.
    pub timestamp: String,
}

/// A versioned payload, as Nova's versioned notifications carry it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Payload<T> {
    #[serde(rename = "nova_object.name")]
    pub name: String,
    #[serde(rename = "nova_object.namespace")]
    pub namespace: String,
    #[serde(rename = "nova_object.version")]
    pub version: String,
    #[serde(rename = "nova_object.data")]
    pub data: T,
}

pub(crate) fn timestamp(t: Timestamp) -> String {
    t.iso_micros().replacen('T', " ", 1)
}
