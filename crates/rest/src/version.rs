use caelum_base::{Error, Result};
use http::HeaderMap;
use std::fmt;

/// A microversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl Version {
    /// Parses `2.79`: decimal without leading zeros, as upstream requires.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        let number = |t: &str| -> Option<u32> {
            let plain = !t.is_empty() && t.len() < 6 && t.bytes().all(|b| b.is_ascii_digit()) && (t == "0" || !t.starts_with('0'));
            if plain { t.parse().ok() } else { None }
        };
        Some(Self(number(major)?, number(minor)?))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A service's microversion range.
#[derive(Clone, Copy, Debug)]
pub struct Microversions {
    /// The name in `OpenStack-API-Version: <name> X.Y`.
    pub service_type: &'static str,
    /// The older header, `X-OpenStack-Nova-API-Version`.
    pub legacy_header: Option<&'static str>,
    pub min: Version,
    pub max: Version,
}

impl Microversions {
    /// The version a request asks for; the minimum when it asks for none.
    ///
    /// Errors: `Invalid` for text that is no version, status 406 for one outside the range.
    pub fn negotiate(&self, headers: &HeaderMap) -> Result<Version> {
        let Some(text) = self.requested(headers)? else { return Ok(self.min) };
        if text == "latest" {
            return Ok(self.max);
        }
        let v = Version::parse(&text).ok_or_else(|| {
            Error::invalid(format!("API Version String {text} is of invalid format. Must be of format MajorNum.MinorNum."))
        })?;
        if v < self.min || v > self.max {
            return Err(Error::status(
                406,
                format!("Version {v} is not supported by the API. Minimum is {} and maximum is {}.", self.min, self.max),
            ));
        }
        Ok(v)
    }

    fn requested(&self, headers: &HeaderMap) -> Result<Option<String>> {
        for value in headers.get_all("openstack-api-version") {
            let text = value.to_str().map_err(|_| Error::invalid("The OpenStack-API-Version header is not text."))?;
            for part in text.split(',') {
                let mut words = part.split_whitespace();
                let (Some(service), Some(version)) = (words.next(), words.next()) else { continue };
                if service.eq_ignore_ascii_case(self.service_type) {
                    return Ok(Some(version.to_string()));
                }
            }
        }
        let legacy = self.legacy_header.and_then(|h| headers.get(h));
        Ok(legacy.and_then(|v| v.to_str().ok()).map(|t| t.trim().to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOVA: Microversions = Microversions {
        service_type: "compute",
        legacy_header: Some("x-openstack-nova-api-version"),
        min: Version(2, 1),
        max: Version(2, 104),
    };

    fn ask(name: &'static str, value: &str) -> Result<Version> {
        let mut h = HeaderMap::new();
        h.insert(name, value.parse().expect("value"));
        NOVA.negotiate(&h)
    }

    #[test]
    fn negotiates() {
        assert_eq!(NOVA.negotiate(&HeaderMap::new()).ok(), Some(Version(2, 1)));
        assert_eq!(ask("openstack-api-version", "volume 3.1, compute 2.79").ok(), Some(Version(2, 79)));
        assert_eq!(ask("x-openstack-nova-api-version", "latest").ok(), Some(Version(2, 104)));
        assert_eq!(ask("openstack-api-version", "compute 2.105").map_err(|e| e.kind.status()), Err(406));
        for bad in ["compute 2", "compute 2.01", "compute x.y", "compute 2.1.1", "compute -2.1"] {
            assert_eq!(ask("openstack-api-version", bad).map_err(|e| e.kind.status()), Err(400), "{bad}");
        }
    }
}
