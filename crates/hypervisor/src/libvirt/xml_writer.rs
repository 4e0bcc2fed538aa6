//! The one place that builds XML text: elements nest, values are escaped, characters XML forbids are
//! replaced. No caller formats XML by hand.

/// Builds one document.
#[derive(Default)]
pub struct XmlWriter {
    out: String,
    open: Vec<&'static str>,
    /// The start tag of the innermost element still lacks its `>`.
    pending: bool,
}

impl XmlWriter {
    pub fn new() -> Self {
        Self::default()
    }

    fn close_start(&mut self) {
        if self.pending {
            self.out.push('>');
            self.pending = false;
        }
    }

    /// Opens an element; it lasts until [`Self::end`].
    pub fn start(&mut self, name: &'static str) -> &mut Self {
        self.close_start();
        self.out.push('<');
        self.out.push_str(name);
        self.open.push(name);
        self.pending = true;
        self
    }

    /// An attribute of the element just opened.
    pub fn attr(&mut self, name: &'static str, value: impl AsRef<str>) -> &mut Self {
        debug_assert!(self.pending, "attributes follow the start of their element");
        self.out.push(' ');
        self.out.push_str(name);
        self.out.push_str("='");
        escape(&mut self.out, value.as_ref());
        self.out.push('\'');
        self
    }

    pub fn text(&mut self, value: impl AsRef<str>) -> &mut Self {
        self.close_start();
        escape(&mut self.out, value.as_ref());
        self
    }

    pub fn end(&mut self) -> &mut Self {
        if let Some(name) = self.open.pop() {
            if self.pending {
                self.out.push_str("/>");
                self.pending = false;
            } else {
                self.out.push_str("</");
                self.out.push_str(name);
                self.out.push('>');
            }
        }
        self
    }

    /// An element without content.
    pub fn empty(&mut self, name: &'static str, attrs: &[(&'static str, &str)]) -> &mut Self {
        self.start(name);
        for (n, v) in attrs {
            self.attr(n, v);
        }
        self.end()
    }

    /// An element with text.
    pub fn leaf(&mut self, name: &'static str, value: impl AsRef<str>) -> &mut Self {
        self.start(name).text(value).end()
    }

    /// Closes what is open and returns the document.
    pub fn finish(mut self) -> String {
        while !self.open.is_empty() {
            self.end();
        }
        self.out
    }
}

fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            '\t' | '\n' | '\r' => out.push_str(&format!("&#{};", u32::from(c))),
            c if u32::from(c) < 0x20 || matches!(c, '\u{7f}' | '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_nests() {
        let mut w = XmlWriter::new();
        w.start("a").attr("k", "x' y='z").leaf("b", "<&>\u{1}\n").empty("c", &[("d", "\"")]);
        assert_eq!(w.finish(), "<a k='x&apos; y=&apos;z'><b>&lt;&amp;&gt;\u{fffd}&#10;</b><c d='&quot;'/></a>");
    }
}
