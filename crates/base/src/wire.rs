//! Errors as data: what a flow row or a bus reply keeps of an [`Error`].

use crate::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Different codes that may come in from outside; programs know a few hundred.
const MAX_CODES: usize = 4_096;

/// Kind, public message and code of an error. The private cause stays where it happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireError {
    /// HTTP-like status plus a name where several kinds share a status.
    pub kind: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
}

const KINDS: [(&str, ErrorKind); 13] = [
    ("not_found", ErrorKind::NotFound),
    ("conflict", ErrorKind::Conflict),
    ("generation", ErrorKind::Generation),
    ("invalid", ErrorKind::Invalid),
    ("unauthenticated", ErrorKind::Unauthenticated),
    ("forbidden", ErrorKind::Forbidden),
    ("over_quota", ErrorKind::OverQuota),
    ("too_large", ErrorKind::TooLarge),
    ("too_many", ErrorKind::TooMany),
    ("unavailable", ErrorKind::Unavailable),
    ("timeout", ErrorKind::Timeout),
    ("not_implemented", ErrorKind::NotImplemented),
    ("internal", ErrorKind::Internal),
];

impl From<&Error> for WireError {
    fn from(e: &Error) -> Self {
        let kind = match e.kind {
            ErrorKind::Status(s) => s.to_string(),
            k => KINDS.iter().find(|(_, known)| *known == k).map_or("internal", |(name, _)| name).to_string(),
        };
        Self { kind, message: e.message.clone(), code: e.code.to_string() }
    }
}

impl From<WireError> for Error {
    fn from(w: WireError) -> Self {
        let named = KINDS.iter().find(|(name, _)| *name == w.kind).map(|(_, k)| *k);
        let kind = named.or_else(|| w.kind.parse().ok().map(ErrorKind::Status)).unwrap_or(ErrorKind::Internal);
        Error::new(kind, w.message).code(intern(w.code))
    }
}

/// Codes are `&'static str`; those that arrive as data live for the rest of the program. Bounded,
/// so that a peer cannot fill the memory; a code beyond the bound is dropped.
fn intern(code: String) -> &'static str {
    static KNOWN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    if code.is_empty() || code.len() > 128 {
        return "";
    }
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(k) = known.get(code.as_str()) {
        return k;
    }
    if known.len() >= MAX_CODES {
        return "";
    }
    let leaked: &'static str = Box::leak(code.into_boxed_str());
    known.insert(leaked);
    leaked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_with_kind_message_and_code_but_without_the_cause() {
        for e in [Error::not_found("gone").code("PortNotFound"), Error::status(415, "media"), Error::internal("secret detail")] {
            let text = serde_json::to_string(&WireError::from(&e)).unwrap();
            assert!(!text.contains("secret"));
            let back = Error::from(serde_json::from_str::<WireError>(&text).unwrap());
            assert_eq!((back.kind, &back.message, back.code), (e.kind, &e.message, e.code));
        }
    }
}
