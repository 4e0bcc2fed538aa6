use caelum_base::Timestamp;

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Seconds since 1970 as `Sun, 06 Nov 1994 08:49:37 GMT`.
pub fn http_date(seconds: u64) -> String {
    // The year 9999 is the last that the format can hold.
    let seconds = seconds.min(253_402_300_799);
    let (y, m, d, h, min, s, _) = Timestamp(i64::try_from(seconds).unwrap_or(0) * 1_000_000).civil();
    let day = DAYS[usize::try_from(seconds / 86_400 % 7).unwrap_or(0)];
    let month = MONTHS.get(m.saturating_sub(1) as usize).copied().unwrap_or("Jan");
    format!("{day}, {d:02} {month} {y:04} {h:02}:{min:02}:{s:02} GMT")
}

/// Seconds since 1970 of an HTTP date (also the two obsolete forms). `None` for other text.
pub fn parse_http_date(text: &str) -> Option<i64> {
    let text = text.trim();
    let rest = text.split_once(',').map_or(text, |(_, r)| r);
    let words: Vec<&str> = rest.split([' ', '-']).filter(|w| !w.is_empty()).collect();
    let (day, month, year, clock) = match words.as_slice() {
        // asctime: Sun Nov  6 08:49:37 1994
        [weekday, m, d, t, y] if !weekday.starts_with(|c: char| c.is_ascii_digit()) => (*d, *m, *y, *t),
        [d, m, y, t, ..] => (*d, *m, *y, *t),
        _ => return None,
    };
    let month = MONTHS.iter().position(|m| m.eq_ignore_ascii_case(month))? + 1;
    let number = |t: &str, max: i64| t.parse::<i64>().ok().filter(|n| (0..=max).contains(n));
    let mut year = number(year, 9999)?;
    if year < 100 {
        year += if year > 68 { 1900 } else { 2000 };
    }
    let mut hms = clock.split(':');
    let (h, m, s) = (number(hms.next()?, 23)?, number(hms.next()?, 59)?, number(hms.next().unwrap_or("0"), 60)?);
    let day = number(day, 31).filter(|d| *d > 0)?;
    Some(days_from_civil(year, i64::try_from(month).ok()?, day) * 86_400 + h * 3_600 + m * 60 + s)
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let year_of_era = y - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}
