//! `demo --call`: two agents log in from nothing, and their phones talk.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use softphone::{Event, Order};
use tokio::sync::mpsc::UnboundedReceiver;

use super::plan::{FIRST_AGENT, TENANT};
use crate::config::Config;
use crate::desk::{Credentials, Desk, log_in};
use crate::fleet::{Counts, Fleet, News};
use crate::http::Server;

/// 5 s of 20 ms frames.
const FRAMES: u32 = 250;
/// Both ways must carry at least this many.
const FEWEST_PACKETS: u64 = 240;
/// How long the packets may take beyond the 5 s.
const MEDIA_LIMIT: Duration = Duration::from_secs(8);
/// How long each step before may take.
const STEP_LIMIT: Duration = Duration::from_secs(10);
/// Each phone sends a tone of its own, in Hz.
const TONES: [u32; 2] = [440, 620];

/// Makes the call and prints what came of it.
pub async fn run(blades: &[Config]) -> Result<ExitCode, String> {
    let config = &blades[0];
    let server = Server::Tcp(config.control.http[0]);
    let admins: Vec<_> =
        blades.iter().map(|blade| Server::Unix(blade.control.admin.clone())).collect();
    let locations = &config.ccbs[0].locations;
    let (mut fleet, mut news) = Fleet::start().map_err(|error| error.to_string())?;
    let mut desks = Vec::new();
    for (place, tone) in TONES.into_iter().enumerate() {
        let agent = (FIRST_AGENT + place as u32).to_string();
        let location = locations.get(place).unwrap_or(&locations[0]);
        let who = Credentials {
            tenant: TENANT.to_owned(),
            password: format!("{TENANT}-{agent}"),
            agent,
            location: location.name.clone(),
        };
        let grant = log_in(&server, &who).await?;
        let desk = Desk::attach(&grant).await?;
        let (mut phone, ports) = grant.phone().await?;
        phone.frames = Some(FRAMES);
        phone.tone_hz = tone;
        let number = fleet.add(phone, ports).map_err(|error| error.to_string())?;
        fleet.order(number, Order::Register);
        desks.push(desk);
    }
    for desk in &mut desks {
        desk.complete(STEP_LIMIT).await?;
    }
    crate::admin::wait_online(&admins, TONES.len(), STEP_LIMIT).await?;
    let called = (FIRST_AGENT + 1).to_string();
    fleet.order(0, Order::Call(called));
    until(&mut news, "the call is answered", |news| match &news.event {
        Event::Answered if news.phone == 0 => Some(Ok(())),
        Event::Ended(why) => Some(Err(format!("the call came to nothing: {why:?}"))),
        _ => None,
    })
    .await?;
    let counts = talk(&fleet).await;
    fleet.order(0, Order::HangUp);
    let mut ended = 0;
    until(&mut news, "both phones have hung up", |news| {
        ended += usize::from(matches!(news.event, Event::Ended(_)));
        (ended == TONES.len()).then_some(Ok(()))
    })
    .await?;
    for (phone, desk) in desks.into_iter().enumerate() {
        fleet.order(phone, Order::Unregister);
        until(&mut news, "the phone is unregistered", |news| {
            (news.phone == phone && news.event == Event::Unregistered).then_some(Ok(()))
        })
        .await?;
        desk.exit().await?;
    }
    crate::show::say(&table(&counts))?;
    verdict(&counts).map(|()| ExitCode::SUCCESS)
}

/// Lets both talk until all frames are across, or time is up.
async fn talk(fleet: &Fleet) -> Vec<Counts> {
    let begun = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let counts = fleet.counts().await;
        let whole = counts.iter().all(|one| {
            let call = one.phone.call;
            call.sent == u64::from(FRAMES) && call.heard.received >= call.sent
        });
        if whole || begun.elapsed() > MEDIA_LIMIT {
            return counts;
        }
    }
}

/// Waits for the news that `found` looks for.
async fn until(
    news: &mut UnboundedReceiver<News>,
    what: &str,
    mut found: impl FnMut(&News) -> Option<Result<(), String>>,
) -> Result<(), String> {
    let search = async {
        while let Some(news) = news.recv().await {
            if let Some(result) = found(&news) {
                return result;
            }
        }
        Err("the built-in phones are gone".to_owned())
    };
    tokio::time::timeout(STEP_LIMIT, search)
        .await
        .unwrap_or_else(|_| Err(format!("{} s passed before {what}", STEP_LIMIT.as_secs())))
}

fn table(counts: &[Counts]) -> String {
    let ms = |time: Option<Duration>| match time {
        Some(time) => format!("{:.2}", time.as_secs_f64() * 1_000.0),
        None => "-".to_owned(),
    };
    let mut text = format!(
        "set-up {} ms\n{:<14} {:>6} {:>9} {:>5} {:>13} {:>13}\n",
        ms(counts[0].phone.set_up),
        "direction",
        "sent",
        "received",
        "lost",
        "delay p50 ms",
        "delay p99 ms",
    );
    for (from, to) in [(0, 1), (1, 0)] {
        let (sender, receiver) = (&counts[from], &counts[to]);
        text += &format!(
            "{:<14} {:>6} {:>9} {:>5} {:>13} {:>13}\n",
            format!("{} -> {}", FIRST_AGENT + from as u32, FIRST_AGENT + to as u32),
            sender.phone.call.sent,
            receiver.phone.call.heard.received,
            sender.phone.call.sent.saturating_sub(receiver.phone.call.heard.received),
            ms(receiver.delays.percentile(50.0)),
            ms(receiver.delays.percentile(99.0)),
        );
    }
    text.trim_end().to_owned()
}

/// Whether both directions were whole, each with the tone that was sent.
fn verdict(counts: &[Counts]) -> Result<(), String> {
    for (from, to) in [(0, 1), (1, 0)] {
        let (sent, heard) = (counts[from].phone.call.sent, counts[to].phone.call.heard);
        let way = format!("{} -> {}", FIRST_AGENT + from as u32, FIRST_AGENT + to as u32);
        if sent < FEWEST_PACKETS {
            return Err(format!("{way}: only {sent} packets were sent"));
        }
        if heard.received != sent {
            return Err(format!("{way}: {} of {sent} packets arrived", heard.received));
        }
        if heard.tone_hz.abs_diff(TONES[from]) > 2 {
            return Err(format!("{way}: heard {} Hz, not {} Hz", heard.tone_hz, TONES[from]));
        }
    }
    Ok(())
}
