//! Starts that fail: what was in force stays in force, whole.

use std::time::Instant;

use xtask::lab::tcx::Direction;
use xtask::lab::{BPFFS, fw_binary};

use xtask::replace::POLICY;

use crate::ground;
use crate::layout::{FOREIGN, gone_over};

/// Z22, clsact: the last of the old hooks cannot be taken over, and those before it get back the programs that they had.
#[test]
fn a_refused_filter_leaves_the_old_programs_in_the_others() {
    let Some(ground) = ground("a_refused_filter_leaves_the_old_programs_in_the_others") else { return };
    let lab = &ground.lab;
    let daemon = lab.fw_run_with(POLICY, &["--attach", "clsact"]).expect("fw");
    daemon.terminate().expect("SIGTERM");
    lab.relabel(FOREIGN).expect("another layout");
    // Hooks go over in the order of their devices.
    let pins = lab.host().script(&format!("ls {BPFFS}/hooks | grep _clsact")).expect("pins");
    let number =
        |pin: &str| pin.trim_end_matches("_clsact").rsplit_once('-').and_then(|it| it.1.parse::<u32>().ok());
    let last = pins.lines().filter_map(number).max().expect("a hook");
    let name = lab
        .host()
        .script(&format!("ip -o link | sed -n 's/^{last}: \\([^@:]*\\).*/\\1/p'"))
        .expect("a device");
    let name = name.trim();
    let other = format!(
        "tc filter del dev {name} ingress pref 1; \
         tc filter add dev {name} ingress pref 1 protocol ip handle 0xf1 bpf bytecode '1,6 0 0 0,'"
    );
    lab.host().script(&other).expect("somebody's filter");
    let filters = || {
        let all = "for device in $(ls /sys/class/net); do for way in ingress egress; do \
                   tc filter show dev $device $way | grep -o 'id [0-9]* name [a-z_]*' | sed \"s/^/$device $way/\"; done; done";
        lab.host().script(all).expect("filters")
    };
    let before = filters();
    assert!(before.lines().count() >= 4, "{before}");
    let mut daemon = lab.fw_begin(&fw_binary().expect("fw"), POLICY, &["--attach", "clsact"]).expect("fw");
    assert!(!daemon.ends().expect("it ends"), "{}", lab.fw_log());
    assert!(lab.fw_log().contains(&format!("cannot take over port_ingress on {name}")), "{}", lab.fw_log());
    assert_eq!(lab.layout().expect("a layout"), FOREIGN);
    assert_eq!(filters(), before, "{}", lab.fw_log());
    lab.host().script(&format!("tc filter del dev {name} ingress pref 1")).expect("it goes");
    let _daemon = lab.fw_run_with(POLICY, &["--attach", "clsact"]).expect("fw");
    let after = filters();
    assert!(before.lines().all(|program| !after.contains(program)), "all are others: {before}{after}");
}

/// Z22: the new maps or programs cannot be made; one of the new hooks cannot be attached; one of the old ones cannot be
/// taken over.
#[test]
fn a_failed_start_leaves_the_old_set_in_force() {
    let Some(ground) = ground("a_failed_start_leaves_the_old_set_in_force") else { return };
    let lab = &ground.lab;
    let daemon = lab.fw_run(POLICY).expect("fw");
    let meters = ground.meters().expect("the meters");
    daemon.terminate().expect("SIGTERM");
    lab.relabel(FOREIGN).expect("another layout");
    let before = lab.footprint().expect("a footprint");
    let links = lab.links().expect("links");
    let binary = fw_binary().expect("fw");
    let fails = |what: &str, binary: &std::path::Path, policy: &str, says: &str| {
        let begun = Instant::now();
        let mut daemon = lab.fw_begin(binary, policy, &[]).expect("fw");
        assert!(!daemon.ends().expect("it ends"), "{what}: {}", lab.fw_log());
        meters.row("Z22", what, begun);
        assert!(lab.fw_log().contains(says), "{what}: {}", lab.fw_log());
        assert_eq!(lab.layout().expect("a layout"), FOREIGN, "{what}");
    };

    // Not even all files can be opened that a set of maps and programs needs.
    let limited = lab.path("/run/lab/limited");
    std::fs::write(&limited, format!("#!/bin/sh\nulimit -n 40\nexec {} \"$@\"\n", binary.display()))
        .expect("a script");
    lab.host().script("chmod +x /run/lab/limited").expect("chmod");
    fails("not all programs and maps can be loaded", "/run/lab/limited".as_ref(), POLICY, "cannot load");
    assert_eq!(lab.footprint().expect("a footprint"), before);
    assert_eq!(lab.links().expect("links"), links);

    // As many programs as the kernel lets a device have are on another uplink: ours is one too many.
    lab.host().script("ip link add up1 type veth peer name up2; ip link set up1 up").expect("a device");
    let full: Vec<_> =
        std::iter::from_fn(|| lab.host().attach_dropper("up1", Direction::Egress).ok()).take(100).collect();
    assert!((10..100).contains(&full.len()), "{} programs fit", full.len());
    let wider = POLICY.replace("[uplink]\n", "[uplink]\ninterfaces = [\"eth0\", \"up1\"]\n");
    fails("one of the new hooks cannot be attached", &binary, &wider, "cannot attach uplink_egress on up1");
    drop(full);
    lab.host().script("ip link del up1").expect("it goes");
    assert_eq!(lab.footprint().expect("a footprint"), before);
    assert_eq!(lab.links().expect("links"), links);

    // What stands where the link of a hook should, which runs, is no link.
    let (pin, _) = links.iter().find(|(pin, _)| pin.starts_with("port_ingress")).expect("a port");
    lab.host().script(&format!("cd {BPFFS}/hooks; mv {pin} ../aside; mkdir {pin}")).expect("no link");
    fails("one of the old hooks cannot be taken over", &binary, POLICY, "cannot look behind the pinned link");
    lab.host()
        .script(&format!("cd {BPFFS}/hooks; rmdir {pin}; mv ../aside {pin}"))
        .expect("the link is back");
    assert_eq!(lab.footprint().expect("a footprint"), before);
    assert_eq!(lab.links().expect("links"), links);

    let begun = Instant::now();
    let _daemon = lab.fw_run(POLICY).expect("fw");
    meters.row("Z22", "the start that succeeds", begun);
    gone_over(lab, 1);
    lab.one_program_per_hook().expect("one program per hook");
}
