mod data;
mod images;
mod import;
mod info;
mod members;
mod metadefs;
mod schemas;
mod tags;
mod versions;
mod view;

pub use view::STORE;

use crate::State;
use crate::store::Image;
use caelum_base::{Env, Error, Result};
use caelum_policy::{RuleDefault, Target, personas};
use caelum_rest::{Access, Api, Ctx, Dialect, TokenValidator};
use caelum_store::Stored;
use std::collections::BTreeMap;
use std::sync::Arc;

pub const MEMBER: &str = "rule:context_is_admin or (role:member and project_id:%(project_id)s)";
pub const READER: &str = "rule:context_is_admin or (role:reader and project_id:%(project_id)s)";
pub const ADMIN: &str = "rule:context_is_admin";
/// Owner, member of the sharing, or anyone when the image is open to all.
pub const GET: &str = "rule:context_is_admin or (role:reader and (project_id:%(project_id)s or project_id:%(member_id)s or 'community':%(visibility)s or 'public':%(visibility)s or 'shared':%(visibility)s))";
pub const DOWNLOAD: &str = "rule:context_is_admin or (role:member and (project_id:%(project_id)s or project_id:%(member_id)s or 'community':%(visibility)s or 'public':%(visibility)s or 'shared':%(visibility)s))";
pub const CREATE: &str = "rule:context_is_admin or (role:member and project_id:%(project_id)s and project_id:%(owner)s)";
pub const SHARED_READER: &str = "rule:context_is_admin or role:reader and (project_id:%(project_id)s or project_id:%(member_id)s)";
pub const SHARED_MEMBER: &str = "rule:context_is_admin or (role:member and project_id:%(member_id)s)";

/// Rules that are asked besides an operation's own.
const EXTRA_RULES: &[RuleDefault] = &[
    RuleDefault { name: "publicize_image", check: ADMIN, scopes: personas::PROJECT },
    RuleDefault { name: "communitize_image", check: MEMBER, scopes: personas::PROJECT },
    RuleDefault { name: "get_image", check: GET, scopes: personas::PROJECT },
];

pub const fn rule(name: &'static str, check: &'static str) -> Access {
    Access::rule(name, check, personas::PROJECT)
}

pub fn build(
    state: Arc<State>,
    env: Env,
    validator: Arc<dyn TokenValidator>,
    policy: BTreeMap<String, String>,
    auth_url: String,
) -> Result<Api<State>> {
    Api::builder("image", Dialect::Glance)
        .auth_url(auth_url)
        .overrides(policy)
        .strict_slash()
        .rules(personas::IMAGE)
        .rules(EXTRA_RULES)
        .rules(metadefs::HELPERS)
        .mount("", versions::OPS)
        .mount("/v2", images::OPS)
        .mount("/v2", data::OPS)
        .mount("/v2", members::OPS)
        .mount("/v2", tags::OPS)
        .mount("/v2", import::OPS)
        .mount("/v2", info::OPS)
        .mount("/v2", metadefs::OPS)
        .mount("/v2", schemas::OPS)
        .build(state, env, validator)
}

fn not_found(id: &str) -> Error {
    Error::not_found(format!("No image found with ID {id}"))
}

fn is_admin(cx: &Ctx<State>) -> bool {
    cx.allows("context_is_admin", &Target::new())
}

fn own_project(cx: &Ctx<State>) -> Option<&str> {
    cx.auth().creds.project_id.as_deref()
}

/// What policy sees of an image. `member_id` is the caller's project if the image is shared with it.
fn target<'a>(cx: &'a Ctx<State>, image: &'a Image) -> Target<'a> {
    let member = own_project(cx).filter(|p| image.members.contains_key(*p));
    Target::new()
        .with_opt("project_id", image.owner.as_deref())
        .with_opt("owner", image.owner.as_deref())
        .with_opt("member_id", member)
        .with("visibility", image.visibility.as_str())
        .with("status", image.status.as_str())
}

/// Whether the caller may know of an image.
fn visible(cx: &Ctx<State>, image: &Image) -> bool {
    let own = own_project(cx);
    let open = match image.visibility.as_str() {
        "public" | "community" => true,
        "shared" => own.is_some_and(|p| image.members.contains_key(p)),
        _ => false,
    };
    let seen = open || (own.is_some() && own == image.owner.as_deref()) || is_admin(cx);
    seen && cx.allows("get_image", &target(cx, image))
}

/// The image of the path. Errors: `NotFound`, alike for those that do not exist and those the
/// caller may not know of.
async fn find(cx: &Ctx<State>) -> Result<Stored<Image>> {
    let id = cx.param("image_id");
    let image = cx.state.db.get::<Image>(id).await?;
    image.filter(|i| visible(cx, i)).ok_or_else(|| not_found(id))
}

/// [`find`], and the operation's own rule.
async fn find_authorized(cx: &Ctx<State>) -> Result<Stored<Image>> {
    let image = find(cx).await;
    if image.is_err() {
        cx.filtered();
    }
    let image = image?;
    cx.authorize(&target(cx, &image))?;
    Ok(image)
}

/// Changes the image of the path in one transaction, on its state there and then.
async fn change<F>(cx: &Ctx<State>, f: F) -> Result<Stored<Image>>
where
    F: Fn(&mut Image) -> Result<()> + Send + Sync + 'static,
{
    let (id, now) = (cx.param("image_id").to_string(), cx.env.now());
    cx.state
        .db
        .write(move |tx| {
            let mut image = tx.get::<Image>(&id)?.ok_or_else(|| not_found(&id))?;
            f(&mut image)?;
            image.updated_at = now;
            crate::store::image_update(tx, &mut image)?;
            Ok(image)
        })
        .await
}
