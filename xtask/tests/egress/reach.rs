//! One network reaches another: in one direction, by its true source, and past Docker's own isolation.

use super::*;
use ground::{drops, network, serve_any};

struct Towns {
    lab: Lab,
    front: Container,
    back: Container,
    inner: Container,
    servers: Vec<[Server; 2]>,
}

impl Towns {
    fn start(test: &str) -> Option<Self> {
        if !lab::available(test) {
            return None;
        }
        let lab = Lab::start(Options::default()).expect("a lab");
        network(&lab, "front", 1, &[]);
        network(&lab, "back", 2, &[]);
        network(&lab, "inner", 3, &["--internal"]);
        let container =
            |name: &str| lab.container(name, &[&format!("--network={name}-net")]).expect("a container");
        let (front, back, inner) = (container("front"), container("back"), container("inner"));
        let servers = [&front, &back, &inner]
            .map(|container| serve_any(&container.place, 80, 53))
            .into_iter()
            .collect();
        Some(Self { lab, front, back, inner, servers })
    }

    fn holds(&self, when: &str) {
        for (kind, address, outcome) in tries(&self.front, &self.back) {
            assert!(outcome.reached(), "{when}: front -> {address} {kind:?}: {outcome:?}");
        }
        for server in &self.servers[1] {
            for own in [self.front.ip(), self.front.ip6()] {
                let own = own.expect("an address");
                let heard = server.heard();
                assert!(
                    heard.iter().any(|heard| heard.from.ip() == own),
                    "{when}: {own} not among {heard:?}"
                );
            }
        }
        let before = drops(&self.lab, "port_ingress", "isolation");
        for (from, to) in [(&self.back, &self.front), (&self.front, &self.inner), (&self.inner, &self.front)]
        {
            for (kind, address, outcome) in tries(from, to) {
                // An internal network has no route out: its own kernel may refuse at once.
                assert!(!outcome.reached(), "{when}: {} -> {address} {kind:?}: {outcome:?}", from.name);
            }
        }
        let dropped = drops(&self.lab, "port_ingress", "isolation") - before;
        assert!(dropped >= 12, "{when}: {dropped} dropped");
    }
}

fn tries(from: &Container, to: &Container) -> Vec<(Kind, IpAddr, Outcome)> {
    let addresses = [to.ip(), to.ip6()].map(|address| address.expect("an address"));
    let tries = addresses.into_iter().flat_map(|address| Kind::ALL.map(|kind| (kind, address)));
    std::thread::scope(|scope| {
        let running: Vec<_> = tries
            .map(|(kind, address)| {
                scope.spawn(move || (kind, address, kind.probe(&from.place, address, kind.container_port())))
            })
            .collect();
        running.into_iter().map(|probe| probe.join().expect("a probe")).collect()
    })
}

#[test]
fn a_network_reaches_another_in_one_direction_and_by_its_true_source() {
    let test = "a_network_reaches_another_in_one_direction_and_by_its_true_source";
    let Some(towns) = Towns::start(test) else { return };
    let v4 = towns.back.ip().expect("an address");
    let docker = towns.front.place.tcp((v4, 80).into()).expect("a probe");
    assert_eq!(docker, Outcome::Silent, "stock Docker keeps its networks apart");

    let daemon = towns.lab.fw_run(POLICY).expect("fw");
    wait::until("the warning about the internal network", Duration::from_secs(10), || {
        let log = towns.lab.fw_log();
        (log.contains("does not reach `inner-net`") && log.contains("is internal")).then_some(())
    })
    .expect("a warning");
    for bridge_netfilter in [true, false] {
        towns.lab.set_bridge_netfilter(bridge_netfilter).expect("the sysctl");
        towns.holds(&format!("bridge-nf-call-iptables {bridge_netfilter}"));
    }
    // The answers of a long connection come back as long as it is there.
    let mut stream = towns.front.place.connect((v4, 80).into()).expect("a connection");
    assert!(ask(&mut stream).reached_at("back"));
    daemon.kill().expect("SIGKILL");
    towns.holds("the daemon is dead");
    assert!(ask(&mut stream).reached_at("back"));

    // Without the line the networks are apart again, and so is Docker's NAT as it was.
    let nat = || towns.lab.host().run(&["iptables-save", "-t", "nat"]).expect("iptables");
    assert!(nat().contains("--comment fw"), "no masquerade between the networks: {}", nat());
    let _daemon = towns.lab.fw_run("").expect("fw once more");
    let apart = towns.front.place.tcp((v4, 80).into()).expect("a probe");
    assert_eq!(apart, Outcome::Silent);
    assert!(!nat().contains("--comment fw"), "{}", nat());
}

const POLICY: &str = r#"
[networks.front-net]
reach = ["back-net", "inner-net"]

[networks.back-net]
egress = "none"
"#;
