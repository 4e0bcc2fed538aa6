use super::{CREATE, GET, MEMBER, READER, change, find_authorized, is_admin, not_found, own_project, rule, target, view, visible};
use crate::logic::{attributes, list, patch};
use crate::store::{Image, image_delete, image_insert};
use crate::{State, transfer};
use caelum_base::{Error, Result};
use caelum_policy::Target;
use caelum_rest::{Ctx, Op, Reply, h};
use serde_json::{Map, Value, json};
use std::sync::Arc;

pub const OPS: &[Op<State>] = &[
    Op::post("image_create", "/images", rule("add_image", CREATE), h!(create)),
    Op::get("image_list", "/images", rule("get_images", READER), h!(index)),
    Op::get("image_show", "/images/{image_id}", rule("get_image", GET), h!(show)),
    Op::patch("image_update", "/images/{image_id}", rule("modify_image", MEMBER), h!(update)),
    Op::delete("image_delete", "/images/{image_id}", rule("delete_image", MEMBER), h!(delete)),
    Op::post("image_deactivate", "/images/{image_id}/actions/deactivate", rule("deactivate", MEMBER), h!(deactivate)),
    Op::post("image_reactivate", "/images/{image_id}/actions/reactivate", rule("reactivate", MEMBER), h!(reactivate)),
];

/// Errors: `Forbidden` when the caller may not give an image this visibility.
fn authorize_visibility(cx: &Ctx<State>, visibility: &str, target: &Target<'_>) -> Result<()> {
    match visibility {
        "public" => cx.require("publicize_image", target),
        "community" => cx.require("communitize_image", target),
        _ => Ok(()),
    }
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    let body: Map<String, Value> = cx.json().await?;
    let mut image = attributes::from_create(&body)?;
    if !body.contains_key("owner") {
        image.owner = own_project(&cx).map(String::from);
    }
    if image.id.is_empty() {
        image.id = cx.env.uuid();
    }
    (image.created_at, image.updated_at) = (cx.env.now(), cx.env.now());
    let t = Target::new()
        .with_opt("project_id", image.owner.as_deref())
        .with_opt("owner", image.owner.as_deref())
        .with("visibility", image.visibility.as_str());
    if cx.authorize(&t).is_err() {
        let foreign = image.owner.as_deref() != own_project(&cx);
        let owner = image.owner.as_deref().unwrap_or("None");
        return Err(Error::forbidden(if foreign {
            format!("You are not permitted to create images owned by '{owner}'")
        } else {
            "You are not authorized to complete add_image action.".to_string()
        }));
    }
    authorize_visibility(&cx, &image.visibility, &t)?;
    let shown = view::image(&image);
    let location = format!("{}/v2/images/{}", cx.base_url, image.id);
    cx.state.db.write(move |tx| image_insert(tx, &image)).await?;
    Ok(Reply::json(201, &shown)?
        .header("location", location)
        .header("openstack-image-import-methods", crate::imports::METHODS.join(","))
        .header("openstack-image-store-ids", view::STORE))
}

async fn index(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize(&Target::new().with_opt("project_id", own_project(&cx)))?;
    let asker = list::Asker { project_id: own_project(&cx), admin: is_admin(&cx) };
    let mut images = Vec::new();
    let mut next = None;
    if let Some(query) = list::query(&cx.query, &asker)? {
        if let Some(marker) = &query.marker {
            let known = cx.state.db.get::<Image>(marker).await?.is_some_and(|i| visible(&cx, &i));
            if !known {
                return Err(Error::invalid(format!("Marker {marker} could not be found.")));
            }
        }
        let limit = query.limit;
        images = cx.state.db.list::<Image>(query).await?;
        if images.len() == limit.unwrap_or(0) {
            next = images.last().map(|i| i.id.clone());
        }
    }
    let shown: Vec<Value> = images.iter().filter(|i| visible(&cx, i)).map(|i| view::image(i)).collect();
    let mut out = Map::new();
    out.insert("images".into(), json!(shown));
    out.insert("schema".into(), json!("/v2/schemas/images"));
    out.extend(view::page_links(&cx, "/v2/images", next.as_deref()));
    Reply::ok(&out)
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let image = find_authorized(&cx).await?;
    Reply::ok(&view::image(&image))
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    let media = cx.headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let draft_4 = match media.split(';').next().unwrap_or("").trim() {
        patch::DRAFT_4 => true,
        patch::DRAFT_10 => false,
        _ => return Err(Error::status(415, format!("Image PATCH expects Content-Type one of: {}, {}", patch::DRAFT_4, patch::DRAFT_10))),
    };
    let body: Value = cx.json().await?;
    let changes = patch::parse(&body, draft_4)?;
    let image = find_authorized(&cx).await?;
    for c in changes.iter().filter(|c| c.key == "visibility") {
        authorize_visibility(&cx, c.value.as_str().unwrap_or(""), &target(&cx, &image))?;
    }
    if changes.is_empty() {
        return Reply::ok(&view::image(&image));
    }
    let (admin, owner) = (is_admin(&cx), image.owner.clone());
    let image = change(&cx, move |image| {
        // Authorized as this owner's; given away since, it is no longer ours to change.
        if image.owner != owner {
            return Err(not_found(&image.id));
        }
        changes.iter().try_for_each(|c| patch::apply(image, c, admin))?;
        attributes::check_limits(image)
    });
    Reply::ok(&view::image(&image.await?.into_inner()))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    let image = find_authorized(&cx).await?;
    let (state, id, owner) = (cx.state.clone(), image.id.clone(), image.owner.clone());
    cx.state.transfers.detached(async move { remove(&state, id, owner).await }).await?;
    Ok(Reply::no_content())
}

/// Deletes an image that is still this owner's, ends what is coming in for it, frees its bytes.
async fn remove(state: &Arc<State>, id: String, owner: Option<String>) -> Result<()> {
    let gone = state.db.write(move |tx| {
        let image = tx.get::<Image>(&id)?.filter(|i| i.owner == owner).ok_or_else(|| not_found(&id))?;
        if image.protected {
            return Err(Error::forbidden(format!("Image {id} is protected and cannot be deleted.")));
        }
        image_delete(tx, &image)?;
        Ok(image)
    });
    let gone = gone.await?;
    state.transfers.cancel(&gone.id);
    if let Some(file) = &gone.file {
        transfer::discard(state, file.clone()).await;
    }
    Ok(())
}

async fn deactivate(cx: Ctx<State>) -> Result<Reply> {
    switch(cx, "active", "deactivated", "deactivate").await
}

async fn reactivate(cx: Ctx<State>) -> Result<Reply> {
    switch(cx, "deactivated", "active", "reactivate").await
}

async fn switch(cx: Ctx<State>, from: &'static str, to: &'static str, verb: &'static str) -> Result<Reply> {
    find_authorized(&cx).await?;
    change(&cx, move |image| {
        if image.status != from && image.status != to {
            return Err(Error::forbidden(format!("Not allowed to {verb} image in status '{}'", image.status)));
        }
        image.status = to.into();
        Ok(())
    })
    .await?;
    Ok(Reply::no_content())
}
