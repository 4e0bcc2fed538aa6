//! A [`GuestSpec`] as a libvirt domain. Pure: same spec, same host facts, same text.
//!
//! Invariants: every disk and every backing file names its format; every device a later call must
//! find again carries an alias made of its OpenStack id; text from users appears only as escaped
//! metadata.

use crate::devices::{self, DiskRole, DiskSlot};
use crate::{GuestSpec, Nic, VolumeDisk};
use caelum_base::{Error, Result, is_uuid};
use caelum_safeio::render::XmlWriter;
use std::path::{Path, PathBuf};

/// Namespace of our metadata element; a domain without it is not ours.
pub const NAMESPACE: &str = "https://caelum.cloud/xmlns/libvirt/guest/1";
/// Room for hot-plugged devices on q35, which needs a port per device.
const Q35_PORTS: usize = 24;
/// Unix socket paths must be shorter than this.
const SOCKET_PATH_MAX: usize = 107;

/// What the definition must know about the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// KVM works (else TCG).
    pub kvm: bool,
    /// The CPU controller of cgroups is usable, so shares and quotas have an effect.
    pub cpu_tuning: bool,
    /// O_DIRECT works on the file system of the guests' disks.
    pub direct_io: bool,
}

/// A guest's files.
#[derive(Clone, Debug)]
pub struct GuestPaths {
    pub dir: PathBuf,
}

impl GuestPaths {
    pub fn root(&self) -> PathBuf {
        self.dir.join("disk")
    }
    pub fn ephemeral(&self) -> PathBuf {
        self.dir.join("disk.eph0")
    }
    pub fn swap(&self) -> PathBuf {
        self.dir.join("disk.swap")
    }
    pub fn config_drive(&self) -> PathBuf {
        self.dir.join("disk.config")
    }
    pub fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }
    /// The console's earlier part, kept when the log was cut.
    pub fn console_old(&self) -> PathBuf {
        self.dir.join("console.log.0")
    }
    pub fn spec(&self) -> PathBuf {
        self.dir.join("spec.json")
    }
    pub fn vnc(&self) -> PathBuf {
        self.dir.join("vnc.sock")
    }
    /// Whether the VNC socket's path fits into a socket address.
    pub fn vnc_fits(&self) -> bool {
        self.vnc().as_os_str().len() <= SOCKET_PATH_MAX
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::internal(format!("the path {} is not UTF-8", path.display())))
}

/// The alias under which libvirt reports a volume's removal.
pub fn volume_alias(volume_id: &str) -> Result<String> {
    alias("vol", volume_id)
}

/// The alias under which libvirt reports an interface's removal.
pub fn nic_alias(port_id: &str) -> Result<String> {
    alias("nic", port_id)
}

fn alias(kind: &str, id: &str) -> Result<String> {
    if !is_uuid(id) {
        return Err(Error::invalid(format!("{id:?} is not a UUID.")));
    }
    Ok(format!("ua-{kind}-{id}"))
}

/// The whole domain.
pub fn domain(spec: &GuestSpec, paths: &GuestPaths, facts: &HostFacts) -> Result<String> {
    let machine = machine(spec)?;
    let mut w = XmlWriter::new();
    w.open("domain").attr("type", if facts.kvm { "kvm" } else { "qemu" });
    w.leaf("name", &spec.domain).leaf("uuid", &spec.id);
    metadata(&mut w, spec);
    w.open("memory").attr("unit", "MiB").text(spec.memory_mib.to_string()).close();
    w.open("vcpu").attr("placement", "static").text(spec.vcpus.to_string()).close();
    if facts.cpu_tuning {
        cpu_tune(&mut w, spec)?;
    }
    sysinfo(&mut w, spec);
    w.open("os");
    if spec.image_props.get("hw_firmware_type").is_some_and(|f| f == "uefi") {
        w.attr("firmware", "efi");
    }
    w.open("type").attr("arch", "x86_64").attr("machine", machine).text("hvm").close();
    w.empty("bootmenu", &[("enable", "no")]).empty("smbios", &[("mode", "sysinfo")]).close();
    w.open("features").empty("acpi", &[]).empty("apic", &[]).close();
    cpu(&mut w, spec, facts)?;
    w.open("clock").attr("offset", "utc");
    w.empty("timer", &[("name", "pit"), ("tickpolicy", "delay")]);
    w.empty("timer", &[("name", "rtc"), ("tickpolicy", "catchup")]);
    w.empty("timer", &[("name", "hpet"), ("present", "no")]).close();
    w.leaf("on_poweroff", "destroy").leaf("on_reboot", "restart").leaf("on_crash", "destroy");
    w.open("devices");
    controllers(&mut w, spec, machine)?;
    for slot in devices::layout(spec)? {
        disk(&mut w, spec, &slot, paths, facts)?;
    }
    if spec.config_drive.is_some() {
        config_drive(&mut w, machine, paths)?;
    }
    for n in &spec.nics {
        nic(&mut w, n)?;
    }
    fixed_devices(&mut w, spec, paths)?;
    w.close().close();
    w.finish()
}

/// Devices every guest has: serial console with a log, VNC, a source of randomness.
fn fixed_devices(w: &mut XmlWriter, spec: &GuestSpec, paths: &GuestPaths) -> Result<()> {
    w.open("serial").attr("type", "pty");
    w.empty("log", &[("file", text(&paths.console())?), ("append", "on")]);
    w.open("target").attr("type", "isa-serial").attr("port", "0").close().close();
    if spec.image_props.get("hw_pointer_model").is_some_and(|m| m == "usbtablet") {
        w.empty("input", &[("type", "tablet"), ("bus", "usb")]);
    }
    w.open("graphics").attr("type", "vnc");
    if paths.vnc_fits() {
        w.empty("listen", &[("type", "socket"), ("socket", text(&paths.vnc())?)]);
    } else {
        w.attr("port", "-1").attr("autoport", "yes");
        w.empty("listen", &[("type", "address"), ("address", "127.0.0.1")]);
    }
    w.close();
    let video = match spec.image_props.get("hw_video_model").map_or("vga", String::as_str) {
        m @ ("vga" | "virtio" | "qxl" | "cirrus" | "none" | "bochs") => m,
        other => return Err(Error::invalid(format!("Video model hw_video_model={other} is not supported by this host."))),
    };
    w.open("video").empty("model", &[("type", video)]).close();
    w.open("rng").attr("model", "virtio").open("backend").attr("model", "random").text("/dev/urandom").close().close();
    w.empty("memballoon", &[("model", "none")]);
    Ok(())
}

fn metadata(w: &mut XmlWriter, spec: &GuestSpec) {
    w.open("metadata").open("caelum:guest").attr("xmlns:caelum", NAMESPACE);
    // A name with characters XML cannot carry must not keep the guest from starting.
    let name: String = spec.name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    w.leaf("caelum:name", name).leaf("caelum:project", &spec.project_id).leaf("caelum:user", &spec.user_id);
    w.close().close();
}

fn sysinfo(w: &mut XmlWriter, spec: &GuestSpec) {
    // cloud-init takes a machine with this product name for an OpenStack server.
    w.open("sysinfo").attr("type", "smbios").open("system");
    let entries = [
        ("manufacturer", "OpenStack Foundation"),
        ("product", "OpenStack Nova"),
        ("version", env!("CARGO_PKG_VERSION")),
        ("serial", spec.id.as_str()),
        ("uuid", spec.id.as_str()),
        ("family", "Virtual Machine"),
    ];
    for (name, value) in entries {
        w.open("entry").attr("name", name).text(value).close();
    }
    w.close().close();
}

/// `pc` unless the image asks otherwise: under TCG it boots as fast as q35 and hot-plugs without ports.
fn machine(spec: &GuestSpec) -> Result<&str> {
    let wanted = spec.image_props.get("hw_machine_type").map_or("", String::as_str);
    let plain = |m: &str| m.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
    match wanted {
        "" => Ok("pc"),
        m if (m == "pc" || m == "q35" || m.starts_with("pc-")) && plain(m) => Ok(m),
        other => Err(Error::invalid(format!("Machine type hw_machine_type={other} is not supported by this host."))),
    }
}

fn is_q35(machine: &str) -> bool {
    machine.contains("q35")
}

/// A positive number of a flavor extra spec or image property.
fn number(spec: &GuestSpec, extra: &str, prop: &str) -> Result<Option<u32>> {
    let Some(value) = spec.extra_specs.get(extra).or_else(|| spec.image_props.get(prop)) else { return Ok(None) };
    let n: u32 = value.trim().parse().map_err(|_| Error::invalid(format!("{extra}={value} is not a number.")))?;
    Ok((n > 0).then_some(n))
}

/// Sockets, cores and threads whose product is the number of CPUs.
fn topology(spec: &GuestSpec) -> Result<(u32, u32, u32)> {
    let sockets = number(spec, "hw:cpu_sockets", "hw_cpu_sockets")?;
    let cores = number(spec, "hw:cpu_cores", "hw_cpu_cores")?;
    let threads = number(spec, "hw:cpu_threads", "hw_cpu_threads")?;
    let n = spec.vcpus;
    let (s, c, t) = match (sockets, cores, threads) {
        (None, None, None) => (n, 1, 1),
        (Some(s), None, None) => (s, n / s, 1),
        (None, c, t) => {
            let (c, t) = (c.unwrap_or(1), t.unwrap_or(1));
            (n / c.saturating_mul(t).max(1), c, t)
        }
        (Some(s), Some(c), None) => (s, c, n / s.saturating_mul(c)),
        (Some(s), None, Some(t)) => (s, n / s.saturating_mul(t), t),
        (Some(s), Some(c), Some(t)) => (s, c, t),
    };
    if u64::from(s) * u64::from(c) * u64::from(t) != u64::from(n) {
        return Err(Error::invalid(format!("The CPU topology of the flavor or image does not make {n} vCPUs.")));
    }
    Ok((s, c, t))
}

fn cpu(w: &mut XmlWriter, spec: &GuestSpec, facts: &HostFacts) -> Result<()> {
    let (s, c, t) = topology(spec)?;
    if facts.kvm {
        w.open("cpu").attr("mode", "host-model").attr("check", "partial");
    } else {
        w.open("cpu").attr("mode", "maximum");
    }
    w.empty("topology", &[("sockets", &s.to_string()), ("cores", &c.to_string()), ("threads", &t.to_string())]);
    w.close();
    Ok(())
}

fn cpu_tune(w: &mut XmlWriter, spec: &GuestSpec) -> Result<()> {
    let shares = number(spec, "quota:cpu_shares", "")?;
    let period = number(spec, "quota:cpu_period", "")?;
    let quota = number(spec, "quota:cpu_quota", "")?;
    if shares.or(period).or(quota).is_none() {
        return Ok(());
    }
    w.open("cputune");
    for (name, value) in [("shares", shares), ("period", period), ("quota", quota)] {
        if let Some(v) = value {
            w.leaf(name, v.to_string());
        }
    }
    w.close();
    Ok(())
}

fn controllers(w: &mut XmlWriter, spec: &GuestSpec, machine: &str) -> Result<()> {
    // Without a USB controller the firmware and the kernel find one bus less to probe.
    let usb = spec.image_props.get("hw_pointer_model").is_some_and(|m| m == "usbtablet") || devices::disk_bus(spec)? == "usb";
    w.empty("controller", &[("type", "usb"), ("model", if usb { "qemu-xhci" } else { "none" })]);
    if devices::disk_bus(spec)? == "scsi" {
        w.empty("controller", &[("type", "scsi"), ("index", "0"), ("model", "virtio-scsi")]);
    }
    if is_q35(machine) {
        w.empty("controller", &[("type", "pci"), ("index", "0"), ("model", "pcie-root")]);
        for _ in 0..Q35_PORTS {
            w.empty("controller", &[("type", "pci"), ("model", "pcie-root-port")]);
        }
    }
    Ok(())
}

fn disk(w: &mut XmlWriter, spec: &GuestSpec, slot: &DiskSlot<'_>, paths: &GuestPaths, facts: &HostFacts) -> Result<()> {
    let bus = devices::disk_bus(spec)?;
    let (path, format) = match slot.role {
        DiskRole::Volume(v) => return volume(w, spec, v, &slot.name, slot.boot_order, facts),
        DiskRole::Root => (paths.root(), "qcow2"),
        DiskRole::Ephemeral => (paths.ephemeral(), "raw"),
        DiskRole::Swap => (paths.swap(), "raw"),
    };
    w.open("disk").attr("type", "file").attr("device", "disk");
    driver(w, format, facts);
    w.empty("source", &[("file", text(&path)?)]);
    w.empty("target", &[("dev", &slot.name), ("bus", bus)]);
    io_tune(w, spec)?;
    boot(w, slot.boot_order);
    w.close();
    Ok(())
}

fn driver(w: &mut XmlWriter, format: &str, facts: &HostFacts) {
    let cache = if facts.direct_io { "none" } else { "writeback" };
    w.empty("driver", &[("name", "qemu"), ("type", format), ("cache", cache), ("discard", "unmap")]);
}

fn boot(w: &mut XmlWriter, order: Option<u32>) {
    if let Some(n) = order {
        w.empty("boot", &[("order", &n.to_string())]);
    }
}

/// Limits of the flavor, kept by QEMU itself.
fn io_tune(w: &mut XmlWriter, spec: &GuestSpec) -> Result<()> {
    const LIMITS: [(&str, &str); 6] = [
        ("quota:disk_read_bytes_sec", "read_bytes_sec"),
        ("quota:disk_write_bytes_sec", "write_bytes_sec"),
        ("quota:disk_total_bytes_sec", "total_bytes_sec"),
        ("quota:disk_read_iops_sec", "read_iops_sec"),
        ("quota:disk_write_iops_sec", "write_iops_sec"),
        ("quota:disk_total_iops_sec", "total_iops_sec"),
    ];
    let set: Vec<_> = LIMITS.iter().filter_map(|(k, e)| spec.extra_specs.get(*k).map(|v| (*k, *e, v.trim()))).collect();
    if set.is_empty() {
        return Ok(());
    }
    w.open("iotune");
    for (key, element, value) in set {
        let n: u64 = value.parse().map_err(|_| Error::invalid(format!("{key}={value} is not a number.")))?;
        w.leaf(element, n.to_string());
    }
    w.close();
    Ok(())
}

fn volume(w: &mut XmlWriter, spec: &GuestSpec, v: &VolumeDisk, name: &str, order: Option<u32>, facts: &HostFacts) -> Result<()> {
    if !matches!(v.format.as_str(), "raw" | "qcow2") {
        return Err(Error::invalid(format!("A volume of format {:?} cannot be attached.", v.format)));
    }
    w.open("disk").attr("type", "file").attr("device", "disk");
    driver(w, &v.format, facts);
    w.empty("source", &[("file", text(&v.path)?)]);
    w.empty("target", &[("dev", name), ("bus", devices::disk_bus(spec)?)]);
    if v.read_only {
        w.empty("readonly", &[]);
    }
    if v.shareable {
        w.empty("shareable", &[]);
    }
    // Guests find a volume by its id under /dev/disk/by-id.
    w.leaf("serial", &v.volume_id);
    boot(w, order);
    w.empty("alias", &[("name", &volume_alias(&v.volume_id)?)]);
    w.close();
    Ok(())
}

fn config_drive(w: &mut XmlWriter, machine: &str, paths: &GuestPaths) -> Result<()> {
    let (dev, bus) = if is_q35(machine) { ("sdz", "sata") } else { ("hdd", "ide") };
    w.open("disk").attr("type", "file").attr("device", "cdrom");
    w.empty("driver", &[("name", "qemu"), ("type", "raw")]);
    w.empty("source", &[("file", text(&paths.config_drive())?)]);
    w.empty("target", &[("dev", dev), ("bus", bus)]).empty("readonly", &[]).close();
    Ok(())
}

fn nic(w: &mut XmlWriter, n: &Nic) -> Result<()> {
    let plain = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if !plain(&n.tap) || n.tap.len() > 15 {
        return Err(Error::invalid(format!("{:?} is no name of a network device.", n.tap)));
    }
    if !plain(&n.model) {
        return Err(Error::invalid(format!("{:?} is no model of a network device.", n.model)));
    }
    w.open("interface").attr("type", "ethernet");
    w.empty("mac", &[("address", &n.mac)]);
    w.empty("target", &[("dev", &n.tap), ("managed", "no")]);
    w.empty("model", &[("type", &n.model)]);
    if n.mtu > 0 && n.model == "virtio" {
        w.empty("mtu", &[("size", &n.mtu.to_string())]);
    }
    w.empty("alias", &[("name", &nic_alias(&n.port_id)?)]);
    w.close();
    Ok(())
}

/// One disk element for hot-plug.
pub fn volume_device(spec: &GuestSpec, v: &VolumeDisk, name: &str, facts: &HostFacts) -> Result<String> {
    let mut w = XmlWriter::new();
    volume(&mut w, spec, v, name, None, facts)?;
    w.finish()
}

/// One interface element for hot-plug.
pub fn nic_device(n: &Nic) -> Result<String> {
    let mut w = XmlWriter::new();
    nic(&mut w, n)?;
    w.finish()
}

#[cfg(test)]
#[path = "xml_tests.rs"]
mod tests;
