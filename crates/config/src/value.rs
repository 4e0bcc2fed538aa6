//! One option's value: its forms in text and how they are printed.

use crate::schema::Kind;
use caelum_base::Secret;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Text(String),
    Int(i64),
    Bool(bool),
    Bytes(u64),
    Duration(Duration),
    List(Vec<String>),
    Secret(Secret<String>),
}

impl Value {
    /// Reads the text form. The error is the allowed form and never repeats the text.
    pub fn parse(kind: Kind, text: &str) -> Result<Self, String> {
        let parsed = match kind {
            Kind::Str | Kind::Path => Some(Self::Text(text.to_owned())),
            Kind::SecretStr => Some(Self::Secret(Secret::new(text.to_owned()))),
            Kind::Enum(allowed) => allowed.contains(&text).then(|| Self::Text(text.to_owned())),
            Kind::Int { min, max } => text.trim().parse().ok().filter(|n| (min..=max).contains(n)).map(Self::Int),
            Kind::Bool => parse_bool(text.trim()).map(Self::Bool),
            Kind::Size => parse_size(text.trim()).map(Self::Bytes),
            Kind::Duration => parse_duration(text.trim()).map(Self::Duration),
            Kind::List => {
                let items = text.split(',').map(str::trim).filter(|s| !s.is_empty());
                Some(Self::List(items.map(str::to_owned).collect()))
            }
        };
        parsed.ok_or_else(|| kind.form())
    }

    /// As printed in listings; a set secret is masked.
    pub fn show(&self) -> String {
        match self {
            Self::Text(s) => s.clone(),
            Self::Int(n) => n.to_string(),
            Self::Bool(b) => b.to_string(),
            Self::Bytes(n) => show_unit(*n, &[("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)], ""),
            Self::Duration(d) if d.subsec_millis() != 0 => format!("{}ms", d.as_millis()),
            Self::Duration(d) => show_unit(d.as_secs(), &[("d", 86_400), ("h", 3_600), ("m", 60)], "s"),
            Self::List(items) => items.join(","),
            Self::Secret(s) if s.expose().is_empty() => String::new(),
            Self::Secret(_) => "***".to_owned(),
        }
    }
}

fn show_unit(n: u64, units: &[(&str, u64)], base: &str) -> String {
    match units.iter().find(|(_, size)| n > 0 && n.is_multiple_of(*size)) {
        Some((unit, size)) => format!("{}{unit}", n / size),
        None => format!("{n}{base}"),
    }
}

fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim_start()))
}

fn parse_size(text: &str) -> Option<u64> {
    let (n, unit) = split_number(text)?;
    let scale: u64 = match unit {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        _ => return None,
    };
    n.checked_mul(scale)
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (n, unit) = split_number(text)?;
    let secs: u64 = match unit {
        "ms" => return Some(Duration::from_millis(n)),
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    n.checked_mul(secs).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let int = Kind::Int { min: -1, max: 10 };
        for (kind, text, want) in [
            (Kind::Bool, "False", Some("false")),
            (Kind::Bool, "YES", Some("true")),
            (Kind::Bool, "off", Some("false")),
            (Kind::Bool, "1", Some("true")),
            (Kind::Bool, "", None),
            (Kind::Bool, "maybe", None),
            (Kind::Bool, "2", None),
            (int, "-1", Some("-1")),
            (int, " 10 ", Some("10")),
            (int, "11", None),
            (int, "1.5", None),
            (int, "99999999999999999999", None),
            (Kind::Size, "10G", Some("10G")),
            (Kind::Size, "1024", Some("1K")),
            (Kind::Size, "1 MiB", Some("1M")),
            (Kind::Size, "1500", Some("1500")),
            (Kind::Size, "0", Some("0")),
            (Kind::Size, "10g", None),
            (Kind::Size, "-1", None),
            (Kind::Size, "G", None),
            (Kind::Size, "99999999999T", None),
            (Kind::Duration, "5m", Some("5m")),
            (Kind::Duration, "90", Some("90s")),
            (Kind::Duration, "1500ms", Some("1500ms")),
            (Kind::Duration, "2000ms", Some("2s")),
            (Kind::Duration, "7d", Some("7d")),
            (Kind::Duration, "5 weeks", None),
            (Kind::Duration, "99999999999999999d", None),
            (Kind::Enum(&["a", "b"]), "b", Some("b")),
            (Kind::Enum(&["a", "b"]), "B", None),
            (Kind::List, " a, b ,,c ", Some("a,b,c")),
            (Kind::List, "", Some("")),
            (Kind::SecretStr, "hunter2", Some("***")),
            (Kind::SecretStr, "", Some("")),
            (Kind::Str, " kept ", Some(" kept ")),
        ] {
            assert_eq!(Value::parse(kind, text).ok().map(|v| v.show()).as_deref(), want, "{kind:?} {text:?}");
        }
    }
}
