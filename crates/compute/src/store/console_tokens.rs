//! Tokens that open a server's console for a short time. Only their hashes are kept.

use caelum_base::{Result, Timestamp};
use caelum_store::{Filter, Query, Record, Table, Tx, Value};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Tokens of one server at a time; the oldest go first.
const MAX_PER_SERVER: usize = 64;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConsoleToken {
    /// SHA-256 of the token in hexadecimal.
    pub id: String,
    pub server_id: String,
    /// `novnc`
    pub kind: String,
    pub expires_at: Timestamp,
}

impl Record for ConsoleToken {
    const TABLE: Table = Table { name: "console_tokens", columns: &["server_id", "expires_at"] };

    fn id(&self) -> &str {
        &self.id
    }

    fn columns(&self) -> Vec<Value> {
        vec![self.server_id.as_str().into(), self.expires_at.into()]
    }
}

pub fn hash(token: &str) -> String {
    Sha256::digest(token.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

/// Keeps a token; drops expired ones of any server and the server's oldest beyond the bound.
pub fn insert(tx: &mut Tx<'_>, token: &ConsoleToken, now: Timestamp) -> Result<()> {
    tx.delete_where::<ConsoleToken>(&Query::new().filter(Filter::Le("expires_at", now.into())))?;
    let own = Query::new().eq("server_id", token.server_id.as_str()).sort("expires_at", caelum_store::Dir::Desc);
    for old in tx.list::<ConsoleToken>(&own)?.iter().skip(MAX_PER_SERVER - 1) {
        tx.delete(old)?;
    }
    tx.insert(token).map(drop)
}

/// What a token opens, while it lasts.
pub fn valid(tx: &mut Tx<'_>, token: &str, now: Timestamp) -> Result<Option<ConsoleToken>> {
    Ok(tx.get::<ConsoleToken>(&hash(token))?.map(|t| t.into_inner()).filter(|t| t.expires_at > now))
}
