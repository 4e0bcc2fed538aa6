//! Users that stand in the configuration, and tokens for them: for a store without an identity service.
//! Source: Swift's documentation (`overview_auth`, TempAuth).

use super::Request;
use super::acl::{AccountAcl, Acl};
use super::rules::Resellers;
use crate::env::{Caller, Environ, Resp};
use crate::http::{error, set, text, unauthorized};
use crate::proxy::{Cache, InfoSource};
use base64::Engine;
use bytes::Bytes;
use caelum_base::{Env, Error, Result, Secret, Timestamp};
use caelum_rest::BaseUrl;
use http::Method;
use http::request::Parts;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq;

/// A user as configured.
#[derive(Clone, Debug)]
pub struct TempUser {
    pub key: Secret<String>,
    /// Where the user's account is; `$HOST` is the address the client reached us at.
    pub url: String,
    pub groups: Vec<String>,
}

/// How tempauth is set up.
#[derive(Clone, Debug)]
pub struct TempAuthOptions {
    pub resellers: Resellers,
    /// With a slash at both ends.
    pub auth_prefix: String,
    pub token_life: Duration,
    /// By `account:user`.
    pub users: HashMap<String, TempUser>,
}

/// `http://host:80` without the port that goes without saying.
fn without_usual_port(url: &str) -> &str {
    let usual = if url.starts_with("https://") { ":443" } else { ":80" };
    url.strip_suffix(usual).unwrap_or(url)
}

impl TempAuthOptions {
    /// From the section `filter:tempauth` of `proxy-server.conf`. Errors: `Invalid` naming the option.
    pub fn from_options(options: &[(String, String)]) -> Result<Self> {
        let get = |key: &str| options.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let resellers = Resellers::from_options(options);
        let prefix = get("auth_prefix").unwrap_or("/auth/").trim_matches('/');
        let life = get("token_life").unwrap_or("86400");
        let life: u64 = life.parse().map_err(|_| Error::invalid(format!("token_life: {life} is not a number of seconds")))?;
        let mut users = HashMap::new();
        for (name, value) in options {
            if let Some((who, user)) = user_option(name, value, resellers.first_prefix())? {
                users.insert(who, user);
            }
        }
        let auth_prefix = if prefix.is_empty() { "/auth/".into() } else { format!("/{prefix}/") };
        Ok(Self { resellers, auth_prefix, token_life: Duration::from_secs(life), users })
    }
}

fn decoded(text: &str) -> Option<String> {
    let engine = base64::engine::general_purpose::STANDARD_NO_PAD;
    String::from_utf8(engine.decode(text.trim_end_matches('=')).ok()?).ok()
}

/// `user_ACCOUNT_USER = KEY GROUP… [URL]`, or `user64_` with both names in base 64.
fn user_option(name: &str, value: &str, prefix: &str) -> Result<Option<(String, TempUser)>> {
    let (names, coded) = match (name.strip_prefix("user64_"), name.strip_prefix("user_")) {
        (Some(n), _) => (n, true),
        (None, Some(n)) => (n, false),
        (None, None) => return Ok(None),
    };
    let invalid = || Error::invalid(format!("key {name} was provided in an invalid format"));
    let (account, user) = names.split_once('_').filter(|(_, u)| !u.contains('_')).ok_or_else(invalid)?;
    let (account, user) = match coded {
        true => (decoded(account).ok_or_else(invalid)?, decoded(user).ok_or_else(invalid)?),
        false => (account.to_string(), user.to_string()),
    };
    let mut words: Vec<&str> = value.split_whitespace().collect();
    if words.is_empty() {
        return Err(Error::invalid(format!("{name} has no key set")));
    }
    let key = Secret::new(words.remove(0).to_string());
    let url = match words.last() {
        Some(last) if last.contains("://") || last.contains("$HOST") => words.pop().unwrap_or_default().to_string(),
        _ => format!("$HOST/v1/{prefix}{}", crate::env::quote(&account)),
    };
    let groups = words.into_iter().map(str::to_string).collect();
    Ok(Some((format!("{account}:{user}"), TempUser { key, url, groups })))
}

/// The authentication of configured users.
pub struct TempAuth {
    options: TempAuthOptions,
    env: Env,
    cache: Arc<dyn Cache>,
}

/// What a configured user is to other layers.
pub struct KnownUser {
    pub key: Secret<String>,
    /// `AUTH_test`
    pub account: String,
    pub caller: Caller,
}

fn sha(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// A group that admits to everything that can be admitted to.
const RESELLER_ADMIN: &str = ".reseller_admin";

impl TempAuth {
    pub fn new(options: TempAuthOptions, env: Env, cache: Arc<dyn Cache>) -> Self {
        Self { options, env, cache }
    }

    /// Whether a request is for the handing out of tokens.
    pub fn is_auth_path(&self, path: &str) -> bool {
        path.starts_with(&self.options.auth_prefix)
    }

    /// Whether a token could be one of ours.
    pub fn is_token(&self, token: &str) -> bool {
        token.strip_prefix(self.options.resellers.first_prefix()).is_some_and(|t| t.starts_with("tk"))
    }

    /// Whether accounts of this name are under these rules.
    pub fn speaks_for(&self, account: &str) -> bool {
        self.options.resellers.of(account).is_some()
    }

    /// A user by `account:user`, for signatures made with the key.
    pub fn user(&self, name: &str) -> Option<KnownUser> {
        let user = self.options.users.get(name)?;
        Some(KnownUser { key: user.key.clone(), account: account_of(user), caller: self.caller_of(self.groups(name, user)) })
    }

    fn groups(&self, name: &str, user: &TempUser) -> Vec<String> {
        let account = name.split(':').next().unwrap_or_default();
        let mut groups = vec![account.to_string(), name.to_string()];
        groups.extend(user.groups.iter().filter(|g| *g != ".admin").cloned());
        if user.groups.iter().any(|g| g == ".admin") {
            let named = self.options.resellers.0.iter().filter(|r| !r.prefix.is_empty());
            groups.extend(named.map(|r| format!("{}{account}", r.prefix)));
            let own = account_of(user);
            if !groups.contains(&own) {
                groups.push(own);
            }
        }
        groups
    }

    fn caller_of(&self, groups: Vec<String>) -> Caller {
        let user = groups.get(1).or(groups.first()).cloned().unwrap_or_default();
        let reseller_admin = groups.iter().any(|g| g == RESELLER_ADMIN);
        Caller { user_id: user.clone(), user_name: user, groups, reseller_admin, ..Caller::default() }
    }

    /// The caller behind a token of ours; `None` when it is not valid (any more).
    pub async fn caller(&self, token: &str, service_token: Option<&str>) -> Option<Caller> {
        let mut groups = self.token_groups(token).await?;
        if let Some(service) = service_token
            && let Some(more) = self.token_groups(service).await
        {
            groups.extend(more);
        }
        Some(self.caller_of(groups))
    }

    fn token_key(&self, token: &str) -> String {
        format!("{}/token/{token}", self.options.resellers.first_prefix())
    }

    fn user_key(&self, user: &str) -> String {
        format!("{}/user/{user}", self.options.resellers.first_prefix())
    }

    async fn token_groups(&self, token: &str) -> Option<Vec<String>> {
        if !self.is_token(token) || token.len() > 256 {
            return None;
        }
        self.stored(token).await.map(|(_, groups)| groups)
    }

    /// When a token ends and whose it is.
    async fn stored(&self, token: &str) -> Option<(f64, Vec<String>)> {
        let value: Value = serde_json::from_slice(&self.cache.get(&self.token_key(token)).await?).ok()?;
        let (expires, groups) = (value.get(0)?.as_f64()?, value.get(1)?.as_str()?);
        (expires > now(self.env.now())).then(|| (expires, groups.split(',').map(str::to_string).collect()))
    }

    /// The token that the user has, or a new one, and its life in seconds.
    async fn issue(&self, name: &str, user: &TempUser) -> (String, u64) {
        let groups = self.groups(name, user);
        let user_key = self.user_key(name);
        if let Some(token) = self.cache.get(&user_key).await.and_then(|t| serde_json::from_slice::<String>(&t).ok())
            && let Some((expires, old)) = self.stored(&token).await
            && old == groups
        {
            return (token, whole_seconds(expires - now(self.env.now())));
        }
        let token = format!("{}tk{}", self.options.resellers.first_prefix(), self.env.hex_id());
        let life = self.options.token_life;
        let value = Value::from(vec![Value::from(now(self.env.now()) + life.as_secs_f64()), Value::from(groups.join(","))]);
        self.cache.set(&self.token_key(&token), Bytes::from(value.to_string()), life).await;
        self.cache.set(&user_key, Bytes::from(Value::from(token.clone()).to_string()), life).await;
        (token, life.as_secs())
    }

    /// Answers a request below the authentication prefix.
    pub async fn answer(&self, req: &Parts) -> Resp {
        if req.method != Method::GET {
            return error(405);
        }
        let path = req.uri.path();
        let rest: Vec<&str> = path[self.options.auth_prefix.len() - 1..].split('/').skip(1).collect();
        let header = |names: [&str; 2]| names.iter().find_map(|n| text(&req.headers, n).filter(|v| !v.is_empty()));
        let (account, user) = match rest.as_slice() {
            [""] => return error(404),
            ["v1", account, "auth"] if !account.is_empty() => {
                let account = percent_encoding::percent_decode_str(account).decode_utf8_lossy().into_owned();
                let user = match (text(&req.headers, "x-storage-user"), text(&req.headers, "x-auth-user")) {
                    (Some(u), _) if !u.is_empty() => Some(u.to_string()),
                    (_, Some(u)) => u.split_once(':').filter(|(a, _)| *a == account).map(|(_, u)| u.to_string()),
                    _ => None,
                };
                (account, user)
            }
            ["auth" | "v1.0", ..] => match header(["x-auth-user", "x-storage-user"]).and_then(|u| u.split_once(':')) {
                Some((account, user)) => (account.to_string(), Some(user.to_string())),
                None => return refused("unknown"),
            },
            _ => return error(400),
        };
        let key = header(["x-auth-key", "x-storage-pass"]).unwrap_or_default();
        let name = format!("{account}:{}", user.as_deref().unwrap_or_default());
        let known = self.options.users.get(&name);
        // Somebody unknown costs as much as a wrong key.
        let expected = known.map_or_else(|| sha(""), |u| sha(u.key.expose()));
        let right = bool::from(sha(key).ct_eq(&expected));
        let Some(user) = known.filter(|_| right && !key.is_empty()) else {
            return refused(if account.is_empty() { "unknown" } else { &account });
        };
        let (token, life) = self.issue(&name, user).await;
        let host = req.extensions.get::<BaseUrl>().map_or("", |b| without_usual_port(&b.0));
        let mut r = crate::http::respond(200, "text/html; charset=UTF-8", "");
        set(r.headers_mut(), "x-auth-token", &token);
        set(r.headers_mut(), "x-storage-token", &token);
        set(r.headers_mut(), "x-auth-token-expires", life.to_string());
        set(r.headers_mut(), "x-storage-url", user.url.replace("$HOST", host));
        r
    }

    /// Whether the account is the caller's to rule, lists on the account left aside.
    fn rules_over(&self, method: &Method, path: &crate::env::SwiftPath, groups: &[String]) -> bool {
        let account = &path.account;
        let resellers = &self.options.resellers;
        let has = |g: &str| groups.iter().any(|x| x == g);
        if has(RESELLER_ADMIN) && !resellers.is_prefix(account) && !resellers.is_dot_account(account) {
            return true;
        }
        let removes = path.container.is_none() && matches!(*method, Method::DELETE | Method::PUT);
        let Some(rules) = resellers.of(account) else { return false };
        has(account) && !removes && (rules.require_group.is_empty() || has(&rules.require_group))
    }

    /// Whether the account is the caller's to rule.
    pub async fn owns(&self, r: &Request<'_>, caller: &Caller, info: &dyn InfoSource, environ: &Environ) -> bool {
        if self.rules_over(r.method, &r.path, &caller.groups) {
            return true;
        }
        let acl = self.account_acl(r, info, environ).await;
        acl.is_some_and(|acl| shares(&acl.admin, &caller.groups))
    }

    async fn account_acl(&self, r: &Request<'_>, info: &dyn InfoSource, environ: &Environ) -> Option<AccountAcl> {
        let account = info.account_info(environ, &r.path.account).await;
        AccountAcl::stored(account.sysmeta("core-access-control"))
    }

    /// Whether the request may be done.
    pub async fn admits(
        &self,
        r: &Request<'_>,
        caller: Option<&Caller>,
        acl: Option<&str>,
        info: &dyn InfoSource,
        environ: &Environ,
    ) -> bool {
        let resellers = &self.options.resellers;
        let account = &r.path.account;
        if resellers.of(account).is_none() {
            return false;
        }
        let groups: &[String] = caller.map_or(&[], |c| c.groups.as_slice());
        let reads = matches!(*r.method, Method::GET | Method::HEAD);
        let reader = groups.iter().any(|g| g == ".reseller_reader");
        if self.rules_over(r.method, &r.path, groups) {
            return true;
        }
        if reader && reads && !resellers.is_prefix(account) && !resellers.is_dot_account(account) {
            return true;
        }
        let acl = Acl::parse(acl);
        if acl.admits_referrer(r.referer) && (r.path.object.is_some() || acl.has_group(".rlistings")) {
            return true;
        }
        if shares(&acl.groups, groups) {
            return true;
        }
        if groups.is_empty() {
            return false;
        }
        let Some(acl) = self.account_acl(r, info, environ).await else { return false };
        shares(&acl.admin, groups)
            || (shares(&acl.read_write, groups) && (r.path.container.is_some() || reads))
            || (shares(&acl.read_only, groups) && reads)
    }
}

fn shares(a: &[String], b: &[String]) -> bool {
    a.iter().any(|x| b.contains(x))
}

fn account_of(user: &TempUser) -> String {
    let last = user.url.rsplit('/').next().unwrap_or_default();
    percent_encoding::percent_decode_str(last).decode_utf8_lossy().into_owned()
}

/// Seconds since 1970.
fn now(t: Timestamp) -> f64 {
    // Microseconds of this century fit into a double without loss.
    t.0 as f64 / 1e6
}

fn whole_seconds(s: f64) -> u64 {
    Duration::try_from_secs_f64(s).unwrap_or_default().as_secs()
}

fn refused(realm: &str) -> Resp {
    let mut r = unauthorized("");
    set(r.headers_mut(), "www-authenticate", format!("Swift realm=\"{}\"", crate::env::quote(realm)));
    r
}
