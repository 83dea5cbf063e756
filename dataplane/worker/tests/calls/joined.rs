//! Transfers of calls of two workers.

use crate::attended::*;
use crate::house::{AGENT_A, AGENT_B, House, TRUNK, header};
use crate::replaces::*;
use crate::transfers::*;

/// Call-IDs of two calls on two workers.
pub fn apart() -> [String; 2] {
    [0, 1].map(|worker| {
        let mut names = (0..).map(|n| format!("c{n}"));
        names.find(|name| base::owner(name.as_bytes(), 2).0 == worker).expect("some")
    })
}

#[test]
fn calls_of_two_workers_are_joined() {
    // Who ends it, and whether the process dies meanwhile.
    for (ends, dies) in [("caller", false), ("asked", false), ("caller", true)] {
        let mut house = House::of_two();
        house.register("1001", AGENT_A);
        house.register("1002", AGENT_B);
        let [first, second] = apart();
        let (invite, ok) = house.call_through("1001", AGENT_A, &first);
        invite_from(&mut house, AGENT_A, "1001", "1002", &second);
        assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 100 "));
        let asked = house.next_to(AGENT_B);
        house.reply(AGENT_B, &asked, 200, "t2", Some(OFFER_B));
        assert!(house.next_to(AGENT_B).starts_with("ACK "));
        let answered = house.next_to(AGENT_A);
        house.send(AGENT_A, &within("ACK", AGENT_A, &answered, 2));
        assert_eq!(shares(&house), [2, 1], "two workers share a word");

        let text = refer(&house, &invite, 2, &replacing(&answered, ""));
        house.send(AGENT_A, &text);
        assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 202 "));
        told(&mut house, AGENT_A, "100 Trying");
        // The other worker asks the second agent first.
        let change = house.next_to(AGENT_B);
        assert!(change.starts_with("INVITE ") && !change.contains("X-Jackfield"), "{change}");
        house.reply(AGENT_B, &change, 200, "t2", Some(OFFER_B));
        assert!(house.next_to(AGENT_B).starts_with("ACK "));
        told(&mut house, AGENT_A, "200 OK");
        let bye = house.next_to(AGENT_A);
        assert!(bye.starts_with("BYE ") && header(&bye, "Call-ID: ") == second, "{bye}");
        house.reply(AGENT_A, &bye, 200, "", None);
        let tell = house.next_to(TRUNK);
        assert!(tell.starts_with("INVITE ") && tell.contains(" RTP/AVP 8\r\n"), "{tell}");
        house.reply(TRUNK, &tell, 200, "", Some(OFFER_B));
        assert!(house.next_to(TRUNK).starts_with("ACK "));
        let bye = house.within("BYE", &invite, "", 3, None);
        house.send(AGENT_A, &bye);
        assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 200 "));
        assert_eq!(shares(&house), [0, 1]);
        assert_eq!(house.legs().len(), 4, "two of ours between them");
        if dies {
            let found = house.die();
            assert_eq!((found.calls, found.leases_freed), (2, 0));
            assert_eq!(house.recovered_pairs(), 4);
        }
        match ends {
            "caller" => {
                let bye = house.within("BYE", &ok, &first, 2, None);
                house.send(TRUNK, &bye);
                assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
                let bye = house.next_to(AGENT_B);
                assert!(bye.starts_with("BYE "), "{bye}");
                house.reply(AGENT_B, &bye, 200, "", None);
            }
            _ => {
                let bye = house.within("BYE", &asked, "", 1, None).replace("tag=t1", "tag=t2");
                house.send(AGENT_B, &bye.replace(AGENT_A, AGENT_B));
                assert!(house.next_to(AGENT_B).starts_with("SIP/2.0 200 "));
                let bye = house.next_to(TRUNK);
                assert!(bye.starts_with("BYE "), "{bye}");
                house.reply(TRUNK, &bye, 200, "", None);
            }
        }
        house.expect_nothing_left();
    }
}

#[test]
fn nobody_forges_a_ticket() {
    let mut house = House::of_two();
    house.register("1001", AGENT_A);
    let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
    let lines = replacing_invite(&invite, "");
    for ticket in ["a.0.5 0123456789abcdef", "a.0.5", "nonsense"] {
        let text = plain_invite(AGENT_B, "1002", "1001", "r1", 1).replace(
            "Max-Forwards: 70",
            &format!("{lines}\r\nX-Jackfield-Ticket: {ticket}\r\nMax-Forwards: 70"),
        );
        house.send(AGENT_B, &text);
        assert!(house.next_to(AGENT_B).starts_with("SIP/2.0 401 "));
    }
    hang_up(&mut house, &ok, "c1", 2, AGENT_A);
}
