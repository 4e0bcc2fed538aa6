/// The characters of an RFC 2616 token.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b > 0x20 && b != 0x7f && !b"()<>@,;:\\\"/[]?={}".contains(&b))
}

struct Wanted<'a> {
    main: &'a str,
    sub: &'a str,
    quality: f64,
}

impl Wanted<'_> {
    fn exact(&self) -> bool {
        self.main != "*" && self.sub != "*"
    }

    fn fits(&self, option: &str) -> bool {
        let (main, sub) = option.split_once('/').unwrap_or((option, ""));
        (self.main == "*" || self.main == main) && (self.sub == "*" || self.sub == sub)
    }
}

fn parse(entry: &str) -> Option<Wanted<'_>> {
    let mut parts = entry.split(';');
    let (main, sub) = parts.next()?.trim().split_once('/')?;
    if !is_token(main) || !is_token(sub) {
        return None;
    }
    let (mut quality, mut seen) = (1.0, false);
    for parameter in parts.map(str::trim) {
        let (name, value) = parameter.split_once('=').map(|(n, v)| (n.trim(), v.trim()))?;
        let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
        let quoted = inner.is_some_and(|v| !v.contains(['"', '=']));
        if !is_token(name) || !(quoted || is_token(value)) {
            return None;
        }
        if name == "q" {
            if seen {
                return None;
            }
            seen = true;
            quality = value.parse().ok()?;
        }
    }
    Some(Wanted { main, sub, quality })
}

/// The one of `options` that an `Accept` header likes best; the first without a header. `Ok(None)`: none
/// is acceptable. Runs in time linear in the header.
///
/// Errors: `()` for a header that is malformed.
#[allow(clippy::result_unit_err, reason = "there is one way to be malformed, and callers have their own texts for it")]
pub fn best_match<'a>(accept: Option<&str>, options: &[&'a str]) -> Result<Option<&'a str>, ()> {
    let Some(header) = accept.filter(|a| !a.is_empty()) else { return Ok(options.first().copied()) };
    let mut wanted = header.split(',').map(parse).collect::<Option<Vec<_>>>().ok_or(())?;
    // Python's reversed stable sort keeps the order of equals.
    wanted.sort_by(|a, b| b.quality.total_cmp(&a.quality).then_with(|| b.exact().cmp(&a.exact())));
    Ok(wanted.iter().find_map(|w| options.iter().copied().find(|o| w.fits(o))))
}
