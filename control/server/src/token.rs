use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base::{CcbId, TenantId};
use control_core::LoginKey;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// Length of the signing key: that of the hash (RFC 7518, 3.2).
const KEY_BYTES: usize = 32;

/// Signs and reads login tokens: JWT with HMAC-SHA256 (RFC 7519).
pub struct Tokens {
    signing: EncodingKey,
    checking: DecodingKey,
    life: Duration,
}

/// What a token says. It proves a login that was granted, not that it still stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The tenant's name.
    pub tenant: String,
    /// The tenant's key.
    pub tid: u32,
    /// The agent's key in the directory.
    pub agent: u64,
    /// The login's epoch.
    pub epoch: u32,
    /// The CCB that the login was granted on.
    pub ccb: u16,
    /// The location of the login.
    pub location: String,
    /// When it ends at the latest, in seconds since 1970.
    pub exp: u64,
}

impl Claims {
    /// The login that the token is of.
    pub fn login(&self) -> LoginKey {
        LoginKey { tenant: TenantId(self.tid), agent: self.agent, epoch: self.epoch }
    }
}

impl Tokens {
    /// Reads the key of `path`, or makes one with mode 0600 when there is none.
    pub fn open(path: &Path, life: Duration) -> io::Result<Tokens> {
        let key = match read_key(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_key(path)?;
                // Another process may have been first; then its key is the one.
                read_key(path)?
            }
            read => read?,
        };
        Ok(Tokens {
            signing: EncodingKey::from_secret(&key),
            checking: DecodingKey::from_secret(&key),
            life,
        })
    }

    /// A token of a login that was granted just now.
    pub fn sign(&self, login: LoginKey, tenant: &str, ccb: CcbId, location: &str) -> Secret {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let claims = Claims {
            tenant: tenant.to_owned(),
            tid: login.tenant.0,
            agent: login.agent,
            epoch: login.epoch,
            ccb: ccb.0,
            location: location.to_owned(),
            exp: (since_1970 + self.life).as_secs(),
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.signing);
        Secret::new(token.expect("an HMAC key signs any claims"))
    }

    /// What the token says when it is one of ours and not past its end.
    pub fn read(&self, token: &Secret) -> Option<Claims> {
        let mut rules = Validation::new(Algorithm::HS256);
        rules.leeway = 0;
        jsonwebtoken::decode(token.expose(), &self.checking, &rules).ok().map(|data| data.claims)
    }
}

/// The key of that file, which must be whole and nobody else's to read.
fn read_key(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let file = fs::File::open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let why = format!("its mode is {mode:04o}; it must be nobody else's to read: chmod 600");
        return Err(io::Error::other(why));
    }
    let mut bytes = Vec::new();
    file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    bytes.try_into().map_err(|bytes: Vec<u8>| {
        let held = if bytes.len() > KEY_BYTES { "more" } else { "fewer" };
        let why = format!("it must hold a key of exactly {KEY_BYTES} bytes and holds {held}");
        io::Error::other(why)
    })
}

/// Makes the key: under its name there is a whole key or nothing, also after a crash.
fn make_key(path: &Path) -> io::Result<()> {
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = Path::new(&fresh);
    match fs::remove_file(fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(fresh)?;
    file.write_all(&key)?;
    file.sync_all()?;
    // Unlike a rename, a link does not replace a key that another process has just made.
    let linked = match fs::hard_link(fresh, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    };
    fs::remove_file(fresh)?;
    linked?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGIN: LoginKey = LoginKey { tenant: TenantId(3), agent: 5, epoch: 7 };

    #[test]
    fn a_token_says_what_was_signed_and_outlives_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token.key");
        let tokens = Tokens::open(&path, Duration::from_secs(60)).expect("a key is made");
        let mode = fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let token = tokens.sign(LOGIN, "demo", CcbId(2), "east");
        let again = Tokens::open(&path, Duration::from_secs(60)).expect("the key is read");
        let claims = again.read(&token).expect("it is valid");
        assert_eq!(claims.login(), LOGIN);
        assert_eq!((claims.ccb, claims.location.as_str()), (2, "east"));
        let mut forged = token.expose().to_owned();
        let last = if forged.pop() == Some('A') { 'Q' } else { 'A' };
        forged.push(last);
        assert_eq!(again.read(&Secret::new(forged)), None);
        assert_eq!(again.read(&Secret::new("")), None);
    }

    #[test]
    fn a_token_past_its_end_or_of_another_key_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let tokens = Tokens::open(&folder.path().join("a"), Duration::ZERO).expect("a key");
        let token = tokens.sign(LOGIN, "demo", CcbId(2), "east");
        std::thread::sleep(Duration::from_millis(1100));
        assert_eq!(tokens.read(&token), None);
        let ours = Tokens::open(&folder.path().join("b"), Duration::from_secs(9)).expect("a key");
        let other = Tokens::open(&folder.path().join("c"), Duration::from_secs(9)).expect("a key");
        assert_eq!(other.read(&ours.sign(LOGIN, "demo", CcbId(2), "east")), None);
    }

    #[test]
    fn a_key_that_is_cut_short_or_open_to_others_is_refused_by_its_rule() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token.key");
        let open = || Tokens::open(&path, Duration::from_secs(9)).map(drop);
        open().expect("a key is made");
        let left = fs::read_dir(folder.path()).expect("it is there").count();
        assert_eq!(left, 1, "nothing is left beside the key");
        for bytes in [&[][..], &[7; 31], &[7; 33]] {
            fs::write(&path, bytes).expect("it is written");
            let why = open().expect_err("its length").to_string();
            assert!(why.contains("exactly 32 bytes"), "{why}");
        }
        fs::write(&path, [7; 32]).expect("it is written");
        open().expect("it is whole");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("it is set");
        let why = open().expect_err("its mode").to_string();
        assert!(why.contains("0640") && why.contains("chmod 600"), "{why}");
    }
}
