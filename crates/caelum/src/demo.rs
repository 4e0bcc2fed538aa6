//! `caelum demo`: what a first user does, through the public APIs: image, key, network, guest,
//! floating IP, login.

use crate::up::{data_path, runtime};
use caelum_base::{Error, Result, Secret};
use caelum_client::{HttpTransport, PasswordTokens, ServiceClient};
use caelum_node::{Summary, admin};
use caelum_rest::stream_channel;
use http::Method;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const NAME: &str = "demo";
const BOOT_LIMIT: Duration = Duration::from_secs(120);

struct Demo {
    image: ServiceClient,
    network: ServiceClient,
    compute: ServiceClient,
    admin_image: ServiceClient,
    dir: PathBuf,
    started: Instant,
}

/// Boots a guest and waits for its login; deletes it again unless `keep`.
pub fn run(data: Option<&Path>, image: Option<&Path>, keep: bool) -> Result<ExitCode> {
    let data = data_path(data)?;
    runtime()?.block_on(async {
        let summary = admin::ask(&data.join("run/admin.sock"), Method::GET, "/summary").await?;
        let summary: Summary = serde_json::from_value(summary).map_err(|e| Error::internal("summary").caused_by(e))?;
        let demo = Demo::new(&data, &summary)?;
        demo.play(image, summary.driver != "sim", keep).await
    })?;
    Ok(ExitCode::SUCCESS)
}

fn password(data: &Path, user: &str) -> Result<Secret<String>> {
    let path = data.join(format!("secrets/{user}-password"));
    let text = std::fs::read_to_string(&path).map_err(|e| Error::unavailable(format!("cannot read {}: {e}", path.display())))?;
    Ok(Secret::new(text.trim_end().to_string()))
}

fn field<'v>(v: &'v Value, path: &str) -> Result<&'v str> {
    v.pointer(path).and_then(Value::as_str).ok_or_else(|| Error::internal(format!("the answer has no {path}")))
}

impl Demo {
    fn new(data: &Path, summary: &Summary) -> Result<Self> {
        let url = &summary.url;
        let tokens = |user: &str| -> Result<Arc<PasswordTokens>> {
            let identity = Arc::new(HttpTransport::new(format!("{url}/identity")));
            Ok(Arc::new(PasswordTokens::new(identity, user, user, password(data, user)?)))
        };
        let user = tokens("demo")?;
        let client =
            |name: &'static str, path: &str| ServiceClient::new(name, Arc::new(HttpTransport::new(format!("{url}/{path}"))), user.clone());
        let dir = data.join("demo");
        std::fs::create_dir_all(&dir).map_err(|e| Error::unavailable(format!("cannot create {}: {e}", dir.display())))?;
        Ok(Self {
            image: client("image", "image"),
            network: client("network", "network"),
            compute: client("compute", "compute").microversion("compute 2.90"),
            admin_image: ServiceClient::new("image", Arc::new(HttpTransport::new(format!("{url}/image"))), tokens("admin")?),
            dir,
            started: Instant::now(),
        })
    }

    fn say(&self, line: &str) {
        println!("[{:5.1} s] {line}", self.started.elapsed().as_secs_f64());
    }

    async fn play(&self, image: Option<&Path>, real: bool, keep: bool) -> Result<()> {
        let image_id = self.ensure_image(image).await?;
        let public_key = self.ensure_key().await?;
        self.ensure_keypair(&public_key).await?;
        let network_id = self.ensure_network().await?;
        self.ensure_rules().await?;
        let server_id = self.boot(&image_id, &network_id).await?;
        let address = self.floating_ip(&server_id).await?;
        if real {
            let host = self.wait_for_login(&address).await?;
            self.say(&format!("the guest answers on SSH at {address}: its host name is {host}"));
        }
        if keep {
            println!("\n  Log in:  ssh -i {}/id_ecdsa cirros@{address}\n", self.dir.display());
            return Ok(());
        }
        self.compute.delete(format!("/v2.1/servers/{server_id}")).done().await?;
        self.release(&address).await?;
        self.say("deleted it again");
        Ok(())
    }

    async fn ensure_image(&self, file: Option<&Path>) -> Result<String> {
        let list: Value = self.image.get("/v2/images?status=active&limit=1").fetch().await?;
        if let Some(id) = list.pointer("/images/0/id").and_then(Value::as_str) {
            return Ok(id.to_string());
        }
        let file = file.ok_or_else(|| Error::invalid("the cloud has no image; name one with --image"))?;
        let body =
            json!({"name": "caelum-guest", "disk_format": "qcow2", "container_format": "bare", "visibility": "public", "min_ram": 128});
        let made: Value = self.admin_image.post("/v2/images").json(&body).fetch().await?;
        let id = field(&made, "/id")?.to_string();
        let bytes = tokio::fs::read(file).await.map_err(|e| Error::invalid(format!("cannot read {}: {e}", file.display())))?;
        let size = bytes.len();
        let (feed, stream) = stream_channel(2);
        tokio::spawn(async move {
            for chunk in bytes.chunks(1 << 20) {
                if feed.send(Ok(chunk.to_vec().into())).await.is_err() {
                    return;
                }
            }
        });
        self.admin_image.put(format!("/v2/images/{id}/file")).stream(stream, "application/octet-stream").done().await?;
        self.say(&format!("uploaded the guest image ({:.1} MB)", size as f64 / 1e6));
        Ok(id)
    }

    async fn ensure_key(&self) -> Result<String> {
        let key = self.dir.join("id_ecdsa");
        if !key.exists() {
            let made = tokio::process::Command::new("ssh-keygen")
                .args(["-q", "-t", "ecdsa", "-N", "", "-C", "caelum-demo", "-f"])
                .arg(&key)
                .stdin(Stdio::null())
                .status()
                .await;
            let made = made.map_err(|_| Error::unavailable("ssh-keygen is not installed: apt-get install openssh-client"))?;
            if !made.success() {
                return Err(Error::unavailable("ssh-keygen failed"));
            }
        }
        let path = key.with_extension("pub");
        std::fs::read_to_string(&path).map_err(|e| Error::unavailable(format!("cannot read {}: {e}", path.display())))
    }

    async fn ensure_keypair(&self, public_key: &str) -> Result<()> {
        let body = json!({"keypair": {"name": NAME, "public_key": public_key.trim(), "type": "ssh"}});
        match self.compute.post("/v2.1/os-keypairs").json(&body).done().await {
            Err(e) if e.is_conflict() => Ok(()),
            r => r,
        }
    }

    async fn ensure_network(&self) -> Result<String> {
        let found: Value = self.network.get(format!("/v2.0/networks?name={NAME}-net")).fetch().await?;
        if let Some(id) = found.pointer("/networks/0/id").and_then(Value::as_str) {
            return Ok(id.to_string());
        }
        let net: Value = self.network.post("/v2.0/networks").json(&json!({"network": {"name": format!("{NAME}-net")}})).fetch().await?;
        let net_id = field(&net, "/network/id")?.to_string();
        let body = json!({"subnet": {"name": format!("{NAME}-subnet"), "network_id": net_id, "ip_version": 4, "cidr": "10.10.0.0/24"}});
        let subnet: Value = self.network.post("/v2.0/subnets").json(&body).fetch().await?;
        let public = self.public_network().await?;
        let body = json!({"router": {"name": format!("{NAME}-router"), "external_gateway_info": {"network_id": public}}});
        let router: Value = self.network.post("/v2.0/routers").json(&body).fetch().await?;
        let path = format!("/v2.0/routers/{}/add_router_interface", field(&router, "/router/id")?);
        self.network.put(path).json(&json!({"subnet_id": field(&subnet, "/subnet/id")?})).done().await?;
        self.say("made a network with a router to the outside");
        Ok(net_id)
    }

    async fn public_network(&self) -> Result<String> {
        let found: Value = self.network.get("/v2.0/networks?router:external=true").fetch().await?;
        field(&found, "/networks/0/id").map(String::from)
    }

    async fn ensure_rules(&self) -> Result<()> {
        let groups: Value = self.network.get("/v2.0/security-groups?name=default").fetch().await?;
        let group = field(&groups, "/security_groups/0/id")?;
        let base = json!({"security_group_id": group, "direction": "ingress", "ethertype": "IPv4"});
        for (protocol, port) in [("icmp", None), ("tcp", Some(22))] {
            let mut rule = base.clone();
            rule["protocol"] = protocol.into();
            if let Some(p) = port {
                (rule["port_range_min"], rule["port_range_max"]) = (json!(p), json!(p));
            }
            match self.network.post("/v2.0/security-group-rules").json(&json!({"security_group_rule": rule})).done().await {
                Err(e) if e.is_conflict() => {}
                r => r?,
            }
        }
        Ok(())
    }

    async fn boot(&self, image: &str, network: &str) -> Result<String> {
        let flavors: Value = self.compute.get("/v2.1/flavors?sort_key=memory_mb&limit=1").fetch().await?;
        let flavor = field(&flavors, "/flavors/0/id")?;
        let body =
            json!({"server": {"name": NAME, "imageRef": image, "flavorRef": flavor, "key_name": NAME, "networks": [{"uuid": network}]}});
        let asked = Instant::now();
        let made: Value = self.compute.post("/v2.1/servers").json(&body).fetch().await?;
        let id = field(&made, "/server/id")?.to_string();
        loop {
            let shown: Value = self.compute.get(format!("/v2.1/servers/{id}")).fetch().await?;
            match field(&shown, "/server/status")? {
                "ACTIVE" => break,
                "ERROR" => {
                    let why = shown.pointer("/server/fault/message").and_then(Value::as_str).unwrap_or("no reason given");
                    return Err(Error::unavailable(format!("the guest could not start: {why}")));
                }
                _ if asked.elapsed() > BOOT_LIMIT => return Err(Error::timeout("the guest did not become ACTIVE")),
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        self.say(&format!("the guest is ACTIVE, {:.1} s after asking", asked.elapsed().as_secs_f64()));
        Ok(id)
    }

    async fn floating_ip(&self, server: &str) -> Result<String> {
        let ports: Value = self.network.get(format!("/v2.0/ports?device_id={server}")).fetch().await?;
        let public = self.public_network().await?;
        let body = json!({"floatingip": {"floating_network_id": public, "port_id": field(&ports, "/ports/0/id")?}});
        let made: Value = self.network.post("/v2.0/floatingips").json(&body).fetch().await?;
        field(&made, "/floatingip/floating_ip_address").map(String::from)
    }

    async fn release(&self, address: &str) -> Result<()> {
        let found: Value = self.network.get(format!("/v2.0/floatingips?floating_ip_address={address}")).fetch().await?;
        let id = field(&found, "/floatingips/0/id")?;
        self.network.delete(format!("/v2.0/floatingips/{id}")).done_or_gone().await
    }

    async fn wait_for_login(&self, address: &str) -> Result<String> {
        let asked = Instant::now();
        loop {
            let out = tokio::process::Command::new("ssh")
                .args([
                    "-o",
                    "StrictHostKeyChecking=no",
                    "-o",
                    "UserKnownHostsFile=/dev/null",
                    "-o",
                    "BatchMode=yes",
                    "-o",
                    "ConnectTimeout=3",
                    "-o",
                    "LogLevel=ERROR",
                    "-i",
                ])
                .arg(self.dir.join("id_ecdsa"))
                .arg(format!("cirros@{address}"))
                .arg("hostname")
                .stdin(Stdio::null())
                .output()
                .await
                .map_err(|_| Error::unavailable("ssh is not installed: apt-get install openssh-client"))?;
            if out.status.success() {
                return Ok(String::from_utf8_lossy(&out.stdout).trim().to_string());
            }
            if asked.elapsed() > BOOT_LIMIT {
                return Err(Error::timeout(format!("the guest does not answer on SSH at {address}")));
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}
