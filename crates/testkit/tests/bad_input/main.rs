//! Bad inputs against the whole cloud: whatever comes in is answered 2xx or 4xx, in time, by a process
//! that lives on.

#[path = "../common/mod.rs"]
mod common;

mod json;
mod limits;
mod query;
mod wire;

use caelum_testkit::{Answer, TestCloud};
use std::time::Duration;

/// An answer later than this is a hang. The promise is 2 s; tests share the machine with others.
const HANG: Duration = Duration::from_secs(5);

/// What is wrong with an answer to bad input, if anything.
fn wrong(answer: Result<Answer, tokio::time::error::Elapsed>) -> Option<String> {
    match answer {
        Err(_) => Some("no answer in time".into()),
        // 501 is what a host that cannot do a thing answers (no password can be set without a guest agent).
        Ok(a) if a.status >= 500 && a.status != 501 => Some(format!("{} {}", a.status, a.text.chars().take(200).collect::<String>())),
        Ok(_) => None,
    }
}

/// Asks for a version document: the process lives.
async fn alive(cloud: &TestCloud) {
    for path in ["/identity/v3", "/compute/v2.1/", "/network/", "/image/", "/placement/"] {
        let a = cloud.call(http::Method::GET, path, "", None).await;
        assert!(a.status <= 300, "{path}: {a:?}");
    }
}
