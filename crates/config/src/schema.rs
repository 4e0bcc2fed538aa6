//! The declared options: their check, their documentation, and the nearest name to a wrong one.

use crate::value::Value;
use caelum_base::{Error, Result};
use std::collections::BTreeMap;

/// What an option holds, and so which texts it accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Str,
    /// Both bounds are allowed values.
    Int {
        min: i64,
        max: i64,
    },
    Bool,
    /// Bytes: `10G`, `512MiB`, `4096`. Units are powers of 1024.
    Size,
    /// `500ms`, `30s`, `5m`, `2h`, `7d`; a bare number is seconds.
    Duration,
    Enum(&'static [&'static str]),
    Path,
    /// A TOML array of strings, elsewhere separated by commas.
    List,
    /// A secret; masked in listings and refused on the command line, which others can read.
    SecretStr,
}

impl Kind {
    /// The allowed form, for errors and documentation.
    pub(crate) fn form(self) -> String {
        match self {
            Self::Str => "a text".into(),
            Self::Int { min: i64::MIN, max: i64::MAX } => "an integer".into(),
            Self::Int { min, max: i64::MAX } => format!("an integer of at least {min}"),
            Self::Int { min, max } => format!("an integer from {min} to {max}"),
            Self::Bool => "one of true, false, yes, no, on, off, 1, 0".into(),
            Self::Size => "a size such as 4096, 512M or 10G".into(),
            Self::Duration => "a duration such as 500ms, 30s, 5m, 2h or 7d".into(),
            Self::Enum(allowed) => format!("one of {}", allowed.join(", ")),
            Self::Path => "a path".into(),
            Self::List => "a list of texts".into(),
            Self::SecretStr => "a text (secret)".into(),
        }
    }
}

/// One declared option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opt {
    /// Dotted, lower case: `store.url`.
    pub name: &'static str,
    pub kind: Kind,
    /// In the text form of the kind; empty means unset where the kind allows it.
    pub default: &'static str,
    pub help: &'static str,
}

impl Opt {
    pub const fn new(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Self {
        Self { name, kind, default, help }
    }

    /// `CAELUM_STORE_URL` for `store.url`.
    pub fn env_name(&self) -> String {
        format!("CAELUM_{}", self.name.replace('.', "_").to_ascii_uppercase())
    }

    fn section_and_key(&self) -> (&'static str, &'static str) {
        self.name.rsplit_once('.').unwrap_or(("", self.name))
    }
}

/// All options of a binary.
#[derive(Clone, Debug)]
pub struct Schema {
    pub(crate) by_name: BTreeMap<&'static str, Opt>,
    pub(crate) by_env: BTreeMap<String, &'static str>,
}

impl Schema {
    /// Joins the crates' declarations and checks them: names, defaults, and that no two options
    /// share a name or an environment variable.
    pub fn new(groups: Vec<&'static [Opt]>) -> Result<Self> {
        let mut schema = Self { by_name: BTreeMap::new(), by_env: BTreeMap::new() };
        for opt in groups.into_iter().flatten() {
            let bad = |why: &str| Err(Error::invalid(format!("option {}: {why}", opt.name)));
            let segment_ok = |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if !opt.name.split('.').all(segment_ok) {
                return bad("the name must be lower case words, digits and _ joined by dots");
            }
            if let Err(form) = Value::parse(opt.kind, opt.default) {
                return bad(&format!("the default must be {form}"));
            }
            if schema.by_name.insert(opt.name, *opt).is_some() {
                return bad("it is declared twice");
            }
            if let Some(other) = schema.by_env.insert(opt.env_name(), opt.name) {
                return bad(&format!("it shares its environment variable with {other}"));
            }
        }
        for name in schema.by_name.keys() {
            if let Some(other) = schema.section_use(name) {
                return Err(Error::invalid(format!("option {name}: it is also the section of {other}")));
            }
        }
        Ok(schema)
    }

    /// An option below the section `name`.
    pub(crate) fn section_use(&self, name: &str) -> Option<&'static str> {
        self.by_name.keys().find(|k| k.strip_prefix(name).is_some_and(|r| r.starts_with('.'))).copied()
    }

    pub fn options(&self) -> impl Iterator<Item = &Opt> {
        self.by_name.values()
    }

    /// Options by section; the options of no section come first.
    fn sections(&self) -> BTreeMap<&'static str, Vec<&Opt>> {
        let mut out: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for opt in self.by_name.values() {
            out.entry(opt.section_and_key().0).or_default().push(opt);
        }
        out
    }

    /// A reference page of all options.
    pub fn docs_markdown(&self) -> String {
        let cell = |s: &str| s.replace('|', "\\|").replace('\n', " ");
        let mut out = String::from("# Options\n");
        for (section, opts) in self.sections() {
            let title = if section.is_empty() { "General" } else { section };
            out.push_str(&format!("\n## {title}\n\n| Option | Value | Default | Environment | Meaning |\n|---|---|---|---|---|\n"));
            for opt in opts {
                let default = if opt.default.is_empty() { "unset".into() } else { format!("`{}`", cell(opt.default)) };
                let (form, help) = (cell(&opt.kind.form()), cell(opt.help));
                out.push_str(&format!("| `{}` | {form} | {default} | `{}` | {help} |\n", opt.name, opt.env_name()));
            }
        }
        out
    }

    /// A commented file with every option at its default.
    pub fn sample_toml(&self) -> String {
        let mut out = String::new();
        for (section, opts) in self.sections() {
            if !section.is_empty() {
                out.push_str(&format!("[{section}]\n"));
            }
            for opt in opts {
                for line in opt.help.lines() {
                    out.push_str(&format!("# {line}\n"));
                }
                out.push_str(&format!("# Value: {}.\n", opt.kind.form()));
                out.push_str(&format!("#{} = {}\n\n", opt.section_and_key().1, toml_default(opt)));
            }
        }
        out
    }
}

fn toml_default(opt: &Opt) -> String {
    match Value::parse(opt.kind, opt.default) {
        Ok(Value::Int(n)) => n.to_string(),
        Ok(Value::Bool(b)) => b.to_string(),
        Ok(Value::List(items)) => {
            let items: Vec<String> = items.iter().map(|i| toml_text(i)).collect();
            format!("[{}]", items.join(", "))
        }
        _ => toml_text(opt.default),
    }
}

fn toml_text(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// ` (did you mean X?)` for the nearest of `names`, or nothing if none is near.
pub(crate) fn did_you_mean<'n>(wrong: &str, names: impl Iterator<Item = &'n str>) -> String {
    if wrong.len() > 128 {
        return String::new();
    }
    let near = names.map(|n| (distance(wrong, n), n)).min().filter(|(d, _)| *d <= (wrong.len() / 3).max(2));
    near.map_or_else(String::new, |(_, name)| format!(" (did you mean {name}?)"))
}

/// Edit distance: insertions, deletions and replacements of characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replace = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn text(name: &'static str) -> Opt {
        Opt::new(name, Kind::Str, "", "Help.")
    }

    #[test]
    fn faulty_declarations_are_refused() {
        static GOOD: [Opt; 2] = [text("a.b"), text("top")];
        static TWICE: [Opt; 1] = [text("a.b")];
        static SAME_ENV: [Opt; 1] = [text("a_b")];
        static PREFIX: [Opt; 1] = [text("a")];
        static UPPER: [Opt; 1] = [text("A.c")];
        static EMPTY: [Opt; 1] = [text("a..c")];
        static DEFAULT: [Opt; 1] = [Opt::new("n", Kind::Size, "10X", "")];
        assert!(Schema::new(vec![&GOOD]).is_ok());
        let faulty: [&'static [Opt]; 6] = [&TWICE, &SAME_ENV, &PREFIX, &UPPER, &EMPTY, &DEFAULT];
        for bad in faulty {
            let e = Schema::new(vec![&GOOD, bad]).unwrap_err();
            assert!(e.message.starts_with("option "), "{}", e.message);
        }
    }

    #[test]
    fn distances() {
        for (a, b, d) in [("", "abc", 3), ("kitten", "sitting", 3), ("same", "same", 0), ("é", "e", 1)] {
            assert_eq!(distance(a, b), d, "{a} {b}");
        }
        assert_eq!(did_you_mean("store.ulr", ["store.url", "x"].into_iter()), " (did you mean store.url?)");
        assert_eq!(did_you_mean("zzzzzz", ["store.url"].into_iter()), "");
    }
}
