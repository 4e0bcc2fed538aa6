//! What one layer tells another about a request, as request extensions. A client cannot set any of it.

use serde_json::Value;
use std::sync::Arc;

/// A `Location` that starts with a slash is to stay so.
#[derive(Clone, Copy, Debug)]
pub struct KeepRelativeLocation;

/// The content type carries `;swift_bytes=` and must not be replaced.
#[derive(Clone, Copy, Debug)]
pub struct ContentTypeOverridden;

/// The method the client sent, where a layer has changed it (COPY became PUT). For logs.
#[derive(Clone, Debug)]
pub struct OriginalMethod(pub http::Method);

/// Looks at (and may change) the segments of a static large object before they are stored; what it returns
/// are refusals, as (quoted name, reason).
#[derive(Clone)]
pub struct ManifestHook(pub Arc<dyn Fn(&mut Vec<Value>) -> Vec<(String, String)> + Send + Sync>);

/// On a response to a PUT that came without a content type: the one that the object got.
#[derive(Clone, Debug)]
pub struct StoredType(pub String);

/// On a response: the listing is JSON whatever the client asked for (versions of objects).
#[derive(Clone, Copy, Debug)]
pub struct ListingAsIs;
