//! Decisions: every example against the tables in memory, every reason reached, and what holds for all packets.

mod budgets;
mod edges;
mod example;
mod links;
mod properties;
mod sequences;

use std::collections::BTreeSet;

use bytemuck::Zeroable as _;
use example::{Case, Scene, cases};
use fw_common::decide::Workspace;
use fw_common::{Reason, Verdict, decide};

/// Decides a scene on its own tables.
fn decided(scene: &Scene) -> Verdict {
    decide(scene.hook, &scene.arrival, &scene.frame[..], &scene.tables, &mut Workspace::zeroed())
}

/// What is wrong with the outcome of a case, in words.
fn faults(case: &Case) -> Vec<String> {
    let Case { scene, verdict, flow, inbound } = case;
    let mut faults = Vec::new();
    let found = decided(scene);
    if found != *verdict {
        faults.push(format!(
            "{}: {}\n  expected {verdict:?}\n  found    {found:?}",
            scene.hook.name(),
            scene.name
        ));
    }
    let tables = &scene.tables;
    for (flow, flows) in [(flow, &tables.flows), (inbound, &tables.inbound_flows)] {
        let Some((key, expected)) = flow else { continue };
        let flows = flows.borrow();
        let found = flows.get(key).map(|flow| (flow.state, flow.owner));
        if found != *expected {
            let name = &scene.name;
            faults
                .push(format!("{name}: flow (state, owner)\n  expected {expected:?}\n  found    {found:?}"));
        }
    }
    faults
}

#[test]
fn every_example_comes_to_its_verdict_reason_mark_and_rule() {
    let faults: Vec<String> = cases().iter().flat_map(faults).collect();
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn observing_changes_no_verdict() {
    for mut case in cases() {
        case.scene.tables.settings.observe = 1;
        assert_eq!(faults(&case), [""; 0]);
    }
}

#[test]
fn the_examples_reach_every_reason() {
    let reached: BTreeSet<u8> = cases().iter().map(|case| case.verdict.reason as u8).collect();
    let missed: Vec<_> = Reason::ALL.iter().filter(|reason| !reached.contains(&(**reason as u8))).collect();
    assert!(missed.is_empty(), "no example for {missed:?}");
}

#[test]
fn the_names_of_the_examples_tell_them_apart() {
    let mut names = BTreeSet::new();
    for case in cases() {
        let name = (case.scene.hook, case.scene.name);
        assert!(names.insert(name.clone()), "two examples are called {name:?}");
    }
}
