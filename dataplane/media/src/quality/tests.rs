use super::*;

#[test]
fn ratings_and_scores_by_the_recommendation() {
    // G.107, annex B's curve, and Ie,eff of G.711 with concealment.
    for (loss, rating_wanted, mos) in
        [(0.0, 93.2, 441), (0.01, 89.56, 432), (0.05, 77.42, 391), (0.10, 66.13, 341)]
    {
        let rating = rating(Duration::from_millis(50), loss);
        assert!((rating - rating_wanted).abs() < 0.02, "{loss}: {rating}");
        assert!(mos_hundredths(rating).abs_diff(mos) <= 1, "{loss}: {}", mos_hundredths(rating));
    }
    // G.107, annex B, table B.1: the lower limits of user satisfaction.
    for (rating, mos) in [
        (90.0, 434),
        (80.0, 403),
        (70.0, 360),
        (60.0, 310),
        (50.0, 258),
        (0.0, 100),
        (-5.0, 100),
        (100.0, 450),
    ] {
        assert!(mos_hundredths(rating).abs_diff(mos) <= 1, "{rating}: {}", mos_hundredths(rating));
    }
}

#[test]
fn delay_impairs_beyond_a_tenth_of_a_second() {
    let at = |millis| DEFAULT_RATING - rating(Duration::from_millis(millis), 0.0);
    for (millis, impairment) in [(0, 0.0), (100, 0.0), (200, 3.05), (400, 24.07)] {
        assert!((at(millis) - impairment).abs() < 0.1, "{millis}: {}", at(millis));
    }
    assert!((0..100).all(|step| at(step * 20 + 20) >= at(step * 20)));
}

#[test]
fn every_input_has_a_score() {
    for loss in [f32::NAN, -1.0, 0.0, 0.5, 1.0, 7.0] {
        for millis in [0, 101, 100_000] {
            let mos = mos_hundredths(rating(Duration::from_millis(millis), loss));
            assert!((100..=450).contains(&mos) || loss.is_nan(), "{loss} {millis}: {mos}");
        }
    }
    let delay = mouth_to_ear(50_000, Some(Duration::from_millis(80)));
    assert_eq!(delay, Duration::from_millis(20 + 100 + 40));
    assert_eq!(mouth_to_ear(0, None), Duration::from_millis(40));
}
