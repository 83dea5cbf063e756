//! What one of SIPp's parties says and hears in a call, step by step, as the flows of the RFCs are drawn; and the
//! XML that SIPp reads of it.
//!
//! A step that hears something fails the test when something else comes. [`Ladder::waits`] is where the party waits
//! for the test: it sends a request `GO` that nobody but this party sees, whose header `Told` the next steps may say
//! as [`TOLD`].

use std::fmt::Write as _;

/// What the test told the party at its last wait.
pub const TOLD: &str = "[$told]";

/// Fields of a table's line: the user, SIPp's keyword for its credentials, and whom it calls.
const USER: &str = "[field0]";
const PROOF: &str = "[field1]\n";
pub const CALLED: &str = "[field2]";

/// The steps of one party.
pub struct Ladder {
    xml: String,
    /// Messages of SIPp's so far, which it counts branches by.
    index: usize,
    invited_at: usize,
    cseq: u32,
    version: u32,
    local: String,
    remote: &'static str,
    contact: String,
    /// Whom a REGISTER is about.
    to: String,
    /// Responses to the first INVITE need a tag of ours.
    untagged: bool,
}

/// What a message must look like: `("Name:", regular expression)`; the header `""` is the body.
pub type Looks<'a> = &'a [(&'a str, &'a str)];

/// A description that flows so.
#[derive(Clone, Copy)]
pub enum Sdp {
    Both,
    SendOnly,
    RecvOnly,
    Inactive,
    /// RFC 2543's way to hold.
    Zeros,
    /// At another port than before.
    Moved,
}

impl Ladder {
    fn new(local: String, remote: &'static str, user: &str) -> Ladder {
        Ladder {
            xml: String::new(),
            index: 0,
            invited_at: 0,
            cseq: 0,
            version: 0,
            local,
            remote,
            contact: format!("<sip:{user}@[local_ip]:[local_port]>"),
            to: String::new(),
            untagged: false,
        }
    }

    /// A phone that registers with digest (RFC 3261, 10 and 22).
    pub fn registers(user: &str, secret: &str) -> Ladder {
        Ladder::registers_with(user, &proof(user, secret))
    }

    /// The same for each line of a table: a user and SIPp's keyword for its credentials. A challenge may come again: who
    /// answers it twice, since it came twice, has made its first answer stale.
    pub fn crowd_registers() -> Ladder {
        let mut ladder = Ladder::registrant(USER);
        let lines = format!("Contact: {}\nExpires: 3600\n", ladder.contact);
        ladder.registers_once("[cseq]", &lines).hears(401, &[]);
        ladder.push("<label id=\"1\"/>");
        ladder.registers_once("[cseq]", &format!("{PROOF}{lines}"));
        ladder.push("<recv response=\"401\" auth=\"true\" optional=\"true\" next=\"1\"/>");
        // What comes twice must not come to whoever has the port next.
        ladder.hears(200, &[]).lingers(1_000);
        ladder
    }

    fn registers_with(user: &str, proof: &str) -> Ladder {
        let mut ladder = Ladder::registrant(user);
        let contact = format!("Contact: {}\nExpires: 3600\n", ladder.contact);
        ladder.asks_registrar(&contact, proof, &[]);
        ladder
    }

    /// A phone that asks the registrar for something.
    pub fn registrant(user: &str) -> Ladder {
        let from = format!(" <sip:{user}@[remote_ip]>;tag=[call_number]");
        let mut ladder = Ladder::new(from, "", user);
        ladder.to = format!("<sip:{user}@[remote_ip]>");
        ladder
    }

    /// Asks the registrar for what these lines say, with proof (RFC 3261, 10 and 22); what the 200 looks like.
    pub fn asks_registrar(&mut self, lines: &str, proof: &str, looks: Looks<'_>) -> &mut Self {
        let [first, second] = self.two_numbers();
        self.registers_once(&first, lines).hears(401, &[]);
        self.registers_once(&second, &format!("{proof}{lines}")).hears(200, looks)
    }

    /// The same with a proof that is none: it is asked again, and learns nothing.
    pub fn asks_registrar_in_vain(&mut self, lines: &str, proof: &str) -> &mut Self {
        let looks = [("Contact:", "!sip:")];
        let [first, second] = self.two_numbers();
        self.registers_once(&first, lines).hears(401, &looks);
        self.registers_once(&second, &format!("{proof}{lines}")).hears(401, &looks)
    }

    fn two_numbers(&mut self) -> [String; 2] {
        self.cseq += 2;
        [self.cseq - 1, self.cseq].map(|number| number.to_string())
    }

    fn registers_once(&mut self, cseq: &str, lines: &str) -> &mut Self {
        let (local, to) = (&self.local, &self.to);
        let head = format!(
            "REGISTER sip:[remote_ip]:[remote_port] SIP/2.0\n\
             Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch];rport\n\
             From:{local}\nTo: {to}\nCall-ID: [call_id]\nCSeq: {cseq} REGISTER\nMax-Forwards: 70\n{lines}"
        );
        self.send(" retrans=\"500\"", &head, None);
        self
    }

    /// A phone that calls a number, and proves who it is.
    pub fn calls(user: &str, secret: &str, number: &str, sdp: Option<Sdp>) -> Ladder {
        Ladder::calls_with(user, Some(secret), number, "", sdp)
    }

    /// The same with further header lines; without a secret it is a trunk, known by its address.
    pub fn calls_with(
        user: &str,
        secret: Option<&str>,
        number: &str,
        lines: &str,
        sdp: Option<Sdp>,
    ) -> Ladder {
        let proof = secret.map(|secret| proof(user, secret));
        let mut ladder = Ladder::calls_so(user, proof.as_deref(), number, lines, sdp);
        ladder.may_hear(100);
        ladder
    }

    /// The phones of a table, or the callers of a trunk: each line has a user, SIPp's keyword for its credentials, and
    /// whom it calls.
    pub fn crowd_calls(is_trunk: bool) -> Ladder {
        Ladder::calls_so(USER, (!is_trunk).then_some(PROOF), CALLED, "", Some(Sdp::Both))
    }

    fn calls_so(
        user: &str,
        proof: Option<&str>,
        number: &str,
        lines: &str,
        sdp: Option<Sdp>,
    ) -> Ladder {
        let from = format!(" <sip:{user}@[remote_ip]>;tag=[call_number]");
        let mut ladder = Ladder::new(from, "[$remote]", user);
        let head = format!("INVITE sip:{number}@[remote_ip]:[remote_port] SIP/2.0");
        let to = format!("<sip:{number}@[remote_ip]>");
        if let Some(proof) = proof {
            ladder.invites(&head, &to, lines, sdp);
            ladder.hears(401, &[]).acks_refusal();
            ladder.invites(&head, &to, &format!("{proof}{lines}"), sdp);
        } else {
            ladder.invites(&head, &to, lines, sdp);
        }
        ladder
    }

    fn invites(&mut self, head: &str, to: &str, lines: &str, sdp: Option<Sdp>) {
        self.invited_at = self.index;
        let sdp = sdp.map(|sdp| self.describe(sdp));
        self.out(head, to, "INVITE", lines, sdp.as_deref());
    }

    /// A phone that is called.
    pub fn is_called(user: &str, looks: Looks<'_>) -> Ladder {
        let mut ladder = Ladder::new("[$to];tag=L[call_number]".into(), "[$from]", user);
        ladder.untagged = true;
        let taken = [("From:", ".*", "from"), ("To:", ".*", "to"), ("Via:", ".*", "via")];
        ladder.heard("request=\"INVITE\"", looks, &taken);
        ladder
    }

    /// A response to its own INVITE that makes the dialog: a 2xx, or an early one with a tag.
    pub fn hears_of(&mut self, status: u16, looks: Looks<'_>) -> &mut Self {
        self.heard(&format!("response=\"{status}\""), looks, &[("To:", ".*", "remote")]);
        self
    }

    /// A response that may come before the next step.
    pub fn may_hear(&mut self, status: u16) -> &mut Self {
        self.push(&format!("<recv response=\"{status}\" optional=\"true\"/>"));
        self
    }

    /// A 180, as far as one comes in time; a 100 may come before.
    pub fn may_hear_of_ringing(&mut self, limit_ms: u32) -> &mut Self {
        let label = self.index;
        let limit = format!("timeout=\"{limit_ms}\" ontimeout=\"{label}\"");
        self.push(&format!("<recv response=\"100\" optional=\"true\" {limit}/>"));
        self.push(&format!("<recv response=\"180\" {limit}/><label id=\"{label}\"/>"));
        self
    }

    /// A response to what it said last.
    pub fn hears(&mut self, status: u16, looks: Looks<'_>) -> &mut Self {
        let proves = if status == 401 { " auth=\"true\"" } else { "" };
        self.heard(&format!("response=\"{status}\"{proves}"), looks, &[]);
        self
    }

    /// Another description for the session (RFC 3261, 14.1); what the answer looks like.
    pub fn reinvites(&mut self, sdp: Sdp, looks: Looks<'_>) -> &mut Self {
        self.says("INVITE", "", Some(sdp)).may_hear(100).hears(200, looks).acks(None)
    }

    /// The other side wants another session, and gets it.
    pub fn is_reinvited(&mut self, looks: Looks<'_>, sdp: Sdp) -> &mut Self {
        self.is_asked("INVITE", looks).answers(200, "", Some(sdp)).is_asked("ACK", &[])
    }

    /// A request in its dialog.
    pub fn is_asked(&mut self, method: &str, looks: Looks<'_>) -> &mut Self {
        let taken = [("Via:", ".*", "via")];
        let taken = if method == "INVITE" { &taken[..] } else { &[] };
        self.heard(&format!("request=\"{method}\""), looks, taken);
        self
    }

    /// A request in its dialog that may come before the next step.
    pub fn may_be_asked(&mut self, method: &str) -> &mut Self {
        self.push(&format!("<recv request=\"{method}\" optional=\"true\"/>"));
        self
    }

    /// Answers the request that it heard last.
    pub fn answers(&mut self, status: u16, lines: &str, sdp: Option<Sdp>) -> &mut Self {
        let sdp = sdp.map(|sdp| self.describe(sdp));
        let tag = if self.untagged { ";tag=L[call_number]" } else { "" };
        let head = format!(
            "SIP/2.0 {status} As The Flow Says\n[last_Via:]\n[last_From:]\n[last_To:]{tag}\n\
             [last_Call-ID:]\n[last_CSeq:]\nContact: {}\n{lines}",
            self.contact
        );
        // A 2xx to an INVITE comes again until its ACK; SIPp repeats all others itself.
        let retrans = if sdp.is_some() && status >= 200 { " retrans=\"500\"" } else { "" };
        self.send(retrans, &head, sdp.as_deref());
        self.untagged &= status < 200;
        self
    }

    /// Accepts its INVITE after the test's word came in between.
    pub fn answers_later(&mut self, status: u16, sdp: Sdp) -> &mut Self {
        self.version = self.version.saturating_sub(1);
        let sdp = self.describe(sdp);
        let head = format!(
            "SIP/2.0 {status} As The Flow Says\nVia:[$via]\nFrom:[$from]\nTo:[$to];tag=L[call_number]\n\
             [last_Call-ID:]\nCSeq: 1 INVITE\nContact: {}\n",
            self.contact
        );
        self.send(" retrans=\"500\"", &head, Some(&sdp));
        self.untagged = false;
        self
    }

    /// Refuses its INVITE after another request came in between (a CANCEL).
    pub fn refuses_the_invite(&mut self, status: u16) -> &mut Self {
        let head = format!(
            "SIP/2.0 {status} As The Flow Says\nVia:[$via]\nFrom:[$from]\nTo:[$to];tag=L[call_number]\n\
             [last_Call-ID:]\nCSeq: 1 INVITE\n"
        );
        self.send(" retrans=\"500\"", &head, None);
        self
    }

    /// Says a request in its dialog.
    pub fn says(&mut self, method: &str, lines: &str, sdp: Option<Sdp>) -> &mut Self {
        let head = format!("{method} [$target] SIP/2.0");
        if method == "INVITE" {
            self.invited_at = self.index;
        }
        let sdp = sdp.map(|sdp| self.describe(sdp));
        self.out(&head, self.remote, method, lines, sdp.as_deref());
        self
    }

    /// Acknowledges the 2xx that it heard.
    pub fn acks(&mut self, sdp: Option<Sdp>) -> &mut Self {
        let sdp = sdp.map(|sdp| self.describe(sdp));
        let (local, remote, cseq) = (&self.local, self.remote, self.cseq);
        let head = format!(
            "ACK [$target] SIP/2.0\nVia: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch];rport\n\
             From:{local}\nTo:{remote}\nCall-ID: [call_id]\nCSeq: {cseq} ACK\nMax-Forwards: 70\n"
        );
        self.send("", &head, sdp.as_deref());
        self
    }

    /// Acknowledges a refusal of its INVITE: RFC 3261, 17.1.1.3, the same branch.
    pub fn acks_refusal(&mut self) -> &mut Self {
        let (local, cseq) = (self.local.clone(), self.cseq);
        let branch = format!("[branch-{}]", self.index - self.invited_at);
        let head = format!(
            "ACK sip:[remote_ip]:[remote_port] SIP/2.0\n\
             Via: SIP/2.0/[transport] [local_ip]:[local_port];branch={branch};rport\n\
             From:{local}\n[last_To:]\nCall-ID: [call_id]\nCSeq: {cseq} ACK\nMax-Forwards: 70\n"
        );
        self.send("", &head, None);
        self
    }

    /// Takes its INVITE to a number back.
    pub fn cancels(&mut self, number: &str) -> &mut Self {
        let (local, cseq) = (self.local.clone(), self.cseq);
        let branch = format!("[branch-{}]", self.index - self.invited_at);
        let head = format!(
            "CANCEL sip:{number}@[remote_ip]:[remote_port] SIP/2.0\n\
             Via: SIP/2.0/[transport] [local_ip]:[local_port];branch={branch};rport\n\
             From:{local}\nTo: <sip:{number}@[remote_ip]>\nCall-ID: [call_id]\nCSeq: {cseq} CANCEL\n\
             Max-Forwards: 70\n"
        );
        self.send(" retrans=\"500\"", &head, None);
        self
    }

    /// Sends RTP from here on, for as long as the call lasts.
    pub fn talks(&mut self) -> &mut Self {
        self.push("<nop><action><exec rtp_stream=\"TONE,-1,0,PCMU/8000\"/></action></nop>");
        self
    }

    /// Is silent until [`Ladder::talks_again`].
    pub fn is_silent(&mut self) -> &mut Self {
        self.push("<nop><action><exec rtp_stream=\"pause\"/></action></nop>");
        self
    }

    pub fn talks_again(&mut self) -> &mut Self {
        self.push("<nop><action><exec rtp_stream=\"resume\"/></action></nop>");
        self
    }

    /// Waits until the test says so.
    pub fn waits(&mut self) -> &mut Self {
        self.is_known().heard("request=\"GO\"", &[], &[("Told:", ".*", "told")]);
        self
    }

    /// Writes down the dialog that it is in, for the test.
    pub fn is_known(&mut self) -> &mut Self {
        let (local, remote) = (&self.local, self.remote);
        self.push(&format!(
            "<nop><action><log message=\"waits|[call_id]|{}|{remote}\"/></action></nop>",
            escaped(local)
        ));
        self
    }

    /// Does nothing for so long.
    pub fn pauses(&mut self, ms: u32) -> &mut Self {
        self.push(&format!("<pause milliseconds=\"{ms}\"/>"));
        self
    }

    /// Is there for so long after the end, to answer what comes again (RFC 3261, timers D, I, J and K).
    pub fn lingers(&mut self, ms: u32) -> &mut Self {
        self.push(&format!("<timewait milliseconds=\"{ms}\"/>"));
        self
    }

    /// Hangs up.
    pub fn hangs_up(&mut self) -> &mut Self {
        self.says("BYE", "", None).hears(200, &[])
    }

    /// Is hung up on.
    pub fn is_hung_up_on(&mut self) -> &mut Self {
        self.is_asked("BYE", &[]).answers(200, "", None)
    }

    /// What SIPp reads.
    pub fn xml(&self, name: &str, tone: &str) -> String {
        let mut xml = format!(
            "<?xml version=\"1.0\" encoding=\"ISO-8859-1\" ?>\n<scenario name=\"{name}\">\n{}",
            self.xml.replace("TONE", tone)
        );
        let names = ["from", "to", "via", "remote", "target", "told", "it"];
        let used: Vec<&str> = names.into_iter().filter(|name| self.assigns(name)).collect();
        if !used.is_empty() {
            let _ = writeln!(xml, "<Reference variables=\"{}\"/>", used.join(","));
        }
        xml.push_str("</scenario>\n");
        xml
    }

    fn assigns(&self, name: &str) -> bool {
        self.xml.contains(&format!("assign_to=\"{name}\""))
    }

    fn heard(&mut self, what: &str, looks: Looks<'_>, taken: &[(&str, &str, &str)]) {
        let mut actions = String::new();
        let makes_dialog = !taken.is_empty() && taken[0].0 != "Told:" && taken[0].2 != "via";
        let target = [("Contact:", "sip:[^>]*", "target")];
        let target = if makes_dialog { &target[..] } else { &[] };
        for (header, regexp, name) in taken.iter().chain(target) {
            let _ = write!(
                actions,
                "<ereg regexp=\"{}\" search_in=\"hdr\" header=\"{header}\" check_it=\"true\" assign_to=\"{name}\"/>",
                escaped(regexp)
            );
        }
        for (header, regexp) in looks {
            let (within, regexp) = match header.is_empty() {
                true => ("search_in=\"body\"".to_owned(), regexp),
                false => (format!("search_in=\"hdr\" header=\"{header}\""), regexp),
            };
            // What must not be there begins with an exclamation mark.
            let (check, regexp) = match regexp.strip_prefix('!') {
                Some(regexp) => ("check_it_inverse", regexp),
                None => ("check_it", *regexp),
            };
            let _ = write!(
                actions,
                "<ereg regexp=\"{}\" {within} {check}=\"true\" assign_to=\"it\"/>",
                escaped(regexp)
            );
        }
        self.push(&format!("<recv {what}><action>{actions}</action></recv>"));
    }

    fn out(&mut self, head: &str, to: &str, method: &str, lines: &str, sdp: Option<&str>) {
        self.cseq += 1;
        let (local, contact, cseq) = (&self.local, &self.contact, self.cseq);
        let head = format!(
            "{head}\nVia: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch];rport\n\
             From:{local}\nTo:{to}\nCall-ID: [call_id]\nCSeq: {cseq} {method}\nContact: {contact}\n\
             Max-Forwards: 70\nAllow: INVITE, ACK, BYE, CANCEL, REFER, NOTIFY\n{lines}"
        );
        self.send(" retrans=\"500\"", &head, sdp);
    }

    fn send(&mut self, attributes: &str, head: &str, sdp: Option<&str>) {
        let body = match sdp {
            Some(sdp) => format!("Content-Type: application/sdp\nContent-Length: [len]\n\n{sdp}"),
            None => "Content-Length: 0\n\n".to_owned(),
        };
        self.push(&format!("<send{attributes}><![CDATA[\n{head}{body}\n]]></send>"));
    }

    fn push(&mut self, step: &str) {
        let step = step.replace("<action></action>", "");
        self.xml.push_str(&step);
        self.xml.push('\n');
        self.index += 1;
    }

    fn describe(&mut self, sdp: Sdp) -> String {
        self.version += 1;
        let address = if matches!(sdp, Sdp::Zeros) { "0.0.0.0" } else { "[media_ip]" };
        let port = match sdp {
            Sdp::Moved => "[media_port+20]",
            _ => "[rtpstream_audio_port]",
        };
        let direction = match sdp {
            Sdp::Both | Sdp::Zeros | Sdp::Moved => "",
            Sdp::SendOnly => "a=sendonly\n",
            Sdp::RecvOnly => "a=recvonly\n",
            Sdp::Inactive => "a=inactive\n",
        };
        format!(
            "v=0\no=party 1 {} IN IP4 [local_ip]\ns=-\nc=IN IP4 {address}\nt=0 0\n\
             m=audio {port} RTP/AVP 0\na=rtpmap:0 PCMU/8000\n{direction}",
            self.version
        )
    }
}

/// The line that SIPp makes credentials of.
pub fn proof(user: &str, secret: &str) -> String {
    format!("[authentication username={user} password={secret}]\n")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}
