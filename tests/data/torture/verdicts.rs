// The verdict on every message of RFC 4475 and RFC 5118: what the lexer says, and what a data plane answers
// to somebody it does not know and to a trunk. Included by the tests of `sip` and by those of the running data
// plane.
//
// A stranger's INVITE or REGISTER is challenged (401) once it is found to be sound, so what is wrong with its
// content only a trunk learns. A REGISTER is challenged from a trunk as well. The numbers that are called are
// nobody's (404). OPTIONS is answered to everybody.
//
// The files are the RFCs' messages byte for byte, but for RFC 5118's three with a description: its
// Content-Lengths fit no way to end lines, so these say how long the body is with CRLF.

/// One message and what becomes of it.
pub struct Verdict {
    /// Its name in the RFC, and that of its file.
    pub name: &'static str,
    /// The RFC and its section.
    pub section: &'static str,
    /// The message.
    pub bytes: &'static [u8],
    /// What `sip::wire` says.
    pub reading: Reading,
    /// To a peer that is neither an agent nor a trunk, over UDP.
    pub stranger: Answer,
    /// To a trunk, over UDP.
    pub trunk: Answer,
    /// What is otherwise over TCP.
    pub tcp: Tcp,
    /// The RFC's sentence about it.
    pub says: &'static str,
    /// Header lines that the answer has beside those that its status asks for.
    pub with: &'static [&'static str],
}

/// What `sip::wire` says of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Lexed, and sound.
    Valid,
    /// Lexed, and refused by its check for this reason.
    Refused(&'static str),
    /// Not lexed for this reason: there is nothing to answer.
    Noise(&'static str),
}

/// What the data plane does with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A final response of this status.
    Status(u16),
    /// No answer; this counter goes up.
    Dropped(&'static str),
}

/// What a stream of bytes changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tcp {
    /// Nothing.
    Same,
    /// Nobody knows where the message ends: 400 to a request, and the connection is closed.
    Closes,
    /// More is to come: nothing is answered.
    Waits,
    /// What follows is a message of its own.
    Two(u16, u16),
}

use Answer::{Dropped, Status};
use Reading::{Noise, Refused, Valid};
use Tcp::{Closes, Same, Two, Waits};

/// `[name, section, reading, to a stranger, to a trunk, over TCP, the RFC's sentence; more header lines]`
macro_rules! verdicts {
    ($([$name:literal, $section:literal, $reading:expr, $stranger:expr, $trunk:expr, $tcp:expr,
        $says:literal $(; $with:literal)*],)*) => {
        &[$(Verdict {
            name: $name,
            section: $section,
            bytes: include_bytes!(concat!($name, ".sip")),
            reading: $reading,
            stranger: $stranger,
            trunk: $trunk,
            tcp: $tcp,
            says: $says,
            with: &[$($with),*],
        },)*]
    };
}

/// All of them, in the order of the RFCs.
#[rustfmt::skip]
pub const VERDICTS: &[Verdict] = verdicts![
    ["wsinv", "4475, 3.1.1.1", Valid, Status(481), Status(481), Same,
     "All elements should treat this as a well-formed request."],
    ["intmeth", "4475, 3.1.1.2", Valid, Status(501), Status(501), Same,
     "This message exercises a wider range of characters in several key syntactic elements than \
      implementations usually see."],
    ["esc01", "4475, 3.1.1.3", Valid, Status(401), Status(404), Same,
     "This INVITE exercises the % HEX HEX escaping mechanism in several places. The request is syntactically \
      valid."],
    ["escnull", "4475, 3.1.1.4", Valid, Status(401), Status(401), Same,
     "This register request contains several URIs with nulls in the userpart. The message is well formed - \
      parsers must accept this message."],
    ["esc02", "4475, 3.1.1.5", Valid, Status(501), Status(501), Same,
     "The request method is unknown. It is NOT equivalent to REGISTER."],
    ["lwsdisp", "4475, 3.1.1.6", Valid, Status(200), Status(200), Same,
     "Elements should accept this request as well formed."],
    ["longreq", "4475, 3.1.1.7", Valid, Status(401), Status(404), Same,
     "This well-formed request contains header fields with many values and values that are very long."],
    ["dblreq", "4475, 3.1.1.8", Valid, Status(401), Status(401), Two(401, 401),
     "A SIP element receiving this datagram would handle the REGISTER request normally and ignore the extra \
      bits that look like an INVITE request."],
    ["semiuri", "4475, 3.1.1.9", Valid, Status(200), Status(200), Same,
     "Receivers must accept this as a well-formed message."],
    ["transports", "4475, 3.1.1.10", Valid, Status(200), Status(200), Same,
     "Parsers must accept this message as well formed."],
    ["mpart01", "4475, 3.1.1.11", Valid, Status(405), Status(405), Same,
     "Parsers must accept this message as well formed, even if the application above the parser does not \
      support multipart/signed."],
    ["unreason", "4475, 3.1.1.12", Valid, Dropped("drop_sip_no_transaction"), Dropped("drop_sip_no_transaction"), Same,
     "This response is well formed. A parser must accept this message."],
    ["noreason", "4475, 3.1.1.13", Valid, Dropped("drop_sip_no_transaction"), Dropped("drop_sip_no_transaction"), Same,
     "This well-formed response contains no reason phrase. A parser must accept this message."],
    ["badinv01", "4475, 3.1.2.1", Refused("header_bad (Via)"), Status(400), Status(400), Same,
     "An element receiving this request should respond with a 400 Bad Request error."],
    ["clerr", "4475, 3.1.2.2", Refused("truncated (Content-Length)"), Status(400), Status(400), Waits,
     "When sent over UDP (as this message ostensibly was), the receiving element should respond with a 400 Bad \
      Request error."],
    ["ncl", "4475, 3.1.2.3", Refused("content_length (Content-Length)"), Status(400), Status(400), Closes,
     "An element receiving this message should respond with an error."],
    ["scalar02", "4475, 3.1.2.4", Refused("header_bad (CSeq)"), Status(400), Status(400), Same,
     "An element receiving this request should respond with a 400 Bad Request due to the CSeq error."],
    ["scalarlg", "4475, 3.1.2.5", Refused("header_bad (CSeq)"), Dropped("drop_sip_malformed"), Dropped("drop_sip_malformed"), Same,
     "An element receiving this response will simply discard it."],
    ["quotbal", "4475, 3.1.2.6", Refused("header_bad (To)"), Status(400), Status(400), Same,
     "An element receiving this request should return a 400 Bad Request error."],
    ["ltgtruri", "4475, 3.1.2.7", Refused("start_line"), Status(400), Status(400), Same,
     "It is reasonable always to reject a request with this error with a 400 Bad Request."],
    ["lwsruri", "4475, 3.1.2.8", Refused("start_line"), Status(400), Status(400), Same,
     "An element receiving this request should respond with a 400 Bad Request."],
    ["lwsstart", "4475, 3.1.2.9", Refused("start_line"), Status(400), Status(400), Same,
     "It is acceptable to reject this request as malformed."],
    ["trws", "4475, 3.1.2.10", Refused("start_line"), Status(400), Status(400), Same,
     "It is acceptable to reject this request as malformed."],
    ["escruri", "4475, 3.1.2.11", Refused("uri"), Status(400), Status(400), Same,
     "It is acceptable for an element to reject this request with a 400 Bad Request."],
    ["baddate", "4475, 3.1.2.12", Valid, Status(401), Status(404), Same,
     "An element wishing to be liberal in what it accepts could ignore this value altogether if it wasn't \
      going to use the Date header field anyway."],
    ["regbadct", "4475, 3.1.2.13", Refused("header_bad (Contact)"), Status(400), Status(400), Same,
     "It is reasonable for an element receiving this request to respond with a 400 Bad Request."],
    ["badaspec", "4475, 3.1.2.14", Valid, Status(200), Status(200), Same,
     "Elements attempting to be liberal may ignore the spaces."],
    ["baddn", "4475, 3.1.2.15", Valid, Status(200), Status(200), Same,
     "An element may attempt to be liberal in what it receives and infer the missing quotes."],
    ["badvers", "4475, 3.1.2.16", Refused("version"), Status(505), Status(505), Same,
     "The element should respond to the request with a 505 Version Not Supported error."],
    ["mismatch01", "4475, 3.1.2.17", Refused("cseq_method (CSeq)"), Status(400), Status(400), Same,
     "Any element receiving this request will respond with a 400 Bad Request."],
    ["mismatch02", "4475, 3.1.2.18", Refused("cseq_method (CSeq)"), Status(501), Status(501), Same,
     "Any element receiving this response should respond with a 501 Not Implemented."],
    ["bigcode", "4475, 3.1.2.19", Noise("start_line"), Dropped("drop_sip_malformed"), Dropped("drop_sip_malformed"), Closes,
     "An element receiving this response should simply drop it."],
    ["badbranch", "4475, 3.2.1", Valid, Status(200), Status(200), Same,
     "An element receiving this request could reject the request with a 400 Response [...], or it could fall \
      back to the RFC 2543-style transaction identifier."],
    ["insuf", "4475, 3.3.1", Refused("header_missing (From)"), Status(400), Status(400), Same,
     "Ideally, it will respond with a 400 Bad Request error."],
    ["unkscm", "4475, 3.3.2", Valid, Status(416), Status(416), Same,
     "An element receiving this request will reject it with a 416 Unsupported URI Scheme response."],
    ["novelsc", "4475, 3.3.3", Valid, Status(416), Status(416), Same,
     "If an element will never accept this scheme as meaningful in a Request-URI, it is appropriate to treat \
      it as unknown and return a 416 Unsupported URI Scheme response."],
    ["unksm2", "4475, 3.3.4", Valid, Status(400), Status(400), Same,
     "A registrar would reject this request with a 400 Bad Request response, since the To: header field is \
      required to contain a SIP or SIPS URI as an AOR."],
    ["bext01", "4475, 3.3.5", Valid, Status(420), Status(420), Same,
     "Any element receiving this request will respond with a 420 Bad Extension response, containing an \
      Unsupported header field listing these features from either the Require or Proxy-Require header field, \
      depending on the role in which the element is responding.";
     "Unsupported: nothingSupportsThis, nothingSupportsThisEither, noProxiesSupportThis, norDoAnyProxiesSupportThis"],
    ["invut", "4475, 3.3.6", Valid, Status(401), Status(415), Same,
     "An endpoint receiving this request would reject it with a 415 Unsupported Media Type error."],
    ["regaut01", "4475, 3.3.7", Valid, Status(401), Status(401), Same,
     "A registrar that does care about challenge-response authentication will reject this request with a 401, \
      issuing a new challenge with a scheme it understands."],
    ["multi01", "4475, 3.3.8", Refused("header_repeated (From)"), Status(400), Status(400), Same,
     "An element receiving this request would respond with a 400 Bad Request error."],
    ["mcl01", "4475, 3.3.9", Refused("content_length (Content-Length)"), Status(400), Status(400), Closes,
     "From a framing perspective, this situation is equivalent to an invalid Content-Length value (or no value \
      at all)."],
    ["bcast", "4475, 3.3.10", Valid, Dropped("drop_sip_no_transaction"), Dropped("drop_sip_no_transaction"), Same,
     "The message is well formed; parsers must not fail when receiving it. An endpoint receiving this message \
      should simply discard it."],
    ["zeromf", "4475, 3.3.11", Valid, Status(200), Status(200), Same,
     "An endpoint should process the request as if the Max-Forwards field value were still positive."],
    ["cparam01", "4475, 3.3.12", Valid, Status(401), Status(401), Same,
     "This register request contains a contact where the 'unknownparam' parameter must be interpreted as a \
      contact-param and not a url-param."],
    ["cparam02", "4475, 3.3.13", Valid, Status(401), Status(401), Same,
     "This register request contains a contact where the URI has an unknown parameter."],
    ["regescrt", "4475, 3.3.14", Valid, Status(401), Status(401), Same,
     "This register request contains a contact where the URI has an escaped header."],
    ["sdp01", "4475, 3.3.15", Valid, Status(401), Status(406), Same,
     "This request indicates that the response must contain a body in an unknown type."],
    ["inv2543", "4475, 3.4.1", Valid, Status(401), Status(400), Closes,
     "This is a legal message per RFC 2543 (and several bis versions) that should be accepted by RFC 3261 \
      elements that want to maintain backwards compatibility."],
    ["ipv6-good", "5118, 4.1", Valid, Status(401), Status(401), Same,
     "The request below is well-formatted according to the grammar in [RFC3261]."],
    ["ipv6-bad", "5118, 4.2", Refused("uri"), Status(400), Status(400), Same,
     "A SIP implementation receiving this request should respond with a 400 Bad Request error."],
    ["port-ambiguous", "5118, 4.3", Valid, Status(401), Status(401), Same,
     "From a parsing perspective, the request below is well-formed."],
    ["port-unambiguous", "5118, 4.4", Valid, Status(401), Status(401), Same,
     "This REGISTER request is well formatted per the grammar in [RFC3261]."],
    ["via-received-param-with-delim", "5118, 4.5", Valid, Status(481), Status(481), Same,
     "robust implementations must nonetheless be able to parse the topmost Via header field and continue \
      processing the request."],
    ["via-received-param-no-delim", "5118, 4.5", Valid, Status(200), Status(200), Same,
     "This request is valid according to the grammar in [RFC3261]."],
    ["ipv6-in-sdp", "5118, 4.6", Valid, Status(401), Status(404), Same,
     "This request below is valid and well-formed according to the grammar in [RFC3261]."],
    ["mult-ip-in-header", "5118, 4.7", Valid, Status(481), Status(481), Same,
     "The Via list contains a mix of IPv4 addresses and IPv6 references."],
    ["mult-ip-in-sdp", "5118, 4.8", Valid, Status(401), Status(404), Same,
     "The request below is valid and well-formed according to the grammar in [RFC3261]."],
    ["ipv4-mapped-ipv6", "5118, 4.9", Valid, Status(401), Status(404), Same,
     "A SIP implementation receiving a message that contains such a mapped address must be prepared to parse \
      it successfully."],
    ["ipv6-bug-abnf-3-colons", "5118, 4.10", Valid, Status(200), Status(200), Same,
     "following the Robustness Principle [RFC1122], an implementation must tolerate both of the above \
      constructs."],
    ["ipv6-correct-abnf-2-colons", "5118, 4.10", Valid, Status(200), Status(200), Same,
     "following the Robustness Principle [RFC1122], an implementation must tolerate both of the above \
      constructs."],
];
