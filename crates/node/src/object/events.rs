//! Where S3's events may be sent, from the configuration.

use crate::Settings;
use caelum_base::Result;
use caelum_s3::{EventOptions, Webhooks};
use caelum_safeio::tls::Tls;
use std::path::{Path, PathBuf};

/// Of the whole cloud: options `object.s3_…`; events wait below the data directory.
pub fn of_settings(settings: &Settings) -> Result<EventOptions> {
    let c = &settings.config;
    let spool = Some(settings.data.join("events"));
    events(c.list("object.s3_webhooks"), c.secret("object.s3_brokers").expose(), c.str("object.s3_authorities"), spool)
}

/// `webhooks` as [`Webhooks::parse`], `brokers` as [`EventOptions::parse_brokers`] take them; `authorities` is a PEM file,
/// or empty for the system's. Errors: what is wrong with either, or with the file.
pub fn events(webhooks: &[String], brokers: &str, authorities: &str, spool: Option<PathBuf>) -> Result<EventOptions> {
    let brokers = EventOptions::parse_brokers(brokers)?;
    if webhooks.is_empty() && brokers.is_empty() {
        return Ok(EventOptions::default());
    }
    let tls = match Tls::new(Some(authorities).filter(|a| !a.is_empty()).map(Path::new)) {
        Ok(tls) => Some(tls),
        Err(e) if authorities.is_empty() => {
            tracing::warn!(error = e.chain(), "events are sent without TLS only");
            None
        }
        Err(e) => return Err(e),
    };
    Ok(EventOptions { webhooks: Webhooks::parse(webhooks, tls.clone())?, brokers, spool, tls, ..EventOptions::default() })
}
