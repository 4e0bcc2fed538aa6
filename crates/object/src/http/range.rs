use super::BodyReader;
use bytes::Bytes;
use caelum_rest::{Body, BoxError};
use caelum_swiftkit::ByteRange;

/// `bytes 0-9/100`.
pub fn content_range(range: ByteRange, length: u64) -> String {
    format!("bytes {}-{}/{length}", range.0, range.1.saturating_sub(1))
}

fn part_header(range: ByteRange, content_type: &str, boundary: &str, length: u64) -> String {
    format!("--{boundary}\r\nContent-Type: {content_type}\r\nContent-Range: {}\r\n\r\n", content_range(range, length))
}

/// Bytes of a `multipart/byteranges` answer.
pub fn multipart_length(ranges: &[ByteRange], content_type: &str, boundary: &str, length: u64) -> u64 {
    let parts: u64 = ranges.iter().map(|r| part_header(*r, content_type, boundary, length).len() as u64 + (r.1 - r.0) + 2).sum();
    parts + boundary.len() as u64 + 4
}

/// Puts the MIME parts around `data`, which yields the ranges' bytes one after another.
pub fn multipart_body(data: Body, ranges: Vec<ByteRange>, content_type: String, boundary: String, length: u64) -> Body {
    let (tx, body) = caelum_rest::stream_channel(1);
    tokio::spawn(async move {
        let mut data = BodyReader::new(data);
        for range in ranges {
            let head = part_header(range, &content_type, &boundary, length);
            if tx.send(Ok(Bytes::from(head))).await.is_err() {
                return;
            }
            let mut left = range.1 - range.0;
            while left > 0 {
                let want = usize::try_from(left).unwrap_or(usize::MAX);
                let next = tokio::select! { c = data.chunk(want) => c, () = tx.closed() => return };
                let piece = match next {
                    Ok(Some(piece)) => piece,
                    Ok(None) => return drop(tx.send(Err(BoxError::from("content ended early"))).await),
                    Err(e) => return drop(tx.send(Err(e)).await),
                };
                left -= piece.len() as u64;
                if tx.send(Ok(piece)).await.is_err() {
                    return;
                }
            }
            if tx.send(Ok(Bytes::from_static(b"\r\n"))).await.is_err() {
                return;
            }
        }
        // A client that has gone needs no end.
        let _ = tx.send(Ok(Bytes::from(format!("--{boundary}--")))).await;
    });
    body
}
