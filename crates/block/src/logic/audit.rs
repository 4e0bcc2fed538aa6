//! Rows against flows, attachments and files, and the story of one resource.

use crate::State;
use crate::logic::attach;
use crate::store::{Backup, Message, Snapshot, Volume};
use caelum_base::Result;
use caelum_store::{Dir, Query, Tx};
use std::collections::BTreeSet;

/// Files without rows and rows without files. Resources that a flow works on are left out.
pub async fn run(state: &State, heal: bool) -> Result<Vec<String>> {
    let mut found = state.flows.overdue().await?;
    found.extend(stuck(state, heal).await?);
    // Files first: one that appears later belongs to a row that is read below.
    let files: BTreeSet<String> = state.driver.list().await?.into_iter().collect();
    let flows = state.flows.clone();
    let (known, settled) = state
        .db
        .read(move |tx| {
            let mut known = BTreeSet::new();
            let mut settled = Vec::new();
            let mut add = |kind: &str, id: &str, status: &str, busy: bool| {
                known.insert(format!("{kind}-{id}"));
                if !busy && matches!(status, "available" | "in-use") {
                    settled.push((kind.to_string(), id.to_string()));
                }
            };
            for v in tx.list::<Volume>(&Query::new())? {
                let busy = flows.busy(tx, &v.id)?;
                add("volume", &v.id, &v.status, busy);
            }
            for s in tx.list::<Snapshot>(&Query::new())? {
                let busy = flows.busy(tx, &s.id)?;
                add("snapshot", &s.id, &s.status, busy);
            }
            for b in tx.list::<Backup>(&Query::new())? {
                let busy = flows.busy(tx, &b.id)?;
                add("backup", &b.id, &b.status, busy);
            }
            Ok((known, settled))
        })
        .await?;
    for (kind, id) in settled {
        if !files.contains(&format!("{kind}-{id}")) {
            found.push(format!("{kind} {id} has no data"));
        }
    }
    for name in files.iter().filter(|n| !n.ends_with(".new") && !known.contains(*n)) {
        found.push(format!("file {name} belongs to nothing"));
        if let (true, Some((kind, id))) = (heal, name.split_once('-')) {
            match kind {
                "volume" => state.driver.delete(id).await?,
                "snapshot" => state.driver.delete_snapshot(id).await?,
                "backup" => state.driver.delete_backup(id).await?,
                _ => {}
            }
        }
    }
    Ok(found)
}

/// Volumes and snapshots on their way somewhere without a flow that takes them there, and volumes whose
/// status is not what their attachments say. `heal` makes the former `error`, so that they can be deleted.
async fn stuck(state: &State, heal: bool) -> Result<Vec<String>> {
    let (flows, now) = (state.flows.clone(), state.env.now());
    let moving = |s: &str| matches!(s, "creating" | "downloading" | "deleting" | "extending" | "uploading");
    let look = move |tx: &mut Tx<'_>| {
        let mut out = Vec::new();
        for mut v in tx.list::<Volume>(&Query::new())? {
            if flows.busy(tx, &v.id)? {
                continue;
            }
            if moving(&v.status) {
                out.push(format!("volume {}: {} without a flow", v.id, v.status));
                if heal {
                    v.status = "error".into();
                    v.updated_at = Some(now);
                    tx.update(&mut v)?;
                }
            } else if let Some(right) = attach::differs(tx, &v)? {
                out.push(format!("volume {}: {}, but its attachments say {right}", v.id, v.status));
                if heal {
                    attach::settle(tx, &mut v, now)?;
                }
            }
        }
        for mut s in tx.list::<Snapshot>(&Query::new())? {
            // A volume that is deleted takes its snapshots with it.
            if moving(&s.status) && !flows.busy(tx, &s.id)? && !flows.busy(tx, &s.volume_id)? {
                out.push(format!("snapshot {}: {} without a flow", s.id, s.status));
                if heal {
                    s.status = "error".into();
                    tx.update(&mut s)?;
                }
            }
        }
        Ok(out)
    };
    if heal { state.db.write(look).await } else { state.db.read(look).await }
}

/// One line per fact.
pub async fn why(state: &State, id: &str) -> Result<Vec<String>> {
    let (flows, id) = (state.flows.clone(), id.to_string());
    state
        .db
        .read(move |tx| {
            let mut out = Vec::new();
            if let Some(v) = tx.get::<Volume>(&id)? {
                out.push(format!("volume {} is {}, {} GiB, on {}", v.id, v.status, v.size, v.host));
            }
            if let Some(s) = tx.get::<Snapshot>(&id)? {
                out.push(format!("snapshot {} of volume {} is {}", s.id, s.volume_id, s.status));
            }
            if let Some(b) = tx.get::<Backup>(&id)? {
                out.push(format!("backup {} of volume {} is {}", b.id, b.volume_id, b.status));
            }
            for f in flows.of_resource(tx, &id)? {
                out.push(format!("flow {} ({}) is {} at step {} since {}", f.id, f.kind, f.state, f.step, f.created_at.iso_z()));
            }
            for m in tx.list::<Message>(&Query::new().eq("resource_uuid", id.as_str()).sort("created_at", Dir::Asc))? {
                out.push(format!("{}: {} ({})", m.created_at.iso_z(), m.user_message, m.request_id));
            }
            Ok(out)
        })
        .await
}
