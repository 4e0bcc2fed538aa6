//! Storage servers in memory, and servers that fail in chosen ways.

use crate::env::Resp;
use bytes::Bytes;
use caelum_rest::{Body, BoxError, HttpService};
use caelum_swiftkit::{Timestamp, md5_hex};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Clone, Default)]
pub(super) struct Stored {
    pub headers: HeaderMap,
    pub data: Bytes,
    pub time: Timestamp,
    pub deleted: bool,
}

/// How a server fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fault {
    #[default]
    None,
    /// Answers this without looking at the request.
    Status(u16),
    /// Never answers.
    Hang,
    /// Reads this much of an upload and stops reading.
    StallAfter(usize),
    /// Reads this much of an upload and answers 500.
    FailAfter(usize),
    /// Breaks an answer's body off.
    BreakAfter(usize),
    /// Sends this much of an answer's body and nothing more.
    SilentAfter(usize),
}

#[derive(Default)]
pub(super) struct State {
    pub things: BTreeMap<String, Stored>,
    pub fault: Fault,
    /// Says of objects that they are known to be right.
    pub knows: bool,
    /// Every request: method, entity, headers.
    pub seen: Vec<(Method, String, HeaderMap)>,
    /// What container GETs answer, by container.
    pub listings: BTreeMap<String, (HeaderMap, String)>,
}

/// One server for everything, with one device.
#[derive(Clone, Default)]
pub(super) struct Fake(pub Arc<Mutex<State>>);

fn answer(status: u16) -> Resp {
    let mut r = Response::new(caelum_rest::empty());
    *r.status_mut() = StatusCode::from_u16(status).unwrap();
    r
}

fn time_of(h: &HeaderMap, name: &str) -> Timestamp {
    crate::http::text(h, name).and_then(Timestamp::parse).unwrap_or_default()
}

impl Fake {
    pub(super) fn fault(&self, fault: Fault) {
        self.0.lock().unwrap().fault = fault;
    }

    pub(super) fn get(&self, entity: &str) -> Option<Stored> {
        self.0.lock().unwrap().things.get(entity).cloned()
    }

    pub(super) fn seen(&self, method: &Method) -> Vec<(String, HeaderMap)> {
        let state = self.0.lock().unwrap();
        state.seen.iter().filter(|(m, ..)| m == method).map(|(_, e, h)| (e.clone(), h.clone())).collect()
    }

    pub(super) fn clear_seen(&self) {
        self.0.lock().unwrap().seen.clear();
    }

    fn read(&self, entity: &str, method: &Method, headers: &HeaderMap, fault: Fault) -> Resp {
        let kind = entity.matches('/').count();
        let state = self.0.lock().unwrap();
        let Some(found) = state.things.get(entity).cloned() else { return answer(404) };
        if found.deleted {
            let mut r = answer(404);
            r.headers_mut().insert("x-backend-timestamp", HeaderValue::from_str(&found.time.internal()).unwrap());
            return r;
        }
        let (mut status, mut data, length) = (if kind == 3 { 200 } else { 204 }, found.data.clone(), found.data.len());
        let mut h = found.headers.clone();
        if let Some((extra, text)) = state.listings.get(entity) {
            h.extend(extra.clone());
            (status, data) = (200, Bytes::from(text.clone()));
        }
        if let Some(range) = crate::http::Ranges::of(headers).filter(|_| kind == 3) {
            let cut = range.for_length(length as u64);
            let Some((a, b)) = cut.first().copied() else { return answer(416) };
            data = data.slice(a as usize..b as usize);
            status = 206;
            h.insert("content-range", HeaderValue::from_str(&crate::http::content_range((a, b), length as u64)).unwrap());
        }
        h.insert("content-length", HeaderValue::from(data.len()));
        h.insert("x-timestamp", HeaderValue::from_str(&found.time.normal()).unwrap());
        h.insert("x-backend-timestamp", HeaderValue::from_str(&found.time.internal()).unwrap());
        h.insert("x-put-timestamp", HeaderValue::from_str(&found.time.normal()).unwrap());
        let mut r = answer(status);
        *r.headers_mut() = h;
        if state.knows {
            r.extensions_mut().insert(caelum_swiftkit::KnownRight);
        }
        if *method == Method::HEAD {
            return r;
        }
        r.map(|_| match fault {
            Fault::BreakAfter(n) => broken(data.slice(..n.min(data.len())), false),
            Fault::SilentAfter(n) => broken(data.slice(..n.min(data.len())), true),
            _ => caelum_rest::full(data),
        })
    }

    async fn write(&self, entity: String, headers: HeaderMap, mut body: Body, fault: Fault) -> Resp {
        let time = time_of(&headers, "x-timestamp");
        let old = self.get(&entity);
        if entity.matches('/').count() == 3 {
            if old.as_ref().is_some_and(|o| o.time >= time) {
                let mut r = answer(409);
                let t = old.unwrap().time.internal();
                r.headers_mut().insert("x-backend-timestamp", HeaderValue::from_str(&t).unwrap());
                return r;
            }
            if headers.contains_key("if-none-match") && old.as_ref().is_some_and(|o| !o.deleted) {
                return answer(412);
            }
        }
        let mut data = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return answer(499) };
            data.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()));
            match fault {
                Fault::StallAfter(n) if data.len() >= n => std::future::pending().await,
                Fault::FailAfter(n) if data.len() >= n => return answer(500),
                _ => {}
            }
        }
        let expected = crate::http::text(&headers, "content-length").and_then(|l| l.parse::<usize>().ok());
        if expected.is_some_and(|n| n != data.len()) {
            return answer(499);
        }
        let etag = md5_hex(&data);
        if crate::http::text(&headers, "etag").is_some_and(|e| e != etag) {
            return answer(422);
        }
        let mut kept = HeaderMap::new();
        let keep = |n: &str| n.contains("-meta-") || n.contains("-sysmeta-") || n.starts_with("x-container-") || n == "content-type";
        for (n, v) in headers.iter().filter(|(n, _)| keep(n.as_str())) {
            kept.insert(n.clone(), v.clone());
        }
        kept.insert("etag", HeaderValue::from_str(&format!("\"{etag}\"")).unwrap());
        let existed = old.is_some_and(|o| !o.deleted);
        let is_object = entity.matches('/').count() == 3;
        self.0.lock().unwrap().things.insert(entity, Stored { headers: kept.clone(), data: data.into(), time, deleted: false });
        let mut r = answer(if existed && !is_object { 202 } else { 201 });
        r.headers_mut().insert("etag", kept["etag"].clone());
        r
    }

    fn post(&self, entity: &str, headers: &HeaderMap) -> Resp {
        let mut state = self.0.lock().unwrap();
        let Some(thing) = state.things.get_mut(entity).filter(|t| !t.deleted) else { return answer(404) };
        for (n, v) in headers.iter().filter(|(n, _)| n.as_str().contains("meta-") || n.as_str().starts_with("x-container-")) {
            thing.headers.insert(n.clone(), v.clone());
        }
        answer(if entity.matches('/').count() == 3 { 202 } else { 204 })
    }

    fn delete(&self, entity: String, headers: &HeaderMap) -> Resp {
        let time = time_of(headers, "x-timestamp");
        let mut state = self.0.lock().unwrap();
        let old = state.things.get(&entity).cloned();
        if old.as_ref().is_some_and(|o| o.time >= time) {
            return answer(409);
        }
        state.things.insert(entity, Stored { time, deleted: true, ..Stored::default() });
        answer(if old.is_some_and(|o| !o.deleted) { 204 } else { 404 })
    }
}

/// What has come, and then an error or silence.
fn broken(data: Bytes, silent: bool) -> Body {
    let (tx, body) = caelum_rest::stream_channel(2);
    tokio::spawn(async move {
        if !data.is_empty() {
            let _ = tx.send(Ok(data)).await;
        }
        if silent {
            tokio::time::sleep(Duration::from_secs(3_600)).await;
        }
        let _ = tx.send(Err(BoxError::from("broken"))).await;
    });
    body
}

impl HttpService for Fake {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Resp> {
        let this = self.clone();
        Box::pin(async move {
            let (parts, body) = req.into_parts();
            // `/device/partition/account…`
            let entity = parts.uri.path().splitn(4, '/').nth(3).map(|e| format!("/{e}")).unwrap();
            let fault = {
                let mut state = this.0.lock().unwrap();
                let shown = parts.uri.query().map_or_else(|| entity.clone(), |q| format!("{entity}?{q}"));
                state.seen.push((parts.method.clone(), shown, parts.headers.clone()));
                state.fault
            };
            match fault {
                Fault::Status(s) => return answer(s),
                Fault::Hang => std::future::pending().await,
                _ => {}
            }
            match parts.method.as_str() {
                "GET" | "HEAD" => this.read(&entity, &parts.method, &parts.headers, fault),
                "PUT" => this.write(entity, parts.headers, body, fault).await,
                "POST" => this.post(&entity, &parts.headers),
                _ => this.delete(entity, &parts.headers),
            }
        })
    }
}
