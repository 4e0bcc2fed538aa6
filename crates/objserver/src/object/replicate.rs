//! REPLICATE: the hashes of a partition's suffixes, or word that some have changed.

use super::target::Target;
use super::{Answer, Req, Shared, blocking, disk_failure};
use caelum_diskfile::dump_hashes;
use caelum_rest::full;
use http::header::{CONTENT_TYPE, HeaderValue};
use std::sync::Arc;

/// A pickle of `None`.
const NONE: &[u8] = b"\x80\x02N.";

pub(super) async fn handle(server: Arc<Shared>, req: Req) -> Answer {
    let parts = req.into_parts().0;
    let (device, partition, rest, policy) = Target::parse_place(&parts, &server.disks)?;
    let suffixes: Vec<String> = rest.map(|r| r.split('-').map(str::to_string).collect()).unwrap_or_default();
    let body = blocking(move || {
        let disks = &server.disks;
        let result = disks.policy(policy).and_then(|policy| {
            if suffixes.is_empty() {
                disks.get_hashes(&device, &partition, &[], policy, false).map(|h| dump_hashes(&h))
            } else {
                disks.invalidate_suffixes(&device, &partition, &suffixes, policy).map(|()| NONE.to_vec())
            }
        });
        result.map_err(|e| disk_failure(&device, e))
    })
    .await??;
    let mut r = http::Response::new(full(body));
    r.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=UTF-8"));
    Ok(r)
}
