//! Answers that nobody waits for any more: another fork's, or one to a call long forgotten.

use base::Instant;
use sip::dialog::{Dialog, Outgoing};
use sip::transaction::Sent;
use sip::wire::{Message, Method};

use crate::call::Flow;
use crate::worker::Worker;

impl Worker {
    /// Lets go of an answered INVITE that we do not take: ACK each time that its 2xx comes, BYE once
    /// (RFC 3261, 13.2.2.4).
    pub(crate) fn decline(&mut self, now: Instant, flow: Flow, answer: &Message<'_>, is_new: bool) {
        let (Ok(mut fork), Ok(cseq)) = (Dialog::uac(answer), answer.cseq()) else { return };
        let address = self.address_of(flow.location).to_string();
        let (ack, bye) = (self.fresh_branch(), self.fresh_branch());
        let outgoing = |branch| Outgoing {
            branch,
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
