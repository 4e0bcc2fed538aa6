//! Creating servers: everything is checked, then rows and flows are written in one transaction.

use crate::State;
use crate::api::wire::hostname_of;
use crate::flows::create::{CreateServer, NicRequest};
use crate::logic::bdm::{self, BdmIn, Disks};
use crate::logic::nics::{self, NicsIn};
use crate::logic::volumes::{DiskRequest, Source};
use crate::logic::{images, network, scheduler, volume_image};
use crate::store::actions::{ActionEvent, InstanceAction};
use crate::store::aggregates::Aggregate;
use crate::store::flavors::{self, Flavor};
use crate::store::groups::ServerGroup;
use crate::store::servers::{self, ImageFacts, Server, ServerData, Task, VmState};
use crate::store::{keypairs, quota, quota_sets};
use caelum_base::{Error, ErrorKind, Result, Timestamp, is_uuid};
use caelum_hypervisor::PowerState;
use caelum_rest::Auth;
use caelum_store::{Query, Tx};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A request for servers, read but not yet checked against anything outside the body.
pub struct NewServers {
    pub name: String,
    pub image_id: Option<String>,
    pub flavor_id: String,
    pub networks: NicsIn,
    /// Names or ids.
    pub security_groups: Vec<String>,
    pub key_name: Option<String>,
    pub user_data: Option<String>,
    pub files: Vec<(String, String)>,
    pub config_drive: bool,
    pub metadata: BTreeMap<String, String>,
    pub tags: BTreeSet<String>,
    pub description: Option<String>,
    pub hostname: Option<String>,
    pub zone: Option<String>,
    pub forced_host: Option<String>,
    pub requested_host: Option<String>,
    pub disks: Vec<BdmIn>,
    pub hints: Map<String, Value>,
    pub min_count: usize,
    pub max_count: usize,
    pub access_ipv4: String,
    pub access_ipv6: String,
    pub disk_config: String,
    /// May use flavors without a root disk.
    pub zero_disk: bool,
    pub multiattach: bool,
    pub external_networks: bool,
}

/// What the checks found.
struct Found {
    flavor: Flavor,
    image: Option<ImageFacts>,
    public_key: Option<String>,
    nics: Vec<NicRequest>,
    security_groups: Vec<String>,
    disks: Disks,
    group_id: Option<String>,
}

/// Checks and starts the building of one or more servers.
pub async fn servers_create(state: &Arc<State>, auth: &Auth, request_id: &str, new: NewServers) -> Result<Vec<Server>> {
    let project_id = auth.project_id()?.to_string();
    let found = find(state, auth, &project_id, &new).await?;
    check_sizes(&new, &found)?;
    let timeout_s = state.config.build_timeout.as_secs();
    let plan = Plan { user_id: auth.user_id().to_string(), project_id, request_id: request_id.to_string(), new, found, timeout_s };
    let ids: Vec<(String, String)> = (0..plan.new.max_count).map(|_| (state.env.uuid(), state.env.uuid())).collect();
    let reservation = format!("r-{}", state.env.hex_id().chars().take(8).collect::<String>());
    if plan.found.disks.requests.iter().any(|d| d.source != Source::Volume) {
        ids.iter().for_each(|(id, _)| state.lend_token(id, &auth.token));
    }
    let (app, env) = (state.clone(), state.env.clone());
    let all = ids.clone();
    let made = state.db.write(move |tx| plan.insert(tx, &app, env.now(), &ids, &reservation)).await;
    if made.is_err() {
        all.iter().for_each(|(id, _)| state.forget_token(id));
    }
    made
}

async fn find(state: &Arc<State>, auth: &Auth, project_id: &str, new: &NewServers) -> Result<Found> {
    let (flavor, public_key, group_id) = from_store(state, auth, project_id, new).await?;
    let asker = bdm::Asker { state, env: &state.env, token: &auth.token, project_id, multiattach: new.multiattach };
    let mut disks = bdm::resolve(&asker, new.image_id.clone(), &new.disks).await?;
    if let Some(id) = disks.image_id.clone() {
        let image = images::image_of_user(state, &auth.token, project_id, &id).await?;
        let mapped = volume_image::mapping(&image)?;
        if !mapped.is_empty() {
            let all: Vec<BdmIn> = mapped.into_iter().chain(new.disks.iter().cloned()).collect();
            disks = bdm::resolve(&asker, None, &all).await?;
            disks.boot_image = Some(ImageFacts { id: String::new(), size_bytes: 0, ..image });
        }
    }
    if new.max_count > 1 && disks.requests.iter().any(|d| d.source == Source::Volume) {
        return Err(Error::invalid("Cannot attach one or more volumes to multiple instances"));
    }
    let image = match &disks.image_id {
        Some(id) => Some(images::image_of_user(state, &auth.token, project_id, id).await?),
        None => disks.boot_image.take(),
    };
    if image.is_none() && !disks.volumes.iter().any(|v| v.boot_index == Some(0)) {
        return Err(Error::invalid("Invalid imageRef provided."));
    }
    let asker = nics::Asker { state, token: &auth.token, project_id, external: new.external_networks || auth.is_admin() };
    let nics = nics::resolve(&asker, &new.networks).await?;
    if new.max_count > 1 && nics.iter().any(|n| n.port_id.is_some() || n.fixed_ip.is_some()) {
        return Err(Error::invalid("Unable to launch multiple instances with a single configured port ID or fixed IP address."));
    }
    let named: Vec<String> = new.security_groups.iter().filter(|g| *g != "default").cloned().collect();
    let security_groups =
        if named.is_empty() { Vec::new() } else { network::security_group_ids(state, &auth.token, &new.security_groups).await? };
    Ok(Found { flavor, image, public_key, nics, security_groups, disks, group_id })
}

/// Flavor, public key and group, each only if the caller may use it; the zone must exist.
async fn from_store(state: &State, auth: &Auth, project_id: &str, new: &NewServers) -> Result<(Flavor, Option<String>, Option<String>)> {
    let (flavor_id, key_name, zone) = (new.flavor_id.clone(), new.key_name.clone(), new.zone.clone());
    let (user, project, admin) = (auth.user_id().to_string(), project_id.to_string(), auth.is_admin());
    let group = match new.hints.get("group") {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) if is_uuid(id) => Some(id.clone()),
        Some(v) => return Err(Error::invalid(format!("Server group scheduler hint must be a UUID, not {v}."))),
    };
    let hosts: Vec<String> = state.hosts.iter().map(|(name, _)| name.clone()).collect();
    let forced = new.forced_host.clone().or_else(|| new.requested_host.clone());
    if let Some(h) = forced.filter(|h| !hosts.contains(h)) {
        return Err(Error::invalid(format!("Compute host {h} could not be found.")));
    }
    state
        .db
        .read(move |tx| {
            let flavor = flavors::usable(tx, &flavor_id, Some(&project), admin).map_err(|e| Error::invalid(e.message))?;
            if flavor.disabled {
                return Err(Error::invalid(format!("Flavor {flavor_id} could not be found.")));
            }
            let key = match &key_name {
                None => None,
                Some(name) => {
                    let found = keypairs::by_name(tx, &user, name)?;
                    Some(found.ok_or_else(|| Error::invalid("Invalid key_name provided."))?.public_key.clone())
                }
            };
            if let Some(z) = &zone {
                let aggregates: Vec<Aggregate> = tx.list::<Aggregate>(&Query::new())?.into_iter().map(|a| a.value).collect();
                if !scheduler::zones(&aggregates, &hosts).contains(z) {
                    return Err(Error::invalid("The requested availability zone is not available"));
                }
            }
            if let Some(id) = &group {
                let known = tx.get::<ServerGroup>(id)?.filter(|g| g.project_id == project);
                known.ok_or_else(|| Error::invalid(format!("Instance group {id} could not be found.")))?;
            }
            Ok((flavor.value, key, group))
        })
        .await
}

/// The image must fit the flavor.
fn check_sizes(new: &NewServers, found: &Found) -> Result<()> {
    let Some(image) = &found.image else { return Ok(()) };
    let backed = found.disks.volumes.iter().any(|v| v.boot_index == Some(0));
    flavor_fits(&found.flavor, image, backed, new.zero_disk)
}

/// Errors: `Invalid` in upstream's words when the flavor is too small for the image.
pub fn flavor_fits(flavor: &Flavor, image: &ImageFacts, volume_backed: bool, zero_disk: bool) -> Result<()> {
    if flavor.ram_mb < image.min_ram_mb {
        return Err(Error::invalid("Flavor's memory is too small for requested image."));
    }
    if volume_backed {
        return Ok(());
    }
    if flavor.root_gb == 0 {
        if zero_disk {
            return Ok(());
        }
        return Err(Error::forbidden("Only volume-backed servers are allowed for flavors with zero disk."));
    }
    let bytes = i64::try_from(image.size_bytes).unwrap_or(i64::MAX);
    if bytes > flavor.root_gb << 30 {
        return Err(Error::invalid(format!(
            "Flavor's disk is too small for requested image. Flavor disk is {} bytes, image is {bytes} bytes.",
            flavor.root_gb << 30
        )));
    }
    if flavor.root_gb < image.min_disk_gb {
        return Err(Error::invalid(format!(
            "Flavor's disk is smaller than the minimum size specified in image metadata. Flavor disk is {} bytes, minimum size is {} bytes.",
            flavor.root_gb << 30,
            image.min_disk_gb << 30
        )));
    }
    Ok(())
}

/// Everything one transaction needs; it may run more than once.
struct Plan {
    user_id: String,
    project_id: String,
    request_id: String,
    new: NewServers,
    found: Found,
    timeout_s: u64,
}

impl Plan {
    fn insert(&self, tx: &mut Tx<'_>, app: &State, now: Timestamp, ids: &[(String, String)], reservation: &str) -> Result<Vec<Server>> {
        let count = self.check_quota(tx)?;
        let mut out = Vec::with_capacity(count);
        let first = servers::next_number(tx)?;
        for (i, (id, action_id)) in ids.iter().take(count).enumerate() {
            let server = self.server(app, id, first + i64::try_from(i).unwrap_or(0), i, reservation, now);
            tx.insert(&server)?;
            if self.new.user_data.is_some() || !self.new.files.is_empty() {
                let data = ServerData { id: id.clone(), user_data: self.new.user_data.clone(), files: self.new.files.clone() };
                tx.insert(&data)?;
            }
            tx.insert(&new_action(action_id, &server, &self.user_id, &self.request_id, "create", CREATE_EVENT, now))?;
            app.flows.start(tx, id, &self.project_id, &self.flow(&server, action_id))?;
            out.push(server);
        }
        Ok(out)
    }

    /// How many servers the quota lets start: between the least and the most wanted.
    fn check_quota(&self, tx: &mut Tx<'_>) -> Result<usize> {
        let limits = quota_sets::effective(tx, &self.project_id)?;
        let over = |name: &str, n: usize| limits.get(name).is_some_and(|l| *l >= 0 && i64::try_from(n).unwrap_or(i64::MAX) > *l);
        if over("metadata_items", self.new.metadata.len()) {
            return Err(Error::over_quota(format!("Quota exceeded for metadata_items: {} items.", self.new.metadata.len())));
        }
        let mut last = None;
        for n in (self.new.min_count..=self.new.max_count).rev() {
            if let Some(id) = &self.found.group_id
                && over("server_group_members", servers::members(tx, id)?.len() + n)
            {
                last = Some(Error::over_quota("Quota exceeded, too many servers in group"));
                continue;
            }
            let k = i64::try_from(n).unwrap_or(i64::MAX);
            let f = &self.found.flavor;
            match quota::check(tx, &self.project_id, quota::Usage { instances: k, cores: k * f.vcpus, ram_mb: k * f.ram_mb }) {
                Ok(()) => return Ok(n),
                Err(e) if e.kind == ErrorKind::OverQuota => last = Some(e),
                Err(e) => return Err(e),
            }
        }
        Err(last.unwrap_or_else(|| Error::internal("an empty range of servers")))
    }

    fn server(&self, app: &State, id: &str, number: i64, index: usize, reservation: &str, now: Timestamp) -> Server {
        let n = &self.new;
        let many = n.max_count > 1;
        let numbered = |base: &str| if many { format!("{base}-{}", index + 1) } else { base.to_string() };
        let name = numbered(&n.name);
        let hostname = n.hostname.as_deref().map_or_else(|| hostname_of(&name, id), &numbered);
        let mut volumes = self.found.disks.volumes.clone();
        if index > 0 {
            volumes.iter_mut().for_each(|v| v.bdm_id = app.env.uuid());
        }
        Server {
            id: id.to_string(),
            number,
            project_id: self.project_id.clone(),
            user_id: self.user_id.clone(),
            hostname,
            description: n.description.clone(),
            image: self.found.image.clone(),
            flavor: self.found.flavor.clone(),
            key_name: n.key_name.clone(),
            public_key: self.found.public_key.clone(),
            has_user_data: n.user_data.is_some(),
            config_drive: n.config_drive || !n.files.is_empty() || image_wants_drive(self.found.image.as_ref()),
            metadata: n.metadata.clone(),
            tags: n.tags.clone(),
            pinned_zone: n.zone.clone(),
            zone: n.zone.clone().unwrap_or_default(),
            host: None,
            scheduler_hints: n.hints.clone(),
            group_id: self.found.group_id.clone(),
            security_groups: group_names(&n.security_groups),
            ports: Vec::new(),
            volumes,
            state: VmState::Building,
            task: Some(Task::Scheduling),
            power: PowerState::NoState,
            fault: None,
            lock: None,
            resize: None,
            rescue_image: None,
            shelved_image: None,
            access_ipv4: n.access_ipv4.clone(),
            access_ipv6: n.access_ipv6.clone(),
            disk_config: n.disk_config.clone(),
            reservation_id: reservation.to_string(),
            launch_index: i64::try_from(index).unwrap_or(0),
            created_at: now,
            updated_at: now,
            launched_at: None,
            network_seen_at: now,
            guest_password: String::new(),
            name,
        }
    }

    fn flow(&self, server: &Server, action_id: &str) -> CreateServer {
        let requests = self.found.disks.requests.iter().zip(&server.volumes);
        CreateServer {
            server_id: server.id.clone(),
            project_id: self.project_id.clone(),
            action_id: action_id.to_string(),
            nics: self.found.nics.clone(),
            security_groups: self.found.security_groups.clone(),
            disks: requests.map(|(d, v)| DiskRequest { bdm_id: v.bdm_id.clone(), ..d.clone() }).collect(),
            forced_host: self.new.forced_host.clone(),
            requested_host: self.new.requested_host.clone(),
            timeout_s: self.timeout_s,
            host: String::new(),
            zone: String::new(),
            ports: Vec::new(),
            volumes: Vec::new(),
        }
    }
}

const CREATE_EVENT: &str = "compute__do_build_and_run_instance";

fn image_wants_drive(image: Option<&ImageFacts>) -> bool {
    image.and_then(|i| i.properties.get("img_config_drive")).is_some_and(|v| v == "mandatory")
}

fn group_names(wanted: &[String]) -> Vec<String> {
    if wanted.is_empty() { vec!["default".to_string()] } else { wanted.to_vec() }
}

/// The record of an action that begins now with one event.
pub fn new_action(id: &str, s: &Server, user_id: &str, request_id: &str, action: &str, event: &str, now: Timestamp) -> InstanceAction {
    InstanceAction {
        id: id.to_string(),
        server_id: s.id.clone(),
        project_id: s.project_id.clone(),
        user_id: user_id.to_string(),
        request_id: request_id.to_string(),
        action: action.to_string(),
        started_at: now,
        updated_at: now,
        message: None,
        events: vec![ActionEvent {
            event: event.to_string(),
            started_at: now,
            finished_at: None,
            result: None,
            details: None,
            host: s.host.clone(),
        }],
    }
}
