//! Encrypted legs whose calls move: a transfer, and an agent of another blade.

use abi::{OpResult, Purpose, SrtpPolicy};
use base::AgentSlot;
use media::srtp::Suite;
use worker::PairId;

use crate::hosting::Blades;
use crate::house::{AGENT_A, AGENT_B, House, OFFER, TRUNK};
use crate::srtp::{LONG, PLAIN, Peer, SECURE, crypto, described, key, lines_of, rtp};
use crate::transfers::refer;

/// What a trunk offers that insists on SRTP.
fn secret() -> String {
    described("RTP/SAVP", &[crypto(4, LONG, 'B')])
}

/// RFC 3711, 9.1: whoever is at the other end, the trunk's stream goes on with its key, and no index comes twice.
#[test]
fn a_transfer_keeps_the_keys_of_who_is_transferred() {
    for target in [SrtpPolicy::Never, SrtpPolicy::Required] {
        let mut house = House::new();
        house.register("1001", AGENT_A);
        house.register("1002", AGENT_B);
        house.send(TRUNK, &house.invite("1001", "c1", Some(&secret())));
        house.next_to(TRUNK);
        let invite = house.next_to(AGENT_A);
        house.reply(AGENT_A, &invite, 200, "t1", Some(OFFER));
        house.next_to(AGENT_A);
        let ok = house.next_to(TRUNK);
        house.ack(TRUNK, &ok, "c1");
        let [(4, suite, ours)] = lines_of(&ok)[..] else { panic!("{ok}") };
        let mut trunk = Peer::new(key('B', suite), ours);
        let (socket, _) = house.converted(PairId(0).rtp(), SECURE, &trunk.says(1)).expect("sent");
        let sent = house.converted(socket, PLAIN, &rtp(1, 2)).expect("sent").1;
        assert_eq!(trunk.hears(&sent)[12..], [2; 160]);

        house.srtp(target, SrtpPolicy::Allowed);
        let text = refer(&house, &invite, 1, "<sip:1002@127.0.0.1>");
        house.send(AGENT_A, &text);
        let offered = house.next_to(AGENT_B);
        let line = lines_of(&offered).first().copied();
        assert_eq!(line.is_some(), target == SrtpPolicy::Required, "{offered}");
        let answer = match line {
            Some((tag, ..)) => described("RTP/SAVP", &[crypto(tag, LONG, 'C')]),
            None => OFFER.replace("4000", "4100"),
        };
        house.reply(AGENT_B, &offered, 200, "t2", Some(&answer));
        assert!(house.next_to(AGENT_B).starts_with("ACK "));
        let change = house.next_to(TRUNK);
        let [(tag, Suite::Sha1Tag80, again)] = lines_of(&change)[..] else { panic!("{change}") };
        assert_eq!(again, ours, "our key stays");
        let agreed = described("RTP/SAVP", &[crypto(tag, LONG, 'B')]);
        house.reply(TRUNK, &change, 200, "", Some(&agreed));
        assert!(house.next_to(TRUNK).starts_with("ACK "));

        let mut phone = line.map(|(_, suite, ours)| Peer::new(key('C', suite), ours));
        for n in 0..4 {
            let (socket, heard) =
                house.converted(PairId(0).rtp(), SECURE, &trunk.says(3)).expect("relayed");
            let heard = phone.as_mut().map_or(heard.clone(), |phone| phone.hears(&heard));
            assert_eq!(heard[12..], [3; 160], "{target:?}");
            let said = match &mut phone {
                Some(phone) => phone.says(4),
                None => rtp(10 + n, 4),
            };
            let sent = house.converted(socket, SECURE, &said).expect("relayed").1;
            assert_eq!(trunk.hears(&sent)[12..], [4; 160], "{target:?}");
        }
    }
}

/// Between blades media is plain; each end is as its own side wants it.
#[test]
fn an_agent_of_another_blade_speaks_to_an_encrypted_trunk() {
    for phones in [SrtpPolicy::Never, SrtpPolicy::Required] {
        let mut blades = Blades::new();
        blades.two.srtp(phones, SrtpPolicy::Allowed);
        let text = blades.one.invite("2001", "c1", Some(&secret()));
        blades.one.send(TRUNK, &text);
        assert!(blades.one.next_to(TRUNK).starts_with("SIP/2.0 100 "));
        let question = blades.one.asked("2001");
        let ticket = blades.grant(AgentSlot(0), Purpose::Call);
        assert_eq!(blades.host(question, "2001", &ticket.to_value()), OpResult::Ok);
        let invite = blades.two.next_to(AGENT_A);
        let line = lines_of(&invite).first().copied();
        assert_eq!(line.is_some(), phones == SrtpPolicy::Required, "{invite}");
        let answer = match line {
            Some((tag, ..)) => described("RTP/SAVP", &[crypto(tag, LONG, 'C')]),
            None => OFFER.replace("4000", "4100"),
        };
        blades.two.reply(AGENT_A, &invite, 200, "t1", Some(&answer));
        assert!(blades.two.next_to(AGENT_A).starts_with("ACK "));
        blades.pump();
        let ok = blades.one.next_to(TRUNK);
        let [(4, suite, ours)] = lines_of(&ok)[..] else { panic!("{ok}") };
        blades.one.ack(TRUNK, &ok, "c1");
        blades.pump();

        let mut trunk = Peer::new(key('B', suite), ours);
        let mut phone = line.map(|(_, suite, ours)| Peer::new(key('C', suite), ours));
        let ports = |ip: &str, pair: PairId| format!("{ip}:{}", 30_000 + 2 * pair.index());
        for n in 0..4 {
            let cipher = trunk.says(5);
            let (out, plain) =
                blades.one.converted(PairId(0).rtp(), SECURE, &cipher).expect("relayed");
            assert_eq!(plain[12..], [5; 160], "plain between the blades");
            let from = ports("10.1.0.1", out.pair());
            let (socket, heard) =
                blades.two.converted(PairId(0).rtp(), &from, &plain).expect("relayed");
            let heard = phone.as_mut().map_or(heard.clone(), |phone| phone.hears(&heard));
            assert_eq!(heard[12..], [5; 160], "{phones:?}");
            let said = match &mut phone {
                Some(phone) => phone.says(6),
                None => rtp(1 + n, 6),
            };
            let (back, plain) = blades.two.converted(socket, SECURE, &said).expect("relayed");
            assert_eq!(plain[12..], [6; 160]);
            let from = ports("10.1.0.2", back.pair());
            let sent = blades.one.converted(out, &from, &plain).expect("relayed").1;
            assert_eq!(trunk.hears(&sent)[12..], [6; 160], "{phones:?}");
        }
    }
}
