//! From Docker's NAT to ours and back, on a host that goes on working.

use std::time::Duration;

use xtask::lab::{self, Lab, OUTSIDE, Options, wait};

use crate::ground::POLICY;
use crate::ways::{host, reached};

/// While Docker's own rules stand, nothing is translated twice, and what to do is said.
#[test]
fn docker_s_rules_are_not_joined() {
    if !lab::available("docker_s_rules_are_not_joined") {
        return;
    }
    let lab = Lab::start(Options::default()).expect("a lab");
    let a1 = lab.container("a1", &["-p=8080:80"]).expect("a container");
    let _web = a1.place.serve_tcp("[::]:80", "a1").expect("a server");
    let _remote = lab.outside().serve_tcp("[::]:443", "R").expect("a server");
    let daemon = lab.fw_run(POLICY).expect("fw");
    let status = lab.fw_status().expect("fw status");
    assert_eq!(status["handover"]["nat"], "refused", "{status:#}");
    assert_eq!(status["daemon"]["degraded"], true, "{status:#}");
    assert!(lab.fw_log().contains("--iptables=false"), "{}", lab.fw_log());
    // dockerd 20.10 writes nothing for IPv6.
    let v4 = lab.host().run(&["iptables-save"]).expect("the rules");
    assert!(!v4.contains("FW-") && v4.contains("-A DOCKER-USER -m mark"), "{v4}");
    assert!(reached(lab.outside().tcp(host(8080))), "Docker's own NAT goes on");
    // As docs/operations.md has it; dockerd itself is left running, for it writes rules only when something changes.
    lab.host()
        .script(
            "for t in iptables ip6tables; do $t-save | grep -v DOCKER | grep -v -- '-[io] docker0' | sed 's/^:FORWARD DROP/:FORWARD ACCEPT/' | $t-restore; done",
        )
        .expect("Docker's rules taken away");
    // Docker 29 may write its rules with nftables.
    lab.host().script("nft add table ip docker-bridges").expect("a table like Docker's");
    daemon.signal("HUP").expect("SIGHUP");
    let said = || lab.fw_log().contains("nftables (docker-bridges)").then_some(());
    wait::until("fw leaves NAT to Docker's tables", Duration::from_secs(15), said).expect("refused");
    assert!(!lab.host().run(&["iptables-save"]).expect("the rules").contains("FW-"));
    lab.host().script("nft delete table ip docker-bridges").expect("no such table");
    let ours = || lab.fw_status().is_ok_and(|status| status["handover"]["nat"] == "fw").then_some(());
    wait::until("fw writes NAT", Duration::from_secs(15), ours).expect("taken over");
    assert!(reached(lab.outside().tcp(host(8080))), "our NAT: {}", rules(&lab));
    assert!(reached(a1.place.tcp((OUTSIDE, 443).into())), "our NAT: {}", rules(&lab));
    daemon.terminate().expect("SIGTERM");
    lab.fw_down().expect("fw down");
    assert!(!rules(&lab).contains("FW-"), "{}", rules(&lab));
}

fn rules(lab: &Lab) -> String {
    lab.host().script("iptables-save; ip6tables-save").expect("the rules")
}
