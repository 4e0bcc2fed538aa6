//! Filters, sorting and marker paging as one mechanism for every list.

use crate::{Table, Value};
use caelum_base::{Error, Result};
use std::fmt::Write;

/// Sort direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dir {
    Asc,
    Desc,
}

impl Dir {
    /// Parses `asc` or `desc`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "asc" => Some(Self::Asc),
            "desc" => Some(Self::Desc),
            _ => None,
        }
    }
}

/// A condition on a column.
#[derive(Clone, Debug)]
pub enum Filter {
    Eq(&'static str, Value),
    Ne(&'static str, Value),
    In(&'static str, Vec<Value>),
    NotIn(&'static str, Vec<Value>),
    Gt(&'static str, Value),
    Ge(&'static str, Value),
    Lt(&'static str, Value),
    Le(&'static str, Value),
    /// Case-sensitive substring; the text is taken literally.
    Contains(&'static str, String),
    Prefix(&'static str, String),
    IsNull(&'static str),
    NotNull(&'static str),
    /// At least one holds.
    Any(Vec<Filter>),
    /// All hold (for use inside `Any`).
    All(Vec<Filter>),
    /// `table` has a row whose column `on` is this record's id and whose other columns have these
    /// values: lists by tag, property or membership without reading the bodies.
    Exists {
        table: &'static str,
        on: &'static str,
        eq: Vec<(&'static str, Value)>,
    },
}

/// What a list asks for. Without a limit every match is returned.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pub filters: Vec<Filter>,
    pub sort: Vec<(&'static str, Dir)>,
    pub marker: Option<String>,
    pub limit: Option<usize>,
    pub offset: Option<usize>,
    /// Turns the order round and, with a marker, pages backwards (Neutron's `page_reverse`).
    pub reverse: bool,
}

impl Query {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn filter(mut self, f: Filter) -> Self {
        self.filters.push(f);
        self
    }

    #[must_use]
    pub fn eq(self, column: &'static str, value: impl Into<Value>) -> Self {
        self.filter(Filter::Eq(column, value.into()))
    }

    #[must_use]
    pub fn is_in<V: Into<Value>>(self, column: &'static str, values: impl IntoIterator<Item = V>) -> Self {
        self.filter(Filter::In(column, values.into_iter().map(Into::into).collect()))
    }

    #[must_use]
    pub fn sort(mut self, column: &'static str, dir: Dir) -> Self {
        self.sort.push((column, dir));
        self
    }

    #[must_use]
    pub fn limit(mut self, n: usize) -> Self {
        self.limit = Some(n);
        self
    }

    #[must_use]
    pub fn marker(mut self, id: Option<String>) -> Self {
        self.marker = id;
        self
    }
}

/// SQL text and parameters under construction.
pub(crate) struct Builder<'a> {
    table: &'a Table,
    pub sql: String,
    pub params: Vec<Value>,
    /// PostgreSQL compares text by locale unless told `COLLATE "C"`; SQLite compares bytes.
    collate: &'static str,
}

impl<'a> Builder<'a> {
    pub fn new(table: &'a Table, head: String, postgres: bool) -> Self {
        Self { table, sql: head, params: Vec::new(), collate: if postgres { " COLLATE \"C\"" } else { "" } }
    }

    fn column(&self, name: &'static str) -> Result<&'static str> {
        if name == "id" || name == "generation" || self.table.columns.contains(&name) {
            return Ok(name);
        }
        Err(Error::internal(format!("table {} has no column {name}", self.table.name)))
    }

    fn param(&mut self, v: Value) -> usize {
        self.params.push(v);
        self.params.len()
    }

    fn collation(&self, v: &Value) -> &'static str {
        if matches!(v, Value::Text(_)) { self.collate } else { "" }
    }

    pub fn filters(&mut self, filters: &[Filter]) -> Result<()> {
        for (i, f) in filters.iter().enumerate() {
            self.sql.push_str(if i == 0 { " WHERE " } else { " AND " });
            self.filter(f)?;
        }
        Ok(())
    }

    fn group(&mut self, fs: &[Filter], joiner: &str, empty: &str) -> Result<()> {
        if fs.is_empty() {
            self.sql.push_str(empty);
            return Ok(());
        }
        self.sql.push('(');
        for (i, f) in fs.iter().enumerate() {
            if i > 0 {
                self.sql.push_str(joiner);
            }
            self.filter(f)?;
        }
        self.sql.push(')');
        Ok(())
    }

    fn filter(&mut self, f: &Filter) -> Result<()> {
        match f {
            Filter::Eq(c, v) => self.compare(c, "=", v),
            Filter::Ne(c, v) => self.compare(c, "<>", v),
            Filter::Gt(c, v) => self.compare(c, ">", v),
            Filter::Ge(c, v) => self.compare(c, ">=", v),
            Filter::Lt(c, v) => self.compare(c, "<", v),
            Filter::Le(c, v) => self.compare(c, "<=", v),
            Filter::In(c, vs) => self.set(c, "IN", vs, "1=0"),
            Filter::NotIn(c, vs) => self.set(c, "NOT IN", vs, "1=1"),
            Filter::Contains(c, t) => self.like(c, &format!("%{}%", escape_like(t))),
            Filter::Prefix(c, t) => self.like(c, &format!("{}%", escape_like(t))),
            Filter::IsNull(c) => {
                let c = self.column(c)?;
                let _ = write!(self.sql, "{c} IS NULL");
                Ok(())
            }
            Filter::NotNull(c) => {
                let c = self.column(c)?;
                let _ = write!(self.sql, "{c} IS NOT NULL");
                Ok(())
            }
            Filter::Any(fs) => self.group(fs, " OR ", "1=0"),
            Filter::All(fs) => self.group(fs, " AND ", "1=1"),
            Filter::Exists { table, on, eq } => {
                let _ = write!(self.sql, "EXISTS (SELECT 1 FROM {table} x WHERE x.{on} = {}.id", self.table.name);
                for (c, v) in eq {
                    let n = self.param(v.clone());
                    let _ = write!(self.sql, " AND x.{c} = ${n}");
                }
                self.sql.push(')');
                Ok(())
            }
        }
    }

    fn compare(&mut self, c: &'static str, op: &str, v: &Value) -> Result<()> {
        let c = self.column(c)?;
        let collate = if op == "=" || op == "<>" { "" } else { self.collation(v) };
        if *v == Value::Null {
            // `= NULL` is never true in SQL; an explicit null means absent.
            let _ = write!(self.sql, "{c} IS {}NULL", if op == "<>" { "NOT " } else { "" });
            return Ok(());
        }
        let n = self.param(v.clone());
        let _ = write!(self.sql, "{c}{collate} {op} ${n}");
        Ok(())
    }

    fn set(&mut self, c: &'static str, op: &str, vs: &[Value], empty: &str) -> Result<()> {
        let c = self.column(c)?;
        if vs.is_empty() {
            self.sql.push_str(empty);
            return Ok(());
        }
        let _ = write!(self.sql, "{c} {op} (");
        for (i, v) in vs.iter().enumerate() {
            let n = self.param(v.clone());
            let _ = write!(self.sql, "{}${n}", if i > 0 { "," } else { "" });
        }
        self.sql.push(')');
        Ok(())
    }

    fn like(&mut self, c: &'static str, pattern: &str) -> Result<()> {
        let c = self.column(c)?;
        let n = self.param(pattern.into());
        let _ = write!(self.sql, "{c} LIKE ${n} ESCAPE '\\'");
        Ok(())
    }

    /// Sort keys with `id` as the last one, so that the order is total.
    pub fn sort_keys(&self, q: &Query) -> Result<Vec<(&'static str, Dir)>> {
        let mut keys = Vec::with_capacity(q.sort.len() + 1);
        for (c, d) in &q.sort {
            if !keys.iter().any(|(k, _)| k == c) {
                keys.push((self.column(c)?, *d));
            }
        }
        if !keys.iter().any(|(k, _)| *k == "id") {
            keys.push(("id", keys.last().map_or(Dir::Asc, |(_, d)| *d)));
        }
        if q.reverse {
            for (_, d) in &mut keys {
                *d = if *d == Dir::Asc { Dir::Desc } else { Dir::Asc };
            }
        }
        Ok(keys)
    }

    /// Rows strictly after the marker row, whose sort values are `at`.
    pub fn after(&mut self, keys: &[(&'static str, Dir)], at: &[Value], first: bool) {
        self.sql.push_str(if first { " WHERE (" } else { " AND (" });
        for i in 0..keys.len() {
            self.sql.push_str(if i > 0 { " OR (" } else { "(" });
            for (j, ((c, d), v)) in keys.iter().zip(at).enumerate().take(i + 1) {
                let op = match (j == i, d) {
                    (false, _) => "=",
                    (true, Dir::Asc) => ">",
                    (true, Dir::Desc) => "<",
                };
                let collate = if op == "=" { "" } else { self.collation(v) };
                let n = self.param(v.clone());
                let _ = write!(self.sql, "{}{c}{collate} {op} ${n}", if j > 0 { " AND " } else { "" });
            }
            self.sql.push(')');
        }
        self.sql.push(')');
    }

    pub fn order(&mut self, keys: &[(&'static str, Dir)], text: &[bool]) {
        self.sql.push_str(" ORDER BY ");
        for (i, ((c, d), is_text)) in keys.iter().zip(text).enumerate() {
            let collate = if *is_text { self.collate } else { "" };
            let dir = if *d == Dir::Asc { "ASC" } else { "DESC" };
            let _ = write!(self.sql, "{}{c}{collate} {dir}", if i > 0 { ", " } else { "" });
        }
    }
}

fn escape_like(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
