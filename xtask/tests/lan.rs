//! Containers that share the uplink with the host (macvlan, ipvlan): before fw everything of theirs is open to the LAN,
//! with it what the rules for the host's ports open.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use serde_json::Value;
use xtask::lab::{self, Container, HOST, Lab, OUTSIDE, OUTSIDE6, Options, Outcome, Uplink, wait};

const POLICY: &str = r#"
[uplink]
published = "open"

[[allow]]
name = "web"
proto = "tcp"
ports = [8080]

[[allow]]
name = "dns"
proto = "udp"
ports = [5353]

[[out]]
name = "the host opens this"
proto = "tcp"
ports = [443]
"#;

const V4: &str = "198.18.0.70";
const V6: &str = "2001:db8:18::70";

/// A host with container `m` on its uplink, and `b` on a bridge, which publishes 8085.
struct Ground {
    lab: Lab,
    m: Container,
    servers: Vec<lab::Server>,
}

impl Ground {
    fn start(driver: &str, options: Options) -> Self {
        let lab = Lab::start(options).expect("a lab");
        let parent = format!("parent={}", lab.uplink());
        let create = ["network", "create", "-d", driver, "-o", &parent, "--ipv6"];
        let subnets =
            ["--subnet", "198.18.0.0/24", "--gateway", "198.18.0.2", "--subnet", "2001:db8:18::/64"];
        lab.docker(&[&create[..], &subnets, &["--gateway", "2001:db8:18::2", "lan"]].concat())
            .expect("a network on the uplink");
        let m =
            lab.container("lan1", &["--network", "lan", "--ip", V4, "--ip6", V6]).expect("a container on it");
        let b = lab.container("web1", &["-p", "8085:80"]).expect("a container on a bridge");
        let (place, outside) = (&m.place, lab.outside());
        let mut servers = vec![b.place.serve_tcp("[::]:80", "b").expect("a server")];
        for port in [443, 8080, 8085, 9100] {
            servers.push(place.serve_tcp(&format!("[::]:{port}"), "m").expect("a server"));
        }
        for port in [5353, 5354] {
            servers.push(place.serve_udp(&format!("[::]:{port}"), "m").expect("a server"));
        }
        servers.push(outside.serve_tcp("[::]:444", "R").expect("a server"));
        servers.push(outside.serve_udp("[::]:5000", "R").expect("a server"));
        let ground = Self { lab, m, servers };
        // Duplicate address detection takes its time.
        let there = || ground.outside_reaches(&ground.addresses(), 9100).then_some(());
        wait::until("container on the LAN", Duration::from_secs(20), there).expect("everything is open");
        ground
    }

    /// Its addresses on the LAN, the link-local one included.
    fn addresses(&self) -> Vec<IpAddr> {
        let shown = self.m.place.script("ip -6 -o addr show dev eth0 scope link").unwrap_or_default();
        let link = shown.split_whitespace().find_map(|word| word.strip_suffix("/64")?.parse().ok());
        [V4.parse().ok(), V6.parse().ok(), link].into_iter().flatten().collect()
    }

    /// As R names it: a link-local address needs the device.
    fn at(&self, address: IpAddr, port: u16) -> SocketAddr {
        match address {
            IpAddr::V6(link) if link.is_unicast_link_local() => {
                let index = self.lab.outside().script("cat /sys/class/net/eth0/ifindex").expect("an index");
                SocketAddrV6::new(link, port, 0, index.trim().parse().expect("a number")).into()
            }
            address => (address, port).into(),
        }
    }

    fn outside_reaches(&self, addresses: &[IpAddr], port: u16) -> bool {
        addresses.len() == 3 && addresses.iter().all(|to| self.tcp(*to, port).reached_at("m"))
    }

    fn tcp(&self, to: IpAddr, port: u16) -> Outcome {
        self.lab.outside().tcp(self.at(to, port)).expect("a probe")
    }

    fn udp(&self, to: IpAddr, port: u16) -> Outcome {
        self.lab.outside().udp(self.at(to, port)).expect("a probe")
    }

    fn drops(&self, hook: &str) -> u64 {
        let drops = self.lab.fw_drops().expect("drops");
        drops.get(&(hook.to_owned(), "port-not-allowed".to_owned())).copied().unwrap_or(0)
    }

    /// What the rules open is open, and nothing else.
    fn holds(&self, hook: &str) {
        let before = self.drops(hook);
        for to in self.addresses() {
            assert!(
                self.tcp(to, 8080).reached_at("m"),
                "a rule opens 8080 at {to}: {:?}",
                self.lab.fw_drops()
            );
            assert!(
                self.udp(to, 5353).reached_at("m"),
                "a rule opens 5353 at {to}: {:?}",
                self.lab.fw_drops()
            );
            assert_eq!(self.tcp(to, 9100), Outcome::Silent, "no rule for 9100 at {to}");
            assert_eq!(self.udp(to, 5354), Outcome::Silent, "no rule for 5354 at {to}");
            // Published at the host, which opens it there alone.
            assert_eq!(self.tcp(to, 8085), Outcome::Silent, "8085 is not published at {to}");
        }
        assert!(!self.lab.outside().ping(V4.parse().expect("an address")).expect("a ping").reached());
        assert!(self.drops(hook) > before, "{:?}", self.lab.fw_drops());
        assert!(self.lab.outside().tcp((HOST, 8085).into()).expect("a probe").reached_at("b"));
        // What the container opens is answered, though the host itself may not open it.
        for to in [IpAddr::from(OUTSIDE), OUTSIDE6.into()] {
            assert!(self.m.place.tcp((to, 444).into()).expect("a probe").reached_at("R"), "{to}");
            assert!(self.m.place.udp((to, 5000).into()).expect("a probe").reached_at("R"), "{to}");
            assert!(self.m.place.ping(to).expect("a ping").reached(), "{to}");
            assert!(!self.lab.host().tcp((to, 444).into()).expect("a probe").reached(), "{to}");
        }
    }

    fn stations(&self) -> Vec<Value> {
        let text = self.lab.fw(&["table", "stations", "--json"]).expect("fw table stations");
        serde_json::from_str(&text).expect("JSON")
    }
}

#[test]
fn a_macvlan_container_is_closed_to_the_lan_but_for_rules() {
    if !lab::available("a_macvlan_container_is_closed_to_the_lan_but_for_rules") {
        return;
    }
    let ground = Ground::start("macvlan", Options::default());
    let lab = &ground.lab;
    let daemon = lab.fw_run(POLICY).expect("fw");
    ground.holds("uplink_ingress");
    let [station] = &ground.stations()[..] else { panic!("{:?}", ground.stations()) };
    assert_eq!(station["mac"].as_str(), ground.m.mac.map(|mac| mac.to_string()).as_deref());
    let status = lab.fw_status().expect("status");
    assert_eq!(status["stations"][0]["container"], "lan1", "{}", status["stations"]);

    // An address that it gives itself is behind the same MAC address.
    ground.m.place.script("ip addr add 198.18.0.71/24 dev eth0").expect("an address");
    let own = "198.18.0.71".parse().expect("an address");
    assert_eq!(ground.tcp(own, 9100), Outcome::Silent);
    assert!(ground.tcp(own, 8080).reached_at("m"));

    // One that starts later is known soon; one that is gone is forgotten.
    let late = lab.container("late", &["--network", "lan", "--ip", "198.18.0.72"]).expect("another one");
    wait::until("fw knows it", Duration::from_secs(10), || (ground.stations().len() == 2).then_some(()))
        .expect("known");
    let _servers =
        [8080, 9100].map(|port| late.place.serve_tcp(&format!("0.0.0.0:{port}"), "late").expect("a server"));
    let at = "198.18.0.72".parse().expect("an address");
    assert!(ground.tcp(at, 8080).reached_at("late"), "{:?}", lab.fw_drops());
    assert_eq!(ground.tcp(at, 9100), Outcome::Silent);
    // The kernel hands frames between the two round on the parent, past its hooks; so it does with those of a macvlan
    // device of the host's own.
    assert!(ground.m.place.tcp((at, 9100).into()).expect("a probe").reached_at("late"), "its neighbour");
    assert!(late.place.udp((ground.addresses()[0], 5354).into()).expect("a probe").reached_at("m"));
    let shim = "ip link add shim link eth0 type macvlan mode bridge && ip addr add 198.18.0.75/32 dev shim \
                && ip link set shim up && ip route add 198.18.0.70/32 dev shim";
    lab.host().script(shim).expect("a device");
    wait::until("fw knows it", Duration::from_secs(10), || (ground.stations().len() == 3).then_some(()))
        .expect("known");
    // It is an uplink, too, by which the host may open what it may.
    let from_host =
        || lab.host().tcp((ground.addresses()[0], 443).into()).ok()?.reached_at("m").then_some(());
    wait::until("the host over it", Duration::from_secs(10), from_host).expect("they meet");
    lab.host().script("ip link del shim").expect("gone");
    wait::until("fw forgets it", Duration::from_secs(10), || (ground.stations().len() == 2).then_some(()))
        .expect("forgotten");
    lab.docker(&["rm", "-f", "late"]).expect("gone");
    wait::until("fw forgets it", Duration::from_secs(10), || (ground.stations().len() == 1).then_some(()))
        .expect("forgotten");

    // XDP drops the same.
    std::fs::write(
        lab.path("/run/lab/policy.toml"),
        POLICY.replace("[uplink]\n", "[uplink]\nxdp = \"generic\"\n"),
    )
    .expect("a policy");
    daemon.signal("HUP").expect("SIGHUP");
    let early = || {
        ground.tcp(V4.parse().expect("an address"), 9100);
        (ground.drops("uplink_xdp") > 0).then_some(())
    };
    wait::until("XDP drops it", Duration::from_secs(15), early).expect("early");
    ground.holds("uplink_xdp");

    daemon.terminate().expect("SIGTERM");
    lab.fw_down().expect("fw down");
    assert!(ground.outside_reaches(&ground.addresses(), 9100), "after fw down");
    assert!(ground.servers.len() > 1);
}

#[test]
fn so_is_one_on_a_bridge_that_is_the_uplink() {
    if !lab::available("so_is_one_on_a_bridge_that_is_the_uplink") {
        return;
    }
    let options = Options { uplink: Uplink::PortOfBridge, ..Options::default() };
    let ground = Ground::start("macvlan", options);
    let _daemon = ground.lab.fw_run(POLICY).expect("fw");
    ground.holds("uplink_ingress");
}

#[test]
fn so_is_an_ipvlan_container() {
    const NAME: &str = "so_is_an_ipvlan_container";
    if !lab::available(NAME) {
        return;
    }
    let probe = Lab::start(Options::default()).expect("a lab");
    let made =
        probe.host().script("ip link add fwprobe link eth0 type ipvlan mode l2 && ip link del fwprobe");
    if let Err(error) = made {
        eprintln!("SKIPPED: {NAME}: this kernel makes no ipvlan device: {error:#}");
        return;
    }
    drop(probe);
    let ground = Ground::start("ipvlan", Options::default());
    let _daemon = ground.lab.fw_run(POLICY).expect("fw");
    ground.holds("uplink_ingress");
    assert!(ground.stations().is_empty(), "it has the MAC address of the host");
}

/// A container with `--network host` is the host: the same doors, open and closed.
#[test]
fn a_container_in_the_host_network_is_the_host() {
    if !lab::available("a_container_in_the_host_network_is_the_host") {
        return;
    }
    let lab = Lab::start(Options::default()).expect("a lab");
    lab.container("host1", &["--network", "host", "-p", "9100:9100"])
        .expect("a container in the host's network");
    let _servers =
        [8080, 9100].map(|port| lab.host().serve_tcp(&format!("[::]:{port}"), "h").expect("a server"));
    let at = |port| lab.outside().tcp((HOST, port).into()).expect("a probe");
    assert!(at(8080).reached_at("h") && at(9100).reached_at("h"), "all is open without fw");
    let _daemon = lab.fw_run(POLICY).expect("fw");
    assert!(at(8080).reached_at("h"), "a rule opens it");
    assert_eq!(at(9100), Outcome::Silent, "Docker publishes nothing of it, whatever `-p` says");
    let exposure = lab.fw_status().expect("status")["exposure"].clone();
    let ports = exposure.as_array().expect("exposure").iter().map(|row| row["ports"].clone());
    assert!(!ports.into_iter().any(|port| port == "9100"), "{exposure}");
}
