//! libvirt's errors as ours.

use super::xdr::Reader;
use caelum_base::{Error, ErrorKind, Result};
use std::fmt;

/// Error numbers of libvirt that have a meaning for us (`virErrorNumber`).
mod number {
    pub const NO_SUPPORT: i32 = 3;
    pub const INVALID_ARG: i32 = 8;
    pub const OPERATION_FAILED: i32 = 9;
    pub const XML_ERROR: i32 = 27;
    pub const NO_DOMAIN: i32 = 42;
    pub const OPERATION_INVALID: i32 = 55;
    pub const CONFIG_UNSUPPORTED: i32 = 67;
    pub const OPERATION_TIMEOUT: i32 = 68;
    pub const AGENT_UNRESPONSIVE: i32 = 86;
    pub const DEVICE_MISSING: i32 = 99;
}

/// The error as the daemon sent it, kept as the private cause.
#[derive(Debug)]
pub struct LibvirtError {
    pub code: i32,
    pub domain: i32,
    pub message: String,
}

impl fmt::Display for LibvirtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "libvirt error {} of part {}: {}", self.code, self.domain, self.message)
    }
}

impl std::error::Error for LibvirtError {}

fn parse(body: &[u8]) -> Result<LibvirtError> {
    let mut r = Reader::new(body);
    let (code, domain) = (r.i32()?, r.i32()?);
    Ok(LibvirtError { code, domain, message: r.optional()?.unwrap_or_default() })
}

/// Turns the body of a failed reply into an error.
pub fn decode_error(body: &[u8]) -> Error {
    let cause = match parse(body) {
        Ok(c) => c,
        Err(e) => return e,
    };
    let kind = match cause.code {
        number::NO_DOMAIN | number::DEVICE_MISSING => ErrorKind::NotFound,
        number::OPERATION_INVALID => ErrorKind::Conflict,
        number::INVALID_ARG | number::XML_ERROR | number::CONFIG_UNSUPPORTED | number::NO_SUPPORT => ErrorKind::Invalid,
        number::OPERATION_TIMEOUT | number::AGENT_UNRESPONSIVE => ErrorKind::Timeout,
        number::OPERATION_FAILED => ErrorKind::Conflict,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("The hypervisor refused: {}", public(&cause.message))).caused_by(cause)
}

/// The daemon's message in one line, without the host's paths.
fn public(message: &str) -> String {
    message
        .split_whitespace()
        .map(|word| if word.trim_start_matches(['\'', '"', '(']).starts_with('/') { "<path>" } else { word })
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .take(300)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::xdr::Writer;
    use super::*;

    #[test]
    fn kinds_and_public_text() {
        let body = Writer::new().i32(number::NO_DOMAIN).i32(10).optional(Some("Domain not found: '/var/x' y")).into_bytes();
        let e = decode_error(&body);
        assert!(e.is_not_found());
        assert!(e.chain().contains("libvirt error 42"));
        assert_eq!(e.message, "The hypervisor refused: Domain not found: <path> y");
        assert_eq!(decode_error(&[1]).kind, ErrorKind::Internal);
    }
}
