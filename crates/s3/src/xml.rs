//! XML as S3 speaks it: a writer that escapes, and a strict reader of small documents.
//!
//! The reader knows elements, attributes, text, CDATA and comments. Document types, entities other than the five
//! predefined ones and processing instructions are refused, so that nothing outside the document is ever looked at
//! and a document never grows by being read.

const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";
pub const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
const MAX_DEPTH: usize = 16;
const MAX_ELEMENTS: usize = 50_000;

/// A document being written.
pub struct Xml {
    out: String,
    open: Vec<String>,
}

/// Text for XML. Characters that XML 1.0 cannot express become U+FFFD.
fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\r' => out.push_str("&#13;"),
            '\t' | '\n' => out.push(c),
            c if (c as u32) < 0x20 || c == '\u{fffe}' || c == '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
}

impl Xml {
    /// Begins a document with its outermost element.
    pub fn document(root: &str, namespace: bool) -> Self {
        let mut x = Self { out: "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".into(), open: Vec::new() };
        if namespace {
            x.out.push_str(&format!("<{root} xmlns=\"{NAMESPACE}\">"));
            x.open.push(root.into());
        } else {
            x.open(root);
        }
        x
    }

    pub fn open(&mut self, name: &str) -> &mut Self {
        self.out.push_str(&format!("<{name}>"));
        self.open.push(name.into());
        self
    }

    /// An element with one attribute that may need a namespace declared.
    pub fn open_typed(&mut self, name: &str, kind: &str) -> &mut Self {
        self.out.push_str(&format!("<{name} xmlns:xsi=\"{XSI}\" xsi:type=\"{kind}\">"));
        self.open.push(name.into());
        self
    }

    pub fn close(&mut self) -> &mut Self {
        if let Some(name) = self.open.pop() {
            self.out.push_str(&format!("</{name}>"));
        }
        self
    }

    pub fn leaf(&mut self, name: &str, text: impl AsRef<str>) -> &mut Self {
        self.out.push_str(&format!("<{name}>"));
        escape(text.as_ref(), &mut self.out);
        self.out.push_str(&format!("</{name}>"));
        self
    }

    pub fn leaf_if(&mut self, name: &str, text: Option<&str>) -> &mut Self {
        if let Some(text) = text {
            self.leaf(name, text);
        }
        self
    }

    pub fn finish(mut self) -> String {
        while !self.open.is_empty() {
            self.close();
        }
        self.out
    }
}

/// An element as read. Namespace prefixes are left out of its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    pub name: String,
    pub attributes: Vec<(String, String)>,
    pub children: Vec<Element>,
    pub text: String,
}

impl Element {
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|c| c.name == name)
    }

    pub fn children<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |c| c.name == name)
    }

    /// The text of a child, without space around it.
    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|c| c.text.trim())
    }

    /// The element as text, without namespaces and comments.
    pub fn write(&self, out: &mut String) {
        out.push_str(&format!("<{}", self.name));
        for (name, value) in &self.attributes {
            if name == "type" {
                out.push_str(&format!(" xmlns:xsi=\"{XSI}\" xsi:type=\""));
                escape(value, out);
                out.push('"');
            }
        }
        out.push('>');
        if self.children.is_empty() {
            escape(&self.text, out);
        }
        for c in &self.children {
            c.write(out);
        }
        out.push_str(&format!("</{}>", self.name));
    }

    pub fn to_text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }
}

struct Reader<'a> {
    rest: &'a str,
    elements: usize,
}

type Read<T> = Result<T, &'static str>;

/// Reads a document whose outermost element is `root`.
///
/// Errors: why it is not well formed, or not allowed.
pub fn parse(data: &[u8], root: &str) -> Read<Element> {
    let text = std::str::from_utf8(data).map_err(|_| "not UTF-8")?;
    let mut r = Reader { rest: text.strip_prefix('\u{feff}').unwrap_or(text), elements: 0 };
    if r.rest.starts_with("<?xml") {
        let end = r.rest.find("?>").ok_or("unfinished declaration")?;
        if let Some(at) = r.rest[..end].to_ascii_lowercase().find("encoding") {
            let named = r.rest[at..end].to_ascii_lowercase();
            if !named.contains("utf-8") && !named.contains("us-ascii") {
                return Err("encoding is not UTF-8");
            }
        }
        r.rest = &r.rest[end + 2..];
    }
    r.space_and_comments()?;
    let e = r.element(0)?;
    r.space_and_comments()?;
    if !r.rest.is_empty() {
        return Err("text after the document");
    }
    if e.name != root { Err("unexpected document") } else { Ok(e) }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':') || !c.is_ascii()
}

impl<'a> Reader<'a> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
    }

    fn take(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn comment(&mut self) -> Read<bool> {
        if !self.take("<!--") {
            return Ok(false);
        }
        let end = self.rest.find("-->").ok_or("unfinished comment")?;
        self.rest = &self.rest[end + 3..];
        Ok(true)
    }

    fn space_and_comments(&mut self) -> Read<()> {
        loop {
            self.space();
            if !self.comment()? {
                return Ok(());
            }
        }
    }

    fn name(&mut self) -> Read<&'a str> {
        let end = self.rest.find(|c| !is_name(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        if name.is_empty() || name.len() > 128 || name.starts_with(['-', '.']) || name.as_bytes()[0].is_ascii_digit() {
            return Err("not a name");
        }
        self.rest = rest;
        Ok(name)
    }

    fn attributes(&mut self) -> Read<Vec<(String, String)>> {
        let mut out: Vec<(String, String)> = Vec::new();
        loop {
            self.space();
            if self.rest.starts_with(['>', '/']) {
                return Ok(out);
            }
            let name = self.name()?;
            self.space();
            if !self.take("=") || out.len() > 16 {
                return Err("not an attribute");
            }
            self.space();
            let quote = if self.take("\"") {
                '"'
            } else if self.take("'") {
                '\''
            } else {
                return Err("unquoted attribute");
            };
            let end = self.rest.find(quote).ok_or("unfinished attribute")?;
            let value = unescape(&self.rest[..end])?;
            if value.contains('<') && self.rest[..end].contains('<') {
                return Err("< in an attribute");
            }
            self.rest = &self.rest[end + 1..];
            let local = local(name).to_string();
            if name == "xmlns" || name.starts_with("xmlns:") {
                continue;
            }
            if out.iter().any(|(n, _)| *n == local) {
                return Err("attribute twice");
            }
            out.push((local, value));
        }
    }

    fn element(&mut self, depth: usize) -> Read<Element> {
        self.elements += 1;
        if depth >= MAX_DEPTH || self.elements > MAX_ELEMENTS {
            return Err("too deep or too many elements");
        }
        if !self.take("<") {
            return Err("an element is expected");
        }
        let name = self.name()?;
        let attributes = self.attributes()?;
        let mut e = Element { name: local(name).into(), attributes, ..Element::default() };
        if self.take("/>") {
            return Ok(e);
        }
        if !self.take(">") {
            return Err("unfinished tag");
        }
        loop {
            let at = self.rest.find('<').ok_or("unfinished element")?;
            let text = unescape(&self.rest[..at])?;
            e.text.push_str(&text);
            self.rest = &self.rest[at..];
            if self.comment()? {
                continue;
            }
            if self.take("<![CDATA[") {
                let end = self.rest.find("]]>").ok_or("unfinished CDATA")?;
                e.text.push_str(&self.rest[..end]);
                self.rest = &self.rest[end + 3..];
            } else if self.take("</") {
                if self.name()? != name {
                    return Err("tags do not match");
                }
                self.space();
                return if self.take(">") { Ok(e) } else { Err("unfinished tag") };
            } else if self.rest.starts_with("<!") || self.rest.starts_with("<?") {
                return Err("declarations are not allowed");
            } else {
                e.children.push(self.element(depth + 1)?);
            }
        }
    }
}

fn local(name: &str) -> &str {
    name.rsplit(':').next().unwrap_or(name)
}

fn unescape(text: &str) -> Read<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        let end = rest[at..].find(';').filter(|e| *e <= 10).ok_or("unfinished reference")?;
        let name = &rest[at + 1..at + end];
        let c = match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => {
                let number = name.strip_prefix('#').ok_or("entities are not allowed")?;
                let code = match number.strip_prefix('x') {
                    Some(hex) => u32::from_str_radix(hex, 16),
                    None => number.parse(),
                };
                code.ok().and_then(char::from_u32).filter(|c| *c != '\0').ok_or("not a character")?
            }
        };
        out.push(c);
        rest = &rest[at + end + 1..];
    }
    out.push_str(rest);
    if out.contains('\0') { Err("not a character") } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let mut x = Xml::document("A", true);
        x.leaf("Key", "<a&\"b'>\u{1}é").open("B").leaf("C", "1").close();
        let text = x.finish();
        let e = parse(text.as_bytes(), "A").unwrap();
        assert_eq!(e.text_of("Key"), Some("<a&\"b'>\u{fffd}é"));
        assert_eq!(e.child("B").unwrap().text_of("C"), Some("1"));
        let typed = parse(b"<a xmlns:x=\"u\"><b x:type='Group'>t</b><!-- c --><c/><d><![CDATA[<&]]></d></a>", "a").unwrap();
        assert_eq!(typed.child("b").unwrap().attributes, [("type".to_string(), "Group".to_string())]);
        assert_eq!(typed.text_of("d"), Some("<&"));
        assert_eq!(parse(typed.to_text().as_bytes(), "a").unwrap().child("d").unwrap().text, "<&");
    }

    #[test]
    fn hostile_documents_are_refused() {
        let deep = format!("{}{}", "<a>".repeat(100), "</a>".repeat(100));
        let many = format!("<a>{}</a>", "<b/>".repeat(MAX_ELEMENTS + 1));
        for text in [
            "<!DOCTYPE a [<!ENTITY x SYSTEM \"file:///etc/passwd\">]><a>&x;</a>",
            "<?xml version=\"1.0\"?><!DOCTYPE a><a/>",
            "<a>&lol;</a>",
            "<a><!ENTITY x></a>",
            "<a><?php ?></a>",
            "<a>&#0;</a>",
            "<a>&#xd800;</a>",
            "<a></b>",
            "<a>",
            "<a/><a/>",
            "",
            "<a b=1/>",
            "<a b=\"<\"/>",
            "<a b=\"1\" b=\"2\"/>",
            "<?xml version=\"1.0\" encoding=\"UTF-16\"?><a/>",
            "<b/>",
            "<1a/>",
            deep.as_str(),
            many.as_str(),
        ] {
            assert!(parse(text.as_bytes(), "a").is_err(), "{}", &text[..text.len().min(60)]);
        }
        assert!(parse(b"\xff", "a").is_err());
        assert!(parse("\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<a/>\n".as_bytes(), "a").is_ok());
    }
}
