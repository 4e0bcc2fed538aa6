//! Reports of objects: rows for the database, sent by object servers at every PUT and DELETE.

use super::{Inner, answer, write};
use crate::db::{Answer, Fail, Resp, Target, bad_request, header, no_device, quote, set, yes};
use caelum_broker::{ContainerBroker, ObjectRow, ShardQuery, ShardState};
use caelum_swiftkit::Timestamp;
use http::request::Parts;
use http::{HeaderMap, Method};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;

/// Rows written under one lock.
const BATCH: usize = 512;

/// A report waiting to be written.
struct Job {
    target: Target,
    row: ObjectRow,
    at: Timestamp,
    create: bool,
    /// Wants to hear of a shard: (redirect at all, redirect to names that need quoting).
    redirect: (bool, bool),
    put: bool,
    done: oneshot::Sender<Answer>,
}

/// Reports for one database that arrive while others are being written are written next, together.
#[derive(Default)]
pub(super) struct Coalescer(Mutex<HashMap<PathBuf, Vec<Job>>>);

impl Coalescer {
    /// True when the caller must see to it that the queue is worked off.
    fn add(&self, path: &Path, job: Job) -> bool {
        let mut queues = self.0.lock().expect("no holder of this lock panics");
        match queues.get_mut(path) {
            Some(queue) => {
                queue.push(job);
                false
            }
            None => {
                queues.insert(path.to_path_buf(), vec![job]);
                true
            }
        }
    }

    /// The next batch; removes the queue when it is empty.
    fn take(&self, path: &Path) -> Vec<Job> {
        let mut queues = self.0.lock().expect("no holder of this lock panics");
        let Some(queue) = queues.get_mut(path) else { return Vec::new() };
        if queue.is_empty() {
            queues.remove(path);
            return Vec::new();
        }
        let n = queue.len().min(BATCH);
        queue.drain(..n).collect()
    }
}

fn row(s: &Inner, headers: &HeaderMap, put: bool, target: &Target, at: Timestamp) -> Answer<ObjectRow> {
    let policy = s.policy_index(headers)?.unwrap_or(0);
    let name = target.object.clone().unwrap_or_default();
    if !put {
        return Ok(ObjectRow::tombstone(&name, &at.internal(), policy));
    }
    let text = |n: &str| header(headers, n).map(str::to_string).ok_or_else(|| bad_request(format!("Missing or invalid {n} header")));
    let optional = |n: &str| match header(headers, n).filter(|v| !v.is_empty()) {
        Some(v) if Timestamp::parse(v).is_none() => Err(bad_request(format!("Invalid {n} header"))),
        v => Ok(v.map(str::to_string)),
    };
    Ok(ObjectRow {
        name,
        created_at: at.internal(),
        size: write::number(headers, "x-size")?,
        content_type: text("x-content-type")?,
        etag: text("x-etag")?,
        deleted: 0,
        storage_policy_index: policy,
        ctype_timestamp: optional("x-content-type-timestamp")?,
        meta_timestamp: optional("x-meta-timestamp")?,
        ..ObjectRow::default()
    })
}

/// PUT and DELETE of an object.
pub(super) async fn report(s: Arc<Inner>, parts: Parts, target: Target, at: Timestamp) -> Answer {
    let put = parts.method == Method::PUT;
    let h = &parts.headers;
    let device = s.disks.path(&target.device).ok_or_else(|| no_device(&target.device))?;
    let row = row(&s, h, put, &target, at)?;
    let path = s.db_path(&device, &target);
    let (done, answered) = oneshot::channel();
    let job = Job {
        create: write::should_create(&target.account, h),
        redirect: (yes(h, "x-backend-accept-redirect"), yes(h, "x-backend-accept-quoted-location")),
        target,
        row,
        at,
        put,
        done,
    };
    if s.coalescer.add(&path, job) {
        let worker = s.clone();
        // Apart from this request: it must go on when the client hangs up.
        tokio::spawn(async move {
            let Ok(_permit) = worker.work.clone().acquire_owned().await else { return };
            let done = tokio::task::spawn_blocking(move || work_off(&worker, &path)).await;
            if done.is_err() {
                tracing::error!("object reports: the writer ended early");
            }
        });
    }
    match answered.await {
        Ok(answer) => answer,
        Err(_) => Err(answer(500).into()),
    }
}

fn work_off(s: &Inner, path: &Path) {
    loop {
        let batch = s.coalescer.take(path);
        if batch.is_empty() {
            return;
        }
        write_batch(s, path, batch);
    }
}

fn write_batch(s: &Inner, path: &Path, batch: Vec<Job>) {
    let mut broker = match ContainerBroker::new(&s.config.pool, path) {
        Ok(b) => b,
        Err(e) => return fail_all(batch, e),
    };
    let (mut rows, mut waiting) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
    let mut sharded: Option<bool> = None;
    // One database lies on one device.
    let device = batch.first().and_then(|job| s.disks.device(&job.target.device));
    let has_space = device.as_deref().is_some_and(|d| s.disks.has_space(d));
    for job in batch {
        if device.is_none() || job.put && !has_space {
            drop(job.done.send(Err(no_device(&job.target.device).into())));
            continue;
        }
        let ready = write::autocreate(&mut broker, &job.target, job.at, Some(job.row.storage_policy_index), job.create)
            .and_then(|_| redirect(&broker, &job, &mut sharded));
        match ready {
            Ok(None) => {
                rows.push(job.row);
                waiting.push((job.put, job.done));
            }
            // The requester may be gone.
            Ok(Some(r)) => drop(job.done.send(Ok(r))),
            Err(e) => drop(job.done.send(Err(e))),
        }
    }
    if rows.is_empty() {
        return;
    }
    match broker.put_objects(rows) {
        Ok(()) => {
            for (put, done) in waiting {
                let _ = done.send(Ok(answer(if put { 201 } else { 204 })));
            }
        }
        Err(e) => {
            let Fail(first) = e.into();
            let code = first.status().as_u16();
            for (_, done) in waiting {
                let _ = done.send(Err(answer(code).into()));
            }
        }
    }
}

fn fail_all(batch: Vec<Job>, e: caelum_broker::BrokerError) {
    let Fail(first) = e.into();
    let code = first.status().as_u16();
    for job in batch {
        let _ = job.done.send(Err(answer(code).into()));
    }
}

/// Where the object's row belongs once the container is sharded.
fn redirect(broker: &ContainerBroker, job: &Job, sharded: &mut Option<bool>) -> Answer<Option<Resp>> {
    let (wanted, quoted_ok) = job.redirect;
    if !wanted {
        return Ok(None);
    }
    let has_shards = match *sharded {
        Some(known) => known,
        None => *sharded.insert(broker.has_other_shard_ranges()?),
    };
    if !has_shards {
        return Ok(None);
    }
    let q = ShardQuery { includes: Some(job.row.name.clone()), states: ShardState::UPDATING.to_vec(), ..ShardQuery::default() };
    let Some(range) = broker.shard_ranges(&q)?.into_iter().next() else { return Ok(None) };
    let location = format!("/{}/{}", range.name, job.row.name);
    let quoted = quote(&location);
    if location != quoted && !quoted_ok {
        return Ok(None);
    }
    let mut r = answer(301);
    set(&mut r, "Location", &quoted);
    set(&mut r, "X-Backend-Location-Is-Quoted", "true");
    set(&mut r, "X-Backend-Redirect-Timestamp", &range.timestamp.internal());
    Ok(Some(r))
}
