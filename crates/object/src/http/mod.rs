//! Small parts that several layers of the pipeline need: Swift's answers, ranges, conditional requests,
//! requests of a layer's own.
//!
//! Everything here follows what Swift's own request library does on the wire, since clients see it.

mod accept;
mod body;
mod conditional;
mod dates;
mod flags;
mod headers;
mod params;
mod range;
mod reply;
mod report;
mod subrequest;

pub use accept::best_match;
pub use body::{BodyReader, discard, drain, read_all};
pub use caelum_swiftkit::{ByteRange, Ranges};
pub use conditional::{Conditions, EtagSet, Source, conditional};
pub use dates::{http_date, parse_http_date};
pub use flags::{ContentTypeOverridden, KeepRelativeLocation, ListingAsIs, ManifestHook, OriginalMethod, StoredType};
pub use headers::{content_length, etag, guess_type, is_true, is_true_text, set, text, unquote_etag};
pub use params::Params;
pub use range::{content_range, multipart_body, multipart_length};
pub use reply::{error, error_html, error_plain, error_with_type, is_success, reason, respond, status_line, streamed, unauthorized};
pub use report::report;
pub use subrequest::{Origin, is_environ_header, set_path_and_query, split_object, split_path};

#[cfg(test)]
mod tests;
