//! Dialogs: RFC 3261, 12. What two user agents remember of each other between requests.
//!
//! A [`Dialog`] builds the requests within it, and says whether a request that came is in order. It
//! knows nothing of transactions or media; its user sends what it builds, to the next hop that it
//! names. One INVITE may make several dialogs when a proxy forks it: the user keeps one `Dialog`
//! for each To tag that came in a provisional response, and finds it by [`Dialog::matches`].

use core::fmt;

use base::Transport;

use crate::wire::{Header, Message, Method, NameAddr, RequestWriter, Start, Uri, is_one_word};

mod parts;
#[cfg(test)]
mod tests;

pub use parts::Parts;

/// The CSeq number that a UAS begins with when it sends its first request (12.2.1.1).
const FIRST_CSEQ: u32 = 1;
/// Max-Forwards of a new request (8.1.1.6).
const MAX_FORWARDS: &[u8] = b"70";
/// CSeq numbers are below 2^31 (8.1.1.5).
const CSEQ_LIMIT: u32 = 1 << 31;

/// One end's view of a dialog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialog {
    call_id: Box<[u8]>,
    local: Party,
    remote: Party,
    /// The number of the last request that went out, when one did.
    local_cseq: Option<u32>,
    /// The number of the last request that came, when one did.
    remote_cseq: Option<u32>,
    /// Whole values for Route, the nearest first.
    route_set: Vec<Box<[u8]>>,
    /// The URI of the peer's Contact.
    remote_target: Box<[u8]>,
    state: State,
}

/// Early until a 2xx went or came (12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Made by a provisional response.
    Early,
    /// Made or confirmed by a 2xx.
    Confirmed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Party {
    uri: Box<[u8]>,
    /// Empty for a peer after RFC 2543 that has none (12.1.1).
    tag: Box<[u8]>,
}

/// What a request within a dialog has beside what the dialog knows.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The branch of its Via; begins with `z9hG4bK` and is new, also for an ACK to a 2xx.
    pub branch: &'a [u8],
    /// How it travels, for its Via.
    pub transport: Transport,
    /// Host and port of its Via, as `192.0.2.1:5060`.
    pub sent_by: &'a [u8],
    /// The value of Contact; INVITE and UPDATE must have one (12.2.1.1).
    pub contact: Option<&'a [u8]>,
    /// Further header lines.
    pub extra: &'a [(&'a str, &'a [u8])],
    /// Content-Type and body.
    pub body: Option<(&'a str, &'a [u8])>,
}

impl Outgoing<'_> {
    fn via(&self) -> Vec<u8> {
        let token = self.transport.token().as_bytes();
        [b"SIP/2.0/", token, b" ", self.sent_by, b";rport;branch=", self.branch].concat()
    }
}

/// A request to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The whole message.
    pub bytes: Vec<u8>,
    /// The URI of the element it is to be sent to (8.1.2): the first route, or the remote target.
    pub next_hop: Vec<u8>,
    /// Its CSeq number.
    pub cseq: u32,
}

/// Why a message makes no dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DialogError {
    /// It is a request where a response belongs, the other way round, or a status that makes none.
    Kind,
    /// A mandatory header is missing or malformed.
    Header,
    /// There is no Contact, or none with a SIP URI (12.1.1).
    Contact,
    /// The response has no To tag (a 100, or a peer after RFC 2543 before its 2xx).
    NoTag,
}

/// A request is older than one that came before; it is to be answered by 500 (12.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldCSeq;

impl Dialog {
    /// The dialog that answering `invite` with `local_tag` makes (12.1.1). It is early until
    /// [`Self::confirm`], so it may be made before the answer is known.
    pub fn uas(invite: &Message<'_>, local_tag: &[u8]) -> Result<Dialog, DialogError> {
        let Start::Request { .. } = invite.start() else {
            return Err(DialogError::Kind);
        };
        let ends = Ends::read(invite)?;
        Ok(Dialog {
            call_id: ends.call_id,
            // "The local tag component of the dialog ID MUST be set to the tag in the To field in
            // the response to the request", and "the remote URI MUST be set to the URI in the From
            // field".
            local: Party { uri: ends.to.uri, tag: Box::from(local_tag) },
            remote: ends.from,
            local_cseq: None,
            remote_cseq: Some(ends.cseq),
            // "taken in order and preserving all URI parameters".
            route_set: routes(invite).collect(),
            remote_target: contact(invite).ok_or(DialogError::Contact)?,
            state: State::Early,
        })
    }

    /// The dialog that `response` to an INVITE from here makes (12.1.2): early for 101 to 199,
    /// confirmed for 2xx.
    pub fn uac(response: &Message<'_>) -> Result<Dialog, DialogError> {
        let state = match response.status() {
            Some(101..200) => State::Early,
            Some(200..300) => State::Confirmed,
            _ => return Err(DialogError::Kind),
        };
        let ends = Ends::read(response)?;
        // 12.1.2: a peer after RFC 2543 may have no tag, but then has no early dialogs either.
        if ends.to.tag.is_empty() && state == State::Early {
            return Err(DialogError::NoTag);
        }
        let mut dialog = Dialog {
            call_id: ends.call_id,
            local: ends.from,
            remote: ends.to,
            local_cseq: Some(ends.cseq),
            remote_cseq: None,
            route_set: Vec::new(),
            remote_target: contact(response).ok_or(DialogError::Contact)?,
            state,
        };
        dialog.learn_routes(response);
        Ok(dialog)
    }

    /// Gives the dialog the tag that our answers will have, when it was made before that was known.
    pub fn set_local_tag(&mut self, tag: &[u8]) {
        self.local.tag = Box::from(tag);
    }

    /// The early dialog of a UAS sent its 2xx.
    pub fn confirm(&mut self) {
        self.state = State::Confirmed;
    }

    /// Takes a further response of this dialog. The first 2xx to INVITE confirms an early dialog and
    /// renews its route set (13.2.2.4: "the route set for the dialog MUST be recomputed"); each 2xx
    /// to INVITE or UPDATE that has a Contact renews the remote target (12.2.1.2). Others do nothing.
    pub fn refresh(&mut self, response: &Message<'_>) {
        let method = match (response.status(), response.cseq()) {
            (Some(200..300), Ok(cseq)) => cseq.method,
            _ => return,
        };
        if !matches!(method, Method::Invite | Method::Update) {
            return;
        }
        if self.state == State::Early && method == Method::Invite {
            self.state = State::Confirmed;
            self.learn_routes(response);
        }
        if let Some(target) = contact(response) {
            self.remote_target = target;
        }
    }

    /// Whether the dialog takes a request of its peer (12.2.2), whose target is renewed by INVITE
    /// and UPDATE. An ACK or a CANCEL has its INVITE's number, and changes nothing.
    pub fn accept(&mut self, request: &Message<'_>) -> Result<(), OldCSeq> {
        let (Some(method), Ok(cseq)) = (request.method(), request.cseq()) else {
            return Err(OldCSeq);
        };
        if matches!(method, Method::Ack | Method::Cancel) {
            return Ok(());
        }
        // "If the remote sequence number was not empty, but the sequence number of the request is
        // lower than the remote sequence number, the request is out of order".
        if self.remote_cseq.is_some_and(|last| cseq.number < last) {
            return Err(OldCSeq);
        }
        self.remote_cseq = Some(cseq.number);
        if matches!(method, Method::Invite | Method::Update)
            && let Some(target) = contact(request)
        {
            self.remote_target = target;
        }
        Ok(())
    }

    /// True when the message, which came, belongs to this dialog: same Call-ID and both tags (12).
    pub fn matches(&self, message: &Message<'_>) -> bool {
        let (Ok(call_id), Ok(from), Ok(to)) = (message.call_id(), message.from(), message.to())
        else {
            return false;
        };
        let (ours, theirs) = match message.start() {
            Start::Request { .. } => (to.tag(), from.tag()),
            Start::Response { .. } => (from.tag(), to.tag()),
        };
        call_id == &*self.call_id
            && self.local.tag.eq_ignore_ascii_case(ours.unwrap_or_default())
            && self.remote.tag.eq_ignore_ascii_case(theirs.unwrap_or_default())
    }

    /// The next request within the dialog, neither ACK nor CANCEL (12.2.1.1).
    pub fn request(&mut self, method: Method<'_>, what: &Outgoing<'_>) -> Built {
        debug_assert!(!matches!(method, Method::Ack | Method::Cancel), "they have no new CSeq");
        // A number at the limit cannot grow; peers refuse a smaller one, so it stays.
        let cseq = self.local_cseq.map_or(FIRST_CSEQ, |last| (last + 1).min(CSEQ_LIMIT - 1));
        self.local_cseq = Some(cseq);
        self.build(method, cseq, what)
    }

    /// The ACK to a 2xx to the INVITE whose CSeq number was `cseq` (13.2.2.4). It is sent without a
    /// transaction, and again for each 2xx that comes again. Credentials of the INVITE go with it
    /// (22.1), among the extra lines.
    pub fn ack(&self, cseq: u32, what: &Outgoing<'_>) -> Built {
        self.build(Method::Ack, cseq, what)
    }

    /// Early or confirmed.
    pub fn state(&self) -> State {
        self.state
    }

    /// The Call-ID.
    pub fn call_id(&self) -> &[u8] {
        &self.call_id
    }

    /// Our tag.
    pub fn local_tag(&self) -> &[u8] {
        &self.local.tag
    }

    /// The peer's tag; empty when it has none.
    pub fn remote_tag(&self) -> &[u8] {
        &self.remote.tag
    }

    /// Our URI.
    pub fn local_uri(&self) -> &[u8] {
        &self.local.uri
    }

    /// The peer's URI.
    pub fn remote_uri(&self) -> &[u8] {
        &self.remote.uri
    }

    /// The URI of the peer's Contact.
    pub fn remote_target(&self) -> &[u8] {
        &self.remote_target
    }

    /// The CSeq number of the last request sent, when one was.
    pub fn local_cseq(&self) -> Option<u32> {
        self.local_cseq
    }

    /// 12.1.2: "taken in reverse order and preserving all URI parameters".
    fn learn_routes(&mut self, response: &Message<'_>) {
        self.route_set = routes(response).collect();
        self.route_set.reverse();
    }

    fn build(&self, method: Method<'_>, cseq: u32, what: &Outgoing<'_>) -> Built {
        let path = self.path();
        let mut writer = RequestWriter::new(method.as_bytes(), &path.request_uri)
            .header("Via", what.via())
            .header("Max-Forwards", MAX_FORWARDS);
        for route in &path.routes {
            writer = writer.header("Route", route);
        }
        writer = writer
            .header("From", self.local.value())
            .header("To", self.remote.value())
            .header("Call-ID", &self.call_id)
            .header("CSeq", [cseq.to_string().as_bytes(), b" ", method.as_bytes()].concat());
        if let Some(contact) = what.contact {
            writer = writer.header("Contact", contact);
        }
        for (name, value) in what.extra {
            writer = writer.header(name, value);
        }
        Built { bytes: writer.finish(what.body), next_hop: path.next_hop, cseq }
    }

    /// 12.2.1.1: where a request goes, and what it says about that.
    fn path(&self) -> Path {
        let target = request_uri(&self.remote_target);
        let first = self.route_set.first().and_then(|route| NameAddr::parse(route));
        let Some(first) = first else {
            return Path { next_hop: target.clone(), request_uri: target, routes: Vec::new() };
        };
        let loose = first.parsed_uri().is_ok_and(|uri| uri.param("lr").is_some());
        if loose {
            // "the UAC MUST place the remote target URI into the Request-URI and MUST include a
            // Route header field containing the route set values in order".
            let routes = self.route_set.iter().map(|route| route.to_vec()).collect();
            return Path { next_hop: first.uri.to_vec(), request_uri: target, routes };
        }
        // A strict router: "the UAC MUST place the first URI from the route set into the
        // Request-URI", the rest into Route, and "then place the remote target URI into the Route
        // header field as the last value".
        let mut routes: Vec<_> = self.route_set[1..].iter().map(|route| route.to_vec()).collect();
        routes.push([b"<", &*self.remote_target, b">"].concat());
        let router = request_uri(first.uri);
        Path { next_hop: router.clone(), request_uri: router, routes }
    }
}

struct Path {
    request_uri: Vec<u8>,
    routes: Vec<Vec<u8>>,
    next_hop: Vec<u8>,
}

/// What both ways of making a dialog read alike.
struct Ends {
    call_id: Box<[u8]>,
    from: Party,
    to: Party,
    cseq: u32,
}

impl Ends {
    fn read(message: &Message<'_>) -> Result<Ends, DialogError> {
        let read = || {
            Some(Ends {
                call_id: Box::from(message.call_id().ok()?),
                from: Party::new(&message.from().ok()?)?,
                to: Party::new(&message.to().ok()?)?,
                cseq: message.cseq().ok()?.number,
            })
        };
        read().ok_or(DialogError::Header)
    }
}

impl Party {
    /// None where the URI or the tag is more than one word: it would be another once it is written again.
    fn new(name_addr: &NameAddr<'_>) -> Option<Party> {
        let tag = name_addr.tag();
        (is_one_word(Some(name_addr.uri)) && is_one_word(tag)).then(|| Party {
            uri: Box::from(name_addr.uri),
            tag: Box::from(tag.unwrap_or_default()),
        })
    }

    /// The value of From or To; a tag that is null "MUST be omitted" (12.2.1.1).
    fn value(&self) -> Vec<u8> {
        let mut value = [b"<", &*self.uri, b">"].concat();
        if !self.tag.is_empty() {
            value.extend_from_slice(b";tag=");
            value.extend_from_slice(&self.tag);
        }
        value
    }
}

/// The values of Record-Route that can be read; one that cannot is no route.
fn routes(message: &Message<'_>) -> impl Iterator<Item = Box<[u8]>> {
    message
        .headers(Header::RecordRoute)
        .filter(|value| NameAddr::parse(value).is_some_and(|route| route.parsed_uri().is_ok()))
        .map(Box::from)
}

/// The URI of the first Contact, when it is a SIP URI.
fn contact(message: &Message<'_>) -> Option<Box<[u8]>> {
    let contact = message.contact()?.ok()?;
    let uri = contact.parsed_uri().ok()?;
    (!uri.host.is_empty()).then(|| Box::from(contact.uri))
}

/// A URI as a Request-URI may be: without the method parameter and the headers (19.1.1, table 1).
fn request_uri(bytes: &[u8]) -> Vec<u8> {
    let Some(uri) = Uri::parse(bytes).ok().filter(|uri| !uri.host.is_empty()) else {
        return bytes.to_vec();
    };
    let mut plain = bytes.to_vec();
    if !uri.headers.is_empty() || plain.last() == Some(&b'?') {
        plain.truncate(plain.len() - uri.headers.len());
        plain.truncate(plain.len() - 1);
    }
    if uri.param("method").is_some() {
        plain.truncate(plain.len() - uri.params.as_bytes().len());
        for (name, value) in uri.params {
            if name.eq_ignore_ascii_case(b"method") {
                continue;
            }
            plain.push(b';');
            plain.extend_from_slice(name);
            if let Some(value) = value {
                plain.push(b'=');
                plain.extend_from_slice(value);
            }
        }
    }
    plain
}

impl fmt::Display for DialogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DialogError::Kind => "no message that makes a dialog",
            DialogError::Header => "a mandatory header is missing or malformed",
            DialogError::Contact => "no Contact with a SIP URI",
            DialogError::NoTag => "no To tag",
        })
    }
}

impl core::error::Error for DialogError {}

impl fmt::Display for OldCSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the CSeq number is lower than the last one")
    }
}

impl core::error::Error for OldCSeq {}
