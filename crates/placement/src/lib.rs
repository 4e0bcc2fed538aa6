//! Placement (Placement 1.0–1.39): what providers have and who holds how much of it.
//!
//! Invariants: every change of a provider's inventory, traits, aggregates or allocations raises its
//! generation and is refused when based on an older one; the sum of allocations never exceeds
//! capacity at the time of the claim; a claim is all or nothing.

mod api;
mod logic;
mod store;

use caelum_base::{Env, Result};
use caelum_rest::{Api, HttpService, OpInfo, TokenValidator};
use caelum_store::{Db, StoreUrl, params};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What placement needs from the node.
pub struct Deps {
    pub env: Env,
    pub store: StoreUrl,
    pub validator: Arc<dyn TokenValidator>,
    pub policy: BTreeMap<String, String>,
    pub auth_url: String,
}

/// Shared by the handlers.
pub struct State {
    pub(crate) db: Db,
}

/// Running placement.
pub struct Service {
    api: Api<State>,
    db: Db,
}

/// Opens the database and builds the API.
pub async fn start(deps: Deps) -> Result<Service> {
    let db = Db::open(&deps.store, "placement", store::MIGRATIONS).await?;
    let api = api::build(Arc::new(State { db: db.clone() }), deps.env, deps.validator, deps.policy, deps.auth_url)?;
    Ok(Service { api, db })
}

impl Service {
    pub fn api(&self) -> Arc<dyn HttpService> {
        Arc::new(self.api.clone())
    }

    pub fn operations(&self) -> Vec<OpInfo> {
        self.api.operations().to_vec()
    }

    /// Inventories whose use differs from the sum of their allocations (invariant I7), and consumers
    /// without allocations. One line each; `heal` puts them right.
    pub async fn audit(&self, heal: bool) -> Result<Vec<String>> {
        self.db
            .write(move |tx| {
                let sql = "SELECT i.provider AS provider, i.class AS class, i.used AS used, CAST(COALESCE((SELECT SUM(a.used) FROM allocations a WHERE a.provider = i.provider AND a.class = i.class), 0) AS BIGINT) AS truth FROM inventories i";
                let mut out = Vec::new();
                for row in tx.query(sql, &[])? {
                    let (used, truth) = (row.int("used")?, row.int("truth")?);
                    if used == truth {
                        continue;
                    }
                    let (provider, class) = (row.text("provider")?, row.text("class")?);
                    out.push(format!("placement: {class} on provider {provider} counts {used}, allocations sum to {truth}"));
                    if heal {
                        tx.exec("UPDATE inventories SET used = $1 WHERE provider = $2 AND class = $3", params![truth, provider, class])?;
                    }
                }
                for row in tx.query("SELECT id FROM consumers WHERE id NOT IN (SELECT consumer FROM allocations)", &[])? {
                    let id = row.text("id")?;
                    out.push(format!("placement: consumer {id} holds nothing"));
                    if heal {
                        tx.exec("DELETE FROM consumers WHERE id = $1", params![id])?;
                    }
                }
                Ok(out)
            })
            .await
    }

    /// Every consumer with allocations.
    pub async fn consumers(&self) -> Result<Vec<String>> {
        self.db.read(|tx| tx.query("SELECT id FROM consumers", &[])?.iter().map(|r| r.text("id")).collect()).await
    }
}
