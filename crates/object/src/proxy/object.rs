//! `/v1/account/container/object`, except PUT's data ([`super::put`]).

use super::backend::{Core, Node, NodeIter, handoff_deletes, primaries};
use super::constraints::{check_delete_headers, check_metadata, check_object_creation};
use super::container::append;
use super::ec_put::Coding;
use super::getter::{Getter, Kind, Wanted};
use super::info::ContainerInfo;
use super::quorum::{ToNodes, best_response, count_by_status, quorum_reached};
use super::request::Rq;
use crate::env::{Resp, quote};
use crate::http::{ContentTypeOverridden, error, error_html, error_plain, is_true, set, text};
use bytes::Bytes;
use caelum_ring::Ring;
use caelum_swiftkit::{StoragePolicy, quorum_size};
use http::{HeaderMap, Method, header};
use std::sync::Arc;

/// Where objects are listed that are to be deleted at a time.
const EXPIRER_ACCOUNT: &str = ".expiring_objects";
const EXPIRER_DIVISOR: i64 = 86_400;
const EXPIRER_CONTAINERS: u128 = 100;
/// Object servers that clean an object's entry from that list on DELETE.
const QUEUE_UPDATES: usize = 2;

/// Where an object lies.
pub(crate) struct Place {
    pub policy: StoragePolicy,
    pub ring: Arc<Ring>,
    pub part: u32,
    pub n: usize,
}

impl Core {
    pub(crate) async fn object(self: Arc<Self>, mut rq: Rq) -> Resp {
        let info = self.container_info(&rq.environ, &rq.account, rq.container()).await;
        if info.status >= 500 {
            return error(503);
        }
        let given = text(rq.headers(), "x-backend-storage-policy-index").and_then(|i| i.parse().ok());
        let index = given.unwrap_or(info.storage_policy);
        let Some(place) = self.place(&rq, index) else {
            return error_html(503, "Unknown Storage Policy");
        };
        let reads = matches!(*rq.method(), Method::GET | Method::HEAD);
        if *rq.method() == Method::PUT
            && let Some(tags) = text(rq.headers(), "if-none-match")
            && !tags.contains('*')
        {
            return error_plain(400, "If-None-Match only supports *");
        }
        set(&mut rq.parts.headers, "x-backend-storage-policy-index", index.to_string());
        if !reads && let Some(power) = place.ring.next_part_power {
            set(&mut rq.parts.headers, "x-backend-next-part-power", power.to_string());
        }
        if self.options.allow_open_expired && is_true(rq.headers(), "x-open-expired") {
            set(&mut rq.parts.headers, "x-backend-open-expired", "true");
        }
        let acl = if reads { &info.read_acl } else { &info.write_acl };
        if let Some(refusal) = rq.authorize(acl.as_deref()).await {
            return refusal;
        }
        if !reads && !info.exists() {
            return error(404);
        }
        match *rq.method() {
            Method::GET | Method::HEAD => self.object_read(rq, place).await,
            Method::PUT => self.object_put(rq, place, &info).await,
            Method::POST => self.object_post(rq, place, &info).await,
            _ => self.object_delete(rq, place, &info).await,
        }
    }

    fn place(&self, rq: &Rq, index: u32) -> Option<Place> {
        let policy = self.swift.policies.get(index)?.clone();
        let ring = self.rings.object(index)?;
        let part = ring.partition(&self.swift.hash.object(&rq.account, rq.container(), rq.object()));
        let n = ring.primaries(part).len();
        Some(Place { policy, ring, part, n })
    }

    async fn object_read(self: Arc<Self>, rq: Rq, place: Place) -> Resp {
        if let Some(coding) = Coding::of(&place.policy.kind) {
            let mut resp = self.read_fragments(rq, place, coding).await;
            clean_content_type(resp.headers_mut());
            return resp;
        }
        let entity = match rq.parts.uri.query() {
            Some(q) if !q.is_empty() => format!("{}?{q}", rq.entity),
            _ => rq.entity.clone(),
        };
        let wanted = Wanted {
            kind: Kind::Object,
            method: rq.method().clone(),
            part: place.part,
            entity,
            headers: rq.forwarded_headers(),
            policy: Some(place.policy.index),
        };
        let mut resp = Getter::new(&self, &place.ring, wanted).respond().await;
        clean_content_type(resp.headers_mut());
        resp
    }

    async fn object_put(self: Arc<Self>, mut rq: Rq, place: Place, info: &ContainerInfo) -> Resp {
        let detect = is_true(rq.headers(), "x-detect-content-type");
        if detect || rq.headers().get(header::CONTENT_TYPE).is_none_or(http::HeaderValue::is_empty) {
            let guessed = super::mime_types::guess(rq.object());
            set(&mut rq.parts.headers, "content-type", guessed);
            rq.parts.headers.remove("x-detect-content-type");
        }
        let overridden = rq.parts.extensions.get::<ContentTypeOverridden>().is_some();
        let object = rq.object.clone().unwrap_or_default();
        let has_length = http_body::Body::size_hint(rq.body.get_mut().expect("no holder of this lock panics")).exact().is_some();
        let limits = &self.options.limits;
        if let Some(refusal) = check_object_creation(&mut rq.parts.headers, &object, rq.timestamp, has_length, overridden, limits) {
            return refusal;
        }
        let headers = self.object_headers(&rq, &place, info, place.n).await;
        self.store(rq, place, headers).await
    }

    async fn object_post(self: Arc<Self>, mut rq: Rq, place: Place, info: &ContainerInfo) -> Resp {
        if let Some(refusal) = check_metadata(rq.headers(), "object", &self.options.limits) {
            return refusal;
        }
        if let Some(refusal) = check_delete_headers(&mut rq.parts.headers, rq.timestamp) {
            return refusal;
        }
        let mut headers = self.object_headers(&rq, &place, info, place.n).await;
        for h in &mut headers {
            h.remove(header::CONTENT_LENGTH);
        }
        let nodes = NodeIter::new(&self, &place.ring, place.part, self.options.policy(Some(place.policy.index)));
        let request = |headers| {
            let (core, entity) = (self.clone(), rq.entity.clone());
            Arc::new(ToNodes { core, method: Method::POST, part: place.part, entity, headers, body: Bytes::new(), digest: None })
        };
        let (mut replies, nodes) = request(headers.clone()).gather(nodes, place.n, quorum_reached).await;
        let counts = count_by_status(&replies);
        let (found, missing) = (counts.get(&202).copied().unwrap_or(0), counts.get(&404).copied().unwrap_or(0));
        let mut quorum = quorum_size(replies.len());
        if found > 0 && found < quorum {
            // Some have it, some do not: it may be on handoffs in place of the latter.
            quorum = quorum_size(place.ring.replica_count());
            let handoffs = nodes.lock().expect("no holder of this lock panics").take_handoffs(missing);
            let lacking = headers.into_iter().zip(&replies).filter(|(_, r)| r.status != 202).map(|(h, _)| h);
            let lacking: Vec<HeaderMap> = lacking.take(handoffs.len()).collect();
            replies.extend(self.post_to(&rq, &place, handoffs, lacking).await);
        }
        let resp = best_response(&replies, quorum, &[], None, "Object POST");
        // It exists somewhere, so 404 cannot be right.
        if resp.status().as_u16() == 404 && found > 0 { error(503) } else { resp }
    }

    async fn post_to(self: &Arc<Self>, rq: &Rq, place: &Place, nodes: Vec<Node>, headers: Vec<HeaderMap>) -> Vec<super::backend::Reply> {
        let r = super::backend::NodeRequest {
            method: &Method::POST,
            part: place.part,
            entity: &rq.entity,
            timeout: self.options.node_timeout,
            digest: None,
        };
        let ask = nodes.iter().zip(headers).map(|(node, h)| {
            let r = &r;
            async move {
                let response = self.send(node, r, h, caelum_rest::empty()).await?;
                self.check_status(node, response.status().as_u16(), r.method, r.entity);
                self.read(node, response).await
            }
        });
        futures_util::future::join_all(ask).await.into_iter().flatten().filter(|r| r.status != 404).collect()
    }

    async fn object_delete(self: Arc<Self>, rq: Rq, place: Place, info: &ContainerInfo) -> Resp {
        let options = self.options.policy(Some(place.policy.index));
        let mut count = place.n;
        if !options.write_affinity.is_empty() {
            count += handoff_deletes(&self, options, &primaries(&place.ring, place.part));
        }
        let mut headers = self.object_headers(&rq, &place, info, count).await;
        for h in &mut headers {
            h.remove(header::CONTENT_LENGTH);
        }
        let nodes = NodeIter::local_first(&self, &place.ring, place.part, options, true);
        let (part, entity) = (place.part, rq.entity.clone());
        let request = ToNodes { core: self.clone(), method: Method::DELETE, part, entity, headers, body: Bytes::new(), digest: None };
        request.ask(nodes, count, &[(404, 204)], "Object DELETE").await
    }

    /// Headers for `n` object servers, which together name all container servers to tell.
    async fn object_headers(self: &Arc<Self>, rq: &Rq, place: &Place, info: &ContainerInfo, n: usize) -> Vec<HeaderMap> {
        let one = rq.forwarded_headers();
        let mut all = vec![one; n];
        if n == 0 {
            return all;
        }
        let target = self.update_target(rq, info).await;
        let expiry = self.expiry_target(rq);
        let containers = &target.nodes;
        let wanted = (quorum_size(containers.len()) + n).saturating_sub(place.policy.quorum(place.n.max(1))).max(containers.len());
        for i in 0..if containers.is_empty() { 0 } else { wanted } {
            let d = containers[i % containers.len()].dev();
            let headers = &mut all[i % n];
            set(headers, "x-container-partition", target.part.to_string());
            append(headers, "x-container-host", &format!("{}:{}", d.ip, d.port));
            append(headers, "x-container-device", &d.device);
            set(headers, "x-container-root-db-state", &target.state);
            if let Some(path) = &target.quoted_path {
                set(headers, "x-backend-quoted-container-path", path);
            }
            let Some((container, part, nodes)) = &expiry else { continue };
            if nodes.is_empty() {
                continue;
            }
            // From the other end, so that no server has all the work.
            let (headers, d) = (&mut all[n - 1 - i % n], nodes[i % nodes.len()].dev());
            set(headers, "x-delete-at-container", container);
            set(headers, "x-delete-at-partition", part.to_string());
            append(headers, "x-delete-at-host", &format!("{}:{}", d.ip, d.port));
            append(headers, "x-delete-at-device", &d.device);
        }
        for (i, headers) in all.iter_mut().enumerate() {
            if !headers.contains_key("x-backend-clean-expiring-object-queue") {
                set(headers, "x-backend-clean-expiring-object-queue", if i < QUEUE_UPDATES { "t" } else { "f" });
            }
        }
        all
    }

    async fn update_target(self: &Arc<Self>, rq: &Rq, info: &ContainerInfo) -> UpdateTarget {
        let ring = self.rings.container();
        let shard = self.update_shard(rq, info).await;
        let (account, container) =
            shard.as_ref().map_or((rq.account.as_str(), rq.container()), |s| (s.account.as_str(), s.container.as_str()));
        let part = ring.partition(&self.swift.hash.container(account, container));
        let quoted_path = shard.is_some().then(|| quote(&format!("{account}/{container}")));
        UpdateTarget { part, nodes: primaries(&ring, part), quoted_path, state: info.sharding_state.clone() }
    }

    /// The container in which a deletion to come is noted: its name, partition and servers.
    fn expiry_target(&self, rq: &Rq) -> Option<(String, u32, Vec<Node>)> {
        let at: i64 = text(rq.headers(), "x-delete-at")?.parse().ok()?;
        let hash = u128::from_be_bytes(self.swift.hash.object(&rq.account, rq.container(), rq.object()));
        let spread = i64::try_from(hash % EXPIRER_CONTAINERS).unwrap_or(0);
        let container = super::constraints::normal_delete_at(at / EXPIRER_DIVISOR * EXPIRER_DIVISOR - spread);
        let ring = self.rings.container();
        let part = ring.partition(&self.swift.hash.container(EXPIRER_ACCOUNT, &container));
        let nodes = primaries(&ring, part);
        Some((container, part, nodes))
    }
}

/// Which container servers learn of an object.
pub(crate) struct UpdateTarget {
    pub part: u32,
    pub nodes: Vec<Node>,
    /// Of the shard, where the container is sharded.
    pub quoted_path: Option<String>,
    pub state: String,
}

/// Takes the parameter of the program's own (`swift_bytes`) out of a content type.
fn clean_content_type(headers: &mut HeaderMap) {
    let Some((kept, last)) = text(headers, "content-type").and_then(|v| v.rsplit_once(';')) else { return };
    if last.trim_start().starts_with("swift_bytes=") {
        let kept = kept.to_string();
        set(headers, "content-type", kept);
    }
}
