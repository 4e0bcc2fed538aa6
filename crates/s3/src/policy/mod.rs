//! Bucket policies: who may do what with a bucket and its objects, under which conditions. Source: Amazon's reference
//! of the policy language, and of S3's actions and condition keys.
//!
//! What a policy says that this module does not understand is refused when the policy is stored, so that no stored
//! policy means less, or more, than it says.

mod conditions;

use caelum_object::env::Caller;
use conditions::Condition;
use serde_json::Value;
use std::collections::HashMap;

/// Longest policy in bytes, as stored on one line.
pub const MAX_POLICY: usize = 7_000;
const MAX_STATEMENTS: usize = 50;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    Deny,
    /// No statement is about the request.
    Silent,
}

#[derive(Clone, Debug, PartialEq)]
enum Principal {
    Anybody,
    /// A whole project, by id.
    Project(String),
    /// A user of any project, or of one.
    User {
        project: Option<String>,
        user: String,
    },
}

#[derive(Clone, Debug)]
struct Statement {
    allows: bool,
    principals: Vec<Principal>,
    is_not_principal: bool,
    actions: Vec<String>,
    is_not_action: bool,
    resources: Vec<String>,
    is_not_resource: bool,
    conditions: Vec<Condition>,
}

/// A policy that has been understood.
#[derive(Clone, Debug)]
pub struct Policy(Vec<Statement>);

/// What conditions are about: keys in lower case, with their values.
pub type Facts = HashMap<String, Vec<String>>;

/// What a request wants to do.
pub struct Question<'a> {
    pub caller: Option<&'a Caller>,
    /// `s3:GetObject`
    pub action: &'a str,
    /// `arn:aws:s3:::bucket/key`
    pub resource: &'a str,
    pub facts: &'a Facts,
}

/// Whether `pattern`, with `*` and `?`, matches the whole text. Takes time in the product of both lengths at most.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut pi, mut ti, mut star) = (0, 0, None);
    while ti < t.len() {
        if pi < p.len() && p[pi] == '*' {
            star = Some((pi, ti));
            pi += 1;
        } else if pi < p.len() && (p[pi] == '?' || p[pi] == t[ti]) {
            pi += 1;
            ti += 1;
        } else if let Some((sp, st)) = star {
            pi = sp + 1;
            ti = st + 1;
            star = Some((sp, st + 1));
        } else {
            return false;
        }
    }
    p[pi..].iter().all(|c| *c == '*')
}

fn texts(v: &Value, what: &str) -> Result<Vec<String>, String> {
    let one = |v: &Value| v.as_str().map(str::to_string).ok_or_else(|| format!("{what} must be text"));
    let all = match v {
        Value::Array(list) => list.iter().map(one).collect::<Result<Vec<_>, _>>()?,
        v => vec![one(v)?],
    };
    if all.is_empty() { Err(format!("{what} is empty")) } else { Ok(all) }
}

/// `*`, a project's id, `arn:aws:iam::<project>:root`, `arn:aws:iam::<project>:user/<user id>`.
fn principal(text: &str) -> Result<Principal, String> {
    if text == "*" {
        return Ok(Principal::Anybody);
    }
    let bad = || format!("Invalid principal in policy: {text}");
    let Some(arn) = text.strip_prefix("arn:aws:iam::") else {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        return if plain { Ok(Principal::Project(text.into())) } else { Err(bad()) };
    };
    let (project, who) = arn.split_once(':').ok_or_else(bad)?;
    if who == "root" && !project.is_empty() {
        return Ok(Principal::Project(project.into()));
    }
    let user = who.strip_prefix("user/").filter(|u| !u.is_empty() && !u.contains('*')).ok_or_else(bad)?;
    Ok(Principal::User { project: (!project.is_empty()).then(|| project.to_string()), user: user.into() })
}

fn principals(v: &Value) -> Result<Vec<Principal>, String> {
    if v.as_str() == Some("*") {
        return Ok(vec![Principal::Anybody]);
    }
    let map = v.as_object().ok_or("Invalid principal in policy")?;
    let mut out = Vec::new();
    for (kind, names) in map {
        if !matches!(kind.as_str(), "AWS" | "CanonicalUser") {
            return Err(format!("Invalid principal in policy: {kind}"));
        }
        for name in texts(names, "Principal")? {
            out.push(principal(&name)?);
        }
    }
    if out.is_empty() { Err("Missing required field Principal".into()) } else { Ok(out) }
}

fn resource(text: &str, bucket: &str) -> Result<String, String> {
    let path = text.strip_prefix("arn:aws:s3:::").ok_or_else(|| format!("Policy has invalid resource: {text}"))?;
    let named = path.split('/').next().unwrap_or_default();
    // A policy speaks of its own bucket only.
    if named != bucket && !matches(named, bucket) { Err(format!("Policy has invalid resource: {text}")) } else { Ok(text.to_string()) }
}

/// One of a field and its negation.
fn either<'a>(s: &'a serde_json::Map<String, Value>, name: &str) -> Result<(&'a Value, bool), String> {
    match (s.get(name), s.get(&format!("Not{name}"))) {
        (Some(v), None) => Ok((v, false)),
        (None, Some(v)) => Ok((v, true)),
        _ => Err(format!("Missing required field {name}")),
    }
}

fn statement(v: &Value, bucket: &str) -> Result<Statement, String> {
    let s = v.as_object().ok_or("Statement must be an object")?;
    const FIELDS: &[&str] = &["Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition"];
    if let Some(odd) = s.keys().find(|k| !FIELDS.contains(&k.as_str())) {
        return Err(format!("Unknown field {odd}"));
    }
    let allows = match s.get("Effect").and_then(Value::as_str) {
        Some("Allow") => true,
        Some("Deny") => false,
        _ => return Err("Invalid effect".into()),
    };
    let (who, is_not_principal) = either(s, "Principal")?;
    if is_not_principal && allows {
        return Err("Allow with NotPrincipal is not allowed".into());
    }
    let (what, is_not_action) = either(s, "Action")?;
    let (which, is_not_resource) = either(s, "Resource")?;
    let actions: Vec<String> = texts(what, "Action")?.into_iter().map(|a| a.to_lowercase()).collect();
    if let Some(odd) = actions.iter().find(|a| *a != "*" && !a.starts_with("s3:")) {
        return Err(format!("Policy has invalid action: {odd}"));
    }
    Ok(Statement {
        allows,
        principals: principals(who)?,
        is_not_principal,
        actions,
        is_not_action,
        resources: texts(which, "Resource")?.iter().map(|r| resource(r, bucket)).collect::<Result<_, _>>()?,
        is_not_resource,
        conditions: s.get("Condition").map_or(Ok(Vec::new()), conditions::parse)?,
    })
}

impl Policy {
    /// Errors: what is wrong with it, for the client.
    pub fn parse(text: &str, bucket: &str) -> Result<Self, String> {
        if text.len() > MAX_POLICY {
            return Err(format!("Policies are limited to {MAX_POLICY} bytes"));
        }
        let v: Value = serde_json::from_str(text).map_err(|_| "Policies must be valid JSON and the first byte must be '{'")?;
        let map = v.as_object().ok_or("Policies must be valid JSON and the first byte must be '{'")?;
        if !matches!(map.get("Version").and_then(Value::as_str), None | Some("2012-10-17" | "2008-10-17")) {
            return Err("The policy must contain a valid version string".into());
        }
        if let Some(odd) = map.keys().find(|k| !matches!(k.as_str(), "Version" | "Id" | "Statement")) {
            return Err(format!("Unknown field {odd}"));
        }
        let list = match map.get("Statement") {
            Some(Value::Array(list)) => list.iter().collect(),
            Some(one @ Value::Object(_)) => vec![one],
            _ => return Err("Missing required field Statement".into()),
        };
        if list.is_empty() || list.len() > MAX_STATEMENTS {
            return Err("Policy must have 1 to 50 statements".into());
        }
        list.into_iter().map(|s| statement(s, bucket)).collect::<Result<_, _>>().map(Self)
    }

    /// An explicit denial wins over everything.
    pub fn decide(&self, q: &Question<'_>) -> Verdict {
        let mut verdict = Verdict::Silent;
        for s in self.0.iter().filter(|s| s.is_about(q)) {
            if !s.allows {
                return Verdict::Deny;
            }
            verdict = Verdict::Allow;
        }
        verdict
    }

    /// Whether some statement allows anything to everybody without a condition.
    pub fn is_public(&self) -> bool {
        self.0.iter().any(|s| s.allows && s.conditions.is_empty() && s.principals.contains(&Principal::Anybody))
    }

    /// Whether a condition needs the tags of the object that is there.
    pub fn asks_for_object_tags(&self) -> bool {
        self.0.iter().flat_map(|s| &s.conditions).any(|c| c.key.starts_with("s3:existingobjecttag/"))
    }
}

impl Principal {
    fn is(&self, caller: Option<&Caller>) -> bool {
        // Projects and users are told by ids: names are not unique among domains. Tempauth's callers have only names.
        let project = |c: &Caller| c.project_id.clone().or_else(|| c.user_id.split_once(':').map(|(p, _)| p.to_string()));
        match (self, caller) {
            (Self::Anybody, _) => true,
            (_, None) => false,
            (Self::Project(p), Some(c)) => project(c).as_deref() == Some(p.as_str()),
            (Self::User { project: p, user }, Some(c)) => {
                let is_user = *user == c.user_id || c.user_id.split_once(':').is_some_and(|(_, u)| u == user && p.is_some());
                is_user && p.as_ref().is_none_or(|p| project(c).as_deref() == Some(p.as_str()))
            }
        }
    }
}

impl Statement {
    fn is_about(&self, q: &Question<'_>) -> bool {
        let action = q.action.to_lowercase();
        (self.principals.iter().any(|p| p.is(q.caller)) != self.is_not_principal)
            && (self.actions.iter().any(|a| matches(a, &action)) != self.is_not_action)
            && (self.resources.iter().any(|r| matches(r, q.resource)) != self.is_not_resource)
            && self.conditions.iter().all(|c| c.holds(q.facts))
    }
}

#[cfg(test)]
mod tests;
