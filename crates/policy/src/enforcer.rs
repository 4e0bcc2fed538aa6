//! Rules by name: defaults, overrides, references, scopes.

use crate::check::Check;
use crate::credentials::{Credentials, Scope};
use crate::target::Target;
use caelum_base::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// Longest chain of nested checks across rule references; bounds the stack of an evaluation.
const MAX_DEPTH: usize = 256;
/// Most checks one evaluation may take; bounds rules that refer to each other many times over.
const MAX_COST: usize = 100_000;

/// A rule as a service registers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleDefault {
    pub name: &'static str,
    pub check: &'static str,
    /// Token scopes the rule can be used with; empty means any, as for helper rules.
    pub scopes: &'static [Scope],
}

impl RuleDefault {
    pub const fn new(name: &'static str, check: &'static str, scopes: &'static [Scope]) -> Self {
        Self { name, check, scopes }
    }

    /// A rule that others refer to and no operation uses itself: `admin_required`.
    pub const fn helper(name: &'static str, check: &'static str) -> Self {
        Self { name, check, scopes: &[] }
    }
}

/// Why a check failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The rule says no, or there is no such rule.
    Rule,
    /// The token's scope is not one the rule can be used with.
    Scope,
}

/// A denial. Converts to a 403; a handler that must not reveal existence answers 404 instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    pub rule: String,
    pub reason: Reason,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            Reason::Rule => write!(f, "Policy doesn't allow {} to be performed.", self.rule),
            Reason::Scope => write!(f, "Policy doesn't allow {} with a token of this scope.", self.rule),
        }
    }
}

impl std::error::Error for Denied {}

impl From<Denied> for Error {
    fn from(denied: Denied) -> Self {
        Self::forbidden(denied.to_string())
    }
}

/// A rule as in force, for listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleInfo<'e> {
    pub name: &'e str,
    /// The check string in force.
    pub check: &'e str,
    pub scopes: &'static [Scope],
    /// The check string comes from the operator.
    pub overridden: bool,
    /// Registered by the service; false for the operator's own helper rules.
    pub registered: bool,
}

#[derive(Debug)]
struct Meta {
    name: String,
    check: String,
    scopes: &'static [Scope],
    overridden: bool,
    registered: bool,
}

/// All rules of one service, compiled. Immutable; reload by building another.
#[derive(Debug)]
pub struct Enforcer {
    by_name: HashMap<String, usize>,
    checks: Vec<Check>,
    meta: Vec<Meta>,
}

impl Enforcer {
    /// Compiles defaults and overrides. An override replaces the check string and keeps the scopes;
    /// one under a new name is a helper rule of the operator. The error names the faulty rule.
    pub fn new(defaults: impl IntoIterator<Item = RuleDefault>, overrides: &BTreeMap<String, String>) -> Result<Self> {
        let mut all: BTreeMap<String, Meta> = BTreeMap::new();
        for d in defaults {
            let meta = Meta { name: d.name.to_owned(), check: d.check.to_owned(), scopes: d.scopes, overridden: false, registered: true };
            if let Some(old) = all.insert(d.name.to_owned(), meta)
                && (old.check != d.check || old.scopes != d.scopes)
            {
                return Err(faulty(d.name, "it is registered twice with different meanings"));
            }
        }
        for (name, check) in overrides {
            match all.get_mut(name) {
                Some(meta) => {
                    meta.check.clone_from(check);
                    meta.overridden = true;
                }
                None => {
                    let (name, check) = (name.clone(), check.clone());
                    all.insert(name.clone(), Meta { name, check, scopes: &[], overridden: true, registered: false });
                }
            }
        }
        Self::compile(all.into_values().collect())
    }

    fn compile(meta: Vec<Meta>) -> Result<Self> {
        let by_name: HashMap<String, usize> = meta.iter().enumerate().map(|(i, m)| (m.name.clone(), i)).collect();
        let mut checks = Vec::with_capacity(meta.len());
        for m in &meta {
            let mut check = Check::parse(&m.check).map_err(|e| faulty(&m.name, &e))?;
            let mut missing = None;
            check.visit_mut(&mut |node| match node {
                Check::Rule { name, index } => {
                    *index = by_name.get(name.as_str()).copied();
                    if index.is_none() && missing.is_none() {
                        missing = Some(name.clone());
                    }
                }
                // The rule that decides is_admin cannot ask for it.
                Check::IsAdmin { index, .. } if m.name != "context_is_admin" => {
                    *index = by_name.get("context_is_admin").copied();
                }
                _ => {}
            });
            if let Some(name) = missing {
                return Err(faulty(&m.name, &format!("it refers to rule:{name}, which does not exist")));
            }
            checks.push(check);
        }
        let mut measure = Measure { checks: &checks, meta: &meta, done: vec![None; checks.len()], open: Vec::new() };
        for i in 0..checks.len() {
            measure.rule(i)?;
        }
        Ok(Self { by_name, checks, meta })
    }

    /// Whether the caller may do what `rule` guards to `target`.
    pub fn check(&self, rule: &str, creds: &Credentials, target: &Target<'_>) -> Result<(), Denied> {
        match self.decide(rule, creds, target) {
            None => Ok(()),
            Some(reason) => Err(Denied { rule: rule.to_owned(), reason }),
        }
    }

    /// As [`Enforcer::check`] for filters and optional fields: no allocation on denial either.
    pub fn allows(&self, rule: &str, creds: &Credentials, target: &Target<'_>) -> bool {
        self.decide(rule, creds, target).is_none()
    }

    fn decide(&self, rule: &str, creds: &Credentials, target: &Target<'_>) -> Option<Reason> {
        let Some(&i) = self.by_name.get(rule) else { return Some(Reason::Rule) };
        let scopes = self.meta[i].scopes;
        if !scopes.is_empty() && !creds.scope().is_some_and(|s| scopes.contains(&s)) {
            return Some(Reason::Scope);
        }
        if self.checks[i].eval(&self.checks, creds, target) { None } else { Some(Reason::Rule) }
    }

    pub fn contains(&self, rule: &str) -> bool {
        self.by_name.contains_key(rule)
    }

    /// All rules in order of name.
    pub fn rules(&self) -> impl Iterator<Item = RuleInfo<'_>> {
        self.meta.iter().map(|m| RuleInfo {
            name: &m.name,
            check: &m.check,
            scopes: m.scopes,
            overridden: m.overridden,
            registered: m.registered,
        })
    }

    /// Overrides that nothing uses: under a name no service registered and no rule refers to.
    /// Usually a misspelt name, so worth a warning at start.
    pub fn unused_overrides(&self) -> Vec<&str> {
        let mut used = vec![false; self.meta.len()];
        for check in &self.checks {
            check.clone().visit_mut(&mut |node| {
                if let Check::Rule { index: Some(i), .. } | Check::IsAdmin { index: Some(i), .. } = node {
                    used[*i] = true;
                }
            });
        }
        let unused = self.meta.iter().zip(used).filter(|(m, used)| !m.registered && !used);
        unused.map(|(m, _)| m.name.as_str()).collect()
    }
}

fn faulty(rule: &str, why: &str) -> Error {
    Error::invalid(format!("policy rule {rule:?}: {why}"))
}

/// Depth and cost of each rule, found depth first; finds cycles on the way.
struct Measure<'c> {
    checks: &'c [Check],
    meta: &'c [Meta],
    done: Vec<Option<(usize, usize)>>,
    open: Vec<usize>,
}

impl Measure<'_> {
    fn rule(&mut self, i: usize) -> Result<(usize, usize)> {
        if let Some(known) = self.done[i] {
            return Ok(known);
        }
        let name = |i: &usize| self.meta[*i].name.as_str();
        if let Some(at) = self.open.iter().position(|o| *o == i) {
            let path: Vec<&str> = self.open[at..].iter().chain([&i]).map(name).collect();
            return Err(faulty(name(&i), &format!("it refers to itself: {}", path.join(" -> "))));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(faulty(name(&i), "its references nest too deeply"));
        }
        self.open.push(i);
        let checks = self.checks;
        let (depth, cost) = self.node(&checks[i])?;
        self.open.pop();
        if depth > MAX_DEPTH {
            return Err(faulty(&self.meta[i].name, "its references nest too deeply"));
        }
        if cost > MAX_COST {
            return Err(faulty(&self.meta[i].name, "it takes too many checks to evaluate"));
        }
        self.done[i] = Some((depth, cost));
        Ok((depth, cost))
    }

    fn node(&mut self, check: &Check) -> Result<(usize, usize)> {
        let (depth, cost) = match check {
            Check::Rule { index: Some(i), .. } | Check::IsAdmin { index: Some(i), .. } => self.rule(*i)?,
            Check::Not(inner) => self.node(inner)?,
            Check::And(all) | Check::Or(all) => {
                let (mut depth, mut cost) = (0, 0usize);
                for c in all {
                    let (d, n) = self.node(c)?;
                    depth = depth.max(d);
                    cost = cost.saturating_add(n);
                }
                (depth, cost)
            }
            _ => (0, 0),
        };
        Ok((depth + 1, cost.saturating_add(1)))
    }
}

#[cfg(test)]
#[path = "enforcer_tests.rs"]
mod tests;
