//! GET and HEAD of an account.

use super::{Inner, gone};
use crate::db::{Answer, Field, Format, Params, Resp, Target, Writer, no_content, ok_body, set, truth, yes};
use caelum_broker::{AccountBroker, AccountEntry, Listing};
use caelum_swiftkit::{LISTING_LIMIT, Policies, Timestamp};
use http::request::Parts;
use std::time::Duration;

const STALE_AFTER: Duration = Duration::from_millis(100);

fn set_facts(r: &mut Resp, broker: &AccountBroker, policies: &Policies) -> Answer<()> {
    let info = broker.get_info()?;
    let normal = |t: &str| Timestamp::parse(t).unwrap_or(Timestamp::ZERO).normal();
    set(r, "X-Account-Container-Count", &info.container_count.to_string());
    set(r, "X-Account-Object-Count", &info.object_count.to_string());
    set(r, "X-Account-Bytes-Used", &info.bytes_used.to_string());
    set(r, "X-Timestamp", &normal(&info.created_at));
    set(r, "X-PUT-Timestamp", &normal(&info.put_timestamp));
    for (index, containers, objects, bytes) in broker.policy_stats()? {
        let Some(policy) = u32::try_from(index).ok().and_then(|i| policies.get(i)) else { continue };
        let name = |what: &str| format!("X-Account-Storage-Policy-{}-{what}", policy.name);
        set(r, &name("Container-Count"), &containers.to_string());
        set(r, &name("Object-Count"), &objects.to_string());
        set(r, &name("Bytes-Used"), &bytes.to_string());
    }
    for (key, (value, _)) in broker.db().metadata()? {
        if !value.is_empty() {
            set(r, &key, &value);
        }
    }
    Ok(())
}

pub(super) fn get(s: &Inner, parts: &Parts, target: &Target, params: &Params) -> Answer {
    let head = parts.method == http::Method::HEAD;
    let limit = if head { 0 } else { params.limit(LISTING_LIMIT)? };
    let q = Listing {
        limit,
        marker: params.text("marker")?,
        end_marker: params.text("end_marker")?,
        prefix: params.get("prefix")?,
        delimiter: params.get("delimiter")?,
        path: None,
        reverse: params.get("reverse")?.is_some_and(|r| truth(&r)),
        allow_reserved: yes(&parts.headers, "x-backend-allow-reserved-names"),
    };
    let format = Format::choose(params, &parts.headers)?;
    let device = s.disks.readable(&target.device)?;
    let mut broker = s.broker(&device, target);
    broker.db_mut().pending_timeout = STALE_AFTER;
    broker.db_mut().stale_reads_ok = true;
    if broker.is_deleted()? {
        return gone(&broker, 404, "").and_then(|r| Err(r.into()));
    }
    let policies = &s.config.swift.policies;
    let mut r = if head { no_content(format.content_type()) } else { listing(&broker, target, &q, format, policies)? };
    set_facts(&mut r, &broker, policies)?;
    Ok(r)
}

fn listing(broker: &AccountBroker, target: &Target, q: &Listing, format: Format, policies: &Policies) -> Answer {
    let mut w = Writer::new(format, "account", &target.account, 0);
    broker.list_containers(q, &mut |entry| {
        match entry {
            AccountEntry::Subdir(name) => w.subdir(name),
            AccountEntry::Container { name, object_count, bytes_used, put_timestamp, policy } => {
                let at = Timestamp::parse(put_timestamp).unwrap_or(Timestamp::ZERO);
                let policy = u32::try_from(policy).ok().and_then(|i| policies.get(i));
                let fields = [
                    ("name", Field::Text(name)),
                    ("count", Field::Int(object_count)),
                    ("bytes", Field::Int(bytes_used)),
                    ("last_modified", Field::Time(at)),
                    ("storage_policy", Field::Text(policy.map_or("", |p| &p.name))),
                ];
                let known = if policy.is_some() { &fields[..] } else { &fields[..4] };
                w.line("container", name, known, &["name", "count", "bytes", "last_modified", "storage_policy"]);
            }
        }
        Ok(())
    })?;
    Ok(ok_body(format.content_type(), w.finish()))
}
