use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Microseconds since 1970-01-01T00:00:00Z. Stored as `BIGINT`; formatted per API dialect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs * 1_000_000)
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn secs(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    pub fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(d.as_micros()).unwrap_or(i64::MAX)))
    }

    pub fn minus(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(d.as_micros()).unwrap_or(i64::MAX)))
    }

    /// Time from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }

    /// `(year, month, day, hour, minute, second, microsecond)` in UTC.
    pub fn civil(self) -> (i64, u32, u32, u32, u32, u32, u32) {
        let days = self.secs().div_euclid(86_400);
        let rem = u32::try_from(self.secs().rem_euclid(86_400)).unwrap_or(0);
        let (y, m, d) = civil_from_days(days);
        let micros = u32::try_from(self.0.rem_euclid(1_000_000)).unwrap_or(0);
        (y, m, d, rem / 3600, rem / 60 % 60, rem % 60, micros)
    }

    /// `2026-11-20T11:15:00Z` (Nova, Glance, Neutron).
    pub fn iso_z(self) -> String {
        let (y, mo, d, h, mi, s, _) = self.civil();
        format!("{y:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}Z")
    }

    /// `2026-11-20T11:15:00.000000Z` (Keystone).
    pub fn iso_micros_z(self) -> String {
        let (y, mo, d, h, mi, s, us) = self.civil();
        format!("{y:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}.{us:06}Z")
    }

    /// `2026-11-20T11:15:00.123456` without a zone (Cinder, Nova's actions and services).
    pub fn iso_micros(self) -> String {
        let (y, mo, d, h, mi, s, us) = self.civil();
        format!("{y:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}.{us:06}")
    }

    /// Parses `YYYY-MM-DD[T| ]HH:MM[:SS[.ffffff]][Z|±HH:MM]`, or the date alone; `None` when it
    /// is not a real date. A missing zone means UTC.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let date = text.get(..10)?;
        let mut parts = date.split('-');
        let y: i64 = parts.next().filter(|p| p.len() == 4)?.parse().ok()?;
        let m: u32 = parts.next().filter(|p| p.len() == 2)?.parse().ok()?;
        let d: u32 = parts.next().filter(|p| p.len() == 2)?.parse().ok()?;
        if parts.next().is_some() || !(1..=12).contains(&m) || d < 1 || d > days_in_month(y, m) {
            return None;
        }
        let day_secs = days_from_civil(y, m, d) * 86_400;
        let Some(rest) = text.get(10..).filter(|r| !r.is_empty()) else {
            return Some(Self::from_secs(day_secs));
        };
        let rest = rest.strip_prefix(['T', ' ', 't'])?;
        let (clock, offset_secs) = split_zone(rest)?;
        let (clock, micros) = match clock.split_once('.') {
            Some((c, frac)) => (c, parse_fraction(frac)?),
            None => (clock, 0),
        };
        let mut hms = clock.split(':');
        let h: i64 = two_digits(hms.next()?)?;
        let mi: i64 = two_digits(hms.next()?)?;
        let s: i64 = match hms.next() {
            Some(s) => two_digits(s)?,
            None => 0,
        };
        if hms.next().is_some() || h > 23 || mi > 59 || s > 60 {
            return None;
        }
        let secs = day_secs + h * 3600 + mi * 60 + s.min(59) - offset_secs;
        Some(Self(secs * 1_000_000 + micros))
    }
}

fn two_digits(text: &str) -> Option<i64> {
    (text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

fn parse_fraction(frac: &str) -> Option<i64> {
    if frac.is_empty() || frac.len() > 9 || !frac.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let padded = format!("{frac:0<6}");
    padded.get(..6)?.parse().ok()
}

fn split_zone(text: &str) -> Option<(&str, i64)> {
    if let Some(t) = text.strip_suffix(['Z', 'z']) {
        return Some((t, 0));
    }
    let Some(at) = text.rfind(['+', '-']) else { return Some((text, 0)) };
    let (clock, zone) = text.split_at(at);
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let zone = zone.get(1..)?.replace(':', "");
    if zone.len() != 4 {
        return None;
    }
    let h = two_digits(zone.get(..2)?)?;
    let m = two_digits(zone.get(2..)?)?;
    Some((clock, sign * (h * 3600 + m * 60)))
}

// Howard Hinnant's civil calendar algorithms (https://howardhinnant.github.io/date_algorithms.html).
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let d = doy - (153 * mp + 2) / 5 + 1;
    let m = if mp < 10 { mp + 3 } else { mp - 9 };
    let y = yoe + era * 400 + i64::from(m <= 2);
    (y, u32::try_from(m).unwrap_or(1), u32::try_from(d).unwrap_or(1))
}

fn days_from_civil(y: i64, m: u32, d: u32) -> i64 {
    let y = if m <= 2 { y - 1 } else { y };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let mp = i64::from(if m > 2 { m - 3 } else { m + 9 });
    let doy = (153 * mp + 2) / 5 + i64::from(d) - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

fn days_in_month(y: i64, m: u32) -> u32 {
    match m {
        4 | 6 | 9 | 11 => 30,
        2 if y % 4 == 0 && (y % 100 != 0 || y % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Where the time comes from.
pub trait Clock: Send + Sync {
    fn now(&self) -> Timestamp;
}

/// The operating system's real-time clock.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

/// A clock that moves only when told to; starts at a fixed instant.
pub struct ManualClock(AtomicI64);

impl ManualClock {
    pub fn at(t: Timestamp) -> Self {
        Self(AtomicI64::new(t.0))
    }

    pub fn advance(&self, d: Duration) {
        self.0.fetch_add(i64::try_from(d.as_micros()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    pub fn set(&self, t: Timestamp) {
        self.0.store(t.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_and_parses_back() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_173_300, "2026-11-20T11:15:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(Timestamp::from_secs(secs).iso_z(), text);
            assert_eq!(Timestamp::parse(text), Some(Timestamp::from_secs(secs)));
        }
        let t = Timestamp(1_795_173_300_123_456);
        assert_eq!(t.iso_micros_z(), "2026-11-20T11:15:00.123456Z");
        assert_eq!(Timestamp::parse(&t.iso_micros_z()), Some(t));
        assert_eq!(Timestamp::parse("2026-11-20T12:15:00.123456+01:00"), Some(t));
        assert_eq!(Timestamp::parse("2026-11-20"), Some(Timestamp::from_secs(1_795_132_800)));
    }

    #[test]
    fn refuses_what_is_no_date() {
        for text in [
            "",
            "x",
            "2026-02-30",
            "2026-13-01",
            "2026-1-1",
            "2026-11-20T25:00:00Z",
            "2026-11-20T1:00",
            "2026-11-20Tfoo",
            "2026-11-20T00:00:00.x",
            "20261120",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }
}
