//! Commands that change or look for devices.

use super::address::{Change, Search, new_device, show};
use super::options::{DEVICE_OPTIONS, Options};
use super::{DONE, Outcome, Run, float};
use crate::python;
use crate::runtime::Device;

const UNCHANGED: &str = "The on-disk ring builder is unchanged.";

impl Run<'_, '_> {
    fn options(&self) -> Result<Options, String> {
        Options::parse(DEVICE_OPTIONS, self.args)
    }

    pub(super) fn add(&mut self) -> Outcome {
        self.need(2, "add ")?;
        if self.builder.next_part_power.is_some() {
            return Err("Partition power increase in progress. You need \nto finish the increase first before adding devices.".into());
        }
        for mut d in self.new_devices()? {
            let same = |o: &&crate::builder::BuilderDevice| is_same_place(&o.device, &d);
            if let Some(other) = self.builder.iter().find(same) {
                return Err(format!("{}\n{UNCHANGED}\n", taken(&other.device)));
            }
            d.id = self.builder.add(d.clone());
            self.terminal.say(format!("Device {} with {} weight got id {}", show(&d), python::float(d.weight), d.id));
        }
        self.save()
    }

    fn new_devices(&mut self) -> Result<Vec<Device>, String> {
        let options = self.options()?;
        let unchanged = |e: String| format!("{e}\n{UNCHANGED}");
        if options.args.is_empty() {
            return Ok(vec![options.new_device().map_err(unchanged)?]);
        }
        if options.names_devices() || !options.args.len().is_multiple_of(2) {
            return self.usage("add ");
        }
        let mut out = Vec::new();
        for pair in options.args.chunks_exact(2) {
            let (mut d, no_region) = new_device(&pair[0]).map_err(unchanged)?;
            if no_region {
                self.terminal.warn(format!("WARNING: No region specified for {}. Defaulting to region 1.\n", pair[0]));
            }
            d.weight = float(&pair[1]).map_err(unchanged)?;
            if d.weight < 0.0 {
                return Err(unchanged(format!("Invalid weight value: {}", pair[0])));
            }
            out.push(d);
        }
        Ok(out)
    }

    /// Searches with the new value for what each finds: pairs of short form and value, or options and one
    /// value.
    fn pairs(&self, command: &str) -> Result<(Vec<(Search, String)>, bool), String> {
        self.need(2, command)?;
        let options = self.options()?;
        let yes = options.flag("yes");
        if options.names_devices() {
            let [value] = options.args.as_slice() else { return self.usage(command) };
            return Ok((vec![(options.search()?, value.clone())], yes));
        }
        if !options.args.len().is_multiple_of(2) {
            return self.usage(command);
        }
        let pair = |p: &[String]| Ok((Search::parse(&p[0])?, p[1].clone()));
        Ok((options.args.chunks_exact(2).map(pair).collect::<Result<_, String>>()?, yes))
    }

    /// The ids of what a search finds; more than one needs the operator's consent.
    fn chosen(&mut self, searches: &[Search], yes: bool, what: &str, abort: &str) -> Result<Vec<u32>, String> {
        let found: Vec<Device> = searches.iter().flat_map(|s| s.find(&self.builder)).map(|d| d.device.clone()).collect();
        if found.is_empty() {
            return Err(format!("Search value matched 0 devices.\n{UNCHANGED}"));
        }
        if found.len() > 1 {
            self.terminal.say("Matched more than one device:");
            for d in &found {
                self.terminal.say(format!("    {}", show(d)));
            }
            if !yes {
                let question = format!("Are you sure you want to {what} these {} devices? (y/N) ", found.len());
                let _ = write!(self.terminal.out, "{question}").and_then(|()| self.terminal.out.flush());
                if (self.terminal.answer)().as_deref().map(str::trim) != Some("y") {
                    return Err(abort.to_string());
                }
            }
        }
        Ok(found.into_iter().map(|d| d.id).collect())
    }

    fn set(&mut self, command: &str, what: &str, apply: &dyn Fn(&mut Device, &str) -> Result<String, String>) -> Outcome {
        let (pairs, yes) = self.pairs(command)?;
        for (search, value) in pairs {
            let question = format!("update the {what} for");
            for id in self.chosen(&[search], yes, &question, "Aborting device modifications")? {
                let mut shown = Ok(String::new());
                self.builder.change(id, what, |d| shown = apply(d, &value)).map_err(|e| e.message)?;
                let shown = shown?;
                if let Some(d) = self.builder.device(id) {
                    self.terminal.say(format!("{} {what} set to {shown}", show(&d.device)));
                }
            }
        }
        self.save()
    }

    pub(super) fn set_weight(&mut self) -> Outcome {
        self.set("set_weight", "weight", &|d, text| {
            let weight = float(text)?;
            if weight < 0.0 {
                return Err(format!("Invalid weight value: {text}"));
            }
            d.weight = weight;
            Ok(python::float(weight))
        })
    }

    pub(super) fn set_region(&mut self) -> Outcome {
        self.set("set_region", "region", &|d, text| {
            d.region = int(text)?;
            Ok(d.region.to_string())
        })
    }

    pub(super) fn set_zone(&mut self) -> Outcome {
        self.set("set_zone", "zone", &|d, text| {
            d.zone = int(text)?;
            Ok(d.zone.to_string())
        })
    }

    pub(super) fn set_info(&mut self) -> Outcome {
        self.need(2, "set_info")?;
        let options = self.options()?;
        let yes = options.flag("yes");
        let pairs: Vec<(Search, Change)> = if options.names_devices() {
            vec![(options.search()?, options.change()?)]
        } else if options.args.len().is_multiple_of(2) {
            let pair = |p: &[String]| Ok((Search::parse(&p[0])?, Change::parse(&p[1])?));
            options.args.chunks_exact(2).map(pair).collect::<Result<_, String>>()?
        } else {
            return self.usage("set_info");
        };
        for (search, change) in pairs {
            for id in self.chosen(&[search], yes, "update the info for", "Aborting device modifications")? {
                let Some(before) = self.builder.device(id).map(|d| d.device.clone()) else { continue };
                let mut after = before.clone();
                change.apply(&mut after);
                let clash = |o: &&crate::builder::BuilderDevice| o.device.id != id && is_same_place(&o.device, &after);
                if let Some(other) = self.builder.iter().find(clash) {
                    return Err(taken(&other.device));
                }
                self.builder.change_info(id, |d| change.apply(d));
                self.terminal.say(format!("Device {} is now {}", show(&before), show(&after)));
            }
        }
        self.save()
    }

    /// Searches without values.
    fn searches(&self, command: &str) -> Result<(Vec<Search>, bool), String> {
        self.need(1, command)?;
        let options = self.options()?;
        let yes = options.flag("yes");
        if options.args.is_empty() {
            return Ok((vec![options.search()?], yes));
        }
        if options.names_devices() {
            return self.usage(command);
        }
        Ok((options.args.iter().map(|a| Search::parse(a)).collect::<Result<_, _>>()?, yes))
    }

    pub(super) fn remove(&mut self) -> Outcome {
        self.need(1, "remove")?;
        if self.builder.next_part_power.is_some() {
            return Err("Partition power increase in progress. You need \nto finish the increase first before removing devices.".into());
        }
        let (searches, yes) = self.searches("remove")?;
        for id in self.chosen(&searches, yes, "remove", "Aborting device removals")? {
            self.builder.remove(id);
            if let Some(d) = self.builder.device(id) {
                let text = format!("{} marked for removal and will be removed next rebalance.", show(&d.device));
                self.terminal.say(text);
            }
        }
        self.save()
    }

    pub(super) fn search(&mut self) -> Outcome {
        let (searches, _) = self.searches("search")?;
        let [search] = searches.as_slice() else { return self.usage("search") };
        let ids: Vec<u32> = search.find(&self.builder).iter().map(|d| d.device.id).collect();
        if ids.is_empty() {
            return Err("No matching devices found".into());
        }
        let balance = self.builder.balance_per_device().map_err(|e| e.message)?;
        self.terminal.say(
            "Devices:    id  region  zone      ip address  port  replication ip  replication port      name weight partitions \
             balance meta",
        );
        for (id, balance) in balance.into_iter().filter(|(id, _)| ids.contains(id)) {
            let Some(b) = self.builder.device(id) else { continue };
            let d = &b.device;
            self.terminal.say(format!(
                "         {:5} {:7} {:5} {:>15} {:5} {:>15} {:17} {:>9} {:6.2} {:10} {balance:7.2} {}",
                d.id, d.region, d.zone, d.ip, d.port, d.replication_ip, d.replication_port, d.device, d.weight, b.parts, d.meta
            ));
        }
        Ok(DONE)
    }

    pub(super) fn list_parts(&mut self) -> Outcome {
        self.need(1, "list_parts")?;
        if self.builder.assignment.is_empty() {
            return Err(not_balanced(&self.builder_file));
        }
        let (searches, _) = self.searches("list_parts")?;
        let ids: Vec<u32> = searches.iter().flat_map(|s| s.find(&self.builder)).map(|d| d.device.id).collect();
        let mut matches = vec![0_usize; self.builder.parts()];
        let mut met = Vec::new();
        for row in &self.builder.assignment {
            for (part, _) in row.iter().enumerate().filter(|(_, id)| ids.contains(id)) {
                if matches[part] == 0 {
                    met.push(part);
                }
                matches[part] += 1;
            }
        }
        // Among equals the order of replicas, then of partitions: upstream's.
        let mut found: Vec<(usize, usize)> = met.into_iter().map(|part| (part, matches[part])).collect();
        if found.is_empty() {
            return Err("No matching devices found".into());
        }
        found.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        self.terminal.say("Partition   Matches");
        for (part, n) in found {
            self.terminal.say(format!("{part:9}   {n:7}"));
        }
        Ok(DONE)
    }
}

pub(super) fn not_balanced(file: &std::path::Path) -> String {
    format!("Specified builder file \"{}\" is not rebalanced yet. Please rebalance first.", file.display())
}

fn is_same_place(a: &Device, b: &Device) -> bool {
    a.ip == b.ip && a.port == b.port && a.device == b.device
}

fn taken(d: &Device) -> String {
    format!("Device {} already uses {}:{}/{}.", d.id, d.ip, d.port, d.device)
}

fn int(text: &str) -> Result<u32, String> {
    text.trim().parse().map_err(|_| format!("invalid literal for int() with base 10: {}", caelum_swiftkit::python::repr(text)))
}
