//! Answers that nobody waits for any more: another fork's, or one to a call long forgotten.

use base::Instant;
use sip::dialog::{Dialog, Outgoing, Parts};
use sip::transaction::Sent;
use sip::wire::{Message, Method};

use crate::call::Flow;
use crate::intake::stateless_tag;
use crate::worker::Worker;

/// How far the CSeq of a BYE that is said for a forgotten call lies above its INVITE's: higher than any that
/// the call can have used (RFC 3261, 12.2.2: numbers may have gaps).
const FORGOTTEN_GAP: u32 = 1 << 20;

impl Worker {
    /// A 2xx to an INVITE of a call that is forgotten, which had its ACK and its BYE: the peer has not heard
    /// them. Each time that it comes it gets the same two datagrams, for which nothing is remembered.
    pub(crate) fn decline_again(&mut self, flow: Flow, answer: &Message<'_>) {
        let (Ok(fork), Ok(cseq)) = (Dialog::uac(answer), answer.cseq()) else { return };
        let parts = Parts { local_cseq: Some(cseq.number + FORGOTTEN_GAP), ..fork.parts() };
        let Ok(mut last) = Dialog::restore(&parts) else { return };
        let address = self.address_of(flow).to_string();
        let tag = stateless_tag(&[fork.call_id(), fork.remote_tag()].concat());
        let (ack, bye) = (format!("z9hG4bK{tag}a"), format!("z9hG4bK{tag}b"));
        let outgoing = |branch| Outgoing {
            branch,
            transport: flow.channel.transport,
            sent_by: address.as_bytes(),
            contact: None,
            extra: &[],
            body: None,
        };
        let ack = fork.ack(cseq.number, &outgoing(ack.as_bytes()));
        let bye = last.request(Method::Bye, &outgoing(bye.as_bytes()));
        self.sent.extend([ack, bye].map(|built| Sent { flow, bytes: built.bytes.into() }));
    }

    /// Lets go of an answered INVITE that we do not take: ACK each time that its 2xx comes, BYE once
    /// (RFC 3261, 13.2.2.4).
    pub(crate) fn decline(&mut self, now: Instant, flow: Flow, answer: &Message<'_>, is_new: bool) {
        let (Ok(mut fork), Ok(cseq)) = (Dialog::uac(answer), answer.cseq()) else { return };
        let address = self.address_of(flow).to_string();
        let (ack, bye) = (self.fresh_branch(), self.fresh_branch());
        let outgoing = |branch| Outgoing {
            branch,
            transport: flow.channel.transport,
            sent_by: address.as_bytes(),
            contact: None,
            extra: &[],
            body: None,
        };
        let built = fork.ack(cseq.number, &outgoing(ack.as_bytes()));
        self.sent.push(Sent { flow, bytes: built.bytes.into() });
        if is_new {
            let built = fork.request(Method::Bye, &outgoing(bye.as_bytes()));
            // Its answer concerns no leg of ours, hence no word. Without room for it the fork's phone
            // finds out by itself that nobody is there.
            let _ = self.transactions.request(
                now,
                Method::Bye,
                built.bytes,
                bye.as_bytes(),
                flow,
                0,
                &mut self.sent,
            );
        }
    }
}
