//! Containers whose first instruction speaks to their neighbours: nothing arrives, before the port is hooked or after.

use std::cell::Cell;
use std::time::Duration;

use xtask::lab::frame::Mac;
use xtask::lab::raw::Capture;
use xtask::lab::{Container, Lab};

use crate::ground::{Ground, mac};

/// How many are born in each round.
const BIRTHS: usize = 10;

#[test]
fn newborn_neighbours_reach_nobody() {
    let Some(ground) = Ground::start("newborn_neighbours_reach_nobody") else { return };
    let lab = &ground.lab;
    lab.set_bridge_netfilter(false).expect("the sysctl");
    let [n1, _] = &ground.n;
    let host = ground.bridge_mac("br-N");
    let listening = n1.place.capture("eth0").expect("a capture");
    born(lab, n1, "stock", 1);
    assert!(foreign(&listening, &[host, mac(n1)]) > 0, "without fw a newborn's frames arrive");

    let backstop = ground.has_backstop();
    let daemon = ground.fw();
    let listening = n1.place.capture("eth0").expect("a capture");
    born(lab, n1, "fw", BIRTHS);
    assert_eq!(foreign(&listening, &[host, mac(n1)]), 0, "frames of newborns arrived");

    daemon.signal("STOP").expect("a signal");
    let unseen = lab.container("unseen", &["--network=N"]).expect("a container");
    let at_known = n1.place.capture("eth0").expect("a capture");
    let at_unseen = unseen.place.capture("eth0").expect("a capture");
    born(lab, n1, "halted", BIRTHS / 2);
    born(lab, &unseen, "both", BIRTHS / 2);
    assert_eq!(foreign(&at_known, &[host, mac(n1)]), 0, "frames of newborns arrived, fw halted");
    if backstop {
        assert_eq!(
            foreign(&at_unseen, &[host, mac(&unseen)]),
            0,
            "one without a hook heard another, fw halted"
        );
    } else {
        eprintln!("SKIPPED: newborns among themselves: the kernel lacks CONFIG_NFT_BRIDGE_META");
    }
    daemon.signal("CONT").expect("a signal");
}

/// Runs containers that speak to `neighbour` first thing, one after the other, each to its end.
fn born(lab: &Lab, neighbour: &Container, name: &str, count: usize) {
    let to = neighbour.ip().expect("an address");
    let words =
        format!("for i in 1 2 3; do echo hello | nc -u -w 1 {to} 5000; ping -c 1 -W 1 {to}; done; true");
    for number in 0..count {
        let name = format!("{name}{number}");
        lab.docker(&[
            "run",
            "--rm",
            "--name",
            &name,
            "--network=N",
            "fwlab",
            "timeout",
            "2",
            "sh",
            "-c",
            &words,
        ])
        .or_else(|error| if error.to_string().contains("143") { Ok(String::new()) } else { Err(error) })
        .expect("a container");
    }
}

/// How many frames of others than these have arrived.
fn foreign(capture: &Capture, known: &[Mac]) -> usize {
    let count = Cell::new(0);
    capture.wait_for(Duration::from_millis(500), |frame| {
        let from = frame.get(6..12).and_then(|bytes| bytes.try_into().ok()).map(Mac);
        if from.is_some_and(|from| !known.contains(&from)) {
            count.set(count.get() + 1);
        }
        false
    });
    count.get()
}
