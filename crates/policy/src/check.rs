//! Check strings: parsing to a tree, and walking the tree.

use crate::credentials::{Attribute, Credentials, python_bool, same_role};
use crate::target::{Found, Target};
use serde_json::Value;

/// Longest accepted check string, in bytes.
pub(crate) const MAX_LEN: usize = 16 * 1024;
/// Deepest accepted nesting of parentheses and `not`.
pub(crate) const MAX_NESTING: usize = 64;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Check {
    Allow,
    Deny,
    Not(Box<Check>),
    And(Vec<Check>),
    Or(Vec<Check>),
    Role(Template),
    /// `index` is filled in when all rules are known.
    Rule {
        name: String,
        index: Option<usize>,
    },
    /// `is_admin:…`: what the service's `context_is_admin` rule says, else the admin role.
    IsAdmin {
        wanted: Template,
        index: Option<usize>,
    },
    /// `attribute:…`: an attribute of the caller equals the text.
    Attribute {
        attribute: Attribute,
        wanted: Template,
    },
    /// `'literal':…`
    Literal {
        literal: String,
        wanted: Template,
    },
    /// `field:networks:shared=True`, network's test of an attribute of the target.
    Field {
        key: String,
        wanted: FieldTest,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FieldTest {
    Equals(String),
    Prefix(String),
}

/// Text with `%(key)s` places.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Key(String),
}

/// How a target key that is present without a value compares.
#[derive(Clone, Copy, PartialEq)]
enum NoneReads {
    AsText,
    AsMismatch,
}

impl Template {
    fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            plain.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            if let Some(more) = after.strip_prefix('%') {
                plain.push('%');
                rest = more;
                continue;
            }
            let place = after.strip_prefix('(').and_then(|r| r.split_once(')'));
            let Some((key, more)) = place.and_then(|(key, r)| r.strip_prefix('s').map(|m| (key, m))) else {
                return Err(format!("{text:?} has a % that is neither %(key)s nor %%"));
            };
            if key.is_empty() {
                return Err(format!("{text:?} has an empty %()s"));
            }
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Key(key.to_owned()));
            rest = more;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self(parts))
    }

    /// Whether the filled-in template equals `text`; false if a key is missing.
    fn equals(&self, text: &str, target: &Target<'_>, none: NoneReads) -> bool {
        let mut rest = text;
        for part in &self.0 {
            let left = match part {
                Part::Text(t) => rest.strip_prefix(t.as_str()),
                Part::Key(key) => match target.get(key) {
                    Found::Text(value) => rest.strip_prefix(&*value),
                    Found::None if none == NoneReads::AsText => rest.strip_prefix("None"),
                    Found::None | Found::Missing => None,
                },
            };
            let Some(left) = left else { return false };
            rest = left;
        }
        rest.is_empty()
    }

    fn is_text(&self, text: &str) -> bool {
        matches!(self.0.as_slice(), [Part::Text(t)] if t == text)
    }

    fn has_role(&self, creds: &Credentials, target: &Target<'_>) -> bool {
        match self.0.as_slice() {
            [Part::Text(name)] => creds.has_role(name),
            [Part::Key(key)] => match target.get(key) {
                Found::Text(name) => creds.has_role(&name),
                Found::None | Found::Missing => false,
            },
            parts => {
                let mut name = String::new();
                for part in parts {
                    match part {
                        Part::Text(t) => name.push_str(t),
                        Part::Key(key) => match target.get(key) {
                            Found::Text(value) => name.push_str(&value),
                            Found::None | Found::Missing => return false,
                        },
                    }
                }
                creds.roles.iter().any(|r| same_role(r, &name))
            }
        }
    }
}

impl Check {
    /// Parses either form: the policy language, or the legacy JSON list of lists. The error is a
    /// sentence without the rule's name.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_LEN {
            return Err(format!("the check string is longer than {MAX_LEN} bytes"));
        }
        if text.is_empty() {
            return Ok(Self::Allow);
        }
        if text.trim_start().starts_with('[') {
            return parse_lists(text);
        }
        let tokens = tokenize(text)?;
        let mut parser = Parser { tokens, at: 0, depth: 0 };
        let check = parser.or()?;
        match parser.next() {
            None => Ok(check),
            Some(token) => Err(format!("unexpected {} after a complete check", token.describe())),
        }
    }

    pub fn eval(&self, rules: &[Check], creds: &Credentials, target: &Target<'_>) -> bool {
        match self {
            Self::Allow => true,
            Self::Deny => false,
            Self::Not(inner) => !inner.eval(rules, creds, target),
            Self::And(all) => all.iter().all(|c| c.eval(rules, creds, target)),
            Self::Or(any) => any.iter().any(|c| c.eval(rules, creds, target)),
            Self::Role(name) => name.has_role(creds, target),
            Self::Rule { index, .. } => index.and_then(|i| rules.get(i)).is_some_and(|c| c.eval(rules, creds, target)),
            Self::IsAdmin { wanted, index } => {
                let admin = match index.and_then(|i| rules.get(i)) {
                    Some(rule) => rule.eval(rules, creds, target),
                    None => creds.has_role("admin"),
                };
                wanted.equals(python_bool(admin), target, NoneReads::AsMismatch)
            }
            Self::Attribute { attribute, wanted } => {
                attribute.any(creds, &|text| wanted.equals(text, target, NoneReads::AsMismatch))
                    || (wanted.is_text("None") && attribute.is_none(creds))
            }
            Self::Literal { literal, wanted } => wanted.equals(literal, target, NoneReads::AsText),
            Self::Field { key, wanted } => match (target.get(key), wanted) {
                (Found::Text(value), FieldTest::Equals(want)) => value == *want,
                (Found::Text(value), FieldTest::Prefix(want)) => value.starts_with(want.as_str()),
                (Found::None | Found::Missing, _) => false,
            },
        }
    }

    /// Calls `f` on this node and everything below it.
    pub fn visit_mut(&mut self, f: &mut dyn FnMut(&mut Check)) {
        f(self);
        match self {
            Self::Not(inner) => inner.visit_mut(f),
            Self::And(all) | Self::Or(all) => all.iter_mut().for_each(|c| c.visit_mut(f)),
            _ => {}
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token<'t> {
    Open,
    Close,
    And,
    Or,
    Not,
    Check(&'t str),
}

impl Token<'_> {
    fn describe(&self) -> String {
        match self {
            Self::Open => "'('".into(),
            Self::Close => "')'".into(),
            Self::And => "'and'".into(),
            Self::Or => "'or'".into(),
            Self::Not => "'not'".into(),
            Self::Check(text) => format!("{text:?}"),
        }
    }
}

/// Splits on white space; parentheses count only at the ends of a word, because `%(key)s` holds
/// some inside.
fn tokenize(text: &str) -> Result<Vec<Token<'_>>, String> {
    let mut out = Vec::new();
    for word in text.split_whitespace() {
        let opened = word.trim_start_matches('(');
        out.extend(std::iter::repeat_n(Token::Open, word.len() - opened.len()));
        let closed = opened.trim_end_matches(')');
        if !closed.is_empty() {
            out.push(match closed {
                w if w.eq_ignore_ascii_case("and") => Token::And,
                w if w.eq_ignore_ascii_case("or") => Token::Or,
                w if w.eq_ignore_ascii_case("not") => Token::Not,
                w => Token::Check(w),
            });
        }
        out.extend(std::iter::repeat_n(Token::Close, opened.len() - closed.len()));
    }
    if out.is_empty() {
        return Err("the check string holds only white space; use \"\" or @ to allow, ! to deny".into());
    }
    Ok(out)
}

struct Parser<'t> {
    tokens: Vec<Token<'t>>,
    at: usize,
    depth: usize,
}

impl<'t> Parser<'t> {
    fn next(&mut self) -> Option<Token<'t>> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn eat(&mut self, token: &Token<'_>) -> bool {
        let hit = self.tokens.get(self.at) == Some(token);
        if hit {
            self.at += 1;
        }
        hit
    }

    fn or(&mut self) -> Result<Check, String> {
        let mut any = vec![self.and()?];
        while self.eat(&Token::Or) {
            any.push(self.and()?);
        }
        Ok(if any.len() == 1 { any.remove(0) } else { Check::Or(any) })
    }

    fn and(&mut self) -> Result<Check, String> {
        let mut all = vec![self.unary()?];
        while self.eat(&Token::And) {
            all.push(self.unary()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Check::And(all) })
    }

    fn unary(&mut self) -> Result<Check, String> {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return Err(format!("the check string nests deeper than {MAX_NESTING}"));
        }
        let check = match self.next() {
            Some(Token::Not) => Check::Not(Box::new(self.unary()?)),
            Some(Token::Open) => {
                let inner = self.or()?;
                match self.next() {
                    Some(Token::Close) => inner,
                    Some(token) => return Err(format!("expected ')', found {}", token.describe())),
                    None => return Err("a parenthesis is not closed".into()),
                }
            }
            Some(Token::Check(text)) => parse_one(text)?,
            Some(token) => return Err(format!("expected a check, found {}", token.describe())),
            None => return Err("the check string ends where a check is expected".into()),
        };
        self.depth -= 1;
        Ok(check)
    }
}

/// One `kind:match`, `@` or `!`.
fn parse_one(text: &str) -> Result<Check, String> {
    match text {
        "@" => return Ok(Check::Allow),
        "!" => return Ok(Check::Deny),
        _ => {}
    }
    let Some((kind, wanted)) = split_kind(text) else {
        return Err(format!("{text:?} is neither kind:value nor @ nor !"));
    };
    match kind {
        "" => Err(format!("{text:?} has nothing before the colon")),
        "rule" if wanted.is_empty() => Err("rule: names no rule".into()),
        "rule" => Ok(Check::Rule { name: wanted.to_owned(), index: None }),
        "role" if wanted.is_empty() => Err("role: names no role".into()),
        "role" => Ok(Check::Role(Template::parse(wanted)?)),
        "http" | "https" => Err(format!("{text:?}: remote checks are not supported")),
        "field" => parse_field(text, wanted),
        "is_admin" => Ok(Check::IsAdmin { wanted: Template::parse(wanted)?, index: None }),
        _ => {
            let wanted = Template::parse(wanted)?;
            Ok(match literal(kind)? {
                Some(literal) => Check::Literal { literal, wanted },
                None => Check::Attribute { attribute: Attribute::parse(kind), wanted },
            })
        }
    }
}

/// Splits at the first colon, or the first one after a quoted literal.
fn split_kind(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'));
    let Some(quote) = quote else { return text.split_once(':') };
    let close = text[1..].find(quote)? + 1;
    let wanted = text[close + 1..].strip_prefix(':')?;
    Some((&text[..=close], wanted))
}

/// The text of a constant on the left side; `None` if it names an attribute.
fn literal(kind: &str) -> Result<Option<String>, String> {
    for quote in ['\'', '"'] {
        if let Some(rest) = kind.strip_prefix(quote) {
            let inner = rest.strip_suffix(quote).filter(|s| !s.contains([quote, '\\']));
            return match inner {
                Some(inner) => Ok(Some(inner.to_owned())),
                None => Err(format!("{kind} is not a simple quoted text")),
            };
        }
    }
    let constant = matches!(kind, "True" | "False" | "None") || kind.parse::<i64>().is_ok();
    if constant {
        return Ok(Some(kind.to_owned()));
    }
    let name = kind.split('.').all(|s| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')));
    if name { Ok(None) } else { Err(format!("{kind:?} is not the name of an attribute")) }
}

/// `resource:attribute=value`, or `=~^prefix` as network's own defaults use it. Other regular
/// expressions are refused rather than misread.
fn parse_field(text: &str, wanted: &str) -> Result<Check, String> {
    let parts = wanted.split_once(':').and_then(|(_, field)| field.split_once('='));
    let Some((key, value)) = parts.filter(|(key, _)| !key.is_empty()) else {
        return Err(format!("{text:?} is not field:resource:attribute=value"));
    };
    let wanted = match value.strip_prefix('~') {
        None => FieldTest::Equals(value.to_owned()),
        Some(pattern) => {
            let prefix = pattern.strip_prefix('^').unwrap_or(pattern);
            if prefix.contains(['.', '*', '+', '?', '[', ']', '(', ')', '{', '}', '|', '\\', '$', '^']) {
                return Err(format!("{text:?}: only =~^prefix is supported"));
            }
            FieldTest::Prefix(prefix.to_owned())
        }
    };
    Ok(Check::Field { key: key.to_owned(), wanted })
}

/// The legacy form: an outer list joined by `or` of inner lists joined by `and`.
fn parse_lists(text: &str) -> Result<Check, String> {
    let outer: Vec<Value> = serde_json::from_str(text).map_err(|e| format!("the list form does not parse: {e}"))?;
    if outer.is_empty() {
        return Ok(Check::Allow);
    }
    let one = |v: &Value| match v {
        Value::String(s) => parse_one(s),
        other => Err(format!("the list form holds {other} where a check belongs")),
    };
    let mut any = Vec::new();
    for inner in &outer {
        match inner {
            Value::Array(all) if all.is_empty() => {}
            Value::Array(all) => {
                let mut all = all.iter().map(one).collect::<Result<Vec<_>, _>>()?;
                any.push(if all.len() == 1 { all.remove(0) } else { Check::And(all) });
            }
            other => any.push(one(other)?),
        }
    }
    Ok(match any.len() {
        0 => Check::Deny,
        1 => any.remove(0),
        _ => Check::Or(any),
    })
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
