//! Texts as Python prints them: our ring files carry the same bytes as upstream's, and our tables and
//! messages the same numbers.

/// `repr` of a float: the shortest digits that read back the same, at least one after the point.
pub(crate) fn float(v: f64) -> String {
    if v.is_nan() {
        return "nan".into();
    }
    if v.is_infinite() {
        return if v > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let size = v.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{v:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{v:?}")
}

/// `str(timedelta(seconds=…))`.
pub(crate) fn duration(seconds: i64) -> String {
    let days = seconds.div_euclid(86_400);
    let rest = seconds.rem_euclid(86_400);
    let clock = format!("{}:{:02}:{:02}", rest / 3_600, rest / 60 % 60, rest % 60);
    match days {
        0 => clock,
        1 | -1 => format!("{days} day, {clock}"),
        _ => format!("{days} days, {clock}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_python_prints() {
        for (v, text) in [
            (100.0, "100.0"),
            (0.1, "0.1"),
            (0.0, "0.0"),
            (1e16, "1e+16"),
            (1.5e-7, "1.5e-07"),
            (3.25, "3.25"),
            (1e22, "1e+22"),
            (-2.5, "-2.5"),
            (0.0001, "0.0001"),
        ] {
            assert_eq!(float(v), text);
        }
        assert_eq!(duration(3_599), "0:59:59");
        assert_eq!(duration(86_400), "1 day, 0:00:00");
        assert_eq!(duration(200_000), "2 days, 7:33:20");
    }
}
