//! GET and HEAD: facts, object listings, shard ranges.

use super::{Inner, answer, is_saved};
use crate::db::{Answer, Field, Format, Params, Resp, Target, Writer, header, http_date, no_content, ok_body, set, truth, yes};
use bytes::Bytes;
use caelum_broker::{ContainerBroker, ContainerInfo, DbState, Entry, Listing, ShardQuery, ShardState, extract_swift_bytes};
use caelum_swiftkit::{LISTING_LIMIT, Timestamp};
use http::request::Parts;
use std::time::Duration;

/// Statistics may be a little old; a read does not wait long for a writer.
const STALE_AFTER: Duration = Duration::from_millis(100);

fn stamp(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap_or(Timestamp::ZERO)
}

/// Headers of GET and HEAD; with a deleted container only those for the proxy.
fn set_facts(r: &mut Resp, info: Option<&ContainerInfo>, deleted: bool) {
    let time = |f: fn(&ContainerInfo) -> &String| info.map_or(Timestamp::ZERO, |i| stamp(f(i)));
    set(r, "X-Backend-Timestamp", &time(|i| &i.created_at).internal());
    set(r, "X-Backend-PUT-Timestamp", &time(|i| &i.put_timestamp).internal());
    set(r, "X-Backend-DELETE-Timestamp", &time(|i| &i.delete_timestamp).internal());
    set(r, "X-Backend-Status-Changed-At", &time(|i| &i.status_changed_at).internal());
    set(r, "X-Backend-Storage-Policy-Index", &info.map_or(0, |i| i.storage_policy_index).to_string());
    if !deleted {
        set(r, "X-Container-Object-Count", &info.map_or(0, |i| i.object_count).to_string());
        set(r, "X-Container-Bytes-Used", &info.map_or(0, |i| i.bytes_used).to_string());
        set(r, "X-Timestamp", &time(|i| &i.created_at).normal());
        set(r, "X-PUT-Timestamp", &time(|i| &i.put_timestamp).normal());
        set(r, "X-Backend-Sharding-State", info.map_or(DbState::Unsharded, |i| i.db_state).as_str());
        set(r, "Last-Modified", &http_date(time(|i| &i.put_timestamp).ceil_seconds()));
    }
}

fn set_metadata(r: &mut Resp, broker: &ContainerBroker) -> Answer<()> {
    for (key, (value, _)) in broker.metadata()? {
        if !value.is_empty() && is_saved(&key) {
            set(r, &key, &value);
        }
    }
    Ok(())
}

pub(super) fn get(s: &Inner, parts: &Parts, target: &Target, params: &Params) -> Answer {
    let head = parts.method == http::Method::HEAD;
    let limit = if head { 0 } else { params.limit(LISTING_LIMIT)? };
    let format = Format::choose(params, &parts.headers)?;
    let device = s.disks.readable(&target.device)?;
    let mut broker = s.broker(&device, target)?;
    broker.db_mut().pending_timeout = STALE_AFTER;
    broker.db_mut().stale_reads_ok = true;
    let info = broker.info_if_exists()?;
    let deleted = info.as_ref().is_none_or(ContainerInfo::is_deleted);
    if head {
        return headers_only(&broker, info.as_ref(), deleted, format);
    }
    let record_type = header(&parts.headers, "x-backend-record-type").unwrap_or("").to_ascii_lowercase();
    let in_shards = info.as_ref().is_some_and(|i| matches!(i.db_state, DbState::Sharding | DbState::Sharded));
    if record_type == "shard" || record_type == "auto" && in_shards {
        shards(&broker, parts, target, params, format, info, deleted)
    } else {
        objects(s, &broker, parts, target, params, format, limit, info, deleted)
    }
}

fn headers_only(broker: &ContainerBroker, info: Option<&ContainerInfo>, deleted: bool, format: Format) -> Answer {
    if deleted {
        return not_found(info);
    }
    let mut r = no_content(format.content_type());
    set_facts(&mut r, info, false);
    set_metadata(&mut r, broker)?;
    Ok(r)
}

fn not_found(info: Option<&ContainerInfo>) -> Answer {
    let mut r = answer(404);
    set_facts(&mut r, info, true);
    Err(r.into())
}

fn objects(
    s: &Inner,
    broker: &ContainerBroker,
    parts: &Parts,
    target: &Target,
    params: &Params,
    format: Format,
    limit: usize,
    info: Option<ContainerInfo>,
    deleted: bool,
) -> Answer {
    let wanted = s.policy_index(&parts.headers)?;
    let Some(info) = info.filter(|_| !deleted) else { return not_found(broker.info_if_exists()?.as_ref()) };
    let q = Listing {
        limit,
        marker: params.text("marker")?,
        end_marker: params.text("end_marker")?,
        prefix: params.get("prefix")?,
        delimiter: params.get("delimiter")?,
        path: params.get("path")?,
        reverse: params.get("reverse")?.is_some_and(|r| truth(&r)),
        allow_reserved: yes(&parts.headers, "x-backend-allow-reserved-names"),
    };
    let policy = wanted.unwrap_or(info.storage_policy_index);
    // Of a sharding container more than one file counts.
    let version = if info.db_state == DbState::Unsharded { Some(broker.rows_version()?) } else { None };
    let key = format!("{} {policy} {q:?} {format:?}", broker.db().file().display());
    let known = version.as_ref().and_then(|v| s.pages.get(&key, v));
    let page = match known {
        Some(page) => page,
        None => {
            // Large enough for most pages at once, and no more for small containers.
            let rows = usize::try_from(info.object_count).unwrap_or(0).min(limit);
            let page = page(broker, &q, policy, Writer::new(format, "container", target.container.as_deref().unwrap_or(""), rows * 224))?;
            if let Some(version) = version {
                s.pages.insert(key, version, page.clone());
            }
            page
        }
    };
    let mut r = ok_body(format.content_type(), page);
    set_facts(&mut r, Some(&info), false);
    set(&mut r, "X-Backend-Record-Type", "object");
    set(&mut r, "X-Backend-Record-Storage-Policy-Index", &policy.to_string());
    set_metadata(&mut r, broker)?;
    Ok(r)
}

/// The text of a listing.
fn page(broker: &ContainerBroker, q: &Listing, policy: i64, mut w: Writer) -> Answer<Bytes> {
    let source = broker.brokers();
    source.first().unwrap_or(broker).list_objects(q, policy, &mut |entry| {
        match entry {
            Entry::Subdir(name) => w.subdir(name),
            Entry::Object(o) => object_line(&mut w, &o),
        }
        Ok(())
    })?;
    let mut text = w.finish();
    text.shrink_to_fit();
    Ok(text.into())
}

/// `1234567890.12345`: the usual form, read fast.
fn plain_time(text: &str) -> Option<Timestamp> {
    let bytes: &[u8; 16] = text.as_bytes().try_into().ok()?;
    let mut raw = 0u64;
    for (i, b) in bytes.iter().enumerate() {
        match (i, b) {
            (10, b'.') => {}
            (10, _) => return None,
            (_, b'0'..=b'9') => raw = raw * 10 + u64::from(b - b'0'),
            _ => return None,
        }
    }
    Some(Timestamp::from_raw(raw))
}

fn object_line(w: &mut Writer, o: &caelum_broker::Object<'_>) {
    // Nearly always a plain time and a type without parameters.
    let meta = match plain_time(o.created_at).or_else(|| Timestamp::parse(o.created_at)) {
        Some(t) => t,
        None => Timestamp::decode(o.created_at).map_or(Timestamp::ZERO, |t| t.2),
    };
    let (mut size, mut owned) = (o.size, None);
    if o.content_type.contains(';') {
        let (kind, bytes) = extract_swift_bytes(o.content_type);
        if let Some(n) = bytes.and_then(|b| b.parse().ok()) {
            size = n;
        }
        owned = Some(kind);
    }
    let content_type = owned.as_deref().unwrap_or(o.content_type);
    w.object(o.name, size, o.etag, content_type, meta);
}

fn shards(
    broker: &ContainerBroker,
    parts: &Parts,
    target: &Target,
    params: &Params,
    format: Format,
    info: Option<ContainerInfo>,
    deleted: bool,
) -> Answer {
    let h = &parts.headers;
    let deleted = deleted && !(info.is_some() && yes(h, "x-backend-override-deleted"));
    let Some(info) = info.filter(|_| !deleted) else { return not_found(broker.info_if_exists()?.as_ref()) };
    let mut q = ShardQuery {
        marker: params.text("marker")?,
        end_marker: params.text("end_marker")?,
        includes: params.get("includes")?,
        reverse: params.get("reverse")?.is_some_and(|r| truth(&r)),
        include_deleted: yes(h, "x-backend-include-deleted"),
        ..ShardQuery::default()
    };
    let override_filter = header(h, "x-backend-override-shard-name-filter").unwrap_or("").eq_ignore_ascii_case("sharded");
    let override_filter = override_filter && info.db_state == DbState::Sharded;
    if override_filter {
        (q.marker, q.end_marker, q.includes, q.reverse) = (String::new(), String::new(), None, false);
    }
    if let Some(states) = params.get("states")?.filter(|s| !s.is_empty()) {
        let names: Vec<&str> = states.split(',').map(str::trim).filter(|n| !n.is_empty()).collect();
        q.fill_gaps = names.contains(&"listing") || names.contains(&"updating");
        q.include_own = names.contains(&"auditing");
        q.states = ShardState::resolve(names.into_iter()).ok_or_else(|| crate::db::bad_request("Bad state"))?;
    }
    let namespace = header(h, "x-backend-record-shard-format").unwrap_or("full").eq_ignore_ascii_case("namespace");
    if namespace && q.include_deleted {
        return Err(crate::db::bad_request("No include_deleted for namespace GET"));
    }
    if namespace && q.include_own {
        return Err(crate::db::bad_request("No auditing state for namespace GET"));
    }
    let mut w = Writer::new(format, "container", target.container.as_deref().unwrap_or(""), 0);
    for range in broker.shard_ranges(&q)? {
        shard_line(&mut w, &range, namespace);
    }
    let mut r = ok_body(format.content_type(), w.finish());
    set_facts(&mut r, Some(&info), false);
    set(&mut r, "X-Backend-Record-Type", "shard");
    set(&mut r, "X-Backend-Record-Shard-Format", if namespace { "namespace" } else { "full" });
    if override_filter {
        set(&mut r, "X-Backend-Override-Shard-Name-Filter", "true");
    }
    set_metadata(&mut r, broker)?;
    Ok(r)
}

fn shard_line(w: &mut Writer, r: &caelum_broker::ShardRange, namespace: bool) {
    let (timestamp, meta, state) = (r.timestamp.normal(), r.meta_timestamp.normal(), r.state_timestamp.normal());
    let epoch = r.epoch.map(Timestamp::normal);
    let names = [("name", Field::Text(&r.name)), ("lower", Field::Text(&r.lower)), ("upper", Field::Text(&r.upper))];
    if namespace {
        return w.line("object", &r.name, &names, &["name"]);
    }
    let fields = [
        ("name", Field::Text(&r.name)),
        ("timestamp", Field::Text(&timestamp)),
        ("lower", Field::Text(&r.lower)),
        ("upper", Field::Text(&r.upper)),
        ("object_count", Field::Int(r.object_count)),
        ("bytes_used", Field::Int(r.bytes_used)),
        ("meta_timestamp", Field::Text(&meta)),
        ("deleted", Field::Int(i64::from(r.deleted))),
        ("state", Field::Int(r.state.number())),
        ("state_timestamp", Field::Text(&state)),
        ("epoch", epoch.as_deref().map_or(Field::Null, Field::Text)),
        ("reported", Field::Int(i64::from(r.reported))),
        ("tombstones", Field::Int(r.tombstones)),
        ("last_modified", Field::Time(r.timestamp)),
    ];
    w.line("object", &r.name, &fields, &["name"]);
}
