//! Limits that hold across services. Source: the services' documented defaults.

/// Largest JSON request body in bytes (oslo.middleware `max_request_body_size`).
pub const MAX_BODY_BYTES: usize = 114_688;
/// Deepest nesting of a JSON request body.
pub const MAX_JSON_DEPTH: usize = 64;
/// Largest page of a list in rows.
pub const MAX_PAGE_ROWS: usize = 1_000;
/// Longest name in characters.
pub const MAX_NAME_CHARS: usize = 255;
/// Longest request line plus headers in bytes.
pub const MAX_HEADER_BYTES: usize = 65_536;
/// Longest request target, and longest value of one header, in bytes (eventlet's, Swift's).
pub const MAX_LINE_BYTES: usize = 8_192;
