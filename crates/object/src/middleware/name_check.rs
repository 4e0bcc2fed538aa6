use crate::env::Req;
use crate::http::error_html;
use caelum_rest::{Body, HttpService};
use futures_util::future::BoxFuture;
use percent_encoding::percent_decode_str;
use std::sync::Arc;

/// What names may not contain (the optional filter `name_check`).
#[derive(Clone, Debug)]
pub struct NameCheckOptions {
    pub forbidden_chars: String,
    /// Longest path in bytes.
    pub maximum_length: usize,
    /// A regular expression no path may match; empty allows all.
    pub forbidden_regexp: String,
}

impl Default for NameCheckOptions {
    fn default() -> Self {
        Self { forbidden_chars: "'\"`<>".into(), maximum_length: 255, forbidden_regexp: r"/\./|/\.\./|/\.$|/\.\.$".into() }
    }
}

/// Refuses paths with characters or forms the operator does not want.
pub struct NameCheck {
    next: Arc<dyn HttpService>,
    options: NameCheckOptions,
    regexp: Option<regex_lite::Regex>,
}

impl NameCheck {
    /// Errors: `Invalid` for a regular expression that is none.
    pub fn new(next: Arc<dyn HttpService>, options: NameCheckOptions) -> caelum_base::Result<Self> {
        let regexp = match options.forbidden_regexp.as_str() {
            "" => None,
            text => {
                let bad = |e| caelum_base::Error::invalid(format!("forbidden_regexp: {e}"));
                Some(regex_lite::Regex::new(text).map_err(bad)?)
            }
        };
        Ok(Self { next, options, regexp })
    }

    fn finding(&self, path: &str) -> Option<String> {
        let o = &self.options;
        if path.chars().any(|c| o.forbidden_chars.contains(c)) {
            return Some(format!("Object/Container/Account name contains forbidden chars from {}", o.forbidden_chars));
        }
        if path.len() > o.maximum_length {
            return Some(format!("Object/Container/Account name longer than the allowed maximum {}", o.maximum_length));
        }
        let hit = self.regexp.as_ref().is_some_and(|r| r.is_match(path));
        hit.then(|| format!("Object/Container/Account name contains a forbidden substring from regular expression {}", o.forbidden_regexp))
    }
}

impl HttpService for NameCheck {
    fn call(&self, req: Req) -> BoxFuture<'static, http::Response<Body>> {
        let path = percent_decode_str(req.uri().path()).decode_utf8_lossy().into_owned();
        match self.finding(&path) {
            None => self.next.call(req),
            Some(text) => Box::pin(async move { error_html(400, text) }),
        }
    }
}
