//! The ladder: a column for each party, a row for each message, an arrow from who sends to who gets.
//!
//! ```text
//! 12:00:00.123   127.0.0.1:40001             CCB 1            127.0.0.1:40002
//!                     1001                                         1002
//! 12:00:00.123          │──────INVITE 1 SDP──────▶│                  │
//! ```

use std::net::SocketAddr;

use super::message::Shown;

/// `12:00:00.123` and a blank.
const TIME: usize = 13;
/// From the edge of the rows to the first line.
const MARGIN: usize = 12;
/// From one line to the next, at most and at least.
const LANE: usize = 36;
const NARROWEST_LANE: usize = 26;
/// Columns at least: who calls, a CCB, who is called.
const FEWEST: usize = 3;
/// How much of a call's serial number is shown, from its end.
const SERIAL_DIGITS: usize = 6;

/// The columns, and when each was last used.
#[derive(Debug)]
pub struct Ladder {
    ours: Vec<(SocketAddr, String)>,
    columns: Vec<Column>,
    lane: usize,
    most: usize,
    colours: bool,
    /// True to say which call a message belongs to.
    serials: bool,
    rows: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    /// The address of a party, or the name of a CCB.
    title: String,
    /// Who is there, when a message said it.
    name: String,
    is_ours: bool,
    used: u64,
}

impl Ladder {
    /// An empty one. `ours` are the CCBs' addresses and names, `width` the terminal's columns.
    pub fn new(
        ours: Vec<(SocketAddr, String)>,
        width: usize,
        colours: bool,
        serials: bool,
    ) -> Ladder {
        let serial = if serials { SERIAL_DIGITS + 3 } else { 0 };
        let room = width.saturating_sub(TIME + 2 * MARGIN + serial);
        let lane = (room / (FEWEST - 1)).clamp(NARROWEST_LANE, LANE);
        let most = (room / lane + 1).max(FEWEST);
        Ladder { ours, columns: Vec::new(), lane, most, colours, serials, rows: 0 }
    }

    /// The rows that a message adds: its own, and before it the columns when they are others now.
    pub fn rows(&mut self, message: &Shown) -> Vec<String> {
        self.rows += 1;
        let before: Vec<String> = self.columns.iter().map(|one| one.title.clone()).collect();
        let is_ours = |at| self.ours.iter().any(|(ours, _)| *ours == at);
        let (from_us, to_us) = (is_ours(message.from), is_ours(message.to));
        // From tells who sends a request to us, To whom we send one; in answers the same, turned.
        let [from_user, to_user] = &message.users;
        let is_request = message.method.is_some();
        let name = |user: &String| user.split('.').next().unwrap_or_default().to_owned();
        let of_sender = if is_request { from_user } else { to_user };
        let of_receiver = if is_request { to_user } else { from_user };
        // Who sends to a new party stands left of it, and a CCB right of the first party.
        let first = if from_us && !to_us { message.to } else { message.from };
        let other = if first == message.from { message.to } else { message.from };
        for at in [first, other] {
            let user = if at == message.from { of_sender } else { of_receiver };
            self.place(at, &name(user));
        }
        let mut rows = Vec::new();
        if before != self.columns.iter().map(|one| one.title.clone()).collect::<Vec<_>>() {
            rows.extend(self.header());
        }
        rows.push(self.row(message));
        rows
    }

    fn title(&self, at: SocketAddr) -> (String, bool) {
        let ours = self.ours.iter().find(|(ours, _)| *ours == at);
        ours.map_or_else(|| (at.to_string(), false), |(_, name)| (name.clone(), true))
    }

    fn find(&self, at: SocketAddr) -> Option<usize> {
        let (title, _) = self.title(at);
        self.columns.iter().position(|column| column.title == title)
    }

    /// Makes sure that there is a column for that address.
    fn place(&mut self, at: SocketAddr, user: &str) {
        let (title, is_ours) = self.title(at);
        let used = self.rows;
        if let Some(place) = self.find(at) {
            let column = &mut self.columns[place];
            column.used = used;
            return;
        }
        let name = if is_ours { String::new() } else { user.to_owned() };
        let column = Column { title, name, is_ours, used };
        if self.columns.len() < self.most {
            return self.columns.push(column);
        }
        // The party that was silent for longest gives its column up.
        let parties = self.columns.iter().enumerate().filter(|(_, one)| !one.is_ours || is_ours);
        if let Some((place, _)) = parties.min_by_key(|(_, one)| one.used) {
            self.columns[place] = column;
        }
    }

    fn position(&self, column: usize) -> usize {
        MARGIN + column * self.lane
    }

    fn width(&self) -> usize {
        self.position(self.columns.len().saturating_sub(1)) + MARGIN
    }

    fn header(&self) -> Vec<String> {
        let line = |text: fn(&Column) -> &str| {
            let mut cells = vec![' '; self.width() + self.lane];
            for (place, column) in self.columns.iter().enumerate() {
                let text: Vec<char> = text(column).chars().take(self.lane - 1).collect();
                let start = self.position(place).saturating_sub(text.len() / 2);
                cells[start..start + text.len()].copy_from_slice(&text);
            }
            let cells: String = cells.into_iter().collect();
            format!("{:TIME$}{}", "", cells.trim_end())
        };
        let mut lines = vec![String::new(), line(|column| &column.title)];
        if self.columns.iter().any(|column| !column.name.is_empty()) {
            lines.push(line(|column| &column.name));
        }
        lines
    }

    fn row(&self, message: &Shown) -> String {
        let mut cells = vec![' '; self.width()];
        for column in 0..self.columns.len() {
            cells[self.position(column)] = '│';
        }
        let ends = self.find(message.from).zip(self.find(message.to));
        let (from, to) = ends.unwrap_or_default();
        let (left, right) = (self.position(from.min(to)), self.position(from.max(to)));
        let inside = left + 1..right.max(left + 1);
        if from != to {
            cells[inside.clone()].fill('─');
            if from < to {
                cells[inside.end - 1] = '▶';
            } else {
                cells[inside.start] = '◀';
            }
        }
        let room = inside.len().saturating_sub(4).max(NARROWEST_LANE - 5);
        let words: Vec<char> = message.words(room).chars().collect();
        let start = inside.start + inside.len().saturating_sub(words.len()) / 2;
        cells.resize(cells.len().max(start + words.len()), ' ');
        cells[start..start + words.len()].copy_from_slice(&words);
        let text = |part: &[char]| part.iter().collect::<String>();
        let end = inside.end.max(start + words.len());
        let arrow = self.painted(message, text(&cells[inside.start..end]));
        let time = message.time.get(11..23).unwrap_or_default();
        let serial = &message.serial[message.serial.len().saturating_sub(SERIAL_DIGITS)..];
        let serial =
            if self.serials && !serial.is_empty() { format!("#{serial}") } else { "".into() };
        let (before, after) = (text(&cells[..inside.start]), text(&cells[end..]));
        let row = format!("{time:TIME$}{before}{arrow}{after}{serial}");
        row.trim_end().to_owned()
    }

    fn painted(&self, message: &Shown, text: String) -> String {
        let colour = match message.status {
            None => 36,
            Some((100..=199, _)) => 90,
            Some((200..=299, _)) => 32,
            Some((300..=399, _)) => 33,
            Some(_) => 31,
        };
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base::Transport;
    use sip::hep::Capture;
    use sip::wire;

    use super::*;

    const US: &str = "127.0.0.1:5060";
    const A: &str = "192.0.2.1:5062";
    const B: &str = "192.0.2.2:5064";
    const SDP: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n\
                       m=audio 4000 RTP/AVP 0\r\na=sendonly\r\n";

    fn shown(from: &str, to: &str, start: &str, cseq: &str, users: [&str; 2], sdp: &str) -> Shown {
        let content = if sdp.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        let [caller, called] = users;
        let text = format!(
            "{start}\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK1\r\nFrom: <sip:{caller}@x>;tag=1\r\n\
             To: <sip:{called}@x>\r\nCall-ID: c\r\nCSeq: {cseq}\r\n{content}Content-Length: {}\r\n\r\n{sdp}",
            sdp.len(),
        );
        let capture = Capture {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            transport: Transport::Udp,
            at: Duration::from_millis(1_772_323_200_123),
            agent: 1,
            correlation: b"00000000000000123456",
            payload: text.as_bytes(),
        };
        Shown::new(&capture, &wire::lex(text.as_bytes()).unwrap())
    }

    fn ladder(width: usize, colours: bool) -> Ladder {
        Ladder::new(vec![(US.parse().unwrap(), "CCB 1".into())], width, colours, true)
    }

    #[test]
    fn a_call_is_drawn_between_three_columns() {
        let mut ladder = ladder(110, false);
        let users = ["1001.demo", "1002"];
        let mut text =
            ladder.rows(&shown(A, US, "INVITE sip:1002@x SIP/2.0", "1 INVITE", users, SDP));
        text.extend(ladder.rows(&shown(US, A, "SIP/2.0 100 Trying", "1 INVITE", users, "")));
        text.extend(ladder.rows(&shown(US, B, "INVITE sip:b@x SIP/2.0", "7 INVITE", users, "")));
        text.extend(ladder.rows(&shown(B, US, "SIP/2.0 180 Ringing", "7 INVITE", users, "")));
        let bare = |line: &String| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = text.iter().map(bare).collect();
        assert_eq!(lines[1], "192.0.2.1:5062 CCB 1");
        assert_eq!(lines[2], "1001");
        assert!(lines[3].starts_with("00:00:00.123 │"), "{lines:#?}");
        assert!(lines[3].contains("─INVITE 1 SDP sendonly─"), "{lines:#?}");
        assert!(lines[3].ends_with("▶│ #123456"), "{lines:#?}");
        assert!(
            lines[4].contains("│◀─") && lines[4].contains("100 Trying (1 INVITE)"),
            "{lines:#?}"
        );
        assert_eq!(lines[6], "192.0.2.1:5062 CCB 1 192.0.2.2:5064");
        assert_eq!(lines[7], "1001 1002");
        assert!(lines[8].contains("│ │─"), "from the CCB to the right: {lines:#?}");
        assert!(lines[9].contains("│ │◀─"), "{lines:#?}");
        assert!(text.iter().all(|line| line.chars().count() <= 110), "{text:#?}");
        let places = |line: &String| {
            let lines = line.chars().enumerate().filter(|(_, c)| *c == '│');
            lines.map(|(at, _)| at).collect::<Vec<_>>()
        };
        assert_eq!(places(&text[8]), places(&text[9]), "lines stand below each other");
    }

    #[test]
    fn who_is_silent_for_longest_gives_its_column_up() {
        let mut ladder = ladder(40, false);
        let options = |ladder: &mut Ladder, at: &str| {
            let users = ["a", "b"];
            ladder.rows(&shown(at, US, "OPTIONS sip:x SIP/2.0", "1 OPTIONS", users, "")).len()
        };
        assert_eq!(options(&mut ladder, A), 4, "a header and a row");
        assert_eq!(options(&mut ladder, B), 4);
        assert_eq!(options(&mut ladder, A), 1);
        assert_eq!(options(&mut ladder, "192.0.2.3:1"), 4);
        assert_eq!(options(&mut ladder, A), 1, "it stands still");
        let titles: Vec<&str> = ladder.columns.iter().map(|one| one.title.as_str()).collect();
        assert_eq!(titles, [A, "CCB 1", "192.0.2.3:1"]);
    }

    #[test]
    fn a_terminal_gets_colours_and_nothing_that_it_would_obey() {
        let mut ladder = ladder(110, true);
        let start = "SIP/2.0 486 \x1b[2JBusy Here and a reason that does not fit at all";
        let rows = ladder.rows(&shown(B, US, start, "7 INVITE", ["1001", "1002"], ""));
        let row = rows.last().unwrap();
        assert!(row.contains("\x1b[31m") && row.contains("\x1b[0m"), "{row:?}");
        assert!(
            !row.contains("\x1b[2J") && row.contains("486 ?[2J") && row.contains("… (7 INVITE)")
        );
    }
}
