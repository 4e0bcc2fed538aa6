/// A function found in a source text.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    /// First line, counted from 1.
    pub line: usize,
    pub lines: usize,
}

/// The source with comments, strings and character literals blanked out; line breaks stay.
pub fn strip(source: &str) -> String {
    let s: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut i = 0;
    while i < s.len() {
        let end = literal_end(&s, i);
        if end > i {
            out.extend(s[i..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            i = end;
        } else {
            out.push(s[i]);
            i += 1;
        }
    }
    out
}

/// Where the comment or literal that begins at `i` ends; `i` when none begins there.
fn literal_end(s: &[char], i: usize) -> usize {
    let at = |k: usize| s.get(k).copied().unwrap_or('\0');
    match (at(i), at(i + 1)) {
        ('/', '/') => (i..s.len()).find(|k| s[*k] == '\n').unwrap_or(s.len()),
        ('/', '*') => block_comment_end(s, i),
        ('"', _) => string_end(s, i),
        ('r', '"' | '#') if i == 0 || !is_word(at(i - 1)) || at(i - 1) == 'b' => raw_end(s, i),
        ('\'', c) if c == '\\' || at(i + 2) == '\'' => (i + 2..s.len()).find(|k| s[*k] == '\'').map_or(s.len(), |k| k + 1),
        _ => i,
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn block_comment_end(s: &[char], i: usize) -> usize {
    let (mut depth, mut k) = (0, i);
    while k < s.len() {
        match (s[k], s.get(k + 1)) {
            ('/', Some('*')) => (depth, k) = (depth + 1, k + 2),
            ('*', Some('/')) => (depth, k) = (depth - 1, k + 2),
            _ => k += 1,
        }
        if depth == 0 {
            return k;
        }
    }
    s.len()
}

fn string_end(s: &[char], i: usize) -> usize {
    let mut k = i + 1;
    while k < s.len() {
        match s[k] {
            '\\' => k += 2,
            '"' => return k + 1,
            _ => k += 1,
        }
    }
    s.len()
}

fn raw_end(s: &[char], i: usize) -> usize {
    let hashes = s[i + 1..].iter().take_while(|c| **c == '#').count();
    if s.get(i + 1 + hashes) != Some(&'"') {
        return i;
    }
    let mut k = i + 2 + hashes;
    while k < s.len() {
        if s[k] == '"' && s[k + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes {
            return k + 1 + hashes;
        }
        k += 1;
    }
    s.len()
}

/// Every function with a body.
pub fn functions(source: &str) -> Vec<Function> {
    let clean: Vec<char> = strip(source).chars().collect();
    let mut out = Vec::new();
    let mut i = 0;
    while i + 3 < clean.len() {
        let starts = clean[i..].starts_with(&['f', 'n', ' ']) && (i == 0 || !is_word(clean[i - 1]));
        if starts && let Some(f) = function_at(&clean, i) {
            out.push(f);
        }
        i += 1;
    }
    out
}

fn function_at(s: &[char], start: usize) -> Option<Function> {
    let name: String = s[start + 3..].iter().take_while(|c| is_word(**c)).collect();
    if name.is_empty() {
        return None;
    }
    let (mut depth, mut nest, mut open) = (0usize, 0usize, None);
    for (k, c) in s.iter().enumerate().skip(start) {
        match c {
            '(' | '[' if open.is_none() => nest += 1,
            ')' | ']' if open.is_none() => nest = nest.saturating_sub(1),
            ';' if open.is_none() && nest == 0 => return None,
            '{' => {
                open.get_or_insert(k);
                depth += 1;
            }
            '}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    let line = s[..start].iter().filter(|c| **c == '\n').count() + 1;
                    let lines = s[start..=k].iter().filter(|c| **c == '\n').count() + 1;
                    return Some(Function { name, line, lines });
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_functions_and_their_lengths() {
        let source = "fn a() { \"}\" ; '}' ; /* } */ }\n// fn no() {}\nimpl X {\n    fn b(x: [u8; 3]) -> char {\n        '\\''\n    }\n}\ntrait T { fn c(); }\nfn d() { r#\"\"}\"# }\n";
        let found: Vec<(String, usize, usize)> = functions(source).into_iter().map(|f| (f.name, f.line, f.lines)).collect();
        assert_eq!(found, [("a".into(), 1, 1), ("b".into(), 4, 3), ("d".into(), 9, 1)]);
    }
}
