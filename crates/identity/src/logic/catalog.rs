//! The service catalog as tokens carry it.

use crate::store::{CatalogService, Endpoint, EndpointGroup, Region};
use crate::token::Scope;
use caelum_base::Result;
use caelum_store::{Dir, Query, Tx, params};
use serde_json::{Value, json};

/// Services with their endpoints and what limits them to projects; read once per epoch.
#[derive(Default)]
pub struct CatalogRows {
    services: Vec<CatalogService>,
    endpoints: Vec<Endpoint>,
    groups: Vec<EndpointGroup>,
    /// `(kind, id, project)` of the endpoint filter.
    links: Vec<(String, String, String)>,
}

impl CatalogRows {
    pub fn read(tx: &mut Tx<'_>) -> Result<Self> {
        let services = tx.list::<CatalogService>(&Query::new().sort("type", Dir::Asc))?;
        let endpoints = tx.list::<Endpoint>(&Query::new().sort("interface", Dir::Asc))?;
        let groups = tx.list::<EndpointGroup>(&Query::new())?;
        let links = tx.query("SELECT kind, id, project_id FROM endpoint_projects", &[])?;
        Ok(Self {
            services: services.into_iter().map(|s| s.value).filter(|s| s.enabled).collect(),
            endpoints: endpoints.into_iter().map(|e| e.value).filter(|e| e.enabled).collect(),
            groups: groups.into_iter().map(|g| g.value).collect(),
            links: links.iter().map(|r| Ok((r.text("kind")?, r.text("id")?, r.text("project_id")?))).collect::<Result<_>>()?,
        })
    }

    /// Ids of the endpoints a project is limited to; `None` when nothing limits it.
    fn limited(&self, project_id: &str) -> Option<Vec<&str>> {
        let mine: Vec<_> = self.links.iter().filter(|(_, _, p)| p == project_id).collect();
        if mine.is_empty() {
            return None;
        }
        let mut out = Vec::new();
        for (kind, id, _) in mine {
            if kind == "endpoint" {
                out.push(id.as_str());
                continue;
            }
            let group = self.groups.iter().find(|g| g.id == *id);
            out.extend(self.endpoints.iter().filter(|e| group.is_some_and(|g| in_group(e, g))).map(|e| e.id.as_str()));
        }
        Some(out)
    }

    /// The `catalog` array for a scope.
    pub fn view(&self, user_id: &str, scope: &Scope) -> Value {
        let project_id = match scope {
            Scope::Project(id) => Some(id.as_str()),
            Scope::Unscoped | Scope::Domain(_) | Scope::System => None,
        };
        let limited = project_id.and_then(|p| self.limited(p));
        let mut out = Vec::new();
        for s in &self.services {
            let mut endpoints = Vec::new();
            for e in self.endpoints.iter().filter(|e| e.service_id == s.id) {
                if limited.as_ref().is_some_and(|l| !l.contains(&e.id.as_str())) {
                    continue;
                }
                let Some(url) = substitute(&e.url, project_id, user_id) else { continue };
                endpoints.push(json!({"id": e.id, "interface": e.interface, "region_id": e.region_id, "region": e.region_id, "url": url}));
            }
            if !endpoints.is_empty() || limited.is_none() {
                out.push(json!({"id": s.id, "type": s.kind, "name": s.name, "endpoints": endpoints}));
            }
        }
        Value::Array(out)
    }
}

/// Whether an endpoint fits a group's filters.
pub fn in_group(e: &Endpoint, g: &EndpointGroup) -> bool {
    g.filters.iter().all(|(k, v)| {
        let wanted = v.as_str();
        match k.as_str() {
            "service_id" => wanted == Some(e.service_id.as_str()),
            "interface" => wanted == Some(e.interface.as_str()),
            "region_id" => wanted == e.region_id.as_deref(),
            "enabled" => v.as_bool() == Some(e.enabled),
            _ => false,
        }
    })
}

/// Replaces `$(project_id)s`, `%(tenant_id)s` and the like; `None` when a place cannot be filled.
pub fn substitute(url: &str, project_id: Option<&str>, user_id: &str) -> Option<String> {
    let mut out = String::with_capacity(url.len() + 32);
    let mut rest = url;
    while let Some(at) = rest.find(['$', '%']) {
        let (head, tail) = rest.split_at(at);
        out.push_str(head);
        let place = tail.get(1..).and_then(|t| t.strip_prefix('(')).and_then(|t| t.split_once(")s"));
        let Some((key, after)) = place else {
            out.push_str(tail.get(..1)?);
            rest = tail.get(1..)?;
            continue;
        };
        match key {
            "project_id" | "tenant_id" => out.push_str(project_id?),
            "user_id" => out.push_str(user_id),
            _ => return None,
        }
        rest = after;
    }
    out.push_str(rest);
    Some(out)
}

/// Whether a URL's places are ones the catalog can fill.
pub fn valid_template(url: &str) -> bool {
    substitute(url, Some("p"), "u").is_some()
}

/// Makes a region that an old-style `region` attribute names.
pub fn ensure_region(tx: &mut Tx<'_>, id: &str) -> Result<()> {
    if tx.get::<Region>(id)?.is_none() {
        tx.insert(&Region { id: id.to_string(), parent_region_id: None, description: String::new(), extra: serde_json::Map::new() })?;
    }
    Ok(())
}

/// Removes endpoints and what refers to them.
pub fn drop_endpoint(tx: &mut Tx<'_>, id: &str) -> Result<()> {
    tx.exec("DELETE FROM endpoint_projects WHERE kind = 'endpoint' AND id = $1", params![id])?;
    tx.delete_id::<Endpoint>(id).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_the_places_of_urls() {
        let f = |u| substitute(u, Some("P"), "U");
        assert_eq!(f("http://h/v3/$(project_id)s").as_deref(), Some("http://h/v3/P"));
        assert_eq!(f("http://h/%(tenant_id)s/$(user_id)s/x").as_deref(), Some("http://h/P/U/x"));
        assert_eq!(f("http://h/100%25").as_deref(), Some("http://h/100%25"));
        assert_eq!(f("http://h/$(password)s"), None);
        assert_eq!(substitute("http://h/$(project_id)s", None, "U"), None);
    }
}
