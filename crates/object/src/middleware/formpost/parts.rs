//! `multipart/form-data`, read as it arrives.

use crate::http::BodyReader;
use bytes::{Bytes, BytesMut};
use caelum_rest::{Body, BoxError};

/// Longest head of a part in bytes.
const MAX_HEAD: usize = 16_384;
/// What is read from the client at once.
const CHUNK: usize = 65_536;

/// What is wrong with a form.
#[derive(Debug)]
pub enum FormError {
    /// It does not begin with its boundary.
    Start,
    /// The head of a part does not end.
    Head,
    /// The client broke off.
    Broken(BoxError),
}

impl From<BoxError> for FormError {
    fn from(e: BoxError) -> Self {
        Self::Broken(e)
    }
}

/// A header of a part, or a content type: first word and attributes, as in
/// `form-data; name="file"; filename="a.txt"`. Attributes that are not formed so end the list.
pub fn attributes(value: &str) -> (String, Vec<(String, String)>) {
    let Some((first, mut rest)) = value.split_once(';').map(|(f, r)| (f.trim(), r.trim())) else {
        return (value.to_string(), Vec::new());
    };
    let mut out = Vec::new();
    while let Some((name, value, tail)) = attribute(rest) {
        out.push((name.to_string(), value.trim_matches('"').to_string()));
        rest = tail;
    }
    (first.to_string(), out)
}

fn attribute(text: &str) -> Option<(&str, &str, &str)> {
    let (name, rest) = text.split_once('=')?;
    if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let end = match rest.strip_prefix('"') {
        Some(inner) => inner.find('"').filter(|e| !inner[..*e].contains('\n'))? + 2,
        None => rest.find(['"', ';']).unwrap_or(rest.len()),
    };
    let (value, tail) = rest.split_at(end);
    if value.is_empty() {
        return None;
    }
    let tail = match tail.strip_prefix(';') {
        Some(t) => t.strip_prefix(' ').unwrap_or(t),
        None if tail.is_empty() => tail,
        None => return None,
    };
    Some((name, value, tail))
}

/// The value of an attribute; of repeated ones the last counts.
pub fn find_attribute<'a>(all: &'a [(String, String)], name: &str) -> Option<&'a str> {
    all.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

/// The parts of a form, one after another.
pub struct Parts {
    reader: BodyReader,
    /// `\r\n--<boundary>`.
    boundary: Vec<u8>,
    buffer: BytesMut,
    ended: bool,
    /// The current part is over.
    between: bool,
    /// It was the last one.
    last: bool,
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(at) = haystack.get(from..)?.iter().position(|b| *b == first).map(|p| p + from) {
        if haystack[at..].starts_with(needle) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

impl Parts {
    /// Reads the first boundary. Empty lines may stand before it.
    pub async fn start(body: Body, boundary: &str) -> Result<Self, FormError> {
        let boundary = format!("\r\n--{boundary}").into_bytes();
        let mut this = Self { reader: BodyReader::new(body), boundary, buffer: BytesMut::new(), ended: false, between: true, last: false };
        let dashes = this.boundary[2..].to_vec();
        loop {
            while this.buffer.starts_with(b"\r\n") {
                let _ = this.buffer.split_to(2);
            }
            if this.buffer.len() >= dashes.len() + 2 || !this.fill().await? {
                break;
            }
        }
        let line = &this.buffer[..this.buffer.len().min(dashes.len() + 2)];
        let end = find(line, b"\n").map_or(line.len(), |e| e + 1);
        if line[..end].trim_ascii() != dashes {
            return Err(FormError::Start);
        }
        let _ = this.buffer.split_to(end);
        Ok(this)
    }

    async fn fill(&mut self) -> Result<bool, BoxError> {
        if self.ended {
            return Ok(false);
        }
        match self.reader.chunk(CHUNK).await? {
            Some(data) => self.buffer.extend_from_slice(&data),
            None => self.ended = true,
        }
        Ok(!self.ended)
    }

    /// The boundary stands at the buffer's beginning: passes it and sees whether it is the last.
    async fn pass_boundary(&mut self) -> Result<(), BoxError> {
        let n = self.boundary.len();
        while self.buffer.len() < n + 2 && self.fill().await? {}
        self.last = self.buffer[n..].starts_with(b"--");
        let _ = self.buffer.split_to(self.buffer.len().min(n + 2));
        self.between = true;
        Ok(())
    }

    /// The head of the next part: names in lower case, values as they stand. `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Vec<(String, String)>>, FormError> {
        while self.chunk().await?.is_some() {}
        if self.last || (self.ended && self.buffer.is_empty()) {
            return Ok(None);
        }
        self.between = false;
        loop {
            if self.buffer.starts_with(b"\r\n") && !self.boundary.starts_with(&self.buffer[..self.buffer.len().min(self.boundary.len())]) {
                let _ = self.buffer.split_to(2);
                return Ok(Some(Vec::new()));
            }
            let edge = find(&self.buffer, &self.boundary);
            let end = find(&self.buffer, b"\r\n\r\n").map(|e| e + 4);
            match (end, edge) {
                (Some(end), edge) if edge.is_none_or(|b| end <= b) && self.buffer.len() >= end + self.boundary.len() => {
                    return Ok(Some(headers(&self.buffer.split_to(end))));
                }
                (_, Some(b)) => {
                    let head = self.buffer.split_to(b);
                    self.pass_boundary().await?;
                    return Ok(Some(headers(&head)));
                }
                _ if end.is_none() && self.buffer.len() > MAX_HEAD => return Err(FormError::Head),
                _ => {}
            }
            if !self.fill().await? {
                let head = self.buffer.split_to(end.unwrap_or(self.buffer.len()));
                return Ok(Some(headers(&head)));
            }
        }
    }

    /// More of the current part's data; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, BoxError> {
        while !self.between {
            if let Some(at) = find(&self.buffer, &self.boundary) {
                let data = self.buffer.split_to(at).freeze();
                self.pass_boundary().await?;
                return Ok((!data.is_empty()).then_some(data));
            }
            // The boundary may have begun at the end of what is there.
            let keep = self.boundary.len() - 1;
            if self.buffer.len() > keep {
                let n = self.buffer.len() - keep;
                return Ok(Some(self.buffer.split_to(n).freeze()));
            }
            if !self.fill().await? {
                self.between = true;
                self.last = true;
                let data = self.buffer.split().freeze();
                return Ok((!data.is_empty()).then_some(data));
            }
        }
        Ok(None)
    }
}

fn headers(head: &[u8]) -> Vec<(String, String)> {
    let text = |l: &[u8]| String::from_utf8(l.to_vec()).unwrap_or_else(|_| l.iter().map(|b| char::from(*b)).collect());
    let mut out: Vec<(String, String)> = Vec::new();
    for line in head.split(|b| *b == b'\n').map(|l| text(l.strip_suffix(b"\r").unwrap_or(l))) {
        if let (true, Some(last)) = (line.starts_with([' ', '\t']), out.last_mut()) {
            last.1.push(' ');
            last.1.push_str(line.trim());
        } else if let Some((name, value)) = line.split_once(':') {
            out.push((name.trim().to_ascii_lowercase(), value.trim().to_string()));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_as_upstream_reads_them() {
        let a = |t: &str| attributes(t);
        let pair = |k: &str, v: &str| (k.to_string(), v.to_string());
        assert_eq!(
            a("form-data; name=\"x\"; filename=\"a;b.txt\""),
            ("form-data".into(), vec![pair("name", "x"), pair("filename", "a;b.txt")])
        );
        assert_eq!(a("form-data; name=x;filename=y z"), ("form-data".into(), vec![pair("name", "x"), pair("filename", "y z")]));
        assert_eq!(a("multipart/form-data"), ("multipart/form-data".into(), vec![]));
        assert_eq!(a("form-data; name=\"open"), ("form-data".into(), vec![]));
        assert_eq!(a("form-data; na-me=x; b=c"), ("form-data".into(), vec![]));
        assert_eq!(a("x; a=1 ;  b=2").1, [pair("a", "1 ")]);
    }

    async fn parse(body: &[u8], size: usize) -> Result<Vec<(Vec<(String, String)>, Vec<u8>)>, FormError> {
        let (tx, stream) = caelum_rest::stream_channel(10_000);
        for piece in body.chunks(size) {
            tx.send(Ok(Bytes::copy_from_slice(piece))).await.unwrap();
        }
        drop(tx);
        let mut parts = Parts::start(stream, "B").await?;
        let mut out = Vec::new();
        while let Some(head) = parts.next().await? {
            let mut data = Vec::new();
            while let Some(chunk) = parts.chunk().await? {
                data.extend_from_slice(&chunk);
            }
            out.push((head, data));
        }
        Ok(out)
    }

    #[tokio::test]
    async fn any_pieces_give_the_same_parts() {
        let body = b"\r\n--B\r\nContent-Disposition: form-data; name=\"a\"\r\nX: 1\r\n\r\nvalue\r\n--B\r\n\r\nno head\r\n--C\r\n--\r\n--B\r\nH: empty\r\n\r\n\r\n--B\r\nH: none\r\n\r\n--B\r\nf: g\r\n\r\n\r\n\r\n\r\r\n--B--\r\ntrailing";
        let whole = parse(body, 10_000).await.unwrap();
        let data: Vec<&[u8]> = whole.iter().map(|(_, d)| d.as_slice()).collect();
        assert_eq!(data, [&b"value"[..], b"no head\r\n--C\r\n--", b"", b"", b"\r\n\r\n\r"]);
        assert_eq!(whole[0].0.len(), 2);
        assert_eq!(whole[3].0, [("h".to_string(), "none".to_string())]);
        for size in [1, 2, 3, 5, 8, 40] {
            assert_eq!(parse(body, size).await.unwrap(), whole, "pieces of {size}");
        }
    }

    #[tokio::test]
    async fn beginnings_and_ends() {
        for bad in ["", "x", "--C\r\n", "--B--\r\n", "--Bx\r\n", "-", "preamble\r\n--B\r\n"] {
            assert!(matches!(parse(bad.as_bytes(), 100).await, Err(FormError::Start)), "{bad:?}");
        }
        let cut = parse(b"--B\r\nA: b\r\n\r\nda", 100).await.unwrap();
        assert_eq!((cut.len(), cut[0].1.as_slice()), (1, &b"da"[..]));
        assert_eq!(parse(b"--B\r\nA: b", 100).await.unwrap()[0].1, b"");
        assert_eq!(parse(b"--B\r\n", 100).await.unwrap(), [(vec![], vec![])]);
        let long = [b"--B\r\nA: ".to_vec(), vec![b'x'; 100_000]].concat();
        assert!(matches!(parse(&long, 1_000).await, Err(FormError::Head)));
    }
}
