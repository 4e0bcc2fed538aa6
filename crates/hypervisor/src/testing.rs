//! Specs for unit tests.

use crate::{GuestSpec, RootDisk};

/// A small guest without an operating system.
pub fn spec(id: &str) -> GuestSpec {
    GuestSpec {
        id: id.to_owned(),
        domain: format!("instance-{}", &id[..8]),
        name: "web & co".to_owned(),
        project_id: "p1".to_owned(),
        user_id: "u1".to_owned(),
        vcpus: 1,
        memory_mib: 64,
        root_gib: 1,
        ephemeral_gib: 0,
        swap_mib: 0,
        extra_specs: Default::default(),
        image_props: Default::default(),
        root: RootDisk::Image { image_id: "img".to_owned(), format: "raw".to_owned(), sha512: String::new(), size_bytes: 512 },
        volumes: Vec::new(),
        nics: Vec::new(),
        config_drive: None,
        running: true,
    }
}
