//! `top`: a live view of the regions, mapped read-only, so that it works whatever else does.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use abi::{Counter, Region};
use base::{Instant, WorkerId};
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table};

use crate::cli;
use crate::clock;
use crate::config::Ccb;
use crate::place;
use crate::view::{self, View};

/// Shows it until q, Escape or Ctrl-C.
pub fn run(options: &cli::Top) -> Result<ExitCode, String> {
    let config = place::find(&options.at)?;
    let mut screens: Vec<Screen> = config.ccbs.iter().cloned().map(Screen::new).collect();
    let every = Duration::from_millis(options.every);
    let mut terminal = ratatui::try_init().map_err(|error| format!("the terminal: {error}"))?;
    let result = loop {
        screens.iter_mut().for_each(Screen::look);
        if let Err(error) = terminal.draw(|frame| draw(frame, &screens)) {
            break Err(format!("the terminal: {error}"));
        }
        match asked_to_stop(every) {
            Ok(true) => break Ok(ExitCode::SUCCESS),
            Ok(false) => {}
            Err(error) => break Err(format!("the terminal: {error}")),
        }
    };
    ratatui::restore();
    result
}

/// Waits for the next look; true when a key says that there is none.
fn asked_to_stop(every: Duration) -> std::io::Result<bool> {
    let begun = std::time::Instant::now();
    while let Some(rest) = every.checked_sub(begun.elapsed()) {
        if !event::poll(rest)? {
            break;
        }
        if let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            let ctrl_c = key.code == KeyCode::Char('c') && key.modifiers == KeyModifiers::CONTROL;
            return Ok(ctrl_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc));
        }
    }
    Ok(false)
}

/// Counts of one moment, for rates.
#[derive(Clone, Debug, Default)]
struct Sample {
    at: Instant,
    /// By worker and counter.
    counts: Vec<BTreeMap<&'static str, u64>>,
}

/// One CCB on the screen.
struct Screen {
    ccb: Ccb,
    region: Option<Arc<Region>>,
    error: String,
    view: Option<View>,
    before: Sample,
    now: Sample,
}

impl Screen {
    fn new(ccb: Ccb) -> Self {
        Screen {
            ccb,
            region: None,
            error: String::new(),
            view: None,
            before: Sample::default(),
            now: Sample::default(),
        }
    }

    /// Looks again; a region that was made anew is mapped anew.
    fn look(&mut self) {
        if self.region.as_ref().is_none_or(|region| !region.is_current(&self.ccb.region)) {
            self.region = match view::open(&self.ccb) {
                Ok(region) => Some(region),
                Err(error) => {
                    self.error = error;
                    None
                }
            };
            (self.before, self.now) = (Sample::default(), Sample::default());
        }
        let Some(region) = &self.region else {
            self.view = None;
            return;
        };
        self.view = Some(view::read(region));
        let counts = (0..region.layout().workers).map(|worker| {
            let get = |counter: &Counter| region.counters().get(WorkerId(worker), *counter);
            Counter::ALL.iter().map(|counter| (counter.name(), get(counter))).collect()
        });
        let sample = Sample { at: clock::now(), counts: counts.collect() };
        self.before = std::mem::replace(&mut self.now, sample);
    }

    fn count(&self, worker: usize, counter: Counter) -> u64 {
        count_of(&self.now, worker, counter)
    }

    fn total(&self, counter: Counter) -> u64 {
        (0..self.now.counts.len()).map(|worker| self.count(worker, counter)).sum()
    }

    /// How much a counter grows in a second; 0 before the second look.
    fn rate(&self, worker: usize, counter: Counter) -> f64 {
        let seconds = self.now.at.since(self.before.at).as_secs_f64();
        if self.before.counts.is_empty() || seconds == 0.0 {
            return 0.0;
        }
        let (now, before) =
            (count_of(&self.now, worker, counter), count_of(&self.before, worker, counter));
        // A data plane that began anew counts from zero.
        now.saturating_sub(before) as f64 / seconds
    }

    fn drops(&self, worker: usize) -> u64 {
        let dropped = Counter::ALL.iter().filter(|counter| counter.name().starts_with("drop_"));
        dropped.map(|counter| self.count(worker, *counter)).sum()
    }
}

fn count_of(sample: &Sample, worker: usize, counter: Counter) -> u64 {
    let counts = sample.counts.get(worker);
    counts.and_then(|counts| counts.get(counter.name())).copied().unwrap_or(0)
}

fn draw(frame: &mut Frame<'_>, screens: &[Screen]) {
    let share = Constraint::Ratio(1, screens.len().max(1) as u32);
    let areas = Layout::vertical(screens.iter().map(|_| share)).split(frame.area());
    for (screen, area) in screens.iter().zip(areas.iter()) {
        draw_ccb(frame, screen, *area);
    }
}

fn draw_ccb(frame: &mut Frame<'_>, screen: &Screen, area: Rect) {
    let block = Block::bordered().title(format!(" CCB {} (q ends) ", screen.ccb.number));
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let Some(view) = &screen.view else {
        frame.render_widget(Paragraph::new(format!("no region: {}", screen.error)), inside);
        return;
    };
    let workers = view.workers.len() as u16 + 1;
    let [head, table, calls] = Layout::vertical([
        Constraint::Length(4),
        Constraint::Length(workers + 1),
        Constraint::Fill(1),
    ])
    .areas(inside);
    frame.render_widget(Paragraph::new(headline(screen, view)), head);
    frame.render_widget(worker_table(screen, view), table);
    frame.render_widget(call_table(view), calls);
}

fn headline(screen: &Screen, view: &View) -> Vec<Line<'static>> {
    let (data_plane, control) = (&view.data_plane, &view.control);
    let control = match (control.attached, control.alive) {
        (true, _) => format!("attached, pid {}", control.pid),
        (false, true) => format!("not attached, pid {}", control.pid),
        (false, false) => "away".to_owned(),
    };
    let life = if data_plane.alive { data_plane.state } else { "gone" };
    let media = format!(
        "{} legs recorded, {} in mixes",
        screen.total(Counter::RecordingsNow),
        screen.total(Counter::MixedNow),
    );
    vec![
        Line::from(format!(
            "data plane {life}, pid {}, incarnation {}, heartbeat {} ms ago; control {control}",
            data_plane.pid, data_plane.incarnation, data_plane.heartbeat_ms,
        )),
        Line::from(format!(
            "{} agents logged in, {} registered, {} calls",
            view.agents,
            view.registered,
            view.calls.len(),
        )),
        Line::from(match screen.total(Counter::SpoolLost) {
            0 => media,
            lost => format!("{media}; THE SPOOL LOST {lost} BYTES"),
        }),
    ]
}

fn worker_table(screen: &Screen, view: &View) -> Table<'static> {
    let names = [
        "WORKER",
        "CALLS",
        "CALLS/S",
        "SIP/S",
        "RTP IN/S",
        "RTP OUT/S",
        "IN PROCESS",
        "XDP",
        "PORTS",
        "EVENTS",
        "DROPS",
    ];
    let rows = view.workers.iter().enumerate().map(|(at, worker)| {
        let sip = screen.rate(at, Counter::SipReceived) + screen.rate(at, Counter::SipSent);
        let cells = [
            worker.worker.to_string(),
            screen.count(at, Counter::CallsNow).to_string(),
            format!("{:.1}", screen.rate(at, Counter::CallsStarted)),
            format!("{sip:.0}"),
            format!("{:.0}", screen.rate(at, Counter::RtpReceived)),
            format!("{:.0}", screen.rate(at, Counter::RtpSent)),
            screen.count(at, Counter::StreamsInProcess).to_string(),
            screen.count(at, Counter::StreamsXdp).to_string(),
            screen.count(at, Counter::PortsInUse).to_string(),
            worker.events_waiting.to_string(),
            screen.drops(at).to_string(),
        ];
        Row::new(cells.map(Cell::from))
    });
    let widths = names.map(|name| Constraint::Min(name.len() as u16 + 2));
    Table::new(rows, widths).header(heading(&names))
}

fn call_table(view: &View) -> Table<'static> {
    let names = ["CALL", "STATE", "AGE", "CALLED", "PARTIES"];
    let rows = view.calls.iter().map(|call| {
        let legs: Vec<String> = call
            .legs
            .iter()
            .map(|leg| {
                let (received, sent, path) = (leg.packets_in, leg.packets_out, leg.path);
                format!("{} {received}/{sent} {path}", leg.number)
            })
            .collect();
        Row::new([
            call.call.clone(),
            call.state.to_owned(),
            format!("{} s", call.age_s),
            call.called.clone(),
            legs.join(" - "),
        ])
    });
    let widths = [12, 10, 8, 16].map(Constraint::Length);
    Table::new(rows, widths.into_iter().chain([Constraint::Fill(1)])).header(heading(&names))
}

fn heading(names: &[&'static str]) -> Row<'static> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    Row::new(names.iter().map(|name| Cell::from(*name)).collect::<Vec<_>>()).style(bold)
}

#[cfg(test)]
mod tests {
    use abi::{CallRow, CallState, DataPlaneState};
    use base::CcbId;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::config::Config;

    #[test]
    fn the_screen_shows_what_the_region_holds() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("region");
        let layout = abi::Layout {
            ccb: CcbId(1),
            workers: 2,
            agents: 16,
            calls_per_worker: 16,
            legs_per_worker: 16,
            ring_slots: 64,
            blob_bytes: 4_096,
            tenants: 4,
            trunks: 4,
            locations: 2,
        };
        let (region, _) = Region::open_or_create(&path, layout).unwrap();
        region.header().set_data_plane_state(DataPlaneState::Running);
        let mut row =
            CallRow { state: CallState::Answered.into(), generation: 3, ..CallRow::default() };
        row.set_called(base::Text::new(b"1002").unwrap());
        region.calls().write(5, &row);
        let mut config = Config::parse("x", include_str!("../systemd/jackfield.toml")).unwrap();
        let mut ccb = config.ccbs.remove(0);
        ccb.region = path;
        let mut screen = Screen::new(ccb);
        screen.look();
        region.counters().add(WorkerId(1), Counter::RtpReceived, 1_000_000);
        region.counters().add(WorkerId(1), Counter::DropRtpUnbound, 7);
        region.counters().set(WorkerId(0), Counter::StreamsXdp, 4_321);
        region.counters().set(WorkerId(0), Counter::RecordingsNow, 3);
        region.counters().add(WorkerId(1), Counter::SpoolLost, 99);
        screen.look();
        assert!(screen.rate(1, Counter::RtpReceived) > 0.0);
        assert_eq!(screen.drops(1), 7);
        let mut terminal = Terminal::new(TestBackend::new(120, 20)).unwrap();
        terminal.draw(|frame| draw(frame, &[screen])).unwrap();
        let text = terminal.backend().to_string();
        for expected in [
            "CCB 1",
            "5.3",
            "answered",
            "1002",
            "RTP IN/S",
            "XDP",
            "4321",
            "3 legs recorded",
            "THE SPOOL LOST 99",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }
}
