//! Imports: accepted with a task row, then run apart from the request.
//!
//! The task row is the durable record: a task that is not finished when the service starts is run
//! again from its beginning. Its last transaction writes image and task together, and only if the
//! image still waits for this task, so a deleted or re-imported image is never touched.

use crate::State;
use crate::logic::attributes;
use crate::store::{Image, Staged, Task, image_delete, image_insert, image_update, tasks_expire};
use crate::transfer::{self, Signal};
use caelum_base::{Error, Result, Timestamp};
use caelum_safeio::fetch::{FetchPolicy, fetch};
use caelum_store::{Query, Stored, Tx};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::spawn_blocking;

pub const METHODS: [&str; 2] = ["glance-direct", "web-download"];
/// How long finished tasks are kept (upstream's `task_time_to_live`, 48 h).
const TASK_LIFE: Duration = Duration::from_secs(48 * 3600);

/// Who asked for an import.
#[derive(Clone)]
pub struct Asked {
    pub owner: Option<String>,
    pub user_id: String,
    pub request_id: String,
}

/// Takes an import of an existing image on. `uri` is set for `web-download`. Errors: `Conflict`
/// when the image is not in the right state.
pub async fn accept(state: &Arc<State>, image_id: &str, method: &'static str, uri: Option<&str>, body: Value, asked: Asked) -> Result<()> {
    if let Some(uri) = uri {
        check_uri(uri)?;
    }
    let input = json!({"image_id": image_id, "import_req": body, "backend": [crate::api::STORE]});
    let task = new_task(state, "api_image_import", Some(image_id.to_string()), input, asked);
    let (id, now, t) = (image_id.to_string(), state.env.now(), task.clone());
    state
        .db
        .write(move |tx| {
            let mut image = tx.require::<Image>("Image", &id)?;
            check_ready(&image, method)?;
            image.status = "importing".into();
            image.import_task = Some(t.id.clone());
            image.import_failed = false;
            image.updated_at = now;
            image_update(tx, &mut image)?;
            tasks_expire(tx, now)?;
            tx.insert(&t)?;
            Ok(())
        })
        .await?;
    spawn(state, task.id);
    Ok(())
}

/// Takes on an import that makes its own image (`POST /v2/tasks`).
pub async fn accept_new(state: &Arc<State>, mut image: Image, input: Value, asked: Asked) -> Result<Task> {
    check_uri(input.get("import_from").and_then(Value::as_str).unwrap_or(""))?;
    image.id = state.env.uuid();
    let task = new_task(state, "import", Some(image.id.clone()), input, asked);
    (image.created_at, image.updated_at) = (task.created_at, task.created_at);
    image.status = "importing".into();
    image.import_task = Some(task.id.clone());
    let (t, now) = (task.clone(), task.created_at);
    state
        .db
        .write(move |tx| {
            image_insert(tx, &image)?;
            tasks_expire(tx, now)?;
            tx.insert(&t)?;
            Ok(())
        })
        .await?;
    spawn(state, task.id.clone());
    Ok(task)
}

fn new_task(state: &State, kind: &str, image_id: Option<String>, input: Value, asked: Asked) -> Task {
    let now = state.env.now();
    Task {
        id: state.env.uuid(),
        kind: kind.into(),
        status: "pending".into(),
        owner: asked.owner,
        user_id: asked.user_id,
        request_id: asked.request_id,
        image_id,
        input,
        result: None,
        message: String::new(),
        created_at: now,
        updated_at: now,
        expires_at: None,
    }
}

fn check_uri(uri: &str) -> Result<()> {
    if uri.len() <= 2048 && uri.starts_with("http://") && uri.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    let shown: String = uri.chars().filter(|c| !c.is_control()).take(200).collect();
    Err(Error::invalid(format!("URI for web-download does not pass filtering: {shown}")))
}

fn check_ready(image: &Image, method: &str) -> Result<()> {
    let conflict = |text: &str| Err(Error::conflict(text));
    match (image.status.as_str(), method) {
        ("active", _) => return conflict("Image with status active cannot be target for import"),
        ("queued", "web-download") | ("uploading", "glance-direct") => {}
        (_, "web-download") => return conflict("Image needs to be in 'queued' state to use 'web-download' method"),
        _ => return conflict("Image needs to be staged before 'glance-direct' method can be used"),
    }
    if method == "glance-direct" && image.staged.is_none() {
        return conflict("Image needs to be staged before 'glance-direct' method can be used");
    }
    if image.container_format.is_none() {
        return conflict("'container_format' needs to be set before import");
    }
    if image.disk_format.is_none() {
        return conflict("'disk_format' needs to be set before import");
    }
    Ok(())
}

/// Runs unfinished tasks again.
pub async fn resume(state: &Arc<State>) -> Result<()> {
    let open = Query::new().is_in("status", ["pending", "processing"]);
    for task in state.db.list::<Task>(open).await? {
        spawn(state, task.id.clone());
    }
    Ok(())
}

fn spawn(state: &Arc<State>, task_id: String) {
    let st = state.clone();
    state.transfers.spawn(async move {
        if let Err(e) = run(&st, &task_id).await {
            // Left for the next start: the row still says that it is not finished.
            tracing::error!(task = task_id, error = e.chain(), "an image import was interrupted");
        }
    });
}

async fn run(state: &Arc<State>, task_id: &str) -> Result<()> {
    let Some((task, image, limit)) = begin(state, task_id).await? else { return Ok(()) };
    let direct = task.input.pointer("/import_req/method/name").and_then(Value::as_str) == Some("glance-direct");
    let outcome = if direct {
        image.staged.clone().ok_or_else(|| Error::internal("nothing is staged"))
    } else {
        let uri = task.input.pointer("/import_req/method/uri").or(task.input.get("import_from"));
        download(state, &image, uri.and_then(Value::as_str).unwrap_or(""), limit).await
    };
    let outcome = match outcome {
        Ok(Staged::Refused(reason)) => Err(transfer::refusal(&reason)),
        Ok(Staged::Good(facts)) => Ok(facts),
        // Not the import's fault: it goes on after the next start.
        Err(e) if e.code == "stopping" => return Ok(()),
        Err(e) => Err(e),
    };
    let result = match outcome {
        Ok(facts) => succeed(state, &task, &image, facts, direct).await,
        Err(e) => Err(e),
    };
    if let Err(e) = result {
        tracing::info!(task = task.id, image = image.id, error = e.chain(), "an image import failed");
        fail(state, &task, &image, &e.message).await?;
    }
    Ok(())
}

/// Marks the task as processing and names its transfer. `None` when the image no longer waits.
async fn begin(state: &Arc<State>, task_id: &str) -> Result<Option<(Task, Image, u64)>> {
    let (id, now, file) = (task_id.to_string(), state.env.now(), state.env.hex_id());
    let max = state.image_size_max_bytes;
    state
        .db
        .write(move |tx| {
            let Some(mut task) = tx.get::<Task>(&id)?.filter(|t| !t.finished()) else { return Ok(None) };
            let Some(mut image) = waiting(tx, &task)? else {
                end_task(tx, &mut task, now, Err("The image is gone."))?;
                return Ok(None);
            };
            if image.staged.is_none() {
                image.transfer = Some(format!("{}.{file}", image.id));
                image_update(tx, &mut image)?;
            }
            task.status = "processing".into();
            task.updated_at = now;
            tx.update(&mut task)?;
            Ok(Some((task.into_inner(), image.into_inner(), max)))
        })
        .await
}

/// The task's image, if it still waits for it.
fn waiting(tx: &mut Tx<'_>, task: &Task) -> Result<Option<Stored<Image>>> {
    let Some(id) = &task.image_id else { return Ok(None) };
    Ok(tx.get::<Image>(id)?.filter(|i| i.import_task.as_deref() == Some(&task.id)))
}

fn end_task(tx: &mut Tx<'_>, task: &mut Stored<Task>, now: Timestamp, outcome: Result<Value, &str>) -> Result<()> {
    match outcome {
        Ok(result) => {
            task.status = "success".into();
            task.result = Some(result);
        }
        Err(message) => {
            task.status = "failure".into();
            task.message = message.into();
        }
    }
    task.updated_at = now;
    task.expires_at = Some(now.plus(TASK_LIFE));
    tx.update(task)
}

/// Fetches into the image's transfer file, on a thread that may block: the disk sets the pace.
async fn download(state: &Arc<State>, image: &Image, uri: &str, limit: u64) -> Result<Staged> {
    let mut ingest = Some(transfer::open_ingest(state, image, limit)?);
    let mut signal = transfer::listen(state, image).await?;
    let policy = FetchPolicy { body_max_bytes: limit.min(state.fetch.body_max_bytes), ..state.fetch.clone() };
    let (uri, runtime) = (uri.to_string(), tokio::runtime::Handle::current());
    let work = spawn_blocking(move || {
        let ended = runtime.block_on(async {
            let sink = |b: bytes::Bytes| ingest.as_mut().map_or(Ok(()), |i| i.write(&b));
            tokio::select! {
                biased;
                s = signal.wait_for(|s| *s != Signal::Run) => Err(s.map_or(Signal::Stop, |s| *s)),
                r = fetch(&uri, &policy, sink) => Ok(r),
            }
        });
        (ended, ingest, signal)
    });
    let (ended, ingest, signal) = transfer::join(work).await?;
    state.transfers.unlisten(&image.id, signal);
    match ended {
        Err(signal) => Err(transfer::stopped(signal, image)),
        Ok(result) => {
            result?;
            let ingest = ingest.ok_or_else(|| Error::internal("the download has no file"))?;
            transfer::join(spawn_blocking(move || ingest.finish())).await?
        }
    }
}

async fn succeed(state: &Arc<State>, task: &Task, image: &Image, facts: crate::store::Facts, direct: bool) -> Result<()> {
    let kept = if direct { None } else { Some(transfer::keep(state, image).await?) };
    let (id, now, quota, file) = (task.id.clone(), state.env.now(), state.project_quota_bytes, kept.clone());
    let written = state.db.write(move |tx| {
        let mut task = tx.require::<Task>("Task", &id)?;
        let mut image = waiting(tx, &task)?.ok_or_else(|| Error::not_found("The image is gone."))?;
        transfer::activate(tx, &mut image, facts.clone(), quota)?;
        if let Some(file) = &file {
            image.file = Some(file.clone());
        }
        image.transfer = None;
        image.import_task = None;
        image.updated_at = now;
        let result = json!({"image_id": image.id});
        image_update(tx, &mut image)?;
        end_task(tx, &mut task, now, Ok(result))
    });
    let result = written.await;
    if let (Err(_), Some(file)) = (&result, kept) {
        transfer::discard(state, file).await;
    }
    result
}

/// Ends a task without success: its image is queued again, or goes if the task made it.
async fn fail(state: &Arc<State>, task: &Task, image: &Image, message: &str) -> Result<()> {
    let (id, now, text) = (task.id.clone(), state.env.now(), message.to_string());
    let files = state.db.write(move |tx| {
        let mut task = tx.require::<Task>("Task", &id)?;
        let mut files = Vec::new();
        if let Some(mut image) = waiting(tx, &task)? {
            files.extend(image.transfer.as_ref().map(|t| format!("{}/{t}", transfer::INCOMING)));
            files.extend(image.reset());
            image.import_failed = true;
            image.updated_at = now;
            if task.kind == "import" {
                image_delete(tx, &image)?;
            } else {
                image_update(tx, &mut image)?;
            }
        }
        end_task(tx, &mut task, now, Err(&text))?;
        Ok(files)
    });
    let mut files = files.await?;
    // The image may be gone; what this run wrote goes in any case.
    files.extend(image.transfer.as_ref().map(|t| format!("{}/{t}", transfer::INCOMING)));
    for f in files {
        transfer::discard(state, f).await;
    }
    Ok(())
}

/// The image a task of kind `import` asks for.
pub fn image_of_task(input: &Value) -> Result<Image> {
    let wanted = input.get("image_properties").and_then(Value::as_object);
    let wanted = wanted.ok_or_else(|| Error::invalid("Input does not contain 'image_properties' field"))?;
    for key in ["import_from", "import_from_format"] {
        if !input.get(key).is_some_and(Value::is_string) {
            return Err(Error::invalid(format!("Input does not contain '{key}' field")));
        }
    }
    let mut image = attributes::from_create(wanted)?;
    if image.disk_format.is_none() {
        image.disk_format = input.get("import_from_format").and_then(Value::as_str).map(String::from);
    }
    image.container_format.get_or_insert_with(|| "bare".into());
    Ok(image)
}
