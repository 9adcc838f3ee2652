//! Holes by what else is on the host: other people's rules, programs and bridges.

use xtask::lab::tcx::Direction;
use xtask::lab::{HOST, OUTSIDE, Outcome, Place, wait};

use std::net::IpAddr;
use std::time::Duration;

use crate::ground::Ground;

/// W05: a bridge that nobody declared (lxcbr0, virbr0) opens no way that stock Docker closes.
#[test]
fn w05_undeclared_bridge() {
    let Some(ground) = Ground::start("w05_undeclared_bridge") else { return };
    let lab = &ground.lab;
    let guest = lab.further("lxc").expect("a guest");
    lab.host()
        .script(
            "ip link add lxcbr0 type bridge; ip addr add 10.0.3.1/24 dev lxcbr0; ip link set lxcbr0 up
             ip link add lxc0 type veth peer name eth0 netns lxc; ip link set lxc0 master lxcbr0 up
             ip -n lxc addr add 10.0.3.2/24 dev eth0; ip -n lxc link set eth0 up
             ip -n lxc route add default via 10.0.3.1",
        )
        .expect("a bridge");
    let _server = guest.serve_tcp("[::]:80", "lxc").expect("a server");
    let address: IpAddr = "10.0.3.2".parse().expect("an address");
    assert!(lab.host().tcp((address, 80).into()).expect("a probe").reached_at("lxc"), "the guest is there");
    let (a1, b1) = (ground.a1.ip().expect("an address"), ground.b1.ip().expect("an address"));
    let ways: [(&Place, IpAddr, u16); 5] = [
        (&guest, a1, 80),
        (&guest, a1, 81),
        (&guest, b1, 81),
        (&ground.a1.place, address, 80),
        (lab.outside(), address, 80),
    ];
    let try_all = || ways.map(|(place, address, port)| place.tcp((address, port).into()).expect("a probe"));
    ground.at_both_settings(|bridge_netfilter| {
        let stock = try_all();
        let daemon = ground.fw();
        let with_fw = try_all();
        for ((place, address, port), (stock, with_fw)) in ways.iter().zip(stock.iter().zip(&with_fw)) {
            let opened = !stock.reached() && with_fw.reached();
            assert!(!opened, "{} -> {address}:{port} was opened by fw ({bridge_netfilter})", place.name());
        }
        daemon.terminate().expect("SIGTERM");
        lab.fw_down().expect("fw down");
    });
}

/// W14: an administrator's DROP in DOCKER-USER counts, whether it was there before fw or came after it.
#[test]
fn w14_bans_in_docker_user_are_effective() {
    let Some(ground) = Ground::start("w14_bans_in_docker_user_are_effective") else { return };
    let lab = &ground.lab;
    let source = OUTSIDE.to_string();
    let rule = |verb: &str| {
        lab.host()
            .run(&["iptables", "-w", verb, "DOCKER-USER", "-s", &source, "-j", "DROP"])
            .expect("a rule");
    };
    let probe = || lab.outside().tcp((HOST, 8080).into()).expect("a probe");
    rule("-I");
    assert_eq!(probe(), Outcome::Silent, "without fw");
    let daemon = ground.fw();
    assert_eq!(probe(), Outcome::Silent, "the ban was there before fw");
    rule("-D");
    assert!(probe().reached_at("a1"), "the ban is lifted");
    rule("-I");
    // A change on Docker's side makes fw look at its rules again.
    lab.docker(&["network", "create", "another"]).expect("a network");
    wait::until("fw has seen the new network", Duration::from_secs(10), || {
        lab.fw(&["status"]).ok().filter(|status| status.contains("another"))
    })
    .expect("fw follows Docker");
    ground.at_both_settings(|bridge_netfilter| {
        assert_eq!(probe(), Outcome::Silent, "the ban came after fw ({bridge_netfilter})");
    });
    rule("-D");
    assert!(probe().reached_at("a1"), "the ban is lifted again");
    daemon.terminate().expect("SIGTERM");
}

/// W16: a foreign clsact filter and a foreign TCX program behind ours still run.
#[test]
fn w16_foreign_programs_behind_ours_run() {
    let Some(ground) = Ground::start("w16_foreign_programs_behind_ours_run") else { return };
    let lab = &ground.lab;
    let probe = || lab.outside().tcp((HOST, 8080).into()).expect("a probe");
    let made = lab.host().script(
        "ip link add sink type veth peer name drain; ip link set sink up
         tc qdisc add dev eth0 clsact
         tc filter add dev eth0 ingress protocol ip pref 9 u32 match ip dport 8080 0xffff \
           action mirred egress mirror dev sink",
    );
    if let Err(error) = &made {
        eprintln!("SKIPPED: the clsact half of w16_foreign_programs_behind_ours_run: {error:#}");
    }
    let mirrored = || {
        let text =
            lab.host().run(&["tc", "-s", "filter", "show", "dev", "eth0", "ingress"]).expect("filters");
        let sent =
            text.split_whitespace().skip_while(|word| *word != "bytes").nth(1).and_then(|n| n.parse().ok());
        sent.unwrap_or(0_u64)
    };
    let _daemon = ground.fw();
    ground.at_both_settings(|bridge_netfilter| {
        let before = mirrored();
        assert!(probe().reached_at("a1"), "the published port is open ({bridge_netfilter})");
        assert!(made.is_err() || mirrored() > before, "the foreign filter does not run ({bridge_netfilter})");
        let dropper = lab.host().attach_dropper("eth0", Direction::Ingress);
        let dropper = dropper.expect("a foreign program");
        assert_eq!(probe(), Outcome::Silent, "the foreign program does not run ({bridge_netfilter})");
        drop(dropper);
        assert!(probe().reached_at("a1"), "the foreign program is gone ({bridge_netfilter})");
    });
}
