//! `GET /servers` and `/servers/detail`: filters, sorting, paging.

use super::views::{Kind, Viewer};
use crate::State;
use crate::store::servers::{Server, ServerData};
use caelum_base::{Error, Result, Timestamp};
use caelum_policy::Target;
use caelum_rest::{Ctx, Page, Reply, Version, next_link};
use caelum_store::{Dir, Filter, Query, Tx, Value as Sql};
use regex_lite::{Regex, RegexBuilder};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;

/// Longest regular expression taken from a query.
const MAX_PATTERN: usize = 255;
/// Rows read at once while filtering beyond what columns can say.
const BATCH: usize = 500;

pub async fn server_list(cx: Ctx<State>) -> Result<Reply> {
    let view = Viewer::of(&cx);
    let list = select(&cx, "os_compute_api:servers:index:get_all_tenants", false, move |s, _| text(&view.brief(s))).await?;
    Ok(answer(list, &cx, "/v2.1/servers"))
}

pub async fn server_list_detail(cx: Ctx<State>) -> Result<Reply> {
    let view = Viewer::of(&cx);
    let with_data = cx.version >= Version(2, 3) && cx.auth().is_admin();
    let render = move |s: &Server, data: Option<&str>| text(&view.server(s, Kind::List, data));
    let list = select(&cx, "os_compute_api:servers:detail:get_all_tenants", with_data, render).await?;
    Ok(answer(list, &cx, "/v2.1/servers/detail"))
}

fn text<T: Serialize>(view: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(view).map_err(|e| Error::internal("response does not serialise").caused_by(e))
}

/// A page of servers, each as JSON text: rows become text one by one where they are read, because
/// a thousand of them held as objects cost more than reading and writing them.
#[derive(Default)]
struct Listed {
    servers: Vec<Vec<u8>>,
    last_id: String,
    /// Server of the next page's marker.
    next: Option<String>,
}

fn answer(list: Listed, cx: &Ctx<State>, path: &str) -> Reply {
    let size: usize = list.servers.iter().map(|s| s.len() + 1).sum();
    let mut body = Vec::with_capacity(size + 512);
    body.extend_from_slice(b"{\"servers\":[");
    for (i, s) in list.servers.iter().enumerate() {
        if i > 0 {
            body.push(b',');
        }
        body.extend_from_slice(s);
    }
    body.push(b']');
    if let Some(marker) = list.next {
        let href = next_link(&format!("{}{path}", cx.base_url), &cx.query, &marker);
        let links = json!([{"rel": "next", "href": href}]);
        body.extend_from_slice(format!(",\"servers_links\":{links}").as_bytes());
    }
    body.push(b'}');
    Reply::bytes(200, "application/json", body)
}

async fn select(
    cx: &Ctx<State>,
    all_rule: &'static str,
    with_data: bool,
    render: impl Fn(&Server, Option<&str>) -> Result<Vec<u8>> + Send + Sync + 'static,
) -> Result<Listed> {
    cx.authorize_own()?;
    let admin_filters = cx.allows("os_compute_api:servers:allow_all_filters", &Target::new());
    let all = match cx.query.get("all_tenants") {
        None => false,
        Some("") => true,
        Some(text) => cx.query.bool("all_tenants").ok_or_else(|| Error::invalid(format!("Invalid value '{text}' for all_tenants.")))?,
    };
    let own = cx.auth().creds.project_id.clone();
    if all {
        cx.require(all_rule, &Target::new().with_opt("project_id", own.as_deref()))?;
    }
    let page = Page::from_query(&cx.query, 1000)?;
    let mut want = Wanted::read(cx, admin_filters)?;
    let scope = if all { cx.query.get("project_id").or(cx.query.get("tenant_id")).map(String::from) } else { own };
    if let Some(p) = scope {
        want.query = want.query.eq("project_id", p);
    }
    // Unlike other lists, a limit of 0 means nothing here.
    if want.impossible || cx.query.get("limit") == Some("0") {
        return Ok(Listed::default());
    }
    want.query.marker.clone_from(&page.marker);
    let limit = page.limit;
    cx.state.db.read(move |tx| want.fetch(tx, limit, with_data, &render)).await
}

#[derive(Default)]
struct Wanted {
    query: Query,
    name: Option<Regex>,
    description: Option<Regex>,
    ip: Option<Regex>,
    ip6: Option<Regex>,
    tags: [Vec<String>; 4],
    metadata: Option<BTreeMap<String, String>>,
    zone: Option<String>,
    config_drive: Option<bool>,
    /// Asks for what this cloud keeps no rows of (deleted servers, unknown states).
    impossible: bool,
}

fn pattern(text: &str) -> Result<Regex> {
    if text.len() > MAX_PATTERN {
        return Err(Error::invalid("The regular expression is too long."));
    }
    let build = |t: &str| RegexBuilder::new(t).case_insensitive(true).size_limit(1 << 18).build();
    // What is no expression is taken literally.
    build(text).or_else(|_| build(&regex_lite::escape(text))).map_err(|_| Error::invalid("The regular expression is too complex."))
}

fn time(key: &str, text: &str) -> Result<Timestamp> {
    Timestamp::parse(text)
        .ok_or_else(|| Error::invalid(format!("Invalid input for query parameters {key}. Value: {text}. It is not a date-time.")))
}

impl Wanted {
    fn read(cx: &Ctx<State>, admin: bool) -> Result<Self> {
        let mut w = Self::default();
        for (key, value) in cx.query.iter() {
            if admin || w.allowed(cx, key) {
                w.filter(cx, key, value)?;
            }
        }
        w.sort(cx)?;
        Ok(w)
    }

    fn allowed(&self, cx: &Ctx<State>, key: &str) -> bool {
        let newer = |minor| cx.version >= Version(2, minor);
        match key {
            "reservation_id" | "name" | "status" | "image" | "flavor" | "ip" | "changes-since" | "changes-before" | "deleted" => true,
            "ip6" => newer(5),
            "tags" | "tags-any" | "not-tags" | "not-tags-any" => newer(26),
            "locked" => newer(73),
            "availability_zone" | "config_drive" | "key_name" | "power_state" | "task_state" | "vm_state" | "user_id" | "hostname"
            | "description" => newer(83),
            _ => false,
        }
    }

    fn filter(&mut self, cx: &Ctx<State>, key: &str, value: &str) -> Result<()> {
        let eq = |w: &mut Self, column: &'static str, v: Sql| w.query.filters.push(Filter::Eq(column, v));
        match key {
            "name" | "display_name" => self.name = Some(pattern(value)?),
            "description" => self.description = Some(pattern(value)?),
            "ip" => self.ip = Some(pattern(value)?),
            "ip6" => self.ip6 = Some(pattern(value)?),
            "status" => self.status(cx, value)?,
            "image" => eq(self, "image_id", value.into()),
            "flavor" => eq(self, "flavor_id", value.into()),
            "host" | "node" | "hypervisor_hostname" => eq(self, "host", value.into()),
            "user_id" => eq(self, "user_id", value.into()),
            "uuid" => eq(self, "id", value.into()),
            "reservation_id" => eq(self, "reservation_id", value.into()),
            "key_name" => eq(self, "key_name", value.into()),
            "hostname" => eq(self, "hostname", value.into()),
            "vm_state" => eq(self, "vm_state", value.to_ascii_lowercase().into()),
            "task_state" => eq(self, "task", value.to_ascii_lowercase().into()),
            "power_state" => eq(self, "power", value.parse::<i64>().unwrap_or(-1).into()),
            "locked" => eq(self, "locked", cx.query.bool("locked").ok_or_else(|| Error::invalid("Invalid value for locked."))?.into()),
            "changes-since" => self.query.filters.push(Filter::Ge("updated_at", time(key, value)?.into())),
            "changes-before" if cx.version >= Version(2, 66) => {
                self.query.filters.push(Filter::Le("updated_at", time(key, value)?.into()));
            }
            "tags" => self.tags[0] = split(value),
            "tags-any" => self.tags[1] = split(value),
            "not-tags" => self.tags[2] = split(value),
            "not-tags-any" => self.tags[3] = split(value),
            "availability_zone" => self.zone = Some(value.to_string()),
            "config_drive" => self.config_drive = cx.query.bool(key),
            "deleted" | "soft_deleted" => self.impossible |= cx.auth().is_admin() && cx.query.bool(key) == Some(true),
            "metadata" => {
                let map =
                    serde_json::from_str(value).map_err(|_| Error::invalid("The metadata filter is not a JSON object of strings."))?;
                self.metadata = Some(map);
            }
            _ => {}
        }
        Ok(())
    }

    fn status(&mut self, cx: &Ctx<State>, value: &str) -> Result<()> {
        let status = value.to_ascii_uppercase();
        if status == "DELETED" && !cx.auth().is_admin() {
            return Err(Error::forbidden("Only administrators may list deleted instances"));
        }
        let several: Vec<Sql> = cx.query.all("status").map(|s| s.to_ascii_uppercase().into()).collect();
        self.query.filters.push(Filter::In("status", several));
        Ok(())
    }

    fn sort(&mut self, cx: &Ctx<State>) -> Result<()> {
        let mut dirs = cx.query.all("sort_dir");
        for key in cx.query.all("sort_key") {
            let column = match key {
                "created_at" | "launched_at" | "terminated_at" | "launch_index" | "progress" => "created_at",
                "updated_at" => "updated_at",
                "display_name" | "name" => "name",
                "uuid" | "id" => "id",
                "vm_state" => "vm_state",
                "power_state" => "power",
                "project_id" => "project_id",
                "user_id" => "user_id",
                "hostname" => "hostname",
                "instance_type_id" => "flavor_id",
                "locked" if cx.version >= Version(2, 73) => "locked",
                "memory_mb" => "ram_mb",
                "vcpus" => "vcpus",
                // Columns that may be empty give no order of their own.
                "task_state"
                | "host"
                | "node"
                | "image_ref"
                | "key_name"
                | "availability_zone"
                | "access_ip_v4"
                | "access_ip_v6"
                | "auto_disk_config"
                | "config_drive"
                | "display_description"
                | "root_device_name"
                | "root_gb"
                | "ephemeral_gb"
                | "cleaned"
                | "default_ephemeral_device"
                | "default_swap_device"
                | "disable_terminate"
                | "ephemeral_key_uuid"
                | "launched_on"
                | "kernel_id"
                | "ramdisk_id"
                | "locked_by"
                | "os_type"
                | "reservation_id"
                | "shutdown_terminate"
                | "user_data"
                | "vm_mode"
                | "architecture"
                | "cell_name"
                | "instance_type"
                | "block_device_mapping"
                | "metadata"
                | "services"
                | "security_groups"
                | "system_metadata"
                | "info_cache"
                | "pci_devices"
                | "deleted"
                | "deleted_at" => continue,
                other => return Err(Error::invalid(format!("Invalid input for query parameters sort_key. Value: {other}."))),
            };
            let dir = dirs.next().unwrap_or("desc");
            let dir =
                Dir::parse(dir).ok_or_else(|| Error::invalid(format!("Invalid input for query parameters sort_dir. Value: {dir}.")))?;
            self.query.sort.push((column, dir));
        }
        if self.query.sort.is_empty() {
            self.query.sort.push(("created_at", Dir::Desc));
        }
        Ok(())
    }

    fn loose(&self) -> bool {
        let text = self.name.is_some() || self.description.is_some() || self.ip.is_some() || self.ip6.is_some();
        text || self.tags.iter().any(|t| !t.is_empty()) || self.metadata.is_some() || self.zone.is_some() || self.config_drive.is_some()
    }

    fn matches(&self, s: &Server) -> bool {
        let addresses = |v6: bool| s.ports.iter().flat_map(|p| &p.fixed_ips).filter(move |i| i.address.contains(':') == v6);
        let has = |t: &String| s.tags.contains(t);
        let [all, any, not_all, not_any] = &self.tags;
        self.name.as_ref().is_none_or(|r| r.is_match(&s.name))
            && self.description.as_ref().is_none_or(|r| r.is_match(s.description.as_deref().unwrap_or("")))
            && self.ip.as_ref().is_none_or(|r| addresses(false).any(|a| r.is_match(&a.address)))
            && self.ip6.as_ref().is_none_or(|r| addresses(true).any(|a| r.is_match(&a.address)))
            && all.iter().all(has)
            && (any.is_empty() || any.iter().any(has))
            && (not_all.is_empty() || !not_all.iter().all(has))
            && !not_any.iter().any(has)
            && self.metadata.as_ref().is_none_or(|m| m.iter().all(|(k, v)| s.metadata.get(k) == Some(v)))
            && self.zone.as_ref().is_none_or(|z| s.zone == *z)
            && self.config_drive.is_none_or(|c| s.config_drive == c)
    }

    fn fetch(
        &self,
        tx: &mut Tx<'_>,
        limit: usize,
        with_data: bool,
        render: &dyn Fn(&Server, Option<&str>) -> Result<Vec<u8>>,
    ) -> Result<Listed> {
        let mut query = self.query.clone();
        let loose = self.loose();
        let mut out = Listed::default();
        // Servers whose big texts are shown, by their place: read when the list has been.
        let mut waiting: Vec<(usize, Server)> = Vec::new();
        loop {
            let wanted = if loose { BATCH } else { limit - out.servers.len() };
            query.limit = Some(wanted);
            let (mut seen, mut last) = (0, None);
            tx.each::<Server>(&query, |s| {
                seen += 1;
                if out.servers.len() < limit && self.matches(&s) {
                    out.last_id.clone_from(&s.id);
                    last = Some(s.id.clone());
                    if with_data && s.has_user_data {
                        waiting.push((out.servers.len(), s.value));
                        out.servers.push(Vec::new());
                    } else {
                        out.servers.push(render(&s, None)?);
                    }
                } else {
                    last = Some(s.value.id);
                }
                Ok(())
            })?;
            query.marker = last;
            if seen < wanted || out.servers.len() >= limit {
                break;
            }
        }
        for (at, s) in waiting {
            let data = tx.get::<ServerData>(&s.id)?.and_then(|d| d.value.user_data);
            if let Some(slot) = out.servers.get_mut(at) {
                *slot = render(&s, data.as_deref())?;
            }
        }
        out.next = (out.servers.len() == limit && limit > 0).then(|| out.last_id.clone());
        Ok(out)
    }
}

fn split(value: &str) -> Vec<String> {
    value.split(',').filter(|t| !t.is_empty()).map(String::from).collect()
}
