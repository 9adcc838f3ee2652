//! The host on which the rows are sent, those who send, and the ears with which it is heard what arrives.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::Value;
use xtask::lab::frame::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Mac};
use xtask::lab::raw::{Listener, Sender};
use xtask::lab::tun::Tap;
use xtask::lab::{
    BPFFS, Container, Daemon, HOST, HOST_MAC, HOST6, Lab, OUTSIDE, OUTSIDE_MAC, OUTSIDE6, Options, Place,
    Server, wait,
};

use crate::offload::TAP_MAC;
use crate::packet::{Shot, Token};

/// Who sends to whom, and so which hook judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Path {
    /// R to a port of H that Docker publishes for a1.
    Published,
    /// R to H itself.
    Host,
    /// R straight to a1's address.
    Direct,
    /// R to H's address in VLAN 5, in a frame that is not tagged yet.
    Vlan,
    /// a1 to its sibling a2.
    Same,
    /// n1 to its sibling n2, whose network has icc = false.
    Icc,
    /// a1 to b1, in another network.
    Across,
    /// a1 to its gateway.
    Up,
    /// a1 to R.
    Out,
    /// H to b1: what b1 may always hear.
    ToB,
    /// H to n2: what n2 may always hear.
    ToN,
}

impl Path {
    /// The hook that judges what takes this path.
    pub(crate) fn hook(self) -> &'static str {
        match self {
            Self::Published | Self::Host | Self::Direct | Self::Vlan => "uplink_ingress",
            Self::Same | Self::Icc | Self::Across | Self::Up | Self::Out => "port_ingress",
            Self::ToB | Self::ToN => "none",
        }
    }

    /// The path on which a legitimate packet gets to the same ear.
    pub(crate) fn twin(self) -> Self {
        match self {
            Self::Direct => Self::Published,
            Self::Across => Self::ToB,
            Self::Icc => Self::ToN,
            other => other,
        }
    }

    /// Where it arrives.
    pub(crate) fn ear(self) -> Ear {
        match self {
            Self::Published | Self::Direct => Ear::A1,
            Self::Host => Ear::Uplink,
            Self::Vlan => Ear::Vlan,
            Self::Same => Ear::A2,
            Self::Icc | Self::ToN => Ear::N2,
            Self::Across | Self::ToB => Ear::B1,
            Self::Up => Ear::Bridge,
            Self::Out => Ear::Outside,
        }
    }
}

/// A place where it is heard what has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ear {
    A1,
    A2,
    B1,
    N2,
    M1,
    /// R's device.
    Outside,
    /// H's uplink, behind our hook.
    Uplink,
    /// H's VLAN 5, behind our hook.
    Vlan,
    /// The bridge of network A, behind our hook.
    Bridge,
    /// a1's own socket on UDP 5353, reassembled and checked by its kernel.
    Socket,
    /// H's own socket on UDP 6000.
    HostSocket,
}

/// Everything of one host.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) a1: Container,
    pub(crate) a2: Container,
    pub(crate) b1: Container,
    pub(crate) n1: Container,
    pub(crate) n2: Container,
    /// In a network without masquerading.
    pub(crate) m1: Container,
    /// The bridge of A, which is a1's gateway.
    pub(crate) gateway: Mac,
    /// The bridge of N.
    pub(crate) gateway_n: Mac,
    /// a2's second device, in B.
    pub(crate) relay: Mac,
    /// Whether there are VLAN devices here.
    pub(crate) vlan: bool,
    /// Another uplink, whose frames come in parts; none where the kernel cannot.
    pub(crate) tap: Option<RefCell<Tap>>,
    senders: BTreeMap<&'static str, Sender>,
    own: [UdpSocket; 2],
    ears: BTreeMap<Ear, Vec<Listening>>,
    heard: RefCell<BTreeMap<Ear, Vec<Vec<u8>>>>,
    shots: Cell<u32>,
    _servers: Vec<Server>,
    // Last: everything above lives in it.
    pub(crate) lab: Lab,
}

#[derive(Debug)]
enum Listening {
    Device(Listener),
    Socket(UdpSocket),
}

/// Packets by hook and reason.
pub(crate) type Counters = BTreeMap<(String, String), u64>;

impl World {
    /// Makes the host, with fw not yet running.
    pub(crate) fn build() -> Result<Self> {
        stay_on_one_cpu()?;
        let dockerd = vec!["--experimental".to_owned(), "--ip6tables".to_owned()];
        let lab = Lab::start(Options { dockerd, ..Options::default() })?;
        for (name, four, six, icc) in [
            ("A", "10.1.0.0/24", "2001:db8:a::/64", "true"),
            ("B", "10.2.0.0/24", "2001:db8:b::/64", "true"),
            ("N", "10.4.0.0/24", "2001:db8:4::/64", "false"),
        ] {
            let icc = format!("com.docker.network.bridge.enable_icc={icc}");
            lab.network(name, &["--subnet", four, "--ipv6", "--subnet", six, "-o", &icc])?;
        }
        let a1 = lab.container("a1", &["--network=A", "-p=8080:80", "-p=8081:81", "-p=5353:5353/udp"])?;
        let [a2, b1, n1, n2] = [("a2", "A"), ("b1", "B"), ("n1", "N"), ("n2", "N")]
            .map(|(name, network)| lab.container(name, &[&format!("--network={network}")]));
        let (a2, b1, n1, n2) = (a2?, b1?, n1?, n2?);
        let no_masquerade = "com.docker.network.bridge.enable_ip_masquerade=false";
        let (four, six) = ("10.5.0.0/24", "2001:db8:5f::/64");
        lab.network("M", &["--subnet", four, "--ipv6", "--subnet", six, "-o", no_masquerade])?;
        let m1 = lab.container("m1", &["--network=M"])?;
        lab.docker(&["network", "connect", "B", "a2"])?;
        prepare(&lab)?;
        let vlan = make_vlan(&lab)?;
        let mac = |place: &Place, device: &str| -> Result<Mac> {
            let text = place.run(&["ip", "-o", "link", "show", device])?;
            let mac = text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
            mac.context("a MAC address")?.parse().map_err(anyhow::Error::msg)
        };
        let (gateway, gateway_n) = (mac(lab.host(), "br-A")?, mac(lab.host(), "br-N")?);
        let relay = mac(&a2.place, "eth1")?;
        let mut world = Self {
            senders: BTreeMap::new(),
            vlan,
            tap: make_tap(&lab)?.map(RefCell::new),
            own: [datagrams(lab.host(), "0.0.0.0:0")?, datagrams(lab.host(), "[::]:0")?],
            ears: BTreeMap::new(),
            heard: RefCell::default(),
            shots: Cell::new(0),
            _servers: servers(&lab, &a1)?,
            a1,
            a2,
            b1,
            n1,
            n2,
            m1,
            gateway,
            gateway_n,
            relay,
            lab,
        };
        world.listen()?;
        Ok(world)
    }

    /// Starts fw with the rows' policy, and this word for `xdp`.
    pub(crate) fn fw(&self, xdp: &str) -> Result<Daemon<'_>> {
        let mut uplinks = vec!["eth0"];
        uplinks.extend(self.vlan.then_some("eth0.5"));
        uplinks.extend(self.tap.as_ref().map(|_| "tap0"));
        self.lab.fw_run(&POLICY.replace("UPLINKS", &format!("{uplinks:?}")).replace("XDP", xdp))
    }

    fn listen(&mut self) -> Result<()> {
        let (host, outside) = (self.lab.host(), self.lab.outside());
        for (name, place, device) in [
            ("R", outside, "eth0"),
            ("a1", &self.a1.place, "eth0"),
            ("a2", &self.a2.place, "eth0"),
            ("relay", &self.a2.place, "eth1"),
            ("n1", &self.n1.place, "eth0"),
            ("m1", &self.m1.place, "eth0"),
        ] {
            self.senders.insert(name, place.sender(device)?);
        }
        for (ear, place) in [
            (Ear::A1, &self.a1.place),
            (Ear::A2, &self.a2.place),
            (Ear::B1, &self.b1.place),
            (Ear::N2, &self.n2.place),
            (Ear::M1, &self.m1.place),
            (Ear::Outside, outside),
        ] {
            self.ears.insert(ear, vec![Listening::Device(place.listen("eth0", None)?)]);
        }
        for (ear, device) in [(Ear::Uplink, "eth0"), (Ear::Vlan, "eth0.5"), (Ear::Bridge, "br-A")] {
            if ear == Ear::Vlan && !self.vlan {
                continue;
            }
            let ears = [ETHERTYPE_IPV4, ETHERTYPE_IPV6]
                .map(|ethertype| host.listen(device, Some(ethertype)).map(Listening::Device));
            self.ears.insert(ear, ears.into_iter().collect::<Result<_>>()?);
        }
        let socket = datagrams(&self.a1.place, "[::]:5353")?;
        self.ears.insert(Ear::Socket, vec![Listening::Socket(socket)]);
        self.ears.insert(Ear::HostSocket, vec![Listening::Socket(datagrams(host, "[::]:6000")?)]);
        Ok(())
    }

    /// A shot on this path, with a token and a source port that no other has.
    pub(crate) fn shot(&self, path: Path, six: bool) -> Result<Shot> {
        let number = self.shots.get() + 1;
        self.shots.set(number);
        let token = Token(number.wrapping_mul(0x9e37_79b1) | 0x8080_0080);
        let port = 20_000 + (number % 20_000) as u16;
        let of = |container: &Container| if six { container.ip6() } else { container.ip() };
        let or = |four: IpAddr, second: IpAddr| if six { second } else { four };
        let (outside, host) = (or(OUTSIDE.into(), OUTSIDE6.into()), or(HOST.into(), HOST6.into()));
        let literal = |four: &str, second: &str| -> Result<IpAddr> {
            (if six { second } else { four }).parse().context("an address of the lab")
        };
        let mac = |container: &Container| container.mac.context("a container has a MAC address");
        let (a1, n1) = (mac(&self.a1)?, mac(&self.n1)?);
        let (source, target, source_mac, target_mac) = match path {
            Path::Published | Path::Host => (outside, host, OUTSIDE_MAC, HOST_MAC),
            Path::Direct => (outside, of(&self.a1)?, OUTSIDE_MAC, HOST_MAC),
            Path::Vlan => (
                literal("198.18.5.2", "2001:db8:5::2")?,
                literal("198.18.5.1", "2001:db8:5::1")?,
                OUTSIDE_MAC,
                HOST_MAC,
            ),
            Path::Same => (of(&self.a1)?, of(&self.a2)?, a1, mac(&self.a2)?),
            Path::Icc => (of(&self.n1)?, of(&self.n2)?, n1, mac(&self.n2)?),
            Path::Across => (of(&self.a1)?, of(&self.b1)?, a1, self.gateway),
            Path::Up => (of(&self.a1)?, literal("10.1.0.1", "2001:db8:a::1")?, a1, self.gateway),
            Path::Out => (of(&self.a1)?, outside, a1, self.gateway),
            Path::ToB => (host, of(&self.b1)?, HOST_MAC, mac(&self.b1)?),
            Path::ToN => (host, of(&self.n2)?, HOST_MAC, mac(&self.n2)?),
        };
        let (udp, tcp) = match path {
            Path::Host | Path::Vlan => (6000, 22),
            _ => (5353, 8080),
        };
        let gateway = if path == Path::Icc { self.gateway_n } else { self.gateway };
        Ok(Shot { source, target, source_mac, target_mac, port, udp, tcp, gateway, token })
    }

    /// Sends frames on a path.
    pub(crate) fn send(&self, path: Path, frames: &[Vec<u8>]) -> Result<()> {
        let by = match path {
            Path::Published | Path::Host | Path::Direct | Path::Vlan => "R",
            Path::Same | Path::Across | Path::Up | Path::Out => "a1",
            Path::Icc => "n1",
            Path::ToB | Path::ToN => return self.send_as_host(frames),
        };
        self.send_by(by, frames)
    }

    /// Sends frames out of a named device: `R`, `a1`, `a2`, `relay` (a2 in B), `n1`, `m1`.
    pub(crate) fn send_by(&self, name: &str, frames: &[Vec<u8>]) -> Result<()> {
        let sender = self.senders.get(name).with_context(|| format!("nobody sends as {name}"))?;
        frames.iter().try_for_each(|frame| sender.send(frame))
    }

    /// H sends from a socket: only what its frames hold as datagrams.
    fn send_as_host(&self, frames: &[Vec<u8>]) -> Result<()> {
        for frame in frames {
            let six = frame[14] >> 4 == 6;
            let (target, start): (IpAddr, usize) = if six {
                (<[u8; 16]>::try_from(&frame[38..54]).context("an address")?.into(), 62)
            } else {
                (<[u8; 4]>::try_from(&frame[30..34]).context("an address")?.into(), 42)
            };
            let socket = &self.own[usize::from(six)];
            socket.send_to(&frame[start..], SocketAddr::new(target, 5353)).context("H cannot send")?;
        }
        Ok(())
    }

    /// Forgets what was heard.
    pub(crate) fn hush(&self) {
        self.hear();
        self.heard.borrow_mut().clear();
    }

    fn hear(&self) {
        let mut heard = self.heard.borrow_mut();
        for (ear, listening) in &self.ears {
            let frames = heard.entry(*ear).or_default();
            for one in listening {
                match one {
                    Listening::Device(listener) => frames.extend(listener.take()),
                    Listening::Socket(socket) => {
                        let mut buffer = vec![0; 1 << 16];
                        while let Ok(length) = socket.recv(&mut buffer) {
                            frames.push(buffer[..length].to_vec());
                        }
                    }
                }
            }
        }
    }

    /// What an ear has heard that `wanted` likes, since the last hush.
    pub(crate) fn heard(&self, ear: Ear, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        self.hear();
        self.heard.borrow().get(&ear).and_then(|frames| frames.iter().find(|frame| wanted(frame)).cloned())
    }

    /// All that an ear has heard since the last hush.
    pub(crate) fn all(&self, ear: Ear) -> Vec<Vec<u8>> {
        self.hear();
        self.heard.borrow().get(&ear).cloned().unwrap_or_default()
    }

    /// How often an ear has heard this token since the last hush.
    pub(crate) fn times(&self, ear: Ear, token: Token) -> usize {
        self.hear();
        let heard = self.heard.borrow();
        heard.get(&ear).map_or(0, |frames| frames.iter().filter(|frame| token.is_in(frame)).count())
    }

    /// Waits until an ear hears what `wanted` likes.
    pub(crate) fn wait_for(&self, ear: Ear, what: &str, wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>> {
        wait::until(&format!("{what} at {ear:?}"), LIMIT, || self.heard(ear, &wanted))
    }

    /// Waits until an ear hears this token.
    pub(crate) fn arrives(&self, ear: Ear, token: Token) -> Result<()> {
        self.wait_for(ear, "the token", |frame| token.is_in(frame)).map(drop)
    }

    /// Waits until an ear has heard this token so many times.
    pub(crate) fn arrive(&self, ear: Ear, token: Token, times: usize) -> Result<()> {
        let all = || (self.times(ear, token) >= times).then_some(());
        wait::until(&format!("the token at {ear:?}"), LIMIT, all)
    }

    /// Sends an honest datagram on the path and waits until it has arrived: all that was sent before has, too. One CPU
    /// sends and receives everything in the order in which it is sent.
    pub(crate) fn barrier(&self, path: Path, six: bool) -> Result<()> {
        let shot = self.shot(path, six)?;
        self.send(path, &[shot.frame(&shot.open())])?;
        self.arrives(path.ear(), shot.token).context("the barrier did not arrive")
    }

    /// The ears that have heard this token.
    pub(crate) fn who_heard(&self, token: Token) -> Vec<Ear> {
        self.hear();
        let heard = self.heard.borrow();
        let mut ears: Vec<_> = heard
            .iter()
            .filter(|(_, frames)| frames.iter().any(|frame| token.is_in(frame)))
            .map(|(ear, _)| *ear)
            .collect();
        ears.dedup();
        ears
    }

    /// `fw table counters`.
    pub(crate) fn counters(&self) -> Result<Counters> {
        let text = self.lab.fw(&["table", "counters", "--json"])?;
        let rows: Vec<Value> = serde_json::from_str(&text).context("`fw table counters` printed no JSON")?;
        let mut counters = Counters::new();
        for row in rows {
            let text = |key: &str| row[key].as_str().map(str::to_owned).with_context(|| format!("no {key}"));
            let packets = row["packets"].as_u64().context("no packets")?;
            *counters.entry((text("hook")?, text("reason")?)).or_default() += packets;
        }
        Ok(counters)
    }

    /// Makes the flows of this protocol to this remote port older by some seconds, as if nobody had sent.
    pub(crate) fn age_flow(&self, proto: u8, remote_port: u16, seconds: u32) -> Result<()> {
        let map = format!("{BPFFS}/flows");
        let text = self.lab.host().run(&["bpftool", "-j", "map", "dump", "pinned", &map])?;
        let entries: Vec<Value> = serde_json::from_str(&text).context("bpftool printed no JSON")?;
        let mut aged = 0;
        for entry in entries {
            let key = &entry["formatted"]["key"];
            if key["proto"] != proto || key["remote_port"] != remote_port {
                continue;
            }
            let bytes = |name: &str| -> Result<Vec<u8>> {
                let list = entry[name].as_array().with_context(|| format!("an entry without {name}"))?;
                let byte =
                    |text: &Value| text.as_str().and_then(|text| u8::from_str_radix(&text[2..], 16).ok());
                list.iter().map(|text| byte(text).context("a byte in hexadecimal")).collect()
            };
            let (key, mut value) = (bytes("key")?, bytes("value")?);
            // last_seen and started, in the byte order of the machine.
            for field in [0..4, 4..8] {
                let then = u32::from_ne_bytes(value[field.clone()].try_into().context("four bytes")?);
                value[field].copy_from_slice(&then.wrapping_sub(seconds).to_ne_bytes());
            }
            let words = |bytes: &[u8]| bytes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            let (key, value) = (words(&key), words(&value));
            self.lab
                .host()
                .script(&format!("bpftool map update pinned {map} key {key} value {value} exist"))?;
            aged += 1;
        }
        ensure!(aged > 0, "there is no flow to port {remote_port}");
        Ok(())
    }
}

/// How much of a flood to send: the size that fits a test, or what this variable says.
pub(crate) fn scale(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |count| count.parse().expect("the variable is a number"))
}

/// How far a counter moved. What XDP drops early, the uplink's hook would have dropped for the same reason.
pub(crate) fn moved(before: &Counters, after: &Counters, hook: &str, reason: &str) -> u64 {
    let count = |counters: &Counters, hook: &str| {
        counters.get(&(hook.to_owned(), reason.to_owned())).copied().unwrap_or(0)
    };
    let by = |hook: &str| count(after, hook).saturating_sub(count(before, hook));
    by(hook) + if hook == "uplink_ingress" { by("uplink_xdp") } else { 0 }
}

/// A socket that does not wait.
pub(crate) fn datagrams(place: &Place, at: &str) -> Result<UdpSocket> {
    let socket = place.within(|| UdpSocket::bind(at))?;
    let socket = socket.with_context(|| format!("cannot listen on {at}/udp in {}", place.name()))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Neighbours that only this program plays, and no answers of R's own to what is sent in its name.
fn prepare(lab: &Lab) -> Result<()> {
    lab.host().script(&format!(
        "for n in 198.18.0.2 198.18.0.3 198.18.0.77 2001:db8:18::2 2001:db8:18::3 2001:db8:18::77; do
           ip neigh replace $n lladdr {OUTSIDE_MAC} dev eth0 nud permanent
         done
         # Snooping would keep group reports from siblings, whatever fw says.
         ip link set br-A type bridge mcast_snooping 0"
    ))?;
    lab.outside()
        .script("echo 0 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv6/conf/all/forwarding")?;
    Ok(())
}

/// Makes VLAN 5 on the uplink; false on a kernel without VLAN devices.
fn make_vlan(lab: &Lab) -> Result<bool> {
    if !lab
        .host()
        .succeeds(&["ip", "link", "add", "link", "eth0", "name", "eth0.5", "type", "vlan", "id", "5"])
    {
        return Ok(false);
    }
    lab.host().script(
        "ip addr add 198.18.5.1/24 dev eth0.5; ip addr add 2001:db8:5::1/64 dev eth0.5 nodad
         ip link set eth0.5 up",
    )?;
    Ok(true)
}

/// Makes a tap device that takes packets in parts; none where the kernel has no such.
fn make_tap(lab: &Lab) -> Result<Option<Tap>> {
    let Ok(tap) = lab.host().tap("tap0") else { return Ok(None) };
    lab.host().script(&format!("ip link set tap0 address {TAP_MAC}; ip link set tap0 up"))?;
    Ok(Some(tap))
}

fn servers(lab: &Lab, a1: &Container) -> Result<Vec<Server>> {
    Ok(vec![
        a1.place.serve_tcp("[::]:80", "a1")?,
        lab.host().serve_tcp("[::]:22", "H")?,
        lab.host().serve_tcp("[::]:9100", "H")?,
        lab.outside().serve_tcp("[::]:443", "R")?,
    ])
}

/// Whoever sends and whoever receives in this process, and so the kernel's queues between them, stay in order.
fn stay_on_one_cpu() -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).context("cannot stay on one CPU")
}

/// How long anything that must arrive may take.
const LIMIT: Duration = Duration::from_secs(4);

/// One port of a container and two of the host are open to all; pings are for R alone.
pub(crate) const POLICY: &str = r#"
[uplink]
interfaces = UPLINKS
xdp = "XDP"
published = "closed"

[sets]
friends = ["198.18.0.2", "2001:db8:18::2"]

[[allow]]
name = "web"
proto = "tcp"
ports = [8080, 8081]

[[allow]]
name = "names"
proto = "udp"
ports = [5353]

[[allow]]
name = "ssh"
proto = "tcp"
ports = [22, 2200]

[[allow]]
name = "beacon"
proto = "udp"
ports = [6000]

[[allow]]
name = "ping"
proto = "icmp"
from = ["friends"]
"#;
