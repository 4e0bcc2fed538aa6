use super::{MEMBER, SHARED_MEMBER, SHARED_READER, change, find, is_admin, own_project, rule, target, view};
use crate::State;
use crate::logic::attributes::MAX_MEMBERS;
use crate::store::{Image, Member};
use caelum_base::{Error, Result};
use caelum_rest::{Ctx, Op, Reply, h};
use caelum_store::Stored;
use serde_json::{Map, Value, json};

pub const OPS: &[Op<State>] = &[
    Op::post("image_member_create", "/images/{image_id}/members", rule("add_member", MEMBER), h!(create)),
    Op::get("image_member_list", "/images/{image_id}/members", rule("get_members", SHARED_READER), h!(index)),
    Op::get("image_member_show", "/images/{image_id}/members/{member_id}", rule("get_member", SHARED_READER), h!(show)),
    Op::put("image_member_update", "/images/{image_id}/members/{member_id}", rule("modify_member", SHARED_MEMBER), h!(update)),
    Op::delete("image_member_delete", "/images/{image_id}/members/{member_id}", rule("delete_member", MEMBER), h!(delete)),
];

/// The image of the path when the caller may do this to its members.
async fn shared(cx: &Ctx<State>) -> Result<Stored<Image>> {
    cx.filtered();
    let image = find(cx).await?;
    if image.visibility != "shared" {
        return Err(Error::forbidden("Only shared images have members."));
    }
    cx.authorize(&target(cx, &image))?;
    Ok(image)
}

/// Whether the caller may see this membership: the owner sees all, a member its own.
fn sees(cx: &Ctx<State>, image: &Image, member_id: &str) -> bool {
    is_admin(cx) || image.owner.as_deref() == own_project(cx) || own_project(cx) == Some(member_id)
}

fn absent(cx: &Ctx<State>) -> Error {
    Error::not_found(format!("{} not found in the member list of the image {}.", cx.param("member_id"), cx.param("image_id")))
}

/// A required text of the body.
async fn field(cx: &mut Ctx<State>, key: &str, missing: &str) -> Result<String> {
    let body: Map<String, Value> = cx.json().await?;
    match body.get(key) {
        Some(Value::String(s)) if !s.is_empty() && s.chars().count() <= 255 => Ok(s.clone()),
        Some(_) => Err(Error::invalid(format!("'{key}' must be a string of 1 to 255 characters"))),
        None => Err(Error::invalid(missing)),
    }
}

fn still_shared(image: &Image) -> Result<()> {
    if image.visibility == "shared" { Ok(()) } else { Err(Error::forbidden("Only shared images have members.")) }
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    let id = field(&mut cx, "member", "Member to be added not specified").await?;
    shared(&cx).await?;
    let (now, member_id) = (cx.env.now(), id.clone());
    let image = change(&cx, move |image| {
        still_shared(image)?;
        if image.members.contains_key(&member_id) {
            return Err(Error::conflict(format!("Member {member_id} is duplicated for image {}", image.id)));
        }
        if image.members.len() >= MAX_MEMBERS {
            return Err(Error::too_large(format!("Image member limit exceeded for image {}: Maximum: {MAX_MEMBERS}", image.id)));
        }
        image.members.insert(member_id.clone(), Member { status: "pending".into(), created_at: now, updated_at: now });
        Ok(())
    });
    let image = image.await?;
    let member = image.members.get(&id).ok_or_else(|| absent(&cx))?;
    Reply::ok(&view::member(&image.id, &id, member))
}

async fn index(cx: Ctx<State>) -> Result<Reply> {
    let image = shared(&cx).await?;
    let seen = image.members.iter().filter(|(id, _)| sees(&cx, &image, id));
    let list: Vec<Value> = seen.map(|(id, m)| view::member(&image.id, id, m)).collect();
    Reply::ok(&json!({"members": list, "schema": "/v2/schemas/members"}))
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    // What may not be seen is not found, here more than elsewhere: upstream hides even the image.
    let image = shared(&cx).await.map_err(|e| if e.kind == caelum_base::ErrorKind::Forbidden { absent(&cx) } else { e })?;
    let id = cx.param("member_id");
    let member = image.members.get(id).filter(|_| sees(&cx, &image, id)).ok_or_else(|| absent(&cx))?;
    Reply::ok(&view::member(&image.id, id, member))
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    let status = field(&mut cx, "status", "Status not specified").await?;
    let image = shared(&cx).await?;
    let id = cx.param("member_id").to_string();
    if !image.members.contains_key(&id) || !sees(&cx, &image, &id) {
        return Err(absent(&cx));
    }
    // Only the project itself, or an administrator, says whether it takes the image.
    if !is_admin(&cx) && own_project(&cx) != Some(&id) {
        return Err(Error::forbidden(format!("Not allowed to update members for image {}.", image.id)));
    }
    if !["pending", "accepted", "rejected"].contains(&status.as_str()) {
        return Err(Error::invalid("Incorrect request: Status must be \"pending\", \"accepted\" or \"rejected\"."));
    }
    let (now, member_id, missing) = (cx.env.now(), id.clone(), format!("{id} is no longer a member of the image."));
    let image = change(&cx, move |image| {
        still_shared(image)?;
        let m = image.members.get_mut(&member_id).ok_or_else(|| Error::not_found(missing.clone()))?;
        (m.status, m.updated_at) = (status.clone(), now);
        Ok(())
    });
    let image = image.await?;
    let member = image.members.get(&id).ok_or_else(|| absent(&cx))?;
    Reply::ok(&view::member(&image.id, &id, member))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    let image = shared(&cx).await?;
    let id = cx.param("member_id").to_string();
    if !image.members.contains_key(&id) {
        return Err(absent(&cx));
    }
    change(&cx, move |image| {
        image.members.remove(&id);
        Ok(())
    })
    .await?;
    Ok(Reply::no_content())
}
