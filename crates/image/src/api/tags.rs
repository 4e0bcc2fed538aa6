use super::{MEMBER, change, find_authorized, rule};
use crate::State;
use crate::logic::attributes;
use caelum_base::{Error, Result};
use caelum_rest::{Ctx, Op, Reply, h};

pub const OPS: &[Op<State>] = &[
    Op::put("image_tag_create", "/images/{image_id}/tags/{tag}", rule("modify_image", MEMBER), h!(put)),
    Op::delete("image_tag_delete", "/images/{image_id}/tags/{tag}", rule("modify_image", MEMBER), h!(delete)),
];

async fn put(cx: Ctx<State>) -> Result<Reply> {
    let tag = cx.param("tag").to_string();
    attributes::check_tag(&tag)?;
    find_authorized(&cx).await?;
    change(&cx, move |image| {
        image.tags.insert(tag.clone());
        attributes::check_limits(image)
    })
    .await?;
    Ok(Reply::no_content())
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    find_authorized(&cx).await?;
    let tag = cx.param("tag").to_string();
    change(&cx, move |image| if image.tags.remove(&tag) { Ok(()) } else { Err(Error::not_found("The resource could not be found.")) })
        .await?;
    Ok(Reply::no_content())
}
