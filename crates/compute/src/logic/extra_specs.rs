//! Which extra specs a flavor may carry. From 2.86 on names in a known namespace must be known and
//! their values must be of the right kind; other namespaces are free.

use caelum_base::{Error, Result};

/// Kind of a value.
#[derive(Clone, Copy)]
enum Kind {
    Bool,
    /// A non-negative integer.
    Number,
    OneOf(&'static [&'static str]),
    /// Anything.
    Text,
}

use Kind::{Bool, Number, OneOf, Text};

/// Known names; `{n}` stands for a number, a trailing `*` for any rest.
const KNOWN: &[(&str, Kind)] = &[
    ("hw:numa_nodes", Number),
    ("hw:numa_cpus.{n}", Text),
    ("hw:numa_mem.{n}", Number),
    ("hw:cpu_policy", OneOf(&["dedicated", "shared", "mixed"])),
    ("hw:cpu_thread_policy", OneOf(&["prefer", "isolate", "require"])),
    ("hw:emulator_threads_policy", OneOf(&["isolate", "share"])),
    ("hw:cpu_dedicated_mask", Text),
    ("hw:cpu_realtime", Bool),
    ("hw:cpu_realtime_mask", Text),
    ("hw:cpu_sockets", Number),
    ("hw:cpu_cores", Number),
    ("hw:cpu_threads", Number),
    ("hw:cpu_max_sockets", Number),
    ("hw:cpu_max_cores", Number),
    ("hw:cpu_max_threads", Number),
    ("hw:mem_page_size", Text),
    ("hw:mem_encryption", Bool),
    ("hw:mem_encryption_model", OneOf(&["amd-sev", "amd-sev-es"])),
    ("hw:locked_memory", Bool),
    ("hw:boot_menu", Bool),
    ("hw:serial_port_count", Number),
    ("hw:watchdog_action", OneOf(&["none", "pause", "poweroff", "reset", "disabled"])),
    ("hw:pmu", Bool),
    ("hw:pmem", Text),
    ("hw:vif_multiqueue_enabled", Bool),
    ("hw:virtio_packed_ring", Bool),
    ("hw:tpm_model", OneOf(&["tpm-tis", "tpm-crb"])),
    ("hw:tpm_version", OneOf(&["1.2", "2.0"])),
    ("hw:tpm_secret_security", OneOf(&["user", "host", "deployment"])),
    ("hw:viommu_model", OneOf(&["intel", "smmuv3", "virtio", "auto"])),
    ("hw:pci_numa_affinity_policy", OneOf(&["required", "preferred", "legacy", "socket"])),
    ("hw:maxphysaddr_mode", OneOf(&["passthrough", "emulate"])),
    ("hw:maxphysaddr_bits", Number),
    ("hw:hide_hypervisor_id", Bool),
    ("hw:sound_model", Text),
    ("hw:usb_model", Text),
    ("hw:redirected_usb_ports", Number),
    ("hw_rng:allowed", Bool),
    ("hw_rng:rate_bytes", Number),
    ("hw_rng:rate_period", Number),
    ("hw_video:ram_max_mb", Number),
    ("quota:cpu_shares", Number),
    ("quota:cpu_period", Number),
    ("quota:cpu_quota", Number),
    ("quota:cpu_limit", Number),
    ("quota:cpu_reservation", Number),
    ("quota:cpu_shares_level", OneOf(&["custom", "high", "normal", "low"])),
    ("quota:cpu_shares_share", Number),
    ("quota:memory_*", Text),
    ("quota:disk_io_*", Text),
    ("quota:disk_read_bytes_sec", Number),
    ("quota:disk_read_iops_sec", Number),
    ("quota:disk_write_bytes_sec", Number),
    ("quota:disk_write_iops_sec", Number),
    ("quota:disk_total_bytes_sec", Number),
    ("quota:disk_total_iops_sec", Number),
    ("quota:vif_*", Text),
    ("os:secure_boot", OneOf(&["disabled", "required"])),
    ("os:monitors", Number),
    ("os:vdi", Text),
    ("accel:device_profile", Text),
    ("pci_passthrough:alias", Text),
];

/// Namespaces whose names are all in [`KNOWN`].
const CLOSED: &[&str] = &["hw", "hw_rng", "hw_video", "quota", "os", "accel", "pci_passthrough"];

fn numbered(pattern: &str, name: &str) -> bool {
    if let Some(start) = pattern.strip_suffix('*') {
        return name.starts_with(start);
    }
    match pattern.strip_suffix("{n}") {
        Some(start) => name.strip_prefix(start).is_some_and(|n| !n.is_empty() && n.len() < 6 && n.bytes().all(|b| b.is_ascii_digit())),
        None => pattern == name,
    }
}

fn fits(kind: Kind, value: &str) -> bool {
    match kind {
        Bool => matches!(
            value.to_ascii_lowercase().as_str(),
            "1" | "t" | "true" | "on" | "y" | "yes" | "0" | "f" | "false" | "off" | "n" | "no"
        ),
        Number => value.parse::<i64>().is_ok_and(|n| n >= 0) || value == "-1",
        OneOf(words) => words.contains(&value),
        Text => true,
    }
}

/// Form of name and value at every version.
pub fn check_form(name: &str, value: &str) -> Result<()> {
    let fine = (1..=255).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_:. ".contains(&b));
    if !fine {
        return Err(Error::invalid(format!("Invalid input for field/attribute extra_specs. {name:?} is not a valid key.")));
    }
    if value.chars().count() > 255 {
        return Err(Error::invalid(format!("Invalid input for field/attribute {name}. The value has more than 255 characters.")));
    }
    Ok(())
}

/// Meaning of name and value, from 2.86 on.
pub fn check_meaning(name: &str, value: &str) -> Result<()> {
    let wrong = || Error::invalid(format!("Validation failed; extra spec '{name}' has the invalid value '{value}'."));
    if let Some((_, kind)) = KNOWN.iter().find(|(pattern, _)| numbered(pattern, name)) {
        return if fits(*kind, value) { Ok(()) } else { Err(wrong()) };
    }
    let (namespace, rest) = name.split_once(':').unwrap_or(("", name));
    if CLOSED.contains(&namespace) {
        return Err(Error::invalid(format!("Validation failed; extra spec '{name}' does not appear to be a valid extra spec.")));
    }
    let group = |word: &str| {
        namespace == word
            || namespace.strip_prefix(word).is_some_and(|n| n.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'))
    };
    if group("resources") && !(fits(Number, value) && rest.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')) {
        return Err(wrong());
    }
    if group("trait") && !matches!(value, "required" | "forbidden") {
        return Err(wrong());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_have_values_of_their_kind() {
        for (name, value) in [
            ("hw:numa_nodes", "1"),
            ("hw:numa_cpus.0", "0,1"),
            ("hw:cpu_policy", "shared"),
            ("foo:bar", "baz"),
            ("foo", "baz"),
            ("trait:HW_CPU_X86_VMX", "required"),
            ("resources:VCPU", "2"),
            ("resources1:CUSTOM_X", "2"),
        ] {
            assert!(check_meaning(name, value).is_ok(), "{name}");
        }
        for (name, value) in
            [("hw:numa_nodes", "foo"), ("hw:cpu_policy", "sharrred"), ("hw:foo", "bar"), ("trait:X", "maybe"), ("hw:numa_cpus.x", "1")]
        {
            assert!(check_meaning(name, value).is_err(), "{name}");
        }
        assert!(check_form("a/b", "x").is_err() && check_form("", "x").is_err() && check_form("a", &"x".repeat(256)).is_err());
    }
}
