//! `.builder` files: a pickle of one dict, as upstream's builder reads and writes it.

use super::tree::Name;
use super::{Builder, BuilderDevice, DispersionGraph};
use crate::runtime::{Device, NO_DEVICE};
use crate::write::replace;
use caelum_base::{Error, Result, Rng, SystemRng};
use caelum_swiftkit::pickle::{self, Value};
use std::path::Path;

/// Largest builder file read: 2^23 partitions with 8 replicas as pickled integers.
const MAX_FILE: u64 = 1 << 30;

/// Reads a builder file. Blocks. Errors, in upstream's words: `NotFound`, `Forbidden` (no access), `Invalid`.
pub fn load(path: &Path) -> Result<Builder> {
    use std::io::{ErrorKind, Read};
    let name = path.display();
    let mut data = Vec::new();
    let read = std::fs::File::open(path).and_then(|f| f.take(MAX_FILE).read_to_end(&mut data));
    if let Err(e) = read {
        return Err(match e.kind() {
            ErrorKind::NotFound => Error::not_found(format!("Ring Builder file does not exist: {name}")),
            ErrorKind::PermissionDenied => Error::forbidden(format!("Ring Builder file cannot be accessed: {name}")),
            _ => Error::unavailable(format!("{name}: {e}")),
        });
    }
    decode(&data).map_err(|e| Error::invalid(format!("Ring Builder file is invalid: {name}")).caused_by(e))
}

/// Writes a builder file in place of what is there; gives the builder an id when it has none. Blocks.
pub fn save(builder: &mut Builder, path: &Path) -> Result<()> {
    if builder.id.is_none() {
        let mut id = [0; 16];
        SystemRng.fill(&mut id);
        // A random (version 4) UUID without dashes.
        id[6] = id[6] & 0x0f | 0x40;
        id[8] = id[8] & 0x3f | 0x80;
        builder.id = Some(caelum_swiftkit::to_hex(&id));
    }
    replace(path, &encode(builder))
}

fn missing(what: &str) -> Error {
    Error::invalid(format!("the builder's {what} is missing or malformed"))
}

/// Reads the bytes of a builder file. Errors: `Invalid`.
pub fn decode(data: &[u8]) -> Result<Builder> {
    let dict = pickle::loads(data).map_err(|e| Error::invalid(e.to_string()))?;
    let int = |k: &str| dict.get(k).and_then(Value::int);
    let float = |k: &str| dict.get(k).and_then(Value::float);
    let part_power = int("part_power").filter(|p| (0..=32).contains(p)).ok_or_else(|| missing("part_power"))?;
    let replicas = float("replicas").ok_or_else(|| missing("replicas"))?;
    let mut out = Builder::new(part_power, replicas, int("min_part_hours").ok_or_else(|| missing("min_part_hours"))?)?;
    out.next_part_power = int("next_part_power").and_then(|n| u32::try_from(n).ok());
    out.devices_changed = dict.get("devs_changed").and_then(Value::int).unwrap_or(0) != 0 || flag(dict.get("devs_changed"));
    out.version = int("version").unwrap_or(0);
    out.overload = float("overload").unwrap_or(0.0);
    out.moves_epoch = int("_last_part_moves_epoch").unwrap_or(0);
    out.gather_start = int("_last_part_gather_start").unwrap_or(0);
    out.dispersion = float("dispersion");
    out.id = dict.get("id").and_then(Value::text);
    let devices = dict.get("devs").and_then(Value::items).ok_or_else(|| missing("devs"))?;
    out.devices = devices.iter().map(device).collect::<Result<_>>()?;
    if out.devices.iter().enumerate().any(|(i, d)| d.as_ref().is_some_and(|d| d.device.id as usize != i)) {
        return Err(missing("order of devices"));
    }
    out.assignment = assignment(&dict, &out)?;
    if let Some(hours) = dict.get("_last_part_moves").and_then(numbers) {
        out.last_moves = hours.into_iter().map(|h| u8::try_from(h.clamp(0, 255)).unwrap_or(u8::MAX)).collect();
    }
    if out.last_moves.len() != out.parts() {
        return Err(missing("_last_part_moves"));
    }
    let removed = dict.get("_remove_devs").and_then(Value::items).unwrap_or(&[]);
    out.removed = removed.iter().filter_map(|d| d.get("id")?.int()).filter_map(|i| u32::try_from(i).ok()).collect();
    out.graph = graph(dict.get("_dispersion_graph"));
    Ok(out)
}

fn flag(v: Option<&Value>) -> bool {
    matches!(v, Some(Value::Bool(true)))
}

/// An array or a list of integers: upstream turns one into the other when it doubles partitions.
fn numbers(v: &Value) -> Option<Vec<i64>> {
    match v {
        Value::Array(_, items) => Some(items.clone()),
        other => other.items()?.iter().map(Value::int).collect(),
    }
}

fn assignment(dict: &Value, builder: &Builder) -> Result<Vec<Vec<u32>>> {
    let wrong = || missing("_replica2part2dev");
    let rows = match dict.get("_replica2part2dev") {
        None | Some(Value::None) => return Ok(Vec::new()),
        Some(v) => v.items().ok_or_else(wrong)?,
    };
    let mut out = Vec::with_capacity(rows.len());
    for (i, row) in rows.iter().enumerate() {
        let absent = if matches!(row, Value::Array('I' | 'L', _)) { i64::from(u32::MAX) } else { i64::from(u16::MAX) };
        let ids = numbers(row).ok_or_else(wrong)?;
        if ids.len() > builder.parts() || i + 1 < rows.len() && ids.len() != builder.parts() {
            return Err(wrong());
        }
        let id = |n: i64| if n == absent { Some(NO_DEVICE) } else { u32::try_from(n).ok() };
        out.push(ids.into_iter().map(id).collect::<Option<Vec<u32>>>().ok_or_else(wrong)?);
    }
    let known = |id: &u32| *id == NO_DEVICE || builder.device(*id).is_some();
    if out.iter().flatten().all(known) { Ok(out) } else { Err(wrong()) }
}

const OWN_KEYS: [&str; 12] =
    ["id", "region", "zone", "ip", "port", "replication_ip", "replication_port", "device", "weight", "meta", "parts", "parts_wanted"];

fn device(v: &Value) -> Result<Option<BuilderDevice>> {
    let Value::Dict(items) = v else {
        return if *v == Value::None { Ok(None) } else { Err(missing("device")) };
    };
    let text = |k: &str| v.get(k).and_then(Value::text);
    let small = |k: &str| v.get(k).and_then(Value::int).and_then(|n| u32::try_from(n).ok());
    let port = |k: &str| v.get(k).and_then(Value::int).and_then(|n| u16::try_from(n).ok());
    let ip = text("ip").ok_or_else(|| missing("device's ip"))?;
    let own_port = port("port").ok_or_else(|| missing("device's port"))?;
    let device = Device {
        id: small("id").ok_or_else(|| missing("device's id"))?,
        region: small("region").unwrap_or(1),
        zone: small("zone").ok_or_else(|| missing("device's zone"))?,
        replication_ip: text("replication_ip").unwrap_or_else(|| ip.clone()),
        ip,
        replication_port: port("replication_port").unwrap_or(own_port),
        port: own_port,
        device: text("device").ok_or_else(|| missing("device's name"))?,
        weight: v.get("weight").and_then(Value::float).unwrap_or(0.0),
        meta: text("meta").unwrap_or_default(),
    };
    let parts = v.get("parts").and_then(Value::int).unwrap_or(0);
    // Upstream's number for "none at all" is a float.
    let parts_wanted = v.get("parts_wanted").and_then(Value::float).unwrap_or(0.0) as i64;
    let known = |k: &Value| k.text().is_some_and(|k| OWN_KEYS.contains(&k.as_str()));
    let extra = items.iter().filter(|(k, _)| !known(k)).cloned().collect();
    Ok(Some(BuilderDevice { device, parts, parts_wanted, extra }))
}

fn graph(v: Option<&Value>) -> DispersionGraph {
    let Some(Value::Dict(items)) = v else { return Vec::new() };
    let name = |(depth, v): (usize, &Value)| match depth {
        0 | 1 => Some(Name::Number(u32::try_from(v.int()?).ok()?)),
        2 => Some(Name::Server(v.text()?)),
        _ => Some(Name::Device(u32::try_from(v.int()?).ok()?)),
    };
    let entry = |(k, v): &(Value, Value)| {
        let place = k.items()?.iter().enumerate().map(name).collect::<Option<Vec<Name>>>()?;
        Some((place, numbers(v)?))
    };
    let mut out: DispersionGraph = items.iter().filter_map(entry).collect();
    out.sort();
    out
}

fn optional<T>(v: Option<T>, f: impl Fn(T) -> Value) -> Value {
    v.map_or(Value::None, f)
}

fn device_value(d: &BuilderDevice) -> Value {
    let (v, n) = (&d.device, |n: u32| Value::Int(i64::from(n)));
    let values = [
        n(v.id),
        n(v.region),
        n(v.zone),
        Value::str(&v.ip),
        n(u32::from(v.port)),
        Value::str(&v.replication_ip),
        n(u32::from(v.replication_port)),
        Value::str(&v.device),
        Value::Float(v.weight),
        Value::str(&v.meta),
        Value::Int(d.parts),
        Value::Int(d.parts_wanted),
    ];
    let own = OWN_KEYS.iter().zip(values).map(|(k, v)| (Value::str(*k), v));
    Value::Dict(own.chain(d.extra.iter().cloned()).collect())
}

/// The bytes of a builder file.
pub fn encode(b: &Builder) -> Vec<u8> {
    let (code, absent) = if b.device_id_bytes() == 2 { ('H', i64::from(u16::MAX)) } else { ('I', i64::from(u32::MAX)) };
    let row = |row: &Vec<u32>| {
        let id = |id: &u32| if *id == NO_DEVICE { absent } else { i64::from(*id) };
        Value::Array(code, row.iter().map(id).collect())
    };
    let assignment = if b.assignment.is_empty() { Value::None } else { Value::List(b.assignment.iter().map(row).collect()) };
    let removed = b.removed.iter().filter_map(|id| b.device(*id)).map(device_value).collect();
    let place = |names: &Vec<Name>| {
        let name = |n: &Name| match n {
            Name::Number(i) | Name::Device(i) => Value::Int(i64::from(*i)),
            Name::Server(ip) => Value::str(ip),
            Name::Cluster => Value::None,
        };
        Value::Tuple(names.iter().map(name).collect())
    };
    let counts = |n: &Vec<i64>| Value::List(n.iter().map(|i| Value::Int(*i)).collect());
    let items = [
        ("part_power", Value::Int(i64::from(b.part_power))),
        ("next_part_power", optional(b.next_part_power, |n| Value::Int(i64::from(n)))),
        ("replicas", Value::Float(b.replicas)),
        ("min_part_hours", Value::Int(b.min_part_hours)),
        ("parts", Value::Int(b.parts() as i64)),
        ("devs", Value::List(b.devices.iter().map(|d| optional(d.as_ref(), device_value)).collect())),
        ("devs_changed", Value::Bool(b.devices_changed)),
        ("dev_id_bytes", Value::Int(b.device_id_bytes() as i64)),
        ("version", Value::Int(b.version)),
        ("overload", Value::Float(b.overload)),
        ("_replica2part2dev", assignment),
        ("_last_part_moves_epoch", Value::Int(b.moves_epoch)),
        ("_last_part_moves", Value::Array('B', b.last_moves.iter().map(|h| i64::from(*h)).collect())),
        ("_last_part_gather_start", Value::Int(b.gather_start)),
        ("_dispersion_graph", Value::Dict(b.graph.iter().map(|(k, v)| (place(k), counts(v))).collect())),
        ("dispersion", optional(b.dispersion, Value::Float)),
        ("_remove_devs", Value::List(removed)),
        ("id", optional(b.id.as_deref(), Value::str)),
    ];
    pickle::dumps(&Value::Dict(items.into_iter().map(|(k, v)| (Value::str(k), v)).collect()))
}
