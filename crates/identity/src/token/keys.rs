//! The key repository: a directory of numbered files, as `keystone-manage fernet_setup` makes it.
//!
//! `0` is the staged key (the next primary), the highest number is the primary, which signs; the rest
//! are secondaries, kept so that tokens signed by them stay valid until they expire. Files are made
//! 0600 under a temporary name and renamed, so a crash leaves a whole key or none.

use super::fernet::{FernetKey, b64, unb64};
use caelum_base::{Env, Error, Result};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

/// Keys on disk and the parsed copy.
pub struct KeyRepository {
    dir: PathBuf,
    keys: RwLock<Vec<FernetKey>>,
}

fn failed(path: &Path, e: std::io::Error) -> Error {
    Error::unavailable(format!("the key repository {} cannot be used: {e}", path.display())).caused_by(e)
}

impl KeyRepository {
    /// Opens the repository; makes a staged and a primary key when there is none.
    ///
    /// Errors: `Unavailable` when the directory cannot be used or is open to others.
    pub fn open(dir: &Path, env: &Env) -> Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| failed(dir, e))?;
        let mode = fs::metadata(dir).map_err(|e| failed(dir, e))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(Error::unavailable(format!("the key repository {} is open to others; make it mode 0700", dir.display())));
        }
        let repository = Self { dir: dir.to_path_buf(), keys: RwLock::new(Vec::new()) };
        if repository.read_files()?.is_empty() {
            repository.write_key(0, env)?;
            repository.write_key(1, env)?;
        }
        repository.reload()?;
        Ok(repository)
    }

    fn read_files(&self) -> Result<BTreeMap<u32, FernetKey>> {
        let mut out = BTreeMap::new();
        for entry in fs::read_dir(&self.dir).map_err(|e| failed(&self.dir, e))? {
            let entry = entry.map_err(|e| failed(&self.dir, e))?;
            let Some(n) = entry.file_name().to_str().and_then(|t| t.parse::<u32>().ok()) else { continue };
            let text = fs::read_to_string(entry.path()).map_err(|e| failed(&entry.path(), e))?;
            let key = unb64(text.trim()).and_then(|b| FernetKey::from_bytes(&b));
            let key = key.ok_or_else(|| Error::unavailable(format!("{} is no Fernet key", entry.path().display())))?;
            out.insert(n, key);
        }
        Ok(out)
    }

    fn write_key(&self, number: u32, env: &Env) -> Result<()> {
        let path = self.dir.join(number.to_string());
        let scratch = self.dir.join(format!("{number}.tmp"));
        let text = B64Padded(&env.bytes(32)).text();
        let write = || -> std::io::Result<()> {
            let mut f = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&scratch)?;
            f.write_all(text.as_bytes())?;
            f.sync_all()?;
            fs::rename(&scratch, &path)?;
            fs::File::open(&self.dir)?.sync_all()
        };
        write().map_err(|e| failed(&path, e))
    }

    /// Reads the files again: another process may have rotated.
    pub fn reload(&self) -> Result<()> {
        let files = self.read_files()?;
        if files.is_empty() {
            return Err(Error::unavailable(format!("the key repository {} is empty", self.dir.display())));
        }
        let parsed = files.into_iter().rev().map(|(_, k)| k).collect();
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = parsed;
        Ok(())
    }

    /// Makes the staged key the primary, stages a new one and removes the oldest secondaries so that
    /// at most `max_active` keys remain (at least 3: staged, primary, one secondary).
    pub fn rotate(&self, env: &Env, max_active: usize) -> Result<()> {
        let files = self.read_files()?;
        let highest = files.keys().next_back().copied().unwrap_or(0);
        let (staged, next) = (self.dir.join("0"), self.dir.join((highest + 1).to_string()));
        if files.contains_key(&0) {
            fs::rename(&staged, &next).map_err(|e| failed(&next, e))?;
        } else {
            // A crash came between renaming and staging: the primary is new already.
            tracing::warn!(dir = %self.dir.display(), "no staged key found");
        }
        self.write_key(0, env)?;
        let keep = max_active.max(3);
        let mut numbers: Vec<u32> = self.read_files()?.into_keys().filter(|n| *n != 0).collect();
        numbers.sort_unstable();
        while numbers.len() + 1 > keep {
            let path = self.dir.join(numbers.remove(0).to_string());
            fs::remove_file(&path).map_err(|e| failed(&path, e))?;
        }
        self.reload()
    }

    /// Signs with the primary key.
    pub fn seal(&self, data: &[u8], secs: u64, env: &Env) -> Result<String> {
        let mut iv = [0; 16];
        env.rng.fill(&mut iv);
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let primary = keys.first().ok_or_else(|| Error::internal("no signing key"))?;
        Ok(primary.encrypt(data, secs, iv))
    }

    /// Opens with whichever key made it.
    pub fn open_sealed(&self, text: &str) -> Option<(Vec<u8>, u64)> {
        let raw = unb64(text)?;
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.iter().find_map(|k| k.decrypt(&raw))
    }
}

/// Key files carry padding, as the reference tools write them.
struct B64Padded<'a>(&'a [u8]);

impl B64Padded<'_> {
    fn text(&self) -> String {
        let mut t = b64(self.0);
        while !t.len().is_multiple_of(4) {
            t.push('=');
        }
        t
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_keeps_old_tokens_valid_until_their_key_goes() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("keys");
        let env = Env::system();
        let keys = KeyRepository::open(&dir, &env).unwrap();
        let token = keys.seal(b"x", 1, &env).unwrap();
        keys.rotate(&env, 3).unwrap();
        assert!(keys.open_sealed(&token).is_some());
        let second = keys.seal(b"y", 1, &env).unwrap();
        keys.rotate(&env, 3).unwrap();
        assert!(keys.open_sealed(&token).is_none(), "its key is gone");
        assert!(keys.open_sealed(&second).is_some());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 3);
        let mode = fs::metadata(dir.join("0")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = KeyRepository::open(&dir, &env).unwrap();
        assert!(again.open_sealed(&second).is_some());
    }
}
