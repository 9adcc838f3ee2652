//! The hand-over to iptables: vetted packets take fw's rule and no further one of Docker's filter chains.

use xtask::lab::{self, HOST, Lab, OUTSIDE, Options, POLICY, RuleCounters, Town, Uplink};

#[test]
fn vetted_packets_skip_dockers_chains() {
    if !lab::available("vetted_packets_skip_dockers_chains") {
        return;
    }
    for uplink in [Uplink::Plain, Uplink::PortOfBridge] {
        let lab =
            Lab::start(Options { uplink, dockerd: Town::dockerd(), ..Options::default() }).expect("a lab");
        let town = Town::build(&lab).expect("the town");
        let stock = moved_by_traffic(&lab, &town);
        assert!(
            sum(&stock, is_dockers) > 0,
            "without fw the traffic goes through Docker's chains: {stock:?}"
        );

        let daemon = lab.fw_run(POLICY).expect("fw");
        let moved = moved_by_traffic(&lab, &town);
        println!("{uplink:?}: rules that moved while {ROUNDS} connections went in and out:");
        for (rule, packets) in moved.iter().filter(|(_, packets)| **packets > 0) {
            println!("  {packets:5} {rule}");
        }
        assert!(
            sum(&moved, is_ours) >= u64::from(ROUNDS) * 8,
            "our rules did not take the traffic: {moved:?}"
        );
        assert_eq!(sum(&moved, is_dockers), 0, "vetted packets went on into Docker's chains: {moved:?}");
        daemon.terminate().expect("SIGTERM");
        lab.fw_down().expect("fw down");
    }
}

/// Connections to a published port and out of a container; each is at least four packets in each direction.
fn moved_by_traffic(lab: &Lab, town: &Town) -> RuleCounters {
    let before = lab.filter_counters().expect("counters");
    for _ in 0..ROUNDS {
        assert!(lab.outside().tcp((HOST, 8080).into()).expect("a probe").reached_at("a1"));
        assert!(town.at("a2").place.tcp((OUTSIDE, 443).into()).expect("a probe").reached_at("R"));
    }
    let after = lab.filter_counters().expect("counters");
    after
        .into_iter()
        .map(|(rule, packets)| (rule.clone(), packets - before.get(&rule).unwrap_or(&0)))
        .collect()
}

fn sum(counters: &RuleCounters, wanted: fn(&str) -> bool) -> u64 {
    counters.iter().filter(|(rule, _)| wanted(rule)).map(|(_, packets)| packets).sum()
}

fn is_dockers(rule: &str) -> bool {
    ["-A DOCKER ", "-A DOCKER-ISOLATION-STAGE-1 ", "-A DOCKER-ISOLATION-STAGE-2 "]
        .iter()
        .any(|chain| rule.starts_with(chain))
}

/// All our rules carry the comment `fw`.
fn is_ours(rule: &str) -> bool {
    rule.contains("--comment fw ") || rule.contains("--comment \"fw")
}

const ROUNDS: u32 = 20;
