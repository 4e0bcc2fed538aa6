//! The bytes of an archive, unpacked as they come.
//!
//! Unpacking goes in steps of bounded output, whatever the input claims to hold, and off the threads that serve.

use crate::http::BodyReader;
use bytes::{Buf, Bytes};
use std::io::Write;

/// Input of one step. Gzip makes at most 1,032 bytes of one.
const STEP_IN: usize = 1_024;
/// Output of one step of bzip2, which has no such bound.
const STEP_OUT: usize = 256 * 1_024;
/// What unpacks into more than a gigabyte and more than so many bytes for each of its own is no archive.
const MAX_RATIO: u64 = 5_000;
const FREE_BYTES: u64 = 1 << 30;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Packing {
    None,
    Gzip,
    Bzip2,
}

enum Unpacker {
    None,
    Gzip(Box<flate2::write::MultiGzDecoder<Vec<u8>>>),
    Bzip2 { state: Box<bzip2::Decompress>, input: Bytes, streams: u64, fresh: bool },
}

/// Reads what is in the archive.
pub(super) struct Archive {
    body: BodyReader,
    unpacker: Unpacker,
    ready: Bytes,
    made: u64,
    /// Bytes handed out.
    pub position: u64,
}

/// Why an archive cannot be read on, in the words clients know.
pub(super) type Broken = String;

fn bunzip(state: &mut bzip2::Decompress, input: &mut Bytes, fresh: &mut bool) -> Result<(Vec<u8>, bool), Broken> {
    let mut out = vec![0; STEP_OUT];
    let (before_in, before_out) = (state.total_in(), state.total_out());
    let status = state.decompress(input, &mut out).map_err(|_| "invalid compressed data")?;
    let (used, made) = (state.total_in() - before_in, state.total_out() - before_out);
    input.advance(usize::try_from(used).unwrap_or(0).min(input.len()));
    out.truncate(usize::try_from(made).unwrap_or(0));
    *fresh &= made == 0;
    Ok((out, status == bzip2::Status::StreamEnd))
}

impl Archive {
    pub fn new(body: BodyReader, packing: Packing) -> Self {
        let unpacker = match packing {
            Packing::None => Unpacker::None,
            Packing::Gzip => Unpacker::Gzip(Box::new(flate2::write::MultiGzDecoder::new(Vec::new()))),
            Packing::Bzip2 => {
                Unpacker::Bzip2 { state: Box::new(bzip2::Decompress::new(false)), input: Bytes::new(), streams: 0, fresh: true }
            }
        };
        Self { body, unpacker, ready: Bytes::new(), made: 0, position: 0 }
    }

    async fn input(&mut self, max: usize) -> Result<Option<Bytes>, Broken> {
        self.body.chunk(max).await.map_err(|_| "unexpected end of data".to_string())
    }

    /// One step. `false` at the end.
    async fn fill(&mut self) -> Result<bool, Broken> {
        let unpacker = std::mem::replace(&mut self.unpacker, Unpacker::None);
        let made = match unpacker {
            Unpacker::None => {
                let Some(data) = self.input(65_536).await? else { return Ok(false) };
                self.ready = data;
                return Ok(true);
            }
            Unpacker::Gzip(mut state) => {
                let Some(data) = self.input(STEP_IN).await? else { return Ok(false) };
                let first = self.made == 0 && self.body.taken == data.len() as u64;
                let step = tokio::task::spawn_blocking(move || {
                    let result = state.write_all(&data).and_then(|()| state.flush());
                    let out = std::mem::take(state.get_mut());
                    (state, result.map(|()| out))
                });
                let (state, result) = step.await.map_err(|_| "unpacking failed".to_string())?;
                self.unpacker = Unpacker::Gzip(state);
                result.map_err(|e| if first { "not a gzip file".to_string() } else { format!("invalid compressed data: {e}") })?
            }
            Unpacker::Bzip2 { mut state, mut input, mut streams, mut fresh } => {
                let more = if input.is_empty() { self.input(STEP_IN).await? } else { None };
                let ended = input.is_empty() && more.is_none();
                if let Some(data) = more {
                    input = data;
                }
                let step = tokio::task::spawn_blocking(move || {
                    let result = bunzip(&mut state, &mut input, &mut fresh);
                    (state, input, fresh, result)
                });
                let (state_back, input_back, fresh_back, result) = step.await.map_err(|_| "unpacking failed".to_string())?;
                (state, input, fresh) = (state_back, input_back, fresh_back);
                let (out, end) = match result {
                    // What follows a whole stream and is none itself is no part of the archive.
                    Err(_) if streams > 0 && fresh => return Ok(false),
                    other => other?,
                };
                let stuck = ended && out.is_empty() && !end;
                if end {
                    streams += 1;
                    fresh = true;
                    *state = bzip2::Decompress::new(false);
                }
                self.unpacker = Unpacker::Bzip2 { state, input, streams, fresh };
                if stuck || (end && ended && out.is_empty()) {
                    return Ok(false);
                }
                out
            }
        };
        self.made += made.len() as u64;
        if self.made > FREE_BYTES && self.made / MAX_RATIO > self.body.taken {
            return Err("too much data for its size".into());
        }
        self.ready = made.into();
        Ok(true)
    }

    /// Some bytes, at most `max`; `None` at the end.
    pub async fn chunk(&mut self, max: usize) -> Result<Option<Bytes>, Broken> {
        while self.ready.is_empty() {
            if !self.fill().await? {
                return Ok(None);
            }
        }
        let n = self.ready.len().min(max);
        self.position += n as u64;
        Ok(Some(self.ready.split_to(n)))
    }

    /// Exactly `n` bytes, fewer at the end.
    pub async fn take(&mut self, n: usize) -> Result<Vec<u8>, Broken> {
        let mut out = Vec::with_capacity(n.min(65_536));
        while out.len() < n {
            match self.chunk(n - out.len()).await? {
                Some(piece) => out.extend_from_slice(&piece),
                None => break,
            }
        }
        Ok(out)
    }

    /// Passes over `n` bytes; `false` when there are not as many.
    pub async fn skip(&mut self, mut n: u64) -> Result<bool, Broken> {
        while n > 0 {
            match self.chunk(usize::try_from(n).unwrap_or(usize::MAX)).await? {
                Some(piece) => n -= piece.len() as u64,
                None => return Ok(false),
            }
        }
        Ok(true)
    }
}
