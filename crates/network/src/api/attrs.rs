//! Request bodies: attributes with the conversions clients rely on (`"true"` for true, `"4"` for 4).
//!
//! Every attribute is taken out once; what is left at the end is unknown and refused.

use crate::logic::State;
use crate::logic::net::{invalid_input, parse_ip, parse_mac, parse_prefix};
use crate::store::Route;
use caelum_base::{Error, Result};
use caelum_rest::Ctx;
use ipnet::IpNet;
use serde_json::{Map, Value};
use std::net::IpAddr;

/// Most resources in one bulk request.
const MAX_BULK: usize = 1_000;

/// The attributes of one resource in a request body.
pub struct Attrs {
    map: Map<String, Value>,
}

fn unrecognised(names: &[&str]) -> Error {
    Error::invalid(format!("Unrecognized attribute(s) '{}'", names.join(", "))).code("HTTPBadRequest")
}

fn list_error(field: &str) -> Error {
    invalid_input(field, "it is not a list")
}

impl Attrs {
    pub fn from_value(v: Value) -> Result<Self> {
        match v {
            Value::Object(map) => Ok(Self { map }),
            _ => Err(Error::invalid("Body contains invalid data").code("HTTPBadRequest")),
        }
    }

    /// The one resource of the body, or the list of a bulk request (then `true`).
    pub async fn read(cx: &mut Ctx<State>, singular: &str, plural: &str) -> Result<(Vec<Self>, bool)> {
        let mut body: Map<String, Value> = cx.json().await?;
        if let Some(one) = body.remove(singular) {
            no_more(&body)?;
            return Ok((vec![Self::from_value(one)?], false));
        }
        let Some(Value::Array(many)) = body.remove(plural) else {
            return Err(Error::invalid(format!("Unable to find '{singular}' in request body")).code("HTTPBadRequest"));
        };
        no_more(&body)?;
        if many.is_empty() || many.len() > MAX_BULK {
            return Err(Error::invalid(format!("Resources required: 1 to {MAX_BULK}")).code("HTTPBadRequest"));
        }
        Ok((many.into_iter().map(Self::from_value).collect::<Result<_>>()?, true))
    }

    /// The one resource of the body.
    pub async fn read_one(cx: &mut Ctx<State>, singular: &str) -> Result<Self> {
        let (mut all, bulk) = Self::read(cx, singular, "").await?;
        match all.pop() {
            Some(a) if !bulk => Ok(a),
            _ => Err(Error::invalid("Bulk operation not supported").code("HTTPBadRequest")),
        }
    }

    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub fn peek(&self, key: &str) -> Option<&Value> {
        self.map.get(key)
    }

    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.map.remove(key)
    }

    pub fn keys(&self) -> Vec<String> {
        self.map.keys().cloned().collect()
    }

    /// Refuses attributes nobody took.
    pub fn finish(self) -> Result<()> {
        if self.map.is_empty() {
            return Ok(());
        }
        Err(unrecognised(&self.map.keys().map(String::as_str).collect::<Vec<_>>()))
    }

    /// Refuses an attribute that cannot be changed.
    pub fn frozen(&self, keys: &[&str]) -> Result<()> {
        for k in keys {
            if self.has(k) {
                return Err(Error::invalid(format!("Cannot update read-only attribute {k}")).code("HTTPBadRequest"));
            }
        }
        Ok(())
    }

    pub fn text(&mut self, key: &str, max: usize) -> Result<Option<String>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(s)) if s.contains('\0') => Err(invalid_input(key, "it contains a NUL character")),
            Some(Value::String(s)) if s.chars().count() <= max => Ok(Some(s)),
            Some(Value::String(s)) => {
                let head: String = s.chars().take(64).collect();
                Err(invalid_input(key, format!("'{head}…' exceeds maximum length of {max}")))
            }
            Some(v) => Err(invalid_input(key, format!("'{v}' is not a valid string"))),
        }
    }

    /// A string where null means empty.
    pub fn text_or_null(&mut self, key: &str, max: usize) -> Result<Option<String>> {
        if self.map.get(key) == Some(&Value::Null) {
            self.take(key);
            return Ok(Some(String::new()));
        }
        self.text(key, max)
    }

    /// A string or null.
    pub fn nullable(&mut self, key: &str, max: usize) -> Result<Option<Option<String>>> {
        if self.map.get(key) == Some(&Value::Null) {
            self.take(key);
            return Ok(Some(None));
        }
        Ok(self.text(key, max)?.map(Some))
    }

    pub fn name(&mut self) -> Result<Option<String>> {
        self.text("name", 255)
    }

    pub fn description(&mut self) -> Result<Option<String>> {
        self.text("description", 255)
    }

    /// A string that must be there.
    pub fn required(&mut self, key: &str) -> Result<String> {
        if !self.has(key) {
            let m = format!("Failed to parse request. Required attribute '{key}' not specified");
            return Err(Error::invalid(m).code("HTTPBadRequest"));
        }
        self.text(key, 255)?.ok_or_else(|| invalid_input(key, "'None' is not a valid string"))
    }

    /// An id that must be there and look like one.
    pub fn required_id(&mut self, key: &str) -> Result<String> {
        let id = self.required(key)?;
        check_id(key, &id)?;
        Ok(id)
    }

    /// An id, null, or absent.
    pub fn id_or_null(&mut self, key: &str) -> Result<Option<Option<String>>> {
        let v = self.nullable(key, 64)?;
        if let Some(Some(id)) = &v {
            check_id(key, id)?;
        }
        Ok(v)
    }

    pub fn boolean(&mut self, key: &str) -> Result<Option<bool>> {
        let Some(v) = self.take(key) else { return Ok(None) };
        let text = match &v {
            Value::Bool(b) => return Ok(Some(*b)),
            Value::String(s) => s.to_ascii_lowercase(),
            v => v.to_string(),
        };
        match text.as_str() {
            "true" | "1" => Ok(Some(true)),
            "false" | "0" => Ok(Some(false)),
            _ => Err(invalid_input(key, format!("'{text}' cannot be converted to boolean"))),
        }
    }

    /// An integer; null is absent.
    pub fn integer(&mut self, key: &str) -> Result<Option<i64>> {
        let Some(v) = self.take(key) else { return Ok(None) };
        let n = match &v {
            Value::Null => return Ok(None),
            Value::Number(n) => n.as_i64(),
            Value::String(s) => s.trim().parse().ok(),
            _ => None,
        };
        n.map(Some).ok_or_else(|| invalid_input(key, format!("'{v}' is not an integer")))
    }

    /// A list; null is an empty one.
    pub fn list(&mut self, key: &str, max: usize) -> Result<Option<Vec<Value>>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(Vec::new())),
            // One text stands for a list of one, as upstream reads it.
            Some(Value::String(s)) if max > 0 => Ok(Some(vec![Value::String(s)])),
            Some(Value::Array(v)) if v.len() <= max => Ok(Some(v)),
            Some(Value::Array(_)) => Err(invalid_input(key, format!("it has more than {max} items"))),
            Some(_) => Err(list_error(key)),
        }
    }

    pub fn strings(&mut self, key: &str, max: usize) -> Result<Option<Vec<String>>> {
        let Some(list) = self.list(key, max)? else { return Ok(None) };
        list.into_iter()
            .map(|v| match v {
                Value::String(s) if s.len() <= 255 => Ok(s),
                v => Err(invalid_input(key, format!("'{v}' is not a valid string"))),
            })
            .collect::<Result<_>>()
            .map(Some)
    }

    /// A list of objects.
    pub fn objects(&mut self, key: &str, max: usize) -> Result<Option<Vec<Attrs>>> {
        let Some(list) = self.list(key, max)? else { return Ok(None) };
        list.into_iter()
            .map(|v| Self::from_value(v).map_err(|_| invalid_input(key, "an item is not an object")))
            .collect::<Result<_>>()
            .map(Some)
    }

    pub fn ids(&mut self, key: &str, max: usize) -> Result<Option<Vec<String>>> {
        let ids = self.strings(key, max)?;
        for id in ids.iter().flatten() {
            check_id(key, id)?;
        }
        Ok(ids)
    }

    pub fn ip(&mut self, key: &str) -> Result<Option<IpAddr>> {
        match self.text(key, 64)? {
            None => Ok(None),
            Some(t) => parse_ip(&t).map(Some).ok_or_else(|| invalid_input(key, format!("'{t}' is not a valid IP address"))),
        }
    }

    /// A prefix as written, host bits kept.
    pub fn prefix(&mut self, key: &str) -> Result<Option<IpNet>> {
        let Some(t) = self.text(key, 64)? else { return Ok(None) };
        let bad = || invalid_input(key, format!("'{t}' is not a valid IP subnet"));
        parse_prefix(&t).ok_or_else(bad)?;
        match parse_ip(&t) {
            Some(ip) => Ok(Some(IpNet::from(ip))),
            None => t.parse().map(Some).map_err(|_| bad()),
        }
    }

    pub fn mac(&mut self, key: &str) -> Result<Option<String>> {
        match self.text(key, 32)? {
            None => Ok(None),
            Some(t) => parse_mac(&t).map(Some).ok_or_else(|| invalid_input(key, format!("'{t}' is not a valid MAC address"))),
        }
    }

    pub fn routes(&mut self, key: &str, max: usize) -> Result<Option<Vec<Route>>> {
        let Some(list) = self.objects(key, 4 * max)? else { return Ok(None) };
        let mut out: Vec<Route> = Vec::with_capacity(list.len());
        for mut item in list {
            let missing = || invalid_input(key, "a route needs destination and nexthop");
            let destination = item.prefix("destination")?.ok_or_else(missing)?.trunc();
            let nexthop = item.ip("nexthop")?.ok_or_else(missing)?;
            item.finish()?;
            let r = Route { destination, nexthop };
            if out.contains(&r) {
                return Err(invalid_input(key, format!("Duplicate hostroute '{destination} via {nexthop}'")));
            }
            out.push(r);
        }
        Ok(Some(out))
    }

    /// The project a new resource belongs to. Errors: `Invalid` when somebody else's is named by
    /// one who may not.
    pub fn project(&mut self, cx: &Ctx<State>) -> Result<String> {
        let own = cx.auth().project_id()?.to_string();
        let (tenant, project) = (self.text("tenant_id", 255)?, self.text("project_id", 255)?);
        if let (Some(t), Some(p)) = (&tenant, &project)
            && t != p
        {
            return Err(Error::invalid("'project_id' and 'tenant_id' differ").code("HTTPBadRequest"));
        }
        let wanted = project.or(tenant).unwrap_or_else(|| own.clone());
        if wanted != own && !super::is_admin(cx) {
            let m = "Specifying 'project_id' or 'tenant_id' other than the authenticated project in request requires admin privileges";
            return Err(Error::invalid(m).code("HTTPBadRequest"));
        }
        if wanted.is_empty() && own != wanted {
            return Ok(own);
        }
        Ok(wanted)
    }
}

fn no_more(body: &Map<String, Value>) -> Result<()> {
    if body.is_empty() { Ok(()) } else { Err(unrecognised(&body.keys().map(String::as_str).collect::<Vec<_>>())) }
}

/// Ids are UUIDs, with or without hyphens.
pub fn check_id(field: &str, id: &str) -> Result<()> {
    if caelum_base::is_uuid(id) || caelum_base::is_hex_id(id) {
        return Ok(());
    }
    let head: String = id.chars().take(64).collect();
    Err(invalid_input(field, format!("'{head}' is not a valid UUID")))
}
