//! What holds when somebody takes the programs of fw off their hooks.

use std::net::SocketAddr;
use std::time::Duration;

use xtask::lab::{self, BPFFS, Container, HOST, HOST6, Lab, Options, Place, wait};

const ALLOW: &str = "[[allow]]\nname = \"web\"\nproto = \"tcp\"\nports = [8080]\n";

/// A host with a published port in both families, and one that routes for somebody else, too.
struct Ground {
    lab: Lab,
    web: Container,
    six: Container,
    behind: Place,
    _servers: Vec<lab::Server>,
}

impl Ground {
    fn make() -> Self {
        let lab = Lab::start(Options::default()).expect("a lab");
        lab.network("six", &["--subnet", "10.6.1.0/24", "--ipv6", "--subnet", "2001:db8:a::/64"])
            .expect("a network");
        let web = lab.container("web", &["-p", "8080:80", "-p", "8081:80"]).expect("a container");
        let six = lab.container("six", &["--network", "six"]).expect("a container");
        // Behind another device of the host: neither an uplink's nor Docker's.
        let behind = lab.further("behind").expect("a place");
        lab.host()
            .script(
                "ip link add vpn0 type veth peer name eth0 netns behind; ip addr add 192.168.7.1/24 dev vpn0; ip link set vpn0 up
                 ip -n behind addr add 192.168.7.2/24 dev eth0; ip -n behind link set eth0 up
                 ip -n behind route add default via 192.168.7.1
                 iptables -w -I FORWARD -i eth0 -o vpn0 -j ACCEPT; iptables -w -I FORWARD -i vpn0 -o eth0 -j ACCEPT",
            )
            .expect("a routed place");
        let servers = vec![
            web.place.serve_tcp("[::]:80", "web").expect("a server"),
            six.place.serve_tcp("[::]:80", "six").expect("a server"),
            behind.serve_tcp("[::]:80", "behind").expect("a server"),
            lab.outside().serve_tcp("[::]:443", "R").expect("a server"),
            lab.host().serve_tcp("[::]:9100", "H").expect("a server"),
        ];
        Self { lab, web, six, behind, _servers: servers }
    }

    fn outside_to(&self, to: impl Into<SocketAddr>) -> bool {
        self.lab.outside().tcp(to.into()).expect("a probe").reached()
    }

    fn published(&self) -> bool {
        self.outside_to((HOST, 8080))
    }

    /// What every fallback leaves alone: what containers open, what is routed for others, and the host's own sockets.
    fn others_pass(&self, when: &str) {
        assert!(
            self.web.place.tcp((lab::OUTSIDE, 443).into()).expect("a probe").reached(),
            "container out, {when}"
        );
        assert!(self.outside_to(([192, 168, 7, 2], 80)), "routed for others, {when}");
        assert!(
            self.behind.tcp((lab::OUTSIDE, 443).into()).expect("a probe").reached(),
            "from others, {when}"
        );
        let container = self.web.ip().expect("an address");
        assert!(
            self.lab.host().tcp((container, 80).into()).expect("a probe").reached(),
            "host to container, {when}"
        );
    }

    /// Every program off its hook, as root can; the maps stay.
    fn detach(&self) {
        self.lab.host().script(&format!("rm {BPFFS}/hooks/*")).expect("unlinked");
    }
}

fn stays(what: &str, open: bool, probe: impl Fn() -> bool) {
    wait::until(what, Duration::from_secs(5), || (probe() == open).then_some(()))
        .unwrap_or_else(|error| panic!("{error:#}, wanted open: {open}"));
}

#[test]
fn without_programs_closed_keeps_containers_closed_and_docker_does_not() {
    if !lab::available("without_programs_closed_keeps_containers_closed_and_docker_does_not") {
        return;
    }
    let ground = Ground::make();
    let lab = &ground.lab;
    let before = lab.footprint().expect("a footprint");
    for fallback in ["docker", "closed"] {
        let closed = fallback == "closed";
        let daemon = lab.fw_run(&format!("fallback = \"{fallback}\"\n{ALLOW}")).expect("fw");
        assert!(ground.published(), "allowed while the programs run ({fallback})");
        assert!(!ground.outside_to((HOST, 8081)), "not allowed while the programs run");
        ground.others_pass("the programs run");
        daemon.kill().expect("SIGKILL");
        assert!(ground.published(), "the programs outlive the daemon");
        ground.detach();
        for flushed in [false, true] {
            let when = format!("{fallback}, programs gone, DOCKER-USER flushed: {flushed}");
            if flushed {
                lab.host()
                    .script("iptables -w -F DOCKER-USER; ip6tables -w -F DOCKER-USER 2>/dev/null || true")
                    .expect("flushed");
            }
            stays(&format!("published, {when}"), !closed, || ground.published());
            stays(&format!("published and not allowed, {when}"), !closed, || ground.outside_to((HOST, 8081)));
            // Docker 20.10 filters no IPv6.
            let six = ground.six.ip6().expect("an address");
            stays(&format!("a container's IPv6 address, {when}"), !closed, || ground.outside_to((six, 80)));
            // What ends in a socket of the host carries no mark in any case: nobody can tell it.
            stays(&format!("the host's own port, {when}"), true, || ground.outside_to((HOST, 9100)));
            stays(&format!("the host's own port over IPv6, {when}"), true, || {
                ground.outside_to((HOST6, 9100))
            });
            ground.others_pass(&when);
        }
        lab.host().script("iptables -w -A DOCKER-USER -j RETURN").expect("as Docker had it");
        lab.fw_down().expect("fw down");
        let after = lab.footprint().expect("a footprint");
        assert_eq!(after, before, "{fallback}");
        assert!(ground.published() && ground.outside_to((HOST, 8081)), "Docker's defaults after fw down");
    }

    // Observing drops nothing, this neither; and a reload takes it away again.
    let daemon = lab.fw_run(&format!("mode = \"observe\"\nfallback = \"closed\"\n{ALLOW}")).expect("fw");
    assert!(ground.outside_to((HOST, 8081)));
    assert!(!lab.host().succeeds(&["nft", "list", "table", "inet", "fw"]));
    std::fs::write(lab.path("/run/lab/policy.toml"), format!("fallback = \"closed\"\n{ALLOW}"))
        .expect("a policy");
    lab.fw(&["reload"]).expect("reloaded");
    assert!(lab.host().succeeds(&["nft", "list", "table", "inet", "fw"]));
    assert!(ground.published());
    // Where it cannot stand, fw says so.
    let degraded = |wanted: bool| {
        daemon.signal("HUP").expect("SIGHUP");
        let is = || lab.fw_status().is_ok_and(|status| status["daemon"]["degraded"] == wanted).then_some(());
        wait::until(&format!("degraded: {wanted}"), Duration::from_secs(15), is)
            .unwrap_or_else(|error| panic!("{error:#}:\n{}", lab.fw_log()));
    };
    let without = "nft delete table inet fw; mount --bind /dev/null $(command -v nft)";
    lab.host().script(without).expect("no nft, and no table");
    degraded(true);
    assert!(lab.fw_log().contains("cannot find `nft`"), "{}", lab.fw_log());
    lab.host().script("umount $(readlink -f /usr/sbin/nft)").expect("nft again");
    degraded(false);
    assert!(lab.host().succeeds(&["nft", "list", "table", "inet", "fw"]));
    // Without pins `fw down` finds the rules all the same.
    daemon.kill().expect("SIGKILL");
    lab.host().script(&format!("rm -r {BPFFS}")).expect("pins gone");
    lab.fw_down().expect("fw down");
    // The kernel takes programs off a moment after their last pin is gone.
    let same = || lab.footprint().is_ok_and(|now| now == before).then_some(());
    wait::until("the footprint of before", Duration::from_secs(5), same).ok();
    assert_eq!(lab.footprint().expect("a footprint"), before);
}
