//! A daemon that dies while it puts new maps in place: at whatever moment, fw holds, and the next start heals.

use std::time::{Duration, Instant};

use xtask::lab::{BPFFS, fw_binary, wait};

use xtask::replace::POLICY;

use crate::ground;
use crate::layout::{FOREIGN, TODAY};

/// Killed at moments that are spread over the whole of a start, most of them where hooks go over.
#[test]
fn a_death_at_any_moment_leaves_every_hook_with_one_program() {
    let Some(ground) = ground("a_death_at_any_moment_leaves_every_hook_with_one_program") else { return };
    let lab = &ground.lab;
    let daemon = lab.fw_run(POLICY).expect("fw");
    let meters = ground.meters().expect("the meters");
    daemon.terminate().expect("SIGTERM");
    lab.relabel(FOREIGN).expect("another layout");
    let begun = Instant::now();
    let daemon = lab.fw_run(POLICY).expect("fw");
    let span = begun.elapsed();
    daemon.terminate().expect("SIGTERM");
    let hooks = lab.one_program_per_hook().expect("one program per hook");
    let (mut found, begun) = (Vec::new(), Instant::now());
    for moment in 1..=MOMENTS {
        lab.relabel(FOREIGN).expect("another layout");
        let daemon = lab.fw_begin(&fw_binary().expect("fw"), POLICY, &[]).expect("fw");
        // Not a wait for something: the moment is what the test is about.
        let percent = if moment <= 4 { moment * 20 } else { 78 + moment };
        wait::pass(span * percent / 100);
        daemon.kill().expect("SIGKILL");
        let pins =
            lab.host().script(&format!("cd {BPFFS}; ls -d next whole 2>/dev/null || true")).expect("ls");
        found.push(format!("{}{}", lab.layout().expect("a layout"), pins.replace('\n', " ")));
        assert_eq!(lab.one_program_per_hook().expect("one program per hook"), hooks, "{found:?}");
    }
    println!("killed in a start of {} ms, found (layout, unfinished sets): {found:?}", span.as_millis());
    meters.row("Z20", &format!("{MOMENTS} deaths on the way to another layout"), begun);
    let begun = Instant::now();
    let _daemon = lab.fw_run(POLICY).expect("fw once more");
    meters.row("Z20", "the start after them", begun);
    assert_eq!(lab.one_program_per_hook().expect("one program per hook"), hooks);
    assert_eq!(lab.layout().expect("a layout"), TODAY);
    let pins = lab.host().script(&format!("ls {BPFFS}")).expect("ls");
    assert!(!pins.lines().any(|name| ["next", "whole"].contains(&name)), "{pins}");
}

const MOMENTS: u32 = 12;

/// Dead while the pins are renamed: the next start, which may be another version, goes on with it.
#[test]
fn a_death_while_pins_are_renamed_is_gone_on_with() {
    let Some(ground) = ground("a_death_while_pins_are_renamed_is_gone_on_with") else { return };
    let lab = &ground.lab;
    let daemon = lab.fw_run(POLICY).expect("fw");
    let meters = ground.meters().expect("the meters");
    daemon.terminate().expect("SIGTERM");
    lab.relabel(FOREIGN).expect("another layout");
    // The old set is pinned once more, to be put back where the new one has not got to.
    let old = "/sys/fs/bpf/old";
    lab.host()
        .script(&format!(
            "mkdir {old}; cd {BPFFS}; for m in *; do [ -d $m ] || bpftool map pin pinned $PWD/$m {old}/$m; done"
        ))
        .expect("pins");
    lab.fw_run(POLICY).expect("fw with another layout").terminate().expect("SIGTERM");
    let maps = ["settings", "flows", "ports", "names"].map(|map| lab.map_id(map).expect("a map"));
    lab.host()
        .script(&format!(
            "cd {BPFFS}; mkdir whole; for m in settings flows names rules; do mv $m whole/; mv {old}/$m .; done; rm -r {old}"
        ))
        .expect("half of it");
    assert_eq!(lab.layout().expect("a layout"), FOREIGN);
    let begun = Instant::now();
    let _daemon = lab.fw_run(POLICY).expect("fw goes on with it");
    meters.row("Z20", "death while pins were renamed, then a start", begun);
    assert_eq!(["settings", "flows", "ports", "names"].map(|map| lab.map_id(map).expect("a map")), maps);
    assert!(!lab.path(&format!("{BPFFS}/whole")).exists());
    lab.one_program_per_hook().expect("one program per hook");
    wait::until("fw is well", Duration::from_secs(10), || lab.fw_status().ok()).expect("fw is well");
}
