//! PUSH: a whole database from another node, into the device's `tmp`. `PUSH /DEVICE/PARTITION/NAME` takes
//! the place of the rsync daemon between nodes of this program; what happens with the file is then told by
//! REPLICATE, as it is after rsync.

use crate::db::{Answer, Disks, Target, bad_request, status};
use bytes::Bytes;
use caelum_broker::BrokerError;
use caelum_rest::Body;
use http_body_util::BodyExt;
use std::io::Write;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// Pieces of the body on their way to the disk.
const AHEAD: usize = 8;

pub(crate) async fn receive(disks: Disks, target: Target, mut body: Body) -> Answer {
    let name = target.account.clone();
    if name.starts_with('.') || name.contains(['/', '\0']) {
        return Err(bad_request("Invalid file name"));
    }
    let (tx, rx) = mpsc::channel::<Option<Bytes>>(AHEAD);
    let writer = tokio::task::spawn_blocking(move || write(&disks, &target.device, &name, rx));
    let whole = loop {
        match body.frame().await {
            None => break true,
            Some(Err(_)) => break false,
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                if tx.send(Some(data)).await.is_err() {
                    break false;
                }
            }
        }
    };
    if whole {
        // The writer may have failed already; it says how.
        let _ = tx.send(None).await;
    }
    // Without the end mark the file is discarded.
    drop(tx);
    match writer.await {
        Ok(done) => done.map(|()| status(201)),
        Err(_) => Err(status(500).into()),
    }
}

fn write(disks: &Disks, device: &str, name: &str, mut rx: mpsc::Receiver<Option<Bytes>>) -> Answer<()> {
    let root = disks.writable(device)?;
    let path = root.join("tmp").join(name);
    let result = fill(&path, &mut rx);
    if !matches!(result, Ok(true)) {
        // It may not have been created.
        let _ = std::fs::remove_file(&path);
    }
    match result {
        Ok(true) => Ok(()),
        Ok(false) => Err(bad_request("The file ended early")),
        Err(e) => Err(BrokerError::Io(path, e).into()),
    }
}

/// True when the file has come whole.
fn fill(path: &Path, rx: &mut mpsc::Receiver<Option<Bytes>>) -> std::io::Result<bool> {
    let dir: PathBuf = path.parent().map(Path::to_path_buf).unwrap_or_default();
    std::fs::create_dir_all(&dir)?;
    let mut file = std::fs::File::create(path)?;
    while let Some(item) = rx.blocking_recv() {
        match item {
            Some(data) => file.write_all(&data)?,
            None => {
                file.sync_all()?;
                return Ok(true);
            }
        }
    }
    Ok(false)
}
