//! `fw down` leaves the host as it was before `fw run`.

use xtask::lab::{self, Lab, Options, POLICY, Town, Uplink, doors};

#[test]
fn rules_qdiscs_programs_and_pins_are_as_before() {
    if !lab::available("rules_qdiscs_programs_and_pins_are_as_before") {
        return;
    }
    for uplink in [Uplink::Plain, Uplink::PortOfBridge] {
        let lab =
            Lab::start(Options { uplink, dockerd: Town::dockerd(), ..Options::default() }).expect("a lab");
        let town = Town::build(&lab).expect("the town");
        foreign(&lab);
        let before = lab.footprint().expect("a footprint");
        // Twice: what the first round leaves would be taken for the administrator's by the second.
        for round in ["first", "second"] {
            let daemon = lab.fw_run(POLICY).expect("fw");
            assert_ne!(
                lab.footprint().expect("a footprint"),
                before,
                "fw is not to be seen ({uplink:?}, {round})"
            );
            doors::held(&lab, &town, "fw runs").expect("fw holds");
            daemon.terminate().expect("SIGTERM");
            lab.fw_down().expect("fw down");
            let after = lab.footprint().expect("a footprint");
            assert!(after == before, "{uplink:?}, {round} round:\n{}", difference(&before, &after));
        }
        doors::all_open(&lab, &town, "after fw down").expect("stock Docker again");
    }
}

#[test]
fn down_takes_away_what_a_killed_daemon_left() {
    if !lab::available("down_takes_away_what_a_killed_daemon_left") {
        return;
    }
    let lab = Lab::start(Options { dockerd: Town::dockerd(), ..Options::default() }).expect("a lab");
    let _town = Town::build(&lab).expect("the town");
    let before = lab.footprint().expect("a footprint");
    lab.fw_run(POLICY).expect("fw").kill().expect("SIGKILL");
    lab.fw_down().expect("fw down");
    let after = lab.footprint().expect("a footprint");
    assert!(after == before, "{}", difference(&before, &after));

    // The directory of another fw, or one mistyped, takes nothing of this one; a pin that somebody has removed hides nothing.
    lab.fw_run(POLICY).expect("fw").kill().expect("SIGKILL");
    let stands = lab.footprint().expect("a footprint");
    let binary = lab::fw_binary().expect("fw").display().to_string();
    lab.host().run(&[&binary, "down", "--bpffs", "/sys/fs/bpf/other"]).expect("nothing is in force there");
    assert_eq!(lab.footprint().expect("a footprint"), stands);
    lab.host().script(&format!("rm {}/settings", lab::BPFFS)).expect("a pin less");
    lab.fw_down().expect("fw down");
    let after = lab.footprint().expect("a footprint");
    assert!(after == before, "{}", difference(&before, &after));
}

/// What other people have on the same host; it has to survive in its place.
fn foreign(lab: &Lab) {
    lab.host()
        .script(
            "iptables -w -I DOCKER-USER -s 203.0.113.66 -j DROP
             iptables -w -t mangle -A PREROUTING -s 203.0.113.67 -j MARK --set-mark 0x1
             ip6tables -w -A INPUT -s 2001:db8:66::/64 -j DROP
             tc qdisc add dev eth0 clsact
             tc filter add dev eth0 ingress protocol ip pref 7 u32 match ip dport 9 0xffff classid 1:1",
        )
        .expect("foreign rules");
}

fn difference(before: &str, after: &str) -> String {
    let only = |sign: &'static str, these: &str, those: &str| -> Vec<String> {
        let others: Vec<_> = those.lines().collect();
        these.lines().filter(|line| !others.contains(line)).map(|line| format!("{sign}{line}")).collect()
    };
    [only("-", before, after), only("+", after, before)].concat().join("\n")
}
