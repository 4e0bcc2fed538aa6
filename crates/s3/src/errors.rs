//! Refusals as S3 clients know them. Source: Amazon S3's API reference, "Error responses".

use crate::xml::Xml;
use caelum_object::env::Resp;
use caelum_object::http::{respond, set};

/// A refusal: its code, the status and text that belong to it, and what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Error {
    pub code: &'static str,
    pub status: u16,
    pub message: String,
    /// Elements besides `Code` and `Message`.
    pub details: Vec<(&'static str, String)>,
    /// Headers of the answer.
    pub headers: Vec<(&'static str, String)>,
}

pub type S3Result<T> = Result<T, S3Error>;

/// Code, status, text. Codes that are not here are answered as `InternalError`.
const TABLE: &[(&str, u16, &str)] = &[
    ("AccessDenied", 403, "Access Denied."),
    ("AccessForbidden", 403, "CORSResponse: This CORS request is not allowed."),
    ("AuthorizationHeaderMalformed", 400, "The authorization header is malformed."),
    ("AuthorizationQueryParametersError", 400, "The authorization parameters of the query are malformed."),
    ("BadDigest", 400, "The Content-MD5 or checksum value that you specified did not match what the server received."),
    ("BucketAlreadyExists", 409, "The requested bucket name is not available. Select a different name and try again."),
    ("BucketAlreadyOwnedByYou", 409, "The bucket that you tried to create already exists, and you own it."),
    ("BucketNotEmpty", 409, "The bucket that you tried to delete is not empty."),
    ("EntityTooLarge", 400, "Your proposed upload exceeds the maximum allowed object size."),
    ("EntityTooSmall", 400, "Your proposed upload is smaller than the minimum allowed object size."),
    ("IllegalVersioningConfigurationException", 400, "The versioning configuration specified in the request is not valid."),
    ("IncompleteBody", 400, "You did not provide the number of bytes specified by the Content-Length HTTP header."),
    ("InternalError", 500, "An internal error occurred. Try again."),
    ("InvalidAccessKeyId", 403, "The access key ID that you provided does not exist in our records."),
    ("InvalidArgument", 400, "Invalid Argument."),
    ("InvalidBucketName", 400, "The specified bucket is not valid."),
    ("InvalidBucketState", 409, "The request is not valid for the current state of the bucket."),
    ("InvalidChunkSizeError", 403, "Only the last chunk is allowed to have a size less than 8192 bytes"),
    ("InvalidDigest", 400, "The Content-MD5 or checksum value that you specified is not valid."),
    ("InvalidLocationConstraint", 400, "The specified location (Region) constraint is not valid."),
    ("InvalidPart", 400, "One or more of the specified parts could not be found, or an entity tag does not match the part's."),
    ("InvalidPartNumber", 416, "The requested partnumber is not satisfiable"),
    ("InvalidPartOrder", 400, "The list of parts was not in ascending order. The parts list must be specified in order by part number."),
    ("InvalidRange", 416, "The requested range cannot be satisfied."),
    ("InvalidRequest", 400, "Invalid Request."),
    ("InvalidRetentionPeriod", 400, "The retention period is not valid."),
    ("InvalidStorageClass", 400, "The storage class that you specified is not valid."),
    ("InvalidTag", 400, "The tag provided was not a valid tag."),
    ("InvalidToken", 400, "The provided token is malformed or otherwise not valid."),
    ("InvalidURI", 400, "The specified URI couldn't be parsed."),
    ("KeyTooLongError", 400, "Your key is too long."),
    ("MalformedACLError", 400, "The ACL that you provided was not well formed or did not validate against our published schema."),
    ("MalformedPolicy", 400, "This policy contains invalid Json"),
    ("MalformedTrailerError", 400, "The request contained trailing data that was not well formed."),
    ("MalformedXML", 400, "The XML that you provided was not well formed or did not validate against our published schema."),
    ("MaxMessageLengthExceeded", 400, "Your request was too large."),
    ("MetadataTooLarge", 400, "Your metadata headers exceed the maximum allowed metadata size."),
    ("MethodNotAllowed", 405, "The specified method is not allowed against this resource."),
    ("MissingContentLength", 411, "You must provide the Content-Length HTTP header."),
    ("MissingRequestBodyError", 400, "Request body is empty."),
    ("MissingSecurityHeader", 400, "Your request is missing a required header."),
    ("NoSuchBucket", 404, "The specified bucket does not exist."),
    ("NoSuchBucketPolicy", 404, "The specified bucket does not have a bucket policy."),
    ("NoSuchCORSConfiguration", 404, "The specified bucket does not have a CORS configuration."),
    ("NoSuchKey", 404, "The specified key does not exist."),
    ("NoSuchLifecycleConfiguration", 404, "The specified lifecycle configuration does not exist."),
    ("NoSuchObjectLockConfiguration", 404, "The specified object does not have an ObjectLock configuration."),
    ("NoSuchTagSet", 404, "The TagSet does not exist."),
    ("NoSuchUpload", 404, "The specified multipart upload does not exist. It might have been aborted or completed."),
    ("NoSuchVersion", 404, "The version ID specified in the request does not match an existing version."),
    ("NoSuchWebsiteConfiguration", 404, "The specified bucket does not have a website configuration."),
    ("NotImplemented", 501, "A header or query that you provided implies functionality that is not implemented."),
    ("ObjectLockConfigurationNotFoundError", 404, "The Object Lock configuration does not exist for this bucket."),
    ("OperationAborted", 409, "A conflicting operation is currently in progress against this resource. Try again."),
    ("PreconditionFailed", 412, "At least one of the preconditions that you specified did not hold."),
    ("RequestTimeTooSkewed", 403, "The difference between the request time and the server's time is too large."),
    ("RequestTimeout", 400, "Your socket connection to the server was not read from or written to within the timeout period."),
    ("ServiceUnavailable", 503, "Service is unable to handle request."),
    ("SignatureDoesNotMatch", 403, "The request signature that the server calculated does not match the signature that you provided."),
    ("SlowDown", 503, "Please reduce your request rate."),
    ("TooManyBuckets", 400, "You have attempted to create more buckets than are allowed per account."),
    ("UserKeyMustBeSpecified", 400, "The bucket POST request must contain the specified field name."),
    ("XAmzContentSHA256Mismatch", 400, "The provided 'x-amz-content-sha256' header does not match what was computed."),
];

/// The refusal with this code and its usual text.
pub fn err(code: &'static str) -> S3Error {
    let (code, status, message) =
        TABLE.iter().find(|(c, _, _)| *c == code).copied().unwrap_or(("InternalError", 500, "An internal error occurred."));
    S3Error { code, status, message: message.into(), details: Vec::new(), headers: Vec::new() }
}

/// `InvalidArgument` about one parameter.
pub fn invalid_argument(name: &str, value: &str, message: &str) -> S3Error {
    err("InvalidArgument").text(message).with("ArgumentName", name).with("ArgumentValue", value)
}

/// `NotImplemented` with a text of its own.
pub fn not_implemented(message: &str) -> S3Error {
    err("NotImplemented").text(message)
}

pub fn invalid_request(message: &str) -> S3Error {
    err("InvalidRequest").text(message)
}

pub fn no_such_bucket(name: &str) -> S3Error {
    err("NoSuchBucket").with("BucketName", name)
}

pub fn no_such_key(key: &str) -> S3Error {
    err("NoSuchKey").with("Key", key)
}

impl S3Error {
    #[must_use]
    pub fn text(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.details.push((name, value.into()));
        self
    }

    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The answer; a HEAD request's has no body.
    pub fn response(&self, request_id: &str, is_head: bool) -> Resp {
        let mut x = Xml::document("Error", false);
        x.leaf("Code", self.code).leaf("Message", &self.message);
        for (name, value) in &self.details {
            x.leaf(name, value);
        }
        x.leaf("RequestId", request_id);
        let body = if is_head || self.status == 304 { String::new() } else { x.finish() };
        let mut r = respond(self.status, "application/xml", body);
        for (name, value) in &self.headers {
            set(r.headers_mut(), name, value);
        }
        r
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_known() {
        for (i, (code, status, _)) in TABLE.iter().enumerate() {
            assert!(!TABLE[..i].iter().any(|(c, _, _)| c == code), "{code}");
            assert!((300..600).contains(status));
        }
        assert_eq!(err("NoSuchKey").status, 404);
        assert_eq!(err("Whatever").code, "InternalError");
    }
}
