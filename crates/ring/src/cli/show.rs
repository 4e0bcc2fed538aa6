//! Commands that print tables.

use super::devices::not_balanced;
use super::options::Options;
use super::{DONE, Outcome, Run, WARNING};
use crate::builder::{Builder, BuilderDevice};
use crate::python;
use crate::runtime::Ring;
use std::collections::{BTreeSet, HashMap};
use std::net::Ipv6Addr;

impl Run<'_, '_> {
    pub(super) fn show(&mut self) -> Outcome {
        let b = &self.builder;
        let id = b.id.as_deref().unwrap_or("(not assigned)");
        let mut lines = vec![format!("{}, build version {}, id {id}", self.builder_file.display(), b.version)];
        let regions: BTreeSet<u32> = b.iter().map(|d| d.device.region).collect();
        let zones: BTreeSet<(u32, u32)> = b.iter().map(|d| (d.device.region, d.device.zone)).collect();
        let balance = b.balance_per_device();
        let worst = b.balance().unwrap_or(0.0);
        let dispersion = b.dispersion.map(|d| format!(", {d:.2} dispersion")).unwrap_or_default();
        lines.push(format!(
            "{} partitions, {:.6} replicas, {} regions, {} zones, {} devices, {}-byte IDs, {worst:.2} balance{dispersion}",
            b.parts(),
            b.replicas,
            regions.len(),
            zones.len(),
            b.iter().count(),
            b.device_id_bytes(),
        ));
        lines.push(format!(
            "The minimum number of hours before a partition can be reassigned is {} ({} remaining)",
            b.min_part_hours,
            python::duration(b.min_part_seconds_left(self.terminal.now))
        ));
        lines.push(format!("The overload factor is {:.2}% ({:.6})", b.overload * 100.0, b.overload));
        let (state, current) = self.ring_state();
        lines.push(state);
        let per_device: HashMap<u32, f64> = balance.as_ref().map(|v| v.iter().copied().collect()).unwrap_or_default();
        lines.extend(table(b, &per_device));
        lines.extend(self.increase_state(current));
        lines.extend(balance.err().map(|e| e.message));
        for line in lines {
            self.terminal.say(line);
        }
        Ok(DONE)
    }

    /// What to say about the ring file, and whether it is what the builder would write.
    fn ring_state(&self) -> (String, bool) {
        let name = self.ring_file.display();
        if !self.ring_file.exists() {
            return (format!("Ring file {name} not found, probably it hasn't been written yet"), false);
        }
        match crate::file::load(&self.ring_file) {
            Err(e) => (format!("Ring file {name} is invalid: {}", e.message), false),
            Ok(ring) if same(&ring, &self.builder.ring()) => (format!("Ring file {name} is up-to-date"), true),
            Ok(_) => (format!("Ring file {name} is obsolete"), false),
        }
    }

    fn increase_state(&self, current: bool) -> Vec<String> {
        let b = &self.builder;
        let Some(next) = b.next_part_power else { return Vec::new() };
        let powers = format!("({} -> {next})", b.part_power);
        if next != b.part_power {
            let advice = "Run the relinker's relink on all nodes before increase_partition_power.";
            return vec![format!("\nPreparing increase of partition power {powers}"), advice.into()];
        }
        let mut out = vec![format!("\nIncreased partition power {powers}")];
        if !current {
            out.push("First run write_ring and distribute the ring file to all nodes.".into());
        }
        out.push("Run the relinker's cleanup on all nodes before finish_increase_partition_power.".into());
        out
    }

    pub(super) fn dispersion(&mut self) -> Outcome {
        if self.builder.assignment.is_empty() {
            return Err(not_balanced(&self.builder_file));
        }
        let options = Options::parse(&[('\0', "recalculate", false), ('v', "verbose", false)], self.args)?;
        let filter = options.args.first().map(|f| regex_lite::Regex::new(&format!("^(?:{f})"))).transpose();
        let filter = filter.map_err(|e| format!("the filter is not a regular expression: {e}"))?;
        let before = self.builder.version;
        let keep = |name: &str| filter.as_ref().is_none_or(|f| f.is_match(name));
        let report = self.builder.dispersion_report(&keep, options.flag("recalculate"));
        if self.builder.version != before {
            self.save()?;
        }
        let b = &self.builder;
        let mut lines = vec![format!(
            "Dispersion is {:.6}, Balance is {:.6}, Overload is {:.2}%",
            b.dispersion.unwrap_or(0.0),
            b.balance().map_err(|e| e.message)?,
            b.overload * 100.0
        )];
        lines.push(format!("Required overload is {:.6}%", b.required_overload().map_err(|e| e.message)? * 100.0));
        let mut code = DONE;
        if let Some(tier) = &report.worst_tier {
            code = WARNING;
            lines.push(format!("Worst tier is {:.6} ({tier})", report.max_dispersion));
        }
        if options.flag("verbose") && !report.tiers.is_empty() {
            let width = b.parts().to_string().len().max(5);
            let name_width = report.tiers.iter().map(|t| t.name.len()).max().unwrap_or(0).max(30);
            let join = |v: Vec<String>| v.join(" ");
            let numbers = join((0..=b.replicas.ceil() as usize).map(|n| format!("{n:>width$}")).collect());
            let header = format!("{:<name_width$} {:>width$} {:>6} {:>6} {numbers}", "Tier", "Parts", "%", "Max");
            let rule = "-".repeat(header.len());
            lines.extend([rule.clone(), header, rule]);
            for t in &report.tiers {
                let counts = join(t.replicas.iter().map(|n| format!("{n:>width$}")).collect());
                lines
                    .push(format!("{:<name_width$} {:>width$} {:6.2} {:6} {counts}", t.name, t.placed_parts, t.dispersion, t.max_replicas));
            }
        }
        for line in lines {
            self.terminal.say(line);
        }
        Ok(code)
    }
}

fn same(a: &Ring, b: &Ring) -> bool {
    a.devices == b.devices
        && a.replica2part2dev == b.replica2part2dev
        && a.part_shift == b.part_shift
        && a.next_part_power == b.next_part_power
        && a.version == b.version
}

fn table(b: &Builder, balance: &HashMap<u32, f64>) -> Vec<String> {
    let widest = |least: usize, f: &dyn Fn(&BuilderDevice) -> usize| b.iter().map(f).max().unwrap_or(0).max(least);
    // Brackets around any IPv6 address widen the column for all.
    let brackets = |f: &dyn Fn(&BuilderDevice) -> &str| if b.iter().any(|d| f(d).parse::<Ipv6Addr>().is_ok()) { 2 } else { 0 };
    let ip = widest(10, &|d| d.device.ip.len()) + brackets(&|d| &d.device.ip);
    let rip = widest(14, &|d| d.device.replication_ip.len()) + brackets(&|d| &d.device.replication_ip);
    let port = widest(4, &|d| d.device.port.to_string().len());
    let rport = widest(4, &|d| d.device.replication_port.to_string().len());
    let weight = widest(6, &|d| format!("{:.2}", d.device.weight).len());
    let mut out = vec![format!(
        "Devices:{:>5} {:>6} {:>4} {:>ip$}:{:<port$} {:>rip$}:{:<rport$} {:>5} {:>weight$} {:>10} {:>7} {:>5} meta",
        "id", "region", "zone", "ip address", "port", "replication ip", "port", "name", "weight", "partitions", "balance", "flags"
    )];
    let mut sorted: Vec<&BuilderDevice> = b.iter().collect();
    sorted.sort_by_key(|d| (d.device.region, d.device.zone, d.device.ip.clone(), d.device.device.clone()));
    let bracketed = |ip: &str| if ip.contains(':') { format!("[{ip}]") } else { ip.to_string() };
    for entry in sorted {
        let d = &entry.device;
        out.push(format!(
            "{:13} {:6} {:4} {:>ip$}:{:<port$} {:>rip$}:{:<rport$} {:>5} {:weight$.2} {:>10} {:7.2} {:>5} {}",
            d.id,
            d.region,
            d.zone,
            bracketed(&d.ip),
            d.port,
            bracketed(&d.replication_ip),
            d.replication_port,
            d.device,
            d.weight,
            entry.parts,
            balance.get(&d.id).copied().unwrap_or(0.0),
            if b.removed.contains(&d.id) { "DEL" } else { "" },
            d.meta
        ));
    }
    out
}
