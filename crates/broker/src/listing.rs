//! Walking rows in the order of their names, rolling names up at a delimiter. Both kinds of database
//! list with it; the SQL stays within the `(deleted, name)` index.

use crate::error::Result;
use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};

/// What to list. Empty texts mean "not given", except that an empty `prefix` or `path` differs from none.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    pub limit: usize,
    pub marker: String,
    pub end_marker: String,
    pub prefix: Option<String>,
    pub delimiter: Option<String>,
    /// Pseudo-directory to list, without what lies deeper. Overrides prefix and delimiter.
    pub path: Option<String>,
    pub reverse: bool,
    /// Also names in the reserved namespace (beginning with NUL).
    pub allow_reserved: bool,
}

/// Where rows come from.
pub(crate) struct Source<'a> {
    pub table: &'a str,
    /// The name first.
    pub columns: &'a str,
    /// SQL conditions beside the name's.
    pub conditions: &'a str,
    pub params: &'a [Value],
}

pub(crate) enum Found<'a, 'r> {
    Row(&'a str, &'a Row<'r>),
    Subdir(&'a str),
}

/// The next possible character after the last one of `text`, so that everything beginning with
/// `text` sorts before the result. `None` when nothing sorts after.
pub(crate) fn successor(text: &str) -> Option<String> {
    let mut chars: Vec<char> = text.chars().collect();
    while let Some(last) = chars.pop() {
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            c => char::from_u32(u32::from(c) + 1),
        };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

/// State of one listing: the bounds move as directories are skipped.
struct Walk<'q> {
    q: &'q Listing,
    prefix: Option<String>,
    end_prefix: Option<String>,
    delimiter: String,
    path: Option<String>,
    marker: String,
    end_marker: String,
    /// The marker is itself still to be listed.
    from_marker: bool,
    first_marker: String,
    count: usize,
}

impl<'q> Walk<'q> {
    fn new(q: &'q Listing) -> Self {
        let (marker, end_marker) =
            if q.reverse { (q.end_marker.clone(), q.marker.clone()) } else { (q.marker.clone(), q.end_marker.clone()) };
        let mut delimiter = q.delimiter.clone().unwrap_or_default();
        let mut prefix = q.prefix.clone();
        let mut path = None;
        if let Some(p) = &q.path {
            let dir = if p.is_empty() { String::new() } else { format!("{}/", p.trim_end_matches('/')) };
            prefix = Some(dir.clone());
            path = Some(dir);
            delimiter = "/".into();
        } else if !delimiter.is_empty() && prefix.is_none() {
            prefix = Some(String::new());
        }
        let end_prefix = prefix.as_deref().filter(|p| !p.is_empty()).and_then(successor);
        Self { q, prefix, end_prefix, delimiter, path, first_marker: marker.clone(), marker, end_marker, from_marker: false, count: 0 }
    }

    fn prefix(&self) -> &str {
        self.prefix.as_deref().unwrap_or("")
    }

    fn sql(&mut self, source: &Source<'_>) -> (String, Vec<Value>) {
        let (mut sql, mut args) = (format!("SELECT {} FROM {} WHERE ", source.columns, source.table), Vec::new());
        let mut name = |op: &str, value: &str| {
            sql.push_str("name ");
            sql.push_str(op);
            sql.push_str(" ? AND ");
            args.push(Value::Text(value.to_string()));
        };
        let prefix = self.prefix.as_deref().unwrap_or("");
        let before_prefix_end = self.end_prefix.as_deref().is_none_or(|e| self.end_marker.as_str() < e);
        if !self.end_marker.is_empty() && before_prefix_end {
            name("<", &self.end_marker);
        } else if let Some(end) = &self.end_prefix {
            name("<", end);
        }
        if std::mem::take(&mut self.from_marker) {
            name(">=", &self.marker);
        } else if !self.marker.is_empty() && self.marker.as_str() >= prefix {
            name(">", &self.marker);
        } else if !prefix.is_empty() {
            name(">=", prefix);
        }
        if !self.q.allow_reserved {
            name(">=", "\u{1}");
        }
        sql.push_str(source.conditions);
        sql.push_str(if self.q.reverse { " ORDER BY name DESC LIMIT ?" } else { " ORDER BY name LIMIT ?" });
        args.extend_from_slice(source.params);
        args.push(Value::Integer(i64::try_from(self.q.limit - self.count).unwrap_or(i64::MAX)));
        (sql, args)
    }

    /// Moves the bound past a directory. False when nothing lies beyond.
    fn skip(&mut self, dir: &str) -> bool {
        if self.q.reverse {
            self.end_marker = dir.to_string();
            return true;
        }
        match successor(dir) {
            Some(next) => {
                self.marker = next;
                true
            }
            None => false,
        }
    }

    /// One query's rows. `Some(true)`: ask again from the new bounds; `Some(false)`: done.
    fn rows(&mut self, c: &Connection, source: &Source<'_>, f: &mut dyn FnMut(Found<'_, '_>) -> Result<()>) -> Result<bool> {
        let (sql, args) = self.sql(source);
        let mut st = c.prepare_cached(&sql)?;
        let mut rows = st.query(params_from_iter(args))?;
        let rolls_up = self.prefix.is_some() && !self.delimiter.is_empty();
        let mut any = false;
        while let Some(row) = rows.next()? {
            any = true;
            let bytes = row.get_ref(0)?.as_bytes().unwrap_or_default();
            let name = crate::container::lossy(bytes);
            if !rolls_up {
                f(Found::Row(&name, row))?;
                continue;
            }
            if self.q.reverse {
                self.end_marker.clear();
                self.end_marker.push_str(&name);
            } else {
                self.marker.clear();
                self.marker.push_str(&name);
            }
            if self.count >= self.q.limit {
                return Ok(false);
            }
            let from = self.prefix().len().min(name.len());
            let end = name.get(from..).and_then(|rest| rest.find(&self.delimiter)).map(|at| from + at + self.delimiter.len());
            match (&self.path, end) {
                (Some(path), _) if *path == *name => continue,
                (Some(_), Some(end)) if name.len() > end => return Ok(self.skip(&name[..end])),
                (Some(_), _) | (None, None) => {}
                (None, Some(end)) => {
                    let dir = &name[..end];
                    let more = self.skip(dir);
                    self.from_marker = !self.q.reverse;
                    if dir != self.first_marker {
                        self.count += 1;
                        f(Found::Subdir(dir))?;
                    }
                    return Ok(more);
                }
            }
            self.count += 1;
            f(Found::Row(&name, row))?;
        }
        Ok(rolls_up && any)
    }
}

/// Calls `f` for each entry in order.
pub(crate) fn walk(c: &Connection, q: &Listing, source: &Source<'_>, f: &mut dyn FnMut(Found<'_, '_>) -> Result<()>) -> Result<()> {
    let mut walk = Walk::new(q);
    while walk.count < q.limit && walk.rows(c, source, f)? {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successors() {
        assert_eq!(successor("a/").as_deref(), Some("a0"));
        assert_eq!(successor("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(successor("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(successor("\u{10ffff}"), None);
    }
}
