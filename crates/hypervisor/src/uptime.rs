//! The machine's uptime from `/proc`.

use caelum_base::{Error, Result};

/// `up 3 days,  4:05,  load average: 0.20, 0.12, 0.14`
pub async fn read() -> Result<String> {
    let read = |path: &'static str| async move {
        tokio::fs::read_to_string(path).await.map_err(|e| Error::unavailable("The host does not tell its uptime.").caused_by(e))
    };
    let (up, load) = (read("/proc/uptime").await?, read("/proc/loadavg").await?);
    text(&up, &load).ok_or_else(|| Error::internal("unexpected text in /proc/uptime"))
}

fn text(up: &str, load: &str) -> Option<String> {
    let secs: u64 = up.split('.').next()?.trim().parse().ok()?;
    let (days, hours, minutes) = (secs / 86_400, secs / 3_600 % 24, secs / 60 % 60);
    let load: Vec<&str> = load.split_whitespace().take(3).collect();
    Some(format!("up {days} days, {hours:2}:{minutes:02},  load average: {}", load.join(", ")))
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_like_uptime() {
        let line = super::text("273900.55 1.0\n", "0.20 0.12 0.14 1/2 3\n");
        assert_eq!(line.as_deref(), Some("up 3 days,  4:05,  load average: 0.20, 0.12, 0.14"));
        assert_eq!(super::text("x", ""), None);
    }
}
