//! The CDM's choice of a CCB among 1,000, and its bookkeeping: a grant, and a report of each CCB in turn.
//!
//! All 1,000 are eligible, as they are when each has addresses for the location. The loads differ; every choice
//! changes one, so the index is moved as in a storm of logins.

use std::hint::black_box;

use base::{CcbId, Rng, TenantId};
use control_core::cluster::CcbReport;
use control_core::{CcbStatus, Cdm, LoginKey, Strategy};
use house_bench::criterion;

const CCBS: u16 = 1_000;

fn report(ccb: u16, online: u32) -> CcbReport {
    CcbReport {
        status: CcbStatus::Normal,
        online,
        capacity: 4_000,
        locations: vec![format!("site-{}", ccb % 50), "local".into()],
        ..CcbReport::default()
    }
}

fn filled(strategy: Strategy) -> (Cdm, Vec<CcbId>) {
    let (mut cdm, mut rng) = (Cdm::new(strategy), Rng::from_number(1));
    for ccb in 1..=CCBS {
        cdm.report_of(CcbId(ccb), &report(ccb, rng.below(100) as u32));
    }
    (cdm, (1..=CCBS).map(CcbId).collect())
}

fn main() {
    let mut criterion = criterion();
    for strategy in Strategy::ALL {
        let (mut cdm, eligible) = filled(strategy);
        let mut agent = 0;
        criterion.bench_function(&format!("cdm: choose and grant, {}", strategy.name()), |bench| {
            bench.iter(|| {
                let ccb = cdm.allocate(black_box(&eligible), "site-7").expect("there is room");
                agent += 1;
                cdm.grant(ccb, LoginKey { tenant: TenantId(1), agent, epoch: 1 });
                // So that it never fills up.
                cdm.settle(ccb, LoginKey { tenant: TenantId(1), agent, epoch: 1 });
                ccb
            });
        });
    }
    let (mut cdm, eligible) = filled(Strategy::LeastAgents);
    let mut rng = Rng::from_number(2);
    criterion.bench_function("cdm: better of two at random", |bench| {
        bench.iter(|| cdm.allocate_at_random(black_box(&eligible), "site-7", &mut rng));
    });
    let mut turn = 0;
    criterion.bench_function("cdm: report of a CCB", |bench| {
        bench.iter(|| {
            turn = turn % CCBS + 1;
            cdm.report_of(CcbId(turn), black_box(&report(turn, u32::from(turn) % 97)));
        });
    });
    criterion.final_summary();
}
