use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
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
        let mut key = [0; KEY_BYTES];
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(mut file) => {
                getrandom::fill(&mut key).map_err(io::Error::other)?;
                file.write_all(&key)?;
                file.sync_all()?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let mut file = fs::File::open(path)?;
                file.read_exact(&mut key)?;
            }
            Err(error) => return Err(error),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

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
}
