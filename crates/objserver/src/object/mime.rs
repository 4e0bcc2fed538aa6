//! Uploads as a MIME document: the object first, then metadata that was known only at its end, then the
//! word to commit.

use super::input::Input;
use super::{Resp, headers, respond};
use bytes::{Buf, Bytes, BytesMut};
use caelum_diskfile::latin1;
use caelum_swiftkit::md5_hex;

/// Headers of a part at most.
const MAX_HEAD: usize = 64 << 10;
/// A metadata document at most.
const MAX_FOOTER: usize = 1 << 20;

/// Parts of a MIME document, one after the other.
pub(super) struct Mime {
    input: Input,
    /// `\r\n--BOUNDARY`.
    mark: Vec<u8>,
    buf: BytesMut,
    state: State,
    input_ended: bool,
}

#[derive(PartialEq)]
enum State {
    Before,
    InPart,
    Between,
    Done,
}

fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut at = 0;
    while let Some(n) = hay.get(at..)?.iter().position(|b| *b == first) {
        at += n;
        if hay.get(at..)?.starts_with(needle) {
            return Some(at);
        }
        at += 1;
    }
    None
}

impl Mime {
    pub fn new(input: Input, boundary: &str) -> Self {
        let mut mark = b"\r\n--".to_vec();
        mark.extend_from_slice(&caelum_diskfile::header_bytes(boundary));
        Self { input, mark, buf: BytesMut::new(), state: State::Before, input_ended: false }
    }

    async fn fill(&mut self) -> Result<(), Resp> {
        match self.input.next().await? {
            Some(b) => self.buf.extend_from_slice(&b),
            None => self.input_ended = true,
        }
        Ok(())
    }

    /// A line of at most `MAX_HEAD` bytes without its end.
    async fn line(&mut self) -> Result<Vec<u8>, Resp> {
        loop {
            if let Some(n) = find(&self.buf, b"\n") {
                let line = self.buf.split_to(n + 1);
                return Ok(line.trim_ascii_end().to_vec());
            }
            if self.input_ended || self.buf.len() > MAX_HEAD {
                return Err(respond::error(499));
            }
            self.fill().await?;
        }
    }

    /// Headers of the next part, names in lower case; `None` after the last.
    pub async fn next_part(&mut self) -> Result<Option<Vec<(String, String)>>, Resp> {
        match self.state {
            State::Done => return Ok(None),
            State::Before => {
                let mut line = self.line().await?;
                while line.is_empty() {
                    line = self.line().await?;
                }
                if line != self.mark.get(2..).unwrap_or_default() {
                    return Err(respond::error_text(400, "invalid starting boundary"));
                }
            }
            State::InPart => while self.chunk().await?.is_some() {},
            State::Between => {}
        }
        if self.state == State::Done {
            return Ok(None);
        }
        self.state = State::InPart;
        let mut out = Vec::new();
        let mut size = 0;
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(Some(out));
            }
            size += line.len();
            if size > MAX_HEAD {
                return Err(respond::text(400, "headers of a MIME part are too long"));
            }
            let line = latin1(&line);
            if let Some((k, v)) = line.split_once(':') {
                out.push((k.trim().to_ascii_lowercase(), v.trim().to_string()));
            }
        }
    }

    /// The next piece of the current part; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Resp> {
        if self.state != State::InPart {
            return Ok(None);
        }
        loop {
            if let Some(at) = find(&self.buf, &self.mark) {
                if at > 0 {
                    return Ok(Some(self.buf.split_to(at).freeze()));
                }
                if self.buf.len() < self.mark.len() + 2 && !self.input_ended {
                    self.fill().await?;
                    continue;
                }
                let last = self.buf.get(self.mark.len()..).is_some_and(|r| r.starts_with(b"--"));
                self.buf.advance((self.mark.len() + 2).min(self.buf.len()));
                self.state = if last { State::Done } else { State::Between };
                return Ok(None);
            }
            // What cannot be the beginning of a mark is data.
            let safe = self.buf.len().saturating_sub(self.mark.len() - 1);
            if safe > 0 {
                return Ok(Some(self.buf.split_to(safe).freeze()));
            }
            if self.input_ended {
                return Err(respond::error(499));
            }
            self.fill().await?;
        }
    }

    async fn part_body(&mut self, limit: usize) -> Result<Vec<u8>, Resp> {
        let mut out = Vec::new();
        while let Some(b) = self.chunk().await? {
            if out.len() + b.len() > limit {
                return Err(respond::error(413));
            }
            out.extend_from_slice(&b);
        }
        Ok(out)
    }

    /// Metadata that follows the object: names and values as JSON, checked against its MD5.
    pub async fn footer(&mut self) -> Result<Vec<(String, String)>, Resp> {
        let head = self.next_part().await?.ok_or_else(|| respond::error_text(400, "couldn't find footer MIME doc"))?;
        let body = self.part_body(MAX_FOOTER).await?;
        let sum = head.iter().find(|(k, _)| k == "content-md5").map(|(_, v)| v.as_str());
        match sum {
            None => return Err(respond::error_text(400, "no Content-MD5 in footer")),
            Some(sum) if sum != md5_hex(&body) => return Err(respond::error_text(422, "footer MD5 mismatch")),
            Some(_) => {}
        }
        let bad = || respond::error_text(400, "invalid JSON for footer doc");
        let json: serde_json::Value = serde_json::from_slice(&body).map_err(|_| bad())?;
        let text = |v: &serde_json::Value| match v {
            serde_json::Value::String(s) => s.clone(),
            other => other.to_string(),
        };
        Ok(json.as_object().ok_or_else(bad)?.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (headers::title(k), text(v))).collect())
    }

    /// Whether the next part is the word to commit.
    pub async fn commit(&mut self) -> Result<bool, Resp> {
        let head = self.next_part().await?.ok_or_else(|| respond::error_text(400, "couldn't find PUT commit MIME doc"))?;
        self.part_body(MAX_FOOTER).await?;
        Ok(head.iter().any(|(k, v)| k == "x-document" && v == "put commit"))
    }

    pub async fn drain(&mut self) -> Result<(), Resp> {
        while self.next_part().await?.is_some() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn parts_cut_anywhere() {
        let doc = b"\r\n--b1\r\nX-Document: object body\r\n\r\nda\r\n--b\r\nta\r\n--b1\r\nContent-MD5: \
            2b3a05fb5ae24f7a1d3c5e5e0a2a4dd7\r\n\r\n{\"etag\": \"X\"}\r\n--b1\r\nX-Document: put commit\r\n\r\nhi\r\n--b1--";
        let sum = md5_hex(b"{\"etag\": \"X\"}");
        let doc = String::from_utf8(doc.to_vec()).unwrap().replace("2b3a05fb5ae24f7a1d3c5e5e0a2a4dd7", &sum).into_bytes();
        for size in 1..=doc.len() {
            let (tx, body) = caelum_rest::stream_channel(doc.len() + 1);
            for piece in doc.chunks(size) {
                tx.send(Ok(Bytes::copy_from_slice(piece))).await.unwrap();
            }
            drop(tx);
            let mut m = Mime::new(Input::new(body, Duration::from_secs(5)), "b1");
            assert_eq!(m.next_part().await.unwrap().unwrap(), [("x-document".to_string(), "object body".to_string())]);
            let mut got = Vec::new();
            while let Some(b) = m.chunk().await.unwrap() {
                got.extend_from_slice(&b);
            }
            assert_eq!(got, b"da\r\n--b\r\nta", "{size}");
            assert_eq!(m.footer().await.unwrap(), [("Etag".to_string(), "X".to_string())]);
            assert!(m.commit().await.unwrap());
            assert!(m.next_part().await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn broken_documents() {
        for (doc, status) in [("--b2\r\n\r\n", 400), ("--b1\r\n\r\nda", 499), ("--b1", 499), ("", 499)] {
            let mut m = Mime::new(Input::new(caelum_rest::full(doc), Duration::from_secs(5)), "b1");
            let mut result = m.next_part().await.map(|_| ());
            while result.is_ok() {
                result = m.chunk().await.map(|c| assert!(c.is_some(), "{doc}"));
            }
            assert_eq!(result.unwrap_err().status().as_u16(), status, "{doc}");
        }
    }
}
