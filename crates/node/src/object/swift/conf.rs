//! Swift's configuration files, read as upstream reads them: servers and filters by PasteDeploy's rules, daemons by
//! those of Python's `configparser`.

use caelum_base::{Error, Result};
use caelum_swiftkit::parse_ini;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// References that one value may lead through (`%(x)s` in a value that another names).
const MAX_DEPTH: usize = 10;
/// Sections that may use one another (`use = NAME`).
const MAX_USES: usize = 5;

/// A configuration file of Swift's.
pub struct Conf {
    pub path: PathBuf,
    sections: Vec<(String, Vec<(String, String)>)>,
}

/// The options in force in one section.
#[derive(Clone, Debug)]
pub struct Section {
    pub name: String,
    pub path: PathBuf,
    pub options: Vec<(String, String)>,
}

impl Conf {
    /// A file, or a directory whose `*.conf` are read one after another. Errors: `Unavailable` naming the file.
    pub fn read(path: &Path) -> Result<Self> {
        let cannot = |e: std::io::Error| Error::unavailable(format!("cannot read {}: {e}", path.display()));
        if !path.is_dir() {
            return Ok(Self::parse(path, &std::fs::read_to_string(path).map_err(cannot)?));
        }
        let mut files = Vec::new();
        for entry in std::fs::read_dir(path).map_err(cannot)? {
            let name = entry.map_err(cannot)?.file_name().to_string_lossy().into_owned();
            if name.ends_with(".conf") && !name.starts_with('.') {
                files.push(path.join(name));
            }
        }
        files.sort();
        let mut sections = Vec::new();
        for file in files {
            sections.append(&mut parse_ini(&std::fs::read_to_string(file).map_err(cannot)?));
        }
        Ok(Self { path: path.into(), sections })
    }

    pub fn parse(path: &Path, text: &str) -> Self {
        Self { path: path.into(), sections: parse_ini(text) }
    }

    pub fn has(&self, section: &str) -> bool {
        self.sections.iter().any(|(n, _)| n == section)
    }

    fn of(&self, section: &str) -> Vec<(String, String)> {
        self.sections.iter().filter(|(n, _)| n == section).flat_map(|(_, o)| o.clone()).collect()
    }

    /// What holds everywhere, with the names that the readers of these files add.
    fn defaults(&self) -> Vec<(String, String)> {
        let here = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        let dir = if self.path.is_dir() { here.clone() } else { here.parent().unwrap_or(Path::new("/")).to_path_buf() };
        let mut out = vec![("here".into(), dir.display().to_string()), ("__file__".into(), here.display().to_string())];
        out.extend(self.of("DEFAULT"));
        out
    }

    fn made(&self, name: &str, options: Vec<(String, String)>, names: &[(String, String)]) -> Result<Section> {
        let filled = |(k, v): &(String, String)| Ok((k.clone(), self.filled(name, k, v, names, 0)?));
        Ok(Section { name: name.into(), path: self.path.clone(), options: options.iter().map(filled).collect::<Result<_>>()? })
    }

    /// A value with its `%(name)s` replaced.
    fn filled(&self, section: &str, key: &str, value: &str, names: &[(String, String)], depth: usize) -> Result<String> {
        if !value.contains("%(") {
            return Ok(value.to_string());
        }
        let bad = |what: &str| Error::invalid(format!("{} [{section}] {key} = {value}: {what}", self.path.display()));
        if depth > MAX_DEPTH {
            return Err(bad("the value refers to itself"));
        }
        let mut out = String::new();
        let mut rest = value;
        while let Some((before, after)) = rest.split_once('%') {
            out.push_str(before);
            if let Some(after) = after.strip_prefix('%') {
                out.push('%');
                rest = after;
                continue;
            }
            let (name, after) =
                after.strip_prefix('(').and_then(|a| a.split_once(")s")).ok_or_else(|| bad("% must be followed by % or (name)s"))?;
            let (_, inner) = names.iter().rev().find(|(k, _)| k == name).ok_or_else(|| bad(&format!("there is no option {name}")))?;
            out.push_str(&self.filled(section, name, inner, names, depth + 1)?);
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }

    /// A daemon's section: its own options over those of `[DEFAULT]`, which alone count when it is absent. Errors:
    /// `Invalid` for references to nothing.
    pub fn section(&self, name: &str) -> Result<Section> {
        let mut all = self.defaults();
        if name != "DEFAULT" {
            all.extend(self.of(name));
        }
        self.made(name, all.clone(), &all)
    }

    /// A section without what `[DEFAULT]` says, to be laid over another. Errors: `Invalid` for references to nothing.
    pub fn own(&self, name: &str) -> Result<Section> {
        let names: Vec<_> = self.defaults().into_iter().chain(self.of(name)).collect();
        self.made(name, self.of(name), &names)
    }

    /// A server's or filter's section. `[DEFAULT]` wins over its own options but for those written `set name = value`;
    /// `use = NAME` takes the options of another section first. Errors: `Invalid` for references to nothing.
    pub fn paste(&self, name: &str) -> Result<Section> {
        let defaults = self.defaults();
        let kind = name.split_once(':').map_or("filter", |(kind, _)| kind);
        let (mut own, mut section) = (Vec::new(), name.to_string());
        for _ in 0..MAX_USES {
            let mut options = self.of(&section);
            let next = options.iter().rev().find(|(k, _)| k == "use").map(|(_, v)| format!("{kind}:{v}"));
            // The used section's options come first: the user's own win over them.
            options.extend(own);
            own = options;
            match next {
                Some(next) if self.has(&next) => {
                    own.retain(|(k, v)| k != "use" || format!("{kind}:{v}") != next);
                    section = next;
                }
                _ => break,
            }
        }
        let names: Vec<_> = defaults.iter().chain(&own).cloned().collect();
        let is_default = |key: &str| defaults.iter().any(|(k, _)| k == key);
        let mut options = defaults.clone();
        options.extend(own.iter().filter(|(k, _)| !k.starts_with("set ") && !is_default(k)).cloned());
        options.extend(own.iter().filter_map(|(k, v)| Some((k.strip_prefix("set ")?.trim().to_string(), v.clone()))));
        self.made(name, options, &names)
    }
}

/// What Swift takes for yes.
fn is_yes(v: &str) -> bool {
    ["true", "1", "yes", "on", "t", "y"].iter().any(|t| v.eq_ignore_ascii_case(t))
}

impl Section {
    pub fn get(&self, key: &str) -> Option<&str> {
        self.options.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The same, with nothing written counting as absent.
    pub fn given(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|v| !v.is_empty())
    }

    pub fn str(&self, key: &str, default: &str) -> String {
        self.get(key).unwrap_or(default).to_string()
    }

    pub fn yes(&self, key: &str, default: bool) -> bool {
        self.get(key).map_or(default, is_yes)
    }

    /// An error about an option, naming file, section and option.
    pub fn bad(&self, key: &str, what: &str) -> Error {
        let value = self.get(key).unwrap_or_default();
        Error::invalid(format!("{} [{}] {key} = {value}: {what}", self.path.display(), self.name))
    }

    /// An error about the section, naming it and its file.
    pub fn about(&self, e: Error) -> Error {
        Error::invalid(format!("{} [{}] {}", self.path.display(), self.name, e.message))
    }

    /// Errors: `Invalid` naming file, section and option.
    pub fn number<T: std::str::FromStr>(&self, key: &str, default: T) -> Result<T> {
        let Some(text) = self.get(key) else { return Ok(default) };
        text.trim().parse().map_err(|_| self.bad(key, "not a number of its kind"))
    }

    pub fn seconds(&self, key: &str, default: Duration) -> Result<Duration> {
        let seconds = self.number(key, default.as_secs_f64())?;
        Duration::try_from_secs_f64(seconds).map_err(|_| self.bad(key, "not a time"))
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
    fn daemons_sections() {
        let text = "[DEFAULT]\nbind_port = 6200\nmount_check = no\nname = d\n[object-replicator]\nmount_check = yes\nnode_timeout = 1.5\n\
                    workers = auto\nreserve = 1%\nlog = %(name)s-%(mount_check)s 5%%\n";
        let conf = Conf::parse(Path::new("x.conf"), text);
        let s = conf.section("object-replicator").unwrap();
        assert_eq!((s.number("bind_port", 1).unwrap(), s.yes("mount_check", false)), (6200, true));
        assert_eq!((s.get("log"), s.get("reserve")), (Some("d-yes 5%"), Some("1%")));
        assert_eq!(s.seconds("node_timeout", Duration::ZERO).unwrap(), Duration::from_millis(1500));
        let e = s.number::<u16>("workers", 1).unwrap_err();
        assert!(e.message.contains("x.conf [object-replicator] workers = auto"), "{}", e.message);
        assert!(!conf.section("absent").unwrap().yes("mount_check", true));
        assert!(s.seconds("bind_port", Duration::ZERO).is_ok());
    }

    /// Values as PasteDeploy 3.1 gives them.
    #[test]
    fn servers_and_filters() {
        let text = "[DEFAULT]\nlog_level = INFO\nuser = swift\n[app:proxy-server]\nuse = egg:swift#proxy\nlog_level = DEBUG\n\
                    set user = root\n[filter:a]\nuse = b\nx = 1\nwho = %(user)s\n[filter:b]\nuse = egg:swift#bulk\nx = 2\ny = 3\n";
        let conf = Conf::parse(Path::new("/etc/swift/x.conf"), text);
        let app = conf.paste("app:proxy-server").unwrap();
        assert_eq!((app.get("log_level"), app.get("user"), app.get("here")), (Some("INFO"), Some("root"), Some("/etc/swift")));
        let a = conf.paste("filter:a").unwrap();
        assert_eq!((a.get("use"), a.get("x"), a.get("y"), a.get("who")), (Some("egg:swift#bulk"), Some("1"), Some("3"), Some("swift")));
        assert!(conf.paste("filter:absent").unwrap().get("use").is_none());
    }

    #[test]
    fn references_that_lead_nowhere() {
        let conf = Conf::parse(Path::new("x.conf"), "[a]\nx = %(y)s\n[b]\nx = %(x)s\n[c]\nx = %(\n");
        for section in ["a", "b", "c"] {
            let e = conf.section(section).unwrap_err();
            assert!(e.message.starts_with(&format!("x.conf [{section}] x = ")), "{}", e.message);
        }
    }
}
