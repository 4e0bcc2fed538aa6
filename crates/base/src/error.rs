use std::error::Error as StdError;
use std::fmt;

/// What went wrong, free of any transport. Each API dialect maps a kind to a status once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// 404: does not exist, or the caller may not know that it does.
    NotFound,
    /// 409: collides with the state of something.
    Conflict,
    /// 409: the row changed since it was read; reading again and retrying may succeed.
    Generation,
    /// 400: the request is malformed or means nothing.
    Invalid,
    /// 401: no or bad credentials.
    Unauthenticated,
    /// 403: visible, but not allowed.
    Forbidden,
    /// 403 (compute, block, image: 413 where upstream says so) or 409 (network): over quota.
    OverQuota,
    /// 413: body or field too large.
    TooLarge,
    /// 429: slow down.
    TooMany,
    /// 405, 406, 415 and the like carry their own status.
    Status(u16),
    /// 503: try again later.
    Unavailable,
    /// 504: a deadline passed.
    Timeout,
    /// 501: not offered.
    NotImplemented,
    /// 500: a bug of ours.
    Internal,
}

impl ErrorKind {
    /// Whether repeating the same call later can succeed without anything else changing.
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::Generation | Self::TooMany | Self::Unavailable | Self::Timeout => true,
            Self::NotFound
            | Self::Conflict
            | Self::Invalid
            | Self::Unauthenticated
            | Self::Forbidden
            | Self::OverQuota
            | Self::TooLarge
            | Self::Status(_)
            | Self::NotImplemented
            | Self::Internal => false,
        }
    }

    /// The HTTP status most dialects give this kind.
    pub const fn status(self) -> u16 {
        match self {
            Self::NotFound => 404,
            Self::Conflict | Self::Generation => 409,
            Self::Invalid => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden | Self::OverQuota => 403,
            Self::TooLarge => 413,
            Self::TooMany => 429,
            Self::Status(s) => s,
            Self::Unavailable => 503,
            Self::Timeout => 504,
            Self::NotImplemented => 501,
            Self::Internal => 500,
        }
    }
}

/// An error with a public message (what an API client may read) and a private cause (for logs).
///
/// `Display` prints the public message only and never repeats the source; [`Error::chain`] prints
/// the whole chain for logs.
pub struct Error {
    pub kind: ErrorKind,
    /// Safe to show to the caller.
    pub message: String,
    /// The dialect's own name for the error where it has one: `PortNotFound`,
    /// `placement.concurrent_update`, … Empty means the dialect's default.
    pub code: &'static str,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! constructors {
    ($($name:ident => $kind:ident),* $(,)?) => {
        $(pub fn $name(message: impl Into<String>) -> Self { Self::new(ErrorKind::$kind, message) })*
    };
}

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), code: "", source: None }
    }

    constructors! {
        not_found => NotFound, conflict => Conflict, generation => Generation, invalid => Invalid,
        unauthenticated => Unauthenticated, forbidden => Forbidden, over_quota => OverQuota,
        too_large => TooLarge, too_many => TooMany, unavailable => Unavailable, timeout => Timeout,
        not_implemented => NotImplemented,
    }

    /// A bug of ours or a broken environment. `detail` goes to the log, never to the caller.
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, "The server could not complete the request.").caused_by(Detail(detail.into()))
    }

    /// An error with an explicit HTTP status that no kind names (405, 406, 410, 415, …).
    pub fn status(status: u16, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Status(status), message)
    }

    /// Sets the dialect's own error name.
    #[must_use]
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    /// Keeps the private cause for the log.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub fn is_retryable(&self) -> bool {
        self.kind.is_retryable()
    }

    pub fn is_not_found(&self) -> bool {
        self.kind == ErrorKind::NotFound
    }

    pub fn is_conflict(&self) -> bool {
        matches!(self.kind, ErrorKind::Conflict | ErrorKind::Generation)
    }

    /// Message and all sources, joined by `: `. For logs only.
    pub fn chain(&self) -> String {
        let mut out = self.message.clone();
        let mut next = self.source();
        while let Some(e) = next {
            out.push_str(": ");
            out.push_str(&e.to_string());
            next = e.source();
        }
        out
    }
}

#[derive(Debug)]
struct Detail(String);

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Detail {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({})", self.kind, self.chain())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_hides_the_cause_and_chain_shows_it() {
        let e = Error::internal("disk on fire");
        assert!(!e.to_string().contains("fire"));
        assert!(e.chain().contains("disk on fire"));
        assert_eq!(e.kind.status(), 500);
    }
}
