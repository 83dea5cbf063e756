//! Where a directory is kept, and how that is shown without its password.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

use crate::secret::Secret;

/// What a URL of PostgreSQL may say after its question mark; each is libpq's word for it.
const PARAMETERS: [&str; 12] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// Where a directory is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An SQLite file; it is created when it is missing.
    Sqlite(PathBuf),
    /// A PostgreSQL database, which several blades may share. Its URL may hold a password, so that
    /// it is never shown.
    Postgres(Secret),
}

impl Place {
    /// The name of the kind of database: `sqlite` or `postgres`.
    pub fn kind(&self) -> &'static str {
        match self {
            Place::Sqlite(_) => "sqlite",
            Place::Postgres(_) => "postgres",
        }
    }

    /// What [`str::parse`] makes this of; it may hold a password.
    pub fn expose(&self) -> String {
        match self {
            Place::Sqlite(path) => path.display().to_string(),
            Place::Postgres(url) => url.expose().to_owned(),
        }
    }

    /// What sqlx opens.
    pub(super) fn url(&self) -> std::io::Result<Secret> {
        match self {
            Place::Sqlite(path) => {
                use std::os::unix::ffi::OsStrExt as _;
                let path = std::path::absolute(path)?;
                let mut url = "sqlite://".to_owned();
                for byte in path.as_os_str().as_bytes() {
                    match byte {
                        b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                            url.push(char::from(*byte));
                        }
                        byte => url += &format!("%{byte:02X}"),
                    }
                }
                Ok(Secret::new(url + "?mode=rwc"))
            }
            Place::Postgres(url)
                if parameters(url.expose()).any(|(key, _)| key == "application_name") =>
            {
                Ok(url.clone())
            }
            Place::Postgres(url) => {
                let mark = if url.expose().contains('?') { '&' } else { '?' };
                Ok(Secret::new(format!("{}{mark}application_name=jackfield", url.expose())))
            }
        }
    }
}

/// The parameters after the question mark of a URL.
fn parameters(url: &str) -> impl Iterator<Item = (&str, &str)> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

impl FromStr for Place {
    type Err = String;

    /// A path, a `sqlite:` URL, or a `postgres:` URL. What is said of a wrong one holds none of it.
    fn from_str(text: &str) -> Result<Place, String> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            if let Some((key, _)) = parameters(text).find(|(key, _)| !PARAMETERS.contains(key)) {
                return Err(format!(
                    "there is no parameter {key:?}; there are {}",
                    PARAMETERS.join(", ")
                ));
            }
            let good = text.parse::<PgConnectOptions>().is_ok();
            let rule = "must be a URL, as in postgres://USER@HOST/DATABASE";
            return good.then(|| Place::Postgres(Secret::new(text))).ok_or_else(|| rule.to_owned());
        }
        let path = text.strip_prefix("sqlite://").or_else(|| text.strip_prefix("sqlite:"));
        match path.unwrap_or(text) {
            "" => Err("must be a path or a URL".into()),
            path => Ok(Place::Sqlite(path.into())),
        }
    }
}

impl fmt::Display for Place {
    /// A URL without password and parameters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = match self {
            Place::Sqlite(path) => return path.display().fmt(f),
            Place::Postgres(url) => url.expose(),
        };
        let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", ""));
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        match rest.rsplit_once('@') {
            Some((user, host)) => {
                let user = user.split(':').next().unwrap_or_default();
                write!(f, "{scheme}://{user}@{host}")
            }
            None => write!(f, "{scheme}://{rest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_shows_nowhere() {
        for url in [
            "postgres://u:hunter2@db.example/jackfield",
            "postgres://db.example/jackfield?user=u&password=hunter2",
            "postgresql://u:hunter2@db/jackfield?sslmode=require#hunter2",
        ] {
            let place: Place = url.parse().expect("a place");
            let shown = format!("{place} {place:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(place.to_string().contains("jackfield"), "{place}");
            assert_eq!(place.expose(), url);
        }
        for url in ["postgres://u:hunter2@db/x?sslmod=require", "postgres://u:hunter2@db:port/x"] {
            let why = url.parse::<Place>().expect_err("no place");
            assert!(!why.contains("hunter2"), "{why}");
        }
        assert_eq!("sqlite:/a/b".parse(), Ok(Place::Sqlite("/a/b".into())));
        assert_eq!("/a/b".parse(), Ok(Place::Sqlite("/a/b".into())));
        assert!("".parse::<Place>().is_err());
    }
}
