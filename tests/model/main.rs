//! model
mod checker;
mod gateway;
mod store;
mod world;

use checker::*;
use gateway::Rules;
use stateright::{Checker, HasDiscoveries, Model};
use store::Guard;

fn scene(fingerprints: &[u8]) -> Scene {
    Scene {
        rules: Rules {
            fingerprints: fingerprints.to_vec(),
            resend: false,
            removed: None,
        },
        renewals: 0,
        troubles: 0,
        crashes: 0,
        words: 0,
        careless: false,
        refusals: false,
        only: None,
    }
}

fn holds(scene: Scene) {
    let checker = scene.checker().threads(1).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!("{} states, {} unique, depth {}", checker.state_count(), checker.unique_state_count(), checker.max_depth());
    checker.assert_properties();
}

#[test]
fn explore() {
    let n = |k: &str, d: u8| std::env::var(k).map_or(d, |v| v.parse().unwrap());
    let fps: Vec<u8> = std::env::var("FPS").unwrap_or("11".into()).bytes().map(|b| b - b'0').collect();
    let mut s = scene(&fps);
    s.renewals = n("R", 0);
    s.troubles = n("T", 0);
    s.crashes = n("C", 0);
    s.words = n("W", 0);
    s.careless = n("CARELESS", 0) > 0;
    s.refusals = n("REF", 0) > 0;
    s.rules.resend = n("RESEND", 0) > 0;
    let _ = Guard::Marks;
    holds(s);
}
