//! The bpffs and what is pinned on it.

use std::time::{Duration, Instant};

use xtask::lab::{BPFFS, fw_binary, wait};
use xtask::replace::POLICY;

use crate::{ground, until};

/// Z08: not mounted, read-only, mounted later; unmounted while fw runs, and mounted again.
#[test]
fn a_bpffs_that_is_not_there_is_asked_for_and_one_that_goes_is_outlived() {
    let Some(ground) = ground("a_bpffs_that_is_not_there_is_asked_for_and_one_that_goes_is_outlived") else {
        return;
    };
    let lab = &ground.lab;
    let binary = fw_binary().expect("fw");
    let refused = |why: &str| {
        let mut daemon = lab.fw_begin(&binary, POLICY, &[]).expect("fw");
        assert!(!daemon.ends().expect("it ends"), "{}", lab.fw_log());
        assert!(lab.fw_log().contains(why), "{}", lab.fw_log());
    };
    let host = lab.host();
    host.script("umount /sys/fs/bpf").expect("no bpffs");
    refused("does not lie on a bpffs; mount one");
    host.script("mount -t bpf -o ro bpf /sys/fs/bpf").expect("a bpffs");
    refused("Read-only file system");
    host.script("mount -o remount,rw /sys/fs/bpf").expect("a bpffs");
    let daemon = lab.fw_run(POLICY).expect("mounted later");
    let meters = ground.meters().expect("the meters");
    let (links, hooks) =
        (lab.links().expect("links"), lab.one_program_per_hook().expect("one program per hook"));

    let begun = Instant::now();
    host.script("mount -o remount,ro /sys/fs/bpf").expect("read-only");
    let late = lab.container("late", &["--network=A"]).expect("a container");
    let says = "hook not changed";
    until("fw says so", || lab.fw_log().contains(says));
    host.script("mount -o remount,rw /sys/fs/bpf").expect("writable");
    until("the newcomer's port is hooked", || lab.one_program_per_hook().is_ok_and(|now| now == hooks + 1));
    meters.row("Z08", "read-only while fw runs, and writable again", begun);
    drop(late);
    lab.docker(&["rm", "-f", "late"]).expect("it goes");
    until("its hook is gone", || lab.links().is_ok_and(|now| now == links));

    let begun = Instant::now();
    assert!(!host.succeeds(&["umount", "/sys/fs/bpf"]), "a daemon has it open");
    host.script("umount -l /sys/fs/bpf").expect("no bpffs");
    let says = "whose bpffs was unmounted";
    let took = until("fw says so", || lab.fw_log().contains(says));
    println!("Z08  unmounted: fw says so after {} ms", took.as_millis());
    wait::pass(Duration::from_secs(2));
    meters.row("Z08", "unmounted while fw runs", begun);

    let begun = Instant::now();
    host.script("mount -t bpf bpf /sys/fs/bpf").expect("a bpffs");
    let took = until("the pins are back", || lab.links().is_ok_and(|now| now == links));
    println!(
        "Z08  mounted again: all pins are there after {} ms, links and programs are the same",
        took.as_millis()
    );
    assert_eq!(lab.one_program_per_hook().expect("one program per hook"), hooks);
    until("fw is well", || lab.fw_status().is_ok_and(|status| status["daemon"]["degraded"] == false));
    until("fw is asked where its pins are now", || lab.fw(&["reload"]).is_ok());
    // The second life is the pins' own: the daemon may die, and the next one adopts.
    daemon.kill().expect("SIGKILL");
    assert_eq!(lab.one_program_per_hook().expect("one program per hook"), hooks);
    let _daemon = lab.fw_run(POLICY).expect("fw again");
    for (pin, link) in lab.links().expect("links") {
        assert_eq!(Some(link.id), links.get(&pin).map(|link| link.id), "{pin}");
    }
    meters.row("Z08", "mounted again, killed, started", begun);
    assert_eq!(lab.one_program_per_hook().expect("one program per hook"), hooks);
}

/// Z15: pins of links and maps that somebody removes while fw runs.
#[test]
fn pins_that_are_removed_are_put_back() {
    let Some(ground) = ground("pins_that_are_removed_are_put_back") else { return };
    let lab = &ground.lab;
    let _daemon = lab.fw_run(POLICY).expect("fw");
    let hooks = lab.one_program_per_hook().expect("one program per hook");
    let meters = ground.meters().expect("the meters");
    let maps = ["ports", "flows"].map(|map| lab.map_id(map).expect("a map"));
    let begun = Instant::now();
    lab.host().script(&format!("cd {BPFFS}; rm ports flows; rm -r /run/fw")).expect("pins go");
    let there = || ["ports", "flows"].map(|map| lab.map_id(map).unwrap_or(0)) == maps;
    println!(
        "Z15  map pins removed: pinned again after {} ms",
        until("the pins are back", there).as_millis()
    );
    let took = until("its socket is back", || lab.fw(&["reload"]).is_ok());
    println!("Z15  /run/fw removed: fw is asked again {} ms after that", took.as_millis());
    meters.row("Z15", "pins of maps removed", begun);

    // Without its pin a link is gone, and its program with it: the gap lasts until the next look at everything.
    drop(meters);
    lab.host().script(&format!("rm {BPFFS}/hooks/port_ingress-*")).expect("pins go");
    let there = || lab.one_program_per_hook().is_ok_and(|now| now == hooks);
    println!(
        "Z15  link pins removed: hooked again after {} ms",
        until("the hooks are back", there).as_millis()
    );
    assert!(lab.fw_log().contains("the pin of a map"), "{}", lab.fw_log());

    // XDP by its link: nobody takes it off but by the link.
    let off = lab.host().run(&["ip", "link", "set", "eth0", "xdp", "off"]);
    println!("Z15  ip link set eth0 xdp off: {}", if off.is_ok() { "done" } else { "refused by the kernel" });
    until("XDP runs", || lab.one_program_per_hook().is_ok_and(|now| now == hooks));
}
