//! Listings as text, JSON and XML, byte for byte as upstream's servers write them.

use crate::db::reply::{Answer, status, text_reply};
use crate::db::request::{Params, header};
use caelum_swiftkit::Timestamp;
use caelum_swiftkit::python::json_text;
use http::HeaderMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Plain,
    Json,
    Xml,
    TextXml,
}

impl Format {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Plain => "text/plain; charset=utf-8",
            Self::Json => "application/json; charset=utf-8",
            Self::Xml => "application/xml; charset=utf-8",
            Self::TextXml => "text/xml; charset=utf-8",
        }
    }

    /// `format=`, else `Accept`. Errors: 400 when that is malformed, 406 when it allows none.
    pub fn choose(params: &Params, headers: &HeaderMap) -> Answer<Self> {
        if let Some(format) = params.get("format")?.filter(|f| !f.is_empty()) {
            return Ok(match format.to_ascii_lowercase().as_str() {
                "json" => Self::Json,
                "xml" => Self::Xml,
                _ => Self::Plain,
            });
        }
        match header(headers, "accept").filter(|a| !a.is_empty()) {
            None => Ok(Self::Plain),
            Some(accept) => match best(accept) {
                Some(Some(f)) => Ok(f),
                Some(None) => Err(status(406).into()),
                None => Err(text_reply(400, "text/html; charset=UTF-8", "Invalid Accept header").into()),
            },
        }
    }
}

const OFFERED: [(Format, &str, &str); 4] = [
    (Format::Plain, "text", "plain"),
    (Format::Json, "application", "json"),
    (Format::Xml, "application", "xml"),
    (Format::TextXml, "text", "xml"),
];

/// `None`: malformed; `Some(None)`: nothing fits.
fn best(accept: &str) -> Option<Option<Format>> {
    let mut wanted: Vec<(f64, bool, &str, &str)> = Vec::new();
    for entry in accept.split(',') {
        let mut parts = entry.split(';');
        let (kind, sub) = parts.next()?.trim().split_once('/')?;
        let token = |t: &str| !t.is_empty() && t.bytes().all(|b| b > b' ' && b < 127 && !b"()<>@,;:\\\"/[]?={}".contains(&b));
        if !token(kind) || !token(sub) {
            return None;
        }
        let mut quality = None;
        for param in parts {
            let (name, value) = param.split_once('=')?;
            if name.trim() == "q" && quality.replace(value.trim().parse::<f64>().ok()?).is_some() {
                return None;
            }
        }
        wanted.push((quality.unwrap_or(1.0), kind != "*" && sub != "*", kind, sub));
    }
    wanted.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
    let fits = |want: &str, have: &str| want == "*" || want == have;
    Some(wanted.iter().find_map(|(_, _, k, s)| OFFERED.iter().find(|(_, kind, sub)| fits(k, kind) && fits(s, sub)).map(|(f, _, _)| *f)))
}

fn xml_text(out: &mut Vec<u8>, text: &str) {
    for b in text.bytes() {
        match b {
            b'&' => out.extend_from_slice(b"&amp;"),
            b'<' => out.extend_from_slice(b"&lt;"),
            b'>' => out.extend_from_slice(b"&gt;"),
            b => out.push(b),
        }
    }
}

fn xml_attribute(out: &mut Vec<u8>, text: &str) {
    for b in text.bytes() {
        match b {
            b'&' => out.extend_from_slice(b"&amp;"),
            b'<' => out.extend_from_slice(b"&lt;"),
            b'>' => out.extend_from_slice(b"&gt;"),
            b'"' => out.extend_from_slice(b"&quot;"),
            b'\r' => out.extend_from_slice(b"&#13;"),
            b'\n' => out.extend_from_slice(b"&#10;"),
            b'\t' => out.extend_from_slice(b"&#09;"),
            b => out.push(b),
        }
    }
}

/// A field of a line: numbers are written as such in JSON.
pub(crate) enum Field<'a> {
    Text(&'a str),
    Int(i64),
    Time(Timestamp),
    /// JSON's `null`; nothing in XML.
    Null,
}

/// Writes a listing line by line.
pub(crate) struct Writer {
    format: Format,
    out: Vec<u8>,
    lines: usize,
    /// `account` or `container`.
    root: &'static str,
    name: String,
    dates: Dates,
}

impl Writer {
    pub fn new(format: Format, root: &'static str, name: &str, capacity: usize) -> Self {
        Self { format, out: Vec::with_capacity(capacity), lines: 0, root, name: name.into(), dates: Dates::default() }
    }

    /// An object, the line of which there are most by far.
    pub fn object(&mut self, name: &str, size: i64, etag: &str, content_type: &str, at: Timestamp) {
        if self.format == Format::Json {
            self.out.extend_from_slice(if self.lines == 0 { b"[{\"bytes\": " } else { b", {\"bytes\": " });
            self.lines += 1;
            int(&mut self.out, size);
            self.out.extend_from_slice(b", \"hash\": ");
            json_text(&mut self.out, etag);
            self.out.extend_from_slice(b", \"name\": ");
            json_text(&mut self.out, name);
            self.out.extend_from_slice(b", \"content_type\": ");
            json_text(&mut self.out, content_type);
            self.out.extend_from_slice(b", \"last_modified\": \"");
            self.dates.iso(&mut self.out, at);
            self.out.extend_from_slice(b"\"}");
            return;
        }
        let fields = [
            ("name", Field::Text(name)),
            ("hash", Field::Text(etag)),
            ("bytes", Field::Int(size)),
            ("content_type", Field::Text(content_type)),
            ("last_modified", Field::Time(at)),
        ];
        self.line("object", name, &fields, &["name", "hash", "bytes", "content_type", "last_modified"]);
    }

    fn is_xml(&self) -> bool {
        matches!(self.format, Format::Xml | Format::TextXml)
    }

    fn open_root(&mut self) {
        self.out.extend_from_slice(b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<");
        self.out.extend_from_slice(self.root.as_bytes());
        self.out.extend_from_slice(b" name=\"");
        xml_attribute(&mut self.out, &self.name);
    }

    fn begin(&mut self) {
        match self.format {
            Format::Json => self.out.extend_from_slice(if self.lines == 0 { b"[" } else { b", " }),
            Format::Plain => {}
            _ if self.lines == 0 => {
                self.open_root();
                self.out.extend_from_slice(b"\">");
                if self.root == "account" {
                    self.out.push(b'\n');
                }
            }
            _ => {}
        }
        self.lines += 1;
    }

    fn end(&mut self) {
        if self.is_xml() && self.root == "account" {
            self.out.push(b'\n');
        }
    }

    /// One object or container. `json` and `xml` say which fields stand there, in order.
    pub fn line(&mut self, tag: &str, name: &str, json: &[(&str, Field<'_>)], xml: &[&str]) {
        self.begin();
        match self.format {
            Format::Plain => {
                self.out.extend_from_slice(name.as_bytes());
                self.out.push(b'\n');
            }
            Format::Json => {
                for (i, (key, value)) in json.iter().enumerate() {
                    self.out.extend_from_slice(if i == 0 { b"{\"" } else { b", \"" });
                    self.out.extend_from_slice(key.as_bytes());
                    self.out.extend_from_slice(b"\": ");
                    match value {
                        Field::Text(t) => json_text(&mut self.out, t),
                        Field::Int(n) => int(&mut self.out, *n),
                        Field::Null => self.out.extend_from_slice(b"null"),
                        Field::Time(t) => {
                            self.out.push(b'"');
                            self.dates.iso(&mut self.out, *t);
                            self.out.push(b'"');
                        }
                    }
                }
                self.out.push(b'}');
            }
            _ => self.xml_line(tag, json, xml),
        }
        self.end();
    }

    fn xml_line(&mut self, tag: &str, fields: &[(&str, Field<'_>)], order: &[&str]) {
        let bracket = |out: &mut Vec<u8>, before: &[u8], tag: &str, after: &[u8]| {
            out.extend_from_slice(before);
            out.extend_from_slice(tag.as_bytes());
            out.extend_from_slice(after);
        };
        bracket(&mut self.out, b"<", tag, b">");
        for key in order {
            let Some((_, value)) = fields.iter().find(|(k, _)| k == key) else { continue };
            if matches!(value, Field::Text("")) {
                bracket(&mut self.out, b"<", key, b" />");
                continue;
            }
            bracket(&mut self.out, b"<", key, b">");
            match value {
                Field::Text(t) => xml_text(&mut self.out, t),
                Field::Int(n) => int(&mut self.out, *n),
                Field::Time(t) => self.dates.iso(&mut self.out, *t),
                Field::Null => {}
            }
            bracket(&mut self.out, b"</", key, b">");
        }
        bracket(&mut self.out, b"</", tag, b">");
    }

    pub fn subdir(&mut self, name: &str) {
        self.begin();
        match self.format {
            Format::Plain => {
                self.out.extend_from_slice(name.as_bytes());
                self.out.push(b'\n');
            }
            Format::Json => {
                self.out.extend_from_slice(b"{\"subdir\": ");
                json_text(&mut self.out, name);
                self.out.push(b'}');
            }
            _ => {
                self.out.extend_from_slice(b"<subdir name=\"");
                xml_attribute(&mut self.out, name);
                if self.root == "account" {
                    self.out.extend_from_slice(b"\" />");
                } else {
                    self.out.extend_from_slice(b"\"><name>");
                    xml_text(&mut self.out, name);
                    self.out.extend_from_slice(b"</name></subdir>");
                }
            }
        }
        self.end();
    }

    pub fn finish(mut self) -> Vec<u8> {
        match self.format {
            Format::Plain => {}
            Format::Json if self.lines == 0 => self.out.extend_from_slice(b"[]"),
            Format::Json => self.out.push(b']'),
            _ => {
                if self.lines == 0 {
                    self.open_root();
                    self.out.extend_from_slice(if self.root == "account" { b"\">\n" } else { b"\" />" });
                }
                if self.lines > 0 || self.root == "account" {
                    self.out.extend_from_slice(b"</");
                    self.out.extend_from_slice(self.root.as_bytes());
                    self.out.push(b'>');
                }
            }
        }
        self.out
    }
}

/// A decimal number.
fn int(out: &mut Vec<u8>, n: i64) {
    let (mut digits, mut at, mut rest) = ([0u8; 20], 20, n.unsigned_abs());
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if n < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

/// `2009-02-13T23:31:30.123450`: the date is computed once for all times of a day in a row.
#[derive(Default)]
struct Dates {
    day: Option<u64>,
    text: String,
}

impl Dates {
    fn iso(&mut self, out: &mut Vec<u8>, t: Timestamp) {
        let (secs, part) = (t.raw / 100_000, t.raw % 100_000);
        let day = secs / 86_400;
        if self.day != Some(day) {
            self.day = Some(day);
            self.text = t.iso().get(..11).unwrap_or_default().to_string();
        }
        let digit = |n: u64| b'0' + u8::try_from(n % 10).unwrap_or(0);
        let s = secs % 86_400;
        let (h, m, s) = (s / 3_600, s / 60 % 60, s % 60);
        out.extend_from_slice(self.text.as_bytes());
        out.extend_from_slice(&[digit(h / 10), digit(h), b':', digit(m / 10), digit(m), b':', digit(s / 10), digit(s), b'.']);
        out.extend_from_slice(&[digit(part / 10_000), digit(part / 1_000), digit(part / 100), digit(part / 10), digit(part), b'0']);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_as_python_writes_them() {
        let j = |t: &str| {
            let mut out = Vec::new();
            json_text(&mut out, t);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(j("a\"\\\n\u{1}\u{7f}ü😀/"), "\"a\\\"\\\\\\n\\u0001\\u007f\\u00fc\\ud83d\\ude00/\"");
    }

    #[test]
    fn accept() {
        assert_eq!(best("application/json"), Some(Some(Format::Json)));
        assert_eq!(best("text/plain;q=0.5, application/xml"), Some(Some(Format::Xml)));
        assert_eq!(best("*/*"), Some(Some(Format::Plain)));
        assert_eq!(best("text/*"), Some(Some(Format::Plain)));
        assert_eq!(best("text/xml"), Some(Some(Format::TextXml)));
        assert_eq!(best("image/png"), Some(None));
        assert_eq!(best("nonsense"), None);
        assert_eq!(best("text/plain;q=1;q=2"), None);
    }

    #[test]
    fn times() {
        let mut dates = Dates::default();
        for text in ["1234567890.12345", "1234567891.00000", "0000000000.00001", "9999999999.99999", "1234567890.12345"] {
            let mut out = Vec::new();
            let t = Timestamp::parse(text).unwrap();
            dates.iso(&mut out, t);
            assert_eq!(String::from_utf8(out).unwrap(), t.iso());
        }
        for n in [0, 7, -1, 10, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            int(&mut out, n);
            assert_eq!(String::from_utf8(out).unwrap(), n.to_string());
        }
    }

    #[test]
    fn xml_as_upstream_writes_it() {
        let mut w = Writer::new(Format::Xml, "container", "c\"&", 0);
        let t = Timestamp::parse("1").unwrap();
        w.line(
            "object",
            "a<",
            &[("name", Field::Text("a<")), ("hash", Field::Text("")), ("bytes", Field::Int(1)), ("t", Field::Time(t))],
            &["name", "hash", "bytes"],
        );
        w.subdir("d/");
        assert_eq!(
            String::from_utf8(w.finish()).unwrap(),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<container name=\"c&quot;&amp;\"><object><name>a&lt;</name><hash />\
             <bytes>1</bytes></object><subdir name=\"d/\"><name>d/</name></subdir></container>"
        );
        let empty = |root| String::from_utf8(Writer::new(Format::Xml, root, "n", 0).finish()).unwrap();
        assert!(empty("container").ends_with("<container name=\"n\" />"));
        assert!(empty("account").ends_with("<account name=\"n\">\n</account>"));
    }
}
