use caelum_base::{Error, Result};
use percent_encoding::percent_decode_str;

/// Decoded query parameters in order; a key may repeat.
#[derive(Clone, Debug, Default)]
pub struct QueryParams(Vec<(String, String)>);

impl QueryParams {
    /// Errors: `Invalid` for text that is not UTF-8 after decoding.
    pub fn parse(query: Option<&str>) -> Result<Self> {
        let mut out = Vec::new();
        for pair in query.unwrap_or("").split('&').filter(|p| !p.is_empty()) {
            let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
            out.push((decode(k)?, decode(v)?));
        }
        Ok(Self(out))
    }

    /// The first value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The last value of `key`.
    pub fn last(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(k, _)| k == key)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A non-negative integer parameter. Errors: `Invalid` when it is not one.
    pub fn int(&self, key: &str) -> Result<Option<i64>> {
        let Some(text) = self.get(key) else { return Ok(None) };
        let n: Option<i64> = text.parse().ok().filter(|n| *n >= 0);
        n.map(Some).ok_or_else(|| {
            Error::invalid(format!("Invalid input for query parameters {key}. Value: {text}. It must be a non-negative integer."))
        })
    }

    /// A boolean parameter as oslo's strutils reads it; other text is `None`.
    pub fn bool(&self, key: &str) -> Option<bool> {
        match self.get(key)?.to_ascii_lowercase().as_str() {
            "1" | "t" | "true" | "on" | "y" | "yes" => Some(true),
            "0" | "f" | "false" | "off" | "n" | "no" => Some(false),
            _ => None,
        }
    }
}

fn decode(text: &str) -> Result<String> {
    let plus = text.replace('+', " ");
    let decoded = percent_decode_str(&plus).decode_utf8().map_err(|_| Error::invalid("The query string is not UTF-8."))?;
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_and_keeps_order() {
        let q = QueryParams::parse(Some("a=1&b=x%20y+z&a=2&c")).expect("query");
        assert_eq!(q.get("b"), Some("x y z"));
        assert_eq!(q.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(q.get("c"), Some(""));
        assert!(QueryParams::parse(Some("a=%ff")).is_err());
        assert!(QueryParams::parse(Some("limit=-1")).expect("query").int("limit").is_err());
    }
}
