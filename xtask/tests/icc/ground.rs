//! The host on which neighbours are kept apart, and the frames that they would send each other.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use xtask::lab::frame::{ETHERTYPE_ARP, Mac, arp, ethernet, icmp, ip_frame, tagged, udp};
use xtask::lab::raw::Capture;
use xtask::lab::{self, Container, Daemon, Lab, OUTSIDE, Options, Server};

/// Network N (dual stack, closed by Docker): n1, n2 (publishes 8089). Network O: open by Docker, o1 and o2. Network C:
/// closed by Docker, c1 and c2. The default network, closed by Docker: svr (exposes 80), client (linked to it), d1.
pub(crate) struct Ground {
    pub(crate) lab: Lab,
    pub(crate) n: [Container; 2],
    servers: Vec<Server>,
}

impl Ground {
    /// The host, or nothing (after having said why) where no lab can be made.
    pub(crate) fn start(test: &str) -> Option<Self> {
        if !lab::available(test) {
            return None;
        }
        let options = Options { dockerd: vec!["--icc=false".to_owned()], ..Options::default() };
        let lab = Lab::start(options).expect("a lab");
        lab.network("N", &["--subnet=10.4.0.0/24", "--ipv6", "--subnet=2001:db8:4::/64", CLOSE[0], CLOSE[1]])
            .expect("a network");
        let n1 = lab.container("n1", &["--network=N"]).expect("a container");
        let n2 = lab.container("n2", &["--network=N", "-p=8089:80"]).expect("a container");
        let mut ground = Self { lab, n: [n1, n2], servers: Vec::new() };
        for container in ground.n.clone() {
            ground.serve(&container);
        }
        ground.servers.push(ground.lab.outside().serve_tcp("[::]:443", "R").expect("a server"));
        Some(ground)
    }

    /// Serves TCP 80 and 81 in a container.
    pub(crate) fn serve(&mut self, container: &Container) {
        let serve = |port| container.place.serve_tcp(&format!("[::]:{port}"), &container.name);
        self.servers.extend([80, 81].map(|port| serve(port).expect("a server")));
    }

    /// A container that serves TCP 80 and 81.
    pub(crate) fn container(&mut self, name: &str, options: &[&str]) -> Container {
        let container = self.lab.container(name, options).expect("a container");
        self.serve(&container);
        container
    }

    /// Starts fw with [`POLICY`].
    pub(crate) fn fw(&self) -> Daemon<'_> {
        self.lab.fw_run(POLICY).expect("fw")
    }

    /// Does `work` at both settings of bridge netfilter.
    pub(crate) fn at_both_settings(&self, mut work: impl FnMut(bool)) {
        for bridge_netfilter in [true, false] {
            self.lab.set_bridge_netfilter(bridge_netfilter).expect("the sysctl");
            work(bridge_netfilter);
        }
    }

    /// Whether the kernel has what fw's static table for bridges asks for.
    pub(crate) fn has_backstop(&self) -> bool {
        let table =
            "table bridge probe { chain c { meta ibrname \"x\" counter; }; }; delete table bridge probe;";
        self.lab.host().succeeds(&["nft", table])
    }

    /// A drop counter.
    pub(crate) fn drops(&self, hook: &str, reason: &str) -> u64 {
        let drops = self.lab.fw_drops().expect("the drop counters");
        drops.get(&(hook.to_owned(), reason.to_owned())).copied().unwrap_or(0)
    }

    /// The bridge's own address.
    pub(crate) fn bridge_mac(&self, bridge: &str) -> Mac {
        let text = self.lab.host().run(&["cat", &format!("/sys/class/net/{bridge}/address")]);
        text.expect("an address").parse().expect("a MAC address")
    }
}

/// Every kind of frame that `from` may send to its neighbour `to`: what it is, and its bytes with a mark to know it by.
pub(crate) fn frames(from: &Container, to: &Container) -> Vec<(String, Vec<u8>)> {
    let (own, there) = (mac(from), mac(to));
    let (v4, v6) = ((from.ip(), to.ip()), (from.ip6(), to.ip6()));
    let (v4, v6) = ((v4.0.expect("IPv4"), v4.1.expect("IPv4")), (v6.0.expect("IPv6"), v6.1.expect("IPv6")));
    let plain = |id: usize, (source, destination): (IpAddr, IpAddr)| {
        udp((source, 6001), (destination, 5000), mark(id).as_bytes())
    };
    let mut frames: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |name: String, frame: &dyn Fn(usize) -> Vec<u8>| {
        let id = frames.len();
        frames.push((name, frame(id)));
    };
    for (family, pair) in [("IPv4", v4), ("IPv6", v6)] {
        for tags in [0, 1, 2, 3, 4, 5, 8] {
            add(format!("{family} behind {tags} tags"), &|id| {
                tagged(&ip_frame(there, own, &plain(id, pair)), &vec![0; tags])
            });
        }
        for tags in [&[0x88a8][..], &[0x88a8, 0x8100], &[0x88a8, 0x88a8]] {
            add(format!("{family} behind tags {tags:04x?}"), &|id| {
                let frame = ip_frame(there, own, &plain(id, pair));
                let tags = tags.iter().flat_map(|kind: &u16| [(kind >> 8) as u8, *kind as u8, 0, 0]);
                frame[..12].iter().copied().chain(tags).chain(frame[12..].iter().copied()).collect()
            });
        }
        add(format!("{family} in another VLAN"), &|id| tagged(&ip_frame(there, own, &plain(id, pair)), &[5]));
        add(format!("{family} for all"), &|id| ip_frame(Mac::BROADCAST, own, &plain(id, pair)));
        add(format!("{family} for a group"), &|id| ip_frame(GROUP, own, &plain(id, pair)));
        add(format!("{family} for elsewhere over the neighbour"), &|id| {
            let elsewhere = if pair.0.is_ipv4() { OUTSIDE.into() } else { lab::OUTSIDE6.into() };
            ip_frame(there, own, &plain(id, (pair.0, elsewhere)))
        });
    }
    let link: [IpAddr; 2] = [own, there].map(|mac| link_local(mac).into());
    add("between link-local addresses".into(), &|id| ip_frame(there, own, &plain(id, (link[0], link[1]))));
    let mdns: IpAddr = Ipv4Addr::new(224, 0, 0, 251).into();
    add("a group".into(), &|id| ip_frame(GROUP, own, &plain(id, (v4.0, mdns))));
    for kind in [0x8863, 0x8864, 0x8847, 0x88cc, 0x8899, 0x8870, 0x88b7, 0x9999, 0, 46, 1501, 1535] {
        for (whom, to) in [("the neighbour", there), ("all", Mac::BROADCAST)] {
            add(format!("{kind:04x} to {whom}"), &|id| {
                ethernet(to, own, kind, &[mark(id).as_bytes(), &[0; 60]].concat())
            });
        }
    }
    let (IpAddr::V4(a), IpAddr::V4(b)) = v4 else { panic!("IPv4") };
    let nobody = Mac([0; 6]);
    for (name, to, operation, sender, target) in [
        ("a question for the neighbour", Mac::BROADCAST, 1, (own, a), (nobody, b)),
        ("an announcement", Mac::BROADCAST, 1, (own, a), (nobody, a)),
        ("an answer to the neighbour", there, 2, (own, a), (there, b)),
        ("a lie about the gateway", Mac::BROADCAST, 2, (own, Ipv4Addr::new(10, 4, 0, 1)), (there, b)),
        ("a lie about the neighbour", Mac::BROADCAST, 1, (own, b), (nobody, b)),
    ] {
        add(format!("ARP, {name}"), &|id| {
            let message = [arp(operation, sender, target), mark(id).into_bytes()].concat();
            ethernet(to, own, ETHERTYPE_ARP, &message)
        });
    }
    let IpAddr::V6(neighbour) = v6.1 else { panic!("IPv6") };
    for (name, kind, target) in [
        ("a question", 135, neighbour),
        ("an answer", 136, own_six(v6.0)),
        ("a lie about the gateway", 136, Ipv6Addr::new(0x2001, 0xdb8, 4, 0, 0, 0, 0, 1)),
    ] {
        add(format!("ND, {name}"), &|id| {
            let rest = [&[0x20, 0, 0, 0][..], &target.octets(), mark(id).as_bytes()].concat();
            ip_frame(there, own, &icmp(v6.0, v6.1, kind, 0, &rest))
        });
    }
    frames
}

/// The numbers of those frames that arrive until none has for a while.
pub(crate) fn arrivals(capture: &Capture) -> BTreeSet<usize> {
    let found = RefCell::new(BTreeSet::new());
    capture.wait_for(SHORT, |frame| {
        let at = frame.windows(MARK.len()).position(|window| window == MARK.as_bytes());
        let digits = at.map(|at| frame[at + MARK.len()..].iter().take_while(|byte| byte.is_ascii_digit()));
        let number: Option<String> = digits.map(|digits| digits.map(|byte| char::from(*byte)).collect());
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            found.borrow_mut().insert(number);
        }
        false
    });
    found.into_inner()
}

pub(crate) fn mac(container: &Container) -> Mac {
    container.mac.expect("a MAC address")
}

/// The link-local address that the kernel makes from a MAC address.
pub(crate) fn link_local(Mac([a, b, c, d, e, f]): Mac) -> Ipv6Addr {
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

fn own_six(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V6(address) => address,
        IpAddr::V4(address) => address.to_ipv6_mapped(),
    }
}

fn mark(id: usize) -> String {
    format!("{MARK}{id}.")
}

const MARK: &str = "FWICC-";
const GROUP: Mac = Mac([0x01, 0, 0x5e, 0, 0, 0xfb]);
/// Options of a network without icc.
pub(crate) const CLOSE: [&str; 2] = ["-o", "com.docker.network.bridge.enable_icc=false"];
pub(crate) const SHORT: Duration = Duration::from_secs(1);

/// Published ports are open; what Docker says of icc is turned round on O and C.
pub(crate) const POLICY: &str = r#"
[uplink]
published = "open"

[networks.O]
icc = false

[networks.C]
icc = true
"#;
