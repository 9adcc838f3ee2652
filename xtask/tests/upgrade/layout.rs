//! Maps of another layout or size: all of them are made anew beside those in force, and every hook goes over.

use std::time::{Duration, Instant};

use xtask::lab::{Lab, wait};

use xtask::replace::POLICY;

use crate::ground;

/// A layout that no fw has.
pub(crate) const FOREIGN: u8 = 200;
/// What the maps of today's fw say.
pub(crate) const TODAY: u8 = fw_common::ABI_VERSION as u8;

/// Z20: SIGTERM, another layout, and back; the links stay, everything behind them is new, no connection notices.
#[test]
fn another_layout_gives_way_under_load() {
    let Some(ground) = ground("another_layout_gives_way_under_load") else { return };
    let lab = &ground.lab;
    let before = lab.footprint().expect("a footprint");
    let daemon = lab.fw_run(POLICY).expect("fw");
    let meters = ground.meters().expect("the meters");
    let (links, map) = (lab.links().expect("links"), lab.map_id("flows").expect("a map"));
    let hooks = lab.one_program_per_hook().expect("one program per hook");
    assert_eq!(hooks, links.len());
    let begun = Instant::now();
    daemon.terminate().expect("SIGTERM");
    // Layout 2 has no word on its flows, and they are today's.
    lab.relabel(2).expect("another layout");
    let refused = format!("{:#}", lab.fw(&["status"]).expect_err("these maps are not read"));
    assert!(refused.contains("have layout 2"), "{refused}");
    let daemon = lab.fw_run(POLICY).expect("fw with another layout");
    meters.row("Z20", "from layout 2, flows carried over", begun);
    gone_over(lab, 1);
    assert_eq!(lab.one_program_per_hook().expect("one program per hook"), hooks);
    assert_ne!(lab.map_id("flows").expect("a map"), map, "the map is a new one");
    for (pin, link) in lab.links().expect("links") {
        let before = links.get(&pin).unwrap_or_else(|| panic!("{pin} was there before"));
        assert_eq!(link.id, before.id, "the link {pin} is the same");
        assert_ne!(link.program, before.program, "the program behind {pin} is a new one");
    }

    // From a newer one, as after an upgrade that is taken back; by a kill.
    let begun = Instant::now();
    daemon.kill().expect("SIGKILL");
    lab.relabel(FOREIGN).expect("another layout");
    let daemon = lab.fw_run(POLICY).expect("fw with another layout");
    meters.row("Z20", "back from a newer layout", begun);
    gone_over(lab, 2);
    assert_eq!(lab.one_program_per_hook().expect("one program per hook"), hooks);

    // From one whose flows mean something else: what is known comes from conntrack.
    let begun = Instant::now();
    daemon.terminate().expect("SIGTERM");
    lab.relabel(FOREIGN).expect("another layout");
    lab.relabel_flows(FOREIGN).expect("another layout of flows");
    let before_seeding = lab.fw_log().matches("connections from before are known").count();
    let daemon = lab.fw_run(POLICY).expect("fw with another layout");
    meters.row("Z20", "other flows, too: filled from conntrack", begun);
    gone_over(lab, 3);
    assert_eq!(lab.fw_log().matches("connections from before are known").count(), before_seeding + 1);

    // `fw down` knows whose directory it is, though a rebuild lies between.
    drop(meters);
    daemon.terminate().expect("SIGTERM");
    lab.fw_down().expect("fw down");
    assert_eq!(lab.footprint().expect("a footprint"), before, "nothing is left");
}

/// A table of another size waits for the next start, which gives it: nothing is taken down for it.
#[test]
fn another_size_takes_effect_with_the_next_start() {
    let Some(ground) = ground("another_size_takes_effect_with_the_next_start") else { return };
    let lab = &ground.lab;
    let daemon = lab.fw_run(POLICY).expect("fw");
    let meters = ground.meters().expect("the meters");
    let larger =
        format!("{POLICY}\n[[allow]]\nname = \"ping\"\nproto = \"icmp\"\n[tables]\nflows = 524288\n");
    let map = lab.map_id("flows").expect("a map");
    std::fs::write(lab.path("/run/lab/policy.toml"), &larger).expect("a policy");
    daemon.signal("HUP").expect("SIGHUP");
    let says = "take effect with the next start";
    wait::until(says, Duration::from_secs(10), || lab.fw_log().contains(says).then_some(())).expect(says);
    // The rest of that policy is in force.
    let pings = || lab.outside().ping(xtask::lab::HOST.into()).is_ok_and(|it| it.reached()).then_some(());
    wait::until("the new rule", Duration::from_secs(10), pings).expect("the new rule");
    assert_eq!(lab.map_id("flows").expect("a map"), map);
    let begun = Instant::now();
    daemon.terminate().expect("SIGTERM");
    let _daemon = lab.fw_run(&larger).expect("fw with larger tables");
    meters.row("Z20", "larger [tables]", begun);
    gone_over(lab, 1);
    let shown = lab.host().script("bpftool map show pinned /sys/fs/bpf/fw/flows").expect("bpftool");
    assert!(shown.contains("max_entries 524288"), "{shown}");
    lab.one_program_per_hook().expect("one program per hook");
}

/// Z15: pins of maps that somebody removed: the next daemon makes a whole set, and nobody notices.
#[test]
fn maps_without_pins_are_made_anew() {
    let Some(ground) = ground("maps_without_pins_are_made_anew") else { return };
    let lab = &ground.lab;
    let daemon = lab.fw_run(POLICY).expect("fw");
    let meters = ground.meters().expect("the meters");
    let begun = Instant::now();
    daemon.terminate().expect("SIGTERM");
    lab.host().script("rm /sys/fs/bpf/fw/ports /sys/fs/bpf/fw/endpoints").expect("pins go");
    let _daemon = lab.fw_run(POLICY).expect("fw with half a set");
    meters.row("Z15", "pins of two maps removed, then a start", begun);
    gone_over(lab, 1);
    lab.one_program_per_hook().expect("one program per hook");
}

/// Whether so many starts have made new maps, and left nothing beside them.
pub(crate) fn gone_over(lab: &Lab, times: usize) {
    assert_eq!(lab.fw_log().matches("new ones took their place").count(), times, "{}", lab.fw_log());
    assert_eq!(lab.layout().expect("a layout"), TODAY);
    let pins = lab.host().script("ls /sys/fs/bpf/fw").expect("ls");
    assert!(!pins.lines().any(|name| ["next", "whole"].contains(&name)), "{pins}");
}
