//! Role assignments: who has which role where.

use caelum_base::{Error, Result};
use caelum_store::{Row, Tx, Value, params};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Actor {
    User,
    Group,
}

impl Actor {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group => "group",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    Project,
    Domain,
    System,
}

impl Target {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Domain => "domain",
            Self::System => "system",
        }
    }
}

/// One row: `actor` has `role` on `target`, or on what is below it when `inherited`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Assignment {
    pub actor: Actor,
    pub actor_id: String,
    pub target: Target,
    /// `system` for the system.
    pub target_id: String,
    pub role_id: String,
    pub inherited: bool,
}

fn read(row: &Row) -> Result<Assignment> {
    let actor = match row.text("actor")?.as_str() {
        "user" => Actor::User,
        "group" => Actor::Group,
        other => return Err(Error::internal(format!("assignment of actor {other}"))),
    };
    let target = match row.text("target")?.as_str() {
        "project" => Target::Project,
        "domain" => Target::Domain,
        "system" => Target::System,
        other => return Err(Error::internal(format!("assignment on target {other}"))),
    };
    Ok(Assignment {
        actor,
        actor_id: row.text("actor_id")?,
        target,
        target_id: row.text("target_id")?,
        role_id: row.text("role_id")?,
        inherited: row.bool("inherited")?,
    })
}

/// The assignments table.
pub struct Grants;

impl Grants {
    /// Adds an assignment; one that exists already stays.
    pub fn add(tx: &mut Tx<'_>, a: &Assignment) -> Result<()> {
        tx.exec(
            "INSERT INTO assignments (actor, actor_id, target, target_id, role_id, inherited) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
            params![a.actor.as_str(), &a.actor_id, a.target.as_str(), &a.target_id, &a.role_id, a.inherited],
        )
        .map(drop)
    }

    /// Takes an assignment away; `false` when it was not there.
    pub fn remove(tx: &mut Tx<'_>, a: &Assignment) -> Result<bool> {
        let n = tx.exec(
            "DELETE FROM assignments WHERE actor = $1 AND actor_id = $2 AND target = $3 AND target_id = $4 AND role_id = $5 AND inherited = $6",
            params![a.actor.as_str(), &a.actor_id, a.target.as_str(), &a.target_id, &a.role_id, a.inherited],
        )?;
        Ok(n > 0)
    }

    pub fn exists(tx: &mut Tx<'_>, a: &Assignment) -> Result<bool> {
        let row = tx.query_opt(
            "SELECT 1 AS hit FROM assignments WHERE actor = $1 AND actor_id = $2 AND target = $3 AND target_id = $4 AND role_id = $5 AND inherited = $6",
            params![a.actor.as_str(), &a.actor_id, a.target.as_str(), &a.target_id, &a.role_id, a.inherited],
        )?;
        Ok(row.is_some())
    }

    /// All assignments of these actors.
    pub fn of_actors(tx: &mut Tx<'_>, actors: &[(Actor, String)]) -> Result<Vec<Assignment>> {
        let mut out = Vec::new();
        for (actor, id) in actors {
            let rows =
                tx.query("SELECT * FROM assignments WHERE actor_id = $1 AND actor = $2", &[Value::from(id), actor.as_str().into()])?;
            for r in &rows {
                out.push(read(r)?);
            }
        }
        Ok(out)
    }

    /// Every assignment, in a fixed order.
    pub fn all(tx: &mut Tx<'_>) -> Result<Vec<Assignment>> {
        let mut out: Vec<Assignment> = tx.query("SELECT * FROM assignments", &[])?.iter().map(read).collect::<Result<_>>()?;
        out.sort();
        Ok(out)
    }

    /// Assignments of one role.
    pub fn of_role(tx: &mut Tx<'_>, role_id: &str) -> Result<Vec<Assignment>> {
        tx.query("SELECT * FROM assignments WHERE role_id = $1", params![role_id])?.iter().map(read).collect()
    }

    pub fn drop_actor(tx: &mut Tx<'_>, actor: Actor, id: &str) -> Result<()> {
        tx.exec("DELETE FROM assignments WHERE actor = $1 AND actor_id = $2", params![actor.as_str(), id]).map(drop)
    }

    /// Drops assignments on a project or domain id.
    pub fn drop_target(tx: &mut Tx<'_>, id: &str) -> Result<()> {
        tx.exec("DELETE FROM assignments WHERE target_id = $1", params![id]).map(drop)
    }

    pub fn drop_role(tx: &mut Tx<'_>, id: &str) -> Result<()> {
        tx.exec("DELETE FROM assignments WHERE role_id = $1", params![id]).map(drop)
    }
}
