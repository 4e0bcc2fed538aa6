//! The query language of `GET /allocation_candidates` and `GET /resource_providers`.

use caelum_base::{Error, Result, is_uuid};
use caelum_rest::QueryParams;
use std::collections::BTreeMap;

/// Trait conditions: each inner list of `any` must be met by at least one trait; none of `forbidden` may be there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traits {
    pub any: Vec<Vec<String>>,
    pub forbidden: Vec<String>,
}

/// Aggregate conditions: in at least one of each inner list of `any`, in none of `forbidden`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Members {
    pub any: Vec<Vec<String>>,
    pub forbidden: Vec<String>,
}

/// One request group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    pub resources: BTreeMap<String, i64>,
    pub traits: Traits,
    pub members: Members,
    pub in_tree: Option<String>,
}

/// A whole candidates request; the group without suffix has the key "".
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    pub groups: BTreeMap<String, Group>,
    pub isolate: bool,
    pub limit: Option<usize>,
    pub root: Traits,
    /// Suffixes whose providers must share an ancestor among themselves.
    pub same_subtree: Vec<Vec<String>>,
}

/// `VCPU:2,MEMORY_MB:512`.
pub fn resources(text: &str) -> Result<BTreeMap<String, i64>> {
    let mut out = BTreeMap::new();
    for part in text.split(',') {
        let (class, amount) = part.split_once(':').ok_or_else(|| {
            Error::invalid(format!(
                "Badly formed resources parameter. Expected resources query string in form: ?resources=VCPU:2,MEMORY_MB:1024. Got: {text}"
            ))
        })?;
        let amount: i64 = amount
            .parse()
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| Error::invalid(format!("Requested resource {class} expected positive integer amount. Got: {amount}.")))?;
        if out.insert(class.to_string(), amount).is_some() {
            return Err(Error::invalid(format!("Resource class {class} is named twice.")));
        }
    }
    Ok(out)
}

impl Traits {
    /// Adds one `required` value: `A,!B` or, since 1.39, `in:A,B`.
    pub fn add(&mut self, text: &str) -> Result<()> {
        if let Some(list) = text.strip_prefix("in:") {
            let names: Vec<String> = list.split(',').map(String::from).collect();
            if names.iter().any(|n| n.is_empty() || n.starts_with('!')) {
                return Err(Error::invalid(format!("Invalid query string parameters: '{text}' is no list of traits.")));
            }
            self.any.push(names);
            return Ok(());
        }
        for name in text.split(',') {
            match name.strip_prefix('!') {
                Some(n) if !n.is_empty() => self.forbidden.push(n.to_string()),
                None if !name.is_empty() => self.any.push(vec![name.to_string()]),
                _ => {
                    return Err(Error::invalid(format!(
                        "Invalid query string parameters: Expected 'required' parameter value of the form: HW_CPU_X86_VMX,CUSTOM_MAGIC. Got: {text}"
                    )));
                }
            }
        }
        match self.any.iter().find(|a| a.len() == 1 && self.forbidden.contains(&a[0])) {
            Some(both) => Err(Error::invalid(format!("Conflicting required and forbidden traits found: {}", both[0]))),
            None => Ok(()),
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.any.iter().flatten().chain(&self.forbidden)
    }

    pub fn admit(&self, have: &[String]) -> bool {
        self.any.iter().all(|alternatives| alternatives.iter().any(|t| have.contains(t)))
            && !self.forbidden.iter().any(|t| have.contains(t))
    }
}

impl Members {
    /// Adds one `member_of` value: `UUID`, `in:A,B`, `!UUID`, `!in:A,B`.
    pub fn add(&mut self, text: &str) -> Result<()> {
        let (negative, rest) = text.strip_prefix('!').map_or((false, text), |r| (true, r));
        let list = rest.strip_prefix("in:").unwrap_or(rest);
        let ids: Vec<String> = list.split(',').map(String::from).collect();
        if ids.iter().any(|i| !is_uuid(i)) || (ids.len() > 1 && !rest.starts_with("in:")) {
            return Err(Error::invalid("Invalid query string parameters: Expected 'member_of' parameter to contain valid UUID(s)."));
        }
        if negative {
            self.forbidden.extend(ids);
        } else {
            self.any.push(ids);
        }
        Ok(())
    }

    pub fn admit(&self, have: &[String]) -> bool {
        self.any.iter().all(|alternatives| alternatives.iter().any(|a| have.contains(a)))
            && !self.forbidden.iter().any(|a| have.contains(a))
    }
}

fn suffix_of<'k>(key: &'k str, name: &str) -> Option<&'k str> {
    let rest = key.strip_prefix(name)?;
    let plain = rest.len() <= 64 && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    plain.then_some(rest)
}

impl Request {
    /// Errors: `Invalid` for anything unknown or malformed.
    pub fn parse(q: &QueryParams) -> Result<Self> {
        let mut out = Self::default();
        for (key, value) in q.iter() {
            out.take(key, value)?;
        }
        if out.groups.values().all(|g| g.resources.is_empty()) {
            return Err(Error::invalid("At least one request group (`resources` or `resources{$S}`) is required.")
                .code("placement.query.missing_value"));
        }
        let empty =
            out.groups.iter().find(|(suffix, g)| g.resources.is_empty() && !out.same_subtree.iter().flatten().any(|s| s == *suffix));
        if let Some((suffix, _)) = empty {
            return Err(Error::invalid(format!(
                "All traits, member_of and in_tree parameters must be associated with resources: group '{suffix}' has none."
            )));
        }
        let numbered = out.groups.keys().filter(|k| !k.is_empty()).count();
        if numbered > 1 && q.get("group_policy").is_none() {
            return Err(Error::invalid(
                "The \"group_policy\" parameter is required when specifying more than one \"resources{N}\" parameter.",
            ));
        }
        Ok(out)
    }

    fn take(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "limit" => {
                let n: usize = value
                    .parse()
                    .ok()
                    .filter(|n| *n > 0)
                    .ok_or_else(|| Error::invalid("Invalid query string parameters: limit must be a positive integer"))?;
                self.limit = Some(n);
            }
            "group_policy" => match value {
                "isolate" => self.isolate = true,
                "none" => {}
                _ => return Err(Error::invalid("Invalid query string parameters: group_policy must be none or isolate")),
            },
            "root_required" => self.root.add(value)?,
            "same_subtree" => self.same_subtree.push(value.split(',').map(String::from).collect()),
            _ => {
                if let Some(s) = suffix_of(key, "resources") {
                    self.groups.entry(s.to_string()).or_default().resources = resources(value)?;
                } else if let Some(s) = suffix_of(key, "required") {
                    self.groups.entry(s.to_string()).or_default().traits.add(value)?;
                } else if let Some(s) = suffix_of(key, "member_of") {
                    self.groups.entry(s.to_string()).or_default().members.add(value)?;
                } else if let Some(s) = suffix_of(key, "in_tree") {
                    self.groups.entry(s.to_string()).or_default().in_tree = Some(value.to_string());
                } else {
                    return Err(Error::invalid(format!(
                        "Invalid query string parameters: Additional properties are not allowed ('{key}' was unexpected)"
                    )));
                }
            }
        }
        Ok(())
    }
}
