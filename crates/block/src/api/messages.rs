//! `/messages` (3.3): why operations in the background failed.

use super::lists::{self, Paging, SortKeys};
use super::{member, reader};
use crate::State;
use crate::store::Message;
use caelum_base::{Error, Result};
use caelum_rest::{Ctx, Op, Reply, Version, h};
use caelum_store::{Filter, Stored};
use serde_json::{Value, json};

pub const OPS: &[Op<State>] = &[
    Op::get("message_list", "/messages", reader("message:get_all"), h!(list)).since(3, 3),
    Op::get("message_show", "/messages/{id}", reader("message:get"), h!(show)).since(3, 3),
    Op::delete("message_delete", "/messages/{id}", member("message:delete"), h!(delete)).since(3, 3),
];

const SORT: SortKeys = &[
    ("id", "id"),
    ("created_at", "created_at"),
    ("guaranteed_until", "guaranteed_until"),
    ("event_id", "event_id"),
    ("message_level", "message_level"),
    ("request_id", "request_id"),
    ("resource_type", "resource_type"),
    ("resource_uuid", "resource_uuid"),
];

fn view(cx: &Ctx<State>, m: &Message) -> Value {
    json!({
        "id": m.id,
        "event_id": m.event_id,
        "message_level": m.message_level,
        "request_id": m.request_id,
        "resource_type": m.resource_type,
        "resource_uuid": m.resource_uuid,
        "user_message": m.user_message,
        "created_at": m.created_at.iso_micros(),
        "guaranteed_until": m.guaranteed_until.iso_micros(),
        "links": lists::links(cx, "messages", &m.id),
    })
}

async fn find(cx: &Ctx<State>) -> Result<Stored<Message>> {
    let id = cx.param("id").to_string();
    let missing = || Error::not_found(format!("Message {id} could not be found."));
    let Some(m) = cx.state.db.get::<Message>(&id).await? else {
        cx.filtered();
        return Err(missing());
    };
    cx.authorize_found(&m.project_id, missing)?;
    Ok(m)
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let m = find(&cx).await?;
    Reply::ok(&json!({"message": view(&cx, &m)}))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    let id = find(&cx).await?.id.clone();
    cx.state.db.write(move |tx| tx.delete_id::<Message>(&id)).await?;
    Ok(Reply::no_content())
}

async fn list(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let paging = Paging::read(&cx.query, SORT)?;
    let mut query = paging.query().eq("project_id", cx.auth().project_id()?);
    if cx.version >= Version(3, 5) {
        for (key, value) in cx.query.iter() {
            let column = SORT.iter().map(|(_, c)| *c).find(|c| *c == key && !c.ends_with("_at") && !c.ends_with("until"));
            query.filters.extend(column.map(|c| Filter::Eq(c, value.into())));
        }
    }
    let missing = lists::marker_missing("Message", paging.marker.as_deref());
    let found = cx.state.db.list::<Message>(query).await.map_err(missing)?;
    let last = found.last().map(|m| m.id.clone());
    let items = found.iter().map(|m| view(&cx, m)).collect();
    Reply::ok(&lists::page(&cx, "messages", items, last, &paging, None))
}
