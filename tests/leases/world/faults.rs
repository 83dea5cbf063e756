//! What goes wrong, and what must hold after it.

use super::*;

impl World {
    pub(super) fn fault(&mut self, blade: usize) {
        if self.resting {
            return;
        }
        let next = 2_000 + self.rng.below(16_000);
        self.after(next * MS, Event::Fault(blade));
        self.outcome.faults += 1;
        let short = self.rng.below(400) * MS;
        let long = 500 * MS + self.rng.below(4_000 * MS);
        let lasts = if self.rng.chance(50) { short } else { long };
        match self.rng.below(6) {
            0 if self.blades[blade].control.is_some() => self.kill_control(blade, lasts),
            1 if self.blades[blade].is_up => {
                self.blades[blade].is_up = false;
                self.after(lasts, Event::StartDataPlane(blade, false));
            }
            2 if self.blades[blade].is_up => {
                // The power: the region is gone, too.
                self.kill_control(blade, lasts + 1);
                self.blades[blade].is_up = false;
                for (call, it) in std::mem::take(&mut self.blades[blade].calls) {
                    self.holder_lost(call, &it);
                }
                self.after(lasts, Event::StartDataPlane(blade, true));
            }
            3 if self.blades[blade].waiting.is_none() => {
                self.blades[blade].waiting = Some(Vec::new());
                self.after(lasts, Event::Resume(blade));
            }
            4 if !self.bus_cut[blade] => {
                self.bus_cut[blade] = true;
                let noticed = self.rng.below(2_000) * MS;
                if noticed < lasts {
                    self.after(noticed, Event::Connect(blade, false));
                }
                self.after(lasts, Event::HealBus(blade));
            }
            5 if !self.sip_cut[blade] => {
                self.sip_cut[blade] = true;
                self.after(lasts, Event::HealSip(blade));
            }
            _ => {}
        }
    }

    fn kill_control(&mut self, blade: usize, lasts: u64) {
        let here = &mut self.blades[blade];
        if here.control.take().is_some() {
            // What came to it while it was paused dies with it.
            here.waiting = None;
            self.after(lasts, Event::StartControl(blade));
        }
    }

    pub(super) fn start_control(&mut self, blade: usize) {
        let clock = self.clock(blade);
        self.blades[blade].start_control();
        let plant = self.plant;
        let Some(control) = &mut self.blades[blade].control else { return };
        control.connected = !self.bus_cut[blade];
        if plant == Plant::GrantsWhenPaused {
            control.home.plant(HomeBug::GrantsWhenPaused);
        }
        let of = control.incarnation;
        self.blades[blade].rebuild(clock);
        self.troubled[blade] = self.now;
        // It hears all that stands where all can see it.
        self.after(MS, Event::Connect(blade, !self.bus_cut[blade]));
        self.after(10 * MS, Event::Report(blade, of));
        self.after(20 * MS, Event::Check(blade, of));
    }

    /// It goes on with the calls that were answered; `anew` begins with an empty region.
    pub(super) fn start_data_plane(&mut self, blade: usize, anew: bool) {
        let plant = self.plant;
        self.troubled[blade] = self.now;
        self.unreached[blade] = self.now;
        let calls: Vec<(u64, Call)> =
            self.blades[blade].calls.iter().map(|(call, it)| (*call, *it)).collect();
        if anew {
            let here = &mut self.blades[blade];
            here.dialogs.clear();
            here.logins.fill(None);
            here.words.iter_mut().for_each(|word| *word = 0.into());
            here.is_up = true;
            // Another number than any before: its logins are all new.
            here.incarnation = here.incarnation.wrapping_add(1);
            for agent in 0..AGENTS {
                if self.homes[agent] == Some(blade) {
                    self.homes[agent] = None;
                    let at = self.rng.below(1_000);
                    self.after(at * MS, Event::LogIn(agent, false));
                }
            }
            return;
        }
        let here = &mut self.blades[blade];
        here.is_up = true;
        if plant == Plant::ForgetsItsCounter {
            // Whoever was in a call stays in it.
            let dialogs = &here.dialogs;
            let words = here.words.iter_mut().enumerate();
            words.filter(|(agent, _)| !dialogs.contains_key(agent)).for_each(|(_, word)| {
                *word = 0.into();
            });
        } else {
            here.incarnation += 1;
        }
        let local: Vec<(usize, u64)> = here
            .dialogs
            .iter()
            .filter(|(_, dialog)| dialog.holder == blade)
            .map(|(agent, dialog)| (*agent, dialog.call))
            .collect();
        for (agent, call) in local {
            self.free(blade, agent, call);
        }
        for (call, it) in calls {
            if it.answered && !it.leaving {
                let lasts = self.duration();
                self.after(lasts, Event::HangUp(blade, call));
            } else {
                self.leave(blade, call);
                self.after(RETRY_MS * MS, Event::Retry(blade, call, 0));
            }
        }
    }

    pub(super) fn resume(&mut self, blade: usize) {
        self.troubled[blade] = self.now;
        let Some(waiting) = self.blades[blade].waiting.take() else { return };
        let (inputs, timers): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|event| {
            !matches!(event, Event::Report(..) | Event::Check(..) | Event::NoAnswer(..))
        });
        inputs.into_iter().chain(timers).for_each(|event| self.happen(event));
    }

    pub(super) fn connect(&mut self, blade: usize, is: bool) {
        if let Some(control) = &mut self.blades[blade].control
            && is != self.bus_cut[blade]
        {
            control.connected = is;
        }
        // What was said meanwhile is heard now.
        let hears = is && !self.bus_cut[blade];
        for agent in (0..AGENTS).filter(|_| hears) {
            if self.homes[agent].is_some_and(|home| home != blade) {
                self.moved(blade, agent, self.watch.epochs[agent]);
            }
        }
    }

    // What must hold.

    /// A call lost its holder: its agent is free before long.
    fn holder_lost(&mut self, call: u64, it: &Call) {
        let has = |dialog: &&Dialog| dialog.call == call;
        if self.blades[it.home].dialogs.get(&it.agent).filter(has).is_some() {
            self.outcome.lost_holders += 1;
        }
        let event = Event::MustBeFree(it.home, it.agent, it.grant, self.now);
        self.after(FREED_MS * MS, event);
    }

    pub(super) fn must_be_free(&mut self, home: usize, agent: usize, grant: u64, since: u64) {
        let here = &self.blades[home];
        // An INVITE of the dead was under way: that is the last that was heard of it.
        let since = here.dialogs.get(&agent).map_or(since, |dialog| dialog.since.max(since));
        let at_work = here.is_up
            && here.control.is_some()
            && here.waiting.is_none()
            && !self.bus_cut[home]
            && self.now >= since + FREED_MS * MS
            && self.troubled[home] <= since;
        let is_held = word::read(&here.words[agent]).holder().is_some();
        if !is_held || !self.watch.is_newest(home, agent, grant) {
            return;
        }
        if at_work {
            let ms = (self.now - since) / MS;
            let (state, dialog) = (word::read(&here.words[agent]), here.dialogs.get(&agent));
            return self.watch.expect(false, || {
                format!(
                    "agent {agent} of home {home} is held {ms} ms after its holder was lost: \
                     {state:?}, {dialog:?}"
                )
            });
        }
        let since = self.troubled[home].max(since);
        let since = if here.is_up && here.control.is_some() { since } else { self.now };
        let wait = (since + FREED_MS * MS).max(self.now + MS) - self.now;
        self.after(wait, Event::MustBeFree(home, agent, grant, since));
    }

    /// All is quiet: nobody holds anybody.
    pub(super) fn check_rest(&self) -> Result<(), String> {
        for (number, blade) in self.blades.iter().enumerate() {
            for (agent, word) in blade.words.iter().enumerate() {
                let state = word::read(word);
                if !matches!(state, LeaseState::Free { .. }) {
                    return Err(format!("agent {agent} of home {number} is left {state:?}"));
                }
            }
            if !blade.calls.is_empty() {
                return Err(format!("blade {number} still has {} calls", blade.calls.len()));
            }
            let sessions = blade.control.as_ref().map_or(0, |it| it.holder.sessions().count());
            if sessions > 0 {
                return Err(format!("blade {number} still has {sessions} sessions"));
            }
            let hosted = blade.control.as_ref().map_or(0, |it| it.home.hosted().count());
            if hosted > 0 {
                return Err(format!("home {number} still has {hosted} agents away"));
            }
        }
        Ok(())
    }
}
