//! Tokens for requests signed with EC2 keys. Only services may ask: whoever could ask with a
//! captured signed request would get the user's token for it.

use super::credentials::digest;
use super::fields::Cx;
use super::guard;
use super::rules::ruled;
use crate::logic::authenticate::{EC2_METHOD, key_token};
use crate::logic::ec2::{self, Signed};
use crate::state::Identity;
use crate::store::Credential;
use crate::token::TokenEntry;
use crate::token::resolve::invalid;
use caelum_base::{Error, Result, Secret};
use caelum_rest::{Op, Reply, h};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Whether a token was made for a signed request (or is made of such a token). It stands for a narrow secret that
/// services see used, so that nobody may turn it into anything wider.
pub fn is_of_key(methods: &[String]) -> bool {
    methods.iter().any(|m| m == EC2_METHOD)
}

const SERVICES: &str = "rule:service_or_admin";

pub const OPS: &[Op<Identity>] = &[
    Op::post("ec2_token_create", "/ec2tokens", ruled("identity:ec2tokens_validate", SERVICES), h!(ec2_token_create)),
    Op::post("s3_token_create", "/s3tokens", ruled("identity:s3tokens_validate", SERVICES), h!(s3_token_create)),
];

/// The secret of an access key, its user and its project. `None` when there is no such key, or it was made with a
/// delegated token.
pub async fn ec2_secret(identity: &Identity, access: &str) -> Result<Option<(Secret<String>, String, String)>> {
    let c = identity.db.get::<Credential>(&digest(access)).await?.filter(|c| c.kind == "ec2");
    let Some(c) = c else { return Ok(None) };
    let Ok(blob) = serde_json::from_str::<Map<String, Value>>(&identity.decrypt(&c.encrypted_blob)?) else { return Ok(None) };
    if ["trust_id", "app_cred_id", "access_token_id"].iter().any(|k| blob.get(*k).is_some_and(|v| !v.is_null())) {
        return Ok(None);
    }
    let secret = blob.get("secret").and_then(Value::as_str).filter(|s| !s.is_empty()).map(|s| Secret::new(s.to_string()));
    Ok(secret.zip(c.project_id.clone()).map(|(secret, project)| (secret, c.user_id.clone(), project)))
}

async fn token_for(cx: &mut Cx, fits: fn(&Signed, &str) -> bool) -> Result<(String, Arc<TokenEntry>)> {
    guard(cx, &Value::Null)?;
    let mut body: Map<String, Value> = cx.json().await?;
    let part = ["credentials", "credential", "ec2Credentials"].iter().find_map(|k| body.remove(*k));
    let part = part.ok_or_else(|| Error::invalid("The request has no credentials."))?;
    let signed: Signed = serde_json::from_value(part).map_err(|e| Error::invalid(format!("Malformed credentials: {e}")))?;
    let found = ec2_secret(&cx.state, &signed.access).await?;
    let (secret, user, project) = found.ok_or_else(|| invalid("no such access key, or one that is not accepted"))?;
    if !fits(&signed, secret.expose()) || !ec2::fresh(&signed, cx.env.now()) {
        return Err(invalid("wrong or old signature"));
    }
    key_token(&cx.state, user, project).await
}

async fn ec2_token_create(mut cx: Cx) -> Result<Reply> {
    let (token, entry) = token_for(&mut cx, ec2::request_fits).await?;
    Ok(Reply::bytes(200, "application/json", entry.body.clone()).header("x-subject-token", token))
}

/// The object store only wants to know who it is: no token goes out.
async fn s3_token_create(mut cx: Cx) -> Result<Reply> {
    let (_, entry) = token_for(&mut cx, ec2::s3_fits).await?;
    Ok(Reply::bytes(200, "application/json", entry.body.clone()))
}
