//! POST: new metadata for an object whose data stays.

use super::put::durable;
use super::target::{Target, next_part_power};
use super::update::{self, Origin};
use super::{Answer, Req, Resp, Shared, blocking, disk_failure, headers, respond};
use caelum_diskfile::{DiskError, DiskFile, Look, Metadata, Opened};
use caelum_swiftkit::Timestamp;
use http::request::Parts;
use std::sync::Arc;

pub(super) async fn handle(server: Arc<Shared>, req: Req) -> Answer {
    let parts = Arc::new(req.into_parts().0);
    let target = Target::parse(&parts, &server.disks)?;
    let at = headers::timestamp(&parts.headers)?;
    let new_delete_at = headers::delete_at(&parts.headers)?;
    if new_delete_at.is_some_and(|d| d != 0 && (d as f64) < at.as_f64()) {
        return Err(respond::text(400, "X-Delete-At in past"));
    }
    headers::check_metadata(&parts.headers)?;
    let content_type = ContentType::of(&parts, at)?;
    let (s, p, t) = (server.clone(), parts.clone(), target.clone());
    let (object, opened) = blocking(move || find(&s, &p, &t, at)).await??;

    let known = opened.timestamp();
    if known >= at && opened.content_type_timestamp() >= content_type.at {
        return Err(respond::with(respond::error(409), "x-backend-timestamp", &known.internal()));
    }
    let origin = Origin { server, parts, target, at };
    let mut metadata = if at > known {
        let mut m = Metadata::new();
        m.set("X-Timestamp", at.internal());
        headers::keep(&origin.parts.headers, &origin.server.config.allowed_headers, false, &mut m);
        let old = opened.metadata.get("X-Delete-At").and_then(|v| v.trim().parse().ok());
        update::delete_at_changed(&origin, &opened.data_metadata, old, new_delete_at).await;
        m
    } else {
        opened.meta_metadata.clone().unwrap_or_default()
    };
    let current = content_type.settle(&opened, &mut metadata);
    let (device, stored) = (origin.target.device.clone(), metadata.clone());
    let pending = blocking(move || object.write_metadata(stored)).await?;
    durable(pending.map_err(|e| disk_failure(&device, e))?, &device).await?;
    tell_container(&origin, &opened, &metadata, &current).await;

    let mut r = respond::error(202);
    respond::set(r.headers_mut(), "x-backend-content-type", &current.value);
    for (k, v) in opened.metadata.iter().filter(|(k, _)| headers::is_sys_meta(k)) {
        if let (Some(name), Some(value)) = (headers::header_name(k), respond::header_value(v)) {
            r.headers_mut().insert(name, value);
        }
    }
    Ok(r)
}

fn find(server: &Shared, parts: &Parts, target: &Target, now: Timestamp) -> Result<(DiskFile, Opened), Resp> {
    let look = Look { open_expired: headers::open_expired(&parts.headers), next_part_power: next_part_power(parts), ..Look::default() };
    let object = target.object(&server.disks, look).map_err(|e| disk_failure(&target.device, e))?;
    match object.open(now) {
        Ok(o) => Ok((object, o)),
        Err(DiskError::Deleted { .. } | DiskError::Expired { .. } | DiskError::NotExist | DiskError::Quarantined { .. }) => {
            Err(respond::error(404))
        }
        Err(e) => Err(disk_failure(&target.device, e)),
    }
}

/// The content type that the request sets, if any, and when.
struct ContentType {
    value: Option<String>,
    at: Timestamp,
}

/// The content type that holds after the request.
struct Current {
    value: String,
    at: Timestamp,
}

impl ContentType {
    fn of(parts: &Parts, now: Timestamp) -> Result<Self, Resp> {
        let value = headers::text(&parts.headers, "content-type").filter(|v| !v.is_empty()).map(|v| v.into_owned());
        let at = match headers::text(&parts.headers, "content-type-timestamp").filter(|_| value.is_some()) {
            Some(t) => Timestamp::parse(&t).ok_or_else(|| respond::text(400, &format!("could not convert string to float: '{t}'")))?,
            None if value.is_some() => now,
            None => Timestamp::ZERO,
        };
        Ok(Self { value, at })
    }

    /// Enters in the metadata what has to stand there; gives what the container is told.
    fn settle(self, opened: &Opened, metadata: &mut Metadata) -> Current {
        let known = opened.content_type_timestamp();
        let from_data = known == opened.data_timestamp();
        let (current, write) = match self.value {
            Some(value) if self.at > known => (Current { value, at: self.at }, true),
            _ => (Current { value: opened.content_type().to_string(), at: known }, !from_data),
        };
        if write {
            metadata.set("Content-Type", current.value.clone());
            metadata.set("Content-Type-Timestamp", current.at.internal());
        }
        current
    }
}

/// The size in a manifest's content type, kept there for the container's accounting.
fn swift_bytes(content_type: &str) -> Option<&str> {
    content_type.split(';').skip(1).find_map(|p| p.trim().strip_prefix("swift_bytes="))
}

async fn tell_container(origin: &Origin, opened: &Opened, metadata: &Metadata, current: &Current) {
    let mut content_type = current.value.clone();
    if current.at != opened.data_timestamp()
        && let Some(bytes) = opened.data_metadata.get("Content-Type").and_then(swift_bytes)
    {
        content_type = format!("{content_type};swift_bytes={bytes}");
    }
    let get = |k: &str| opened.metadata.get(k).unwrap_or_default().to_string();
    let ec = |k: &str, or: &str| opened.metadata.get(k).map_or_else(|| get(or), str::to_string);
    let mut out = vec![
        ("X-Size".to_string(), ec("X-Object-Sysmeta-Ec-Content-Length", "Content-Length")),
        ("X-Content-Type".to_string(), content_type),
        ("X-Timestamp".to_string(), opened.data_timestamp().internal()),
        ("X-Content-Type-Timestamp".to_string(), current.at.internal()),
        ("X-Meta-Timestamp".to_string(), metadata.get("X-Timestamp").unwrap_or_default().to_string()),
        ("X-Etag".to_string(), ec("X-Object-Sysmeta-Ec-Etag", "ETag")),
    ];
    update::apply_overrides(&mut out, opened.metadata.iter(), &[]);
    update::container(origin, "PUT", out).await;
}
