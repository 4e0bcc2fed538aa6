use std::cmp::Ordering;
use std::fmt;
use std::time::Duration;

/// When something was written, in units of 10 µs since 1970, with the offset that orders internal
/// rewrites of one user's write. Text: `1234567890.12345` or `1234567890.12345_0000000000000001`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Timestamp {
    /// In 10 µs.
    pub raw: u64,
    pub offset: u64,
}

const PER_SECOND: u64 = 100_000;
const MAX_RAW: u64 = 9_999_999_999 * PER_SECOND + 99_999;

impl Timestamp {
    pub const ZERO: Self = Self { raw: 0, offset: 0 };

    pub fn from_raw(raw: u64) -> Self {
        Self { raw: raw.min(MAX_RAW), offset: 0 }
    }

    /// From the process's clock.
    pub fn at(now: caelum_base::Timestamp) -> Self {
        Self::from_raw(u64::try_from(now.0 / 10).unwrap_or(0))
    }

    #[must_use]
    pub fn with_offset(self, offset: u64) -> Self {
        Self { offset, ..self }
    }

    /// The next moment that can be told from this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self::from_raw(self.raw + 1)
    }

    #[must_use]
    pub fn plus(self, d: Duration) -> Self {
        let add = u64::try_from(d.as_micros() / 10).unwrap_or(u64::MAX);
        Self { raw: self.raw.saturating_add(add).min(MAX_RAW), offset: self.offset }
    }

    #[must_use]
    pub fn minus(self, d: Duration) -> Self {
        let sub = u64::try_from(d.as_micros() / 10).unwrap_or(u64::MAX);
        Self { raw: self.raw.saturating_sub(sub), offset: self.offset }
    }

    /// Both forms, and any decimal number (`X-Timestamp`, `1`, `1.5`). `None` for anything else and
    /// for numbers outside 0 … 9999999999.99999.
    pub fn parse(text: &str) -> Option<Self> {
        let (number, offset) = match text.split_once('_') {
            Some((n, o)) if !o.is_empty() && o.len() <= 16 => (n, u64::from_str_radix(o, 16).ok()?),
            Some(_) => return None,
            None => (text, 0),
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || whole.len() > 16 || !digits(whole) || !digits(part) {
            return None;
        }
        let mut fraction = 0;
        for i in 0..5 {
            fraction = fraction * 10 + part.as_bytes().get(i).map_or(0, |b| u64::from(b - b'0'));
        }
        // Python rounds to the nearest of the five digits.
        let up = u64::from(part.as_bytes().get(5).is_some_and(|b| *b >= b'5'));
        let raw = whole.parse::<u64>().ok()?.checked_mul(PER_SECOND)? + fraction + up;
        (raw <= MAX_RAW).then_some(Self { raw, offset })
    }

    /// `1234567890.12345`: what clients see.
    pub fn normal(self) -> String {
        format!("{:010}.{:05}", self.raw / PER_SECOND, self.raw % PER_SECOND)
    }

    /// With the offset when there is one: what nodes exchange and file names carry.
    pub fn internal(self) -> String {
        if self.offset == 0 { self.normal() } else { format!("{}_{:016x}", self.normal(), self.offset) }
    }

    /// Whole seconds, rounded up: `Last-Modified`.
    pub fn ceil_seconds(self) -> u64 {
        self.raw.div_ceil(PER_SECOND)
    }

    pub fn seconds(self) -> u64 {
        self.raw / PER_SECOND
    }

    /// Seconds with fraction.
    pub fn as_f64(self) -> f64 {
        // 53 bits hold every moment this type can express.
        self.raw as f64 / PER_SECOND as f64
    }

    /// `2009-02-13T23:31:30.123450`: listings.
    pub fn iso(self) -> String {
        let micros = i64::try_from(self.raw * 10).unwrap_or(i64::MAX);
        caelum_base::Timestamp(micros).iso_micros()
    }

    /// Like [`Self::internal`] with the offset's leading zeros left out: the first part of
    /// [`Self::encode`].
    pub fn short(self) -> String {
        if self.offset == 0 { self.normal() } else { format!("{}_{:x}", self.normal(), self.offset) }
    }

    /// `t1` with later ones as differences (`t1+1a+0`): the container's object rows carry created,
    /// content-type and metadata time in one column. Differences that are all zero are left out;
    /// otherwise one stands for each time given. The text enters the container's hash, so it must
    /// be the same on every node.
    pub fn encode(t1: Self, t2: Option<Self>, t3: Option<Self>) -> String {
        let mut out = t1.short();
        let Some(t2) = t2 else { return out };
        let deltas = [Some((t1, t2)), t3.map(|t3| (t2, t3))];
        if deltas.iter().flatten().all(|(from, to)| from.raw == to.raw) {
            return out;
        }
        for (from, to) in deltas.into_iter().flatten() {
            let sign = if to.raw < from.raw { '-' } else { '+' };
            out.push(sign);
            out.push_str(&format!("{:x}", to.raw.abs_diff(from.raw)));
        }
        out
    }

    /// The inverse of [`Self::encode`]: created, content-type and metadata time.
    pub fn decode(text: &str) -> Option<(Self, Self, Self)> {
        let cut = text.find(['+', '-']).unwrap_or(text.len());
        let t1 = Self::parse(text.get(..cut)?)?;
        let mut times = [t1, t1, t1];
        let mut rest = text.get(cut..)?;
        for i in 1..3 {
            times[i] = times[i - 1];
            if rest.is_empty() {
                continue;
            }
            let negative = rest.starts_with('-');
            let tail = rest.get(1..)?;
            let end = tail.find(['+', '-']).unwrap_or(tail.len());
            let d = i128::from(u64::from_str_radix(tail.get(..end)?, 16).ok()?);
            if d != 0 {
                let raw = i128::from(times[i - 1].raw) + if negative { -d } else { d };
                times[i] = Self { raw: u64::try_from(raw).ok()?, offset: 0 };
            }
            rest = tail.get(end..)?;
        }
        rest.is_empty().then_some((times[0], times[1], times[2]))
    }
}

impl Ord for Timestamp {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.raw, self.offset).cmp(&(other.raw, other.offset))
    }
}

impl PartialOrd for Timestamp {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.internal())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let t = Timestamp::parse("1234567890.12345").unwrap();
        assert_eq!(t.normal(), "1234567890.12345");
        assert_eq!(t.with_offset(1).internal(), "1234567890.12345_0000000000000001");
        assert_eq!(Timestamp::parse("1234567890.12345_0000000000000001"), Some(t.with_offset(1)));
        assert_eq!(t.iso(), "2009-02-13T23:31:30.123450");
        assert_eq!(Timestamp::parse("1").unwrap().normal(), "0000000001.00000");
        assert_eq!(Timestamp::parse("1.999999").unwrap().normal(), "0000000002.00000");
        for bad in ["", "x", "-1", "1_", "99999999999", "1.5e3", "nan", "1_xyz"] {
            assert_eq!(Timestamp::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn deltas() {
        let t = Timestamp::parse("1402463942.05535").unwrap();
        let (u, v) = (Timestamp::from_raw(t.raw + 16), Timestamp::from_raw(t.raw + 10));
        assert_eq!(Timestamp::encode(t, None, None), "1402463942.05535");
        assert_eq!(Timestamp::encode(t, Some(u), Some(v)), "1402463942.05535+10-6");
        assert_eq!(Timestamp::decode("1402463942.05535+10-6"), Some((t, u, v)));
        assert_eq!(Timestamp::decode(&Timestamp::encode(t, Some(t), Some(u))), Some((t, t, u)));
        assert_eq!(Timestamp::encode(t, Some(u), Some(u)), "1402463942.05535+10+0");
        assert_eq!(Timestamp::encode(t, Some(u), None), "1402463942.05535+10");
        assert_eq!(Timestamp::encode(t, Some(t), Some(t)), "1402463942.05535");
        let o = t.with_offset(10);
        assert_eq!(Timestamp::encode(o, Some(o), Some(o)), "1402463942.05535_a");
        assert_eq!(Timestamp::decode("1402463942.05535_a+0+10"), Some((o, o, u)));
    }
}
