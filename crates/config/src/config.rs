//! Loading the layers and reading the result.

use crate::schema::{Kind, Opt, Schema, did_you_mean};
use crate::value::Value;
use caelum_base::{Error, Result, Secret};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;
use toml::de::{DeTable, DeValue};

/// Names the file itself, so it cannot be an option in it.
const FILE_VARIABLE: &str = "CAELUM_CONFIG";

/// Where values come from, passed in whole.
#[derive(Clone, Default)]
pub struct Layers {
    /// `(name, value)` pairs; the last of a name counts.
    pub cli: Vec<(String, String)>,
    /// The environment. Only `CAELUM_*` is looked at; `CAELUM_CONFIG` is left to the caller.
    pub env: Vec<(String, String)>,
    /// Path (for messages) and text of the TOML file.
    pub file: Option<(String, String)>,
}

impl Layers {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn cli(mut self, pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        self.cli.extend(pairs);
        self
    }

    #[must_use]
    pub fn env(mut self, pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        self.env.extend(pairs);
        self
    }

    #[must_use]
    pub fn file(mut self, path: impl Into<String>, text: impl Into<String>) -> Self {
        self.file = Some((path.into(), text.into()));
        self
    }
}

/// The layer a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Default,
    File { path: String, line: usize },
    Env,
    Cli,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "file {path}:{line}"),
            Self::Env => f.write_str("env"),
            Self::Cli => f.write_str("cli"),
        }
    }
}

/// One line of [`Config::show`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub name: &'static str,
    /// Secrets are masked.
    pub value: String,
    pub source: Source,
}

/// Every declared option with its value. Secrets stay hidden in `Debug`.
#[derive(Clone, Debug)]
pub struct Config {
    values: BTreeMap<&'static str, (Value, Source)>,
}

impl Schema {
    /// Loads all layers. The error lists every problem, one per line.
    pub fn load(&self, layers: &Layers) -> Result<Config> {
        let mut loader = Loader { schema: self, values: BTreeMap::new(), problems: Vec::new() };
        for opt in self.by_name.values() {
            loader.set(opt, opt.default, Source::Default, "default");
        }
        if let Some((path, text)) = &layers.file {
            loader.file(path, text);
        }
        loader.env(&layers.env);
        loader.cli(&layers.cli);
        if loader.problems.is_empty() { Ok(Config { values: loader.values }) } else { Err(Error::invalid(loader.problems.join("\n"))) }
    }
}

struct Loader<'s> {
    schema: &'s Schema,
    values: BTreeMap<&'static str, (Value, Source)>,
    problems: Vec<String>,
}

impl Loader<'_> {
    fn set(&mut self, opt: &Opt, text: &str, source: Source, place: &str) {
        match Value::parse(opt.kind, text) {
            Ok(value) => {
                self.values.insert(opt.name, (value, source));
            }
            Err(form) => self.problems.push(format!("{place}: {} must be {form}", opt.name)),
        }
    }

    fn unknown(&mut self, place: &str, name: &str) {
        let hint = did_you_mean(name, self.schema.by_name.keys().copied());
        self.problems.push(format!("{place}: there is no option {name}{hint}"));
    }

    fn cli(&mut self, pairs: &[(String, String)]) {
        for (name, text) in pairs {
            match self.schema.by_name.get(name.as_str()).copied() {
                Some(opt) if opt.kind == Kind::SecretStr => self.problems.push(format!(
                    "command line: {} is a secret, which other processes could read there; set it in the file or as {}",
                    opt.name,
                    opt.env_name()
                )),
                Some(opt) => self.set(&opt, text, Source::Cli, "command line"),
                None => self.unknown("command line", name),
            }
        }
    }

    fn env(&mut self, pairs: &[(String, String)]) {
        for (variable, text) in pairs {
            if !variable.starts_with("CAELUM_") || variable == FILE_VARIABLE {
                continue;
            }
            let opt = self.schema.by_env.get(variable).and_then(|name| self.schema.by_name.get(name)).copied();
            match opt {
                Some(opt) => self.set(&opt, text, Source::Env, &format!("environment variable {variable}")),
                None => {
                    let hint = did_you_mean(variable, self.schema.by_env.keys().map(String::as_str));
                    self.problems.push(format!("environment variable {variable}: there is no such option{hint}"));
                }
            }
        }
    }

    fn file(&mut self, path: &str, text: &str) {
        let lines = Lines { path, text };
        match DeTable::parse(text) {
            Ok(table) => self.table(&lines, "", table.get_ref()),
            // Only the message: the parser's full report quotes the line, which may hold a secret.
            Err(e) => {
                let at = e.span().map_or(0, |s| s.start);
                self.problems.push(format!("{path}:{}: {}", lines.number(at), e.message()));
            }
        }
    }

    fn table(&mut self, lines: &Lines<'_>, prefix: &str, table: &DeTable<'_>) {
        for (key, value) in table.iter() {
            let name = if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
            let line = lines.number(key.span().start);
            let place = format!("{}:{line}", lines.path);
            let opt = self.schema.by_name.get(name.as_str()).copied();
            match (opt, value.get_ref()) {
                (Some(opt), value) => match file_text(opt.kind, value) {
                    Some(FileValue::Text(text)) => {
                        let source = Source::File { path: lines.path.to_owned(), line };
                        self.set(&opt, &text, source, &place);
                    }
                    Some(FileValue::List(items)) => {
                        let source = Source::File { path: lines.path.to_owned(), line };
                        self.values.insert(opt.name, (Value::List(items), source));
                    }
                    None => self.problems.push(format!("{place}: {} must be {}", opt.name, opt.kind.form())),
                },
                (None, DeValue::Table(inner)) if self.schema.section_use(&name).is_some() || !inner.is_empty() => {
                    self.table(lines, &name, inner);
                }
                (None, _) => self.unknown(&place, &name),
            }
        }
    }
}

enum FileValue {
    Text(String),
    List(Vec<String>),
}

/// The text of a TOML value if its type suits the kind.
fn file_text(kind: Kind, value: &DeValue<'_>) -> Option<FileValue> {
    let text = match (kind, value) {
        (Kind::Int { .. }, DeValue::String(_)) => return None,
        (_, DeValue::String(s)) => s.to_string(),
        (Kind::Int { .. } | Kind::Size | Kind::Duration, DeValue::Integer(n)) => {
            i64::from_str_radix(n.as_str(), n.radix()).ok()?.to_string()
        }
        (Kind::Bool, DeValue::Boolean(b)) => b.to_string(),
        (Kind::Bool, DeValue::Integer(n)) => n.as_str().to_owned(),
        (Kind::List, DeValue::Array(items)) => {
            let items = items.iter().map(|i| match i.get_ref() {
                DeValue::String(s) => Some(s.to_string()),
                _ => None,
            });
            return items.collect::<Option<Vec<_>>>().map(FileValue::List);
        }
        _ => return None,
    };
    Some(FileValue::Text(text))
}

struct Lines<'t> {
    path: &'t str,
    text: &'t str,
}

impl Lines<'_> {
    fn number(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
    }
}

impl Config {
    fn value(&self, name: &str) -> &Value {
        match self.values.get(name) {
            Some((value, _)) => value,
            None => panic!("option {name} is read but not declared"),
        }
    }

    fn text(&self, name: &str) -> &str {
        match self.value(name) {
            Value::Text(s) => s,
            _ => panic!("option {name} is read as a text but declared otherwise"),
        }
    }

    /// A text or a word of an enumeration.
    pub fn str(&self, name: &str) -> &str {
        self.text(name)
    }

    /// `None` if the text is empty.
    pub fn opt_str(&self, name: &str) -> Option<&str> {
        Some(self.text(name)).filter(|s| !s.is_empty())
    }

    pub fn path(&self, name: &str) -> &Path {
        Path::new(self.text(name))
    }

    /// `None` if the path is empty.
    pub fn opt_path(&self, name: &str) -> Option<&Path> {
        self.opt_str(name).map(Path::new)
    }

    pub fn int(&self, name: &str) -> i64 {
        match self.value(name) {
            Value::Int(n) => *n,
            _ => panic!("option {name} is read as an integer but declared otherwise"),
        }
    }

    pub fn bool(&self, name: &str) -> bool {
        match self.value(name) {
            Value::Bool(b) => *b,
            _ => panic!("option {name} is read as a boolean but declared otherwise"),
        }
    }

    /// Bytes.
    pub fn size(&self, name: &str) -> u64 {
        match self.value(name) {
            Value::Bytes(n) => *n,
            _ => panic!("option {name} is read as a size but declared otherwise"),
        }
    }

    pub fn duration(&self, name: &str) -> Duration {
        match self.value(name) {
            Value::Duration(d) => *d,
            _ => panic!("option {name} is read as a duration but declared otherwise"),
        }
    }

    pub fn list(&self, name: &str) -> &[String] {
        match self.value(name) {
            Value::List(items) => items,
            _ => panic!("option {name} is read as a list but declared otherwise"),
        }
    }

    /// Empty if unset.
    pub fn secret(&self, name: &str) -> &Secret<String> {
        match self.value(name) {
            Value::Secret(s) => s,
            _ => panic!("option {name} is read as a secret but declared otherwise"),
        }
    }

    /// All options in order of name, secrets masked.
    pub fn show(&self) -> Vec<Row> {
        let row = |(name, (value, source)): (&&'static str, &(Value, Source))| Row { name, value: value.show(), source: source.clone() };
        self.values.iter().map(row).collect()
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
