use crate::Summary;
use crate::admin::Admin;
use crate::cloud::Cloud;
use caelum_base::{Error, Result};
use futures_util::future::BoxFuture;
use http::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::watch;

/// Answers the owner's questions.
pub struct Handle {
    pub cloud: Arc<Cloud>,
    pub summary: Summary,
    pub stop: watch::Sender<bool>,
}

impl Admin for Handle {
    fn handle(&self, method: Method, path: String, query: String) -> BoxFuture<'static, Result<Value>> {
        let (cloud, summary, stop) = (self.cloud.clone(), self.summary.clone(), self.stop.clone());
        Box::pin(async move {
            match (method, path.as_str()) {
                (Method::GET, "/summary") => serde_json::to_value(summary).map_err(|e| Error::internal("summary").caused_by(e)),
                (Method::GET, "/check") => Ok(json!({"checks": cloud.check().await})),
                (Method::POST, "/audit") => Ok(json!({"findings": cloud.audit(query == "heal=true").await?})),
                (Method::POST, "/stop") => {
                    stop.send_replace(true);
                    Ok(json!({}))
                }
                (Method::GET, p) if p.starts_with("/why/") => Ok(json!({"lines": cloud.why(&p["/why/".len()..]).await?})),
                _ => Err(Error::not_found("no such question")),
            }
        })
    }
}
