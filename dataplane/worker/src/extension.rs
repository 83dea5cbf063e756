//! What SIP has beyond RFC 3261, for one leg: what its peer takes, and what is under way with it.

use sip::dialog::Dialog;
use sip::reliable::Receiver;
use sip::transaction::ClientKey;
use sip::wire::{Header, Message, Method};

use crate::call::{Invited, Leg, LegRef};
use crate::prack::Reliable;
use crate::refusal::Refusal;
use crate::session::Session;
use crate::tone::Tones;
use crate::trunks::Others;
use crate::worker::Worker;

/// The option tags that may stand in Require (RFC 3261, 19.2): RFC 3262, RFC 4028, RFC 7433,
/// RFC 3891, RFC 4488, RFC 5626.
const KNOWN: [&str; 6] = ["100rel", "timer", "uui", "replaces", "norefersub", "outbound"];
/// What our Supported says.
pub(crate) const SUPPORTED: &[u8] = b"100rel, timer, uui, replaces, norefersub";

/// How many early dialogs one INVITE of ours may have: a proxy has no business with more forks.
const EARLY_DIALOGS: usize = 16;

/// What a leg has of the extensions.
#[derive(Debug, Default)]
pub struct Extensions {
    /// Its peer takes UPDATE (RFC 3311), by its last Allow.
    pub takes_update: bool,
    /// Its peer takes INFO (RFC 6086), by its last Allow.
    pub takes_info: bool,
    /// Its peer can be asked to answer, by its Allow-Events (RFC 6665, 8.2.2).
    pub takes_talk: bool,
    /// We answered it ourselves, and it was never joined to another.
    pub answered_here: bool,
    /// Its peer rings, or did.
    pub rings: bool,
    /// The reliable responses to the INVITE that its peer sent; none when that knows no 100rel.
    pub reliable: Option<Box<Reliable>>,
    /// The early dialogs of our INVITE.
    pub early: Vec<Early>,
    /// A PRACK or an UPDATE with an offer that has no final answer of ours yet.
    pub asked: Option<Box<Invited>>,
    /// An UPDATE of ours that has no final answer yet.
    pub updating: Option<Updating>,
    /// The session timer.
    pub session: Session,
    /// The description of ours that its peer agreed to.
    pub said: Option<Box<[u8]>>,
    /// The last one that was made for it.
    pub saying: Option<Box<[u8]>>,
    /// How often a re-INVITE of ours met one of its peer, and the offer that waits to be made again.
    pub glare: Option<Box<Glare>>,
    /// Where else its call may go.
    pub others: Option<Box<Others>>,
    /// Digits that are sent to its peer.
    pub tones: Option<Box<Tones>>,
    /// An INFO that is passed on to the peer leg, and waits for its answer.
    pub passed: Option<Box<Invited>>,
    /// The leg whose REFER went on by this one, and that hears how it goes.
    pub referring: Option<LegRef>,
}

/// An early dialog of an INVITE of ours (RFC 3261, 12.1.2).
#[derive(Debug)]
pub struct Early {
    pub dialog: Dialog,
    pub order: Receiver,
    /// The RSeq and CSeq of a response whose PRACK must bring the answer to its offer.
    pub owes_prack: Option<(u32, u32)>,
    /// A reliable response of it had a description.
    pub described: bool,
}

/// An UPDATE of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Updating {
    pub key: ClientKey,
    /// It carried an offer.
    pub offered: bool,
}

/// A re-INVITE that is to be sent again (RFC 3261, 14.1).
#[derive(Debug)]
pub struct Glare {
    pub offer: Vec<u8>,
    pub times: u32,
    /// It waits; else it is under way again.
    pub waits: bool,
}

impl Extensions {
    /// Takes what a message of the peer says of it.
    pub fn note(&mut self, message: &Message<'_>) {
        if let Some(takes) = message.allows(Method::Update) {
            self.takes_update = takes;
        }
        if let Some(takes) = message.allows(Method::Info) {
            self.takes_info = takes;
        }
        self.takes_talk |= message.lists(Header::AllowEvents, "talk");
    }

    /// The last description is agreed on.
    pub fn settle_said(&mut self) {
        self.said = self.saying.take().or(self.said.take());
        if self.takes_update {
            // An UPDATE renews the session without one.
            self.said = None;
        }
    }

    /// The early dialog that a response or request of the peer belongs to.
    pub fn early_of(&mut self, message: &Message<'_>) -> Option<&mut Early> {
        self.early.iter_mut().find(|early| early.dialog.matches(message))
    }

    /// The same, made if the response makes one.
    pub fn make_early(&mut self, response: &Message<'_>) -> Option<&mut Early> {
        let found = self.early.iter().position(|early| early.dialog.matches(response));
        let at = match found {
            Some(at) => at,
            None if self.early.len() < EARLY_DIALOGS => {
                let dialog = Dialog::uac(response).ok()?;
                let order = Receiver::default();
                self.early.push(Early { dialog, order, owes_prack: None, described: false });
                self.early.len() - 1
            }
            None => return None,
        };
        self.early.get_mut(at)
    }
}

impl Leg {
    /// The dialog of the leg, early or not, that a request of its peer belongs to.
    pub(crate) fn dialog_for(&mut self, message: &Message<'_>) -> Option<&mut Dialog> {
        match &mut self.dialog {
            Some(dialog) if dialog.matches(message) => Some(dialog),
            Some(_) => None,
            None => self.ext.early_of(message).map(|early| &mut early.dialog),
        }
    }
}

impl Worker {
    /// The leg that a request names, also by an early dialog of ours.
    pub(crate) fn leg_within(&mut self, message: &Message<'_>) -> Option<LegRef> {
        let found = crate::intake::parse_tag(message.to().ok()?.tag()?)?;
        self.calls.leg_mut(found)?.dialog_for(message).is_some().then_some(found)
    }

    /// RFC 3261, 8.2.2.3: "the UAS MUST respond [...] with 420 (Bad Extension). The UAS MUST add an
    /// Unsupported header field, and list in it those options it does not understand".
    pub(crate) fn check_required(&self, message: &Message<'_>) -> Result<(), Refusal> {
        let is_known =
            |tag: &&[u8]| KNOWN.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(tag));
        // RFC 4475, 3.3.5: what a proxy is required to know, a B2BUA is, too.
        let asked = [Header::Require, Header::ProxyRequire].map(|header| message.headers(header));
        let unknown: Vec<&[u8]> =
            asked.into_iter().flatten().filter(|tag| !is_known(tag)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        Err(Refusal::status(420).with("Unsupported", &unknown.join(&b", "[..])))
    }

    /// True when a Via of the request is of ours: it has come round in a circle.
    pub(crate) fn is_loop(&self, message: &Message<'_>) -> bool {
        message.headers(Header::Via).filter_map(sip::wire::Via::parse).any(|via| {
            self.config.locations.iter().any(|location| {
                via.host_ip() == Some(location.ip) && via.port_or_default() == location.sip_port
            })
        })
    }
}
