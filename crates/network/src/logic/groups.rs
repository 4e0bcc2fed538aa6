//! Security groups and their rules.

use super::{Caller, State, Work, not_found, quota, sg_rules};
use crate::logic::networks::{check_revision, set};
use crate::store::{self, Rule, SecurityGroup, Std};
use caelum_base::{Error, Result};
use caelum_store::{Query, Stored};
use std::collections::BTreeSet;
use std::sync::Arc;

#[derive(Clone, Debug, Default)]
pub struct GroupInput {
    pub project_id: String,
    pub name: String,
    pub description: String,
    pub stateful: bool,
}

#[derive(Clone, Debug, Default)]
pub struct GroupChange {
    pub name: Option<String>,
    pub description: Option<String>,
    pub stateful: Option<bool>,
    pub if_revision: Option<i64>,
}

/// A rule as its creator wants it; `rule.id`, project and times are filled in here.
#[derive(Clone, Debug)]
pub struct RuleInput {
    pub rule: Rule,
    pub port_min: Option<i64>,
    pub port_max: Option<i64>,
}

/// The project's default group, made when it is not there yet.
pub fn ensure_default(w: &mut Work<'_, '_>, project_id: &str) -> Result<String> {
    let q = Query::new().eq("project_id", project_id).eq("is_default", true);
    if let Some(g) = w.tx.first::<SecurityGroup>(&q)? {
        return Ok(g.value.id);
    }
    let input =
        GroupInput { project_id: project_id.into(), name: "default".into(), description: "Default security group".into(), stateful: true };
    insert_group(w, &input, true).map(|g| g.id)
}

fn insert_group(w: &mut Work<'_, '_>, g: &GroupInput, is_default: bool) -> Result<SecurityGroup> {
    let group = SecurityGroup {
        id: w.st.env.uuid(),
        project_id: g.project_id.clone(),
        name: g.name.clone(),
        is_default,
        stateful: g.stateful,
        std: Std::new(w.now, g.description.clone()),
    };
    w.tx.insert(&group)?;
    for ethertype in ["IPv4", "IPv6"] {
        w.tx.insert(&standard_rule(w.st, &group, "egress", ethertype, None, w.now))?;
        if is_default {
            w.tx.insert(&standard_rule(w.st, &group, "ingress", ethertype, Some(group.id.clone()), w.now))?;
        }
    }
    Ok(group)
}

fn standard_rule(
    st: &State,
    group: &SecurityGroup,
    direction: &str,
    ethertype: &str,
    remote: Option<String>,
    now: caelum_base::Timestamp,
) -> Rule {
    Rule {
        id: st.env.uuid(),
        project_id: group.project_id.clone(),
        security_group_id: group.id.clone(),
        direction: direction.into(),
        ethertype: ethertype.into(),
        protocol: None,
        port_range_min: None,
        port_range_max: None,
        remote_ip_prefix: None,
        remote_group_id: remote,
        std: Std::new(now, String::new()),
    }
}

/// A group the caller may use: its own, or any for an administrator.
pub fn visible(w: &mut Work<'_, '_>, id: &str, who: &Caller) -> Result<Stored<SecurityGroup>> {
    let found = w.tx.get::<SecurityGroup>(id)?;
    let found = match found {
        Some(g) if who.admin || g.project_id == who.project_id => Some(g),
        Some(g) if store::rbac_allows(w.tx, "security_group", &g.id, &who.project_id, "access_as_shared")? => Some(g),
        _ => None,
    };
    found.ok_or_else(|| not_found("security_group", id))
}

/// Everything that must be told to hosts when a group's rules change.
fn touch_members(w: &mut Work<'_, '_>, group_id: &str) -> Result<()> {
    let ports = store::group_ports(w.tx, &[group_id.to_string()])?;
    w.changes.ports.extend(ports);
    Ok(())
}

fn insert_rule(w: &mut Work<'_, '_>, input: &RuleInput, who: &Caller) -> Result<Rule> {
    let mut rule = input.rule.clone();
    let mut group = visible_owned(w, &rule.security_group_id, who)?;
    if let Some(remote) = &rule.remote_group_id {
        visible(w, remote, who)?;
    }
    sg_rules::check(&mut rule, input.port_min, input.port_max)?;
    rule.id = w.st.env.uuid();
    rule.project_id.clone_from(&group.project_id);
    rule.std = Std::new(w.now, rule.std.description.clone());
    quota::require(w.tx, quota::SECURITY_GROUP_RULE, &rule.project_id, 1)?;
    let same = Query::new().eq("security_group_id", rule.security_group_id.as_str()).eq("identity", rule.identity());
    if let Some(existing) = w.tx.first::<Rule>(&same)? {
        let m = format!("Security group rule already exists. Rule id is {}.", existing.id);
        return Err(Error::conflict(m).code("SecurityGroupRuleExists"));
    }
    w.tx.insert(&rule)?;
    group.std.touch(w.now);
    w.tx.update(&mut group)?;
    if let Some(remote) = &rule.remote_group_id {
        w.changes.groups.insert(remote.clone());
    }
    Ok(rule)
}

/// A group the caller may change.
fn visible_owned(w: &mut Work<'_, '_>, id: &str, who: &Caller) -> Result<Stored<SecurityGroup>> {
    let g = w.tx.get::<SecurityGroup>(id)?.filter(|g| who.admin || g.project_id == who.project_id);
    g.ok_or_else(|| not_found("security_group", id))
}

impl State {
    pub async fn group_create(self: &Arc<Self>, inputs: Vec<GroupInput>) -> Result<Vec<SecurityGroup>> {
        self.write(move |w| {
            let mut out = Vec::new();
            for g in &inputs {
                ensure_default(w, &g.project_id)?;
                if g.name.eq_ignore_ascii_case("default") {
                    return Err(Error::conflict("Default security group already exists.").code("SecurityGroupDefaultAlreadyExists"));
                }
                quota::require(w.tx, quota::SECURITY_GROUP, &g.project_id, 1)?;
                out.push(insert_group(w, g, false)?);
            }
            Ok(out)
        })
        .await
    }

    /// Makes the project's default group if need be.
    pub async fn group_ensure_default(self: &Arc<Self>, project_id: String) -> Result<()> {
        let q = Query::new().eq("project_id", project_id.as_str()).eq("is_default", true).limit(1);
        if !self.db.list::<SecurityGroup>(q).await?.is_empty() {
            return Ok(());
        }
        self.write(move |w| ensure_default(w, &project_id).map(drop)).await
    }

    pub async fn group_update(self: &Arc<Self>, id: String, c: GroupChange) -> Result<SecurityGroup> {
        self.write(move |w| {
            let mut g = w.tx.get::<SecurityGroup>(&id)?.ok_or_else(|| not_found("security_group", &id))?;
            check_revision(c.if_revision, &g.std)?;
            if g.is_default && c.name.as_ref().is_some_and(|n| *n != g.name) {
                return Err(Error::conflict("Updating default security group not allowed.").code("SecurityGroupCannotUpdateDefault"));
            }
            if !g.is_default && c.name.as_ref().is_some_and(|n| n.eq_ignore_ascii_case("default")) {
                return Err(Error::conflict("Default security group already exists.").code("SecurityGroupDefaultAlreadyExists"));
            }
            if let Some(stateful) = c.stateful
                && stateful != g.stateful
            {
                if store::group_in_use(w.tx, &id)? {
                    return Err(Error::conflict(format!("Security Group {id} in use.")).code("SecurityGroupInUse"));
                }
                g.stateful = stateful;
            }
            set(&mut g.value.name, &c.name);
            set(&mut g.value.std.description, &c.description);
            g.std.touch(w.now);
            w.tx.update(&mut g)?;
            Ok(g.into_inner())
        })
        .await
    }

    pub async fn group_delete(self: &Arc<Self>, id: String, admin: bool) -> Result<()> {
        self.write(move |w| {
            let g = w.tx.get::<SecurityGroup>(&id)?.ok_or_else(|| not_found("security_group", &id))?;
            if store::group_in_use(w.tx, &id)? {
                return Err(Error::conflict(format!("Security Group {id} in use.")).code("SecurityGroupInUse"));
            }
            if g.is_default && !admin {
                let m = "Insufficient rights for removing default security group.";
                return Err(Error::conflict(m).code("SecurityGroupCannotRemoveDefault"));
            }
            // Rules elsewhere that name the group as their remote go with it.
            let remote = w.tx.list::<Rule>(&Query::new().eq("remote_group_id", id.as_str()))?;
            let touched: BTreeSet<String> = remote.iter().map(|r| r.security_group_id.clone()).collect();
            for r in &remote {
                w.tx.delete(r)?;
            }
            w.tx.delete_where::<Rule>(&Query::new().eq("security_group_id", id.as_str()))?;
            w.tx.delete_where::<store::RbacPolicy>(&Query::new().eq("object_type", "security_group").eq("object_id", id.as_str()))?;
            w.tx.delete(&g)?;
            for t in touched {
                touch_members(w, &t)?;
            }
            w.changes.groups.insert(id.clone());
            Ok(())
        })
        .await
    }

    /// Creates all of the rules or none.
    pub async fn rule_create(self: &Arc<Self>, inputs: Vec<RuleInput>, who: Caller) -> Result<Vec<Rule>> {
        self.write(move |w| {
            let mut out = Vec::new();
            let mut groups = BTreeSet::new();
            for i in &inputs {
                groups.insert(i.rule.security_group_id.clone());
                out.push(insert_rule(w, i, &who)?);
            }
            if groups.len() > 1 {
                let m = "Only allowed to update rules for one security group at a time";
                return Err(Error::invalid(m).code("SecurityGroupNotSingleGroupRules"));
            }
            for g in groups {
                touch_members(w, &g)?;
            }
            Ok(out)
        })
        .await
    }

    pub async fn rule_delete(self: &Arc<Self>, id: String) -> Result<()> {
        self.write(move |w| {
            let r = w.tx.get::<Rule>(&id)?.ok_or_else(|| not_found("security_group_rule", &id))?;
            if let Some(mut g) = w.tx.get::<SecurityGroup>(&r.security_group_id)? {
                g.std.touch(w.now);
                w.tx.update(&mut g)?;
            }
            w.tx.delete(&r)?;
            touch_members(w, &r.security_group_id)
        })
        .await
    }
}
