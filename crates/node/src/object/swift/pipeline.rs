//! `[pipeline:main]`: which filters stand before a server's application, as PasteDeploy reads it.

use super::{Conf, Section};
use caelum_base::{Error, Result};

/// What the options call that make a filter or application, besides `use`.
const FACTORIES: [&str; 4] = ["paste.filter_factory", "paste.app_factory", "paste.filter_app_factory", "paste.composite_factory"];

/// A filter or application of a pipeline.
#[derive(Debug)]
pub struct Entry {
    /// What makes it: `egg:swift#bulk`.
    pub factory: String,
    pub section: Section,
}

impl Entry {
    /// An error that names file, section and filter.
    pub fn error(&self, what: &str) -> Error {
        Error::invalid(format!("{} [{}] {}: {what}", self.section.path.display(), self.section.name, self.factory))
    }

    pub fn unknown(&self) -> Error {
        self.error("this program has no such filter or server")
    }
}

/// A server's pipeline.
#[derive(Debug)]
pub struct Pipeline {
    /// Outermost first.
    pub filters: Vec<Entry>,
    pub app: Entry,
}

impl Pipeline {
    /// Without `[pipeline:main]` it is `[app:main]` alone. Errors: `Invalid` naming file, section and what is missing.
    pub fn read(conf: &Conf) -> Result<Self> {
        let bad = |what: String| Error::invalid(format!("{} {what}", conf.path.display()));
        if !conf.has("pipeline:main") {
            if conf.has("app:main") {
                return Ok(Self { filters: Vec::new(), app: entry(conf, "app", "main")? });
            }
            return Err(bad("has no [pipeline:main]".into()));
        }
        let main = conf.paste("pipeline:main")?;
        let line = main.given("pipeline").ok_or_else(|| bad("[pipeline:main] has no option pipeline".into()))?;
        let mut names: Vec<&str> = line.split_whitespace().collect();
        let app = names.pop().ok_or_else(|| bad("[pipeline:main] pipeline is empty".into()))?;
        let filters = names.into_iter().map(|name| entry(conf, "filter", name)).collect::<Result<_>>()?;
        Ok(Self { filters, app: entry(conf, "app", app)? })
    }
}

fn entry(conf: &Conf, kind: &str, name: &str) -> Result<Entry> {
    // A factory can be named in the pipeline itself; it then has no options of its own.
    if name.starts_with("egg:") {
        return Ok(Entry { factory: name.into(), section: conf.section("DEFAULT")? });
    }
    let section = format!("{kind}:{name}");
    if !conf.has(&section) {
        return Err(Error::invalid(format!("{} [pipeline:main] {name}: there is no section [{section}]", conf.path.display())));
    }
    let section = conf.paste(&section)?;
    let factory = std::iter::once("use").chain(FACTORIES).find_map(|key| section.given(key)).map(str::to_string);
    let missing = || Error::invalid(format!("{} [{}] has no option use", conf.path.display(), section.name));
    Ok(Entry { factory: factory.ok_or_else(missing)?, section })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(text: &str) -> Result<Pipeline> {
        Pipeline::read(&Conf::parse(Path::new("x.conf"), text))
    }

    #[test]
    fn pipelines() {
        let text = "[DEFAULT]\nuser = swift\n[pipeline:main]\npipeline = a\n  b egg:swift#dlo\n proxy\n[filter:a]\nuse = egg:swift#bulk\nx = 1\n\
                    [filter:b]\npaste.filter_factory = keystonemiddleware.auth_token:filter_factory\n[app:proxy]\nuse = egg:swift#proxy\n";
        let p = read(text).unwrap();
        let factories: Vec<&str> = p.filters.iter().map(|e| e.factory.as_str()).collect();
        assert_eq!(factories, ["egg:swift#bulk", "keystonemiddleware.auth_token:filter_factory", "egg:swift#dlo"]);
        let a = &p.filters[0].section;
        assert_eq!((a.get("x"), a.get("user"), p.app.factory.as_str()), (Some("1"), Some("swift"), "egg:swift#proxy"));
    }

    #[test]
    fn what_is_missing_is_named() {
        for (text, want) in [
            ("", "x.conf has no [pipeline:main]"),
            ("[pipeline:main]\n", "x.conf [pipeline:main] has no option pipeline"),
            ("[pipeline:main]\npipeline = a b\n", "x.conf [pipeline:main] a: there is no section [filter:a]"),
            ("[pipeline:main]\npipeline = a\n[app:a]\nx = 1\n", "x.conf [app:a] has no option use"),
        ] {
            assert_eq!(read(text).unwrap_err().message, want);
        }
        let p = read("[pipeline:main]\npipeline = p\n[app:p]\nuse = egg:other#x\n").unwrap();
        assert_eq!(p.app.unknown().message, "x.conf [app:p] egg:other#x: this program has no such filter or server");
    }
}
