//! Bytes coming in: uploads, staging, and downloads for imports.
//!
//! A transfer belongs to the row that names it in `transfer`; it writes `incoming/<name>`, and when
//! all bytes are there renames the file and, in one transaction, hands it to the row. Whoever loses
//! the row (deleted, reset) removes the file. File names carry a random id and are never reused, so
//! a late loser cannot touch anybody else's bytes.
//!
//! A crash leaves at most files that no row names and rows that wait for a transfer that is gone;
//! [`recover`] removes and resets them. One process serves one data directory.

use crate::State;
use crate::logic::ingest::Ingest;
use crate::store::{Facts, Image, Staged, image_update, used_bytes};
use bytes::Bytes;
use caelum_base::{Error, Result};
use caelum_rest::Body;
use caelum_store::{Filter, Query, Stored, Tx};
use http_body_util::BodyExt;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinSet, spawn_blocking};

/// Bytes handed to a blocking thread at once; while they are written the next ones are received.
const BATCH: usize = 1 << 20;
/// A client that sends nothing for this long is gone.
const IDLE: Duration = Duration::from_secs(120);
pub const INCOMING: &str = "incoming";

/// Why a transfer should end before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Run,
    /// The image is gone.
    Deleted,
    /// The service stops.
    Stop,
}

/// Transfers and imports under way in this process.
pub struct Transfers {
    tasks: Mutex<JoinSet<()>>,
    signals: Mutex<HashMap<String, watch::Sender<Signal>>>,
    stopping: AtomicBool,
}

impl Transfers {
    pub fn new() -> Self {
        Self { tasks: Mutex::new(JoinSet::new()), signals: Mutex::new(HashMap::new()), stopping: AtomicBool::new(false) }
    }

    /// Runs `f` until it ends, whoever waits for it.
    pub fn spawn(&self, f: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(f);
    }

    /// Runs `f` apart from the request, so that a client going away cannot stop it between a
    /// transaction and what must follow it.
    pub async fn detached<T: Send + 'static>(&self, f: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let (done, wait) = oneshot::channel();
        self.spawn(async move {
            // Nobody may be waiting any more; the rows tell the outcome too.
            let _ = done.send(f.await);
        });
        wait.await.map_err(|_| Error::unavailable("The service is stopping."))?
    }

    /// Ends what is coming in for an image that was deleted.
    pub fn cancel(&self, image_id: &str) {
        if let Some(s) = self.signals().get(image_id) {
            s.send_replace(Signal::Deleted);
        }
    }

    pub async fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.signals().values().for_each(|s| {
            s.send_replace(Signal::Stop);
        });
        let mut tasks = std::mem::take(&mut *self.tasks());
        while tasks.join_next().await.is_some() {}
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self, image_id: &str) -> watch::Receiver<Signal> {
        let (tx, rx) = watch::channel(Signal::Run);
        let mut signals = self.signals();
        // Looked at under the lock that `stop` takes after setting it: one of the two sees the other.
        if self.stopping.load(Ordering::SeqCst) {
            tx.send_replace(Signal::Stop);
        }
        signals.insert(image_id.to_string(), tx);
        rx
    }

    /// Forgets a signal, unless a later transfer of the same image has replaced it.
    pub fn unlisten(&self, image_id: &str, rx: watch::Receiver<Signal>) {
        let mut signals = self.signals();
        if signals.get(image_id).is_some_and(|tx| rx.same_channel(&tx.subscribe())) {
            signals.remove(image_id);
        }
    }

    fn signals(&self) -> std::sync::MutexGuard<'_, HashMap<String, watch::Sender<Signal>>> {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where received bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The image becomes active.
    Active,
    /// The bytes wait for an import.
    Staging,
}

/// Receives a body into an image. Returns when the bytes are durable and the row says so; on error
/// the image is queued again and nothing is left.
pub async fn upload(state: &Arc<State>, image: Stored<Image>, body: Body, expected: Option<u64>, goal: Goal) -> Result<()> {
    let st = state.clone();
    let work = async move {
        let (image, limit) = begin(&st, image, goal).await?;
        run_upload(&st, &image, body, expected, limit, goal).await
    };
    state.transfers.detached(work).await
}

/// Takes the image for a transfer. Errors: `Conflict` when it is not queued, `Invalid` when its
/// formats are not set.
async fn begin(state: &Arc<State>, image: Stored<Image>, goal: Goal) -> Result<(Image, u64)> {
    let (transfer, now, id) = (format!("{}.{}", image.id, state.env.hex_id()), state.env.now(), image.id.clone());
    let (max, quota) = (state.image_size_max_bytes, state.project_quota_bytes);
    state
        .db
        .write(move |tx| {
            let mut image = tx.require::<Image>("Image", &id)?;
            let status = if goal == Goal::Active { "saving" } else { "uploading" };
            if image.status != "queued" {
                return Err(Error::conflict(format!("Image status transition from {} to {status} is not allowed", image.status)));
            }
            if image.disk_format.is_none() || image.container_format.is_none() {
                return Err(Error::invalid("Properties disk_format, container_format must be set prior to saving data."));
            }
            image.status = status.into();
            image.transfer = Some(transfer.clone());
            image.updated_at = now;
            let room = room(tx, &image, quota)?;
            if room == 0 {
                return Err(Error::over_quota("Image exceeds the storage quota: the project's storage is full."));
            }
            image_update(tx, &mut image)?;
            Ok((image.into_inner(), max.min(room)))
        })
        .await
}

/// Bytes the image's owner may still store.
fn room(tx: &mut Tx<'_>, image: &Image, quota: Option<u64>) -> Result<u64> {
    let Some(quota) = quota else { return Ok(u64::MAX) };
    let used = used_bytes(tx, image.owner.as_deref().unwrap_or(""))?;
    Ok(quota.saturating_sub(used))
}

async fn run_upload(state: &Arc<State>, image: &Image, body: Body, expected: Option<u64>, limit: u64, goal: Goal) -> Result<()> {
    let received = match listen(state, image).await {
        Ok(mut signal) => {
            let received = receive(state, image, body, expected, limit, &mut signal).await;
            state.transfers.unlisten(&image.id, signal);
            received
        }
        Err(e) => Err(e),
    };
    let result = match (received, goal) {
        (Ok(Staged::Refused(reason)), Goal::Active) => Err(refusal(&reason)),
        (Ok(staged), _) => finish(state, image, staged, goal).await,
        (Err(e), _) => Err(e),
    };
    if let Err(e) = &result {
        tracing::info!(image = image.id, error = e.chain(), "image data was not taken");
        abandon(state, image).await;
    }
    result
}

/// The signals of a transfer. Errors: the image is gone: a deletion that came before we listened
/// has removed the row, one that comes after is heard.
pub async fn listen(state: &State, image: &Image) -> Result<watch::Receiver<Signal>> {
    let signal = state.transfers.listen(&image.id);
    let row = state.db.get::<Image>(&image.id).await;
    match row.map(|r| r.is_some_and(|i| i.transfer == image.transfer)) {
        Ok(true) => Ok(signal),
        other => {
            state.transfers.unlisten(&image.id, signal);
            other.and(Err(gone(&image.id)))
        }
    }
}

/// The error for bytes that were looked at and refused.
pub fn refusal(reason: &str) -> Error {
    Error::status(415, format!("Image data was refused: {reason}."))
}

fn transfer_of(image: &Image) -> Result<&str> {
    image.transfer.as_deref().ok_or_else(|| Error::internal(format!("image {} has no transfer", image.id)))
}

/// A new file for a transfer, ready to be filled.
pub fn open_ingest(state: &State, image: &Image, limit: u64) -> Result<Ingest> {
    let file = state.root.create_new(&format!("{INCOMING}/{}", transfer_of(image)?))?;
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    Ok(Ingest::new(file, limit, &text(&image.disk_format), &text(&image.container_format)))
}

async fn receive(
    state: &Arc<State>,
    image: &Image,
    mut body: Body,
    expected: Option<u64>,
    limit: u64,
    signal: &mut watch::Receiver<Signal>,
) -> Result<Staged> {
    if expected.is_some_and(|n| n > limit) {
        return Err(Error::too_large(format!("The incoming image is too large: at most {limit} bytes are allowed.")));
    }
    let (st, img) = (state.clone(), image.clone());
    let mut writing = spawn_blocking(move || open_ingest(&st, &img, limit));
    let mut total = 0_u64;
    loop {
        let (batch, last) = tokio::select! {
            biased;
            s = signal.wait_for(|s| *s != Signal::Run) => {
                return Err(stopped(s.map_or(Signal::Stop, |s| *s), image));
            }
            batch = next_batch(&mut body) => batch?,
        };
        total += batch.iter().map(|b| b.len() as u64).sum::<u64>();
        let mut ingest = join(writing).await??;
        writing = spawn_blocking(move || {
            batch.iter().try_for_each(|b| ingest.write(b))?;
            Ok(ingest)
        });
        if last {
            break;
        }
    }
    let ingest = join(writing).await??;
    if expected.is_some_and(|n| n != total) {
        return Err(Error::invalid(format!("The image data ended after {total} bytes.")));
    }
    join(spawn_blocking(move || ingest.finish())).await?
}

/// What a transfer that must end says.
pub fn stopped(signal: Signal, image: &Image) -> Error {
    match signal {
        Signal::Deleted => gone(&image.id),
        Signal::Run | Signal::Stop => Error::unavailable("The service is stopping.").code("stopping"),
    }
}

pub async fn join<T>(handle: tokio::task::JoinHandle<T>) -> Result<T> {
    handle.await.map_err(|e| Error::internal("a file operation ended abruptly").caused_by(e))
}

/// Up to [`BATCH`] bytes and a little, and whether the body ended.
async fn next_batch(body: &mut Body) -> Result<(Vec<Bytes>, bool)> {
    let (mut out, mut n) = (Vec::new(), 0);
    while n < BATCH {
        let frame = tokio::time::timeout(IDLE, body.frame()).await;
        match frame.map_err(|_| Error::status(408, "The image data stopped coming."))? {
            None => return Ok((out, true)),
            Some(frame) => {
                let frame = frame.map_err(|e| Error::invalid("The image data ended early.").caused_by(e))?;
                if let Ok(data) = frame.into_data() {
                    n += data.len();
                    out.push(data);
                }
            }
        }
    }
    Ok((out, false))
}

fn gone(id: &str) -> Error {
    Error::status(410, format!("Image {id} could not be found after upload. The image may have been deleted during the upload."))
}

/// Gives a complete file to its image.
async fn finish(state: &Arc<State>, image: &Image, staged: Staged, goal: Goal) -> Result<()> {
    let name = keep(state, image).await?;
    let (id, now, quota) = (image.id.clone(), state.env.now(), state.project_quota_bytes);
    let file = name.clone();
    let written = state.db.write(move |tx| {
        let mut image = tx.get::<Image>(&id)?.filter(|i| i.transfer.as_deref() == Some(&file)).ok_or_else(|| gone(&id))?;
        match (&staged, goal) {
            (Staged::Good(facts), Goal::Active) => activate(tx, &mut image, facts.clone(), quota)?,
            _ => image.staged = Some(staged.clone()),
        }
        image.transfer = None;
        image.file = Some(file.clone());
        image.updated_at = now;
        image_update(tx, &mut image)
    });
    let result = written.await;
    if result.is_err() {
        discard(state, name).await;
    }
    result
}

/// Renames the file of a finished transfer out of `incoming`; returns its name.
pub async fn keep(state: &Arc<State>, image: &Image) -> Result<String> {
    let name = transfer_of(image)?.to_string();
    let (st, n) = (state.clone(), name.clone());
    join(spawn_blocking(move || st.root.rename(&format!("{INCOMING}/{n}"), &n))).await??;
    Ok(name)
}

/// Makes an image active with bytes that are in its file. Errors: `OverQuota`.
pub fn activate(tx: &mut Tx<'_>, image: &mut Image, facts: Facts, quota: Option<u64>) -> Result<()> {
    if facts.size > room(tx, image, quota)? {
        return Err(Error::over_quota("Image exceeds the storage quota."));
    }
    image.data = Some(facts);
    image.staged = None;
    image.status = "active".into();
    Ok(())
}

/// Queues the image of a failed transfer again, if it still is its own, and removes its bytes.
pub async fn abandon(state: &Arc<State>, image: &Image) {
    let Ok(name) = transfer_of(image) else { return };
    let (id, mine, now) = (image.id.clone(), name.to_string(), state.env.now());
    let reset = state.db.write(move |tx| {
        let Some(mut image) = tx.get::<Image>(&id)?.filter(|i| i.transfer.as_deref() == Some(&mine)) else { return Ok(()) };
        image.reset();
        image.updated_at = now;
        image_update(tx, &mut image)
    });
    if let Err(e) = reset.await {
        // The next start resets it.
        tracing::error!(image = image.id, error = e.chain(), "an image could not be queued again");
    }
    discard(state, format!("{INCOMING}/{name}")).await;
}

/// Removes a file nothing needs; a failure is left to the audit.
pub async fn discard(state: &Arc<State>, name: String) {
    let (st, n) = (state.clone(), name.clone());
    match join(spawn_blocking(move || st.root.remove(&n))).await.and_then(|r| r) {
        Ok(_) => {}
        Err(e) => tracing::error!(file = name, error = e.chain(), "an image file could not be removed"),
    }
}

/// After a start: images whose transfer died with the last process are queued again, and files
/// without a row go. Imports are taken up again by the caller.
pub async fn recover(state: &Arc<State>) -> Result<()> {
    let now = state.env.now();
    state
        .db
        .write(move |tx| {
            let waiting = Query::new().filter(Filter::In("status", vec!["saving".into(), "uploading".into()]));
            for mut image in tx.list::<Image>(&waiting)? {
                if image.transfer.is_some() {
                    image.reset();
                    image.updated_at = now;
                    image_update(tx, &mut image)?;
                }
            }
            Ok(())
        })
        .await?;
    let removed = strays(state, true).await?;
    if !removed.is_empty() {
        tracing::info!(files = removed.len(), "removed image files of interrupted transfers");
    }
    Ok(())
}

/// Files no image names; removes them when told to.
pub async fn strays(state: &Arc<State>, remove: bool) -> Result<Vec<String>> {
    let st = state.clone();
    // Listed before the rows are read: a file that appears in between is not called a stray.
    let files = join(spawn_blocking(move || {
        let mut files = st.root.list("")?;
        files.retain(|f| f != INCOMING);
        files.extend(st.root.list(INCOMING)?.into_iter().map(|f| format!("{INCOMING}/{f}")));
        Ok::<_, Error>(files)
    }))
    .await??;
    let images = state.db.list::<Image>(Query::new()).await?;
    let mut wanted = std::collections::BTreeSet::new();
    for image in &images {
        wanted.extend(image.file.clone());
        if let Some(t) = &image.transfer {
            wanted.insert(t.clone());
            wanted.insert(format!("{INCOMING}/{t}"));
        }
    }
    let strays: Vec<String> = files.into_iter().filter(|f| !wanted.contains(f)).collect();
    if remove {
        for f in &strays {
            discard(state, f.clone()).await;
        }
    }
    Ok(strays)
}
