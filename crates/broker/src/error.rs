use std::fmt;
use std::path::PathBuf;

/// Why a database did not do what was asked.
#[derive(Debug)]
pub enum BrokerError {
    /// There is no database at this place.
    Missing(PathBuf),
    /// A database that was to be created is there already.
    Exists(PathBuf),
    /// Another process held the lock for too long.
    Locked(PathBuf),
    /// The database was damaged and has been moved out of the way.
    Quarantined(String),
    /// What was to be stored is not allowed; the text is for the client.
    Invalid(String),
    Sqlite(rusqlite::Error),
    Io(PathBuf, std::io::Error),
}

impl fmt::Display for BrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(p) => write!(f, "{}: no such database", p.display()),
            Self::Exists(p) => write!(f, "{}: exists already", p.display()),
            Self::Locked(p) => write!(f, "{}: locked by another process", p.display()),
            Self::Quarantined(why) | Self::Invalid(why) => f.write_str(why),
            Self::Sqlite(_) => f.write_str("database"),
            Self::Io(p, _) => write!(f, "{}", p.display()),
        }
    }
}

impl std::error::Error for BrokerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Sqlite(e) => Some(e),
            Self::Io(_, e) => Some(e),
            _ => None,
        }
    }
}

impl From<rusqlite::Error> for BrokerError {
    fn from(e: rusqlite::Error) -> Self {
        Self::Sqlite(e)
    }
}

pub type Result<T> = std::result::Result<T, BrokerError>;

/// Attaches the path to an error of the file system.
pub(crate) trait At<T> {
    fn at(self, path: &std::path::Path) -> Result<T>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, path: &std::path::Path) -> Result<T> {
        self.map_err(|e| BrokerError::Io(path.to_path_buf(), e))
    }
}
