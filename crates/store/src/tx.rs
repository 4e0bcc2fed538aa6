use crate::query::Builder;
use crate::{Query, Record, Row, Stored, Value, pg, sqlite};
use caelum_base::{Error, Result};
use std::fmt::Write;

pub(crate) enum Conn<'a> {
    Sqlite(&'a rusqlite::Connection),
    Pg(pg::PgTx<'a>),
}

/// A running transaction.
pub struct Tx<'a> {
    pub(crate) conn: Conn<'a>,
    pub(crate) read_only: bool,
    pub(crate) after_commit: Vec<Box<dyn FnOnce() + Send>>,
}

impl Tx<'_> {
    /// All rows of a query. Parameters are `$1`, `$2`, …
    pub fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>> {
        match &mut self.conn {
            Conn::Sqlite(c) => sqlite::query(c, sql, params),
            Conn::Pg(p) => p.query(sql, params),
        }
    }

    /// The first row, if any.
    pub fn query_opt(&mut self, sql: &str, params: &[Value]) -> Result<Option<Row>> {
        Ok(self.query(sql, params)?.into_iter().next())
    }

    /// Runs a statement; returns the number of rows it changed.
    pub fn exec(&mut self, sql: &str, params: &[Value]) -> Result<u64> {
        if self.read_only {
            return Err(Error::internal("write in a read-only transaction"));
        }
        match &mut self.conn {
            Conn::Sqlite(c) => sqlite::exec(c, sql, params),
            Conn::Pg(p) => p.exec(sql, params),
        }
    }

    /// Runs `f` after the commit, before the caller is told. For wake-ups, never for the only copy
    /// of work: a crash between commit and `f` loses it.
    pub fn after_commit(&mut self, f: impl FnOnce() + Send + 'static) {
        self.after_commit.push(Box::new(f));
    }

    fn is_pg(&self) -> bool {
        matches!(self.conn, Conn::Pg(_))
    }

    /// Inserts a record. Errors: `Conflict` (code `duplicate`) when the id or a unique column is
    /// taken; the transaction stays usable.
    pub fn insert<R: Record>(&mut self, record: &R) -> Result<Stored<R>> {
        let t = R::TABLE;
        let mut sql = format!("INSERT INTO {} (id, generation, body", t.name);
        let mut params = vec![record.id().into(), Value::Int(1), body(record)?.into()];
        for c in t.columns {
            let _ = write!(sql, ", {c}");
        }
        params.extend(columns(record)?);
        sql.push_str(") VALUES (");
        for i in 1..=params.len() {
            let _ = write!(sql, "{}${i}", if i > 1 { "," } else { "" });
        }
        sql.push_str(") ON CONFLICT DO NOTHING");
        if self.exec(&sql, &params)? == 0 {
            return Err(Error::conflict(format!("A record in {} with these values exists already.", t.name)).code("duplicate"));
        }
        Ok(Stored { value: record.clone(), generation: 1 })
    }

    pub fn get<R: Record>(&mut self, id: &str) -> Result<Option<Stored<R>>> {
        let sql = format!("SELECT generation, body FROM {} WHERE id = $1", R::TABLE.name);
        self.query_opt(&sql, &[id.into()])?.map(|r| stored(&r)).transpose()
    }

    /// The record, or `NotFound` saying `<what> <id> could not be found.`
    pub fn require<R: Record>(&mut self, what: &str, id: &str) -> Result<Stored<R>> {
        self.get(id)?.ok_or_else(|| Error::not_found(format!("{what} {id} could not be found.")))
    }

    /// Writes a record back. Errors: `Generation` when it changed or went since it was read,
    /// `Conflict` (code `duplicate`) when a unique column is taken.
    pub fn update<R: Record>(&mut self, record: &mut Stored<R>) -> Result<()> {
        let t = R::TABLE;
        let mut sql = format!("UPDATE {} SET generation = $1, body = $2", t.name);
        let mut params = vec![Value::Int(record.generation + 1), body(&record.value)?.into()];
        for (c, v) in t.columns.iter().zip(columns(&record.value)?) {
            params.push(v);
            let _ = write!(sql, ", {c} = ${}", params.len());
        }
        params.push(record.id().into());
        params.push(record.generation.into());
        let _ = write!(sql, " WHERE id = ${} AND generation = ${}", params.len() - 1, params.len());
        if self.exec(&sql, &params)? == 0 {
            return Err(Error::generation(format!("{} was changed by another request.", record.id())));
        }
        record.generation += 1;
        Ok(())
    }

    /// Removes a record that was read. Errors: `Generation` when it changed or went since.
    pub fn delete<R: Record>(&mut self, record: &Stored<R>) -> Result<()> {
        let sql = format!("DELETE FROM {} WHERE id = $1 AND generation = $2", R::TABLE.name);
        if self.exec(&sql, &[record.id().into(), record.generation.into()])? == 0 {
            return Err(Error::generation(format!("{} was changed by another request.", record.id())));
        }
        Ok(())
    }

    /// Removes a record whatever its generation; `false` when it was not there.
    pub fn delete_id<R: Record>(&mut self, id: &str) -> Result<bool> {
        let sql = format!("DELETE FROM {} WHERE id = $1", R::TABLE.name);
        Ok(self.exec(&sql, &[id.into()])? > 0)
    }

    /// Records that match, in order. Errors: `Invalid` when the marker does not exist.
    pub fn list<R: Record>(&mut self, q: &Query) -> Result<Vec<Stored<R>>> {
        let mut out = Vec::new();
        self.each(q, |r| {
            out.push(r);
            Ok(())
        })?;
        if q.reverse {
            out.reverse();
        }
        Ok(out)
    }

    /// Gives the records [`Tx::list`] would return to `f` one by one, so that a long list need not
    /// be in memory; with [`Query::reverse`] from its end.
    pub fn each<R: Record>(&mut self, q: &Query, mut f: impl FnMut(Stored<R>) -> Result<()>) -> Result<()> {
        let (sql, params) = self.select::<R>(q)?;
        match &mut self.conn {
            Conn::Sqlite(c) => sqlite::each(c, &sql, &params, &mut |generation, body| f(read(generation, body)?)),
            Conn::Pg(p) => p.query(&sql, &params)?.iter().try_for_each(|r| f(stored(r)?)),
        }
    }

    fn select<R: Record>(&mut self, q: &Query) -> Result<(String, Vec<Value>)> {
        let t = R::TABLE;
        let head = format!("SELECT generation, body FROM {}", t.name);
        let mut b = Builder::new(&t, head, self.is_pg());
        b.filters(&q.filters)?;
        let keys = b.sort_keys(q)?;
        let mut text = vec![true; keys.len()];
        if let Some(marker) = &q.marker {
            let names: Vec<&str> = keys.iter().map(|(c, _)| *c).collect();
            let sql = format!("SELECT {} FROM {} WHERE id = $1", names.join(", "), t.name);
            let row = self.query_opt(&sql, &[marker.as_str().into()])?;
            let row = row.ok_or_else(|| Error::invalid(format!("marker [{marker}] not found")).code("marker"))?;
            b.after(&keys, &row.values, q.filters.is_empty());
        }
        if self.is_pg() {
            // COLLATE is an error on a number column; the catalogue knows which are text.
            text = keys.iter().map(|(c, _)| self.is_text(t.name, c)).collect::<Result<_>>()?;
        }
        b.order(&keys, &text);
        if let Some(n) = q.limit {
            let _ = write!(b.sql, " LIMIT {n}");
        }
        if let Some(n) = q.offset {
            // SQLite wants a LIMIT before an OFFSET.
            let _ = write!(b.sql, "{} OFFSET {n}", if q.limit.is_none() { " LIMIT 9223372036854775807" } else { "" });
        }
        Ok((b.sql, b.params))
    }

    fn is_text(&mut self, table: &str, column: &str) -> Result<bool> {
        match &mut self.conn {
            Conn::Sqlite(_) => Ok(true),
            Conn::Pg(p) => p.is_text(table, column),
        }
    }

    /// The first match.
    pub fn first<R: Record>(&mut self, q: &Query) -> Result<Option<Stored<R>>> {
        let q = Query { limit: Some(1), ..q.clone() };
        Ok(self.list(&q)?.into_iter().next())
    }

    /// Number of matches; paging is ignored.
    pub fn count<R: Record>(&mut self, q: &Query) -> Result<i64> {
        self.aggregate::<R>("COUNT(*)", q)
    }

    /// Sum of an integer column over the matches; 0 when there are none.
    pub fn sum<R: Record>(&mut self, column: &'static str, q: &Query) -> Result<i64> {
        self.aggregate::<R>(&format!("CAST(COALESCE(SUM({column}), 0) AS BIGINT)"), q)
    }

    fn aggregate<R: Record>(&mut self, what: &str, q: &Query) -> Result<i64> {
        let t = R::TABLE;
        let mut b = Builder::new(&t, format!("SELECT {what} AS n FROM {}", t.name), self.is_pg());
        b.filters(&q.filters)?;
        let row = self.query_opt(&b.sql, &b.params)?;
        row.ok_or_else(|| Error::internal("an aggregate returned no row"))?.int("n")
    }

    /// Removes all matches; returns how many.
    pub fn delete_where<R: Record>(&mut self, q: &Query) -> Result<u64> {
        let t = R::TABLE;
        let mut b = Builder::new(&t, format!("DELETE FROM {}", t.name), self.is_pg());
        b.filters(&q.filters)?;
        self.exec(&b.sql, &b.params)
    }
}

fn body<R: Record>(r: &R) -> Result<String> {
    serde_json::to_string(r).map_err(|e| Error::internal("record does not serialise").caused_by(e))
}

fn columns<R: Record>(r: &R) -> Result<Vec<Value>> {
    let vs = r.columns();
    if vs.len() != R::TABLE.columns.len() {
        return Err(Error::internal(format!("record of {} gives {} columns", R::TABLE.name, vs.len())));
    }
    Ok(vs)
}

fn stored<R: Record>(row: &Row) -> Result<Stored<R>> {
    // Selected in this order by every query of this module.
    let (Some(Value::Int(generation)), Some(Value::Text(body))) = (row.values.first(), row.values.get(1)) else {
        return Err(Error::internal(format!("unexpected row in {}", R::TABLE.name)));
    };
    read(*generation, body)
}

fn read<R: Record>(generation: i64, body: &str) -> Result<Stored<R>> {
    let value = serde_json::from_str(body).map_err(|e| Error::internal(format!("unreadable body in {}", R::TABLE.name)).caused_by(e))?;
    Ok(Stored { value, generation })
}
