//! Second lines of agents' phones, and people who give their calls away (REFER, with and without Replaces).

use super::*;

/// Where a second line has its SIP, at the address of the phone.
pub const LINE_SIP: u16 = 5062;
/// Where it has its RTP.
pub const LINE_RTP: u16 = 4002;

impl World {
    /// What somebody in a call does about it beside hanging up and holding: gives it away, or asks somebody else by
    /// the second line first. False when it is none of that.
    pub(super) fn gives_away(&mut self, desk: usize) -> bool {
        let is_trunk = desk == PHONES;
        let entry = &self.desks[desk];
        let dialogs = [entry.phone.dialog(), entry.line.dialog()];
        match (dialogs, entry.line.is_busy(), self.rng.below(6)) {
            ([Some(_), Some(other)], _, 0..=2) => {
                let order = self.refer(desk, Some(other));
                self.phone(desk, PhoneInput::Order(order));
            }
            ([Some(other), Some(_)], _, 3) => {
                let order = self.refer(desk, Some(other));
                self.line(desk, PhoneInput::Order(order));
            }
            ([Some(_), None], false, 0) => {
                let order = self.refer(desk, None);
                self.phone(desk, PhoneInput::Order(order));
            }
            ([_, None], false, 1..=2) if !is_trunk => {
                let number = self.whom_to_call(desk);
                self.phone(desk, PhoneInput::Order(Order::Hold));
                self.line(desk, PhoneInput::Order(Order::Call(number)));
            }
            (_, true, 4) => self.line(desk, PhoneInput::Order(Order::HangUp)),
            _ => return false,
        }
        true
    }

    /// The number counts where no dialog is named.
    fn refer(&mut self, desk: usize, replaces: Option<String>) -> Order {
        Order::Refer { to: self.whom_to_call(desk), replaces }
    }

    pub(super) fn line(&mut self, desk: usize, input: PhoneInput<'_>) {
        let mut out = Vec::new();
        self.desks[desk].line.handle(self.now, input, &mut out);
        self.phone_says(desk, [LINE_SIP, LINE_RTP], out);
    }
}
