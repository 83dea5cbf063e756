//! The AgentProxy (S1-013): a login asks once and is told everything that it needs.

use std::net::IpAddr;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::{Extension, Json};
use base::TenantId;
use control_core::{AgentRecord, Granted, Ha1, LoginRefusal, LoginRequest};
use md5::Md5;
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::serve::Visitor;
use super::{ApiError, App, error};
use crate::clock;
use crate::directory::{Address, AddressKind, Agent, Identity, Tenant};
use crate::password::Busy;
use crate::secret::Secret;

/// Characters of a SIP secret: 62^32 is more than 2^190.
const SECRET_CHARS: usize = 32;
/// The longest text that a field of a request may hold.
const FIELD_LIMIT: usize = 256;
/// The longest token; ours are shorter.
const TOKEN_LIMIT: usize = 2048;
/// How often a login that was overtaken draws an epoch.
const EPOCHS_A_LOGIN: u32 = 3;
/// A login that found no CCB, or no room to wait, is told to ask again within these seconds, spread by chance (G-11).
const RETRY_AFTER_S: std::ops::RangeInclusive<u32> = 1..=3;

/// `POST /v1/login`: who logs in, and where (S1-030, S1-031).
#[derive(ToSchema)]
#[schema(as = LoginRequest)]
#[allow(dead_code, reason = "it documents the body, which is read field by field")]
pub struct LoginBody {
    /// The tenant ("renter"); not needed with a token.
    tenant: Option<String>,
    /// The agent identifier (employee number); either this or `operator`.
    agent: Option<String>,
    /// The operator identifier; either this or `agent`.
    operator: Option<String>,
    /// The password; either this or `token`.
    password: Option<String>,
    /// The token of an earlier login of the same agent that still stands, or whose blade is dead.
    token: Option<String>,
    /// The agent's location; the tenant's default when it is missing.
    location: Option<String>,
    /// True to log in although the agent is in a call.
    force: Option<bool>,
}

/// Everything that desk and phone need (S1-032 to S1-036).
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LoginAnswer {
    /// The agent and its parameters.
    pub agent: AgentAnswer,
    /// The CCB that serves the login.
    pub ccb: CcbAnswer,
    /// Where the desk attaches.
    pub cti: CtiAnswer,
    /// What the phone is set up with.
    pub phone: PhoneAnswer,
    /// Proves the login: for the CTI, for `/v1/logout`, and in place of a password.
    #[schema(value_type = String)]
    pub token: Secret,
}

/// The agent and its parameters (S1-032).
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AgentAnswer {
    /// The tenant's name.
    pub tenant: String,
    /// The agent identifier.
    pub agent: String,
    /// The operator identifier.
    pub operator: String,
    /// The directory number.
    pub number: String,
    /// The agent's name.
    pub name: String,
    /// The location of this login.
    pub location: String,
    /// `voice`, `chat`, `universal` or `supervisor`.
    #[serde(rename = "type")]
    pub agent_type: String,
    /// Operator ability.
    pub skills: Vec<String>,
    /// Interface authorization.
    pub rights: Vec<String>,
    /// The number that is announced to the caller.
    pub number_report: String,
    /// Calls that the agent may have at the same time before a caller hears that it is busy.
    pub incoming_limit: Option<u32>,
    /// Calls of its own that the agent may have at the same time.
    pub outgoing_limit: Option<u32>,
    /// Codecs in order of preference.
    pub media_format: Vec<String>,
    /// Log level of the agent's interface.
    pub log_level: String,
    /// Encryption of media.
    pub encryption: String,
    /// Where recordings are uploaded to.
    pub recording_path: String,
    /// What of the service database the interface may open.
    pub database_access: String,
    /// The agent's phone.
    pub phone: String,
}

/// The CCB that serves the login (S1-035).
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CcbAnswer {
    /// Its device number.
    pub device_number: u16,
    /// Its addresses, best first.
    pub addresses: Vec<Address>,
}

/// The firewall's side of the CCB's CTI for this location (S1-034).
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CtiAnswer {
    /// The WebSocket at the first address.
    pub url: String,
    /// Its addresses, best first.
    pub addresses: Vec<Address>,
}

/// The phone's set-up (S1-060).
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PhoneAnswer {
    /// The location's SBC, best first.
    pub addresses: Vec<Address>,
    /// User part of the phone's SIP address.
    pub user: String,
    /// User name of its digest.
    pub auth_user: String,
    /// The tenant's realm.
    pub realm: String,
    /// The password of its digest, for this login and location only.
    #[schema(value_type = String)]
    pub secret: Secret,
    /// How long a registration may last, in seconds.
    pub expires_s: u64,
}

/// Logs an agent in: one request, one answer, connection closed (S1-066).
#[utoipa::path(
    post, path = "/v1/login", request_body = LoginBody,
    responses(
        (status = 200, body = LoginAnswer, description = "Granted"),
        (status = 400, body = super::ErrorBody, description = "A field breaks a rule"),
        (status = 401, body = super::ErrorBody, description = "Unknown, or wrong password or token"),
        (status = 409, body = super::ErrorBody, description = "The agent is in a call"),
        (status = 422, body = super::ErrorBody, description = "Not a location of the tenant"),
        (status = 408, body = super::ErrorBody, description = "The request took too long"),
        (status = 503, body = super::ErrorBody,
            description = "No CCB runs normally (no_ccb), too many logins (busy), or the directory is away \
                (directory_away); Retry-After"),
    )
)]
pub async fn login(
    State(app): State<App>,
    Extension(visitor): Extension<Visitor>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<LoginAnswer>, ApiError> {
    let body = body.map_err(|why| ApiError::unreadable(&why))?;
    let granted = grant(&app, visitor.peer(), &body).await;
    match &granted {
        Ok(answer) => {
            app.door.count_ok();
            let AgentAnswer { tenant, agent, .. } = &answer.agent;
            tracing::info!(tenant, agent, "an agent logged in");
        }
        Err(why) if why.code == error::UNAUTHORIZED => {
            app.door.refuse(clock::now(), visitor.peer());
        }
        Err(why) if why.code == error::BUSY => app.door.throttle(clock::now(), visitor.peer()),
        Err(_) => {}
    }
    granted.map(Json)
}

/// What a body asks for, once each field keeps its rule.
#[derive(Debug)]
struct Asked {
    proof: Proof,
    location: Option<String>,
    force: bool,
}

#[derive(Debug)]
enum Proof {
    Password {
        tenant: String,
        name: String,
        is_operator: bool,
        password: Secret,
    },
    /// Names beside a token are not needed; those that are there must be the token's.
    Token {
        token: Secret,
        tenant: Option<String>,
        agent: Option<String>,
        operator: Option<String>,
    },
}

async fn grant(app: &App, peer: IpAddr, body: &[u8]) -> Result<LoginAnswer, ApiError> {
    let asked = parse(body)?;
    let (tenant, agent) = match asked.proof {
        Proof::Password { tenant, name, is_operator, password } => {
            by_password(app, peer, &tenant, &name, is_operator, password).await?
        }
        Proof::Token { token, tenant, agent, operator } => {
            let found = by_token(app, &token).await?;
            let is = |given: Option<String>, held: &str| given.is_none_or(|given| given == held);
            let same = is(tenant, &found.0.name)
                && is(agent, &found.1.agent_id)
                && is(operator, &found.1.operator_id);
            if !same {
                return Err(ApiError::unauthorized());
            }
            found
        }
    };
    let location = asked.location.or_else(|| tenant.default_location.clone());
    let Some(location) = location.filter(|name| tenant.locations.contains(name)) else {
        return Err(ApiError::unknown_location(tenant.locations));
    };
    let directory = &app.directory;
    let eligible = directory.reachable(&location).await?;
    let secret = mint_secret().map_err(|why| ApiError::internal(&why))?;
    let user = format!("{}.{}", agent.number, tenant.name);
    let request = LoginRequest {
        agent: record_of(&tenant, &agent, &user),
        epoch: 0,
        eligible,
        location: location.clone(),
        force: asked.force,
        ha1: ha1(&user, &tenant.realm, &secret),
    };
    let granted = place(app, request).await?;
    answer(app, tenant, agent, location, granted, secret, user).await
}

/// Puts a login on a CCB. Whoever drew an epoch and was overtaken by a login of the same agent that
/// drew a later one draws again: the login that stands has the highest (G-24).
async fn place(app: &App, mut request: LoginRequest) -> Result<Granted, ApiError> {
    for _ in 0..EPOCHS_A_LOGIN {
        request.epoch = app.directory.next_epoch(request.agent.agent).await?;
        return match app.blade.login(request.clone()).await {
            Ok(granted) => Ok(granted),
            Err(LoginRefusal::Overtaken) => continue,
            Err(LoginRefusal::NoCcb) => Err(ApiError::no_ccb(spread(RETRY_AFTER_S))),
            Err(LoginRefusal::InCall) => Err(ApiError::in_call()),
            Err(LoginRefusal::TooLong(field)) => {
                Err(ApiError::internal(&format!("{field} is too long")))
            }
        };
    }
    Err(ApiError::busy(spread(RETRY_AFTER_S)))
}

fn parse(body: &[u8]) -> Result<Asked, ApiError> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|why| ApiError::malformed(None, format!("the body is not JSON: {why}")))?;
    let Value::Object(fields) = value else {
        return Err(ApiError::malformed(None, "the body must be a JSON object"));
    };
    const KNOWN: [&str; 7] =
        ["tenant", "agent", "operator", "password", "token", "location", "force"];
    if let Some(name) = fields.keys().find(|name| !KNOWN.contains(&name.as_str())) {
        let rule = format!("there is no field {name:?}; there are {}", KNOWN.join(", "));
        return Err(ApiError::malformed(None, rule));
    }
    let force = match fields.get("force") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(force)) => *force,
        Some(_) => return Err(ApiError::malformed(Some("force"), "force must be true or false")),
    };
    let location = text(&fields, "location", FIELD_LIMIT)?;
    let tenant = text(&fields, "tenant", FIELD_LIMIT)?;
    let agent = text(&fields, "agent", FIELD_LIMIT)?;
    let operator = text(&fields, "operator", FIELD_LIMIT)?;
    let password = text(&fields, "password", FIELD_LIMIT)?;
    let proof = match (text(&fields, "token", TOKEN_LIMIT)?, password) {
        (Some(_), Some(_)) => {
            let rule = "either password or token must be given, not both";
            return Err(ApiError::malformed(Some("token"), rule));
        }
        (None, None) => {
            let rule = "password must be given when there is no token";
            return Err(ApiError::malformed(Some("password"), rule));
        }
        (Some(token), None) => Proof::Token { token: Secret::new(token), tenant, agent, operator },
        (None, Some(password)) => {
            let Some(tenant) = tenant else {
                return Err(ApiError::malformed(Some("tenant"), "tenant must be given"));
            };
            let (name, is_operator) = match (agent, operator) {
                (Some(agent), None) => (agent, false),
                (None, Some(operator)) => (operator, true),
                (Some(_), Some(_)) => {
                    let rule = "either agent or operator must be given, not both";
                    return Err(ApiError::malformed(Some("operator"), rule));
                }
                (None, None) => {
                    let rule = "agent must be given when there is no operator";
                    return Err(ApiError::malformed(Some("agent"), rule));
                }
            };
            Proof::Password { tenant, name, is_operator, password: Secret::new(password) }
        }
    };
    Ok(Asked { proof, location, force })
}

fn text(
    fields: &Map<String, Value>,
    name: &'static str,
    limit: usize,
) -> Result<Option<String>, ApiError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if (1..=limit).contains(&text.len()) => Ok(Some(text.clone())),
        Some(_) => {
            let rule = format!("{name} must be a text of 1 to {limit} bytes");
            Err(ApiError::malformed(Some(name), rule))
        }
    }
}

async fn by_password(
    app: &App,
    peer: IpAddr,
    tenant: &str,
    name: &str,
    is_operator: bool,
    password: Secret,
) -> Result<(Tenant, Agent), ApiError> {
    let tried = app.door.name(peer, tenant, name, is_operator);
    if let Some(wait_s) = app.door.must_wait_s(clock::now(), tried) {
        return Err(ApiError::busy(wait_s));
    }
    let tenant = app.directory.tenant(tenant).await?;
    let identity = if is_operator { Identity::Operator(name) } else { Identity::Agent(name) };
    // An unknown tenant asks for an agent too, so that its 401 takes the same way.
    let key = tenant.as_ref().map_or(TenantId(0), |tenant| tenant.id);
    let agent = app.directory.agent(key, identity).await?;
    let hash = agent.as_ref().map(|agent| agent.password.clone());
    match app.passwords.matches(password, hash).await {
        Err(Busy) => return Err(ApiError::busy(spread(RETRY_AFTER_S))),
        Ok(false) => {
            app.door.wrong(clock::now(), tried);
            return Err(ApiError::unauthorized());
        }
        Ok(true) => app.door.right(tried),
    }
    tenant.zip(agent).ok_or_else(ApiError::unauthorized)
}

async fn by_token(app: &App, token: &Secret) -> Result<(Tenant, Agent), ApiError> {
    let claims = app.tokens.read(token).ok_or_else(ApiError::unauthorized)?;
    let tenant = app.directory.tenant(&claims.tenant).await?;
    let tenant = tenant.filter(|tenant| tenant.id.0 == claims.tid);
    let agent = app.directory.agent(TenantId(claims.tid), Identity::Key(claims.agent)).await?;
    let found = tenant.zip(agent).ok_or_else(ApiError::unauthorized)?;
    match app.blade.knows(claims.login(), found.1.number.clone()).await {
        true => Ok(found),
        false => Err(ApiError::unauthorized()),
    }
}

fn record_of(tenant: &Tenant, agent: &Agent, user: &str) -> AgentRecord {
    AgentRecord {
        tenant: tenant.id,
        agent: agent.id,
        number: agent.number.clone(),
        user: user.to_owned(),
        name: agent.name.clone(),
        agent_type: match agent.parameters.agent_type.as_str() {
            "voice" => 1,
            "chat" => 2,
            "universal" => 3,
            "supervisor" => 4,
            _ => 0,
        },
        incoming_limit: agent.parameters.incoming_limit,
        outgoing_limit: agent.parameters.outgoing_limit,
    }
}

async fn answer(
    app: &App,
    tenant: Tenant,
    agent: Agent,
    location: String,
    granted: Granted,
    secret: Secret,
    user: String,
) -> Result<LoginAnswer, ApiError> {
    let ccb = granted.ccb;
    let addresses =
        async |kind| app.directory.addresses(ccb, &location, kind).await.map_err(ApiError::from);
    let cti = addresses(AddressKind::Cti).await?;
    let url = cti.first().map(|first| match first.host.contains(':') {
        true => format!("ws://[{}]:{}/v1/cti", first.host, first.port),
        false => format!("ws://{}:{}/v1/cti", first.host, first.port),
    });
    let token = app.tokens.sign(granted.login, &tenant.name, ccb, &location);
    Ok(LoginAnswer {
        ccb: CcbAnswer { device_number: ccb.0, addresses: addresses(AddressKind::Ccb).await? },
        cti: CtiAnswer { url: url.unwrap_or_default(), addresses: cti },
        phone: PhoneAnswer {
            addresses: addresses(AddressKind::Sbc).await?,
            auth_user: user.clone(),
            user,
            realm: tenant.realm,
            secret,
            expires_s: app.registration_life.as_secs(),
        },
        agent: agent_answer(tenant.name, agent, location),
        token,
    })
}

fn agent_answer(tenant: String, agent: Agent, location: String) -> AgentAnswer {
    let parameters = agent.parameters;
    AgentAnswer {
        tenant,
        agent: agent.agent_id,
        operator: agent.operator_id,
        number: agent.number,
        name: agent.name,
        location,
        agent_type: parameters.agent_type,
        skills: parameters.skills,
        rights: parameters.rights,
        number_report: parameters.number_report,
        incoming_limit: parameters.incoming_limit,
        outgoing_limit: parameters.outgoing_limit,
        media_format: parameters.media_format,
        log_level: parameters.log_level,
        encryption: parameters.encryption,
        recording_path: parameters.recording_path,
        database_access: parameters.database_access,
        phone: parameters.phone,
    }
}

/// Letters and digits from the kernel's randomness, each equally likely; the first is a letter, because
/// there are clients (SIPp) that take a password that begins with `0x` for hexadecimal.
fn mint_secret() -> Result<Secret, getrandom::Error> {
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut secret = String::with_capacity(SECRET_CHARS);
    let mut bytes = [0; 2 * SECRET_CHARS];
    while secret.len() < SECRET_CHARS {
        getrandom::fill(&mut bytes)?;
        // Bytes from 248 on would make the first eight letters likelier.
        let letters = bytes.iter().filter(|byte| **byte < 248);
        let letters = letters.map(|byte| char::from(LETTERS[usize::from(*byte) % 62]));
        let missing = SECRET_CHARS - secret.len();
        if secret.is_empty() {
            secret.extend(letters.skip_while(char::is_ascii_digit).take(missing));
        } else {
            secret.extend(letters.take(missing));
        }
    }
    Ok(Secret::new(secret))
}

/// HA1 of RFC 7616, 3.4.2, in both algorithms that phones are offered.
fn ha1(user: &str, realm: &str, secret: &Secret) -> Ha1 {
    let text = format!("{user}:{realm}:{}", secret.expose());
    Ha1 { md5: Md5::digest(&text).into(), sha256: Sha256::digest(&text).into() }
}

fn spread(range: std::ops::RangeInclusive<u32>) -> u32 {
    let width = range.end() - range.start() + 1;
    range.start() + getrandom::u32().unwrap_or(0) % width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_32_letters_and_new_each_time() {
        let one = mint_secret().expect("the kernel has randomness");
        let other = mint_secret().expect("the kernel has randomness");
        assert_eq!(one.expose().len(), SECRET_CHARS);
        assert!(one.expose().bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_ne!(one, other);
        for _ in 0..200 {
            let secret = mint_secret().expect("the kernel has randomness");
            assert!(secret.expose().starts_with(|first: char| first.is_ascii_alphabetic()));
        }
    }

    #[test]
    fn ha1_is_that_of_rfc_7616() {
        // RFC 7616, 3.9.1: its HA1 inputs; the values by any MD5 and SHA-256.
        let ha1 = ha1("Mufasa", "http-auth@example.org", &Secret::new("Circle of Life"));
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(&ha1.md5), "3d78807defe7de2157e2b0b6573a855f");
        assert_eq!(
            hex(&ha1.sha256),
            "7987c64c30e25f1b74be53f966b49b90f2808aa92faf9a00262392d7b4794232"
        );
    }

    #[test]
    fn each_broken_rule_names_its_field() {
        for (body, field) in [
            ("", None),
            ("[]", None),
            (r#"{"tenant":"t","agent":"a","password":"p","colour":1}"#, None),
            (r#"{"agent":"a","password":"p"}"#, Some("tenant")),
            (r#"{"tenant":7,"agent":"a","password":"p"}"#, Some("tenant")),
            (r#"{"tenant":"","agent":"a","password":"p"}"#, Some("tenant")),
            (r#"{"tenant":"t","password":"p"}"#, Some("agent")),
            (r#"{"tenant":"t","agent":"a","operator":"o","password":"p"}"#, Some("operator")),
            (r#"{"tenant":"t","agent":"a"}"#, Some("password")),
            (r#"{"tenant":"t","agent":"a","password":"p","token":"x"}"#, Some("token")),
            (r#"{"tenant":"t","agent":"a","password":"p","force":1}"#, Some("force")),
            (r#"{"tenant":"t","agent":"a","password":"p","location":[]}"#, Some("location")),
        ] {
            let error = parse(body.as_bytes()).expect_err(body);
            assert_eq!((error.code, error.field), ("malformed", field), "{body}");
        }
        let asked = parse(br#"{"token":"x","location":null,"force":true}"#).expect("valid");
        assert!(asked.force && asked.location.is_none());
    }
}
