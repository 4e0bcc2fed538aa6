use crate::QueryParams;
use caelum_base::{Error, Result, limits};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// The `limit` and `marker` of a list request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Rows wanted: the caller's limit, capped at `max`.
    pub limit: usize,
    /// Whether the caller named a limit.
    pub explicit: bool,
    pub marker: Option<String>,
}

impl Page {
    /// Reads `limit` and `marker`. `max` caps the page; no limit or 0 means `max`.
    ///
    /// Errors: `Invalid` for a negative or non-numeric limit.
    pub fn from_query(q: &QueryParams, max: usize) -> Result<Self> {
        let max = max.min(limits::MAX_PAGE_ROWS);
        let asked = match q.get("limit") {
            None | Some("") => None,
            Some(text) => {
                let n: i64 = text.parse().map_err(|_| Error::invalid("limit param must be an integer"))?;
                Some(usize::try_from(n).map_err(|_| Error::invalid("limit param must be positive"))?)
            }
        };
        let limit = match asked {
            None | Some(0) => max,
            Some(n) => n.min(max),
        };
        Ok(Self { limit, explicit: asked.is_some(), marker: q.get("marker").filter(|m| !m.is_empty()).map(String::from) })
    }
}

/// The `next` link of a full page: the request's own query with `marker` replaced.
pub fn next_link(url: &str, q: &QueryParams, marker: &str) -> String {
    let enc = |t: &str| utf8_percent_encode(t, NON_ALPHANUMERIC).to_string();
    let mut out = format!("{url}?");
    for (k, v) in q.iter().filter(|(k, _)| *k != "marker") {
        out.push_str(&format!("{}={}&", enc(k), enc(v)));
    }
    // Ids are unreserved characters; anything else is encoded except the hyphen, for readability.
    out.push_str(&format!("marker={}", enc(marker).replace("%2D", "-")));
    out
}
