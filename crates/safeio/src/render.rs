//! Writes generated configuration, so that a value can never become a second setting.
//!
//! Invariant: a value with a line break, NUL or other control character never reaches a file; it
//! is refused with the name of its field. XML values are escaped, and characters XML cannot carry
//! are refused.

use caelum_base::{Error, Result};

/// Refuses control characters, which every line-oriented format gives a meaning to.
pub fn check_line(field: &str, value: &str) -> Result<()> {
    // U+2028 and U+2029 end lines for some readers.
    if value.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
        return Err(Error::invalid(format!("{field} holds a line break or control character.")));
    }
    Ok(())
}

/// Refuses what a blank-separated format (haproxy, keepalived, dnsmasq hosts) would split or read
/// as a quote, comment, variable or block.
pub fn check_word(field: &str, value: &str) -> Result<()> {
    check_line(field, value)?;
    let special = |c: char| c.is_whitespace() || "\"'\\#;{}$`,!".contains(c);
    if value.is_empty() || value.chars().any(special) {
        return Err(Error::invalid(format!("{field} is empty or holds a character that is not allowed.")));
    }
    Ok(())
}

/// Builds a line-oriented file.
#[derive(Debug, Default)]
pub struct ConfigWriter {
    out: String,
}

impl ConfigWriter {
    pub fn new() -> Self {
        Self::default()
    }

    /// A whole line written by us, without tenant data.
    pub fn fixed(&mut self, line: &'static str) -> &mut Self {
        self.out.push_str(line);
        self.out.push('\n');
        self
    }

    /// A keyword and words: `server web1 10.0.0.5:80 check`.
    pub fn words(&mut self, keyword: &str, words: &[&str]) -> Result<&mut Self> {
        check_word("keyword", keyword)?;
        for word in words {
            check_word(keyword, word)?;
        }
        self.out.push_str(keyword);
        for word in words {
            self.out.push(' ');
            self.out.push_str(word);
        }
        self.out.push('\n');
        Ok(self)
    }

    /// `key=value`, for dnsmasq options and INI files, where a value runs to the end of the line.
    pub fn key_value(&mut self, key: &str, value: &str) -> Result<&mut Self> {
        check_key(key)?;
        check_line(key, value)?;
        if value.trim() != value {
            return Err(Error::invalid(format!("{key} begins or ends with a blank.")));
        }
        self.out.push_str(&format!("{key}={value}\n"));
        Ok(self)
    }

    /// `[section]` of an INI file.
    pub fn section(&mut self, name: &str) -> Result<&mut Self> {
        check_line("section", name)?;
        if name.is_empty() || name.contains(['[', ']']) {
            return Err(Error::invalid("section is empty or holds a bracket."));
        }
        self.out.push_str(&format!("[{name}]\n"));
        Ok(self)
    }

    /// `KEY='value'` for a file that a shell reads; nothing in the value is expanded.
    pub fn shell_env(&mut self, key: &str, value: &str) -> Result<&mut Self> {
        let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if key.is_empty() || key.starts_with(|c: char| c.is_ascii_digit()) || !key.chars().all(name) {
            return Err(Error::invalid("An environment variable has an invalid name."));
        }
        check_line(key, value)?;
        self.out.push_str(&format!("{key}='{}'\n", value.replace('\'', "'\\''")));
        Ok(self)
    }

    pub fn finish(self) -> String {
        self.out
    }
}

fn check_key(key: &str) -> Result<()> {
    check_word("key", key)?;
    if key.contains(['=', '[', ']']) {
        return Err(Error::invalid("key holds a character that is not allowed."));
    }
    Ok(())
}

/// Escapes text for an element or a double-quoted attribute. Characters that XML 1.0 cannot carry
/// become U+FFFD; [`XmlWriter`] refuses them instead.
pub fn xml_escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\n' => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            '\t' => out.push_str("&#9;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Builds an XML document. Element and attribute names are ours (`&'static str`); values are
/// anyone's. A refused value is remembered and returned by [`XmlWriter::finish`].
///
/// ```
/// let mut xml = caelum_safeio::render::XmlWriter::new();
/// xml.open("domain").attr("type", "kvm").leaf("name", "a<b").close();
/// assert_eq!(xml.finish().ok().as_deref(), Some("<domain type=\"kvm\"><name>a&lt;b</name></domain>"));
/// ```
#[derive(Debug, Default)]
pub struct XmlWriter {
    out: String,
    open: Vec<&'static str>,
    /// The start tag is not closed yet, so attributes may follow.
    in_tag: bool,
    error: Option<Error>,
}

impl XmlWriter {
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins an element.
    pub fn open(&mut self, name: &'static str) -> &mut Self {
        self.end_tag();
        self.out.push('<');
        self.out.push_str(name);
        self.open.push(name);
        self.in_tag = true;
        self
    }

    /// Adds an attribute to the element just begun.
    pub fn attr(&mut self, name: &'static str, value: impl AsRef<str>) -> &mut Self {
        if !self.in_tag {
            self.fail(Error::internal(format!("attribute {name} after content")));
            return self;
        }
        self.check(name, value.as_ref());
        self.out.push_str(&format!(" {name}=\"{}\"", xml_escape(value.as_ref())));
        self
    }

    /// Adds text to the element begun last.
    pub fn text(&mut self, value: impl AsRef<str>) -> &mut Self {
        self.end_tag();
        self.check(self.open.last().copied().unwrap_or("text"), value.as_ref());
        self.out.push_str(&xml_escape(value.as_ref()));
        self
    }

    /// Ends the element begun last.
    pub fn close(&mut self) -> &mut Self {
        let Some(name) = self.open.pop() else {
            self.fail(Error::internal("more elements ended than begun"));
            return self;
        };
        if std::mem::take(&mut self.in_tag) {
            self.out.push_str("/>");
        } else {
            self.out.push_str(&format!("</{name}>"));
        }
        self
    }

    /// `<name>value</name>`.
    pub fn leaf(&mut self, name: &'static str, value: impl AsRef<str>) -> &mut Self {
        self.open(name).text(value).close()
    }

    /// `<name a="b" …/>`.
    pub fn empty(&mut self, name: &'static str, attributes: &[(&'static str, &str)]) -> &mut Self {
        self.open(name);
        for (attribute, value) in attributes {
            self.attr(attribute, value);
        }
        self.close()
    }

    /// The document, or the first value that was refused.
    pub fn finish(self) -> Result<String> {
        match self.error {
            Some(e) => Err(e),
            None if !self.open.is_empty() => Err(Error::internal("an XML element was not ended")),
            None => Ok(self.out),
        }
    }

    fn end_tag(&mut self) {
        if std::mem::take(&mut self.in_tag) {
            self.out.push('>');
        }
    }

    fn check(&mut self, field: &str, value: &str) {
        let bad = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t') || matches!(c, '\u{fffe}' | '\u{ffff}');
        if value.chars().any(bad) {
            self.fail(Error::invalid(format!("{field} holds a control character.")));
        }
    }

    fn fail(&mut self, error: Error) {
        self.error.get_or_insert(error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caelum_base::ErrorKind;

    #[test]
    fn no_value_becomes_a_second_setting() {
        for bad in ["a\nb", "a\rb", "a\0b", "a\r\nserver x", "a\u{85}b", "a\u{2028}b", "\x1b[0m"] {
            let mut w = ConfigWriter::new();
            assert_eq!(w.key_value("k", bad).unwrap_err().kind, ErrorKind::Invalid, "{bad:?}");
            assert!(w.words("server", &[bad]).is_err() && w.section(bad).is_err() && w.shell_env("K", bad).is_err());
            assert_eq!(w.finish(), "");
        }
        for bad in ["$(id)", "`id`", "a b", "a;b", "{{x}}", "\"", "'", "a#b", ""] {
            assert!(ConfigWriter::new().words("server", &[bad]).is_err(), "{bad:?}");
        }
        let mut w = ConfigWriter::new();
        w.fixed("no-resolv").key_value("log", "%(x)s {{y}}").unwrap().shell_env("A", "$(id)'`x`").unwrap();
        assert_eq!(w.finish(), "no-resolv\nlog=%(x)s {{y}}\nA='$(id)'\\''`x`'\n");
    }

    #[test]
    fn xml_values_stay_values() {
        let mut w = XmlWriter::new();
        w.open("a").attr("b", "\"><x y='&").leaf("n", "</n><evil/>]]>").empty("e", &[("k", "v\n")]).close();
        let text = w.finish().unwrap();
        assert_eq!(text, "<a b=\"&quot;&gt;&lt;x y=&apos;&amp;\"><n>&lt;/n&gt;&lt;evil/&gt;]]&gt;</n><e k=\"v&#10;\"/></a>");
        for bad in ["\0", "\u{1}", "\u{ffff}"] {
            let mut w = XmlWriter::new();
            w.leaf("name", bad);
            assert_eq!(w.finish().unwrap_err().kind, ErrorKind::Invalid);
        }
        let mut w = XmlWriter::new();
        w.open("a");
        assert!(w.finish().is_err());
    }
}
