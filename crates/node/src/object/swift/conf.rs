use caelum_base::{Error, Result};
use caelum_swiftkit::parse_ini;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A configuration file of Swift's.
pub struct Conf {
    path: PathBuf,
    sections: Vec<(String, Vec<(String, String)>)>,
}

/// The options in force in one section: its own over those of `[DEFAULT]`.
pub struct Section {
    name: String,
    path: PathBuf,
    pub options: Vec<(String, String)>,
}

impl Conf {
    /// Errors: `Unavailable` naming the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::unavailable(format!("cannot read {}: {e}", path.display())))?;
        Ok(Self::parse(path, &text))
    }

    pub fn parse(path: &Path, text: &str) -> Self {
        Self { path: path.into(), sections: parse_ini(text) }
    }

    pub fn has(&self, section: &str) -> bool {
        self.sections.iter().any(|(n, _)| n == section)
    }

    /// Absent sections have the defaults' options.
    pub fn section(&self, name: &str) -> Section {
        let of = |wanted: &str| self.sections.iter().filter(|(n, _)| n == wanted).flat_map(|(_, o)| o.clone()).collect::<Vec<_>>();
        let own = of(name);
        // `set key = value` is how a section overrides a default that has the same name.
        let own = own.into_iter().map(|(k, v)| (k.strip_prefix("set ").map_or(k.clone(), |k| k.trim().to_string()), v));
        Section { name: name.into(), path: self.path.clone(), options: of("DEFAULT").into_iter().chain(own).collect() }
    }

    /// A filter's options without those of `[DEFAULT]`.
    pub fn filter(&self, name: &str) -> Option<Section> {
        let section = format!("filter:{name}");
        let options = self.sections.iter().find(|(n, _)| *n == section).map(|(_, o)| o.clone())?;
        Some(Section { name: section, path: self.path.clone(), options })
    }
}

impl Section {
    pub fn get(&self, key: &str) -> Option<&str> {
        self.options.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub fn str(&self, key: &str, default: &str) -> String {
        self.get(key).unwrap_or(default).to_string()
    }

    pub fn yes(&self, key: &str, default: bool) -> bool {
        self.get(key).map_or(default, |v| ["true", "1", "yes", "on", "t", "y"].iter().any(|t| v.eq_ignore_ascii_case(t)))
    }

    /// Errors: `Invalid` naming file, section and option.
    pub fn number<T: std::str::FromStr>(&self, key: &str, default: T) -> Result<T> {
        let Some(text) = self.get(key) else { return Ok(default) };
        text.parse()
            .map_err(|_| Error::invalid(format!("{} [{}] {key} = {text}: not a number of its kind", self.path.display(), self.name)))
    }

    pub fn seconds(&self, key: &str, default: Duration) -> Result<Duration> {
        let seconds = self.number(key, default.as_secs_f64())?;
        Duration::try_from_secs_f64(seconds)
            .map_err(|_| Error::invalid(format!("{} [{}] {key}: not a time", self.path.display(), self.name)))
    }

    pub fn list(&self, key: &str) -> Option<Vec<String>> {
        let items = |v: &str| v.split(',').map(|i| i.trim().to_string()).filter(|i| !i.is_empty()).collect();
        self.get(key).map(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_over_defaults() {
        let text = "[DEFAULT]\nbind_port = 6200\nmount_check = no\n[app:object-server]\nset mount_check = yes\nnode_timeout = 1.5\nworkers = auto\n";
        let conf = Conf::parse(Path::new("x.conf"), text);
        let s = conf.section("app:object-server");
        assert_eq!((s.number("bind_port", 1).unwrap(), s.yes("mount_check", false)), (6200, true));
        assert_eq!(s.seconds("node_timeout", Duration::ZERO).unwrap(), Duration::from_millis(1500));
        let e = s.number::<u16>("workers", 1).unwrap_err();
        assert!(e.message.contains("x.conf [app:object-server] workers = auto"), "{}", e.message);
        assert!(!conf.section("object-replicator").yes("mount_check", true));
        assert!(s.seconds("bind_port", Duration::ZERO).is_ok() && conf.filter("cache").is_none());
    }
}
