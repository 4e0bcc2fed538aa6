//! Unpacking an archive into objects.
use super::{Bulk, archive::Packing};
use crate::env::{Req, Resp};
pub(super) fn extract(_: &Bulk, _: Req, _: Packing) -> Resp {
    crate::http::error(501)
}
