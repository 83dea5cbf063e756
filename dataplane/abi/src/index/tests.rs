use std::collections::HashMap;

use base::Text;
use proptest::prelude::*;

use super::*;
use crate::region::Region;
use crate::row::AgentState;

fn row(tenant: u32, number: &str) -> AgentRow {
    let mut row = AgentRow { state: AgentState::LoggedIn.into(), tenant, ..Default::default() };
    row.set_number(Text::new(number.as_bytes()).expect("it fits"));
    row.set_user(Text::new(format!("{number}.t{tenant}").as_bytes()).expect("it fits"));
    row
}

#[test]
fn an_agent_is_found_by_what_its_row_says() {
    let region = Region::in_memory(crate::event::tests::layout());
    let agents = region.agents();
    let slot = AgentSlot(5);
    let row = row(1, "1001");
    let number = Key::Number { tenant: TenantId(1), number: b"1001" };
    assert!(agents.write(slot, &row));
    assert_eq!(agents.find_number(TenantId(1), b"1001"), None, "it is not in the index yet");
    agents.index_insert(number, slot).expect("there is room");
    agents.index_insert(Key::User(b"1001.t1"), slot).expect("there is room");
    assert_eq!(agents.find_number(TenantId(1), b"1001"), Some((slot, row)));
    assert_eq!(agents.find_user(b"1001.t1"), Some((slot, row)));
    assert_eq!(agents.slot_of_number(TenantId(1), b"1001"), Some(slot));
    assert_eq!(agents.slot_of_user(b"1001.t1"), Some(slot));
    assert_eq!(agents.find_number(TenantId(2), b"1001"), None, "numbers belong to a tenant");
    assert_eq!(agents.find_number(TenantId(1), b"100"), None);
    assert_eq!(agents.find_number(TenantId(1), b"10010"), None);
    assert_eq!(agents.find_number(TenantId(1), &[b'1'; 300]), None);
    assert_eq!(agents.find_user(b""), None);
    assert!(agents.write(slot, &AgentRow { state: 0, ..row }));
    assert_eq!(agents.slot_of_number(TenantId(1), b"1001"), None, "an entry is only a hint");
    assert!(agents.index_remove(number, slot));
    assert!(!agents.index_remove(number, slot));
    agents.index_insert(Key::User(b"x"), AgentSlot(99)).expect("a row is not looked at here");
    assert_eq!(agents.find_user(b"x"), None, "a slot outside the table finds nothing");
}

proptest! {
    #[test]
    fn the_index_is_a_map(
        steps in proptest::collection::vec((0u32..16, 0u32..12, any::<bool>()), 0..400),
    ) {
        let region = Region::in_memory(crate::event::tests::layout());
        let agents = region.agents();
        let mut model = HashMap::<String, AgentSlot>::new();
        for (slot, number, insert) in steps {
            let slot = AgentSlot(slot);
            let number = number.to_string();
            let key = Key::Number { tenant: TenantId(7), number: number.as_bytes() };
            if insert && !model.contains_key(&number) && !model.values().any(|at| *at == slot) {
                agents.write(slot, &row(7, &number));
                prop_assert!(agents.index_insert(key, slot).is_ok());
                prop_assert!(agents.index_insert(key, slot).is_ok(), "twice is as good as once");
                model.insert(number, slot);
            } else if !insert {
                let removed = model.get(&number) == Some(&slot);
                prop_assert_eq!(agents.index_remove(key, slot), removed);
                if removed {
                    model.remove(&number);
                }
            }
            for number in 0..12 {
                let number = number.to_string();
                let found = agents.slot_of_number(TenantId(7), number.as_bytes());
                prop_assert_eq!(found, model.get(&number).copied());
                let found = agents.find_number(TenantId(7), number.as_bytes());
                prop_assert_eq!(found.map(|found| found.0), model.get(&number).copied());
            }
        }
        // What is all removed leaves no trace that a search would have to pass.
        for (number, slot) in model {
            let key = Key::Number { tenant: TenantId(7), number: number.as_bytes() };
            prop_assert!(agents.index_remove(key, slot));
        }
        let left = agents.index.part.words.iter().filter(|word| {
            let word = word.load(Ordering::Relaxed);
            word != 0 && word & LOW != REMOVED
        });
        prop_assert_eq!(left.count(), 0);
    }
}

#[test]
fn a_full_index_says_so_and_still_answers() {
    let region = Region::in_memory(crate::event::tests::layout());
    let agents = region.agents();
    let users: Vec<String> = (0..80).map(|user| format!("user{user}")).collect();
    let full =
        users.iter().map(|user| agents.index_insert(Key::User(user.as_bytes()), AgentSlot(1)));
    assert_eq!(full.filter(Result::is_err).count(), 80 - capacity(16));
    assert_eq!(agents.find_user(b"nobody"), None);
    assert!(agents.index_remove(Key::User(b"user0"), AgentSlot(1)));
    assert!(agents.index_insert(Key::User(b"another"), AgentSlot(1)).is_ok());
}
