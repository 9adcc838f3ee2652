//! Uplinks.

use std::time::Instant;

use xtask::lab::tcx::Direction;
use xtask::lab::{Lab, Outcome, Place};
use xtask::replace::POLICY;

use crate::{ground, until};

/// Z09, W17, W19: a second uplink comes, loses its default route, leaves for another namespace, comes back, goes for good,
/// and comes again under its name as another device.
#[test]
fn an_uplink_comes_and_goes() {
    let Some(ground) = ground("an_uplink_comes_and_goes") else { return };
    let lab = &ground.lab;
    let _server = lab.host().serve_tcp("[::]:9100", "H").expect("a server");
    let _daemon = lab.fw_run(POLICY).expect("fw");
    let meters = ground.meters().expect("the meters");
    let beyond = lab.further("beyond").expect("another client");
    lab.further("away").expect("another namespace");

    let begun = Instant::now();
    lab.host().script(&plug("02:00:cb:00:71:01")).expect("an uplink");
    println!("Z09  hot-added: hooked after {} ms", until("up1 is hooked", || hooked(lab)).as_millis());
    meters.row("Z09", "an uplink is added", begun);
    is_closed(&beyond, "added");

    let begun = Instant::now();
    let passes = passes(lab);
    lab.host().script("ip route del default via 203.0.113.2").expect("no default route");
    // The pass that this wakes, and one that surely began behind it.
    until("a pass", || self::passes(lab) > passes);
    lab.host().script("ip addr add 203.0.113.9/32 dev lo").expect("something to look at");
    until("another pass", || self::passes(lab) > passes + 1);
    assert!(hooked(lab), "what was an uplink stays one");
    meters.row("W19", "its default route vanishes: still hooked", begun);
    is_closed(&beyond, "without a route");

    let begun = Instant::now();
    let index = index(lab);
    lab.host().script("ip link set up1 netns away").expect("it leaves");
    let took = until("its pins are swept", || !pinned(lab, &index));
    println!("W17  in another namespace: no pin, not called a hook after {} ms", took.as_millis());
    let status = lab.fw_status().expect("status");
    assert!(!status["hooks"].to_string().contains("up1"), "{status}");
    lab.host()
        .script(
            "ip -n away link set up1 netns $$; ip addr add 203.0.113.1/24 dev up1; ip link set up1 up
             ip route add default via 203.0.113.2 metric 300",
        )
        .expect("it comes back");
    println!("W17  back again: hooked after {} ms", until("up1 is hooked", || hooked(lab)).as_millis());
    meters.row("W17", "an uplink leaves the namespace and is back", begun);
    is_closed(&beyond, "back");

    let begun = Instant::now();
    let index = self::index(lab);
    lab.host().script("ip link del up1").expect("it goes");
    println!("Z09  removed: pins swept after {} ms", until("swept", || !pinned(lab, &index)).as_millis());
    lab.host().script(&plug("02:00:cb:00:71:02")).expect("another one of that name");
    assert_ne!(self::index(lab), index);
    println!(
        "W17  another of its name: hooked after {} ms",
        until("up1 is hooked", || hooked(lab)).as_millis()
    );
    meters.row("W17", "removed and made again with its name", begun);
    is_closed(&beyond, "made again");
    lab.one_program_per_hook().expect("one program per hook");
}

fn plug(mac: &str) -> String {
    format!(
        "ip link add up1 address {mac} type veth peer name eth0 netns beyond
         ip addr add 203.0.113.1/24 dev up1; ip link set up1 up
         ip -n beyond addr add 203.0.113.2/24 dev eth0; ip -n beyond link set eth0 up
         ip route add default via 203.0.113.2 metric 300"
    )
}

fn hooked(lab: &Lab) -> bool {
    let one = |direction| lab.host().tcx_programs("up1", direction).is_ok_and(|count| count == 1);
    one(Direction::Ingress) && one(Direction::Egress)
}

fn index(lab: &Lab) -> String {
    lab.host().run(&["cat", "/sys/class/net/up1/ifindex"]).expect("an index").trim().to_owned()
}

fn pinned(lab: &Lab, index: &str) -> bool {
    let pins = lab.host().script("ls /sys/fs/bpf/fw/hooks").expect("ls");
    pins.lines().any(|pin| pin.contains("uplink") && pin.split(['-', '_']).any(|part| part == index))
}

fn passes(lab: &Lab) -> u64 {
    lab.fw_status().expect("status")["daemon"]["passes"].as_u64().expect("a number")
}

fn is_closed(beyond: &Place, when: &str) {
    let to = "203.0.113.1".parse().expect("an address");
    // The host answers for the address itself: it is there.
    assert!(
        beyond.succeeds(&["busybox", "arping", "-c", "1", "-w", "3", "-I", "eth0", "203.0.113.1"]),
        "{when}"
    );
    assert_eq!(beyond.tcp(std::net::SocketAddr::new(to, 9100)).expect("a probe"), Outcome::Silent, "{when}");
}
