use percent_encoding::percent_decode_str;

/// A request's query parameters in order, decoded (`+` is a space). Where a name stands twice the last counts, as in
/// Swift. Bytes that are no UTF-8 become U+FFFD, which no valid name contains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(Vec<(String, String)>);

impl Params {
    pub fn parse(query: Option<&str>) -> Self {
        let decode = |t: &str| percent_decode_str(&t.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = query.unwrap_or_default().split('&').filter(|p| !p.is_empty());
        Self(pairs.map(|p| p.split_once('=').unwrap_or((p, ""))).map(|(k, v)| (decode(k), decode(v))).collect())
    }

    pub fn of<B>(req: &http::Request<B>) -> Self {
        Self::parse(req.uri().query())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// All values of a name, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Swift's idea of a true value; false when absent.
    pub fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(super::is_true_text)
    }

    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(k, _)| k != name);
    }

    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.remove(name);
        self.0.push((name.into(), value.into()));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As a query string, without the question mark.
    pub fn encode(&self) -> String {
        let quote = |t: &str| percent_encoding::utf8_percent_encode(t, percent_encoding::NON_ALPHANUMERIC).to_string();
        let pairs: Vec<String> = self.0.iter().map(|(k, v)| format!("{}={}", quote(k), quote(v))).collect();
        pairs.join("&")
    }
}
