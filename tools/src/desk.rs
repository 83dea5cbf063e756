//! An agent as the tools play it: the login at the AgentProxy and the CTI WebSocket.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::{Value, json};
use softphone::PhoneConfig;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use crate::fleet::Ports;
use crate::http::{self, HttpError, Server};

/// How long a login may find no CCB or nobody listening before it fails.
const LOGIN_TRIES: u32 = 20;
const LOGIN_PAUSE: Duration = Duration::from_millis(250);
/// How long the WebSocket may take to open, and to close after an exit.
const SOCKET_LIMIT: Duration = Duration::from_secs(10);

/// Who logs in.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The tenant.
    pub tenant: String,
    /// The employee.
    pub agent: String,
    /// The password.
    pub password: String,
    /// Where the agent is.
    pub location: String,
}

impl Credentials {
    /// What is posted to `/v1/login`.
    pub fn body(&self) -> Value {
        json!({
            "tenant": self.tenant, "agent": self.agent,
            "password": self.password, "location": self.location,
        })
    }
}

/// The parts of the AgentProxy's answer that a desk and a phone need.
#[derive(Clone, Debug, Deserialize)]
pub struct Grant {
    /// The agent.
    pub agent: AgentPart,
    /// The CCB that serves the login.
    pub ccb: CcbPart,
    /// Where the desk attaches.
    pub cti: CtiPart,
    /// What the phone is set up with.
    pub phone: PhonePart,
    /// Proves the login.
    pub token: String,
}

/// `agent` of the answer.
#[derive(Clone, Debug, Deserialize)]
pub struct AgentPart {
    /// The directory number.
    pub number: String,
}

/// `ccb` of the answer.
#[derive(Clone, Debug, Deserialize)]
pub struct CcbPart {
    /// Its device number.
    pub device_number: u16,
}

/// `cti` of the answer.
#[derive(Clone, Debug, Deserialize)]
pub struct CtiPart {
    /// The WebSocket.
    pub url: String,
}

/// `phone` of the answer.
#[derive(Clone, Debug, Deserialize)]
pub struct PhonePart {
    /// The location's SBC, best first.
    pub addresses: Vec<AddressPart>,
    /// The SIP user.
    pub user: String,
    /// The user of the digest.
    pub auth_user: String,
    /// The realm.
    pub realm: String,
    /// The password of the digest.
    pub secret: String,
    /// The lifetime of a registration.
    pub expires_s: u32,
}

/// An address of the answer.
#[derive(Clone, Debug, Deserialize)]
pub struct AddressPart {
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Logs in; waits a while for a CCB that is just starting.
pub async fn log_in(server: &Server, who: &Credentials) -> Result<Grant, String> {
    let body = who.body();
    let mut tries = 0;
    loop {
        tries += 1;
        let again = match http::post(server, "/v1/login", &body).await {
            Ok(answer) if answer.status == 503 && tries < LOGIN_TRIES => true,
            Ok(answer) => {
                let body =
                    answer.success().map_err(|error| format!("{}: {error}", who.agent))?.body;
                return serde_json::from_slice(&body)
                    .map_err(|error| format!("{}: the login's answer: {error}", who.agent));
            }
            Err(HttpError::Away(_)) if tries < LOGIN_TRIES => true,
            Err(error) => return Err(format!("{} at {server}: {error}", who.agent)),
        };
        debug_assert!(again);
        tokio::time::sleep(LOGIN_PAUSE).await;
    }
}

impl Grant {
    /// A built-in phone as the answer says, and its ports.
    pub async fn phone(&self) -> Result<(PhoneConfig, Ports), String> {
        let registrar = self.registrar().await?;
        let ports = Ports::bind_towards(registrar).map_err(|error| format!("ports: {error}"))?;
        let (sip, rtp) = (ports.sip(), ports.rtp());
        let (sip, rtp) = sip.and_then(|sip| Ok((sip, rtp?))).map_err(|e| format!("ports: {e}"))?;
        Ok((self.config(registrar, sip, rtp), ports))
    }

    /// The SBC that the answer names first.
    pub async fn registrar(&self) -> Result<SocketAddr, String> {
        let address =
            self.phone.addresses.first().ok_or("the login's answer has no SBC address")?;
        resolve(&address.host, address.port).await
    }

    /// A built-in phone at these ports.
    pub fn config(&self, registrar: SocketAddr, sip: SocketAddr, rtp: SocketAddr) -> PhoneConfig {
        let part = &self.phone;
        let mut config = PhoneConfig::new(&part.user, registrar, sip, rtp);
        config.auth_user = part.auth_user.clone();
        config.realm = part.realm.clone();
        config.secret = part.secret.clone();
        config.expires_s = part.expires_s;
        config.display = self.agent.number.clone();
        config
    }
}

async fn resolve(host: &str, port: u16) -> Result<SocketAddr, String> {
    let failed = |why: &dyn std::fmt::Display| format!("{host}: {why}");
    let mut found = tokio::net::lookup_host((host, port)).await.map_err(|error| failed(&error))?;
    found.next().ok_or_else(|| failed(&"no address"))
}

/// How far the login is, as the CTI tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The desk is attached, and heard how far the login is.
    pub greeted: bool,
    /// Phone and desk are both there.
    pub complete: bool,
    /// The agent is to log in again.
    pub again: bool,
    /// The session is over, with what was said last.
    pub closed: Option<String>,
}

/// A desk at its WebSocket.
pub struct Desk {
    progress: watch::Receiver<Progress>,
    exit: mpsc::UnboundedSender<()>,
    task: JoinHandle<()>,
}

impl Desk {
    /// Attaches to a login.
    pub async fn attach(grant: &Grant) -> Result<Desk, String> {
        let url = &grant.cti.url;
        let failed = |why: &dyn std::fmt::Display| format!("{url}: {why}");
        let mut request = url.as_str().into_client_request().map_err(|error| failed(&error))?;
        let bearer = HeaderValue::try_from(format!("Bearer {}", grant.token));
        let bearer = bearer.map_err(|error| failed(&error))?;
        request.headers_mut().insert("authorization", bearer);
        let connecting = tokio_tungstenite::connect_async(request);
        let (socket, _) = tokio::time::timeout(SOCKET_LIMIT, connecting)
            .await
            .map_err(|_| failed(&"no answer"))?
            .map_err(|error| failed(&error))?;
        let (tell, progress) = watch::channel(Progress::default());
        let (exit, mut ordered) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let (mut write, mut read) = socket.split();
            let mut last = String::from("the connection ended");
            loop {
                tokio::select! {
                    order = ordered.recv() => {
                        let text = match order {
                            Some(()) => crate::admin::EXIT_MESSAGE,
                            None => break,
                        };
                        if write.send(Message::text(text)).await.is_err() {
                            break;
                        }
                    }
                    message = read.next() => match message {
                        Some(Ok(Message::Text(text))) => hear(&text, &tell, &mut last),
                        Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                        Some(Ok(_)) => {}
                    },
                }
            }
            tell.send_modify(|progress| progress.closed = Some(last));
        });
        Ok(Desk { progress, exit, task })
    }

    /// Waits until phone and desk are both there.
    pub async fn complete(&mut self, limit: Duration) -> Result<(), String> {
        let waiting = self.progress.wait_for(|now| now.complete || now.closed.is_some());
        let now = tokio::time::timeout(limit, waiting)
            .await
            .map_err(|_| format!("the login is not complete after {} s", limit.as_secs()))?
            .map_err(|_| "the desk is gone".to_owned())?;
        match &now.closed {
            Some(why) if !now.complete => Err(format!("the CTI closed: {why}")),
            _ => Ok(()),
        }
    }

    /// Waits until the desk is attached; false when it is not in time, or was turned away.
    pub async fn greeted(&mut self, limit: Duration) -> bool {
        let waiting = self.progress.wait_for(|now| now.greeted || now.closed.is_some());
        match tokio::time::timeout(limit, waiting).await {
            Ok(Ok(now)) => now.greeted && now.closed.is_none(),
            _ => false,
        }
    }

    /// Waits until the session is over, or the agent is to log in again: then true.
    pub async fn gone(&mut self) -> bool {
        let gone = self.progress.wait_for(|now| now.again || now.closed.is_some()).await;
        gone.is_ok_and(|now| now.again && now.closed.is_none())
    }

    /// Ends the login and waits for the end of the WebSocket.
    pub async fn exit(self) -> Result<(), String> {
        let _ = self.exit.send(());
        let ended = tokio::time::timeout(SOCKET_LIMIT, self.task).await;
        ended.map(|_| ()).map_err(|_| "the CTI did not close after the exit".to_owned())
    }
}

fn hear(text: &str, tell: &watch::Sender<Progress>, last: &mut String) {
    let Ok(message) = serde_json::from_str::<Value>(text) else { return };
    if message["type"] == "login_progress" {
        let complete = message["state"] == "logged_in";
        tell.send_modify(|progress| (progress.greeted, progress.complete) = (true, complete));
    }
    if message["type"] == "log_in_again" {
        tell.send_modify(|progress| progress.again = true);
    }
    *last = text.to_owned();
}
