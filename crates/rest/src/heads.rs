//! The heads of requests as they came over the link.
//!
//! The HTTP library drops what it has decided about: a `Content-Length` beside `Transfer-Encoding`, or a second one, is
//! gone when the service sees the request, and lines that end without a carriage return look like others. A program
//! on the way (a load balancer) may have decided otherwise and take the rest of the body for another request. So the
//! bytes are looked at here, before the library, and the service is told the first request that may be read in two ways.
//!
//! Bodies are passed over: by their length at no cost, chunked ones from size line to size line.
//!
//! Names of headers that the library would refuse are read on the way (see [`crate::names`]). For that, the library
//! gets whole lines of a head only.

use crate::names;
use caelum_base::limits::MAX_HEADER_BYTES;

/// Longest line with a chunk's size or trailer.
const MAX_CHUNK_LINE: usize = 8_192;

#[derive(Debug, PartialEq)]
enum At {
    /// Before or in a head; `lines` of it have ended.
    Head { lines: usize },
    /// In a body or chunk, so many bytes before its end.
    Data { left: u64, chunked: bool },
    /// In the line with a chunk's size.
    Size,
    /// After the last chunk.
    Trailer,
    /// Nothing more is looked at.
    Lost,
}

/// What the lines of one head say of its body.
#[derive(Debug, Default)]
struct Framing {
    length: Option<u64>,
    chunked: bool,
    ambiguous: bool,
}

/// Follows a connection's requests.
#[derive(Debug)]
pub(crate) struct Heads {
    at: At,
    framing: Framing,
    /// The line whose end has not come.
    held: Vec<u8>,
    /// Bytes of the present head.
    size: usize,
    seen: u64,
    /// Names are read, and what is held of a head has not been handed on.
    reads_names: bool,
    /// The present line with its name read.
    read: Option<Vec<u8>>,
}

/// What [`Heads::feed`] found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The number (from 0) of the first request that may be read in two ways, once: it and all after it are not to
    /// be trusted.
    pub doubtful: Option<u64>,
    /// To be handed on in place of the bytes fed.
    pub instead: Option<Vec<u8>>,
}

/// What is handed on: the input as it is, until something differs.
struct Passed<'a> {
    input: &'a [u8],
    instead: Option<Vec<u8>>,
}

impl Passed<'_> {
    /// The input's bytes from `at` on are handed on in another form.
    fn differs(&mut self, at: usize) -> &mut Vec<u8> {
        self.instead.get_or_insert_with(|| self.input[..at].to_vec())
    }

    fn same(&mut self, bytes: &[u8]) {
        if let Some(out) = &mut self.instead {
            out.extend_from_slice(bytes);
        }
    }
}

impl Heads {
    /// Follows requests that come in; names are read.
    pub fn new() -> Self {
        Self { reads_names: true, ..Self::watching() }
    }

    /// Follows requests of our own.
    pub fn watching() -> Self {
        Self { at: At::Head { lines: 0 }, framing: Framing::default(), held: Vec::new(), size: 0, seen: 0, reads_names: false, read: None }
    }

    /// Requests whose head has ended.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Whether the next byte begins a request.
    pub fn at_start(&self) -> bool {
        self.at == At::Head { lines: 0 } && self.held.is_empty()
    }

    /// Whether an incomplete line is kept back. A head's first line has no name.
    fn holds_back(&self) -> bool {
        self.reads_names && matches!(self.at, At::Head { lines: 1.. })
    }

    /// The connection no longer speaks HTTP: gives what was kept back and leaves all alone from here on.
    pub fn let_go(&mut self) -> Vec<u8> {
        let back = if self.holds_back() { std::mem::take(&mut self.held) } else { Vec::new() };
        self.at = At::Lost;
        back
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, all: &[u8]) -> Found {
        let mut input = all;
        let mut passed = Passed { input: all, instead: None };
        let mut doubtful = None;
        while !input.is_empty() {
            let here = all.len() - input.len();
            match &mut self.at {
                At::Lost => {
                    passed.same(input);
                    break;
                }
                At::Data { left, chunked } => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    *left -= n as u64;
                    if *left == 0 {
                        self.at = if *chunked { At::Size } else { At::Head { lines: 0 } };
                    }
                    passed.same(&input[..n]);
                    input = &input[n..];
                }
                _ => {
                    let Some(end) = input.iter().position(|b| *b == b'\n') else {
                        doubtful = self.hold(input, here, &mut passed);
                        break;
                    };
                    let (line, rest) = input.split_at(end + 1);
                    input = rest;
                    if !self.whole_line(line, here, &mut passed) {
                        doubtful = self.lose();
                    }
                }
            }
        }
        Found { doubtful, instead: passed.instead }
    }

    /// A line whose end has not come.
    fn hold(&mut self, line: &[u8], here: usize, passed: &mut Passed<'_>) -> Option<u64> {
        self.held.extend_from_slice(line);
        let too_long = self.held.len() > MAX_HEADER_BYTES;
        match (self.holds_back(), too_long) {
            (true, true) => passed.differs(here).extend_from_slice(&self.held),
            (true, false) => {
                passed.differs(here);
            }
            (false, _) => passed.same(line),
        }
        if too_long { self.lose() } else { None }
    }

    /// The end of a line. False when it may be read in two ways.
    fn whole_line(&mut self, line: &[u8], here: usize, passed: &mut Passed<'_>) -> bool {
        let (back, begun) = (self.holds_back(), !self.held.is_empty());
        if !begun {
            let known = self.line(line).is_some();
            match self.read.take() {
                Some(read) => passed.differs(here).extend_from_slice(&read),
                None => passed.same(line),
            }
            return known;
        }
        let mut whole = std::mem::take(&mut self.held);
        whole.extend_from_slice(line);
        let known = self.line(&whole).is_some();
        match self.read.take() {
            Some(read) => passed.differs(here).extend_from_slice(&read),
            None if back => passed.differs(here).extend_from_slice(&whole),
            None => passed.same(line),
        }
        whole.clear();
        self.held = whole;
        known
    }

    fn lose(&mut self) -> Option<u64> {
        self.at = At::Lost;
        self.held = Vec::new();
        Some(self.seen)
    }

    /// One whole line. `None` when it, or the head it ends, may be read in two ways.
    fn line(&mut self, line: &[u8]) -> Option<()> {
        let text = line.strip_suffix(b"\r\n")?;
        if text.contains(&b'\r') {
            return None;
        }
        match self.at {
            At::Head { lines } => {
                self.size += line.len();
                match (lines, text.is_empty()) {
                    // Empty lines before a request are left out by all.
                    (0, true) => {}
                    (_, true) => return self.end_of_head(),
                    (0, false) => self.at = At::Head { lines: 1 },
                    (_, false) => {
                        let colon = names::colon(text);
                        self.framing.header(text, colon.map(|(at, _)| at));
                        if let Some((at, true)) = colon.filter(|_| self.reads_names) {
                            self.read = names::read_line(line, at, true);
                        }
                        self.at = At::Head { lines: lines + 1 };
                    }
                }
                (self.size <= MAX_HEADER_BYTES).then_some(())
            }
            At::Size => {
                let size = text.split(|b| *b == b';').next().unwrap_or(text);
                let size = std::str::from_utf8(size.trim_ascii()).ok().filter(|s| !s.starts_with('+'))?;
                let size = u64::from_str_radix(size, 16).ok().filter(|_| line.len() <= MAX_CHUNK_LINE)?;
                // With the end of line behind it.
                self.at = if size == 0 { At::Trailer } else { At::Data { left: size.checked_add(2)?, chunked: true } };
                Some(())
            }
            At::Trailer => {
                if text.is_empty() {
                    self.at = At::Head { lines: 0 };
                }
                (line.len() <= MAX_CHUNK_LINE).then_some(())
            }
            At::Data { .. } | At::Lost => None,
        }
    }

    fn end_of_head(&mut self) -> Option<()> {
        let framing = std::mem::take(&mut self.framing);
        if framing.ambiguous || framing.chunked && framing.length.is_some() {
            return None;
        }
        self.seen += 1;
        self.size = 0;
        self.at = match framing.length {
            _ if framing.chunked => At::Size,
            Some(left) if left > 0 => At::Data { left, chunked: false },
            _ => At::Head { lines: 0 },
        };
        Some(())
    }
}

impl Framing {
    fn header(&mut self, line: &[u8], colon: Option<usize>) {
        let Some((name, value)) = colon.map(|at| (&line[..at], &line[at + 1..])) else {
            self.ambiguous = true;
            return;
        };
        // Blanks around the name: a continued line, or a name that some read without them.
        let blank = |b: Option<&u8>| b.is_none_or(u8::is_ascii_whitespace);
        if blank(name.first()) || blank(name.last()) {
            self.ambiguous = true;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let digits = value.trim_ascii();
            let number = std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_digit)).and_then(|s| s.parse().ok());
            self.ambiguous |= number.is_none() || self.length.is_some();
            self.length = number;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.ambiguous |= self.chunked || !value.trim_ascii().eq_ignore_ascii_case(b"chunked");
            self.chunked = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of the first bad request, however the bytes are cut.
    fn bad(input: &str) -> Option<u64> {
        let input = input.as_bytes();
        let of = |n: usize| {
            let mut heads = Heads::new();
            input.chunks(n).find_map(|c| heads.feed(c).doubtful)
        };
        let whole = of(input.len());
        for n in 1..input.len().min(60) {
            assert_eq!(of(n), whole, "{n}");
        }
        whole
    }

    #[test]
    fn plain_requests_follow_each_other() {
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let put = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n\r\n: \n\r bad";
        let chunked =
            "PUT / HTTP/1.1\r\nTRANSFER-encoding:  Chunked \r\nHost: a\r\n\r\n5;x=y\r\na\nb\r\r\r\nA\r\n0123456789\r\n0\r\nT: x\r\n\r\n";
        for input in [get, put, chunked] {
            assert_eq!(bad(&format!("{put}{chunked}\r\n{get}{input}")), None, "{input}");
        }
        let wrong = "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(bad(&format!("{chunked}{put}{get}{wrong}{get}")), Some(3));
    }

    #[test]
    fn what_may_be_read_in_two_ways() {
        for lines in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\ncontent-length: 6\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: -5\r\n",
            "Content-Length:\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Transfer-Encoding: identity, chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding: \"chunked\"\r\n",
            "Transfer-Encoding : chunked\r\n",
            "Transfer-Encoding\t: chunked\r\n",
            " Transfer-Encoding: chunked\r\n",
            "X: a\r\n Transfer-Encoding: chunked\r\n",
            "X: a\r\n\tb\r\n",
            "X: a\nY: b\r\n",
            "X: a\rY: b\r\n",
            "X: a\r\r\n",
            "no colon\r\n",
            ": empty\r\n",
        ] {
            assert_eq!(bad(&format!("PUT / HTTP/1.1\r\nHost: a\r\n{lines}\r\nhello")), Some(0), "{lines}");
        }
        assert_eq!(bad("GET / HTTP/1.1\nHost: a\n\n"), Some(0));
        assert_eq!(bad("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), Some(0));
        for size in ["5\n", "+5\r\n", "g\r\n", "\r\n", "5\r5\r\n", "ffffffffffffffff\r\n", "fffffffffffffffff\r\n"] {
            // What follows the request with this body is in doubt.
            assert_eq!(bad(&format!("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{size}")), Some(1), "{size:?}");
        }
    }

    #[test]
    fn heads_without_an_end() {
        let mut heads = Heads::new();
        let mut found = heads.feed(b"GET / HTTP/1.1\r\n").doubtful;
        for _ in 0..10_000 {
            found = found.or(heads.feed(b"X: 12345678\r\n").doubtful);
        }
        assert_eq!(found, Some(0));
        let mut heads = Heads::new();
        let found = (0..10_000).find_map(|_| heads.feed(b"GET /aaaaaa").doubtful);
        assert!(found == Some(0) && heads.held.is_empty());
    }

    /// What is handed on, with the bytes cut into pieces of `n`.
    fn handed_on(input: &[u8], n: usize) -> Vec<u8> {
        let mut heads = Heads::new();
        let mut out = Vec::new();
        for piece in input.chunks(n) {
            match heads.feed(piece).instead {
                Some(instead) => out.extend(instead),
                None => out.extend_from_slice(piece),
            }
        }
        out
    }

    #[test]
    fn names_are_read_and_bodies_are_not() {
        let odd = "X-Object-Meta-A=5Fb: c=5Fd\r\nX-Object-Meta-\u{fc}: 1\r\n";
        let read = "X-Object-Meta-A_b: c=5Fd\r\nX-Object-Meta-^c3^bc: 1\r\n";
        let body = "x-object-meta-a=5Fb: 1\r\n\r\nx-object-meta-a=5Fb: 1\r\n";
        let with = |lines: &str| {
            let length = body.len();
            format!(
                "PUT /=5F HTTP/1.1\r\n{lines}Content-Length: {length}\r\n\r\n{body}\
                 PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n{lines}\r\n{length:x}\r\n{body}\r\n0\r\n\r\n\
                 GET / HTTP/1.1\r\n{lines}\r\n"
            )
        };
        let (input, want) = (with(odd), with(read));
        for n in (1..80).chain([100, 200, 1000]) {
            assert_eq!(String::from_utf8(handed_on(input.as_bytes(), n)).unwrap(), want, "{n}");
            assert_eq!(handed_on(with("").as_bytes(), n), with("").as_bytes());
        }
        let mut heads = Heads::new();
        assert!(heads.feed(with("X_Y: 1\r\n").as_bytes()).instead.is_none());
        // Nothing is kept back of what is in doubt.
        let bad = format!("GET / HTTP/1.1\r\nX: 1\nX-Object-Meta-A=5Fb: 1\r\n\r\n{}", "x".repeat(MAX_HEADER_BYTES * 2));
        for n in [1, 7, 100_000] {
            assert_eq!(handed_on(bad.as_bytes(), n), bad.as_bytes());
        }
        let long = "x".repeat(MAX_HEADER_BYTES * 2);
        assert_eq!(handed_on(long.as_bytes(), 1000), long.as_bytes());
    }
}
