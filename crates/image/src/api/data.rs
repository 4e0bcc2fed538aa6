use super::{DOWNLOAD, MEMBER, find_authorized, is_admin, rule};
use crate::State;
use crate::logic::range::{self, Wanted};
use crate::store::Image;
use crate::transfer::{self, Goal, join};
use bytes::Bytes;
use caelum_base::{Error, Result};
use caelum_rest::{Body, BoxError, Ctx, Op, Reply, h, stream_channel};
use http::header;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use tokio::task::spawn_blocking;

pub const OPS: &[Op<State>] = &[
    Op::put("image_upload", "/images/{image_id}/file", rule("upload_image", MEMBER), h!(upload)).streams(),
    Op::get("image_download", "/images/{image_id}/file", rule("download_image", DOWNLOAD), h!(download)),
    Op::put("image_stage", "/images/{image_id}/stage", rule("modify_image", MEMBER), h!(stage)).streams(),
];

/// Bytes read at once for a download.
const CHUNK: u64 = 512 * 1024;

async fn upload(cx: Ctx<State>) -> Result<Reply> {
    receive(cx, Goal::Active).await
}

async fn stage(cx: Ctx<State>) -> Result<Reply> {
    receive(cx, Goal::Staging).await
}

async fn receive(mut cx: Ctx<State>, goal: Goal) -> Result<Reply> {
    let media = cx.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    if media.split(';').next().unwrap_or("").trim() != "application/octet-stream" {
        return Err(Error::status(415, "Image data must have the media type application/octet-stream."));
    }
    let number = |name: &str| {
        let text = cx.headers.get(name).map(|v| v.to_str().unwrap_or(""));
        text.map(|t| t.parse::<u64>().map_err(|_| Error::invalid("Invalid or missing image size in request headers."))).transpose()
    };
    let expected = number("x-openstack-image-size")?.or(number("content-length")?);
    let image = find_authorized(&cx).await?;
    let body = cx.take_body();
    transfer::upload(&cx.state, image, body, expected, goal).await?;
    Ok(Reply::no_content())
}

async fn download(cx: Ctx<State>) -> Result<Reply> {
    let image = find_authorized(&cx).await?;
    if image.status == "deactivated" && !is_admin(&cx) {
        return Err(Error::forbidden("The requested image has been deactivated. Image data download is forbidden."));
    }
    let (Some(facts), Some(name)) = (&image.data, &image.file) else { return Ok(Reply::no_content()) };
    let wanted = range::parse(cx.headers.get(header::RANGE).and_then(|v| v.to_str().ok()), facts.size);
    let (status, first, len) = match wanted {
        Wanted::All => (200, 0, facts.size),
        Wanted::Part(first, len) => (206, first, len),
        Wanted::Unsatisfiable => return Ok(unsatisfiable(&image, facts.size)),
    };
    let (state, name) = (cx.state.clone(), name.clone());
    let file = join(spawn_blocking(move || state.root.open_read(&name))).await?;
    let file = file.map_err(|e| Error::internal(format!("the file of image {} does not open", image.id)).caused_by(e))?;
    let reply = Reply::stream(status, "application/octet-stream", read(file, first, len))
        .header("content-length", len.to_string())
        .header("accept-ranges", "bytes");
    Ok(if status == 206 {
        reply.header("content-range", format!("bytes {first}-{}/{}", first + len - 1, facts.size))
    } else {
        reply.header("content-md5", &facts.checksum)
    })
}

fn unsatisfiable(image: &Image, size: u64) -> Reply {
    let text = format!("416 Requested Range Not Satisfiable\n\nImage {} has {size} bytes.\n", image.id);
    Reply::bytes(416, "text/plain; charset=UTF-8", text).header("content-range", format!("bytes */{size}"))
}

/// A body of `len` bytes from `first`. A file shorter than that breaks the transfer off.
fn read(file: File, first: u64, len: u64) -> Body {
    let (tx, body) = stream_channel(2);
    tokio::spawn(async move {
        let mut state = Ok((file, Bytes::new()));
        let mut done = 0;
        while done < len {
            let Ok((file, _)) = state else { break };
            let n = CHUNK.min(len - done);
            state = join(spawn_blocking(move || piece(file, first + done, n))).await.and_then(|r| r);
            let item = match &state {
                Ok((_, bytes)) => Ok(bytes.clone()),
                Err(e) => {
                    tracing::error!(error = e.chain(), "an image download broke off");
                    Err(BoxError::from("the image could not be read"))
                }
            };
            // A client that went away ends the reading.
            if tx.send(item).await.is_err() {
                break;
            }
            done += n;
        }
    });
    body
}

fn piece(mut file: File, at: u64, len: u64) -> Result<(File, Bytes)> {
    let failed = |e: std::io::Error| Error::internal("read image data").caused_by(e);
    let mut buffer = vec![0; usize::try_from(len).unwrap_or(0)];
    file.seek(SeekFrom::Start(at)).map_err(failed)?;
    file.read_exact(&mut buffer).map_err(failed)?;
    Ok((file, buffer.into()))
}
