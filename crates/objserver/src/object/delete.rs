//! DELETE.

use super::put::durable;
use super::target::{Target, next_part_power};
use super::update::{self, Origin};
use super::{Answer, Req, Resp, Shared, blocking, disk_failure, headers, respond};
use caelum_diskfile::{DiskError, DiskFile, Look, Metadata};
use caelum_swiftkit::Timestamp;
use http::request::Parts;
use std::sync::Arc;

/// What stands in the object's place.
struct Found {
    object: DiskFile,
    /// `None`: nothing is known.
    at: Option<Timestamp>,
    metadata: Metadata,
    status: u16,
}

pub(super) async fn handle(server: Arc<Shared>, req: Req) -> Answer {
    let parts = Arc::new(req.into_parts().0);
    let target = Target::parse(&parts, &server.disks)?;
    let at = headers::timestamp(&parts.headers)?;
    let (s, p, t) = (server.clone(), parts.clone(), target.clone());
    let mut found = blocking(move || find(&s, &p, &t, at)).await??;
    let known = found.at.unwrap_or_default();
    let delete_at = found.metadata.get("X-Delete-At").and_then(Timestamp::parse).unwrap_or_default();
    if let Some(text) = headers::text(&parts.headers, "x-if-delete-at") {
        let expected = Timestamp::parse(text.trim()).ok_or_else(|| respond::error_text(400, "Bad X-If-Delete-At header value"))?;
        if known == Timestamp::ZERO {
            return Err(respond::error(404));
        }
        if known >= at {
            return Err(respond::error(409));
        }
        if delete_at != expected {
            return Err(respond::error_text(412, "X-If-Delete-At and X-Delete-At do not match"));
        }
        found.status = 204;
    }
    let origin = Origin { server, parts, target, at };
    let old = i64::try_from(delete_at.seconds()).ok();
    update::delete_at_changed(&origin, &Metadata::new(), old, None).await;
    if known < at {
        let device = origin.target.device.clone();
        let object = found.object;
        let pending = blocking(move || object.delete(at)).await?;
        durable(pending.map_err(|e| disk_failure(&device, e))?, &device).await?;
        update::container(&origin, "DELETE", vec![("X-Timestamp".to_string(), at.internal())]).await;
    }
    let mut r = if found.status == 204 { respond::error_text(204, "") } else { respond::error(found.status) };
    respond::set(r.headers_mut(), "x-backend-timestamp", &known.max(at).internal());
    respond::set(r.headers_mut(), "x-backend-content-type", found.metadata.get("Content-Type").unwrap_or_default());
    Ok(r)
}

fn find(server: &Shared, parts: &Parts, target: &Target, now: Timestamp) -> Result<Found, Resp> {
    let look = Look { next_part_power: next_part_power(parts), ..Look::default() };
    let object = target.object(&server.disks, look).map_err(|e| disk_failure(&target.device, e))?;
    let absent = |object, at, metadata| Ok(Found { object, at, metadata, status: 404 });
    match object.open(now) {
        Ok(o) => {
            let at = o.data_timestamp();
            let status = if at < now { 204 } else { 409 };
            Ok(Found { object, at: Some(at), metadata: o.metadata, status })
        }
        Err(DiskError::Expired { timestamp, metadata }) => absent(object, Some(timestamp), *metadata),
        Err(DiskError::Deleted { timestamp }) => absent(object, Some(timestamp), Metadata::new()),
        Err(DiskError::NotExist | DiskError::Quarantined { .. }) => absent(object, None, Metadata::new()),
        Err(e) => Err(disk_failure(&target.device, e)),
    }
}
