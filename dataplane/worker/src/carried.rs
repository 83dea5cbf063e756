//! What a message of one leg carries to the other beside its session.
//!
//! No host of one side reaches the other: URIs are written anew with our address, or left out. Who calls is
//! believed from trunks, and told to trunks (RFC 3325, 9): an agent is who its login says, and a phone hears
//! no number that is withheld.

use std::net::SocketAddr;

use abi::Party;
use sip::wire::{Header, Message, NameAddr, Params, Uri, unquote};

use crate::call::{CALLER, Leg, LegRef, Number, is_dialable};
use crate::worker::Worker;

/// Header lines.
pub(crate) type Lines = Vec<(&'static str, Vec<u8>)>;

/// How many values of one header are carried; a call that was diverted more often is a loop.
const MAX_VALUES: usize = 10;

/// What the From of a call says whose number is withheld (RFC 3323, 4.1.1.3).
pub(crate) const ANONYMOUS: &str = "\"Anonymous\" <sip:anonymous@anonymous.invalid>";

/// One end of a bridge.
#[derive(Clone, Copy, Debug)]
enum Side {
    /// An agent's phone, and the agent's number.
    Agent(Number),
    /// A trunk, or another CCB.
    Trunk,
}

impl Side {
    fn of(leg: &Leg) -> Side {
        match leg.party {
            Party::Agent(..) => Side::Agent(leg.who),
            // Another blade of ours knows who calls, and keeps what is to be kept from phones.
            Party::Trunk(..) | Party::Peer(_) => Side::Trunk,
        }
    }
}

/// From whom to whom, and our address as the latter knows it.
struct Way {
    from: Side,
    to: Side,
    ours: SocketAddr,
}

impl Worker {
    fn way(&self, from: LegRef, to: LegRef) -> Option<Way> {
        let (from, to) = (self.calls.leg(from)?, self.calls.leg(to)?);
        Some(Way { from: Side::of(from), to: Side::of(to), ours: self.address_of(to.flow) })
    }

    /// What the caller's INVITE carries to the leg that it is passed on to.
    pub(crate) fn passed_on(&self, leg: LegRef) -> Lines {
        let caller = LegRef { leg: CALLER, ..leg };
        let Some(way) = self.way(caller, leg) else { return Lines::new() };
        self.caller_invite(caller, |message| way.request(message)).unwrap_or_default()
    }

    /// What a response of one leg carries to the other.
    pub(crate) fn answered_on(&self, from: LegRef, to: LegRef, message: &Message<'_>) -> Lines {
        self.way(from, to).map_or(Lines::new(), |way| way.response(message))
    }
}

impl Way {
    fn request(&self, message: &Message<'_>) -> Lines {
        let mut lines = both_ways(message);
        // RFC 3261, 20.36.
        push_text(&mut lines, "Subject", message.header(Header::Subject));
        lines.extend(message.headers(Header::Reason).filter_map(reason).map(|it| ("Reason", it)));
        self.push_identity(&mut lines, message);
        self.push_history(&mut lines, message);
        lines
    }

    fn response(&self, message: &Message<'_>) -> Lines {
        let mut lines = both_ways(message);
        match message.status() {
            Some(..300) => self.push_identity(&mut lines, message),
            _ => lines.extend(why_not(message)),
        }
        lines
    }

    /// RFC 3325, 9.1: the identity is for who is trusted. What an agent says of itself is not taken.
    fn push_identity(&self, lines: &mut Lines, message: &Message<'_>) {
        if !matches!(self.to, Side::Trunk) {
            return;
        }
        let identities: Vec<Vec<u8>> = match self.from {
            Side::Agent(number) => vec![format!("<sip:{number}@{}>", self.ours).into_bytes()],
            // RFC 3325, 9.1: "There may be one or two P-Asserted-Identity values".
            Side::Trunk => {
                let values = message.headers(Header::PAssertedIdentity).take(2);
                values.filter_map(|value| self.name_addr(value, &[])).collect()
            }
        };
        if !identities.is_empty() && is_withheld(message) {
            lines.push(("Privacy", b"id".to_vec()));
        }
        lines.extend(identities.into_iter().map(|value| ("P-Asserted-Identity", value)));
    }

    /// RFC 5806 and RFC 7044: by which numbers the call came. A trunk says so; what is to be kept from users
    /// is kept from phones.
    fn push_history(&self, lines: &mut Lines, message: &Message<'_>) {
        if !matches!(self.from, Side::Trunk) {
            return;
        }
        let to_phone = matches!(self.to, Side::Agent(_));
        let privacy = message.header(Header::Privacy).unwrap_or_default();
        if to_phone && has_token(privacy, &["history", "header", "session"]) {
            return;
        }
        for value in message.headers(Header::Diversion).take(MAX_VALUES) {
            let hidden = NameAddr::parse(value).is_none_or(|name| {
                name.param("privacy").is_some_and(|level| !level.eq_ignore_ascii_case(b"off"))
            });
            let kept = ["reason", "counter", "limit", "privacy", "screen"];
            if let Some(value) = self.name_addr(value, &kept).filter(|_| !(hidden && to_phone)) {
                lines.push(("Diversion", value));
            }
        }
        for value in message.headers(Header::HistoryInfo).take(MAX_VALUES) {
            let hidden = NameAddr::parse(value).is_none_or(|name| {
                let headers = name.parsed_uri().map_or(&b""[..], |uri| uri.headers);
                headers.to_ascii_lowercase().windows(7).any(|word| word == b"privacy")
            });
            let kept = ["index", "rc", "mp", "np"];
            if let Some(value) = self.name_addr(value, &kept).filter(|_| !(hidden && to_phone)) {
                lines.push(("History-Info", value));
            }
        }
    }

    /// The value with our address for its host, and of its parameters those that are `kept`.
    fn name_addr(&self, value: &[u8], kept: &[&str]) -> Option<Vec<u8>> {
        let name = NameAddr::parse(value)?;
        let uri = self.uri(&name.parsed_uri().ok()?)?;
        let display = unquote(name.display);
        let mut out = match is_plain(&display) && !display.is_empty() {
            true => [b"\"", &*escaped(&display), b"\" <", &uri, b">"].concat(),
            false => [b"<", &*uri, b">"].concat(),
        };
        push_params(&mut out, name.params, kept);
        Some(out)
    }

    /// The user at our address; a number without a host stays as it is.
    fn uri(&self, uri: &Uri<'_>) -> Option<Vec<u8>> {
        let user = uri.user.split(|byte| *byte == b';').next().unwrap_or_default();
        let number = Number::new(user).ok().filter(|number| !number.is_empty())?;
        let is_number = |byte: &u8| byte.is_ascii_digit() || b"+-.()*#".contains(byte);
        if uri.scheme.eq_ignore_ascii_case(b"tel") {
            let is_tel = user.iter().all(is_number);
            return is_tel.then(|| [b"tel:", user].concat());
        }
        let is_sip = !uri.host.is_empty() && is_dialable(&number);
        is_sip.then(|| format!("sip:{number}@{}", self.ours).into_bytes())
    }
}

/// What requests and responses carry in both directions.
fn both_ways(message: &Message<'_>) -> Lines {
    let mut lines = Lines::new();
    // RFC 7433: carried across the B2BUA untouched.
    let values = message.headers(Header::UserToUser).take(MAX_VALUES);
    lines.extend(values.map(|value| ("User-to-User", value.to_vec())));
    // RFC 7462: a name for a tone has no host; the address of a file has.
    let alerts = message.headers(Header::AlertInfo).filter_map(NameAddr::parse);
    let alerts = alerts.filter(|alert| {
        alert.uri.get(..10).is_some_and(|start| start.eq_ignore_ascii_case(b"urn:alert:"))
    });
    lines.extend(
        alerts.take(MAX_VALUES).map(|alert| ("Alert-Info", [b"<", alert.uri, b">"].concat())),
    );
    lines
}

/// What a BYE or a CANCEL carries: why (RFC 3326).
pub(crate) fn reasons(message: &Message<'_>) -> Vec<Vec<u8>> {
    message.headers(Header::Reason).take(MAX_VALUES).filter_map(reason).collect()
}

/// One value of Reason: protocol, cause, and a text that names no host.
fn reason(value: &[u8]) -> Option<Vec<u8>> {
    let end = value.iter().position(|byte| *byte == b';').unwrap_or(value.len());
    let protocol = value[..end].trim_ascii();
    if !sip::wire::is_token(protocol) {
        return None;
    }
    let params = Params::new(&value[end..]);
    let mut out = protocol.to_vec();
    push_params(&mut out, params, &["cause"]);
    let text = params.value("text").map(unquote).filter(|text| is_plain(text));
    if let Some(text) = text {
        out.extend([b";text=\"", &*escaped(&text), b"\""].concat());
    }
    Some(out)
}

/// What a refusal says beside its status: RFC 6432, and RFC 3261, 20.33 and 20.43.
fn why_not(message: &Message<'_>) -> Lines {
    let mut lines: Lines = reasons(message).into_iter().map(|reason| ("Reason", reason)).collect();
    let is_digit = |byte: &u8| byte.is_ascii_digit();
    if let Some(value) = message.header(Header::RetryAfter) {
        let digits: Vec<u8> = value.iter().copied().take_while(is_digit).take(9).collect();
        if !digits.is_empty() {
            lines.push(("Retry-After", digits));
        }
    }
    for value in message.headers(Header::Warning).take(MAX_VALUES) {
        let mut parts = value.splitn(3, |byte| *byte == b' ');
        let (code, _agent, text) = (parts.next(), parts.next(), parts.next());
        let text = text.map(|text| unquote(text.trim_ascii())).filter(|text| is_plain(text));
        let code = code.filter(|code| code.len() == 3 && code.iter().all(is_digit));
        if let (Some(code), Some(text)) = (code, text) {
            lines.push(("Warning", [code, b" jackfield \"", &escaped(&text), b"\""].concat()));
        }
    }
    lines
}

/// Whether who calls wants its number kept from the called (RFC 3323, 4.2; RFC 3325, 9.3).
pub(crate) fn is_withheld(message: &Message<'_>) -> bool {
    has_token(message.header(Header::Privacy).unwrap_or_default(), &["id", "user"])
}

/// The number that a trunk asserts of its caller.
pub(crate) fn asserted(message: &Message<'_>) -> Option<Number> {
    message.headers(Header::PAssertedIdentity).take(2).find_map(|value| {
        let name = NameAddr::parse(value)?;
        let uri = name.parsed_uri().ok()?;
        let user = uri.user.split(|byte| *byte == b';').next().unwrap_or_default();
        Number::new(user).ok().filter(|number| !number.is_empty() && is_dialable(number))
    })
}

fn has_token(value: &[u8], tokens: &[&str]) -> bool {
    let mut given = value.split(|byte| matches!(byte, b';' | b',')).map(<[u8]>::trim_ascii);
    given.any(|given| tokens.iter().any(|token| token.as_bytes().eq_ignore_ascii_case(given)))
}

fn push_params(out: &mut Vec<u8>, params: Params<'_>, kept: &[&str]) {
    for name in kept {
        let Some(value) = params.value(name) else { continue };
        let bare = unquote(value);
        // A quoted value holds a token all the same: reasons, numbers, indices.
        if bare.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(byte))
            && !names_host(&bare, name)
        {
            out.extend([b";", name.as_bytes()].concat());
            if !bare.is_empty() {
                out.extend([b"=", &*bare].concat());
            }
        }
    }
}

/// An index such as 1.2.1.1 looks like an address, and is none.
fn names_host(value: &[u8], name: &str) -> bool {
    !matches!(name, "index" | "rc" | "mp" | "np") && !is_plain(value)
}

fn push_text(lines: &mut Lines, name: &'static str, value: Option<&[u8]>) {
    lines.extend(value.filter(|value| is_plain(value)).map(|value| (name, value.to_vec())));
}

/// Text of a line that names no host: no "@", and no digits around a dot.
fn is_plain(text: &[u8]) -> bool {
    let is_line = text.iter().all(|byte| *byte >= b' ' && *byte != 0x7f && *byte != b'@');
    let dotted =
        |three: &[u8]| three[1] == b'.' && three[0].is_ascii_digit() && three[2].is_ascii_digit();
    let colons = |two: &[u8]| two == b"::";
    is_line && text.len() <= 256 && !text.windows(3).any(dotted) && !text.windows(2).any(colons)
}

fn escaped(text: &[u8]) -> Vec<u8> {
    let escapes = |byte: &u8| if b"\"\\".contains(byte) { &b"\\"[..] } else { b"" };
    text.iter().flat_map(|byte| escapes(byte).iter().copied().chain([*byte])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sip::wire::lex;

    const TRUNK_SAYS: &str = "User-to-User: 00c8;encoding=hex\r\n\
        Subject: A question\r\n\
        Alert-Info: <urn:alert:source:external>, <http://10.9.0.1/ring.wav>\r\n\
        Diversion: \"Front desk\" <sip:500@10.9.0.1:5062>;reason=no-answer;counter=1;x=10.9.0.1\r\n\
        Diversion: <sip:501@pbx.example>;reason=unconditional;privacy=full\r\n\
        History-Info: <sip:500@pbx.example?Reason=SIP%3Bcause%3D302>;index=1.1.1.1, \
        <sip:502@pbx.example?Privacy=history>;index=1.2\r\n\
        P-Asserted-Identity: \"Ann \\\"A\\\"\" <sip:+4930@10.9.0.1>, <tel:+4930;phone-context=x.example>\r\n\
        P-Preferred-Identity: <sip:9@10.9.0.1>\r\n\
        Call-Info: <http://10.9.0.1/photo.png>\r\n";

    fn way(from: Side, to: Side) -> Way {
        Way { from, to, ours: "192.0.2.9:5060".parse().expect("an address") }
    }

    fn agent() -> Side {
        Side::Agent(Number::new(b"1001").expect("fits"))
    }

    fn carried(way: Way, lines: &str) -> Vec<String> {
        let text = format!("INVITE sip:a@b SIP/2.0\r\n{lines}\r\n");
        let message = lex(text.as_bytes()).expect("SIP");
        let lines = way.request(&message).into_iter();
        let text = |value| String::from_utf8(value).expect("text");
        lines.map(|(name, value)| format!("{name}: {}", text(value))).collect()
    }

    #[test]
    fn a_trunk_tells_a_trunk_all_but_its_hosts() {
        let lines = carried(way(Side::Trunk, Side::Trunk), TRUNK_SAYS);
        assert_eq!(
            lines,
            [
                "User-to-User: 00c8;encoding=hex",
                "Alert-Info: <urn:alert:source:external>",
                "Subject: A question",
                "P-Asserted-Identity: \"Ann \\\"A\\\"\" <sip:+4930@192.0.2.9:5060>",
                "P-Asserted-Identity: <tel:+4930>",
                "Diversion: \"Front desk\" <sip:500@192.0.2.9:5060>;reason=no-answer;counter=1",
                "Diversion: <sip:501@192.0.2.9:5060>;reason=unconditional;privacy=full",
                "History-Info: <sip:500@192.0.2.9:5060>;index=1.1.1.1",
                "History-Info: <sip:502@192.0.2.9:5060>;index=1.2",
            ]
        );
    }

    #[test]
    fn a_phone_hears_no_identity_and_nothing_hidden() {
        let lines = carried(way(Side::Trunk, agent()), TRUNK_SAYS);
        assert_eq!(lines.len(), 5, "{lines:?}");
        assert!(lines.iter().all(|line| !line.contains("Identity") && !line.contains("502")));
        let lines = format!("{TRUNK_SAYS}Privacy: history;id\r\n");
        assert_eq!(carried(way(Side::Trunk, agent()), &lines).len(), 3);
    }

    #[test]
    fn an_agent_is_who_its_login_says() {
        let lines = carried(way(agent(), Side::Trunk), TRUNK_SAYS);
        let last = "P-Asserted-Identity: <sip:1001@192.0.2.9:5060>";
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert_eq!(lines[3], last);
        let lines = carried(way(agent(), Side::Trunk), "Privacy: id;critical\r\n");
        assert_eq!(lines, ["Privacy: id", last]);
    }

    #[test]
    fn reasons_are_written_anew() {
        let cases = [
            (
                "Q.850;cause=16;text=\"Bye, \\\"all\\\"\"",
                Some("Q.850;cause=16;text=\"Bye, \\\"all\\\"\""),
            ),
            ("SIP ; cause=200 ; host=10.0.0.1", Some("SIP;cause=200")),
            ("SIP;cause=200;text=\"at 10.0.0.1\"", Some("SIP;cause=200")),
            ("SIP;text=\"a@b\"", Some("SIP")),
            (";cause=1", None),
        ];
        for (given, expected) in cases {
            let got = reason(given.as_bytes()).map(|it| String::from_utf8(it).expect("text"));
            assert_eq!(got.as_deref(), expected, "{given}");
        }
    }

    #[test]
    fn a_refusal_says_why_and_when_to_come_again() {
        let text = "SIP/2.0 503 No\r\nRetry-After: 120;duration=1 (at 10.0.0.1)\r\n\
            Reason: Q.850;cause=34\r\n\
            Warning: 399 pbx.example \"All lines busy\", 399 10.0.0.1 \"see 10.0.0.1\"\r\n\r\n";
        let message = lex(text.as_bytes()).expect("SIP");
        let lines = way(Side::Trunk, agent()).response(&message);
        let expected: Lines = vec![
            ("Reason", b"Q.850;cause=34".to_vec()),
            ("Retry-After", b"120".to_vec()),
            ("Warning", b"399 jackfield \"All lines busy\"".to_vec()),
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn privacy_is_a_list_of_tokens() {
        for (value, withheld) in
            [("id", true), ("header; ID", true), ("user", true), ("none", false), ("idx", false)]
        {
            let text = format!("INVITE sip:a@b SIP/2.0\r\nPrivacy: {value}\r\n\r\n");
            assert_eq!(is_withheld(&lex(text.as_bytes()).expect("SIP")), withheld, "{value}");
        }
    }
}
