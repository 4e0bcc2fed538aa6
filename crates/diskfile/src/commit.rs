//! Making names durable: one thread per device takes all directories that wait and syncs them in one
//! go, while the next ones queue.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Directories of one write, and who waits for them.
struct Job {
    /// Its data is on the way to the device and has to arrive before.
    data: Option<File>,
    dirs: Vec<File>,
    done: oneshot::Sender<io::Result<()>>,
}

#[derive(Default)]
struct Queue {
    jobs: Vec<Job>,
    running: bool,
    /// Writes that will submit their directories in a moment.
    coming: usize,
}

/// A device's queue. The thread starts with the first write and ends when nothing came for a while.
#[derive(Clone, Default)]
pub(crate) struct Syncer(Arc<(Mutex<Queue>, Condvar)>);

/// A thread without work ends after this time.
const IDLE: Duration = Duration::from_secs(10);
/// A batch waits at most this long for writes that have begun.
const MAX_LINGER: Duration = Duration::from_millis(2);
/// Writes made durable in one go.
const MAX_BATCH: usize = 1024;

/// A write that is about to come to [`Syncer::submit`]; batches wait for it a moment.
pub(crate) struct Coming<'a>(&'a Syncer);

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        let (queue, wake) = &*self.0.0;
        let mut q = lock(queue);
        q.coming = q.coming.saturating_sub(1);
        if q.coming == 0 {
            wake.notify_one();
        }
    }
}

fn lock(m: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A write whose name is not durable yet. It must not be acknowledged before [`Self::wait`] has said so.
#[must_use = "a write is durable only once it has been waited for"]
pub struct Pending(Option<oneshot::Receiver<io::Result<()>>>);

impl Pending {
    pub(crate) fn done() -> Self {
        Self(None)
    }

    /// Waits until the write survives a power loss. Errors: the device's.
    pub async fn wait(self) -> io::Result<()> {
        match self.0 {
            None => Ok(()),
            Some(rx) => rx.await.unwrap_or_else(|_| Err(io::Error::other("the syncing thread ended"))),
        }
    }

    /// As [`Self::wait`], for threads that may block.
    pub fn wait_blocking(self) -> io::Result<()> {
        match self.0 {
            None => Ok(()),
            Some(rx) => rx.blocking_recv().unwrap_or_else(|_| Err(io::Error::other("the syncing thread ended"))),
        }
    }
}

impl Syncer {
    /// Announces a write.
    pub fn coming(&self) -> Coming<'_> {
        lock(&self.0.0).coming += 1;
        Coming(self)
    }

    /// Queues open directories, and a file whose data was sent to the device with [`start_data`].
    pub fn submit(&self, data: Option<File>, dirs: Vec<File>) -> Pending {
        let (done, rx) = oneshot::channel();
        let (queue, wake) = &*self.0;
        let mut q = lock(queue);
        q.jobs.push(Job { data, dirs, done });
        if q.running {
            // The first wakes the thread, which then waits for others a bounded time; the last ends that wait.
            if q.jobs.len() == 1 || q.coming <= 1 {
                wake.notify_one();
            }
        } else {
            q.running = true;
            let shared = self.0.clone();
            let started = std::thread::Builder::new().name("object-sync".into()).spawn(move || run(&shared));
            if let Err(e) = started {
                q.running = false;
                let jobs = std::mem::take(&mut q.jobs);
                drop(q);
                tracing::warn!(error = %e, "no thread for syncing");
                sync_batch(jobs);
            }
        }
        Pending(Some(rx))
    }
}

fn run(shared: &(Mutex<Queue>, Condvar)) {
    let (queue, wake) = shared;
    let mut linger = Duration::ZERO;
    loop {
        let mut q = lock(queue);
        if q.jobs.is_empty() {
            let (guard, _) = wake.wait_timeout_while(q, IDLE, |q| q.jobs.is_empty()).unwrap_or_else(PoisonError::into_inner);
            q = guard;
            if q.jobs.is_empty() {
                q.running = false;
                return;
            }
        }
        if q.coming > 0 && !linger.is_zero() {
            let full = |q: &mut Queue| q.coming > 0 && q.jobs.len() < MAX_BATCH;
            (q, _) = wake.wait_timeout_while(q, linger, full).unwrap_or_else(PoisonError::into_inner);
        }
        let n = q.jobs.len().min(MAX_BATCH);
        let batch: Vec<Job> = q.jobs.drain(..n).collect();
        drop(q);
        let start = Instant::now();
        sync_batch(batch);
        // Waiting for others pays as long as it is short beside the sync that it saves.
        linger = (start.elapsed() / 2).min(MAX_LINGER);
    }
}

/// All data first, so that what the journal then says of it is true. The newest directory first: on a journal that is one
/// sequence, syncing it has synced the ones before, and asking for those costs next to nothing.
fn sync_batch(batch: Vec<Job>) {
    let arrived: Vec<io::Result<()>> = batch.iter().map(|job| job.data.as_ref().map_or(Ok(()), data_to_device)).collect();
    for (job, arrived) in batch.into_iter().zip(arrived).rev() {
        let result = arrived.and_then(|()| job.dirs.iter().try_for_each(File::sync_all));
        // The writer may have gone away; its write is durable all the same.
        let _ = job.done.send(result);
    }
}

/// Begins to write a file's data to the device.
pub(crate) fn start_data(file: &File) -> io::Result<()> {
    sync_range(file, libc::SYNC_FILE_RANGE_WRITE)
}

/// Writes a file's data to the device and waits for it, without a flush of the device's cache.
pub(crate) fn data_to_device(file: &File) -> io::Result<()> {
    sync_range(file, libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER)
}

fn sync_range(file: &File, flags: u32) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `file` lives; the call reads no memory of ours.
    let r = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Creates a directory and those above it as needed; gives the ones that changed: `dir` and the parents of
/// created ones, deepest first.
pub(crate) fn make_dirs(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut changed = vec![dir.to_path_buf()];
    // Mostly the object's directory is new, and often its suffix; the partition is there.
    let parent = dir.parent().unwrap_or(dir);
    match std::fs::create_dir(parent) {
        Ok(()) => changed.extend(parent.parent().map(Path::to_path_buf)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound && parent != dir => changed.extend(make_dirs(parent)?),
        Err(e) => return Err(e),
    }
    match std::fs::create_dir(dir) {
        Ok(()) => changed.insert(1, parent.to_path_buf()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e),
    }
    Ok(changed)
}
