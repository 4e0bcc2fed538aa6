//! The data directory: what lies where, and the secrets of the installation.

use caelum_base::{Env, Error, Result, Secret};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The data directory of one installation. Directories are 0700, files 0600.
#[derive(Clone, Debug)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// Makes the directory if needed. Errors: `Unavailable` naming the path and the reason.
    pub fn open(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).map_err(|e| Error::unavailable(format!("{}: {e}", path.display())))?;
        let dir = Self(path);
        for sub in ["", "db", "run", "log", "keys", "secrets", "images", "volumes", "policy"] {
            dir.make(sub)?;
        }
        Ok(dir)
    }

    fn make(&self, sub: &str) -> Result<()> {
        let path = self.0.join(sub);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|e| Error::unavailable(format!("cannot create {}: {e}", path.display())))
    }

    pub fn root(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, sub: &str) -> PathBuf {
        self.0.join(sub)
    }

    /// Writes a file whole or not at all, readable by the owner only.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.0.join(name);
        let temp = path.with_extension("new");
        let fail = |e: std::io::Error| Error::unavailable(format!("cannot write {}: {e}", path.display()));
        let mut f = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temp).map_err(fail)?;
        f.write_all(text.as_bytes()).and_then(|()| f.sync_all()).map_err(fail)?;
        fs::rename(&temp, &path).map_err(fail)
    }

    /// A random secret of the installation, made at the first call.
    pub fn secret(&self, name: &str, env: &Env) -> Result<Secret<String>> {
        let path = self.0.join("secrets").join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Secret::new(text.trim_end().to_string())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let secret = env.password();
                self.write(&format!("secrets/{name}"), secret.expose())?;
                Ok(secret)
            }
            Err(e) => Err(Error::unavailable(format!("cannot read {}: {e}", path.display()))),
        }
    }

    /// A short token unique per installation, part of host-global names (bridges, namespaces):
    /// 4 hexadecimal digits.
    pub fn tag(&self, env: &Env) -> Result<String> {
        let path = self.0.join("secrets/tag");
        if let Ok(text) = fs::read_to_string(&path) {
            return Ok(text.trim_end().to_string());
        }
        let tag = env.hex_id()[..4].to_string();
        self.write("secrets/tag", &tag)?;
        Ok(tag)
    }

    /// Policy overrides of a service from `policy/<service>.yaml`, if the file exists.
    pub fn policy(&self, service: &str) -> Result<std::collections::BTreeMap<String, String>> {
        let path = self.0.join("policy").join(format!("{service}.yaml"));
        match fs::read_to_string(&path) {
            Ok(text) => caelum_policy::parse_overrides(&path.display().to_string(), &text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Default::default()),
            Err(e) => Err(Error::unavailable(format!("cannot read {}: {e}", path.display()))),
        }
    }
}

/// `clouds.yaml` with `caelum` (the demo user) and `caelum-admin`.
pub fn clouds_yaml(auth_url: &str, region: &str, admin: &Secret<String>, demo: &Secret<String>) -> String {
    let cloud = |name: &str, user: &str, project: &str, password: &str| {
        format!(
            "  {name}:\n    auth:\n      auth_url: {auth_url}\n      username: {user}\n      password: {password}\n      project_name: {project}\n      user_domain_name: Default\n      project_domain_name: Default\n    region_name: {region}\n    identity_api_version: 3\n"
        )
    };
    format!("clouds:\n{}{}", cloud("caelum", "demo", "demo", demo.expose()), cloud("caelum-admin", "admin", "admin", admin.expose()))
}

/// Shell variables for the demo user; `openrc admin`-style files for the administrator are made
/// with the other arguments.
pub fn openrc(auth_url: &str, region: &str, user: &str, project: &str, password: &Secret<String>) -> String {
    let password = password.expose();
    format!(
        "export OS_AUTH_URL={auth_url}\nexport OS_USERNAME={user}\nexport OS_PASSWORD={password}\nexport OS_PROJECT_NAME={project}\nexport OS_USER_DOMAIN_NAME=Default\nexport OS_PROJECT_DOMAIN_NAME=Default\nexport OS_REGION_NAME={region}\nexport OS_IDENTITY_API_VERSION=3\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn secrets_are_made_once_and_private() {
        let dir = std::env::temp_dir().join(format!("caelum-paths-{}", std::process::id()));
        let data = DataDir::open(&dir).expect("open");
        let env = Env::system();
        let a = data.secret("admin-password", &env).expect("made");
        let b = data.secret("admin-password", &env).expect("kept");
        assert!(a == b && a.expose().len() == 32);
        let mode = fs::metadata(dir.join("secrets/admin-password")).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(data.tag(&env).expect("tag"), data.tag(&env).expect("tag"));
        fs::remove_dir_all(&dir).expect("clean");
    }
}
