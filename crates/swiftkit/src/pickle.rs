//! Python pickles: the part of the language that Swift's files use. Reads protocols 0 to 5, writes
//! protocol 2. Nothing is ever executed: of the callables only the constructors of plain data are
//! known, any other is refused.

use std::collections::BTreeMap;

/// A Python value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// `bytes`, and `str` of Python 2.
    Bytes(Vec<u8>),
    Str(String),
    List(Vec<Value>),
    Tuple(Vec<Value>),
    /// In order of insertion.
    Dict(Vec<(Value, Value)>),
    /// `array.array`: type code and the items.
    Array(char, Vec<i64>),
}

/// Why a pickle was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PickleError(pub String);

impl std::fmt::Display for PickleError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "not a readable pickle: {}", self.0)
    }
}

impl std::error::Error for PickleError {}

type Res<T> = Result<T, PickleError>;

fn bad<T>(what: impl Into<String>) -> Res<T> {
    Err(PickleError(what.into()))
}

/// Deepest nesting read; the largest pickle is bounded by its reader.
const MAX_STACK: usize = 4_000_000;

impl Value {
    pub fn str(text: impl Into<String>) -> Self {
        Self::Str(text.into())
    }

    /// A value of a dict by text key, whether the key was written as text or bytes.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Self::Dict(items) => items.iter().find(|(k, _)| k.text().as_deref() == Some(key)).map(|(_, v)| v),
            _ => None,
        }
    }

    /// Text of a `str` or of `bytes` in UTF-8.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Str(s) => Some(s.clone()),
            Self::Bytes(b) => String::from_utf8(b.clone()).ok(),
            _ => None,
        }
    }

    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Int(i) => Some(*i),
            Self::Bool(b) => Some(i64::from(*b)),
            _ => None,
        }
    }

    pub fn float(&self) -> Option<f64> {
        match self {
            Self::Float(f) => Some(*f),
            Self::Int(i) => Some(*i as f64),
            _ => None,
        }
    }

    /// Items of a list or tuple.
    pub fn items(&self) -> Option<&[Value]> {
        match self {
            Self::List(v) | Self::Tuple(v) => Some(v),
            _ => None,
        }
    }
}

/// A stack item: a value, a mark, or a callable that may be applied.
#[derive(Clone, Debug)]
enum Item {
    Value(Value),
    /// A dict under construction that was memoized: its finished form is kept for later references.
    Shared(Value, u64),
    Mark,
    Callable(Callable),
}

#[derive(Clone, Copy, Debug)]
enum Callable {
    /// `_codecs.encode(text, 'latin1')`: bytes in protocol 2.
    Encode,
    /// `bytes()`, `bytearray()`.
    Bytes,
    /// `array.array(code, items)`.
    Array,
    /// `array._array_reconstructor(array.array, code, format, bytes)`.
    ArrayReconstructor,
    OrderedDict,
    /// `dict`, and Swift's dict of headers; its content follows.
    Dict,
    /// `copyreg._reconstructor(class, dict, content)`: the headers' dict in protocol 0.
    Reconstructor,
}

fn callable(module: &str, name: &str) -> Res<Callable> {
    match (module, name) {
        ("_codecs", "encode") => Ok(Callable::Encode),
        ("__builtin__" | "builtins", "bytes" | "bytearray") => Ok(Callable::Bytes),
        ("array", "array") => Ok(Callable::Array),
        ("array", "_array_reconstructor") => Ok(Callable::ArrayReconstructor),
        ("collections", "OrderedDict") => Ok(Callable::OrderedDict),
        ("swift.common.header_key_dict", "HeaderKeyDict") | ("__builtin__" | "builtins", "dict") => Ok(Callable::Dict),
        ("copy_reg" | "copyreg", "_reconstructor") => Ok(Callable::Reconstructor),
        _ => bad(format!("{module}.{name} is not plain data")),
    }
}

struct Reader<'a> {
    data: &'a [u8],
    at: usize,
    stack: Vec<Item>,
    memo: BTreeMap<u64, Item>,
    done: bool,
}

/// Reads one pickle. Errors: anything malformed or not plain data.
pub fn loads(data: &[u8]) -> Res<Value> {
    let mut r = Reader { data, at: 0, stack: Vec::new(), memo: BTreeMap::new(), done: false };
    loop {
        let op = r.byte()?;
        if op == b'.' {
            r.done = true;
            return r.pop();
        }
        r.step(op)?;
        if r.stack.len() > MAX_STACK {
            return bad("too many values");
        }
    }
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Res<u8> {
        let b = self.take(1)?;
        Ok(b[0])
    }

    fn take(&mut self, n: usize) -> Res<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|e| *e <= self.data.len());
        let Some(end) = end else { return bad("ends early") };
        let out = &self.data[self.at..end];
        self.at = end;
        Ok(out)
    }

    fn number(&mut self, n: usize) -> Res<u64> {
        Ok(self.take(n)?.iter().rev().fold(0, |acc, b| acc << 8 | u64::from(*b)))
    }

    fn size(&mut self, n: usize) -> Res<usize> {
        usize::try_from(self.number(n)?).or_else(|_| bad("too long"))
    }

    fn line(&mut self) -> Res<&'a str> {
        let rest = &self.data[self.at..];
        let Some(n) = rest.iter().position(|b| *b == b'\n') else { return bad("ends early") };
        self.at += n + 1;
        std::str::from_utf8(&rest[..n]).or_else(|_| bad("not text"))
    }

    fn push(&mut self, v: Value) {
        self.stack.push(Item::Value(v));
    }

    fn pop(&mut self) -> Res<Value> {
        match self.stack.pop() {
            Some(item @ (Item::Value(_) | Item::Shared(..))) => self.finished(item),
            _ => bad("a value is missing"),
        }
    }

    /// The value of an item that leaves the stack.
    fn finished(&mut self, item: Item) -> Res<Value> {
        match item {
            Item::Value(v) => Ok(v),
            Item::Shared(v, key) => {
                if !self.done {
                    self.memo.insert(key, Item::Value(v.clone()));
                }
                Ok(v)
            }
            _ => bad("a callable where a value belongs"),
        }
    }

    fn since_mark(&mut self) -> Res<Vec<Value>> {
        let Some(at) = self.stack.iter().rposition(|i| matches!(i, Item::Mark)) else { return bad("a mark is missing") };
        let items = self.stack.split_off(at);
        items.into_iter().skip(1).map(|i| self.finished(i)).collect()
    }

    fn tuple(&mut self, n: usize) -> Res<()> {
        let mut out = Vec::with_capacity(n);
        for _ in 0..n {
            // The array reconstructor's first argument is a class; it says nothing new.
            out.push(match self.stack.pop() {
                Some(Item::Callable(_)) => Value::None,
                Some(Item::Mark) | None => return bad("a value is missing"),
                Some(item) => self.finished(item)?,
            });
        }
        out.reverse();
        self.push(Value::Tuple(out));
        Ok(())
    }

    fn text(&mut self, n: usize) -> Res<()> {
        let bytes = self.take(n)?;
        // Python writes lone surrogates as three bytes; they cannot be kept in a String.
        self.push(Value::Str(String::from_utf8_lossy(bytes).into_owned()));
        Ok(())
    }

    fn bytes(&mut self, n: usize) -> Res<()> {
        let v = self.take(n)?.to_vec();
        self.push(Value::Bytes(v));
        Ok(())
    }

    fn step(&mut self, op: u8) -> Res<()> {
        match op {
            0x80 => self.take(1).map(|_| ()),
            0x95 => self.take(8).map(|_| ()),
            b'N' => {
                self.push(Value::None);
                Ok(())
            }
            0x88 => {
                self.push(Value::Bool(true));
                Ok(())
            }
            0x89 => {
                self.push(Value::Bool(false));
                Ok(())
            }
            b'K' | b'M' | b'J' | 0x8a | 0x8b | b'I' | b'L' | b'F' | b'G' => self.read_number(op),
            b'X' => {
                let n = self.size(4)?;
                self.text(n)
            }
            0x8c => {
                let n = self.size(1)?;
                self.text(n)
            }
            0x8d => {
                let n = self.size(8)?;
                self.text(n)
            }
            b'U' | b'C' => {
                let n = self.size(1)?;
                self.bytes(n)
            }
            b'T' | b'B' => {
                let n = self.size(4)?;
                self.bytes(n)
            }
            0x8e | 0x96 => {
                let n = self.size(8)?;
                self.bytes(n)
            }
            b'V' | b'S' => self.quoted(op),
            _ => self.build(op),
        }
    }

    /// Marks, containers, references and calls.
    fn build(&mut self, op: u8) -> Res<()> {
        match op {
            b'(' => {
                self.stack.push(Item::Mark);
                Ok(())
            }
            b')' => {
                self.push(Value::Tuple(Vec::new()));
                Ok(())
            }
            0x85..=0x87 => self.tuple(usize::from(op - 0x84)),
            b't' => self.mark_tuple(),
            b']' => {
                self.push(Value::List(Vec::new()));
                Ok(())
            }
            b'l' => {
                let v = self.since_mark()?;
                self.push(Value::List(v));
                Ok(())
            }
            b'}' => {
                self.push(Value::Dict(Vec::new()));
                Ok(())
            }
            b'd' => {
                let v = self.since_mark()?;
                self.push(Value::Dict(pairs(v)?));
                Ok(())
            }
            b'a' => {
                let v = self.pop()?;
                self.extend(vec![v])
            }
            b'e' => {
                let v = self.since_mark()?;
                self.extend(v)
            }
            b's' => {
                let v = self.pop()?;
                let k = self.pop()?;
                self.update(vec![(k, v)])
            }
            b'u' => {
                let v = self.since_mark()?;
                self.update(pairs(v)?)
            }
            b'0' => {
                self.stack.pop();
                Ok(())
            }
            b'2' => self.duplicate(),
            b'q' | b'r' | b'p' | 0x94 => self.memoize(op),
            b'h' | b'j' | b'g' => self.recall(op),
            b'c' => {
                let (m, n) = (self.line()?, self.line()?);
                self.stack.push(Item::Callable(callable(m, n)?));
                Ok(())
            }
            0x93 => self.stack_global(),
            b'R' | 0x81 => self.reduce(),
            _ => bad(format!("opcode {op:#x}")),
        }
    }

    fn mark_tuple(&mut self) -> Res<()> {
        let Some(at) = self.stack.iter().rposition(|i| matches!(i, Item::Mark)) else { return bad("a mark is missing") };
        let n = self.stack.len() - at - 1;
        self.tuple(n)?;
        let t = self.pop()?;
        self.stack.pop();
        self.push(t);
        Ok(())
    }

    fn duplicate(&mut self) -> Res<()> {
        let Some(top) = self.stack.last().cloned() else { return bad("a value is missing") };
        self.stack.push(top);
        Ok(())
    }

    fn read_number(&mut self, op: u8) -> Res<()> {
        let v = match op {
            b'K' => Value::Int(self.number(1)? as i64),
            b'M' => Value::Int(self.number(2)? as i64),
            b'J' => Value::Int(i64::from(self.number(4)? as u32 as i32)),
            b'G' => Value::Float(f64::from_be_bytes(self.take(8)?.try_into().or_else(|_| bad("ends early"))?)),
            b'F' => Value::Float(self.line()?.parse().or_else(|_| bad("not a number"))?),
            b'I' | b'L' => {
                let text = self.line()?;
                match (op, text) {
                    (b'I', "00") => Value::Bool(false),
                    (b'I', "01") => Value::Bool(true),
                    _ => Value::Int(text.trim_end_matches('L').parse().or_else(|_| bad("not a number"))?),
                }
            }
            _ => {
                let n = if op == 0x8a { self.size(1)? } else { self.size(4)? };
                let bytes = self.take(n)?;
                if n > 8 {
                    return bad("integer beyond 64 bits");
                }
                let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
                let fill = if negative { 0xff } else { 0 };
                let mut le = [fill; 8];
                le[..n].copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(le))
            }
        };
        self.push(v);
        Ok(())
    }

    fn quoted(&mut self, op: u8) -> Res<()> {
        if op == b'V' {
            let rest = &self.data[self.at..];
            let Some(n) = rest.iter().position(|b| *b == b'\n') else { return bad("ends early") };
            self.at += n + 1;
            self.push(Value::Str(raw_unicode_escape(&rest[..n])?));
            return Ok(());
        }
        let text = self.line()?;
        let inner = text.strip_prefix(['\'', '"']).and_then(|t| t.strip_suffix(['\'', '"']));
        match inner {
            Some(t) if !t.contains('\\') => self.push(Value::Bytes(t.as_bytes().to_vec())),
            _ => return bad("escaped text of protocol 0"),
        }
        Ok(())
    }

    fn extend(&mut self, more: Vec<Value>) -> Res<()> {
        match self.stack.last_mut() {
            Some(Item::Value(Value::List(list))) => {
                list.extend(more);
                Ok(())
            }
            Some(Item::Value(Value::Array(_, list))) => {
                list.extend(more.iter().filter_map(Value::int));
                Ok(())
            }
            _ => bad("a list is missing"),
        }
    }

    fn update(&mut self, more: Vec<(Value, Value)>) -> Res<()> {
        match self.stack.last_mut() {
            Some(Item::Value(Value::Dict(items)) | Item::Shared(Value::Dict(items), _)) => {
                items.extend(more);
                Ok(())
            }
            _ => bad("a dict is missing"),
        }
    }

    fn memoize(&mut self, op: u8) -> Res<()> {
        let key = match op {
            b'q' => self.number(1)?,
            b'r' => self.number(4)?,
            b'p' => self.line()?.parse().or_else(|_| bad("not a number"))?,
            _ => self.memo.len() as u64,
        };
        // Containers are memoized while empty and hold what is added afterwards. A dict that is referred
        // to again (a builder's removed devices) is copied when it is complete; lists never are.
        let Some(top) = self.stack.last_mut() else { return bad("a value is missing") };
        match top {
            Item::Value(Value::Dict(items)) => {
                let dict = Value::Dict(std::mem::take(items));
                *top = Item::Shared(dict, key);
                self.memo.insert(key, Item::Mark);
            }
            Item::Value(Value::List(_)) => {
                self.memo.insert(key, Item::Mark);
            }
            other => {
                let copy = other.clone();
                self.memo.insert(key, copy);
            }
        }
        Ok(())
    }

    fn recall(&mut self, op: u8) -> Res<()> {
        let key = match op {
            b'h' => self.number(1)?,
            b'j' => self.number(4)?,
            _ => self.line()?.parse().or_else(|_| bad("not a number"))?,
        };
        let Some(item) = self.memo.get(&key).cloned() else { return bad("unknown reference") };
        if matches!(&item, Item::Mark | Item::Shared(..)) {
            return bad("shared containers");
        }
        self.stack.push(item);
        Ok(())
    }

    fn stack_global(&mut self) -> Res<()> {
        let (name, module) = (self.pop()?.text(), self.pop()?.text());
        let (Some(module), Some(name)) = (module, name) else { return bad("a name is missing") };
        self.stack.push(Item::Callable(callable(&module, &name)?));
        Ok(())
    }

    fn reduce(&mut self) -> Res<()> {
        let args = self.pop()?;
        let Some(Item::Callable(f)) = self.stack.pop() else { return bad("a callable is missing") };
        let args = args.items().unwrap_or(&[]).to_vec();
        let v = apply(f, &args)?;
        self.push(v);
        Ok(())
    }
}

/// Text of protocol 0: Latin-1 with `\uXXXX` and `\UXXXXXXXX` for everything else and for the backslash.
fn raw_unicode_escape(bytes: &[u8]) -> Res<String> {
    let mut out = String::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(b) = bytes.get(at) {
        let digits = match (b, bytes.get(at + 1)) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => {
                out.push(char::from(*b));
                at += 1;
                continue;
            }
        };
        let hex = bytes.get(at + 2..at + 2 + digits).and_then(|h| std::str::from_utf8(h).ok());
        let Some(code) = hex.and_then(|h| u32::from_str_radix(h, 16).ok()) else { return bad("escaped text of protocol 0") };
        // Lone surrogates cannot be kept in a String.
        out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
        at += 2 + digits;
    }
    Ok(out)
}

fn pairs(flat: Vec<Value>) -> Res<Vec<(Value, Value)>> {
    if !flat.len().is_multiple_of(2) {
        return bad("a value is missing");
    }
    let mut it = flat.into_iter();
    let mut out = Vec::new();
    while let (Some(k), Some(v)) = (it.next(), it.next()) {
        out.push((k, v));
    }
    Ok(out)
}

fn latin1(text: &str) -> Res<Vec<u8>> {
    text.chars().map(|c| u8::try_from(u32::from(c)).or_else(|_| bad("not latin-1"))).collect()
}

fn apply(f: Callable, args: &[Value]) -> Res<Value> {
    match (f, args) {
        (Callable::Encode, [Value::Str(text), ..]) | (Callable::Bytes, [Value::Str(text), _]) => Ok(Value::Bytes(latin1(text)?)),
        (Callable::Bytes, []) => Ok(Value::Bytes(Vec::new())),
        (Callable::Bytes, [Value::Bytes(b)]) => Ok(Value::Bytes(b.clone())),
        (Callable::OrderedDict | Callable::Dict, []) => Ok(Value::Dict(Vec::new())),
        (Callable::Reconstructor, [Value::None, Value::None, dict @ Value::Dict(_)]) => Ok(dict.clone()),
        (Callable::Array, [code, items]) => {
            let code = code.text().and_then(|t| t.chars().next());
            match (code, items) {
                (Some(c), Value::List(v)) => Ok(Value::Array(c, v.iter().filter_map(Value::int).collect())),
                (Some(c), Value::Bytes(b)) => unpack(c, b),
                _ => bad("array"),
            }
        }
        (Callable::ArrayReconstructor, [_, code, _, Value::Bytes(b)]) => {
            let Some(c) = code.text().and_then(|t| t.chars().next()) else { return bad("array") };
            unpack(c, b)
        }
        _ => bad("arguments of a constructor"),
    }
}

/// Items of an array in machine order (little-endian on every machine Swift runs on).
fn unpack(code: char, bytes: &[u8]) -> Res<Value> {
    let width = match code {
        'B' | 'b' => 1,
        'H' | 'h' => 2,
        'I' | 'i' => 4,
        _ => return bad(format!("array of {code}")),
    };
    let items = bytes.chunks_exact(width).map(|c| c.iter().rev().fold(0_i64, |acc, b| acc << 8 | i64::from(*b)));
    Ok(Value::Array(code, items.collect()))
}

/// Writes protocol 2, bytes the way Python 3 does there.
pub fn dumps(v: &Value) -> Vec<u8> {
    let mut out = vec![0x80, 2];
    write(v, &mut out);
    out.push(b'.');
    out
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'X');
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn write_int(i: i64, out: &mut Vec<u8>) {
    if let Ok(b) = u8::try_from(i) {
        out.extend_from_slice(&[b'K', b]);
    } else if let Ok(h) = u16::try_from(i) {
        out.push(b'M');
        out.extend_from_slice(&h.to_le_bytes());
    } else if let Ok(n) = i32::try_from(i) {
        out.push(b'J');
        out.extend_from_slice(&n.to_le_bytes());
    } else {
        out.extend_from_slice(&[0x8a, 8]);
        out.extend_from_slice(&i.to_le_bytes());
    }
}

fn write_all(items: &[Value], out: &mut Vec<u8>) {
    for v in items {
        write(v, out);
    }
}

fn write(v: &Value, out: &mut Vec<u8>) {
    match v {
        Value::None => out.push(b'N'),
        Value::Bool(b) => out.push(if *b { 0x88 } else { 0x89 }),
        Value::Int(i) => write_int(*i, out),
        Value::Float(f) => {
            out.push(b'G');
            out.extend_from_slice(&f.to_be_bytes());
        }
        Value::Bytes(b) if b.is_empty() => out.extend_from_slice(b"c__builtin__\nbytes\n)R"),
        Value::Bytes(b) => {
            out.extend_from_slice(b"c_codecs\nencode\n");
            write_text(&b.iter().map(|c| char::from(*c)).collect::<String>(), out);
            write_text("latin1", out);
            out.extend_from_slice(&[0x86, b'R']);
        }
        Value::Str(s) => write_text(s, out),
        Value::List(items) => {
            out.extend_from_slice(b"](");
            write_all(items, out);
            out.push(b'e');
        }
        Value::Tuple(items) => {
            out.push(b'(');
            write_all(items, out);
            out.push(b't');
        }
        Value::Dict(items) => {
            out.extend_from_slice(b"}(");
            for (k, v) in items {
                write(k, out);
                write(v, out);
            }
            out.push(b'u');
        }
        Value::Array(code, items) => {
            out.extend_from_slice(b"carray\narray\n");
            write_text(&code.to_string(), out);
            out.extend_from_slice(b"](");
            for i in items {
                write_int(*i, out);
            }
            out.extend_from_slice(&[b'e', 0x86, b'R']);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let v = Value::Dict(vec![
            (Value::Bytes(b"name".to_vec()), Value::Bytes("/a/c/ö".as_bytes().to_vec())),
            (Value::str("n"), Value::Tuple(vec![Value::Int(-1), Value::Int(70_000), Value::Int(1 << 40), Value::Int(5)])),
            (Value::str("f"), Value::List(vec![Value::Float(1.5), Value::None, Value::Bool(true), Value::Bytes(Vec::new())])),
            (Value::str("a"), Value::Array('H', vec![1, 2, 65_535])),
        ]);
        assert_eq!(loads(&dumps(&v)).unwrap(), v);
    }

    #[test]
    fn what_python_writes() {
        // pickle.dumps({b'name': b'/a', 'n': [1, 2.5, None, True], 't': ('x', 300)}, 2)
        let p2 = b"\x80\x02}q\x00(c_codecs\nencode\nq\x01X\x04\x00\x00\x00nameq\x02X\x06\x00\x00\x00latin1q\x03\x86q\x04Rq\x05h\x01X\x02\x00\x00\x00/aq\x06h\x03\x86q\x07Rq\x08X\x01\x00\x00\x00nq\t]q\n(K\x01G@\x04\x00\x00\x00\x00\x00\x00N\x88eX\x01\x00\x00\x00tq\x0bX\x01\x00\x00\x00xq\x0cM,\x01\x86q\ru.";
        let v = loads(p2).unwrap();
        assert_eq!(v.get("name"), Some(&Value::Bytes(b"/a".to_vec())));
        assert_eq!(v.get("t"), Some(&Value::Tuple(vec![Value::str("x"), Value::Int(300)])));
        assert_eq!(v.get("n").unwrap().items().unwrap().len(), 4);
    }

    #[test]
    fn a_dict_referred_to_again() {
        // d = {'id': 1}; pickle.dumps({'devs': [None, d], 'r': [d]}, 2)
        let p2 =
            b"\x80\x02}q\x00(X\x04\x00\x00\x00devsq\x01]q\x02(N}q\x03X\x02\x00\x00\x00idq\x04K\x01seX\x01\x00\x00\x00rq\x05]q\x06h\x03au.";
        let v = loads(p2).unwrap();
        assert_eq!(v.get("r").unwrap().items().unwrap()[0].get("id"), Some(&Value::Int(1)));
        assert_eq!(v.get("devs").unwrap().items().unwrap()[1].get("id"), Some(&Value::Int(1)));
    }

    #[test]
    fn what_swift_queues() {
        // pickle.dumps({'obj': 'ö\u20ac\\', 'headers': HeaderKeyDict({'x-size': '1'}), 'db_state': None}, 0) and the same in 2
        let p0 = b"(dp0\nVobj\np1\nV\xf6\\u20ac\\u005c\np2\nsVheaders\np3\nccopy_reg\n_reconstructor\np4\n(cswift.common.header_key_dict\nHeaderKeyDict\np5\nc__builtin__\ndict\np6\n(dp7\nVX-Size\np8\nV1\np9\nstp10\nRp11\nsVdb_state\np12\nNs.";
        let v = loads(p0).unwrap();
        assert_eq!(v.get("obj"), Some(&Value::str("ö€\\")));
        assert_eq!(v.get("headers").unwrap().get("X-Size"), Some(&Value::str("1")));
        let p2 = b"\x80\x02}q\x00X\x07\x00\x00\x00headersq\x03cswift.common.header_key_dict\nHeaderKeyDict\nq\x04)\x81q\x05X\x06\x00\x00\x00X-Sizeq\x06X\x01\x00\x00\x001q\x07ss.";
        assert_eq!(loads(p2).unwrap().get("headers").unwrap().get("X-Size"), Some(&Value::str("1")));
    }

    #[test]
    fn nothing_is_executed_and_nonsense_is_refused() {
        for p in
            [&b"cos\nsystem\n(S'true'\ntR."[..], b"", b"(", b".", b"]q\x00h\x00.", b"\x80\x02X\xff\xff\xff\x7f.", b"\x8a\x09123456789."]
        {
            assert!(loads(p).is_err(), "{p:?}");
        }
    }
}
