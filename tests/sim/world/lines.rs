//! Second lines of agents' phones, and people who give their calls away (REFER, with and without Replaces).

use super::*;

/// Where a second line has its SIP; its media is one port higher, so that everything is one host's.
pub const LINE_SIP: u16 = 5062;
pub const LINE_RTP: u16 = 4002;

impl World {
    /// What somebody in a call does about it beside hanging up and holding: gives it away, or asks somebody else by
    /// the second line first. False when it is none of that.
    pub(super) fn gives_away(&mut self, desk: usize) -> bool {
        let is_trunk = desk == PHONES;
        let entry = &self.desks[desk];
        let dialogs = [entry.phone.dialog(), entry.line.dialog()];
        let (here, order) = match (dialogs, entry.line.is_busy(), self.rng.below(6)) {
            ([Some(_), Some(other)], _, 0..=2) => (Here::Phone, Some((String::new(), Some(other)))),
            ([Some(other), Some(_)], _, 3) => (Here::Line, Some((String::new(), Some(other)))),
            ([Some(_), None], false, 0) => (Here::Phone, Some((self.whom_to_call(desk), None))),
            ([_, None], false, 1..=2) if !is_trunk => {
                let number = self.whom_to_call(desk);
                self.phone(desk, PhoneInput::Order(Order::Hold));
                self.line(desk, PhoneInput::Order(Order::Call(number)));
                return true;
            }
            (_, true, 4) => {
                self.line(desk, PhoneInput::Order(Order::HangUp));
                return true;
            }
            _ => return false,
        };
        let Some((to, replaces)) = order else { return false };
        // RFC 5589, 7.3: with Replaces, the number names who is called if the dialog does not.
        let to = if to.is_empty() { self.whom_to_call(desk) } else { to };
        let order = PhoneInput::Order(Order::Refer { to, replaces });
        match here {
            Here::Phone => self.phone(desk, order),
            Here::Line => self.line(desk, order),
        }
        true
    }

    pub(super) fn line(&mut self, desk: usize, input: PhoneInput<'_>) {
        let mut out = Vec::new();
        self.desks[desk].line.handle(self.now, input, &mut out);
        self.phone_says(desk, [LINE_SIP, LINE_RTP], out);
    }
}

#[derive(Clone, Copy)]
enum Here {
    Phone,
    Line,
}
